"""The delta family against a loop in float64, and against transformers and flash-linear-attention where they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import fla_naive, transformers_function

from ngram_copy import ssm
from ngram_copy.ssm import delta
from ngram_copy.ssm._arrays import as_steps

KINDS = ["delta", "gated", "kimi"]


def loop(q, k, v, g, beta, scale, state):
    """S' = Diag(e^g) S; u = β (v − S'ᵀk); S = S' + k uᵀ; o = scale · Sᵀq, of one row: (seq_len, heads, …)."""
    ratio = v.shape[1] // q.shape[1]
    q, k, v, g, beta = (np.asarray(x, np.float64) for x in (q, k, v, g, beta))
    q, k = np.repeat(q, ratio, 1), np.repeat(k, ratio, 1)
    out = np.zeros(v.shape)
    for t in range(len(q)):
        state = np.exp(g[t])[..., None] * state
        u = beta[t][:, None] * (v[t] - np.einsum("hkv,hk->hv", state, k[t]))
        state = state + k[t][:, :, None] * u[:, None, :]
        out[t] = scale * np.einsum("hkv,hk->hv", state, q[t])
    return out, state


def arrays(seed, batch, seq_len, heads, ratio, head_k, head_v, kind, dtype=np.float32):
    """q, k, v, g, beta and a state, as the functions take them."""
    rng = np.random.default_rng(seed)
    of_v = (batch, seq_len, heads * ratio)
    q, k = (ssm.l2_normalise(rng.standard_normal((batch, seq_len, heads, head_k))) for _ in range(2))
    v, beta = rng.standard_normal((*of_v, head_v)), rng.random(of_v)
    g = -rng.random((*of_v, head_k) if kind == "kimi" else of_v)
    state = rng.standard_normal((batch, heads * ratio, head_k, head_v))
    return [np.asarray(x, dtype) for x in (q, k, v, g, beta, state)]


def run(kind, q, k, v, g, beta, scale=None, **common):
    if kind == "delta":
        return ssm.delta_rule(q, k, v, beta, scale, **common)
    function = ssm.gated_delta_rule if kind == "gated" else ssm.kimi_delta_attention
    return function(q, k, v, g, beta, scale, **common)


def step(kind, state, q, k, v, g, beta):
    if kind == "delta":
        return ssm.delta_rule_step(state, q, k, v, beta)
    return (ssm.gated_delta_rule_step if kind == "gated" else ssm.kimi_delta_attention_step)(state, q, k, v, g, beta)


def gates(kind, g, head_k):
    """Gates of channels of keys, of all kinds."""
    if kind == "kimi":
        return g
    return np.repeat(g[..., None] * (kind == "gated"), head_k, -1)


def close(x, y, tolerance):
    largest = max(1.0, float(np.abs(y).max(initial=0.0)))
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * largest)


