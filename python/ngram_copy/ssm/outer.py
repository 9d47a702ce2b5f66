"""The outer family: a gated matrix state for each head, to which outer products of keys and values are added."""

from __future__ import annotations

from typing import NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from ngram_copy import _rust
from ngram_copy.ssm._arrays import (
    Floats,
    Padding,
    Steps,
    as_floats,
    as_steps,
    as_threads,
    common_dtype,
    optional_floats,
)


class OuterInputs(NamedTuple):
    """Checked inputs of the family: contiguous arrays of one dtype, with their scale."""

    q: Floats
    k: Floats
    v: Floats
    g: Floats | None
    scale: float

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Heads of q and k, heads of v, channels of a key, channels of a value: as the core takes them."""
        return self.q.shape[-2], self.v.shape[-2], self.q.shape[-1], self.v.shape[-1]

    @property
    def state_shape(self) -> tuple[int, int, int, int]:
        """(batch, n_heads_v, head_k, head_v)."""
        return self.q.shape[0], *self.sizes[1:]


def linear_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    scale: float | None = None,
    *,
    initial_state: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    padding: Padding = "right",
    resets: ArrayLike | None = None,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """Linear attention without a normaliser: ``S = S + k vᵀ``, ``o = scale · Sᵀq``.

    Katharopoulos et al. 2020 (arXiv 2006.16236); ``naive_recurrent_linear_attn`` of flash-linear-attention.

    Parameters
    ----------
    q, k : array_like, (batch, seq_len, n_heads, head_k)
        Queries and keys, float32 or float64.
    v : array_like, (batch, seq_len, n_heads_v, head_v)
        Values, of as many heads or a multiple: head h uses head ``h // (n_heads_v // n_heads)`` of q and k.
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
    inputs, state = outer_inputs(q, k, v, None, scale, initial_state)
    return _run(inputs, state, lengths, padding, resets, threads)


def retention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    scale: float | None = None,
    *,
    initial_state: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    padding: Padding = "right",
    resets: ArrayLike | None = None,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """Retention: ``S = α S + k vᵀ``, ``o = scale · Sᵀq`` with ``α = 1 − 2^(−5−h)`` for head h of v.

    Sun et al. 2023 (arXiv 2307.08621); ``naive_retention`` of flash-linear-attention.

    Parameters
    ----------
    q, k, v, scale, initial_state, lengths, padding, resets, threads
        See :func:`linear_attention`.

    Returns
    -------
    o : ndarray, (batch, seq_len, n_heads_v, head_v)
    last_state : ndarray, (batch, n_heads_v, head_k, head_v)

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    inputs, state = outer_inputs(q, k, v, None, scale, initial_state)
    return _run(_with_retention(inputs), state, lengths, padding, resets, threads)


def gated_linear_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    g: ArrayLike,
    scale: float | None = None,
    *,
    initial_state: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    padding: Padding = "right",
    resets: ArrayLike | None = None,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """Gated linear attention: ``S = Diag(e^g) S + k vᵀ``, ``o = scale · Sᵀq``.

    Yang et al. 2024 (arXiv 2312.06635); ``naive_recurrent_gla`` of flash-linear-attention.

    Parameters
    ----------
    q, k, v, scale, initial_state, lengths, padding, resets, threads
        See :func:`linear_attention`.
    g : array_like, (batch, seq_len, n_heads_v, head_k) or (batch, seq_len, n_heads_v)
        Logarithm of what is left of the state, usually at most 0: for each key channel, or one for all of a head.

    Returns
    -------
    o : ndarray, (batch, seq_len, n_heads_v, head_v)
    last_state : ndarray, (batch, n_heads_v, head_k, head_v)

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    inputs, state = outer_inputs(q, k, v, g, scale, initial_state)
    return _run(inputs, state, lengths, padding, resets, threads)


