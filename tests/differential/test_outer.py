"""The outer family against a loop in float64, and against transformers and flash-linear-attention where they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import fla_naive, transformers_function

from ngram_copy import ssm
from ngram_copy.ssm import outer
from ngram_copy.ssm._arrays import as_steps

KINDS = ["none", "retention", "head", "channel"]


def loop(q, k, v, g, scale, state):
    """S = Diag(e^g) S + k vᵀ; o = scale · Sᵀq, of one row: (seq_len, heads, …); g of (seq_len, heads, head_k)."""
    ratio = v.shape[1] // q.shape[1]
    q, k, v, g = (np.asarray(x, np.float64) for x in (q, k, v, g))
    q, k = np.repeat(q, ratio, 1), np.repeat(k, ratio, 1)
    out = np.zeros(v.shape)
    for t in range(len(q)):
        state = np.exp(g[t])[..., None] * state + k[t][:, :, None] * v[t][:, None, :]
        out[t] = scale * np.einsum("hkv,hk->hv", state, q[t])
    return out, state


def arrays(seed, batch, seq_len, heads, ratio, head_k, head_v, kind, dtype=np.float32):
    """q, k, v, g and a state, as the functions take them."""
    rng = np.random.default_rng(seed)
    of_v = (batch, seq_len, heads * ratio)
    q, k = (rng.standard_normal((batch, seq_len, heads, head_k)) for _ in range(2))
    v = rng.standard_normal((*of_v, head_v))
    g = -rng.random((*of_v, head_k) if kind == "channel" else of_v)
    state = rng.standard_normal((batch, heads * ratio, head_k, head_v))
    return [np.asarray(x, dtype) for x in (q, k, v, g, state)]


def run(kind, q, k, v, g, scale=None, **common):
    if kind in ("none", "retention"):
        return (ssm.linear_attention if kind == "none" else ssm.retention)(q, k, v, scale, **common)
    return ssm.gated_linear_attention(q, k, v, g, scale, **common)


def step(kind, state, q, k, v, g):
    if kind in ("none", "retention"):
        return (ssm.linear_attention_step if kind == "none" else ssm.retention_step)(state, q, k, v)
    return ssm.gated_linear_attention_step(state, q, k, v, g)


def gates(kind, v, g, head_k):
    """Gates of channels of keys, of all kinds, in float64."""
    if kind == "channel":
        return g
    of_heads = {
        "none": np.zeros(v.shape[:3]),
        "retention": np.broadcast_to(np.log(1 - 2.0 ** (-5 - np.arange(v.shape[2]))), v.shape[:3]),
        "head": g,
    }[kind]
    return np.repeat(of_heads[..., None], head_k, -1)


def close(x, y, tolerance):
    largest = max(1.0, float(np.abs(y).max(initial=0.0)))
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * largest)


def there(seq_len, lengths, padding, row):
    length = seq_len if lengths is None else int(lengths[row])
    return range(seq_len - length, seq_len) if padding == "left" else range(length)


SIZES = st.tuples(
    st.integers(1, 3), st.integers(0, 12), st.integers(1, 2), st.integers(1, 3), st.integers(1, 12), st.integers(1, 40)
)


@given(
    st.sampled_from(KINDS),
    SIZES,
    st.integers(0, 2**32),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["left", "right"]),
    st.sampled_from([1, 2]),
)
def test_is_the_loop(kind, sizes, seed, dtype, with_lengths, with_resets, padding, threads):
    batch, seq_len, *_ = sizes
    q, k, v, g, state = arrays(seed, *sizes, kind, dtype)
    rng = np.random.default_rng(seed + 1)
    lengths = rng.integers(0, seq_len + 1, batch) if with_lengths else None
    resets = rng.random((batch, seq_len)) < 0.2 if with_resets else None
    common = {"lengths": lengths, "padding": padding, "resets": resets, "threads": threads}
    out, last = run(kind, q, k, v, g, 0.7, initial_state=state, **common)
    assert out.dtype == last.dtype == dtype
    full = gates(kind, v, g, q.shape[-1])
    for row in range(batch):
        expected, s = np.zeros(v.shape[1:]), np.asarray(state[row], np.float64)
        for t in there(seq_len, lengths, padding, row):
            if resets is not None and resets[row, t]:
                s = np.zeros_like(s)
            one = [x[row, t : t + 1] for x in (q, k, v, full)]
            expected[t : t + 1], s = loop(*one, 0.7, s)
        tolerance = 1e-5 if dtype == np.float32 else 1e-13
        close(out[row], expected, tolerance)
        close(last[row], s, tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_the_sequence(kind):
    q, k, v, g, state = arrays(1, 2, 7, 2, 2, 16, 24, kind)
    out, last = run(kind, q, k, v, g, initial_state=state)
    for t in range(7):
        o, state = step(kind, state, q[:, t], k[:, t], v[:, t], g[:, t])
        close(o, out[:, t], 1e-6)
    close(state, last, 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_strided_arrays_are_right_and_inputs_stay(kind):
    given_arrays = arrays(2, 2, 70, 2, 1, 8, 8, kind)
    *inputs, state = [np.asfortranarray(np.repeat(x, 2, 1))[:, ::2] for x in given_arrays]
    copies = [x.copy() for x in inputs]
    out, last = run(kind, *inputs, initial_state=np.asfortranarray(given_arrays[-1]))
    expected = run(kind, *given_arrays[:4], initial_state=given_arrays[-1])
    np.testing.assert_array_equal(out, expected[0])
    np.testing.assert_array_equal(last, expected[1])
    for x, copy in zip(inputs, copies, strict=True):
        np.testing.assert_array_equal(x, copy)
    assert not np.shares_memory(last, state)


def test_integers_and_lists_are_float64():
    out, last = ssm.linear_attention([[[[1]]]], [[[[1]]]], [[[[3]]]], 2)
    assert out.dtype == np.float64
    assert out.tolist() == [[[[6.0]]]]
    assert last.tolist() == [[[[3.0]]]]


@pytest.mark.parametrize("kind", ["none", "constant", "head", "channel"])
def test_gradients_are_finite_differences(kind):
    q, k, v, g, state = arrays(3, 2, 5, 1, 2, 3, 2, kind, np.float64)
    rng = np.random.default_rng(4)
    steps = as_steps(2, 5, [5, 3], "left", rng.random((2, 5)) < 0.2)
    of_o, of_last = rng.standard_normal(v.shape), rng.standard_normal(state.shape)
    if kind == "constant":
        g = np.array([-0.3, -0.6])

    def checked(q, k, v, g, state):
        inputs, state = outer.outer_inputs(q, k, v, None if kind in ("none", "constant") else g, None, state)
        return inputs._replace(g=g) if kind == "constant" else inputs, state

    def loss(*values):
        o, last = outer.outer_forward(*checked(*values), steps, threads=1)
        return (o * of_o).sum() + (last * of_last).sum()

    values = [q, k, v, g, state]
    gradients = outer.outer_backward(*checked(*values), of_o, of_last, steps, threads=1)
    for at, gradient in enumerate(gradients):
        if gradient is None:
            assert (kind, at) == ("none", 3)
            continue
        expected = np.zeros_like(values[at])
        for index in np.ndindex(expected.shape):
            moved = [[x.copy() for x in values] for _ in range(2)]
            moved[0][at][index] += 1e-6
            moved[1][at][index] -= 1e-6
            expected[index] = (loss(*moved[0]) - loss(*moved[1])) / 2e-6
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": np.zeros((2, 3, 1, 4))}, r"^k must have the shape \(batch, seq_len, n_heads, head_k\) = \(2, 3, 1, 5\)"),
        ({"v": np.zeros((2, 4, 2, 4))}, r"^v must have the shape .* not \(2, 4, 2, 4\)$"),
        ({"q": np.zeros((2, 3, 0, 5))}, r"^q must have heads and channels, not the shape \(2, 3, 0, 5\)$"),
        ({"q": np.zeros((2, 3, 3, 5))}, r"^v must have channels and a multiple of the heads of q, 3"),
        ({"g": np.zeros((2, 3))}, r"^g must have the shape \(batch, seq_len, n_heads_v, head_k\) = .* not \(2, 3\)$"),
        ({"g": np.zeros((2, 3, 3))}, r"^g must have the shape \(batch, seq_len, n_heads_v\) = \(2, 3, 2\), not"),
        ({"initial_state": np.zeros((2, 2, 4, 5))}, r"^initial_state must have the shape .* = \(2, 2, 5, 4\)"),
        ({"lengths": [4, 1]}, r"^lengths\[0\] must be 0 to seq_len = 3, not 4$"),
        ({"threads": 0}, r"^threads must be"),
    ],
)
def test_errors_name_the_argument(change, message):
    q, k, v, g, state = arrays(5, 2, 3, 1, 2, 5, 4, "channel")
    given_arguments = {"q": q, "k": k, "v": v, "g": g, "initial_state": state} | change
    with pytest.raises(ValueError, match=message):
        ssm.gated_linear_attention(**given_arguments)
    with pytest.raises(TypeError, match=r"^q must be float32 or float64, not complex128$"):
        ssm.gated_linear_attention(**given_arguments | {"q": q.astype(complex)})


def test_a_step_without_a_state_is_refused():
    q, k, v, _, state = arrays(5, 2, 3, 1, 2, 5, 4, "none")
    with pytest.raises(TypeError, match=r"^state must be an array, not None$"):
        ssm.linear_attention_step(None, q[:, 0], k[:, 0], v[:, 0])
    with pytest.raises(ValueError, match=r"^state must have the shape .* = \(2, 2, 5, 4\), not \(2, 2, 4, 5\)"):
        ssm.linear_attention_step(state.swapaxes(2, 3), q[:, 0], k[:, 0], v[:, 0])


# --- Mamba-2 ----------------------------------------------------------------------------------------------


def mamba2_arrays(seed, batch, seq_len, groups, ratio, d_state, head_dim, dtype=np.float32):
    """The arguments of mamba2_scan by name, without options."""
    rng = np.random.default_rng(seed)
    heads = groups * ratio
    shapes = {
        "x": (batch, seq_len, heads, head_dim),
        "dt": (batch, seq_len, heads),
        "A": (heads,),
        "B": (batch, seq_len, groups, d_state),
        "C": (batch, seq_len, groups, d_state),
        "D": (heads, head_dim) if seed % 2 else (heads,),
        "z": (batch, seq_len, heads, head_dim),
        "dt_bias": (heads,),
        "initial_state": (batch, heads, head_dim, d_state),
    }
    found = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    found["A"] = -np.exp(found["A"])
    return {name: np.asarray(x, dtype) for name, x in found.items()}


def mamba2_loop(x, dt, A, B, C, D, z, dt_bias, initial_state, dt_softplus, steps, resets):
    """S = exp(Δ A) S + Δ x Bᵀ; y = S C + D x; y · SiLU(z); steps are those of each row."""
    x, dt, A, B, C, D, z, dt_bias, state = (
        np.asarray(one, np.float64) for one in (x, dt, A, B, C, D, z, dt_bias, initial_state)
    )
    B, C = (np.repeat(one, x.shape[2] // B.shape[2], 2) for one in (B, C))
    dt = dt + dt_bias
    dt = np.log1p(np.exp(-np.abs(dt))) + np.maximum(dt, 0) if dt_softplus else dt
    y, last = np.zeros(x.shape), state.copy()
    for row, these in enumerate(steps):
        for t in these:
            if resets is not None and resets[row, t]:
                last[row] = 0
            decay, written = np.exp(dt[row, t] * A), dt[row, t][:, None] * x[row, t]
            last[row] = decay[:, None, None] * last[row] + written[..., None] * B[row, t][:, None]
            y[row, t] = np.einsum("hpn,hn->hp", last[row], C[row, t]) + D.reshape(len(D), -1) * x[row, t]
            y[row, t] *= z[row, t] / (1 + np.exp(-z[row, t]))
    return y, last


@given(
    SIZES,
    st.integers(0, 2**32),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["left", "right"]),
)
def test_mamba2_is_the_loop(sizes, seed, dtype, with_lengths, with_resets, padding):
    batch, seq_len, *_ = sizes
    given_arrays = mamba2_arrays(seed, *sizes, dtype)
    rng = np.random.default_rng(seed + 1)
    lengths = rng.integers(0, seq_len + 1, batch) if with_lengths else None
    resets = rng.random((batch, seq_len)) < 0.2 if with_resets else None
    steps = [there(seq_len, lengths, padding, row) for row in range(batch)]
    expected, expected_last = mamba2_loop(**given_arrays, dt_softplus=True, steps=steps, resets=resets)
    for row, these in enumerate(steps):  # what stands in the padding is never read
        outside = sorted(set(range(seq_len)) - set(these))
        for name in ("x", "dt", "B", "C", "z"):
            given_arrays[name][row, outside] = np.nan
    y, last = ssm.mamba2_scan(**given_arrays, dt_softplus=True, lengths=lengths, padding=padding, resets=resets)
    assert y.dtype == last.dtype == dtype
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    close(y, expected, tolerance)
    close(last, expected_last, tolerance)


@pytest.mark.parametrize("softplus", [False, True])
def test_steps_of_mamba2_are_the_sequence(softplus):
    given_arrays = mamba2_arrays(8, 2, 6, 2, 2, 24, 16)
    y, last = ssm.mamba2_scan(**given_arrays, dt_softplus=softplus)
    state = given_arrays.pop("initial_state")
    for t in range(6):
        one = {name: x[:, t] if name in ("x", "dt", "B", "C", "z") else x for name, x in given_arrays.items()}
        out, state = ssm.mamba2_state_update(state, **one, dt_softplus=softplus)
        close(out, y[:, t], 1e-6)
    close(state, last, 1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"B": np.zeros((2, 3, 3, 5)), "C": np.zeros((2, 3, 3, 5))},
            r"^B must have states and groups that divide the heads of x, 2",
        ),
        ({"C": np.zeros((2, 3, 1, 4))}, r"^C must have the shape .* = \(2, 3, 1, 5\), not \(2, 3, 1, 4\)"),
        ({"x": np.zeros((2, 3, 0, 4))}, r"^x must have heads and channels, not the shape \(2, 3, 0, 4\)"),
        ({"dt": np.zeros((2, 3))}, r"^dt must have the shape \(batch, seq_len, n_heads\) = \(2, 3, 2\), not \(2, 3\)"),
        ({"D": np.zeros((2, 5))}, r"^D must have the shape \(n_heads, head_dim\) = \(2, 4\), not \(2, 5\)"),
        ({"initial_state": np.zeros((2, 2, 5, 4))}, r"^initial_state must have the shape .* = \(2, 2, 4, 5\)"),
    ],
)
def test_errors_of_mamba2_name_the_argument(change, message):
    with pytest.raises(ValueError, match=message):
        ssm.mamba2_scan(**mamba2_arrays(9, 2, 3, 1, 2, 5, 4) | change)


# --- Peers ------------------------------------------------------------------------------------------------


def tensors(*values):
    torch = pytest.importorskip("torch")
    return [torch.from_numpy(np.ascontiguousarray(x)) for x in values]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["none", "retention", "channel"])
def test_is_that_of_flash_linear_attention(kind):
    q, k, v, g, state = arrays(7, 2, 130, 2, 1, 64, 64, kind)
    t_q, t_k, t_v, t_g, t_state = tensors(q, k, v, g, state)
    if kind == "retention":
        naive = fla_naive("retention")
        expected = naive.naive_retention(*[x.transpose(1, 2) for x in (t_q, t_k, t_v)]).transpose(1, 2)
        close(ssm.retention(q, k, v)[0], expected.numpy(), 1e-5)
        return
    common = {"initial_state": t_state, "output_final_state": True}
    if kind == "none":
        naive = fla_naive("linear_attn")
        expected, expected_last = naive.naive_recurrent_linear_attn(t_q, t_k, t_v, **common)
    else:
        naive = fla_naive("gla")
        expected, expected_last = naive.naive_recurrent_gla(t_q, t_k, t_v, t_g, **common)
    out, last = run(kind, q, k, v, g, initial_state=state)
    close(out, expected.numpy(), 1e-5)
    close(last, expected_last.numpy(), 1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mamba2_is_that_of_transformers():
    torch = pytest.importorskip("torch")
    found = mamba2_arrays(10, 2, 130, 2, 2, 32, 64)
    del found["z"]  # which the model has in another module
    x, dt, A, B, C, D, bias, state = tensors(*found.values())
    expected, expected_last = transformers_function("mamba2", "mamba2_chunk_scan")(
        x, dt, A, B, C, 64, D=D, dt_bias=bias, initial_states=state, dt_softplus=True, return_final_states=True
    )
    y, last = ssm.mamba2_scan(**found, dt_softplus=True)
    close(y, torch.as_tensor(expected).numpy(), 1e-5)
    close(last, expected_last.numpy(), 1e-5)
