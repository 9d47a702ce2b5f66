"""Mamba-2 (SSD), of the outer family: C reads as q, B is written as k, Δ x as v, and ΔA is the log-gate of a head.

Glossary: x input; dt step size Δ before bias and softplus; A a rate for each head (negative); B, C what is written and
read, of n_groups heads; D weight of the input in the output; z gate; S the state, (head_dim, d_state) for each head.

    S = exp(ΔA) S + Δ x Bᵀ        y = (S C + D x) · SiLU(z)
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import silu

from ngram_copy.models.ops import external, rust
from ngram_copy.models.ops.arguments import PLAIN, Checker, Lengths, Steps, steps_of, without_autocast
from ngram_copy.models.ops.backends import choose
from ngram_copy.models.ops.chunks import Mask, hide, over_chunks
from ngram_copy.models.ops.diagonal import step_size
from ngram_copy.models.ops.outer import outer_chunk, outer_rust, outer_step


@without_autocast
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
    *,
    initial_state: Tensor | None = None,
    lengths: Lengths = None,
    padding: str = "right",
    resets: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Mamba-2: ``S = exp(ΔA) S + Δ x Bᵀ``, ``y = S C + D x``, then ``y · SiLU(z)``.

    Dao and Gu 2024 (arXiv 2405.21060); shapes of mamba's ``mamba_chunk_scan_combined``.

    Parameters
    ----------
    x : tensor (batch, seq_len, n_heads, head_dim)
    dt : tensor (batch, seq_len, n_heads)
    A : tensor (n_heads)
    B, C : tensor (batch, seq_len, n_groups, d_state)
    D : tensor (n_heads) or (n_heads, head_dim), optional
    z : tensor (batch, seq_len, n_heads, head_dim), optional
    dt_bias : tensor (n_heads), optional
    dt_softplus : bool
        Whether Δ = softplus(dt + dt_bias), not dt + dt_bias.
    initial_state : tensor (batch, n_heads, head_dim, d_state), optional
    lengths, padding, resets, backend
        See :mod:`ngram_copy.models.ops`.

    Returns
    -------
    y : tensor (batch, seq_len, n_heads, head_dim), of x's dtype
    last_state : tensor (batch, n_heads, head_dim, d_state), float32 or float64

    Raises
    ------
    TypeError, ValueError
        If an argument, its dtype, shape or device is not allowed, or the backend named cannot run it.
    """
    check = Checker()
    check.real("x", x, "batch seq_len n_heads head_dim")
    check.real("dt", dt, "batch seq_len n_heads")
    check.real("A", A, "n_heads")
    check.real("B", B, "batch seq_len n_groups d_state")
    check.real("C", C, "batch seq_len n_groups d_state")
    check.multiple("B", "n_heads", "n_groups")
    D = _weight(check, D)
    check.optional("z", z, "batch seq_len n_heads head_dim")
    check.optional("dt_bias", dt_bias, "n_heads")
    given = check.given_state("initial_state", initial_state, "batch n_heads head_dim d_state")
    steps = steps_of(check, lengths, padding, resets)
    chosen = choose("mamba2_scan", backend, x, initial_state, steps)
    if chosen == "rust" and check.sizes["seq_len"] > 0:
        return _rust(check, x, dt, A, B, C, D, z, dt_bias, dt_softplus, given, steps)
    state = check.state("initial_state", initial_state, "batch n_heads head_dim d_state")
    if check.sizes["seq_len"] == 0:
        return x.clone(), state.clone()
    if chosen == "mamba_ssm":
        return external.mamba2_scan(x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state, steps)
    return _scan(x, dt, A, B, C, D, z, dt_bias, dt_softplus, state, steps)


