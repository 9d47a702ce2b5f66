"""The delta family: what a matrix state holds under a key is erased, then written anew."""

from __future__ import annotations

from typing import NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from ngram_copy import _rust
from ngram_copy.ssm._arrays import (
    BLOCK,
    Floats,
    Padding,
    Steps,
    as_floats,
    as_steps,
    as_threads,
    common_dtype,
    optional_floats,
)


class DeltaInputs(NamedTuple):
    """Checked inputs of the family: contiguous arrays of one dtype, with their scale."""

    q: Floats
    k: Floats
    v: Floats
    g: Floats | None
    beta: Floats
    scale: float

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Heads of q and k, heads of v, channels of a key, channels of a value: as the core takes them."""
        return self.q.shape[-2], self.v.shape[-2], self.q.shape[-1], self.v.shape[-1]

    @property
    def state_shape(self) -> tuple[int, int, int, int]:
        """(batch, n_heads_v, head_k, head_v)."""
        return self.q.shape[0], *self.sizes[1:]


def delta_rule(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    beta: ArrayLike,
    scale: float | None = None,
    *,
    initial_state: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    padding: Padding = "right",
    resets: ArrayLike | None = None,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """DeltaNet: ``u = β (v − Sᵀk)``, ``S = S + k uᵀ``, ``o = scale · Sᵀq``.

    Yang et al. 2024 (arXiv 2406.06484). Keys are taken as they are: :func:`l2_normalise` them first, as the models do.

    Parameters
    ----------
    q, k : array_like, (batch, seq_len, n_heads, head_k)
        Queries and keys, float32 or float64.
    v : array_like, (batch, seq_len, n_heads_v, head_v)
        Values, of as many heads or a multiple: head h uses head ``h // (n_heads_v // n_heads)`` of q and k.
    beta : array_like, (batch, seq_len, n_heads_v)
        How much of a value is written, usually 0 … 1.
    scale : float, optional
        Factor of the output, ``head_k ** -0.5`` by default.
    initial_state : array_like, (batch, n_heads_v, head_k, head_v), optional
        Zeros by default.
    lengths : array_like of int, (batch), optional
        Steps of each row; the others never touch the state, and their output is 0.
    padding : {"right", "left"}
        Where the others are.
    resets : array_like of bool, (batch, seq_len), optional
        Steps before which the state is zero: where packed examples begin.
    threads : int
        No influence on the result.

    Returns
    -------
    o : ndarray, (batch, seq_len, n_heads_v, head_v)
    last_state : ndarray, (batch, n_heads_v, head_k, head_v)
        float32 where all arrays are, else float64.

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    inputs, state = delta_inputs(q, k, v, None, beta, scale, initial_state)
    return _run(inputs, state, lengths, padding, resets, threads)


