"""The scan of S4D, a member of the diagonal family."""

from __future__ import annotations

from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from ngram_copy import _rust
from ngram_copy.ssm._arrays import BLOCK, Floats, Padding, Steps, as_floats, as_steps, as_threads
from ngram_copy.ssm._complex import Complexes, as_real, common_dtypes, optional_scalars, scalars


class S4dInputs(NamedTuple):
    """Checked and discretised inputs of S4D: contiguous arrays of one precision."""

    u: Floats
    A_bar: Complexes
    B_bar: Complexes
    C: Complexes
    D: Floats | None

    @property
    def sizes(self) -> tuple[int, int]:
        """d_model, n_modes: as the core takes them."""
        return self.A_bar.shape

    @property
    def scalars(self) -> tuple[Floats, Floats, Floats, Floats, Floats | None]:
        """The arrays, as the core takes them."""
        return self.u, scalars(self.A_bar), scalars(self.B_bar), scalars(self.C), self.D


def s4d_scan(
    u: ArrayLike,
    A: ArrayLike,
    log_dt: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None = None,
    *,
    initial_state: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    padding: Padding = "right",
    resets: ArrayLike | None = None,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Complexes]:
    """S4D's scan: ``h = Ā h + B̄ u``, ``y = 2 Re(C·h) + D u``, with Ā and B̄ from :func:`zero_order_hold`.

    Gu et al. 2022 (arXiv 2206.11893), by recurrence; modes stand for themselves and their conjugates.

    Parameters
    ----------
    u : array_like, (batch, d_model, seq_len)
        Input, float32 or float64.
    A, B, C : array_like, (d_model, n_modes), complex
        Rates (with negative real parts, usually), weights of the input and of the output.
    log_dt : array_like, (d_model)
        Logarithms of the step sizes.
    D : array_like, (d_model), optional
        Weight of the input in the output.
    initial_state : array_like, (batch, d_model, n_modes), complex, optional
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
    last_state : ndarray, (batch, d_model, n_modes), complex
        Of single precision where all arrays are, else of double precision.

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    inputs, state = s4d_inputs(u, A, log_dt, B, C, D, initial_state)
    steps = as_steps(inputs.u.shape[0], inputs.u.shape[2], lengths, padding, resets)
    y, last_state, _ = s4d_forward(inputs, state, steps, threads=as_threads(threads), checkpoints=False)
    return y, last_state


def s4d_state_update(
    state: ArrayLike,
    x: ArrayLike,
    A: ArrayLike,
    log_dt: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None = None,
    *,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Complexes]:
    """One step of :func:`s4d_scan`.

    Parameters
    ----------
    state : array_like, (batch, d_model, n_modes), complex
    x : array_like, (batch, d_model)
    A, log_dt, B, C, D, threads
        As in :func:`s4d_scan`.

    Returns
    -------
    y : ndarray, (batch, d_model)
    new_state : ndarray, (batch, d_model, n_modes), complex

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    real, complex_, _ = common_dtypes(state=state, x=x, A=A, log_dt=log_dt, B=B, C=C, D=D)
    row = as_real("x", x, real, ("batch", "d_model"))
    inputs = _inputs(row, A, log_dt, B, C, D, real, complex_)
    shape = ("batch", "d_model", "n_modes")
    sizes = dict(zip(shape, (row.shape[0], *inputs.sizes), strict=True))
    given = as_floats("state", state, complex_, shape, **sizes)
    y, new_state = np.empty_like(row), np.empty_like(given)
    out = (y, scalars(new_state))
    _rust.s4d_state_update(row.shape[0], inputs.sizes, inputs.scalars, scalars(given), as_threads(threads), out)
    return y, new_state