@given(
    st.sampled_from(KINDS),
    st.tuples(
        st.integers(1, 3),
        st.integers(0, 12),
        st.integers(1, 2),
        st.integers(1, 3),
        st.integers(1, 12),
        st.integers(1, 40),
    ),
    st.integers(0, 2**32),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["left", "right"]),
    st.sampled_from([1, 2]),
)
def test_is_the_loop(kind, sizes, seed, dtype, with_lengths, with_resets, padding, threads):
    batch, seq_len, *_ = sizes
    q, k, v, g, beta, state = arrays(seed, *sizes, kind, dtype)
    rng = np.random.default_rng(seed + 1)
    lengths = rng.integers(0, seq_len + 1, batch) if with_lengths else None
    resets = rng.random((batch, seq_len)) < 0.2 if with_resets else None
    out, last = run(
        kind, q, k, v, g, beta, 0.7, initial_state=state, lengths=lengths, padding=padding, resets=resets,
        threads=threads,
    )  # fmt: skip
    assert out.dtype == last.dtype == dtype
    full = gates(kind, g, q.shape[-1])
    for row in range(batch):
        length = seq_len if lengths is None else int(lengths[row])
        there = range(seq_len - length, seq_len) if padding == "left" else range(length)
        expected, s = np.zeros(v.shape[1:]), np.asarray(state[row], np.float64)
        for t in there:
            if resets is not None and resets[row, t]:
                s = np.zeros_like(s)
            one = [x[row, t : t + 1] for x in (q, k, v, full, beta)]
            expected[t : t + 1], s = loop(*one, 0.7, s)
        tolerance = 1e-5 if dtype == np.float32 else 1e-13
        close(out[row], expected, tolerance)
        close(last[row], s, tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_the_sequence(kind):
    q, k, v, g, beta, state = arrays(1, 2, 5, 2, 2, 16, 24, kind)
    out, last = run(kind, q, k, v, g, beta, initial_state=state)
    for t in range(5):
        o, state = step(kind, state, q[:, t], k[:, t], v[:, t], g[:, t], beta[:, t])
        np.testing.assert_array_equal(o, out[:, t])
    np.testing.assert_array_equal(state, last)


@pytest.mark.parametrize("kind", KINDS)
def test_strided_arrays_are_right_and_inputs_stay(kind):
    given_arrays = arrays(2, 2, 70, 2, 1, 8, 8, kind)
    *inputs, state = [np.asfortranarray(np.repeat(x, 2, 1))[:, ::2] for x in given_arrays]
    copies = [x.copy() for x in inputs]
    out, last = run(kind, *inputs, initial_state=np.asfortranarray(given_arrays[-1]))
    expected = run(kind, *given_arrays[:5], initial_state=given_arrays[-1])
    np.testing.assert_array_equal(out, expected[0])
    np.testing.assert_array_equal(last, expected[1])
    for x, copy in zip(inputs, copies, strict=True):
        np.testing.assert_array_equal(x, copy)
    assert not np.shares_memory(last, state)


def test_integers_and_lists_are_float64():
    out, last = ssm.delta_rule([[[[1]]]], [[[[1]]]], [[[[3]]]], [[[1]]], 2)
    assert out.dtype == np.float64
    assert out.tolist() == [[[[6.0]]]]
    assert last.tolist() == [[[[3.0]]]]


def test_l2_normalise():
    x = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(ssm.l2_normalise(x), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert ssm.l2_normalise(x).dtype == np.float32
    np.testing.assert_allclose(ssm.l2_normalise([3.0, 4.0], eps=75.0), [0.3, 0.4])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_differences(kind):
    q, k, v, g, beta, state = arrays(3, 2, 5, 1, 2, 3, 2, kind, np.float64)
    rng = np.random.default_rng(4)
    steps = as_steps(2, 5, [5, 3], "left", rng.random((2, 5)) < 0.2)
    of_o, of_last = rng.standard_normal(v.shape), rng.standard_normal(state.shape)

    def checked(q, k, v, g, beta, state):
        return delta.delta_inputs(q, k, v, None if kind == "delta" else g, beta, None, state)

    def loss(*values):
        o, last, _ = delta.delta_forward(*checked(*values), steps, threads=1, checkpoints=False)
        return (o * of_o).sum() + (last * of_last).sum()

    values = [q, k, v, g, beta, state]
    inputs, initial = checked(*values)
    _, _, kept = delta.delta_forward(inputs, initial, steps, threads=1, checkpoints=True)
    gradients = delta.delta_backward(inputs, kept, of_o, of_last, steps, threads=1)
    for at, gradient in enumerate(gradients):
        if gradient is None:
            assert (kind, at) == ("delta", 3)
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
        ({"g": np.zeros((2, 3, 2, 5))}, r"^g must have the shape \(batch, seq_len, n_heads_v\), not \(2, 3, 2, 5\)$"),
        ({"beta": np.zeros((2, 3))}, r"^beta must have the shape \(batch, seq_len, n_heads_v\) = \(2, 3, 2\)"),
        ({"initial_state": np.zeros((2, 2, 4, 5))}, r"^initial_state must have the shape .* = \(2, 2, 5, 4\)"),
        ({"lengths": [4, 1]}, r"^lengths\[0\] must be 0 to seq_len = 3, not 4$"),
        ({"threads": 0}, r"^threads must be"),
    ],
)
def test_errors_name_the_argument(change, message):
    q, k, v, g, beta, state = arrays(5, 2, 3, 1, 2, 5, 4, "gated")
    given_arguments = {"q": q, "k": k, "v": v, "g": g, "beta": beta, "initial_state": state}
    with pytest.raises(ValueError, match=message):
        ssm.gated_delta_rule(**given_arguments | change)
    with pytest.raises(TypeError, match=r"^q must be float32 or float64, not complex128$"):
        ssm.gated_delta_rule(**given_arguments | {"q": q.astype(complex)})


