"""The delta family: what a key held is erased, then written. DeltaNet, Gated DeltaNet, Kimi Delta Attention.

Glossary: q, k, v query, key and value; g log-gate (≤ 0 to forget); beta how much is written; S the state, (head_k,
head_v) for each head.

    S = exp(g) S        u = beta (v - Sᵀ k)        S = S + k uᵀ        o = scale · Sᵀ q
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
def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    scale: float | None = None,
    *,
    initial_state: Tensor | None = None,
    lengths: Lengths = None,
    padding: str = "right",
    resets: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """DeltaNet: ``u = beta (v - Sᵀ k)``, ``S = S + k uᵀ``, ``o = scale · Sᵀ q``. Keys are not normalised here.

    Schlag et al. 2021 (arXiv 2102.11174), Yang et al. 2024 (arXiv 2406.06484); shapes of fla's ``chunk_delta_rule``.

    Parameters
    ----------
    q, k : tensor (batch, seq_len, n_heads, head_k)
    v : tensor (batch, seq_len, n_heads, head_v)
        Its heads may be a multiple of those of q and k: head h then reads head h // ratio.
    beta : tensor (batch, seq_len, n_heads of v)
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
    return _sequence("delta_rule", q, k, v, None, beta, scale, initial_state, lengths, padding, resets, backend)


