"""The entry points of the core that the custom ops call: one table, a forward and a backward function a primitive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ngram_copy.ssm import conv, delta, linear, outer, s4d, selective

Array = NDArray[Any]
Arrays = Sequence[Any]
"""Arrays, or None for those that are not there."""

NumpySteps = tuple[int, int, Array | None, bool, Array | None]
"""Batch, seq_len, lengths, whether padding is on the left, resets: as the core takes them."""


class Kernel(NamedTuple):
    """A primitive of the core on C-contiguous arrays of one dtype."""

    forward: Callable[..., tuple[Array, Array, Array | None]]
    """(arrays and options, initial_state, steps, threads, whether to keep states) → y, last_state, kept states."""
    backward: Callable[..., Arrays]
    """(arrays and options, initial_state, kept, of_y, of_last_state, steps, threads) → gradients of the arrays and of
    the initial state. What is kept is the output itself where the primitive says so."""


def _checkpointed(inputs: Callable[..., Any], forward: Callable[..., Any], backward: Callable[..., Any]) -> Kernel:
    """A primitive that keeps a state for every 64 steps."""

    def run(given: Arrays, state: Array | None, steps: NumpySteps, threads: int, keep: bool) -> Any:
        return forward(inputs(*given), state, steps, threads=threads, checkpoints=keep)

    def back(given: Arrays, _: Array | None, kept: Array, of_y: Array, of_last: Any, steps: Any, threads: int) -> Any:
        return backward(inputs(*given), kept, of_y, of_last, steps, threads=threads)

    return Kernel(run, back)


def _from_the_start(inputs: Callable[..., Any], forward: Callable[..., Any], backward: Callable[..., Any]) -> Kernel:
    """A primitive whose gradients need no state but the first."""

    def run(given: Arrays, state: Array | None, steps: NumpySteps, threads: int, _: bool) -> Any:
        return (*forward(inputs(*given), state, steps, threads=threads), None)

    def back(given: Arrays, state: Any, _: Array, of_y: Array, of_last: Any, steps: NumpySteps, threads: int) -> Any:
        return backward(inputs(*given), state, of_y, of_last, steps, threads=threads)

    return Kernel(run, back)


def _from_the_output(inputs: Callable[..., Any], forward: Callable[..., Any], backward: Callable[..., Any]) -> Kernel:
    """A primitive whose output is all of its states."""

    def run(given: Arrays, state: Array | None, steps: NumpySteps, threads: int, _: bool) -> Any:
        return (*forward(inputs(*given), state, steps, threads=threads), None)

    def back(given: Arrays, state: Any, h: Array, of_h: Array, of_last: Any, steps: NumpySteps, threads: int) -> Any:
        return backward(inputs(*given), state, h, of_h, of_last, steps, threads=threads)

    return Kernel(run, back)


KERNELS = {
    "selective_scan": _checkpointed(
        selective.SelectiveInputs, selective.selective_forward, selective.selective_backward
    ),
    "s4d_scan": _checkpointed(s4d.S4dInputs, s4d.s4d_forward, s4d.s4d_backward),
    "linear_scan": _from_the_output(linear.LinearInputs, linear.linear_forward, linear.linear_backward),
    "outer": _from_the_start(outer.OuterInputs, outer.outer_forward, outer.outer_backward),
    "delta": _checkpointed(delta.DeltaInputs, delta.delta_forward, delta.delta_backward),
    "causal_conv1d": _from_the_start(conv.ConvInputs, conv.conv_forward, conv.conv_backward),
}
"""The kernels that the core has."""

PRIMITIVE_OF = {
    **dict.fromkeys(["selective_scan", "selective_state_update"], "selective_scan"),
    **dict.fromkeys(["s4d_scan", "s4d_state_update"], "s4d_scan"),
    **dict.fromkeys("linear_scan linear_step lru_scan lru_step rg_lru rg_lru_step".split(), "linear_scan"),
    **dict.fromkeys("linear_attention linear_attention_step retention retention_step".split(), "outer"),
    **dict.fromkeys(["gated_linear_attention", "gated_linear_attention_step"], "outer"),
    **dict.fromkeys(["mamba2_scan", "mamba2_state_update"], "outer"),
    **dict.fromkeys("delta_rule delta_rule_step gated_delta_rule gated_delta_rule_step".split(), "delta"),
    **dict.fromkeys(["kimi_delta_attention", "kimi_delta_attention_step"], "delta"),
    **dict.fromkeys(["causal_conv1d", "causal_conv1d_update"], "causal_conv1d"),
}
"""Function → its primitive."""
