"""Mamba's selective scan, of the diagonal family.

Glossary: u input; delta step size Δ before bias and softplus; A rates (negative); B, C weights of the input and of the
output, which differ from step to step; D weight of the input in the output; z gate; h the state.

    h = exp(ΔA) h + Δ B u        y = (C · h + D u) · SiLU(z)
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from ngram_copy.models.ops import external, rust
from ngram_copy.models.ops.arguments import PLAIN, Checker, Lengths, Steps, steps_of, without_autocast
from ngram_copy.models.ops.backends import choose
from ngram_copy.models.ops.chunks import Mask, last, over_chunks, scan
from ngram_copy.models.ops.diagonal import step_size


@without_autocast
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
    *,
    initial_state: Tensor | None = None,
    lengths: Lengths = None,
    padding: str = "right",
    resets: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Mamba's scan: ``h = exp(ΔA) h + Δ B u``, ``y = C · h + D u``, then ``y · SiLU(z)``.

    Gu and Dao 2023 (arXiv 2312.00752), algorithm 2; shapes of mamba's ``selective_scan_ref``.

    Parameters
    ----------
    u, delta : tensor (batch, d_model, seq_len)
    A : tensor (d_model, d_state)
    B, C : tensor (batch, d_state, seq_len) or (batch, n_groups, d_state, seq_len)
    D, delta_bias : tensor (d_model), optional
    z : tensor (batch, d_model, seq_len), optional
    delta_softplus : bool
        Whether Δ = softplus(delta + delta_bias), not delta + delta_bias.
    initial_state : tensor (batch, d_model, d_state), optional
    lengths, padding, resets, backend
        See :mod:`ngram_copy.models.ops`.

    Returns
    -------
    y : tensor (batch, d_model, seq_len), of u's dtype
    last_state : tensor (batch, d_model, d_state), float32 or float64
        mamba_ssm gives it no gradient: where one is asked for, RuntimeError is raised.

    Raises
    ------
    TypeError, ValueError
        If an argument, its dtype, shape or device is not allowed, or the backend named cannot run it.
    """
    check = Checker()
    check.real("u", u, "batch d_model seq_len")
    check.real("delta", delta, "batch d_model seq_len")
    check.real("A", A, "d_model d_state")
    B = check.grouped("B", B, "batch d_state seq_len")
    C = check.grouped("C", C, "batch d_state seq_len")
    check.multiple("B", "d_model", "n_groups")
    check.optional("D", D, "d_model")
    check.optional("z", z, "batch d_model seq_len")
    check.optional("delta_bias", delta_bias, "d_model")
    given = check.given_state("initial_state", initial_state, "batch d_model d_state")
    steps = steps_of(check, lengths, padding, resets)
    chosen = choose("selective_scan", backend, u, initial_state, steps)
    if chosen == "rust" and check.sizes["seq_len"] > 0:
        arrays = check.cast(u, delta, A, B, C, D, z, delta_bias)
        y, last_state = rust.call("selective_scan", arrays, [delta_softplus], given, steps)
        return y.to(u.dtype), last_state
    state = check.state("initial_state", initial_state, "batch d_model d_state")
    if check.sizes["seq_len"] == 0:
        return u.clone(), state.clone()
    if chosen == "mamba_ssm":
        return external.mamba_selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, steps)
    return _scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, state, steps)


