"""The recurrences as their equations read: a loop over time, in any dtype. Oracles for tests and for readers.

Arguments are those of the functions of the same names in :mod:`ngram_copy.models.ops`; nothing is checked. Common ones:
``initial_state``, ``lengths``, ``padding``, ``resets``, by keyword.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

Step = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(state, t) → new state, output."""


def loop(
    step: Step,
    zero: Tensor,
    seq_len: int,
    *,
    initial_state: Tensor | None = None,
    lengths: Sequence[int] | Tensor | None = None,
    padding: str = "right",
    resets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a step over time.

    Parameters
    ----------
    step : function of (state, t)
    zero : tensor (batch, …)
        The state that resets and None stand for.
    seq_len : int
    initial_state, lengths, padding, resets
        The common arguments.

    Returns
    -------
    outputs : tensor (batch, seq_len, …)
    last_state : tensor (batch, …)
    """
    batch = zero.shape[0]
    counted = torch.full((batch,), seq_len) if lengths is None else torch.as_tensor(lengths)
    state, outputs = zero if initial_state is None else initial_state, []
    for t in range(seq_len):
        counts = t < counted if padding == "right" else t >= seq_len - counted
        before = state if resets is None else _choose(resets[:, t], zero, state)
        after, output = step(before, t)
        state = _choose(counts, after, state)
        outputs.append(_choose(counts, output, torch.zeros_like(output)))
    return torch.stack(outputs, dim=1), state


def _choose(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(rows.reshape(-1, *[1] * (yes.dim() - 1)), yes, no)


def step_size(dt: Tensor, bias: Tensor | None, use_softplus: bool) -> Tensor:
    """Δ: dt + bias, through softplus if asked for."""
    dt = dt if bias is None else dt + bias
    return torch.logaddexp(dt, torch.zeros_like(dt)) if use_softplus else dt


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    **common: Any,
) -> tuple[Tensor, Tensor]:
    """``h = exp(ΔA) h + Δ B u``, ``y = (C · h + D u) · SiLU(z)``."""
    batch, d_model, seq_len = u.shape
    B, C = (one if one.dim() == 4 else one[:, None] for one in (B, C))
    B, C = (
        one.repeat_interleave(d_model // one.shape[1], dim=1) for one in (B, C)
    )  # (batch, d_model, d_state, seq_len)

    def step(h: Tensor, t: int) -> tuple[Tensor, Tensor]:
        dt = step_size(delta[..., t], delta_bias, delta_softplus)
        h = (dt[..., None] * A).exp() * h + (dt * u[..., t])[..., None] * B[..., t]
        y = (C[..., t] * h).sum(-1)
        y = y if D is None else y + D * u[..., t]
        return h, y if z is None else y * silu(z[..., t])

    y, state = loop(step, u.new_zeros(batch, *A.shape), seq_len, **common)
    return y.mT, state


def s4d_scan(
    u: Tensor, A: Tensor, log_dt: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, **common: Any
) -> tuple[Tensor, Tensor]:
    """``h = exp(ΔA) h + (exp(ΔA) - 1)/A · B u``, ``y = 2 Re(C · h) + D u``."""
    batch, d_model, seq_len = u.shape
    dt = log_dt.exp()[:, None]
    decay = (dt * A).exp()
    into = (decay - 1) / A * B

    def step(h: Tensor, t: int) -> tuple[Tensor, Tensor]:
        h = decay * h + into * u[..., t, None]
        y = 2 * (C * h).real.sum(-1)
        return h, y if D is None else y + D * u[..., t]

    y, state = loop(step, A.new_zeros(batch, d_model, A.shape[1]), seq_len, **common)
    return y.mT, state


def linear_scan(a: Tensor, x: Tensor, **common: Any) -> tuple[Tensor, Tensor]:
    """``h = a h + x``."""

    def step(h: Tensor, t: int) -> tuple[Tensor, Tensor]:
        h = (a if a.dim() == 1 else a[:, t]) * h + x[:, t]
        return h, h

    zero = torch.zeros(x.shape[0], x.shape[2], dtype=torch.promote_types(a.dtype, x.dtype))
    return loop(step, zero, x.shape[1], **common)


def lru_scan(
    u: Tensor,
    nu_log: Tensor,
    theta_log: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    gamma_log: Tensor | None = None,
    **common: Any,
) -> tuple[Tensor, Tensor]:
    """``h = λ h + γ B u``, ``y = Re(C h) + D u``."""
    factor = (-nu_log.exp() + 1j * theta_log.exp()).exp()
    gamma = (1 - factor.abs() ** 2).sqrt() if gamma_log is None else gamma_log.exp()

    def step(h: Tensor, t: int) -> tuple[Tensor, Tensor]:
        h = factor * h + gamma * (u[:, t].to(B.dtype) @ B.mT)
        y = (h @ C.mT).real
        return h, y if D is None else y + D * u[:, t]

    return loop(step, B.new_zeros(u.shape[0], B.shape[0]), u.shape[1], **common)


def rg_lru(
    x: Tensor,
    gate_r: Tensor,
    gate_i: Tensor,
    Lambda: Tensor,
    c: float = 8.0,
    *,
    resets: Tensor | None = None,
    **common: Any,
) -> tuple[Tensor, Tensor]:
    """``log a = -c r softplus(Λ)``, ``h = a h + √(1 - a²) (i x)``; the factor of x is 1 at a reset."""
    a = (-c * gate_r * torch.logaddexp(Lambda, torch.zeros_like(Lambda))).exp()
    factor = (1 - a**2).sqrt()
    if resets is not None:
        factor = torch.where(resets[..., None], torch.ones_like(factor), factor)

    def step(h: Tensor, t: int) -> tuple[Tensor, Tensor]:
        h = a[:, t] * h + factor[:, t] * gate_i[:, t] * x[:, t]
        return h, h

    return loop(step, x.new_zeros(x.shape[0], x.shape[2]), x.shape[1], resets=resets, **common)


def gated_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, scale: float | None = None, **common: Any
) -> tuple[Tensor, Tensor]:
    """``S = exp(g) S + k vᵀ``, ``o = scale · Sᵀ q``; g for each key channel, for each head (n_heads too), or None."""
    return _matrix(q, k, v, g, None, scale, **common)


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, **common: Any
) -> tuple[Tensor, Tensor]:
    """:func:`gated_linear_attention` without a gate."""
    return _matrix(q, k, v, None, None, scale, **common)


def retention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, **common: Any) -> tuple[Tensor, Tensor]:
    """:func:`gated_linear_attention` with ``exp(g) = 1 - 2^(-5-h)``."""
    g = torch.log(1 - 2 ** (-5.0 - torch.arange(v.shape[2], dtype=v.dtype)))
    return _matrix(q, k, v, g.expand(*v.shape[:3]), None, scale, **common)


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, scale: float | None = None, **common: Any
) -> tuple[Tensor, Tensor]:
    """``u = beta (v - Sᵀ k)``, ``S = S + k uᵀ``, ``o = scale · Sᵀ q``."""
    return _matrix(q, k, v, None, beta, scale, **common)


def gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, scale: float | None = None, **common: Any
) -> tuple[Tensor, Tensor]:
    """:func:`delta_rule` after ``S = exp(g) S``."""
    return _matrix(q, k, v, g, beta, scale, **common)


kimi_delta_attention = gated_delta_rule


def mamba2_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    **common: Any,
) -> tuple[Tensor, Tensor]:
    """``S = exp(ΔA) S + Δ x Bᵀ``, ``y = (S C + D x) · SiLU(z)``."""
    batch, seq_len, n_heads, head_dim = x.shape
    B, C = (one.repeat_interleave(n_heads // one.shape[2], dim=2) for one in (B, C))
    weight = D if D is None or D.dim() == 2 else D[:, None]

    def step(S: Tensor, t: int) -> tuple[Tensor, Tensor]:
        size = step_size(dt[:, t], dt_bias, dt_softplus)[..., None]
        S = (size * A[:, None]).exp()[..., None] * S + (size * x[:, t])[..., None] * B[:, t, :, None, :]
        y = (S * C[:, t, :, None, :]).sum(-1)
        y = y if weight is None else y + weight * x[:, t]
        return S, y if z is None else y * silu(z[:, t])

    return loop(step, x.new_zeros(batch, n_heads, head_dim, B.shape[-1]), seq_len, **common)


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, **common: Any
) -> tuple[Tensor, Tensor]:
    """``y_t = Σ_j weight_j x_{t - kernel + 1 + j} + bias``; the state is the inputs before."""

    def step(before: Tensor, t: int) -> tuple[Tensor, Tensor]:
        seen = torch.cat([before, x[..., t, None]], dim=-1)
        y = (seen * weight).sum(-1)
        y = y if bias is None else y + bias
        return seen[..., 1:], silu(y) if activation == "silu" else y

    zero = x.new_zeros(*x.shape[:2], weight.shape[1] - 1)
    y, state = loop(step, zero, x.shape[-1], **common)
    return y.mT, state


def _matrix(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, beta: Tensor | None, scale: float | None, **common: Any
) -> tuple[Tensor, Tensor]:
    """The outer family, and with beta the delta family: a state (batch, n_heads, head_k, head_v)."""
    ratio, scale = v.shape[2] // q.shape[2], q.shape[-1] ** -0.5 if scale is None else scale
    q, k = q.repeat_interleave(ratio, dim=2), k.repeat_interleave(ratio, dim=2)
    decay = None if g is None else (g if g.dim() == 4 else g[..., None]).exp()

    def step(S: Tensor, t: int) -> tuple[Tensor, Tensor]:
        if decay is not None:
            S = decay[:, t, :, :, None] * S
        written = v[:, t] if beta is None else beta[:, t, :, None] * (v[:, t] - _read(S, k[:, t]))
        S = S + k[:, t, :, :, None] * written[:, :, None, :]
        return S, scale * _read(S, q[:, t])

    zero = v.new_zeros(v.shape[0], v.shape[2], q.shape[-1], v.shape[-1])
    return loop(step, zero, v.shape[1], **common)


def _read(S: Tensor, key: Tensor) -> Tensor:
    """Sᵀ key."""
    return (S * key[..., None]).sum(-2)
