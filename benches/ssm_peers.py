"""What the recurrences are timed against: functions of transformers and fla-core, loops and scans in torch, JAX's scan.

Each takes the arrays of its case, in the order of ``INPUTS``, and gives the output alone; all compute the same, which
``make bench-ssm`` checks before it times them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

INPUTS = {
    "selective_scan": ("u", "delta", "A", "B", "C", "D"),
    "mamba2_scan": ("x", "dt", "A", "B", "C", "D"),
    "s4d_scan": ("u", "A", "log_dt", "B", "C", "D"),
    "lru_scan": ("u", "nu_log", "theta_log", "B", "C", "D"),
    "rg_lru": ("x", "gate_r", "gate_i", "Lambda"),
    "linear_scan": ("a", "x"),
    "linear_attention": ("q", "k", "v"),
    "retention": ("q", "k", "v"),
    "gated_linear_attention": ("q", "k", "v", "g"),
    "delta_rule": ("q", "k", "v", "beta"),
    "gated_delta_rule": ("q", "k", "v", "g", "beta"),
    "kimi_delta_attention": ("q", "k", "v", "g", "beta"),
    "causal_conv1d": ("x", "weight", "bias"),
    "mamba_step": ("conv_state", "state", "x", "weight", "bias", "dt", "A", "B", "C", "D", "z"),
}
"""The arguments of each recurrence; step sizes go through softplus. ``mamba_step`` is a layer's convolution and state
update for one token."""

OPTIONS: dict[str, dict[str, Any]] = {
    "selective_scan": {"delta_softplus": True},
    "mamba2_scan": {"dt_softplus": True},
    "causal_conv1d": {"activation": "silu"},
}
"""What else each is called with."""
Function = Callable[..., Any]


def ours(recurrence: str) -> Function:
    """Make our function on torch tensors, by the Rust core."""
    from ngram_copy.models import ops

    if recurrence == "mamba_step":

        def step(conv_state: Any, state: Any, x: Any, weight: Any, bias: Any, dt: Any, *rest: Any) -> Any:
            A, B, C, D, z = rest
            x, conv_state = ops.causal_conv1d_update(conv_state, x, weight, bias, "silu")
            return ops.selective_state_update(state, x, dt, A, B, C, D, z, dt_softplus=True)[0]

        return step
    function = getattr(ops, recurrence)
    names, options = INPUTS[recurrence], OPTIONS.get(recurrence, {})
    return lambda *arrays: function(**dict(zip(names, arrays, strict=True)), **options, backend="rust")[0]


# --- torch: loops and scans -------------------------------------------------------------------------------


def selective_loop(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any) -> Any:
    """Loop over steps after mamba's ``selective_scan_ref``, with unbind: indexing makes the backward quadratic."""
    import torch

    delta = torch.nn.functional.softplus(delta)
    decays = torch.exp(delta[..., None] * A[:, None]).unbind(2)
    inputs = ((delta * u)[..., None] * B.transpose(1, 2)[:, None]).unbind(2)
    h, outputs = torch.zeros_like(inputs[0]), []
    for decay, x, c in zip(decays, inputs, C.unbind(2), strict=True):
        h = decay * h + x
        outputs.append((h * c[:, None]).sum(-1))
    return torch.stack(outputs, 2) + D[:, None] * u


