"""The causal short convolution that stands in front of most recurrences."""

from __future__ import annotations

from typing import Literal, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from ngram_copy import _rust
from ngram_copy.ssm._arrays import (
    Floats,
    Padding,
    Steps,
    as_floats,
    as_steps,
    as_threads,
    common_dtype,
    optional_floats,
)

Activation = Literal["silu"] | None

MAX_KERNEL = 256
"""The most taps."""


class ConvInputs(NamedTuple):
    """Checked inputs of a convolution: contiguous arrays of one dtype."""

    x: Floats
    weight: Floats
    bias: Floats | None
    silu: bool

    @property
    def sizes(self) -> tuple[int, int]:
        """Channels, taps: as the core takes them."""
        return self.weight.shape


def causal_conv1d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    activation: Activation = None,
    *,
    initial_state: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    padding: Padding = "right",
    resets: ArrayLike | None = None,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """Convolve each channel with its own taps: ``y[t] = bias + Σ_j weight[j] x[t − kernel + 1 + j]``.

    ``causal_conv1d`` of mamba (Gu and Dao 2023, arXiv 2312.00752), with the state given and returned.

    Parameters
    ----------
    x : array_like, (batch, channels, seq_len)
        float32 or float64.
    weight : array_like, (channels, kernel)
        Taps, at most 256, the last one for the present step.
    bias : array_like, (channels), optional
    activation : None or "silu"
        What ``y`` goes through.
    initial_state : array_like, (batch, channels, kernel − 1), optional
        The inputs before the first, oldest first; zeros by default.
    lengths : array_like of int, (batch), optional
        Steps of each row; the others never touch the state, and their output is 0.
    padding : {"right", "left"}
        Where the others are.
    resets : array_like of bool, (batch, seq_len), optional
        Steps before which all inputs are zero: where packed examples begin.
    threads : int
        No influence on the result.

    Returns
    -------
    y : ndarray, (batch, channels, seq_len)
    last_state : ndarray, (batch, channels, kernel − 1)
        The last inputs of the last example, oldest first; zeros for what lies before it. float32 where all arrays are,
        else float64.

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    inputs, state = conv_inputs(x, weight, bias, activation, initial_state)
    steps = as_steps(inputs.x.shape[0], inputs.x.shape[2], lengths, padding, resets)
    return conv_forward(inputs, state, steps, threads=as_threads(threads))


def causal_conv1d_update(
    state: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    activation: Activation = None,
    *,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """One step of :func:`causal_conv1d` (mamba's ``causal_conv1d_update``, with a new state returned).

    Parameters
    ----------
    state : array_like, (batch, channels, kernel − 1)
        The inputs before this one, oldest first.
    x : array_like, (batch, channels)
    weight : array_like, (channels, kernel)
    bias : array_like, (channels), optional
    activation : None or "silu"
    threads : int

    Returns
    -------
    y : ndarray, (batch, channels)
    new_state : ndarray, (batch, channels, kernel − 1)

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    dtype = common_dtype(state=state, x=x, weight=weight, bias=bias)
    taps = _taps(weight, dtype)
    channels, kernel = taps.shape
    row = as_floats("x", x, dtype, ("batch", "channels"), channels=channels)
    sizes = {"batch": row.shape[0], "channels": channels}
    inputs = ConvInputs(row, taps, optional_floats("bias", bias, dtype, ("channels",), **sizes), _is_silu(activation))
    given = as_floats("state", state, dtype, ("batch", "channels", kernel - 1), **sizes)
    y, new_state = np.empty_like(row), np.empty_like(given)
    _rust.causal_conv1d_update((given, *inputs[:3]), inputs.silu, as_threads(threads), (y, new_state))
    return y, new_state


# --- What the torch ops call ----------------------------------------------------------------------------


def conv_inputs(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    activation: Activation,
    initial_state: ArrayLike | None,
) -> tuple[ConvInputs, Floats | None]:
    """Check the inputs of :func:`causal_conv1d`, and its initial state."""
    dtype = common_dtype(x=x, weight=weight, bias=bias, initial_state=initial_state)
    taps = _taps(weight, dtype)
    channels, kernel = taps.shape
    rows = as_floats("x", x, dtype, ("batch", "channels", "seq_len"), channels=channels)
    sizes = {"batch": rows.shape[0], "channels": channels}
    inputs = ConvInputs(rows, taps, optional_floats("bias", bias, dtype, ("channels",), **sizes), _is_silu(activation))
    state = optional_floats("initial_state", initial_state, dtype, ("batch", "channels", kernel - 1), **sizes)
    return inputs, state


def conv_forward(
    inputs: ConvInputs, initial_state: Floats | None, steps: Steps, *, threads: int
) -> tuple[Floats, Floats]:
    """Convolve checked inputs: y and the last state."""
    channels, kernel = inputs.sizes
    y = np.empty_like(inputs.x)
    last_state = np.empty((y.shape[0], channels, kernel - 1), y.dtype)
    _rust.causal_conv1d(steps, inputs.sizes, inputs, initial_state, threads, (y, last_state))
    return y, last_state


def conv_step(arrays: tuple[Floats, ...], silu: bool, threads: int) -> tuple[Floats, Floats] | None:
    """Make one step of state, x, weight, bias: :func:`causal_conv1d_update`'s, of any strides.

    Returns
    -------
    y, new_state : ndarray
        New, C-contiguous; or None in their place where the shapes do not fit.

    Raises
    ------
    TypeError
        If they are not all float32, or all float64.
    ValueError
        If the filter has too many taps for the core.
    """
    state, x = arrays[:2]
    y, new_state = np.empty(x.shape, x.dtype), np.empty(state.shape, state.dtype)
    return (y, new_state) if _rust.causal_conv1d_update(arrays, silu, threads, (y, new_state)) else None


def conv_backward(
    inputs: ConvInputs,
    initial_state: Floats | None,
    of_y: Floats,
    of_last_state: Floats | None,
    steps: Steps,
    *,
    threads: int,
) -> tuple[Floats, Floats, Floats | None, Floats]:
    """Give the gradients of x, weight, bias (None where it is) and of the initial state.

    Parameters
    ----------
    inputs : ConvInputs
    initial_state : ndarray or None
    of_y, of_last_state : ndarray
        Gradients of the outputs, contiguous.
    steps : Steps
    threads : int
    """
    channels, kernel = inputs.sizes
    of_x, of_weight = np.empty_like(inputs.x), np.empty_like(inputs.weight)
    of_bias = None if inputs.bias is None else np.empty_like(inputs.bias)
    of_state = np.empty((of_x.shape[0], channels, kernel - 1), of_x.dtype)
    out = (of_x, of_weight, of_bias, of_state)
    upstream = (of_y, of_last_state)
    _rust.causal_conv1d_backward(steps, inputs.sizes, inputs, initial_state, upstream, threads, out)
    return out


def _taps(weight: ArrayLike, dtype: np.dtype[np.floating]) -> Floats:
    taps = as_floats("weight", weight, dtype, ("channels", "kernel"))
    if not 1 <= taps.shape[1] <= MAX_KERNEL:
        raise ValueError(f"weight must have 1 to {MAX_KERNEL} taps, (channels, kernel), not {taps.shape}")
    return taps


def _is_silu(activation: Activation) -> bool:
    if activation not in (None, "silu"):
        raise ValueError(f"activation must be None or 'silu', not {activation!r}")
    return activation == "silu"