def mamba2_scan(
    x: ArrayLike,
    dt: ArrayLike,
    A: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None = None,
    z: ArrayLike | None = None,
    dt_bias: ArrayLike | None = None,
    dt_softplus: bool = False,
    *,
    initial_state: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    padding: Padding = "right",
    resets: ArrayLike | None = None,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """Mamba-2 (SSD): ``S = exp(Δ A) S + Δ x Bᵀ``, ``y = S C + D x``, then ``y · SiLU(z)``.

    Dao and Gu 2024 (arXiv 2405.21060); ``mamba_chunk_scan_combined`` of mamba, ``mamba2_chunk_scan`` of transformers.

    Parameters
    ----------
    x : array_like, (batch, seq_len, n_heads, head_dim)
        Input, float32 or float64.
    dt : array_like, (batch, seq_len, n_heads)
        Step sizes.
    A : array_like, (n_heads)
        Rates, usually negative.
    B, C : array_like, (batch, seq_len, n_groups, d_state)
        Weights of the input and of the output; the groups divide the heads.
    D : array_like, (n_heads) or (n_heads, head_dim), optional
        Weight of the input in the output.
    z : array_like, (batch, seq_len, n_heads, head_dim), optional
        Gate.
    dt_bias : array_like, (n_heads), optional
        What is added to ``dt``.
    dt_softplus : bool
        Whether ``dt`` (with its bias) goes through softplus.
    initial_state : array_like, (batch, n_heads, head_dim, d_state), optional
        Zeros by default.
    lengths, padding, resets, threads
        See :func:`linear_attention`.

    Returns
    -------
    y : ndarray, (batch, seq_len, n_heads, head_dim)
    last_state : ndarray, (batch, n_heads, head_dim, d_state)
        float32 where all arrays are, else float64.

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    inputs, ends, state = _mamba2(
        x, dt, A, B, C, D, z, dt_bias, dt_softplus, "initial_state", initial_state, ("batch", "seq_len")
    )
    batch, seq_len = inputs.q.shape[:2]
    steps = as_steps(batch, seq_len, lengths, padding, resets)
    transposed = None if state is None else np.ascontiguousarray(state.swapaxes(-1, -2))
    y, last_state = outer_forward(inputs, transposed, steps, threads=as_threads(threads))
    ends.finish(y)
    if steps[2] is not None:
        y[_outside(steps)] = 0
    return y, np.ascontiguousarray(last_state.swapaxes(-1, -2))


def linear_attention_step(
    state: ArrayLike,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    scale: float | None = None,
    *,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """One step of :func:`linear_attention`.

    Parameters
    ----------
    state : array_like, (batch, n_heads_v, head_k, head_v)
    q, k : array_like, (batch, n_heads, head_k)
    v : array_like, (batch, n_heads_v, head_v)
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
    inputs, given = _checked(q, k, v, None, scale, "state", state, ("batch",))
    return _step(inputs, given, threads)


def retention_step(
    state: ArrayLike,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    scale: float | None = None,
    *,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """One step of :func:`retention`.

    Parameters
    ----------
    state, q, k, v, scale, threads
        As in :func:`linear_attention_step`.

    Returns
    -------
    o : ndarray, (batch, n_heads_v, head_v)
    new_state : ndarray, (batch, n_heads_v, head_k, head_v)

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    inputs, given = _checked(q, k, v, None, scale, "state", state, ("batch",))
    return _step(_with_retention(inputs), given, threads)


def gated_linear_attention_step(
    state: ArrayLike,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    g: ArrayLike,
    scale: float | None = None,
    *,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """One step of :func:`gated_linear_attention`.

    Parameters
    ----------
    state, q, k, v, scale, threads
        As in :func:`linear_attention_step`.
    g : array_like, (batch, n_heads_v, head_k) or (batch, n_heads_v)

    Returns
    -------
    o : ndarray, (batch, n_heads_v, head_v)
    new_state : ndarray, (batch, n_heads_v, head_k, head_v)

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    inputs, given = _checked(q, k, v, g, scale, "state", state, ("batch",))
    return _step(inputs, given, threads)


def mamba2_state_update(
    state: ArrayLike,
    x: ArrayLike,
    dt: ArrayLike,
    A: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None = None,
    z: ArrayLike | None = None,
    dt_bias: ArrayLike | None = None,
    dt_softplus: bool = False,
    *,
    threads: SupportsIndex = 1,
) -> tuple[Floats, Floats]:
    """One step of :func:`mamba2_scan`.

    Parameters
    ----------
    state : array_like, (batch, n_heads, head_dim, d_state)
    x, z : array_like, (batch, n_heads, head_dim)
    dt : array_like, (batch, n_heads)
    A, dt_bias : array_like, (n_heads)
    B, C : array_like, (batch, n_groups, d_state)
    D : array_like, (n_heads) or (n_heads, head_dim), optional
    dt_softplus : bool
    threads : int

    Returns
    -------
    y : ndarray, (batch, n_heads, head_dim)
    new_state : ndarray, (batch, n_heads, head_dim, d_state)

    Raises
    ------
    TypeError, ValueError
        If an argument has another dtype or shape; the text names it.
    """
    inputs, ends, given = _mamba2(x, dt, A, B, C, D, z, dt_bias, dt_softplus, "state", state, ("batch",))
    y, new_state = _step(inputs, given, threads, transposed=True)
    ends.finish(y)
    return y, new_state


# --- What the torch ops call ----------------------------------------------------------------------------


def outer_inputs(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    g: ArrayLike | None,
    scale: float | None,
    initial_state: ArrayLike | None,
) -> tuple[OuterInputs, Floats | None]:
    """Check the inputs of the family, and its initial state; the gate's rank tells its kind."""
    return _checked(q, k, v, g, scale, "initial_state", initial_state, ("batch", "seq_len"))


def outer_forward(
    inputs: OuterInputs, initial_state: Floats | None, steps: Steps, *, threads: int
) -> tuple[Floats, Floats]:
    """Run checked inputs; ``g`` may also be constants of heads, (n_heads_v).

    Returns
    -------
    o, last_state : ndarray
    """
    o, last_state = np.empty_like(inputs.v), np.empty(inputs.state_shape, inputs.v.dtype)
    _rust.outer(steps, inputs.sizes, inputs, initial_state, threads, (o, last_state))
    return o, last_state


def outer_backward(
    inputs: OuterInputs,
    initial_state: Floats | None,
    of_o: Floats,
    of_last_state: Floats | None,
    steps: Steps,
    *,
    threads: int,
) -> tuple[Floats, Floats, Floats, Floats | None, Floats]:
    """Give the gradients of q, k, v, g and of the initial state.

    Parameters
    ----------
    inputs : OuterInputs
    initial_state : ndarray or None
        As :func:`outer_forward` had it: no state of the forward pass is needed besides.
    of_o, of_last_state : ndarray
        Gradients of the outputs.
    steps : Steps
    threads : int

    Returns
    -------
    tuple of ndarray or None
        None for g where there is none; the initial state's is always there.
    """
    q, k, v = (np.empty_like(array) for array in (inputs.q, inputs.k, inputs.v))
    g = None if inputs.g is None else np.empty_like(inputs.g)
    gradients = (q, k, v, g, np.empty(inputs.state_shape, v.dtype))
    _rust.outer_backward(steps, inputs.sizes, inputs, initial_state, (of_o, of_last_state), threads, gradients)
    return gradients


# --- Parts ----------------------------------------------------------------------------------------------


def _run(
    inputs: OuterInputs,
    state: Floats | None,
    lengths: ArrayLike | None,
    padding: Padding,
    resets: ArrayLike | None,
    threads: SupportsIndex,
) -> tuple[Floats, Floats]:
    batch, seq_len = inputs.q.shape[:2]
    steps = as_steps(batch, seq_len, lengths, padding, resets)
    return outer_forward(inputs, state, steps, threads=as_threads(threads))


def _step(
    inputs: OuterInputs, state: Floats | None, threads: SupportsIndex, *, transposed: bool = False
) -> tuple[Floats, Floats]:
    if state is None:
        raise TypeError("state must be an array, not None")
    o, new_state = np.empty_like(inputs.v), np.empty_like(state)
    _rust.outer_step(len(inputs.q), inputs.sizes, inputs, state, transposed, as_threads(threads), (o, new_state))
    return o, new_state


def _checked(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    g: ArrayLike | None,
    scale: float | None,
    state_name: str,
    state: ArrayLike | None,
    tokens: tuple[str, ...],
) -> tuple[OuterInputs, Floats | None]:
    dtype = common_dtype(q=q, k=k, v=v, g=g, **{state_name: state})
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
    of_head = g is not None and np.ndim(g) == len(heads)
    inputs = OuterInputs(
        queries,
        as_floats("k", k, dtype, keys, **sizes),
        values,
        optional_floats("g", g, dtype, heads if of_head else (*heads, "head_k"), **sizes),
        sizes["head_k"] ** -0.5 if scale is None else float(scale),
    )
    return inputs, optional_floats(state_name, state, dtype, ("batch", "n_heads_v", "head_k", "head_v"), **sizes)


def _with_retention(inputs: OuterInputs) -> OuterInputs:
    """The gates of retention, by a logarithm that is exact near 1."""
    g = np.log1p(-np.exp2(-5.0 - np.arange(inputs.sizes[1])))
    return inputs._replace(g=g.astype(inputs.v.dtype))


class _Ends(NamedTuple):
    """What Mamba-2 does to its output."""

    x: Floats
    D: Floats | None
    z: Floats | None

    def finish(self, y: Floats) -> None:
        """Change y to ``(y + D x) · SiLU(z)``."""
        # e^(−z) may be infinite where the gate is 0, and padding may hold anything.
        with np.errstate(all="ignore"):
            if self.D is not None:
                y += self.D * self.x
            if self.z is not None:
                y *= self.z / (1 + np.exp(-self.z))


def _mamba2(
    x: ArrayLike,
    dt: ArrayLike,
    A: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None,
    z: ArrayLike | None,
    dt_bias: ArrayLike | None,
    dt_softplus: bool,
    state_name: str,
    state: ArrayLike | None,
    tokens: tuple[str, ...],
) -> tuple[OuterInputs, _Ends, Floats | None]:
    """Mamba-2 as a member of the family: C reads as q, B is written as k, Δ x as v, and Δ A is a head's log-gate."""
    dtype = common_dtype(x=x, dt=dt, A=A, B=B, C=C, D=D, z=z, dt_bias=dt_bias, **{state_name: state})
    of_x, groups = (*tokens, "n_heads", "head_dim"), (*tokens, "n_groups", "d_state")
    values = as_floats("x", x, dtype, of_x)
    sizes = dict(zip(of_x, values.shape, strict=True))
    keys = as_floats("B", B, dtype, groups, **sizes)
    sizes |= {"n_groups": keys.shape[-2], "d_state": keys.shape[-1]}
    queries = as_floats("C", C, dtype, groups, **sizes)
    if 0 in (sizes["n_heads"], sizes["head_dim"]):
        raise ValueError(f"x must have heads and channels, not the shape {values.shape}")
    if 0 in (sizes["n_groups"], sizes["d_state"]) or sizes["n_heads"] % sizes["n_groups"]:
        raise ValueError(
            f"B must have states and groups that divide the heads of x, {sizes['n_heads']}, not the shape {keys.shape}"
        )
    step = as_floats("dt", dt, dtype, (*tokens, "n_heads"), **sizes)
    rates = as_floats("A", A, dtype, ("n_heads",), **sizes)
    bias = optional_floats("dt_bias", dt_bias, dtype, ("n_heads",), **sizes)
    if D is not None and np.ndim(D) == 1:
        weight: Floats | None = as_floats("D", D, dtype, ("n_heads",), **sizes)[:, None]
    else:
        weight = optional_floats("D", D, dtype, ("n_heads", "head_dim"), **sizes)
    ends = _Ends(values, weight, optional_floats("z", z, dtype, of_x, **sizes))
    with np.errstate(all="ignore"):
        if bias is not None:
            step = step + bias
        if dt_softplus:
            step = np.logaddexp(step, dtype.type(0))
        inputs = OuterInputs(queries, keys, values * step[..., None], step * rates, 1.0)
    shape = ("batch", "n_heads", "head_dim", "d_state")
    return inputs, ends, optional_floats(state_name, state, dtype, shape, **sizes)


def _outside(steps: Steps) -> Floats:
    """Where there is padding, (batch, seq_len) of bool."""
    _, seq_len, lengths, left, _ = steps
    assert lengths is not None
    at = np.arange(seq_len)
    return at < seq_len - lengths[:, None] if left else at >= lengths[:, None]