def zero_order_hold(A: ArrayLike, log_dt: ArrayLike, B: ArrayLike) -> tuple[Complexes, Complexes]:
    """Discretise: ``Ā = exp(ΔA)``, ``B̄ = B (exp(ΔA) − 1) / A`` with ``Δ = exp(log_dt)``; ``B̄ = B Δ`` where A is 0.

    Computed in double precision, and accurate where ΔA is small.

    Parameters
    ----------
    A, B : array_like, (d_model, n_modes), complex
    log_dt : array_like, (d_model)

    Returns
    -------
    A_bar, B_bar : ndarray of complex128, (d_model, n_modes)

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    common_dtypes(A=A, log_dt=log_dt, B=B)
    rates = as_floats("A", A, np.complex128, ("d_model", "n_modes"))
    sizes = dict(zip(("d_model", "n_modes"), rates.shape, strict=True))
    weights = as_floats("B", B, np.complex128, ("d_model", "n_modes"), **sizes)
    dt = np.exp(as_real("log_dt", log_dt, np.float64, ("d_model",), **sizes))[:, None]
    zero = rates == 0
    integral = np.where(zero, dt, np.expm1(dt * rates) / np.where(zero, 1, rates))
    return np.exp(dt * rates), weights * integral


# --- What the torch ops call ----------------------------------------------------------------------------


def s4d_inputs(
    u: ArrayLike,
    A: ArrayLike,
    log_dt: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None,
    initial_state: ArrayLike | None,
) -> tuple[S4dInputs, Complexes | None]:
    """Check and discretise the inputs of :func:`s4d_scan`, and check its initial state."""
    real, complex_, _ = common_dtypes(u=u, A=A, log_dt=log_dt, B=B, C=C, D=D, initial_state=initial_state)
    channels = as_real("u", u, real, ("batch", "d_model", "seq_len"))
    inputs = _inputs(channels, A, log_dt, B, C, D, real, complex_)
    if initial_state is None:
        return inputs, None
    shape = ("batch", "d_model", "n_modes")
    sizes = dict(zip(shape, (channels.shape[0], *inputs.sizes), strict=True))
    return inputs, as_floats("initial_state", initial_state, complex_, shape, **sizes)


def s4d_forward(
    inputs: S4dInputs, initial_state: Complexes | None, steps: Steps, *, threads: int, checkpoints: bool
) -> tuple[Floats, Complexes, Complexes | None]:
    """Scan checked inputs.

    Returns
    -------
    y, last_state : ndarray
    checkpoints : ndarray, (batch, d_model, ceil(seq_len / 64), n_modes), complex, or None
        States that :func:`s4d_backward` takes.
    """
    batch, d_model, seq_len = inputs.u.shape
    n_modes = inputs.A_bar.shape[1]
    y = np.empty_like(inputs.u)
    last_state = np.empty((batch, d_model, n_modes), inputs.A_bar.dtype)
    # Zeros: blocks that no step falls into are not written, and what an op returns must not be chance.
    kept = np.zeros((batch, d_model, -(-seq_len // BLOCK), n_modes), last_state.dtype) if checkpoints else None
    out = (y, scalars(last_state), optional_scalars(kept))
    _rust.s4d_scan(steps, inputs.sizes, inputs.scalars, optional_scalars(initial_state), threads, out)
    return y, last_state, kept


def s4d_backward(
    inputs: S4dInputs,
    checkpoints: Complexes,
    of_y: Floats,
    of_last_state: Complexes | None,
    steps: Steps,
    *,
    threads: int,
) -> tuple[Floats, Complexes, Complexes, Complexes, Floats | None, Complexes]:
    """Give the gradients of u, Ā, B̄, C, D (None where it is) and of the initial state.

    Parameters
    ----------
    inputs : S4dInputs
    checkpoints : ndarray
        From :func:`s4d_forward` with the same inputs and steps.
    of_y, of_last_state : ndarray
        Gradients of the outputs, contiguous.
    steps : Steps
    threads : int

    Returns
    -------
    tuple of ndarray or None
        Of complex numbers conjugate gradients, as torch's; torch differentiates its own discretisation.
    """
    u, a, b, c = (np.empty_like(array) for array in inputs[:4])
    d = None if inputs.D is None else np.empty_like(inputs.D)
    state = np.empty((u.shape[0], *inputs.sizes), a.dtype)
    upstream = (scalars(checkpoints), of_y, optional_scalars(of_last_state))
    out = (u, scalars(a), scalars(b), scalars(c), d, scalars(state))
    _rust.s4d_scan_backward(steps, inputs.sizes, inputs.scalars, upstream, threads, out)
    return u, a, b, c, d, state


def _inputs(
    u: Floats,
    A: ArrayLike,
    log_dt: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None,
    real: np.dtype[Any],
    complex_: np.dtype[Any],
) -> S4dInputs:
    rates = as_floats("A", A, complex_, ("d_model", "n_modes"), d_model=u.shape[1])
    if rates.shape[1] == 0:
        raise ValueError(f"A must have at least one mode, (d_model, n_modes), not {rates.shape}")
    a, b = zero_order_hold(A, log_dt, B)
    sizes = dict(zip(("d_model", "n_modes"), rates.shape, strict=True))
    return S4dInputs(
        u,
        a.astype(complex_),
        b.astype(complex_),
        as_floats("C", C, complex_, ("d_model", "n_modes"), **sizes),
        None if D is None else as_real("D", D, real, ("d_model",), **sizes),
    )
