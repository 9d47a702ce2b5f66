"""Calls of fla-core and mamba-ssm, after their signatures (fla-core 0.6.0, mamba-ssm 2.2).

None of these has ever run on a GPU here: the tests hold the calls against stand-ins. Both packages are imported when
they are first called.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from ngram_copy.models.ops.arguments import PLAIN, Steps
from ngram_copy.models.ops.chunks import hide
from ngram_copy.models.ops.diagonal import step_size

_FLA = {
    "linear_attention": "linear_attn",
    "retention": "retention",
    "simple_gla": "simple_gla",
    "gated_linear_attention": "gla",
    "delta_rule": "delta_rule",
    "gated_delta_rule": "gated_delta_rule",
    "kimi_delta_attention": "kda",
}
"""Function → module under ``fla.ops``."""


def fla_scan(
    function: str,
    called: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor | None,
    scale: float,
    state: Tensor | None,
    steps: Steps,
) -> tuple[Tensor, Tensor]:
    """Call a whole-sequence or a recurrent function of fla; shapes are [batch, time, heads, …] throughout.

    Padding reaches it as zeros: no key, no value, no gate, no beta, so the state stays. The state is float32.
    """
    if steps.active is not None:
        q, k, v = hide(q, steps.active), hide(k, steps.active), hide(v, steps.active)
        g = None if g is None else hide(g, steps.active)
        beta = None if beta is None else hide(beta, steps.active)
    if function not in {"gated_delta_rule", "kimi_delta_attention"} and v.shape[2] != q.shape[2]:
        ratio = v.shape[2] // q.shape[2]  # these take as many heads of keys as of values
        q, k = q.repeat_interleave(ratio, dim=2), k.repeat_interleave(ratio, dim=2)
    dtype = v.dtype
    options: dict[str, Any] = {
        "scale": scale,
        "initial_state": None if state is None else state.float(),
        "output_final_state": True,
    }
    if g is not None:
        options["gk" if called == "fused_recurrent_gla" else "g"] = g
    if beta is not None:
        options["beta"] = beta.to(dtype)
    if function == "linear_attention":
        options["normalize"] = False
    module = importlib.import_module(f"fla.ops.{_FLA[function]}")
    o, last_state = getattr(module, called)(q.to(dtype), k.to(dtype), v, **options)
    return o.to(dtype) if steps.active is None else hide(o.to(dtype), steps.active), last_state


def fla_step(
    function: str,
    called: str,
    state: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """One token, by a recurrent function over a sequence of one."""
    g, beta = (None if one is None else one[:, None] for one in (g, beta))
    o, state = fla_scan(function, called, q[:, None], k[:, None], v[:, None], g, beta, scale, state, PLAIN)
    return o[:, 0], state


class _ValueOnly(torch.autograd.Function):
    """Hands a tensor on whose gradient its producer would drop: whoever asks for it is told."""

    @staticmethod
    def forward(ctx: Any, state: Tensor, source: Tensor) -> Tensor:
        return state.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        raise RuntimeError(
            "mamba_ssm's selective_scan_fn gives no gradient of last_state: use backend='torch', or last_state.detach()"
        )


def mamba_selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    steps: Steps,
) -> tuple[Tensor, Tensor]:
    """mamba_ssm's ``selective_scan_fn``: B and C (batch, n_groups, d_state, seq_len), parameters in float32."""
    if steps.active is not None:
        active = steps.active
        u, delta, B, C = (hide(tensor.movedim(-1, 1), active).movedim(1, -1) for tensor in (u, delta, B, C))
        z = None if z is None else hide(z.mT, active).mT
        delta = step_size(delta.mT.float(), delta_bias, delta_softplus, active).mT.to(u.dtype)
        delta_bias, delta_softplus = None, False
    function = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    y, last_state = function(
        u,
        delta.to(u.dtype),
        A.float(),
        B.to(u.dtype),
        C.to(u.dtype),
        D=None if D is None else D.float(),
        z=None if z is None else z.to(u.dtype),
        delta_bias=None if delta_bias is None else delta_bias.float(),
        delta_softplus=delta_softplus,
        return_last_state=True,
    )
    if steps.active is not None:
        y = hide(y.mT, steps.active).mT
    return y, _ValueOnly.apply(last_state, y) if y.requires_grad else last_state.clone()


def mamba_state_update(
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
    """mamba_ssm's ``selective_state_update``, which writes the state in place: it is given a copy.

    state (batch, n_heads, head_dim, d_state), x, z, dt (batch, n_heads, head_dim), A (n_heads, head_dim, d_state), B, C
    (batch, n_groups, d_state), D, dt_bias (n_heads, head_dim). Mamba has a head for each group.
    """
    function = importlib.import_module("mamba_ssm.ops.triton.selective_state_update").selective_state_update
    new_state = state.clone()
    y = function(new_state, x, dt, A, B, C, D=D, z=z, dt_bias=dt_bias, dt_softplus=dt_softplus)
    return y, new_state


def mamba2_scan(
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
    chunk_size: int = 256,
) -> tuple[Tensor, Tensor]:
    """mamba_ssm's ``mamba_chunk_scan_combined``; arguments in its shapes."""
    if steps.active is not None:
        active = steps.active
        x, dt, B, C = (hide(tensor, active) for tensor in (x, dt, B, C))
        z = None if z is None else hide(z, active)
        dt = step_size(dt.float(), dt_bias, dt_softplus, active)
        dt_bias, dt_softplus = None, False
    function = importlib.import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
    y, last_state = function(
        x,
        dt,
        A.float(),
        B.to(x.dtype),
        C.to(x.dtype),
        chunk_size,
        D=D,
        z=None if z is None else z.to(x.dtype),
        dt_bias=dt_bias,
        initial_states=state,
        dt_softplus=dt_softplus,
        return_final_states=True,
    )
    return y if steps.active is None else hide(y, steps.active), last_state