def test_gates_of_channels_are_told_from_those_of_heads():
    q, k, v, g, beta, state = arrays(5, 2, 3, 1, 2, 5, 4, "gated")
    with pytest.raises(
        ValueError, match=r"^g must have the shape \(batch, seq_len, n_heads_v, head_k\), not \(2, 3, 2\)"
    ):
        ssm.kimi_delta_attention(q, k, v, g, beta)
    with pytest.raises(ValueError, match=r"^g must have the shape \(batch, n_heads_v\), not \(2,\)"):
        ssm.gated_delta_rule_step(state, q[:, 0], k[:, 0], v[:, 0], g[:, 0, 0], beta[:, 0])
    with pytest.raises(ValueError, match=r"^state must have the shape .* = \(2, 2, 5, 4\), not \(2, 2, 4, 5\)"):
        ssm.delta_rule_step(state.swapaxes(2, 3), q[:, 0], k[:, 0], v[:, 0], beta[:, 0])


# --- Peers ------------------------------------------------------------------------------------------------


def tensors(*values):
    torch = pytest.importorskip("torch")
    return [torch.from_numpy(np.ascontiguousarray(x)) for x in values]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"])
def test_is_that_of_transformers(name):
    q, k, v, g, beta, state = arrays(6, 2, 130, 2, 1, 64, 64, "gated")
    expected = transformers_function("qwen3_next", name)(
        *tensors(q, k, v, g, beta), initial_state=tensors(state)[0], output_final_state=True
    )
    out, last = ssm.gated_delta_rule(q, k, v, g, beta, initial_state=state)
    close(out, expected[0].numpy(), 1e-5)
    close(last, expected[1].numpy(), 1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_is_that_of_flash_linear_attention(kind):
    q, k, v, g, beta, state = arrays(7, 2, 130, 2, 1, 64, 64, kind)
    t_q, t_k, t_v, t_g, t_beta, t_state = tensors(q, k, v, g, beta, state)
    if kind == "delta":
        naive = fla_naive("delta_rule")
        swapped = [x.transpose(1, 2) for x in (t_q, t_k, t_v, t_beta)]
        expected, expected_last = naive.delta_rule_recurrence(*swapped, initial_state=t_state)
        expected = expected.transpose(1, 2)
    elif kind == "gated":
        naive = fla_naive("gated_delta_rule")
        expected, expected_last = naive.naive_recurrent_gated_delta_rule(
            t_q, t_k, t_v, t_beta, t_g, initial_state=t_state, output_final_state=True
        )
    else:
        naive = fla_naive("kda")
        expected, expected_last = naive.naive_recurrent_kda(
            t_q, t_k, t_v, t_g, t_beta, initial_state=t_state, output_final_state=True
        )
    out, last = run(kind, q, k, v, g, beta, initial_state=state)
    close(out, expected.numpy(), 1e-5)
    close(last, expected_last.numpy(), 1e-5)
