"""The selective scan of Mamba, a member of the diagonal family."""

from __future__ import annotations

from typing import NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from ngram_copy import _rust
from ngram_copy.ssm._arrays import (
    BLOCK,
    Floats,
    Padding,
    Steps,
    as_floats,
    as_steps,
    as_threads,
    common_dtype,
    optional_floats,
)


class SelectiveInputs(NamedTuple):
    """Checked inputs of a selective scan: contiguous arrays of one dtype, B and C with their groups."""

    u: Floats
    delta: Floats
    A: Floats
    B: Floats
    C: Floats
    D: Floats | None
    z: Floats | None
    delta_bias: Floats | None
    delta_softplus: bool

    @property
    def sizes(self) -> tuple[int, int, int]:
        """d_model, d_state, groups: as the core takes them."""
        d_model, d_state = self.A.shape
        return d_model, d_state, self.B.shape[1]


def selective_scan(
    u: ArrayLike,
    delta: ArrayLike,
    A: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None = None,
    z: ArrayLike | None = None,
    delta_bias: ArrayLike | None = None,
    delta_softplus: bool = False,
    *,
    initial_state: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    padding: Padding = "right",
    resets: ArrayLike | None = None,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """Mamba's scan: ``h = exp(ΔA) h + Δ u B``, ``y = C·h + D u``, then ``y · SiLU(z)``.

    Gu and Dao 2023 (arXiv 2312.00752), algorithm 2; ``selective_scan_ref`` of mamba.

    Parameters
    ----------
    u, delta : array_like, (batch, d_model, seq_len)
        Input and step sizes, float32 or float64.
    A : array_like, (d_model, d_state)
        Rates, usually negative.
    B, C : array_like, (batch, d_state, seq_len) or (batch, n_groups, d_state, seq_len)
        Weights of the input and of the output.
    D, delta_bias : array_like, (d_model), optional
        Weight of the input in the output; what is added to ``delta``.
    z : array_like, (batch, d_model, seq_len), optional
        Gate.
    delta_softplus : bool
        Whether ``delta`` (with its bias) goes through softplus.
    initial_state : array_like, (batch, d_model, d_state), optional
        Zeros by default.
    lengths : array_like of int, (batch), optional
        Steps of each row; the others never touch the state, and their output is 0.
    padding : {"right", "left"}
        Where the others are.
    resets : array_like of bool, (batch, seq_len), optional
        Steps before which the state is zero: where packed examples begin.
    threads : int
        No influence on the result.

    Returns
    -------
    y : ndarray, (batch, d_model, seq_len)
    last_state : ndarray, (batch, d_model, d_state)
        float32 where all arrays are, else float64.

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    inputs, state = selective_inputs(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state)
    steps = as_steps(*_rows(inputs), lengths, padding, resets)
    y, last_state, _ = selective_forward(inputs, state, steps, threads=as_threads(threads), checkpoints=False)
    return y, last_state


def selective_state_update(
    state: ArrayLike,
    x: ArrayLike,
    dt: ArrayLike,
    A: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None = None,
    z: ArrayLike | None = None,
    dt_bias: ArrayLike | None = None,
    dt_softplus: bool = False,
    *,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """One step of :func:`selective_scan` (mamba's ``selective_state_update``, with the new state returned).

    Parameters
    ----------
    state : array_like, (batch, d_model, d_state)
    x, dt, z : array_like, (batch, d_model)
    A : array_like, (d_model, d_state)
    B, C : array_like, (batch, d_state) or (batch, n_groups, d_state)
    D, dt_bias : array_like, (d_model), optional
    dt_softplus : bool
    threads : int

    Returns
    -------
    y : ndarray, (batch, d_model)
    new_state : ndarray, (batch, d_model, d_state)

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    dtype = common_dtype(state=state, x=x, dt=dt, A=A, B=B, C=C, D=D, z=z, dt_bias=dt_bias)
    channels = as_floats("x", x, dtype, ("batch", "d_model"))
    sizes = dict(zip(("batch", "d_model"), channels.shape, strict=True))
    a = as_floats("A", A, dtype, ("d_model", "d_state"), **sizes)
    sizes["d_state"] = a.shape[1]
    rows = ("batch", "d_model")
    inputs = SelectiveInputs(
        channels,
        as_floats("dt", dt, dtype, rows, **sizes),
        a,
        _grouped("B", B, dtype, ("d_state",), **sizes),
        _grouped("C", C, dtype, ("d_state",), **sizes),
        optional_floats("D", D, dtype, ("d_model",), **sizes),
        optional_floats("z", z, dtype, rows, **sizes),
        optional_floats("dt_bias", dt_bias, dtype, ("d_model",), **sizes),
        bool(dt_softplus),
    )
    _check_groups(inputs)
    given = as_floats("state", state, dtype, (*rows, "d_state"), **sizes)
    y, new_state = np.empty_like(channels), np.empty_like(given)
    _rust.selective_state_update((given, *inputs[:8]), inputs.delta_softplus, as_threads(threads), (y, new_state))
    return y, new_state


# --- What the torch ops call ----------------------------------------------------------------------------


def selective_inputs(
    u: ArrayLike,
    delta: ArrayLike,
    A: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None,
    z: ArrayLike | None,
    delta_bias: ArrayLike | None,
    delta_softplus: bool,
    initial_state: ArrayLike | None,
) -> tuple[SelectiveInputs, Floats | None]:
    """Check the inputs of :func:`selective_scan`, and its initial state."""
    dtype = common_dtype(u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias, initial_state=initial_state)
    rows = ("batch", "d_model", "seq_len")
    channels = as_floats("u", u, dtype, rows)
    sizes = dict(zip(rows, channels.shape, strict=True))
    a = as_floats("A", A, dtype, ("d_model", "d_state"), **sizes)
    sizes["d_state"] = a.shape[1]
    inputs = SelectiveInputs(
        channels,
        as_floats("delta", delta, dtype, rows, **sizes),
        a,
        _grouped("B", B, dtype, ("d_state", "seq_len"), **sizes),
        _grouped("C", C, dtype, ("d_state", "seq_len"), **sizes),
        optional_floats("D", D, dtype, ("d_model",), **sizes),
        optional_floats("z", z, dtype, rows, **sizes),
        optional_floats("delta_bias", delta_bias, dtype, ("d_model",), **sizes),
        bool(delta_softplus),
    )
    _check_groups(inputs)
    return inputs, optional_floats("initial_state", initial_state, dtype, ("batch", "d_model", "d_state"), **sizes)


def selective_forward(
    inputs: SelectiveInputs, initial_state: Floats | None, steps: Steps, *, threads: int, checkpoints: bool
) -> tuple[Floats, Floats, Floats | None]:
    """Scan checked inputs.

    Returns
    -------
    y, last_state : ndarray
    checkpoints : ndarray, (batch, d_model, ceil(seq_len / 64), d_state), or None
        States that :func:`selective_backward` takes.
    """
    batch, d_model, seq_len = inputs.u.shape
    d_state = inputs.A.shape[1]
    y = np.empty_like(inputs.u)
    last_state = np.empty((batch, d_model, d_state), y.dtype)
    # Zeros: blocks that no step falls into are not written, and what an op returns must not be chance.
    kept = np.zeros((batch, d_model, -(-seq_len // BLOCK), d_state), y.dtype) if checkpoints else None
    _rust.selective_scan(steps, inputs.sizes, inputs, initial_state, threads, (y, last_state, kept))
    return y, last_state, kept


def selective_step(arrays: tuple[Floats, ...], dt_softplus: bool, threads: int) -> tuple[Floats, Floats] | None:
    """Make one step of state, x, dt, A, B, C, D, z, dt_bias: :func:`selective_state_update`'s, of any strides.

    Returns
    -------
    y, new_state : ndarray
        New, C-contiguous; or None in their place where the shapes do not fit.

    Raises
    ------
    TypeError
        If they are not all float32, or all float64.
    """
    state, x = arrays[:2]
    y, new_state = np.empty(x.shape, x.dtype), np.empty(state.shape, state.dtype)
    return (y, new_state) if _rust.selective_state_update(arrays, dt_softplus, threads, (y, new_state)) else None


def selective_backward(
    inputs: SelectiveInputs,
    checkpoints: Floats,
    of_y: Floats,
    of_last_state: Floats | None,
    steps: Steps,
    *,
    threads: int,
) -> tuple[Floats | None, ...]:
    """Give the gradients of u, delta, A, B, C, D, z, delta_bias and of the initial state.

    Parameters
    ----------
    inputs : SelectiveInputs
    checkpoints : ndarray
        From :func:`selective_forward` with the same inputs and steps.
    of_y, of_last_state : ndarray
        Gradients of the outputs.
    steps : Steps
    threads : int

    Returns
    -------
    tuple of ndarray or None
        None for what is not there; the initial state's is always there.
    """
    arrays = inputs[:8]
    gradients = tuple(None if array is None else np.empty_like(array) for array in arrays)
    of_state = np.empty((inputs.u.shape[0], *inputs.A.shape), inputs.u.dtype)
    upstream = (checkpoints, of_y, of_last_state)
    _rust.selective_scan_backward(steps, inputs.sizes, inputs, upstream, threads, (*gradients, of_state))
    return (*gradients, of_state)


def _grouped(name: str, array: ArrayLike, dtype: np.dtype[np.floating], last: tuple[str, ...], **sizes: int) -> Floats:
    """Weights with their axis of groups."""
    if np.ndim(array) == len(last) + 1:
        return as_floats(name, array, dtype, ("batch", *last), **sizes)[:, None]
    return as_floats(name, array, dtype, ("batch", "n_groups", *last), **sizes)


def _check_groups(inputs: SelectiveInputs) -> None:
    groups, d_model = inputs.B.shape[1], inputs.A.shape[0]
    if inputs.C.shape[1] != groups:
        raise ValueError(f"C must have the groups of B, {groups}, not {inputs.C.shape[1]}")
    if groups == 0 or d_model % groups:
        raise ValueError(f"the groups of B, {groups}, must divide d_model = {d_model}")


def _rows(inputs: SelectiveInputs) -> tuple[int, int]:
    return inputs.u.shape[0], inputs.u.shape[2]