@without_autocast
def mamba2_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One step of :func:`mamba2_scan`.

    Parameters
    ----------
    state : tensor (batch, n_heads, head_dim, d_state)
    x : tensor (batch, n_heads, head_dim)
    dt : tensor (batch, n_heads)
    A : tensor (n_heads)
    B, C : tensor (batch, n_groups, d_state)
    D : tensor (n_heads) or (n_heads, head_dim), optional
    z : tensor (batch, n_heads, head_dim), optional
    dt_bias : tensor (n_heads), optional
    dt_softplus : bool
    backend : str

    Returns
    -------
    y : tensor (batch, n_heads, head_dim), of x's dtype
    new_state : tensor (batch, n_heads, head_dim, d_state), float32 or float64

    Raises
    ------
    TypeError, ValueError
        If an argument, its dtype, shape or device is not allowed, or the backend named cannot run it.
    """
    if backend in {"auto", "rust"}:
        done = rust.face("mamba2_state_update", state, x, dt, A, B, C, D, z, dt_bias, dt_softplus=dt_softplus)
        if done is not None:
            return done
    check = Checker()
    check.real("x", x, "batch n_heads head_dim")
    check.real("dt", dt, "batch n_heads")
    check.real("A", A, "n_heads")
    check.real("B", B, "batch n_groups d_state")
    check.real("C", C, "batch n_groups d_state")
    check.multiple("B", "n_heads", "n_groups")
    D = _weight(check, D)
    check.optional("z", z, "batch n_heads head_dim")
    check.optional("dt_bias", dt_bias, "n_heads")
    state = check.state("state", state, "batch n_heads head_dim d_state")
    chosen = choose("mamba2_state_update", backend, x, state, PLAIN, x, dt, A, B, C, D, z, dt_bias)
    if chosen == "mamba_ssm":  # rates, steps and biases for each channel, spread without a copy
        heads, width, d_state = state.shape[1:]
        wide_dt = dt[..., None].expand(*dt.shape, width)
        rates = A.float()[:, None, None].expand(heads, width, d_state)
        weight = None if D is None else D.expand(heads, width)
        bias = None if dt_bias is None else dt_bias[:, None].expand(heads, width)
        return external.mamba_state_update(state, x, wide_dt, rates, B, C, weight, z, bias, dt_softplus)
    if chosen == "rust":
        last = None if z is None else z[:, None]
        y, state = _rust(
            check, x[:, None], dt[:, None], A, B[:, None], C[:, None], D, last, dt_bias, dt_softplus, state, PLAIN
        )
        return y[:, 0], state
    dtype = state.dtype
    wide = x.to(dtype)
    step = step_size(dt.to(dtype), dt_bias, dt_softplus, None)
    o, new_state = outer_step(state.mT, C, B, step[..., None] * wide, step * A.to(dtype), 1.0)
    return _output(o, wide, D, None if z is None else z.to(dtype)).to(x.dtype), new_state.mT


def _weight(check: Checker, D: Tensor | None) -> Tensor | None:
    """D as (n_heads, 1) or (n_heads, head_dim)."""
    if D is None or D.dim() != 1:
        check.optional("D", D, "n_heads head_dim")
        return D
    check.real("D", D, "n_heads")
    return D[:, None]


def _output(o: Tensor, x: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    y = o if D is None else o + D.to(o.dtype) * x
    return y if z is None else y * silu(z)


def _rust(
    check: Checker,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state: Tensor | None,
    steps: Steps,
) -> tuple[Tensor, Tensor]:
    dtype, active = check.dtype, steps.active
    x_wide, dt = x.to(dtype), dt.to(dtype)
    if active is not None:
        x_wide, dt, z = hide(x_wide, active), hide(dt, active), None if z is None else hide(z, active)
    step = step_size(dt, dt_bias, dt_softplus, active)
    v, g = step[..., None] * x_wide, step * A.to(dtype)
    o, last_state = outer_rust(check, C, B, v, g, 1.0, None if state is None else state.mT, steps)
    y = _output(o, x_wide, D, None if z is None else z.to(dtype))
    return (y if active is None else hide(y, active)).to(x.dtype), last_state.mT


def _scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    state: Tensor,
    steps: Steps,
) -> tuple[Tensor, Tensor]:
    """The torch backend; D is (n_heads, 1 or head_dim)."""

    def body(
        state: Tensor, mask: Mask, x: Tensor, dt: Tensor, B: Tensor, C: Tensor, z: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        step = step_size(dt, dt_bias, dt_softplus, mask.active)
        state, o = outer_chunk(state, mask, C, B, step[..., None] * x, step * A.to(step.dtype), 1.0)
        return state, _output(o, x, D, z)

    y, state = over_chunks(body, state.mT, (x, dt, B, C, z), steps, state.dtype, x.dtype)
    return y, state.mT
