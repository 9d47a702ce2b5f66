"""What models run on: devices and threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def find_device(name: str) -> torch.device:
    """The device of a name; ``"auto"`` is a GPU where there is one.

    Raises
    ------
    ValueError
        If it is unknown, or not there.
    """
    if name == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f'device must be "auto", "cpu", "cuda", "cuda:1", "mps", …, not {name!r}') from None
    if device.type == "cpu":
        return device
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    count = torch.accelerator.device_count() if here else 0
    if here is None or here.type != device.type or (device.index or 0) >= count:
        found = f"{count} of type {here.type}" if here else "none"
        raise ValueError(f"device {name!r} was asked for, and torch finds no such GPU here (it finds {found})")
    return device if device.index is not None else torch.device(device.type, torch.accelerator.current_device_index())


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch's threads, and back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
