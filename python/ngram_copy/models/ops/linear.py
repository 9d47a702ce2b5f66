"""Linear scans, of the diagonal family, and what is a thin face over them: LRU and RG-LRU.

h_t = a_t h_{t-1} + x_t
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ngram_copy.models.ops import rust
from ngram_copy.models.ops.arguments import (
    PLAIN,
    Checker,
    Lengths,
    Steps,
    steps_of,
    to_complex,
    to_real,
    without_autocast,
)
from ngram_copy.models.ops.backends import choose
from ngram_copy.models.ops.chunks import Mask, hide, last, over, over_chunks, scan
from ngram_copy.models.ops.diagonal import fixed


@without_autocast
def linear_scan(
    a: Tensor,
    x: Tensor,
    *,
    initial_state: Tensor | None = None,
    lengths: Lengths = None,
    padding: str = "right",
    resets: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """All states of ``h_t = a_t h_{t-1} + x_t``, element by element.

    The torch backend composes steps before it applies them: where abs(a) is above 1, a product of 64 of them may
    overflow that the equation itself never forms.

    Parameters
    ----------
    a : tensor (batch, seq_len, width) or (width), real or complex
    x : tensor (batch, seq_len, width), real or complex
    initial_state : tensor (batch, width), optional
        Complex where a or x is.
    lengths, padding, resets, backend
        See :mod:`ngram_copy.models.ops`.

    Returns
    -------
    h : tensor (batch, seq_len, width)
        Of x's dtype; complex where a is.
    last_state : tensor (batch, width)

    Raises
    ------
    TypeError, ValueError
        If an argument, its dtype, shape or device is not allowed, or the backend named cannot run it.
    """
    check = Checker()
    check.number("x", x, "batch seq_len width")
    check.number("a", a, "width" if a.dim() == 1 else "batch seq_len width")
    wide = a.is_complex() or x.is_complex()
    state = (check.complex_state if wide else check.state)("initial_state", initial_state, "batch width")
    steps = steps_of(check, lengths, padding, resets)
    chosen = choose("linear_scan", backend, x, initial_state, steps)
    dtype = state.dtype if wide and not x.is_complex() else x.dtype
    if check.sizes["seq_len"] == 0:
        return x.to(dtype, copy=True), state.clone()
    return _linear_scan(chosen, a, x, state, steps, dtype)


@without_autocast
def linear_step(state: Tensor, a: Tensor, x: Tensor, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """One step of :func:`linear_scan`; the output is the new state.

    Parameters
    ----------
    state : tensor (batch, width)
    a : tensor (batch, width) or (width)
    x : tensor (batch, width)
    backend : str

    Returns
    -------
    h, new_state : tensor (batch, width)

    Raises
    ------
    TypeError, ValueError
        As :func:`linear_scan`.
    """
    if backend in {"auto", "rust"}:
        done = rust.face("linear_step", state, a, x)
        if done is not None:
            return done
    check = Checker()
    check.number("x", x, "batch width")
    check.number("a", a, "width" if a.dim() == 1 else "batch width")
    wide = a.is_complex() or x.is_complex()
    state = (check.complex_state if wide else check.state)("state", state, "batch width")
    chosen = choose("linear_step", backend, x, state, PLAIN)
    dtype = state.dtype if wide and not x.is_complex() else x.dtype
    if chosen == "rust":
        h, state = _linear_scan(chosen, a if a.dim() == 1 else a[:, None], x[:, None], state, PLAIN, dtype)
        return h[:, 0], state
    state = a.to(_like(a, state)) * state + x.to(_like(x, state))
    return state.to(dtype, copy=True), state


@without_autocast
def lru_scan(
    u: Tensor,
    nu_log: Tensor,
    theta_log: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    gamma_log: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    lengths: Lengths = None,
    padding: str = "right",
    resets: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """LRU: ``h = λ h + γ B u``, ``y = Re(C h) + D u`` with ``λ = exp(-exp(nu_log) + i exp(theta_log))``.

    Orvieto et al. 2023 (arXiv 2303.06349).

    Parameters
    ----------
    u : tensor (batch, seq_len, d_model)
    nu_log, theta_log : tensor (d_state)
    B : complex tensor (d_state, d_model)
    C : complex tensor (d_model, d_state)
    D : tensor (d_model), optional
    gamma_log : tensor (d_state), optional
        γ = exp(gamma_log); by default γ = √(1 - abs(λ)²).
    initial_state : complex tensor (batch, d_state), optional
    lengths, padding, resets, backend
        See :mod:`ngram_copy.models.ops`.

    Returns
    -------
    y : tensor (batch, seq_len, d_model), of u's dtype
    last_state : complex tensor (batch, d_state)

    Raises
    ------
    TypeError, ValueError
        If an argument, its dtype, shape or device is not allowed, or the backend named cannot run it.
    """
    check = Checker()
    check.real("u", u, "batch seq_len d_model")
    _check_lru(check, nu_log, theta_log, B, C, D, gamma_log)
    state = check.complex_state("initial_state", initial_state, "batch d_state")
    steps = steps_of(check, lengths, padding, resets)
    chosen = choose("lru_scan", backend, u, initial_state, steps)
    if check.sizes["seq_len"] == 0:
        return u.clone(), state.clone()
    wide = u.to(check.dtype)
    if steps.active is not None:
        wide = hide(wide, steps.active)
    factor, x = _lru_terms(wide, nu_log, theta_log, B, gamma_log)
    h, last_state = _linear_scan(chosen, factor, x, state, steps, state.dtype)
    y = _lru_output(h, wide, C, D)
    return (y if steps.active is None else hide(y, steps.active)).to(u.dtype), last_state


@without_autocast
def lru_step(
    state: Tensor,
    u: Tensor,
    nu_log: Tensor,
    theta_log: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    gamma_log: Tensor | None = None,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One step of :func:`lru_scan`.

    Parameters
    ----------
    state : complex tensor (batch, d_state)
    u : tensor (batch, d_model)
    nu_log, theta_log, B, C, D, gamma_log, backend
        As in :func:`lru_scan`.

    Returns
    -------
    y : tensor (batch, d_model), of u's dtype
    new_state : complex tensor (batch, d_state)

    Raises
    ------
    TypeError, ValueError
        As :func:`lru_scan`.
    """
    if backend in {"auto", "rust"}:
        done = rust.face("lru_step", state, u, nu_log, theta_log, B, C, D, gamma_log)
        if done is not None:
            return done
    check = Checker()
    check.real("u", u, "batch d_model")
    _check_lru(check, nu_log, theta_log, B, C, D, gamma_log)
    state = check.complex_state("state", state, "batch d_state")
    chosen = choose("lru_step", backend, u, state, PLAIN)
    wide = u.to(check.dtype)
    factor, x = _lru_terms(wide, nu_log, theta_log, B, gamma_log)
    if chosen == "rust":
        h, state = _linear_scan(chosen, factor, x[:, None], state, PLAIN, state.dtype)
        return _lru_output(h[:, 0], wide, C, D).to(u.dtype), state
    state = factor * state + x
    return _lru_output(state, wide, C, D).to(u.dtype), state


