"""Run every recurrence forward and backward on a fake device, and print its name if all gradients are there."""

import os

import torch
from ops_cases import CASES
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

SEQ_LEN = 9  # one chunk: torch's checkpoint aborts on this device, whatever the function


def on_device(value):
    return torch.empty(value.shape, dtype=value.dtype, device="fakegpu").requires_grad_()


def check(y, last, tensors):
    (y.abs().sum() + last.abs().sum()).backward()
    for one in tensors:
        assert one.grad is not None
        assert (one.grad.device, one.grad.shape, one.grad.dtype) == (one.device, one.shape, one.dtype)
        one.grad = None


def main():
    _setup_privateuseone_for_python_backend("fakegpu")
    torch.autograd.set_multithreading_enabled(False)
    for case in CASES:
        arguments, state = case.arguments(2, SEQ_LEN, torch.float32), case.initial_state(2, torch.float32)
        with FakeTensorMode():
            arguments = {name: on_device(one) if torch.is_tensor(one) else one for name, one in arguments.items()}
            state, tensors = on_device(state), [one for one in arguments.values() if torch.is_tensor(one)]
            resets = torch.empty(2, SEQ_LEN, dtype=torch.bool, device="fakegpu")
            common = {"initial_state": state, "lengths": [SEQ_LEN, 3], "padding": "left", "resets": resets}
            check(*case.run(arguments, **common), [*tensors, state])
            check(*case.one_step(state, arguments, 3), [*tensors, state])
        print(case.id, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
