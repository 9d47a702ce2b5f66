"""Train transformers' Mamba on the CPU with our scan and convolution in place of its own.

transformers computes Mamba step by step where mamba-ssm's kernels, which need a GPU, are not installed. Its functions
of the scan and the convolution are replaced, nothing else: model, weights, loss and optimiser stay. Logits are compared
first; then one training step (forward, backward, AdamW) is timed with each.

    pip install '.[torch,hf]'
    python examples/mamba_for_causal_lm.py --seq-len 256 --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor
from transformers import MambaConfig, MambaForCausalLM
from transformers.models.mamba import modeling_mamba
from transformers.utils import logging

from ngram_copy.models import ops

TOLERANCE = 1e-4
VOCAB_SIZE = 1000


def selective_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: object,
) -> Tensor | tuple[Tensor, Tensor]:
    """Do what ``mamba_selective_scan`` of transformers does; its other arguments choose between its own loops."""
    y, last_state = ops.selective_scan(hidden_states, dt, A, B, C, D, z, delta_bias, delta_softplus)
    return (y, last_state) if return_last_state else y


def causal_conv1d(
    hidden_states: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, **_: object
) -> Tensor:
    """Do what ``causal_conv1d_fn`` of transformers does."""
    y, _last_state = ops.causal_conv1d(hidden_states, weight, bias, activation)
    return y


@contextmanager
def ours() -> Iterator[None]:
    """Let Mamba of transformers call the functions above; its own are back at the end."""
    with mock.patch.multiple(modeling_mamba, mamba_selective_scan=selective_scan, causal_conv1d_fn=causal_conv1d):
        yield


def training_step(model: MambaForCausalLM, optimizer: torch.optim.Optimizer, tokens: Tensor) -> float:
    """Make one step; its seconds."""
    start = time.perf_counter()
    optimizer.zero_grad()
    model(tokens, labels=tokens, use_cache=False).loss.backward()
    optimizer.step()
    return time.perf_counter() - start


def seconds_of_a_step(model: MambaForCausalLM, tokens: Tensor, repeats: int) -> float:
    """Median over ``repeats`` steps, after one that warms up."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    training_step(model, optimizer, tokens)
    return statistics.median(training_step(model, optimizer, tokens) for _ in range(repeats))


def main(arguments: list[str] | None = None) -> int:
    """Compare logits, then time; 1 where logits differ."""
    parser = argparse.ArgumentParser(
        description="Train transformers' Mamba (random weights) on the CPU with its own scan and with ours.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seq-len", type=int, default=256, help="tokens of a sequence")
    parser.add_argument("--batch", type=int, default=1, help="sequences of a step")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch, and of the Rust core")
    parser.add_argument("--hidden-size", type=int, default=256, help="width of the model; the scan's is twice as much")
    parser.add_argument("--layers", type=int, default=4, help="Mamba blocks")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of each; medians are shown")
    options = parser.parse_args(arguments)

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    logging.set_verbosity_error()
    config = MambaConfig(vocab_size=VOCAB_SIZE, hidden_size=options.hidden_size, num_hidden_layers=options.layers)
    model = MambaForCausalLM(config).train()
    tokens = torch.randint(VOCAB_SIZE, (options.batch, options.seq_len))

    with torch.no_grad():
        expected = model(tokens, use_cache=False).logits
        with ours():
            logits = model(tokens, use_cache=False).logits
    difference = float((logits - expected).abs().max())
    if not difference <= TOLERANCE:
        print(f"logits differ by {difference:.1e}, more than {TOLERANCE:.0e}", file=sys.stderr)
        return 1
    print(f"logits agree: they differ by {difference:.1e} at most")

    theirs_s = seconds_of_a_step(model, tokens, options.repeats)
    with ours():
        ours_s = seconds_of_a_step(model, tokens, options.repeats)
    print(f"a training step of {options.batch} x {options.seq_len} tokens, {options.threads} thread(s), medians:")
    print(f"  transformers  {theirs_s:.3f} s\n  ngram-copy    {ours_s:.3f} s\n  ratio         {theirs_s / ours_s:.1f}x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
