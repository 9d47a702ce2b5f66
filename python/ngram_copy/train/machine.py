"""Where a training runs: devices, processes, threads, memory, Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from ngram_copy.models.machine import find_device


class TrainingError(RuntimeError):
    """A training that cannot go on; the text is one line. The last good checkpoint stays."""


class Team:
    """The processes that train together: this one alone, or those that ``accelerate launch`` started."""

    def __init__(self, device: str) -> None:
        self._accelerator: Any = None
        self.count, self.rank = 1, 0
        self.device = find_device(device)
        if all(name in os.environ for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "WORLD_SIZE")):
            self._join(int(os.environ["WORLD_SIZE"]))

    def _join(self, count: int) -> None:
        if count == 1:
            return
        try:
            from accelerate import Accelerator  # type: ignore[import-untyped]
        except ModuleNotFoundError as error:
            raise ValueError(f"training in {count} processes needs accelerate: pip install accelerate") from error
        threads = torch.get_num_threads()
        self._accelerator = Accelerator(cpu=self.device.type == "cpu")
        torch.set_num_threads(threads)  # it sets them itself
        self.count, self.rank = self._accelerator.num_processes, self._accelerator.process_index
        self.device = self._accelerator.device

    @property
    def writes(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """A module whose gradients are means over the processes."""
        wrapped: nn.Module = self._accelerator.prepare(model) if self._accelerator else model
        return wrapped

    def apart(self, model: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """Where gradients are added up in each process alone."""
        context: contextlib.AbstractContextManager[Any] = (
            self._accelerator.no_sync(model) if self._accelerator else contextlib.nullcontext()
        )
        return context

    def sum(self, x: Tensor) -> Tensor:
        """Over the processes."""
        total: Tensor = self._accelerator.reduce(x, "sum") if self._accelerator else x
        return total

    def agree(self, value: Any) -> Any:
        """The first process's value, in all."""
        if self._accelerator is None:
            return value
        from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped]

        return broadcast_object_list([value])[0]

    def wait(self) -> None:
        """Until all processes are here."""
        if self._accelerator:
            self._accelerator.wait_for_everyone()


class Interrupt:
    """Holds Ctrl-C back while a step runs, so that what is saved is whole; a second one is not held back."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if usual and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if self.asked and kind is None:  # between steps, or after the last
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def own_random_state(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """The caller's random state stays as it is."""
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device.index], device_type=device.type)


@contextlib.contextmanager
def memory(where: str) -> Iterator[None]:
    """Say what was too much, where memory runs out."""
    advice = 'try fewer tokens_per_step, a smaller greatest length, more accumulation, or precision = "bfloat16"'
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrainingError(f"out of memory {where}; {advice}") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        raise TrainingError(f"out of memory {where}; {advice}") from error