@without_autocast
def delta_rule_step(
    state: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    scale: float | None = None,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One step of :func:`delta_rule`.

    Parameters
    ----------
    state : tensor (batch, n_heads of v, head_k, head_v)
    q, k : tensor (batch, n_heads, head_k)
    v : tensor (batch, n_heads, head_v)
        Its heads may be a multiple of those of q and k: head h then reads head h // ratio.
    beta : tensor (batch, n_heads of v)
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
        done = rust.face("delta_rule_step", state, q, k, v, beta, scale=scale)
        if done is not None:
            return done
    return _one("delta_rule_step", state, q, k, v, None, beta, scale, backend)


@without_autocast
def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    *,
    initial_state: Tensor | None = None,
    lengths: Lengths = None,
    padding: str = "right",
    resets: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Gated DeltaNet: :func:`delta_rule` after ``S = exp(g) S``.

    Yang et al. 2024 (arXiv 2412.06464); shapes of fla's ``chunk_gated_delta_rule``.

    Parameters
    ----------
    q, k : tensor (batch, seq_len, n_heads, head_k)
    v : tensor (batch, seq_len, n_heads, head_v)
        Its heads may be a multiple of those of q and k: head h then reads head h // ratio.
    g : tensor (batch, seq_len, n_heads of v)
        Log-gates.
    beta : tensor (batch, seq_len, n_heads of v)
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
    return _sequence("gated_delta_rule", q, k, v, g, beta, scale, initial_state, lengths, padding, resets, backend)


@without_autocast
def gated_delta_rule_step(
    state: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One step of :func:`gated_delta_rule`.

    Parameters
    ----------
    state : tensor (batch, n_heads of v, head_k, head_v)
    q, k : tensor (batch, n_heads, head_k)
    v : tensor (batch, n_heads, head_v)
        Its heads may be a multiple of those of q and k: head h then reads head h // ratio.
    g : tensor (batch, n_heads of v)
        Log-gates.
    beta : tensor (batch, n_heads of v)
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
        done = rust.face("gated_delta_rule_step", state, q, k, v, g, beta, scale=scale)
        if done is not None:
            return done
    return _one("gated_delta_rule_step", state, q, k, v, g, beta, scale, backend)


@without_autocast
def kimi_delta_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    *,
    initial_state: Tensor | None = None,
    lengths: Lengths = None,
    padding: str = "right",
    resets: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Kimi Delta Attention: :func:`delta_rule` after ``S = Diag(exp(g)) S``, a gate for each key channel.

    Kimi Team 2025 (arXiv 2510.26692); shapes of fla's ``chunk_kda``.

    Parameters
    ----------
    q, k : tensor (batch, seq_len, n_heads, head_k)
    v : tensor (batch, seq_len, n_heads, head_v)
        Its heads may be a multiple of those of q and k: head h then reads head h // ratio.
    g : tensor (batch, seq_len, n_heads of v, head_k)
        Log-gates.
    beta : tensor (batch, seq_len, n_heads of v)
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
    return _sequence("kimi_delta_attention", q, k, v, g, beta, scale, initial_state, lengths, padding, resets, backend)


@without_autocast
def kimi_delta_attention_step(
    state: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One step of :func:`kimi_delta_attention`.

    Parameters
    ----------
    state : tensor (batch, n_heads of v, head_k, head_v)
    q, k : tensor (batch, n_heads, head_k)
    v : tensor (batch, n_heads, head_v)
        Its heads may be a multiple of those of q and k: head h then reads head h // ratio.
    g : tensor (batch, n_heads of v, head_k)
        Log-gates.
    beta : tensor (batch, n_heads of v)
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
        done = rust.face("kimi_delta_attention_step", state, q, k, v, g, beta, scale=scale)
        if done is not None:
            return done
    return _one("kimi_delta_attention_step", state, q, k, v, g, beta, scale, backend)


def l2_normalise(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Return ``x / √(Σ x² + eps)`` over the last dimension, in x's dtype; eps is 1e-6 in transformers, 1e-5 elsewhere.

    Parameters
    ----------
    x : tensor (…, head_k)
    eps : float

    Returns
    -------
    tensor like x
    """
    wide = x if x.dtype == torch.float64 else x.float()
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + eps)).to(x.dtype)


def _sequence(
    function: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    scale: float | None,
    initial_state: Tensor | None,
    lengths: Lengths,
    padding: str,
    resets: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    check = Checker()
    check.heads(q, k, v, "batch seq_len")
    check.optional("g", g, "batch seq_len v_heads" + " head_k" * (function == "kimi_delta_attention"))
    check.real("beta", beta, "batch seq_len v_heads")
    given = check.given_state("initial_state", initial_state, "batch v_heads head_k head_v")
    steps = steps_of(check, lengths, padding, resets)
    chosen = choose(function, backend, v, initial_state, steps)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if chosen == "rust" and check.sizes["seq_len"] > 0:
        return _rust(check, q, k, v, g, beta, scale, given, steps)
    state = check.state("initial_state", initial_state, "batch v_heads head_k head_v")
    if check.sizes["seq_len"] == 0:
        return v.clone(), state.clone()
    if chosen == "fla":
        called = EXTERNAL[function].function
        return external.fla_scan(function, called, q, k, v, g, beta, scale, initial_state, steps)
    return delta_torch(q, k, v, g, beta, scale, state, steps)


def _one(
    function: str,
    state: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    scale: float | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    check = Checker()
    check.heads(q, k, v, "batch")
    check.optional("g", g, "batch v_heads" + " head_k" * (function == "kimi_delta_attention_step"))
    check.real("beta", beta, "batch v_heads")
    state = check.state("state", state, "batch v_heads head_k head_v")
    chosen = choose(function, backend, v, state, PLAIN, q, k, g, beta)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if chosen == "fla":
        called = EXTERNAL[function].function
        return external.fla_step(function.removesuffix("_step"), called, state, q, k, v, g, beta, scale)
    if chosen == "rust":
        gate = None if g is None else g[:, None]
        o, state = _rust(check, q[:, None], k[:, None], v[:, None], gate, beta[:, None], scale, state, PLAIN)
        return o[:, 0], state
    return delta_step(state, q, k, v, g, beta, scale)


def _rust(
    check: Checker,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    scale: float,
    state: Tensor | None,
    steps: Steps,
) -> tuple[Tensor, Tensor]:
    o, last_state = rust.call("delta", check.cast(q, k, v, g, beta), [float(scale)], state, steps)
    return o.to(v.dtype), last_state


def delta_step(
    state: Tensor, q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, beta: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """One step in torch: q, k (batch, heads of keys, head_k), v (batch, heads, head_v), g as in the state or less."""
    dtype, ratio = state.dtype, v.shape[1] // q.shape[1]
    q, k = (one.to(dtype).repeat_interleave(ratio, dim=1) for one in (q, k))
    if g is not None:
        decay = g.to(dtype).exp()
        state = state * (decay[..., None] if g.dim() == 3 else decay[..., None, None])
    u = beta.to(dtype)[..., None] * (v.to(dtype) - (k[..., None, :] @ state)[..., 0, :])
    state = state + k[..., None] * u[..., None, :]
    return (scale * q[..., None, :] @ state)[..., 0, :].to(v.dtype), state


def delta_torch(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, beta: Tensor, scale: float, state: Tensor, steps: Steps
) -> tuple[Tensor, Tensor]:
    """The torch backend of the family.

    Parameters
    ----------
    q, k : tensor (batch, seq_len, heads of keys, head_k)
    v : tensor (batch, seq_len, heads, head_v)
    g : tensor (batch, seq_len, heads) or (batch, seq_len, heads, head_k), or None
    beta : tensor (batch, seq_len, heads)
    scale : float
    state : tensor (batch, heads, head_k, head_v)
    steps : Steps

    Returns
    -------
    o : tensor like v
    last_state : tensor like state
    """

    def body(
        state: Tensor, mask: Mask, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return delta_chunk(state, mask, q, k, v, g, beta, scale)

    return over_chunks(body, state, (q, k, v, beta, g), steps, state.dtype, v.dtype)


def delta_chunk(
    state: Tensor, mask: Mask, q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, beta: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """A chunk: all that it writes, by one triangular system, then as in the outer family (Yang et al., 2024).

    What step i writes, u_i = beta_i (v_i - exp(G_i) S_0ᵀ k_i - Σ_{j<i} exp(G_i - G_j) (k_i · k_j) u_j), depends on what
    the steps before it wrote: (I + A) U = beta (V - K S_0) with A below the diagonal.
    """
    q, k, v, beta = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), beta.transpose(1, 2)
    segments = Segments(mask.resets, v.shape[2], v.device)
    chunk = contain(segments, state, k, v, None if g is None else g.transpose(1, 2), beta)
    gates = gates_of(chunk.g, segments, v.shape[1])
    assert chunk.beta is not None
    beta = chunk.beta[..., None]
    erased = beta * gates.scores(chunk.k, chunk.k).tril(-1)
    wanted = beta * (chunk.v - gates.from_start(chunk.k) @ chunk.state)
    u = torch.linalg.solve_triangular(erased, wanted, upper=False, unitriangular=True)
    o = gates.scores(q, chunk.k) @ u + gates.from_start(q) @ chunk.state
    state = gates.carry(chunk.state) + gates.to_end(chunk.k).mT @ u
    return state * chunk.poison[:, :, -1:], (scale * o * chunk.poison).transpose(1, 2)