def selective_state_update(
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
    """One step of :func:`selective_scan`; unlike mamba's function of this name it leaves ``state`` as it is.

    Parameters
    ----------
    state : tensor (batch, d_model, d_state)
    x, dt : tensor (batch, d_model)
    A : tensor (d_model, d_state)
    B, C : tensor (batch, d_state) or (batch, n_groups, d_state)
    D, dt_bias : tensor (d_model), optional
    z : tensor (batch, d_model), optional
    dt_softplus : bool
    backend : str

    Returns
    -------
    y : tensor (batch, d_model), of x's dtype
    new_state : tensor (batch, d_model, d_state), float32 or float64

    Raises
    ------
    TypeError, ValueError
        As :func:`selective_scan`.
    """
    if backend in {"auto", "rust"}:
        done = rust.selective_step(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
        if done is not None:
            return done
    return _update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, backend)


@without_autocast
def _update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Any step, checked."""
    check = Checker()
    check.real("x", x, "batch d_model")
    check.real("dt", dt, "batch d_model")
    check.real("A", A, "d_model d_state")
    B = check.grouped("B", B, "batch d_state")
    C = check.grouped("C", C, "batch d_state")
    groups = check.sizes["n_groups"]
    check.multiple("B", "d_model", "n_groups")
    check.optional("D", D, "d_model")
    check.optional("z", z, "batch d_model")
    check.optional("dt_bias", dt_bias, "d_model")
    state = check.state("state", state, "batch d_model d_state")
    chosen = choose("selective_state_update", backend, x, state, PLAIN, x, dt, A, B, C, D, z, dt_bias)
    if chosen == "rust":
        last = None if z is None else z[..., None]
        wide = check.cast(x[..., None], dt[..., None], A, B[..., None], C[..., None], D, last, dt_bias)
        y, state = rust.call("selective_scan", wide, [dt_softplus], state, PLAIN)
        return y[..., 0].to(x.dtype), state
    if chosen == "mamba_ssm":  # which has no groups without heads: each group is a head
        y, state = external.mamba_state_update(
            _heads(state, 1, groups),
            _heads(x, 1, groups),
            _heads(dt, 1, groups),
            _heads(A, 0, groups),
            B,
            C,
            None if D is None else _heads(D, 0, groups),
            None if z is None else _heads(z, 1, groups),
            None if dt_bias is None else _heads(dt_bias, 0, groups),
            dt_softplus,
        )
        return y.flatten(1), state.flatten(1, 2)
    return _step(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)


def _heads(tensor: Tensor, dim: int, groups: int) -> Tensor:
    """Split d_model into (n_groups, d_model / n_groups)."""
    return torch.unflatten(tensor, dim, (groups, -1))


def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    state: Tensor,
    steps: Steps,
) -> tuple[Tensor, Tensor]:
    """The torch backend; B and C have groups."""
    groups = B.shape[1]

    def body(
        state: Tensor, mask: Mask, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, z: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        # u, delta, z (batch, chunk, d_model); B, C (batch, chunk, n_groups, d_state); state (batch, d_model, d_state)
        dt = step_size(delta, delta_bias, delta_softplus, mask.active)
        a = (dt[..., None] * A.to(dt.dtype)).exp()
        x = (torch.unflatten(dt * u, -1, (groups, -1))[..., None] * B[..., None, :]).flatten(2, 3)
        states = scan(a, x, state, mask.resets)
        y = (torch.unflatten(states, 2, (groups, -1)) @ C[..., None]).flatten(2)
        if D is not None:
            y = y + D.to(y.dtype) * u
        if z is not None:
            y = y * silu(z)
        return last(states), y

    by_time = (u.mT, delta.mT, B.movedim(-1, 1), C.movedim(-1, 1), None if z is None else z.mT)
    y, state = over_chunks(body, state, by_time, steps, state.dtype, u.dtype)
    return y.mT, state


def _step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """A step in torch; B and C have groups."""
    groups, dtype = B.shape[1], state.dtype
    wide = x.to(dtype)
    dt = step_size(dt.to(dtype), dt_bias, dt_softplus, None)
    grouped = torch.unflatten(dt * wide, -1, (groups, -1))[..., None] * B[:, :, None].to(dtype)
    state = (dt[..., None] * A.to(dtype)).exp() * state + grouped.flatten(1, 2)
    y = (torch.unflatten(state, 1, (groups, -1)) @ C[..., None].to(dtype)).flatten(1)
    if D is not None:
        y = y + D.to(dtype) * wide
    if z is not None:
        y = y * silu(z.to(dtype))
    return y.to(x.dtype), state
