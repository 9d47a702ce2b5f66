"""The outer family: a gated matrix state for each head. Linear attention, RetNet, GLA, Mamba-2.

Glossary: q, k, v query, key and value; g log-gate (≤ 0 to forget); S the state, (head_k, head_v) for each head.

    S = exp(g) S + k vᵀ        o = scale · Sᵀ q
"""

from __future__ import annotations

import torch
from torch import Tensor

from ngram_copy.models.ops import external, rust
from ngram_copy.models.ops.arguments import PLAIN, Checker, Lengths, Steps, steps_of, without_autocast
from ngram_copy.models.ops.backends import EXTERNAL, choose
from ngram_copy.models.ops.chunks import Mask, over_chunks
from ngram_copy.models.ops.gates import Segments, contain, gates_of


@without_autocast
def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    *,
    initial_state: Tensor | None = None,
    lengths: Lengths = None,
    padding: str = "right",
    resets: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Linear attention without a normaliser: ``S = S + k vᵀ``, ``o = scale · Sᵀ q``.

    Katharopoulos et al. 2020 (arXiv 2006.16236); shapes of fla's ``chunk_linear_attn`` with ``normalize=False``.

    Parameters
    ----------
    q, k : tensor (batch, seq_len, n_heads, head_k)
    v : tensor (batch, seq_len, n_heads, head_v)
        Its heads may be a multiple of those of q and k: head h then reads head h // ratio.
    scale : float, optional
        head_k^(-1/2) by default.
    initial_state : tensor (batch, n_heads of v, head_k, head_v), optional
    lengths, padding, resets, backend
        See :mod:`ngram_copy.models.ops`.

    Returns
    -------
    o : tensor like v
    last_state : tensor (batch, n_heads of v, head_k, head_v), float32 or float64

    Raises
    ------
    TypeError, ValueError
        If an argument, its dtype, shape or device is not allowed, or the backend named cannot run it.
    """
    return _sequence("linear_attention", q, k, v, None, scale, initial_state, lengths, padding, resets, backend)


@without_autocast
def linear_attention_step(
    state: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """One step of :func:`linear_attention`.

    Parameters
    ----------
    state : tensor (batch, n_heads of v, head_k, head_v)
    q, k : tensor (batch, n_heads, head_k)
    v : tensor (batch, n_heads, head_v)
        Its heads may be a multiple of those of q and k: head h then reads head h // ratio.
    scale : float, optional
        head_k^(-1/2) by default.
    backend : str

    Returns
    -------
    o : tensor like v
    new_state : tensor (batch, n_heads of v, head_k, head_v), float32 or float64

    Raises
    ------
    TypeError, ValueError
        If an argument, its dtype, shape or device is not allowed, or the backend named cannot run it.
    """
    if backend in {"auto", "rust"}:
        done = rust.face("linear_attention_step", state, q, k, v, scale=scale)
        if done is not None:
            return done
    return _one("linear_attention_step", state, q, k, v, None, scale, backend)


@without_autocast
def retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    *,
    initial_state: Tensor | None = None,
    lengths: Lengths = None,
    padding: str = "right",
    resets: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Retention: ``S = α S + k vᵀ``, ``o = scale · Sᵀ q`` with ``α = 1 - 2^(-5-h)`` for head h.

    Sun et al. 2023 (arXiv 2307.08621), RetNet; shapes of fla's ``chunk_retention``.

    Parameters
    ----------
    q, k : tensor (batch, seq_len, n_heads, head_k)
    v : tensor (batch, seq_len, n_heads, head_v)
        Its heads may be a multiple of those of q and k: head h then reads head h // ratio.
    scale : float, optional
        head_k^(-1/2) by default.
    initial_state : tensor (batch, n_heads of v, head_k, head_v), optional
    lengths, padding, resets, backend
        See :mod:`ngram_copy.models.ops`.

    Returns
    -------
    o : tensor like v
    last_state : tensor (batch, n_heads of v, head_k, head_v), float32 or float64

    Raises
    ------
    TypeError, ValueError
        If an argument, its dtype, shape or device is not allowed, or the backend named cannot run it.
    """
    g = retention_gate(v, 2)
    return _sequence("retention", q, k, v, g, scale, initial_state, lengths, padding, resets, backend)


