"""The linear scan, a member of the diagonal family, and what is made of it: LRU and RG-LRU."""

from __future__ import annotations

from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ngram_copy import _rust
from ngram_copy.ssm._arrays import Floats, Padding, Steps, as_floats, as_steps, as_threads, common_dtype
from ngram_copy.ssm._complex import Complexes, as_real, common_dtypes, optional_scalars, scalars


class LinearInputs(NamedTuple):
    """Checked inputs of a linear scan: contiguous arrays of one dtype, real or complex."""

    a: NDArray[Any]
    x: NDArray[Any]

    @property
    def sizes(self) -> tuple[int, bool, bool]:
        """Width, whether numbers are complex, whether a is constant: as the core takes them."""
        return self.x.shape[-1], np.iscomplexobj(self.x), self.a.ndim == 1

    @property
    def scalars(self) -> tuple[Floats, Floats]:
        """The arrays, as the core takes them."""
        return scalars(self.a), scalars(self.x)


def linear_scan(
    a: ArrayLike,
    x: ArrayLike,
    *,
    initial_state: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    padding: Padding = "right",
    resets: ArrayLike | None = None,
    threads: SupportsIndex = 1,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """``h[t] = a[t] h[t − 1] + x[t]``, number by number.

    Parameters
    ----------
    a : array_like, (batch, seq_len, width) or (width)
        Factors of the state, float32, float64, complex64 or complex128; of shape (width) the same at all steps.
    x : array_like, (batch, seq_len, width)
        Input.
    initial_state : array_like, (batch, width), optional
        Zeros by default.
    lengths : array_like of int, (batch), optional
        Steps of each row; the others never touch the state, and h is 0 there.
    padding : {"right", "left"}
        Where the others are.
    resets : array_like of bool, (batch, seq_len), optional
        Steps before which the state is zero: where packed examples begin.
    threads : int
        No influence on the result.

    Returns
    -------
    h : ndarray, (batch, seq_len, width)
    last_state : ndarray, (batch, width)
        Complex where an argument is; of single precision where all are, else of double precision.

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    inputs, state = linear_inputs(a, x, initial_state)
    batch, seq_len, _ = inputs.x.shape
    steps = as_steps(batch, seq_len, lengths, padding, resets)
    return linear_forward(inputs, state, steps, threads=as_threads(threads))


def linear_step(
    state: ArrayLike, a: ArrayLike, x: ArrayLike, *, threads: SupportsIndex = 1
) -> tuple[NDArray[Any], NDArray[Any]]:
    """One step of :func:`linear_scan`; the output is the new state.

    Parameters
    ----------
    state, x : array_like, (batch, width)
    a : array_like, (batch, width) or (width)
    threads : int

    Returns
    -------
    h, new_state : ndarray, (batch, width)
        Two arrays.

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    real, complex_, is_complex = common_dtypes(state=state, a=a, x=x)
    dtype = complex_ if is_complex else real
    row = as_floats("x", x, dtype, ("batch", "width"))
    sizes = dict(zip(("batch", "width"), row.shape, strict=True))
    factors = as_floats("a", a, dtype, ("width",) if np.ndim(a) == 1 else ("batch", "width"), **sizes)
    given = as_floats("state", state, dtype, ("batch", "width"), **sizes)
    inputs = LinearInputs(factors, row)
    new_state = np.empty_like(given)
    _rust.linear_step(
        row.shape[0], inputs.sizes, inputs.scalars, scalars(given), as_threads(threads), scalars(new_state)
    )
    return new_state.copy(), new_state


def lru_scan(
    u: ArrayLike,
    nu_log: ArrayLike,
    theta_log: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None = None,
    gamma_log: ArrayLike | None = None,
    *,
    initial_state: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    padding: Padding = "right",
    resets: ArrayLike | None = None,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Complexes]:
    """Linear recurrent unit: ``λ = exp(−exp(nu_log) + i exp(theta_log))``, ``h = λh + γ B u``, ``y = Re(C h) + D u``.

    Orvieto et al. 2023 (arXiv 2303.06349), equations 3 and 7.

    Parameters
    ----------
    u : array_like, (batch, seq_len, d_model)
        Input, float32 or float64.
    nu_log, theta_log : array_like, (d_state)
        Logarithms of the decay and of the angle.
    B : array_like, (d_state, d_model), complex
    C : array_like, (d_model, d_state), complex
    D : array_like, (d_model), optional
        Weight of the input in the output.
    gamma_log : array_like, (d_state), optional
        Logarithm of γ; by default γ = √(1 − abs(λ)²), as it is before training.
    initial_state : array_like, (batch, d_state), complex, optional
        Zeros by default.
    lengths, padding, resets, threads
        As in :func:`linear_scan`; the output of steps that are not there is 0. The matrix products are NumPy's.

    Returns
    -------
    y : ndarray, (batch, seq_len, d_model)
    last_state : ndarray, (batch, d_state), complex

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    arrays = {"u": u, "nu_log": nu_log, "theta_log": theta_log, "B": B, "C": C, "D": D, "gamma_log": gamma_log}
    real, complex_, _ = common_dtypes(**arrays, initial_state=initial_state)
    inputs = as_real("u", u, real, ("batch", "seq_len", "d_model"))
    batch, seq_len, _ = inputs.shape
    steps = as_steps(batch, seq_len, lengths, padding, resets)
    factors, x = _lru_inputs(inputs, nu_log, theta_log, B, gamma_log, real, complex_)
    state = None
    if initial_state is not None:
        shape = ("batch", "d_state")
        state = as_floats("initial_state", initial_state, complex_, shape, batch=batch, d_state=factors.size)
    h, last_state = linear_forward(LinearInputs(factors, x), state, steps, threads=as_threads(threads))
    y = _lru_output(inputs, h, C, D, real, complex_)
    if lengths is not None:
        y[~_there(steps)] = 0
    return y, last_state


def lru_step(
    state: ArrayLike,
    u: ArrayLike,
    nu_log: ArrayLike,
    theta_log: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None = None,
    gamma_log: ArrayLike | None = None,
    *,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Complexes]:
    """One step of :func:`lru_scan`: y of shape (batch, d_model) and the new state, from u of (batch, d_model).

    Parameters
    ----------
    state : array_like, (batch, d_state), complex
    u : array_like, (batch, d_model)
    nu_log, theta_log, B, C, D, gamma_log, threads
        As in :func:`lru_scan`.

    Returns
    -------
    y : ndarray, (batch, d_model)
    new_state : ndarray, (batch, d_state), complex

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    arrays = {"u": u, "nu_log": nu_log, "theta_log": theta_log, "B": B, "C": C, "D": D, "gamma_log": gamma_log}
    real, complex_, _ = common_dtypes(**arrays, state=state)
    inputs = as_real("u", u, real, ("batch", "d_model"))
    factors, x = _lru_inputs(inputs, nu_log, theta_log, B, gamma_log, real, complex_)
    shape = ("batch", "d_state")
    given = as_floats("state", state, complex_, shape, batch=inputs.shape[0], d_state=factors.size)
    h, new_state = linear_step(given, factors, x, threads=threads)
    return _lru_output(inputs, h, C, D, real, complex_), new_state


def rg_lru(
    x: ArrayLike,
    gate_r: ArrayLike,
    gate_i: ArrayLike,
    Lambda: ArrayLike,
    c: float = 8.0,
    *,
    initial_state: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    padding: Padding = "right",
    resets: ArrayLike | None = None,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """Real-gated linear recurrent unit: ``log a = −c r softplus(Λ)``, ``h = a h + √(1 − a²) (i ⊙ x)``.

    De et al. 2024 (Griffin, arXiv 2402.19427), equations 1 to 4; ``RecurrentGemmaRglru`` of transformers. At a reset a
    is 0 and the factor of i ⊙ x is 1.

    Parameters
    ----------
    x, gate_r, gate_i : array_like, (batch, seq_len, width)
        Input, recurrence gate and input gate (both already through the sigmoid), float32 or float64.
    Lambda : array_like, (width)
    c : float
    initial_state : array_like, (batch, width), optional
        Zeros by default.
    lengths, padding, resets, threads
        As in :func:`linear_scan`. In transformers a row's first step is a reset; here only where ``resets`` says so.

    Returns
    -------
    h : ndarray, (batch, seq_len, width)
    last_state : ndarray, (batch, width)

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    dtype = common_dtype(x=x, gate_r=gate_r, gate_i=gate_i, Lambda=Lambda, initial_state=initial_state)
    inputs = as_floats("x", x, dtype, ("batch", "seq_len", "width"))
    sizes = dict(zip(("batch", "seq_len", "width"), inputs.shape, strict=True))
    steps = as_steps(sizes["batch"], sizes["seq_len"], lengths, padding, resets)
    a, scaled = _rg_lru_inputs(inputs, gate_r, gate_i, Lambda, c, steps[4], ("batch", "seq_len", "width"), **sizes)
    state = None
    if initial_state is not None:
        state = as_floats("initial_state", initial_state, dtype, ("batch", "width"), **sizes)
    return linear_forward(LinearInputs(a, scaled), state, steps, threads=as_threads(threads))


def rg_lru_step(
    state: ArrayLike,
    x: ArrayLike,
    gate_r: ArrayLike,
    gate_i: ArrayLike,
    Lambda: ArrayLike,
    c: float = 8.0,
    *,
    resets: ArrayLike | None = None,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """One step of :func:`rg_lru`; the output is the new state.

    Parameters
    ----------
    state, x, gate_r, gate_i : array_like, (batch, width)
    Lambda : array_like, (width)
    c : float
    resets : array_like of bool, (batch), optional
        Rows whose example begins here.
    threads : int

    Returns
    -------
    h, new_state : ndarray, (batch, width)
        Two arrays.

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    dtype = common_dtype(state=state, x=x, gate_r=gate_r, gate_i=gate_i, Lambda=Lambda)
    inputs = as_floats("x", x, dtype, ("batch", "width"))
    sizes = dict(zip(("batch", "width"), inputs.shape, strict=True))
    given = as_floats("state", state, dtype, ("batch", "width"), **sizes)
    starts = None
    if resets is not None:
        starts = np.asarray(resets)
        as_steps(len(inputs), 1, resets=starts[..., None])
        given = np.where(starts[:, None], dtype.type(0), given)
    a, scaled = _rg_lru_inputs(inputs, gate_r, gate_i, Lambda, c, starts, ("batch", "width"), **sizes)
    return linear_step(given, a, scaled, threads=threads)


# --- What the torch ops call ----------------------------------------------------------------------------


def linear_inputs(
    a: ArrayLike, x: ArrayLike, initial_state: ArrayLike | None
) -> tuple[LinearInputs, NDArray[Any] | None]:
    """Check the inputs of :func:`linear_scan`, and its initial state."""
    real, complex_, is_complex = common_dtypes(a=a, x=x, initial_state=initial_state)
    dtype = complex_ if is_complex else real
    rows = as_floats("x", x, dtype, ("batch", "seq_len", "width"))
    sizes = dict(zip(("batch", "seq_len", "width"), rows.shape, strict=True))
    shape = ("width",) if np.ndim(a) == 1 else ("batch", "seq_len", "width")
    factors = as_floats("a", a, dtype, shape, **sizes)
    state = None
    if initial_state is not None:
        state = as_floats("initial_state", initial_state, dtype, ("batch", "width"), **sizes)
    return LinearInputs(factors, rows), state


def linear_forward(
    inputs: LinearInputs, initial_state: NDArray[Any] | None, steps: Steps, *, threads: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scan checked inputs: h and the last state."""
    batch, _, width = inputs.x.shape
    h = np.empty_like(inputs.x)
    last_state = np.empty((batch, width), h.dtype)
    out = (scalars(h), scalars(last_state))
    _rust.linear_scan(steps, inputs.sizes, inputs.scalars, optional_scalars(initial_state), threads, out)
    return h, last_state


def linear_backward(
    inputs: LinearInputs,
    initial_state: NDArray[Any] | None,
    h: NDArray[Any],
    of_h: NDArray[Any],
    of_last_state: NDArray[Any] | None,
    steps: Steps,
    *,
    threads: int,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Give the gradients of a, x and of the initial state; of complex numbers conjugate ones, as torch's.

    Parameters
    ----------
    inputs : LinearInputs
    initial_state : ndarray or None
    h : ndarray
        From :func:`linear_forward` with the same inputs, state and steps.
    of_h, of_last_state : ndarray
        Gradients of the outputs, contiguous, of the dtype of h.
    steps : Steps
    threads : int
    """
    batch, _, width = inputs.x.shape
    gradients = (np.empty_like(inputs.a), np.empty_like(inputs.x), np.empty((batch, width), h.dtype))
    out = (scalars(gradients[0]), scalars(gradients[1]), scalars(gradients[2]))
    upstream = (scalars(h), scalars(of_h), optional_scalars(of_last_state))
    state = optional_scalars(initial_state)
    _rust.linear_scan_backward(steps, inputs.sizes, inputs.scalars, state, upstream, threads, out)
    return gradients


def _lru_inputs(
    u: Floats,
    nu_log: ArrayLike,
    theta_log: ArrayLike,
    B: ArrayLike,
    gamma_log: ArrayLike | None,
    real: np.dtype[Any],
    complex_: np.dtype[Any],
) -> tuple[Complexes, Complexes]:
    """λ and γ B u."""
    weights = as_floats("B", B, complex_, ("d_state", "d_model"), d_model=u.shape[-1])
    sizes = {"d_state": weights.shape[0]}
    decay = np.exp(as_real("nu_log", nu_log, np.float64, ("d_state",), **sizes))
    angle = np.exp(as_real("theta_log", theta_log, np.float64, ("d_state",), **sizes))
    if gamma_log is None:
        gamma = np.sqrt(-np.expm1(-2 * decay))
    else:
        gamma = np.exp(as_real("gamma_log", gamma_log, np.float64, ("d_state",), **sizes))
    weights = (gamma[:, None] * weights).astype(complex_)
    x = np.empty((*u.shape[:-1], weights.shape[0]), complex_)
    with np.errstate(all="ignore"):
        x.real, x.imag = u @ weights.real.T, u @ weights.imag.T
    return np.exp(-decay + 1j * angle).astype(complex_), x


def _lru_output(
    u: Floats, h: Complexes, C: ArrayLike, D: ArrayLike | None, real: np.dtype[Any], complex_: np.dtype[Any]
) -> Floats:
    """Re(C h) + D u."""
    d_model = u.shape[-1]
    weights = as_floats("C", C, complex_, ("d_model", "d_state"), d_model=d_model, d_state=h.shape[-1])
    direct = None if D is None else as_real("D", D, real, ("d_model",), d_model=d_model)
    with np.errstate(all="ignore"):
        y: Floats = h.real @ weights.real.T - h.imag @ weights.imag.T
        if direct is not None:
            y += direct * u
    return y


def _rg_lru_inputs(
    x: Floats,
    gate_r: ArrayLike,
    gate_i: ArrayLike,
    Lambda: ArrayLike,
    c: float,
    resets: NDArray[np.bool_] | None,
    shape: tuple[str, ...],
    **sizes: int,
) -> tuple[Floats, Floats]:
    """A and √(1 − a²) (i ⊙ x); 0 and i ⊙ x at resets."""
    recurrence = as_floats("gate_r", gate_r, x.dtype, shape, **sizes)
    gate = as_floats("gate_i", gate_i, x.dtype, shape, **sizes)
    rate = np.logaddexp(as_floats("Lambda", Lambda, x.dtype, ("width",), **sizes), x.dtype.type(0))
    # NaN goes where the equation takes it, without a warning: padding may hold anything.
    with np.errstate(all="ignore"):
        log_a = (x.dtype.type(-c) * rate) * recurrence
        a, scaled = np.exp(log_a), np.sqrt(-np.expm1(2 * log_a)) * (gate * x)
        if resets is not None:
            a[resets] = 0
            scaled[resets] = (gate * x)[resets]
    return a, scaled


def _there(steps: Steps) -> NDArray[np.bool_]:
    """Which steps there are, (batch, seq_len)."""
    batch, seq_len, lengths, left, _ = steps
    if lengths is None:
        return np.ones((batch, seq_len), np.bool_)
    at = np.arange(seq_len)
    return at >= seq_len - lengths[:, None] if left else at < lengths[:, None]