@without_autocast
def rg_lru(
    x: Tensor,
    gate_r: Tensor,
    gate_i: Tensor,
    Lambda: Tensor,
    c: float = 8.0,
    *,
    initial_state: Tensor | None = None,
    lengths: Lengths = None,
    padding: str = "right",
    resets: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """RG-LRU: ``log a = -c r softplus(Λ)``, ``h = a h + √(1 - a²) (i x)``; after a reset the factor of x is 1.

    De et al. 2024 (arXiv 2402.19427), Griffin, and recurrentgemma's ``RGLRU``.

    Parameters
    ----------
    x, gate_r, gate_i : tensor (batch, seq_len, width)
        The gates after their sigmoids.
    Lambda : tensor (width)
    c : float
    initial_state : tensor (batch, width), optional
    lengths, padding, resets, backend
        See :mod:`ngram_copy.models.ops`.

    Returns
    -------
    h : tensor (batch, seq_len, width), of x's dtype
    last_state : tensor (batch, width), float32 or float64

    Raises
    ------
    TypeError, ValueError
        If an argument, its dtype, shape or device is not allowed, or the backend named cannot run it.
    """
    check = Checker()
    for name, tensor in (("x", x), ("gate_r", gate_r), ("gate_i", gate_i)):
        check.real(name, tensor, "batch seq_len width")
    check.real("Lambda", Lambda, "width")
    state = check.state("initial_state", initial_state, "batch width")
    steps = steps_of(check, lengths, padding, resets)
    chosen = choose("rg_lru", backend, x, initial_state, steps)
    if check.sizes["seq_len"] == 0:
        return x.clone(), state.clone()
    a, scaled = _rg_lru_terms(check, x, gate_r, gate_i, Lambda, c, steps.active, steps.resets)
    h, last_state = _linear_scan(chosen, a, scaled, state, steps, check.dtype)
    return h.to(x.dtype), last_state


@without_autocast
def rg_lru_step(
    state: Tensor,
    x: Tensor,
    gate_r: Tensor,
    gate_i: Tensor,
    Lambda: Tensor,
    c: float = 8.0,
    *,
    resets: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One step of :func:`rg_lru`.

    Parameters
    ----------
    state : tensor (batch, width)
    x, gate_r, gate_i : tensor (batch, width)
    Lambda : tensor (width)
    c : float
    resets : tensor (batch) of bool, optional
        Rows whose example begins here.
    backend : str

    Returns
    -------
    h : tensor (batch, width), of x's dtype
    new_state : tensor (batch, width)

    Raises
    ------
    TypeError, ValueError
        As :func:`rg_lru`.
    """
    if backend in {"auto", "rust"}:
        done = None if resets is not None else rust.face("rg_lru_step", state, x, gate_r, gate_i, Lambda, c=c)
        if done is not None:
            return done
    check = Checker()
    for name, tensor in (("x", x), ("gate_r", gate_r), ("gate_i", gate_i)):
        check.real(name, tensor, "batch width")
    check.real("Lambda", Lambda, "width")
    state = check.state("state", state, "batch width")
    cut = None if resets is None else resets[:, None]
    check.sizes["seq_len"] = 1
    steps = steps_of(check, None, "right", cut)
    chosen = choose("rg_lru_step", backend, x, state, steps)
    a, scaled = _rg_lru_terms(check, x[:, None], gate_r[:, None], gate_i[:, None], Lambda, c, None, cut)
    if chosen == "rust":
        h, state = _linear_scan(chosen, a, scaled, state, steps, check.dtype)
        return h[:, 0].to(x.dtype), state
    kept = state if cut is None else state.masked_fill(cut, 0)
    state = a[:, 0] * kept + scaled[:, 0]
    return state.to(x.dtype, copy=True), state


def _check_lru(
    check: Checker,
    nu_log: Tensor,
    theta_log: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    gamma_log: Tensor | None,
) -> None:
    check.real("nu_log", nu_log, "d_state")
    check.real("theta_log", theta_log, "d_state")
    check.complex("B", B, "d_state d_model")
    check.complex("C", C, "d_model d_state")
    check.optional("D", D, "d_model")
    check.optional("gamma_log", gamma_log, "d_state")


def _lru_terms(
    u: Tensor, nu_log: Tensor, theta_log: Tensor, B: Tensor, gamma_log: Tensor | None
) -> tuple[Tensor, Tensor]:
    """λ (d_state) and γ B u (…, d_state)."""
    dtype = u.dtype
    rate = nu_log.to(dtype).exp()
    factor = torch.polar((-rate).exp(), theta_log.to(dtype).exp())
    gamma = (-(-2 * rate).expm1()).sqrt() if gamma_log is None else gamma_log.to(dtype).exp()
    real, imaginary = B.real.to(dtype), B.imag.to(dtype)
    return factor, torch.complex(gamma * (u @ real.mT), gamma * (u @ imaginary.mT))


def _lru_output(h: Tensor, u: Tensor, C: Tensor, D: Tensor | None) -> Tensor:
    y = h.real @ C.real.to(u.dtype).mT - h.imag @ C.imag.to(u.dtype).mT
    return y if D is None else y + D.to(u.dtype) * u


def _rg_lru_terms(
    check: Checker,
    x: Tensor,
    gate_r: Tensor,
    gate_i: Tensor,
    Lambda: Tensor,
    c: float,
    active: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Factor and addend, (batch, seq_len, width). √ has no gradient at 0: where unused, it sees another value."""
    if active is not None:
        x, gate_r, gate_i = hide(x, active), hide(gate_r, active), hide(gate_i, active)
    x, gate_r, gate_i, rate = (tensor.to(check.dtype) for tensor in (x, gate_r, gate_i, Lambda))
    log_a = -c * gate_r * softplus(rate, threshold=60)
    inner = log_a
    unused = resets if active is None else ~active if resets is None else ~active | resets
    if unused is not None:
        inner = inner.masked_fill(over(unused, inner), -1)
    factor = (-(2 * inner).expm1()).sqrt()
    if resets is not None:
        factor = factor.masked_fill(over(resets, factor), 1)
    return log_a.exp(), factor * (gate_i * x)


def _linear_scan(
    chosen: str, a: Tensor, x: Tensor, state: Tensor, steps: Steps, output_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    if chosen == "rust":
        if state.is_complex():
            a, x = a.to(state.dtype), x.to(state.dtype)
        wide = x.to(_like(x, state))
        h, last_state = rust.call("linear_scan", [a.to(_like(a, state)), wide], [], state, steps)
        return h.to(output_dtype), last_state

    def body(state: Tensor, mask: Mask, x: Tensor, a_chunk: Tensor | None) -> tuple[Tensor, Tensor]:
        if a_chunk is None:
            factors = fixed(a.to(_like(a, state)), x, mask.active)
        else:
            factors = a_chunk if mask.active is None else a_chunk.masked_fill(~over(mask.active, a_chunk), 1)
        states = scan(factors, x, state, mask.resets)
        return last(states), states

    by_time = (x, a if a.dim() == 3 else None)
    return over_chunks(body, state, by_time, steps, to_real(state.dtype), output_dtype)


def _like(tensor: Tensor, state: Tensor) -> torch.dtype:
    """The state's precision, real or complex as the tensor is."""
    return to_complex(state.dtype) if tensor.is_complex() else to_real(state.dtype)