@without_autocast
def retention_step(
    state: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """One step of :func:`retention`.

    Parameters
    ----------
    state : tensor (batch, n_heads of v, head_k, head_v)
    q, k : tensor (batch, n_heads, head_k)
    v : tensor (batch, n_heads, head_v)
        Its heads may be a multiple of those of q and k: head h then reads head h // ratio.
    scale : float, optional
        head_k^(-1/2) by default.
    backend : str

    Returns
    -------
    o : tensor like v
    new_state : tensor (batch, n_heads of v, head_k, head_v), float32 or float64

    Raises
    ------
    TypeError, ValueError
        If an argument, its dtype, shape or device is not allowed, or the backend named cannot run it.
    """
    if backend in {"auto", "rust"}:
        done = rust.face("retention_step", state, q, k, v, scale=scale)
        if done is not None:
            return done
    return _one("retention_step", state, q, k, v, retention_gate(v, 1), scale, backend)


@without_autocast
def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: float | None = None,
    *,
    initial_state: Tensor | None = None,
    lengths: Lengths = None,
    padding: str = "right",
    resets: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Gated linear attention: ``S = Diag(exp(g)) S + k vᵀ``, ``o = scale · Sᵀ q``.

    Yang et al. 2024 (arXiv 2312.06635); shapes of fla's ``chunk_gla``.

    Parameters
    ----------
    q, k : tensor (batch, seq_len, n_heads, head_k)
    v : tensor (batch, seq_len, n_heads, head_v)
        Its heads may be a multiple of those of q and k: head h then reads head h // ratio.
    g : tensor (batch, seq_len, n_heads of v, head_k), or without head_k for a gate that all key channels share
        Log-gates.
    scale : float, optional
        head_k^(-1/2) by default.
    initial_state : tensor (batch, n_heads of v, head_k, head_v), optional
    lengths, padding, resets, backend
        See :mod:`ngram_copy.models.ops`.

    Returns
    -------
    o : tensor like v
    last_state : tensor (batch, n_heads of v, head_k, head_v), float32 or float64

    Raises
    ------
    TypeError, ValueError
        If an argument, its dtype, shape or device is not allowed, or the backend named cannot run it.
    """
    return _sequence("gated_linear_attention", q, k, v, g, scale, initial_state, lengths, padding, resets, backend)


@without_autocast
def gated_linear_attention_step(
    state: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor, scale: float | None = None, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """One step of :func:`gated_linear_attention`.

    Parameters
    ----------
    state : tensor (batch, n_heads of v, head_k, head_v)
    q, k : tensor (batch, n_heads, head_k)
    v : tensor (batch, n_heads, head_v)
        Its heads may be a multiple of those of q and k: head h then reads head h // ratio.
    g : tensor (batch, n_heads of v, head_k) or (batch, n_heads of v)
    scale : float, optional
        head_k^(-1/2) by default.
    backend : str

    Returns
    -------
    o : tensor like v
    new_state : tensor (batch, n_heads of v, head_k, head_v), float32 or float64

    Raises
    ------
    TypeError, ValueError
        If an argument, its dtype, shape or device is not allowed, or the backend named cannot run it.
    """
    if backend in {"auto", "rust"}:
        done = rust.face("gated_linear_attention_step", state, q, k, v, g, scale=scale)
        if done is not None:
            return done
    return _one("gated_linear_attention_step", state, q, k, v, g, scale, backend)


def retention_gate(v: Tensor, dim: int) -> Tensor:
    """log(1 - 2^(-5-h)) for each head, (n_heads), in float64: near 1 the logarithm is taken before rounding."""
    head = torch.arange(v.shape[dim] if v.dim() > dim else 0, dtype=torch.float64, device=v.device)
    return torch.log1p(-torch.exp2(-5 - head))


def _sequence(
    function: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    scale: float | None,
    initial_state: Tensor | None,
    lengths: Lengths,
    padding: str,
    resets: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    check = Checker()
    check.heads(q, k, v, "batch seq_len")
    constant = g is not None and g.dim() == 1
    if g is not None and not constant:
        check.real("g", g, "batch seq_len v_heads head_k" if g.dim() == 4 else "batch seq_len v_heads")
    given = check.given_state("initial_state", initial_state, "batch v_heads head_k head_v")
    steps = steps_of(check, lengths, padding, resets)
    chosen = choose(function, backend, v, initial_state, steps)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if chosen == "rust" and check.sizes["seq_len"] > 0:
        return outer_rust(check, q, k, v, g, scale, given, steps)
    state = check.state("initial_state", initial_state, "batch v_heads head_k head_v")
    if check.sizes["seq_len"] == 0:
        return v.clone(), state.clone()
    if chosen == "fla":
        called = EXTERNAL[function].function
        if g is not None and constant:  # fla knows the gate, but would let the state fade where no step counts
            g = None if steps.active is None else g.float() * steps.active[..., None]
        if g is not None and g.dim() == 3:
            function, called = "simple_gla", "chunk_simple_gla"
        return external.fla_scan(function, called, q, k, v, g, None, scale, initial_state, steps)
    return outer_torch(q, k, v, g, scale, state, steps)


def _one(
    function: str, state: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, scale: float | None, backend: str
) -> tuple[Tensor, Tensor]:
    check = Checker()
    check.heads(q, k, v, "batch")
    constant = g is not None and g.dim() == 1
    if g is not None and not constant:
        check.real("g", g, "batch v_heads head_k" if g.dim() == 3 else "batch v_heads")
    state = check.state("state", state, "batch v_heads head_k head_v")
    chosen = choose(function, backend, v, state, PLAIN, q, k, g)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if chosen == "fla":
        gate, called = None if constant else g, EXTERNAL[function].function
        function = function.removesuffix("_step")
        if g is not None and g.dim() == 2:
            function, called = "simple_gla", "fused_recurrent_simple_gla"
        return external.fla_step(function, called, state, q, k, v, gate, None, scale)
    if chosen == "rust":
        gate = g if g is None or constant else g[:, None]
        o, state = outer_rust(check, q[:, None], k[:, None], v[:, None], gate, scale, state, PLAIN)
        return o[:, 0], state
    return outer_step(state, q, k, v, g, scale)


def outer_rust(
    check: Checker, q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, scale: float, state: Tensor | None, steps: Steps
) -> tuple[Tensor, Tensor]:
    """The Rust backend of the family; arguments as :func:`outer_torch`."""
    o, last_state = rust.call("outer", check.cast(q, k, v, g), [float(scale)], state, steps)
    return o.to(v.dtype), last_state


def outer_step(state: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """One step in torch: q, k (batch, heads of keys, head_k), v (batch, heads, head_v), g as in the state or less."""
    dtype, ratio = state.dtype, v.shape[1] // q.shape[1]
    q, k = (one.to(dtype).repeat_interleave(ratio, dim=1) for one in (q, k))
    if g is not None:
        decay = g.to(dtype).exp()
        state = state * (decay[..., None] if g.dim() == 3 else decay[..., None, None])
    state = state + k[..., None] * v.to(dtype)[..., None, :]
    return (scale * q[..., None, :] @ state)[..., 0, :].to(v.dtype), state


def outer_torch(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, scale: float, state: Tensor, steps: Steps
) -> tuple[Tensor, Tensor]:
    """The torch backend of the family.

    Parameters
    ----------
    q, k : tensor (batch, seq_len, heads of keys, head_k)
    v : tensor (batch, seq_len, heads, head_v)
    g : tensor (batch, seq_len, heads), (batch, seq_len, heads, head_k), or (heads) if constant, or None
    scale : float
    state : tensor (batch, heads, head_k, head_v)
    steps : Steps

    Returns
    -------
    o : tensor like v
    last_state : tensor like state
    """
    constant = g is not None and g.dim() == 1

    def body(
        state: Tensor, mask: Mask, q: Tensor, k: Tensor, v: Tensor, g_chunk: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if constant:
            g_chunk = constant_gate(g, v, mask)
        return outer_chunk(state, mask, q, k, v, g_chunk, scale)

    return over_chunks(body, state, (q, k, v, None if constant else g), steps, state.dtype, v.dtype)


def constant_gate(g: Tensor | None, v: Tensor, mask: Mask) -> Tensor:
    """Spread a gate (heads) over a chunk; steps that do not count keep the state."""
    assert g is not None
    spread = g.to(v.dtype).expand(1, v.shape[1], -1)
    return spread if mask.active is None else spread * mask.active[..., None]


def outer_chunk(
    state: Tensor, mask: Mask, q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """A chunk: what its steps see of each other, and what they see of the state before it."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (batch, heads, chunk, head dim)
    segments = Segments(mask.resets, v.shape[2], v.device)
    chunk = contain(segments, state, k, v, None if g is None else g.transpose(1, 2), None)
    gates = gates_of(chunk.g, segments, v.shape[1])
    o = gates.scores(q, chunk.k) @ chunk.v + gates.from_start(q) @ chunk.state
    state = gates.carry(chunk.state) + gates.to_end(chunk.k).mT @ chunk.v
    return state * chunk.poison[:, :, -1:], (scale * o * chunk.poison).transpose(1, 2)