def _states(decays: Any, inputs: Any) -> Any:
    """All states along dimension 1, by pairs of steps: work linear in their number, depth logarithmic."""
    import torch

    if decays.shape[1] == 1:
        return inputs
    even = decays.shape[1] // 2 * 2
    (a, b), (x, y) = ((t[:, :even:2], t[:, 1:even:2]) for t in (decays, inputs))
    odd = _states(a * b, b * x + y)
    later = decays[:, 2::2] * odd[:, : (decays.shape[1] - 1) // 2] + inputs[:, 2::2]
    states = torch.empty_like(inputs)
    return states.index_copy(1, torch.arange(0, decays.shape[1], 2), torch.cat([inputs[:, :1], later], 1)).index_copy(
        1, torch.arange(1, even, 2), odd
    )


def selective_parallel(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any) -> Any:
    """Scan in parallel, as mamba.py does on a CPU."""
    import torch

    u, delta = u.transpose(1, 2), torch.nn.functional.softplus(delta).transpose(1, 2)
    inputs = (delta * u)[..., None] * B.transpose(1, 2)[:, :, None]
    states = _states(torch.exp(delta[..., None] * A), inputs)
    return ((states @ C.transpose(1, 2)[..., None])[..., 0] + D * u).transpose(1, 2)


# --- torch: what is a convolution -------------------------------------------------------------------------


def convolution(recurrence: str) -> Function:
    """Make S4D by FFT, with the kernel that its modes make, or torch's own grouped convolution."""
    import torch
    from torch.nn import functional

    def by_fft(u: Any, A: Any, log_dt: Any, B: Any, C: Any, D: Any) -> Any:
        seq_len = u.shape[-1]
        rates = log_dt.exp()[:, None] * A
        powers = torch.exp(rates[..., None] * torch.arange(seq_len))
        kernel = 2 * torch.einsum("dn,dnl->dl", C * B * (torch.exp(rates) - 1) / A, powers).real
        y = torch.fft.irfft(torch.fft.rfft(u, 2 * seq_len) * torch.fft.rfft(kernel, 2 * seq_len), 2 * seq_len)
        return y[..., :seq_len] + D[:, None] * u

    def grouped(x: Any, weight: Any, bias: Any) -> Any:
        channels, taps = weight.shape
        y = functional.conv1d(x, weight[:, None], bias, padding=taps - 1, groups=channels)
        return functional.silu(y[..., : x.shape[-1]])

    return by_fft if recurrence == "s4d_scan" else grouped


# --- transformers -----------------------------------------------------------------------------------------


def transformers(recurrence: str) -> Function:
    """Make the function of transformers."""
    from peers import transformers_function

    if recurrence == "selective_scan":
        scan = transformers_function("mamba", "mamba_selective_scan")
        return lambda *arrays: scan(*arrays, delta_softplus=True)
    if recurrence == "mamba2_scan":
        chunks = transformers_function("mamba2", "mamba2_chunk_scan")
        return lambda x, dt, A, B, C, D: chunks(x, dt, A, B, C, 64, D=D, dt_softplus=True)
    if recurrence == "gated_delta_rule":
        rule = transformers_function("qwen3_next", "torch_chunk_gated_delta_rule")
        return lambda *arrays: rule(*arrays)[0]
    convolution = transformers_function("mamba", "causal_conv1d_update")
    update = transformers_function("mamba", "mamba_selective_state_update")

    def step(conv_state: Any, state: Any, x: Any, weight: Any, bias: Any, dt: Any, *rest: Any) -> Any:
        A, B, C, D, z = rest
        x = convolution(x[..., None], conv_state, weight, bias, "silu")[..., 0]
        return update(state, x, dt, A, B, C, D, dt_softplus=True, z=z)

    return step


# --- fla-core's naive modules -----------------------------------------------------------------------------


def fla(recurrence: str) -> Function:
    """Make the plain torch code of fla-core."""
    from peers import fla_naive

    if recurrence == "gated_linear_attention":
        return lambda *arrays: fla_naive("gla").naive_recurrent_gla(*arrays)[0]
    if recurrence == "linear_attention":
        return lambda *arrays: fla_naive("linear_attn").naive_chunk_linear_attn(*arrays)
    if recurrence == "retention":
        return lambda *arrays: (
            fla_naive("retention").naive_retention(*(x.transpose(1, 2) for x in arrays)).transpose(1, 2)
        )
    if recurrence == "kimi_delta_attention":
        return lambda *arrays: fla_naive("kda").naive_chunk_kda(*arrays)[0]
    if recurrence == "delta_rule":
        chunks = fla_naive("delta_rule").delta_rule_chunkwise
        return lambda *arrays: chunks(*(x.transpose(1, 2) for x in arrays), chunk_size=64)[0].transpose(1, 2)
    rule = fla_naive("gated_delta_rule").naive_recurrent_gated_delta_rule
    return lambda q, k, v, g, beta: rule(q, k, v, beta, g)[0]


# --- JAX --------------------------------------------------------------------------------------------------


def jax_scan(recurrence: str) -> Function:
    """Make a ``lax.scan`` over steps, to be compiled."""
    import jax
    import jax.numpy as jnp

    if recurrence == "selective_scan":

        def selective(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any) -> Any:
            delta = jax.nn.softplus(delta)

            def step(h: Any, now: Any) -> Any:
                u, delta, B, C = now
                h = jnp.exp(delta[..., None] * A) * h + (delta * u)[..., None] * B[:, None]
                return h, (h * C[:, None]).sum(-1)

            steps = tuple(jnp.moveaxis(x, -1, 0) for x in (u, delta, B, C))
            h = jnp.zeros((u.shape[0], *A.shape), u.dtype)
            return jnp.moveaxis(jax.lax.scan(step, h, steps)[1], 0, -1) + D[:, None] * u

        return selective

    def states(a: Any, x: Any) -> Any:
        def step(h: Any, now: Any) -> Any:
            h = now[0] * h + now[1]
            return h, h

        return jax.lax.scan(step, jnp.zeros_like(x[:, 0]), (a.swapaxes(0, 1), x.swapaxes(0, 1)))[1].swapaxes(0, 1)

    if recurrence == "linear_scan":
        return states

    if recurrence == "lru_scan":

        def lru(u: Any, nu_log: Any, theta_log: Any, B: Any, C: Any, D: Any) -> Any:
            decay = jnp.exp(-jnp.exp(nu_log) + 1j * jnp.exp(theta_log))
            of_u = (jnp.sqrt(1 - jnp.abs(decay) ** 2)[:, None] * B).T
            inputs = (u @ of_u.real + 1j * (u @ of_u.imag)).swapaxes(0, 1)  # real products, as ours are

            def step(h: Any, x: Any) -> Any:
                h = decay * h + x
                return h, h

            h = jax.lax.scan(step, jnp.zeros_like(inputs[0]), inputs)[1].swapaxes(0, 1)
            return h.real @ C.real.T - h.imag @ C.imag.T + D * u

        return lru

    if recurrence == "rg_lru":

        def rg_lru(x: Any, gate_r: Any, gate_i: Any, Lambda: Any) -> Any:
            log_a = -8.0 * gate_r * jax.nn.softplus(Lambda)
            return states(jnp.exp(log_a), jnp.sqrt(-jnp.expm1(2 * log_a)) * gate_i * x)

        return rg_lru

    def attention(q: Any, k: Any, v: Any, *rest: Any) -> Any:
        def step(S: Any, now: Any) -> Any:
            q, k, v, *rest = now
            if recurrence == "gated_linear_attention":
                S = jnp.exp(rest[0])[..., None] * S
                u = v
            else:
                S = jnp.exp(rest[0])[..., None, None] * S
                u = rest[1][..., None] * (v - jnp.einsum("bhkv,bhk->bhv", S, k))
            S = S + k[..., None] * u[..., None, :]
            return S, q.shape[-1] ** -0.5 * jnp.einsum("bhkv,bhk->bhv", S, q)

        batch, _, heads, head_k = q.shape
        S = jnp.zeros((batch, heads, head_k, v.shape[-1]), v.dtype)
        return jax.lax.scan(step, S, tuple(x.swapaxes(0, 1) for x in (q, k, v, *rest)))[1].swapaxes(0, 1)

    return attention


TORCH = {
    "ngram-copy": ours,
    "torch loop (unbind)": lambda _: selective_loop,
    "torch parallel scan": lambda _: selective_parallel,
    "torch convolution": convolution,
    "transformers": transformers,
    "fla-core naive": fla,
}
JAX = "JAX lax.scan"