def gated_delta_rule(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    g: ArrayLike,
    beta: ArrayLike,
    scale: float | None = None,
    *,
    initial_state: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    padding: Padding = "right",
    resets: ArrayLike | None = None,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """Gated DeltaNet: :func:`delta_rule` with ``S = e^g S`` first, g a number a head.

    Yang et al. 2024 (arXiv 2412.06464); ``torch_recurrent_gated_delta_rule`` of transformers.

    Parameters
    ----------
    q, k, v, beta, scale, initial_state, lengths, padding, resets, threads
        See :func:`delta_rule`.
    g : array_like, (batch, seq_len, n_heads_v)
        Logarithm of what is left of the state, usually at most 0.

    Returns
    -------
    o : ndarray, (batch, seq_len, n_heads_v, head_v)
    last_state : ndarray, (batch, n_heads_v, head_k, head_v)

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    _check_gate(g, 3, "batch, seq_len, n_heads_v")
    inputs, state = delta_inputs(q, k, v, g, beta, scale, initial_state)
    return _run(inputs, state, lengths, padding, resets, threads)


def kimi_delta_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    g: ArrayLike,
    beta: ArrayLike,
    scale: float | None = None,
    *,
    initial_state: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    padding: Padding = "right",
    resets: ArrayLike | None = None,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """Kimi Delta Attention: :func:`delta_rule` with ``S = Diag(e^g) S`` first, g a number a channel of a key.

    Kimi Team 2025 (arXiv 2510.26692); ``naive_recurrent_kda`` of flash-linear-attention.

    Parameters
    ----------
    q, k, v, beta, scale, initial_state, lengths, padding, resets, threads
        See :func:`delta_rule`.
    g : array_like, (batch, seq_len, n_heads_v, head_k)
        Logarithm of what is left of the state, usually at most 0.

    Returns
    -------
    o : ndarray, (batch, seq_len, n_heads_v, head_v)
    last_state : ndarray, (batch, n_heads_v, head_k, head_v)

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    _check_gate(g, 4, "batch, seq_len, n_heads_v, head_k")
    inputs, state = delta_inputs(q, k, v, g, beta, scale, initial_state)
    return _run(inputs, state, lengths, padding, resets, threads)


def delta_rule_step(
    state: ArrayLike,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    beta: ArrayLike,
    scale: float | None = None,
    *,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """One step of :func:`delta_rule`.

    Parameters
    ----------
    state : array_like, (batch, n_heads_v, head_k, head_v)
    q, k : array_like, (batch, n_heads, head_k)
    v : array_like, (batch, n_heads_v, head_v)
    beta : array_like, (batch, n_heads_v)
    scale : float, optional
        ``head_k ** -0.5`` by default.
    threads : int

    Returns
    -------
    o : ndarray, (batch, n_heads_v, head_v)
    new_state : ndarray, (batch, n_heads_v, head_k, head_v)

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    return _step(state, q, k, v, None, beta, scale, threads)


def gated_delta_rule_step(
    state: ArrayLike,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    g: ArrayLike,
    beta: ArrayLike,
    scale: float | None = None,
    *,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """One step of :func:`gated_delta_rule`.

    Parameters
    ----------
    state, q, k, v, beta, scale, threads
        As in :func:`delta_rule_step`.
    g : array_like, (batch, n_heads_v)

    Returns
    -------
    o : ndarray, (batch, n_heads_v, head_v)
    new_state : ndarray, (batch, n_heads_v, head_k, head_v)

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    _check_gate(g, 2, "batch, n_heads_v")
    return _step(state, q, k, v, g, beta, scale, threads)


def kimi_delta_attention_step(
    state: ArrayLike,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    g: ArrayLike,
    beta: ArrayLike,
    scale: float | None = None,
    *,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """One step of :func:`kimi_delta_attention`.

    Parameters
    ----------
    state, q, k, v, beta, scale, threads
        As in :func:`delta_rule_step`.
    g : array_like, (batch, n_heads_v, head_k)

    Returns
    -------
    o : ndarray, (batch, n_heads_v, head_v)
    new_state : ndarray, (batch, n_heads_v, head_k, head_v)

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    _check_gate(g, 3, "batch, n_heads_v, head_k")
    return _step(state, q, k, v, g, beta, scale, threads)


def l2_normalise(x: ArrayLike, eps: float = 1e-6) -> Floats:
    """``x / √(‖x‖² + eps)`` over the last axis: what the models do to queries and keys.

    Parameters
    ----------
    x : array_like, (…, width)
        float32 or float64.
    eps : float
        1e-6 in transformers, 1e-5 elsewhere.

    Returns
    -------
    ndarray, (…, width)

    Raises
    ------
    TypeError
        If x is of another dtype.
    """
    array = np.asarray(x, common_dtype(x=x))
    squares = np.einsum("...i,...i->...", array, array)[..., None]
    normalised: Floats = array / np.sqrt(squares + array.dtype.type(eps))
    return normalised


# --- What the torch ops call ----------------------------------------------------------------------------


def delta_inputs(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    g: ArrayLike | None,
    beta: ArrayLike,
    scale: float | None,
    initial_state: ArrayLike | None,
) -> tuple[DeltaInputs, Floats | None]:
    """Check the inputs of the family, and its initial state; the gate's rank tells its kind."""
    return _checked(q, k, v, g, beta, scale, "initial_state", initial_state, ("batch", "seq_len"))


def delta_forward(
    inputs: DeltaInputs, initial_state: Floats | None, steps: Steps, *, threads: int, checkpoints: bool
) -> tuple[Floats, Floats, Floats | None]:
    """Run checked inputs.

    Returns
    -------
    o, last_state : ndarray
    checkpoints : ndarray, (batch, n_heads_v, ceil(seq_len / 64), head_k, head_v), or None
        States that :func:`delta_backward` takes.
    """
    batch, heads, head_k, head_v = inputs.state_shape
    o, last_state = np.empty_like(inputs.v), np.empty(inputs.state_shape, inputs.v.dtype)
    blocks = -(-inputs.q.shape[1] // BLOCK)
    # Zeros: blocks that no step falls into are not written, and what an op returns must not be chance.
    kept = np.zeros((batch, heads, blocks, head_k, head_v), o.dtype) if checkpoints else None
    _rust.delta_rule(steps, inputs.sizes, inputs, initial_state, threads, (o, last_state, kept))
    return o, last_state, kept


def delta_backward(
    inputs: DeltaInputs,
    checkpoints: Floats,
    of_o: Floats,
    of_last_state: Floats | None,
    steps: Steps,
    *,
    threads: int,
) -> tuple[Floats, Floats, Floats, Floats | None, Floats, Floats]:
    """Give the gradients of q, k, v, g, beta and of the initial state.

    Parameters
    ----------
    inputs : DeltaInputs
    checkpoints : ndarray
        From :func:`delta_forward` with the same inputs and steps.
    of_o, of_last_state : ndarray
        Gradients of the outputs.
    steps : Steps
    threads : int

    Returns
    -------
    tuple of ndarray or None
        None for g where there is none; the initial state's is always there.
    """
    q, k, v, beta = (np.empty_like(array) for array in (inputs.q, inputs.k, inputs.v, inputs.beta))
    g = None if inputs.g is None else np.empty_like(inputs.g)
    gradients = (q, k, v, g, beta, np.empty(inputs.state_shape, v.dtype))
    _rust.delta_rule_backward(steps, inputs.sizes, inputs, (checkpoints, of_o, of_last_state), threads, gradients)
    return gradients


def _run(
    inputs: DeltaInputs,
    state: Floats | None,
    lengths: ArrayLike | None,
    padding: Padding,
    resets: ArrayLike | None,
    threads: SupportsIndex,
) -> tuple[Floats, Floats]:
    batch, seq_len = inputs.q.shape[:2]
    steps = as_steps(batch, seq_len, lengths, padding, resets)
    o, last_state, _ = delta_forward(inputs, state, steps, threads=as_threads(threads), checkpoints=False)
    return o, last_state


def _step(
    state: ArrayLike,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    g: ArrayLike | None,
    beta: ArrayLike,
    scale: float | None,
    threads: SupportsIndex,
) -> tuple[Floats, Floats]:
    inputs, given = _checked(q, k, v, g, beta, scale, "state", state, ("batch",))
    assert given is not None
    o, new_state = np.empty_like(inputs.v), np.empty(inputs.state_shape, inputs.v.dtype)
    _rust.delta_rule_step(len(inputs.q), inputs.sizes, inputs, given, as_threads(threads), (o, new_state))
    return o, new_state


def _checked(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    g: ArrayLike | None,
    beta: ArrayLike,
    scale: float | None,
    state_name: str,
    state: ArrayLike | None,
    tokens: tuple[str, ...],
) -> tuple[DeltaInputs, Floats | None]:
    dtype = common_dtype(q=q, k=k, v=v, g=g, beta=beta, **{state_name: state})
    keys, heads = (*tokens, "n_heads", "head_k"), (*tokens, "n_heads_v")
    queries = as_floats("q", q, dtype, keys)
    sizes = dict(zip(keys, queries.shape, strict=True))
    values = as_floats("v", v, dtype, (*heads, "head_v"), **{name: sizes[name] for name in tokens})
    sizes |= {"n_heads_v": values.shape[-2], "head_v": values.shape[-1]}
    if 0 in (sizes["n_heads"], sizes["head_k"]):
        raise ValueError(f"q must have heads and channels, not the shape {queries.shape}")
    if 0 in (sizes["n_heads_v"], sizes["head_v"]) or sizes["n_heads_v"] % sizes["n_heads"]:
        raise ValueError(
            f"v must have channels and a multiple of the heads of q, {sizes['n_heads']}, not {values.shape}"
        )
    per_head = g is None or np.ndim(g) != len(heads) + 1
    inputs = DeltaInputs(
        queries,
        as_floats("k", k, dtype, keys, **sizes),
        values,
        optional_floats("g", g, dtype, heads if per_head else (*heads, "head_k"), **sizes),
        as_floats("beta", beta, dtype, heads, **sizes),
        sizes["head_k"] ** -0.5 if scale is None else float(scale),
    )
    return inputs, optional_floats(state_name, state, dtype, ("batch", "n_heads_v", "head_k", "head_v"), **sizes)


def _check_gate(g: ArrayLike, ndim: int, shape: str) -> None:
    """Tell gates of heads from those of channels of keys."""
    if np.ndim(g) != ndim:
        raise ValueError(f"g must have the shape ({shape}), not {np.shape(g)}")
