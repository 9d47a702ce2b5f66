"""The selective scan against a loop over time in float64: values, splits, padding, packed examples, gradients."""

import re

import numpy as np
import pytest

from ngram_copy import ssm
from ngram_copy.ssm._arrays import as_steps
from ngram_copy.ssm.selective import selective_backward, selective_forward, selective_inputs

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def arrays(batch, d_model, seq_len, d_state, groups, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    u, delta, z = rng.normal(size=(3, batch, d_model, seq_len))
    b, c = rng.normal(size=(2, batch, groups, d_state, seq_len))
    d, bias = rng.normal(size=(2, d_model))
    given = (u, delta - 1, -np.exp(rng.normal(size=(d_model, d_state))), b, c, d, z, bias)
    return [x.astype(dtype) for x in given], rng.normal(size=(batch, d_model, d_state)).astype(dtype)


def loop(given, state, steps=None, resets=None):
    """The equation, step by step, in float64."""
    u, delta, a, b, c, d, z, bias = (np.asarray(x, np.float64) for x in given)
    state = np.asarray(state, np.float64).copy()
    batch, d_model, seq_len = u.shape
    b, c = (np.repeat(x, d_model // x.shape[1], axis=1) for x in (b, c))
    size = np.logaddexp(0, delta + bias[:, None])
    y = np.zeros_like(u)
    for row in range(batch):
        for t in steps[row] if steps else range(seq_len):
            if resets is not None and resets[row, t]:
                state[row] = 0
            decay = np.exp(size[row, :, t, None] * a)
            state[row] = decay * state[row] + (size[row, :, t] * u[row, :, t])[:, None] * b[row, :, :, t]
            out = (c[row, :, :, t] * state[row]).sum(-1) + d * u[row, :, t]
            y[row, :, t] = out * z[row, :, t] / (1 + np.exp(-z[row, :, t]))
    return y, state


def close(found, expected, dtype):
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    assert np.abs(found - expected).max(initial=0) <= tolerance * np.abs(expected).max(initial=1e-30)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", [(2, 6, 150, 16, 2), (1, 70, 65, 5, 1), (2, 3, 64, 40, 1), (1, 1, 1, 1, 1)])
def test_it_is_the_loop(sizes, dtype):
    given, state = arrays(*sizes, dtype)
    y, last = ssm.selective_scan(*given, delta_softplus=True, initial_state=state)
    expected_y, expected_last = loop(given, state)
    assert y.dtype == last.dtype == dtype
    close(y, expected_y, dtype)
    close(last, expected_last, dtype)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_padding_and_packed_examples(padding):
    given, state = arrays(3, 4, 130, 12, 1)
    lengths, resets = [130, 0, 77], np.random.default_rng(1).random((3, 130)) < 0.1
    steps = [range(130 - n, 130) if padding == "left" else range(n) for n in lengths]
    found = ssm.selective_scan(
        *given, delta_softplus=True, initial_state=state, lengths=lengths, padding=padding, resets=resets
    )
    for found_one, expected in zip(found, loop(given, state, steps, resets), strict=True):
        close(found_one, expected, np.float64)


def test_whole_is_steps_is_any_split_for_any_number_of_threads():
    given, state = arrays(2, 70, 90, 16, 1, np.float32)
    whole = ssm.selective_scan(*given, delta_softplus=True, initial_state=state)
    again = ssm.selective_scan(*given, delta_softplus=True, initial_state=state, threads=2)
    assert all(one.tobytes() == two.tobytes() for one, two in zip(whole, again, strict=True))
    for cut in (0, 1, 33, 64, 90):
        parts = [[x[..., :cut] if x.ndim > 2 else x for x in given], [x[..., cut:] if x.ndim > 2 else x for x in given]]
        y1, middle = ssm.selective_scan(*parts[0], delta_softplus=True, initial_state=state)
        y2, last = ssm.selective_scan(*parts[1], delta_softplus=True, initial_state=middle)
        close(np.concatenate([y1, y2], axis=-1), whole[0], np.float32)
        close(last, whole[1], np.float32)
    h = state
    for t in range(90):
        u, delta, a, b, c, d, z, bias = given
        step = (u[..., t], delta[..., t], a, b[..., t], c[..., t], d, z[..., t], bias)
        y, h = ssm.selective_state_update(h, *step, dt_softplus=True)
        close(y, whole[0][..., t], np.float32)
    close(h, whole[1], np.float32)


def test_gradients_are_differences():
    given, state = arrays(2, 4, 70, 9, 2)
    resets = np.zeros((2, 70), bool)
    resets[0, 30] = True
    rng = np.random.default_rng(2)
    of_y, of_last = rng.normal(size=given[0].shape), rng.normal(size=state.shape)
    steps = as_steps(2, 70, [70, 51], "right", resets)

    def value(given, state):
        inputs, start = selective_inputs(*given, True, state)
        y, last, _ = selective_forward(inputs, start, steps, threads=1, checkpoints=False)
        return (y * of_y).sum() + (last * of_last).sum()

    inputs, start = selective_inputs(*given, True, state)
    _, _, kept = selective_forward(inputs, start, steps, threads=1, checkpoints=True)
    gradients = selective_backward(inputs, kept, of_y, of_last, steps, threads=1)
    twice = selective_backward(inputs, kept, of_y, of_last, steps, threads=2)
    assert all(one.tobytes() == two.tobytes() for one, two in zip(gradients, twice, strict=True))
    for at, (name, gradient) in enumerate(zip((*NAMES, "state"), gradients, strict=True)):
        everything = [*given, state]
        way = rng.normal(size=everything[at].shape)
        ends = []
        for side in (1e-5, -1e-5):
            moved = [x + side * way if index == at else x for index, x in enumerate(everything)]
            ends.append(value(moved[:8], moved[8]))
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx((gradient * way).sum(), rel=1e-6, abs=1e-6), name


def test_nan_goes_where_the_equation_takes_it():
    given, state = arrays(1, 3, 20, 5, 1, np.float32)
    given[0][0, 1, 7] = np.nan
    y, last = ssm.selective_scan(*given, delta_softplus=True, initial_state=state)
    assert np.isnan(y[0, 1, 7:]).all()
    assert np.isnan(last[0, 1]).all()
    assert np.isfinite(np.delete(y, 1, axis=1)).all()
    assert np.isfinite(y[0, 1, :7]).all()


@pytest.mark.parametrize("d_state", [5, 16, 32])  # registers that are part empty, and full ones
@pytest.mark.parametrize("extreme", [np.nan, np.inf, 300.0, -300.0])
def test_a_step_of_any_size_is_the_scan(d_state, extreme):
    """Rates and step sizes beyond what the fast path takes, in one channel; the others are as they were."""
    (u, delta, A, B, C, D, z, bias), state = arrays(2, 70, 1, d_state, 1, np.float32)
    delta[0, 3] = 1.0
    A[3] = extreme
    scanned, last = ssm.selective_scan(u, delta, A, B, C, D, z, bias, delta_softplus=True, initial_state=state)
    y, new = ssm.selective_state_update(
        state, u[..., 0], delta[..., 0], A, B[..., 0], C[..., 0], D, z[..., 0], bias, dt_softplus=True
    )
    np.testing.assert_allclose(new, last, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y, scanned[..., 0], rtol=1e-4, atol=1e-5)
    assert np.isfinite(np.delete(new, 3, axis=1)).all()


def test_no_steps_leave_the_state():
    given, state = arrays(2, 3, 0, 4, 1)
    y, last = ssm.selective_scan(*given, initial_state=state)
    assert y.shape == (2, 3, 0)
    assert (last == state).all()
    assert last is not state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": np.zeros((2, 3))}, "u must have the shape (batch, d_model, seq_len)"),
        ({"A": np.zeros((4, 3))}, "A must have the shape (d_model, d_state) = (3, d_state), not (4, 3)"),
        (
            {"delta": np.zeros((2, 3, 4))},
            "delta must have the shape (batch, d_model, seq_len) = (2, 3, 5), not (2, 3, 4)",
        ),
        ({"lengths": [5, 6]}, "lengths[1] must be 0 to seq_len = 5, not 6"),
        ({"padding": "middle"}, "padding must be 'left' or 'right', not 'middle'"),
        ({"resets": np.zeros((2, 4), bool)}, "resets must have the shape (batch, seq_len) = (2, 5), not (2, 4)"),
        ({"B": np.zeros((2, 2, 4, 5)), "C": np.zeros((2, 2, 4, 5))}, "the groups of B, 2, must divide d_model = 3"),
        ({"threads": 0}, "threads must be 1 to 1024, not 0"),
    ],
)
def test_bad_arguments(change, message):
    given, _ = arrays(2, 3, 5, 4, 1)
    arguments = dict(zip(NAMES, given, strict=True)) | change
    with pytest.raises(ValueError, match=re.escape(message)):
        ssm.selective_scan(**arguments)
