"""S4D: complex states with rates that do not change from step to step; of the diagonal family.

Glossary: u input; A rates (complex, real part negative); Δ = exp(log_dt) step size; B, C weights of the input and of
the output; D weight of the input in the output; h the state, one of each pair of conjugate modes.

    h = exp(ΔA) h + (exp(ΔA) - 1)/A · B u        y = 2 Re(C · h) + D u
"""

from __future__ import annotations

import torch
from torch import Tensor

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
from ngram_copy.models.ops.chunks import Mask, last, over_chunks, scan
from ngram_copy.models.ops.diagonal import fixed, real_part


@without_autocast
def s4d_scan(
    u: Tensor,
    A: Tensor,
    log_dt: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    lengths: Lengths = None,
    padding: str = "right",
    resets: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """S4D with zero-order hold: ``h = exp(ΔA) h + (exp(ΔA) - 1)/A · B u``, ``y = 2 Re(C · h) + D u``.

    Gu, Gupta, Goel and Ré 2022 (arXiv 2206.11893); there B is 1.

    Parameters
    ----------
    u : tensor (batch, d_model, seq_len)
    A, B, C : complex tensor (d_model, n_modes)
    log_dt : tensor (d_model)
    D : tensor (d_model), optional
    initial_state : complex tensor (batch, d_model, n_modes), optional
    lengths, padding, resets, backend
        See :mod:`ngram_copy.models.ops`.

    Returns
    -------
    y : tensor (batch, d_model, seq_len), of u's dtype
    last_state : complex tensor (batch, d_model, n_modes)

    Raises
    ------
    TypeError, ValueError
        If an argument, its dtype, shape or device is not allowed, or the backend named cannot run it.
    """
    check = Checker()
    check.real("u", u, "batch d_model seq_len")
    _check_parameters(check, A, log_dt, B, C, D)
    state = check.complex_state("initial_state", initial_state, "batch d_model n_modes")
    steps = steps_of(check, lengths, padding, resets)
    chosen = choose("s4d_scan", backend, u, initial_state, steps)
    if check.sizes["seq_len"] == 0:
        return u.clone(), state.clone()
    if chosen == "rust":
        terms = discretise(A, log_dt, B, check.dtype)
        y, last_state = rust.call("s4d_scan", check.cast(u, *terms, C, D), [], state, steps)
        return y.to(u.dtype), last_state
    return _scan(u, A, log_dt, B, C, D, state, steps)


@without_autocast
def s4d_state_update(
    state: Tensor,
    x: Tensor,
    A: Tensor,
    log_dt: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One step of :func:`s4d_scan`.

    Parameters
    ----------
    state : complex tensor (batch, d_model, n_modes)
    x : tensor (batch, d_model)
    A, B, C : complex tensor (d_model, n_modes)
    log_dt : tensor (d_model)
    D : tensor (d_model), optional
    backend : str

    Returns
    -------
    y : tensor (batch, d_model), of x's dtype
    new_state : complex tensor (batch, d_model, n_modes)

    Raises
    ------
    TypeError, ValueError
        As :func:`s4d_scan`.
    """
    if backend in {"auto", "rust"}:
        done = rust.face("s4d_state_update", state, x, A, log_dt, B, C, D)
        if done is not None:
            return done
    check = Checker()
    check.real("x", x, "batch d_model")
    _check_parameters(check, A, log_dt, B, C, D)
    state = check.complex_state("state", state, "batch d_model n_modes")
    chosen = choose("s4d_state_update", backend, x, state, PLAIN)
    if chosen == "rust":
        terms = discretise(A, log_dt, B, check.dtype)
        y, state = rust.call("s4d_scan", check.cast(x[..., None], *terms, C, D), [], state, PLAIN)
        return y[..., 0].to(x.dtype), state
    decay, into = discretise(A, log_dt, B, check.dtype)
    state = decay * state + into * x[..., None]
    y = 2 * real_part(state, C.to(state.dtype)).sum(-1)
    return (y if D is None else y + D.to(y.dtype) * x).to(x.dtype), state


def discretise(A: Tensor, log_dt: Tensor, B: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Zero-order hold: exp(ΔA), and (exp(ΔA) - 1)/A · B, which is Δ B at A = 0.

    exp(x + iy) - 1 = expm1(x) cos y - 2 sin²(y/2) + i eˣ sin y, where nothing cancels near 0.

    Parameters
    ----------
    A, B : complex tensor (d_model, n_modes)
    log_dt : tensor (d_model)
    dtype : torch.dtype
        float32 or float64.

    Returns
    -------
    decay, into : complex tensor (d_model, n_modes)
    """
    dt = log_dt.to(dtype).exp()[:, None]
    exponent = dt * A.to(to_complex(dtype))
    x, y = exponent.real, exponent.imag
    less_one = torch.complex(x.expm1() * y.cos() - 2 * (y / 2).sin().square(), x.exp() * y.sin())
    zero = exponent == 0
    one = torch.ones_like(exponent)
    held = torch.where(zero, one, less_one / torch.where(zero, one, exponent))
    return exponent.exp(), dt * held * B.to(exponent.dtype)


def _check_parameters(check: Checker, A: Tensor, log_dt: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> None:
    check.complex("A", A, "d_model n_modes")
    check.real("log_dt", log_dt, "d_model")
    check.complex("B", B, "d_model n_modes")
    check.complex("C", C, "d_model n_modes")
    check.optional("D", D, "d_model")


def _scan(
    u: Tensor, A: Tensor, log_dt: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor, steps: Steps
) -> tuple[Tensor, Tensor]:
    """The torch backend."""
    dtype = to_real(state.dtype)
    decay, into = discretise(A, log_dt, B, dtype)

    def body(state: Tensor, mask: Mask, u: Tensor) -> tuple[Tensor, Tensor]:
        states = scan(fixed(decay, u, mask.active), into * u[..., None], state, mask.resets)
        y = 2 * real_part(states, C.to(states.dtype)).sum(-1)
        return last(states), y if D is None else y + D.to(y.dtype) * u

    y, state = over_chunks(body, state, (u.mT,), steps, dtype, u.dtype)
    return y.mT, state
