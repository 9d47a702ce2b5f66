"""Train models for a step on a fake device, then read on from a state; print the name of each that does.

At the end it prints "found" if a tensor of the CPU would have been found.
"""

import os
from dataclasses import replace

import torch
from models_cases import MODELS, ON_DEVICE
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError, FakeTensorMode
from torch.nn import functional
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from ngram_copy.models import LanguageModel

SEQ_LEN = 9  # one chunk: torch's checkpoint aborts on this device, whatever the function
DEVICE = "fakegpu"


def train(model, tokens):
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    logits = model(tokens[:, :-1])
    functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad.device, parameter.grad.shape) == (parameter.device, parameter.shape), name
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()


def read(model, tokens):
    logits, state = model.prefill(tokens)
    _, state = model.prefill(tokens, state)
    more, state = model.step(logits[:, -1].argmax(-1), state)
    found = [logits, more, *(x for layer in state.layers for x in layer.values())]
    assert {one.device.type for one in [*found, *model.parameters()]} == {DEVICE}


def main():
    _setup_privateuseone_for_python_backend(DEVICE)
    torch.autograd.set_multithreading_enabled(False)
    torch.set_num_threads(1)
    for name in ON_DEVICE:
        config = MODELS[name]
        with FakeTensorMode():
            with torch.device(DEVICE):
                model = LanguageModel(replace(config, layers=config.layers[:1]))  # the others are like it
            tokens = torch.zeros(2, SEQ_LEN, dtype=torch.int64, device=DEVICE)
            train(model, tokens)
            with torch.no_grad():
                read(model, tokens)
        print(name, flush=True)
    with FakeTensorMode():
        try:
            torch.zeros(2, 3, device=DEVICE) + torch.zeros(3)
        except FakeTensorDeviceMismatchError:
            print("found", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
