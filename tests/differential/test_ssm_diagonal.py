"""The linear scan, LRU, RG-LRU, S4D and the causal convolution against loops in double precision and transformers."""

import warnings

import numpy as np
import pytest
from peers import transformers_module

from ngram_copy import ssm
from ngram_copy.ssm import _arrays, conv, linear, s4d

SHAPES = [(2, 0, 3), (1, 1, 1), (3, 70, 5), (2, 130, 17)]
"""(batch, seq_len, width)."""

PRECISIONS = {np.float32: (np.complex64, 3e-6), np.float64: (np.complex128, 1e-13)}


def random(rng, *shape, dtype=np.float64):
    dtype = np.dtype(dtype)
    real = rng.uniform(-0.7, 0.7, shape)
    return (real + 1j * rng.uniform(-0.7, 0.7, shape) if dtype.kind == "c" else real).astype(dtype)


def close(got, expected, tolerance):
    expected = np.asarray(expected)
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale)


def ways(rng, batch, seq_len):
    """Lengths, padding and resets in several ways."""
    lengths = rng.integers(0, seq_len + 1, batch)
    resets = rng.random((batch, seq_len)) < 0.1
    yield {}
    yield {"lengths": lengths}
    yield {"lengths": lengths, "padding": "left"}
    yield {"resets": resets}
    yield {"lengths": lengths, "padding": "left", "resets": resets, "threads": 2}


def walk(batch, seq_len, lengths=None, padding="right", resets=None, threads=1):
    """(row, step, whether an example begins) of the steps that are there."""
    for row in range(batch):
        length = seq_len if lengths is None else int(lengths[row])
        start = seq_len - length if padding == "left" else 0
        for step in range(start, start + length):
            yield row, step, resets is not None and bool(resets[row, step])


def loop_linear(a, x, state, **common):
    h, state = np.zeros_like(x), state.copy()
    a = np.broadcast_to(a, x.shape)
    for row, step, begins in walk(*x.shape[:2], **common):
        state[row] = a[row, step] * (0 if begins else state[row]) + x[row, step]
        h[row, step] = state[row]
    return h, state


def loop_conv(x, weight, bias, silu, state, **common):
    y, state = np.zeros_like(x), state.copy()
    for row, step, begins in walk(x.shape[0], x.shape[2], **common):
        window = np.concatenate([state[row] * (not begins), x[row, :, step : step + 1]], axis=1)
        total = (window * weight).sum(1) + bias
        y[row, :, step] = total / (1 + np.exp(-total)) if silu else total
        state[row] = window[:, 1:]
    return y, state


def loop_s4d(u, A, log_dt, B, C, D, state, **common):
    dt = np.exp(log_dt)[:, None]
    a_bar, b_bar = np.exp(dt * A), np.expm1(dt * A) / A * B
    y, state = np.zeros_like(u), state.copy()
    for row, step, begins in walk(u.shape[0], u.shape[2], **common):
        state[row] = a_bar * (0 if begins else state[row]) + b_bar * u[row, :, step, None]
        y[row, :, step] = 2 * (C * state[row]).sum(1).real + D * u[row, :, step]
    return y, state


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("real", PRECISIONS)
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("constant", [False, True])
def test_linear_scan_is_its_loop(shape, real, is_complex, constant):
    rng = np.random.default_rng(0)
    narrow, tolerance = PRECISIONS[real]
    dtype = narrow if is_complex else real
    batch, seq_len, width = shape
    a = random(rng, *((width,) if constant else shape), dtype=dtype)
    x, state = random(rng, *shape, dtype=dtype), random(rng, batch, width, dtype=dtype)
    wide = np.result_type(dtype, np.float64)
    for common in ways(rng, batch, seq_len):
        h, last = ssm.linear_scan(a, x, initial_state=state, **common)
        expected = loop_linear(a.astype(wide), x.astype(wide), state.astype(wide), **common)
        assert h.dtype == last.dtype == dtype
        close(h, expected[0], tolerance)
        close(last, expected[1], tolerance)
    now = state
    h, last = ssm.linear_scan(a, x, initial_state=state)
    for step in range(seq_len):
        of_step, now = ssm.linear_step(now, a if constant else a[:, step], x[:, step])
        assert np.array_equal(of_step, h[:, step])
    assert np.array_equal(now, last)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("real", PRECISIONS)
@pytest.mark.parametrize(("kernel", "activation"), [(1, None), (4, "silu"), (4, None), (7, "silu")])
def test_convolution_is_its_loop(shape, real, kernel, activation):
    rng = np.random.default_rng(0)
    batch, seq_len, channels = shape
    x, state = random(rng, batch, channels, seq_len, dtype=real), random(rng, batch, channels, kernel - 1, dtype=real)
    weight, bias = random(rng, channels, kernel, dtype=real), random(rng, channels, dtype=real)
    arrays = [array.astype(np.float64) for array in (x, weight, bias)]
    for common in ways(rng, batch, seq_len):
        y, last = ssm.causal_conv1d(x, weight, bias, activation, initial_state=state, **common)
        expected = loop_conv(*arrays, activation == "silu", state.astype(np.float64), **common)
        assert y.dtype == last.dtype == real
        close(y, expected[0], PRECISIONS[real][1])
        close(last, expected[1], 0)
    now = state
    y, last = ssm.causal_conv1d(x, weight, bias, activation, initial_state=state)
    for step in range(seq_len):
        of_step, now = ssm.causal_conv1d_update(now, x[..., step], weight, bias, activation)
        assert np.array_equal(of_step, y[..., step])
    assert np.array_equal(now, last)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("real", PRECISIONS)
@pytest.mark.parametrize("n_modes", [1, 8, 19])
def test_s4d_scan_is_its_loop(shape, real, n_modes):
    rng = np.random.default_rng(0)
    complex_, tolerance = PRECISIONS[real]
    batch, seq_len, d_model = shape
    u, D = random(rng, batch, d_model, seq_len, dtype=real), random(rng, d_model, dtype=real)
    B, C = (random(rng, d_model, n_modes, dtype=complex_) for _ in range(2))
    A = (-0.5 + 1j * np.pi * np.arange(n_modes) * np.ones((d_model, 1))).astype(complex_)
    log_dt = np.log(rng.uniform(0.001, 0.1, d_model)).astype(real)
    state = random(rng, batch, d_model, n_modes, dtype=complex_)
    wide = [array.astype(np.complex128 if np.iscomplexobj(array) else np.float64) for array in (u, A, log_dt, B, C, D)]
    for common in ways(rng, batch, seq_len):
        y, last = ssm.s4d_scan(u, A, log_dt, B, C, D, initial_state=state, **common)
        expected = loop_s4d(*wide, state.astype(np.complex128), **common)
        assert (y.dtype, last.dtype) == (real, complex_)
        close(y, expected[0], 10 * tolerance)
        close(last, expected[1], 10 * tolerance)
    now = state
    y, last = ssm.s4d_scan(u, A, log_dt, B, C, D, initial_state=state)
    for step in range(seq_len):
        of_step, now = ssm.s4d_state_update(now, u[..., step], A, log_dt, B, C, D)
        assert np.array_equal(of_step, y[..., step])
    assert np.array_equal(now, last)


def test_zero_order_hold_is_accurate_at_small_steps():
    A, B = np.array([[1e-9 - 1e-9j, 0, -3 + 5j]]), np.ones((1, 3))
    a, b = ssm.zero_order_hold(A, [-12.0], B)
    dt = np.exp(-12.0)
    series = dt * (1 + dt * A / 2 + (dt * A) ** 2 / 6 + (dt * A) ** 3 / 24)
    np.testing.assert_allclose(b, series, rtol=1e-15)
    np.testing.assert_allclose(a, np.exp(dt * A), rtol=1e-15)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gamma", [False, True])
def test_lru_is_its_loop(shape, gamma):
    rng = np.random.default_rng(0)
    batch, seq_len, d_model = shape
    d_state = 6
    u, D = random(rng, batch, seq_len, d_model), random(rng, d_model)
    nu_log, theta_log = random(rng, d_state), random(rng, d_state)
    B, C = random(rng, d_state, d_model, dtype=complex), random(rng, d_model, d_state, dtype=complex)
    gamma_log = random(rng, d_state) if gamma else None
    state = random(rng, batch, d_state, dtype=complex)
    factor = np.exp(-np.exp(nu_log) + 1j * np.exp(theta_log))
    scale = np.exp(gamma_log) if gamma else np.sqrt(1 - np.abs(factor) ** 2)
    for common in ways(rng, batch, seq_len):
        y, last = ssm.lru_scan(u, nu_log, theta_log, B, C, D, gamma_log, initial_state=state, **common)
        h, end = loop_linear(factor, u @ (scale[:, None] * B).T, state, **common)
        expected = (h @ C.T).real
        for row, step, _ in walk(batch, seq_len, **common):
            expected[row, step] += D * u[row, step]
        close(y, expected, 1e-13)
        close(last, end, 1e-13)
    y, last = ssm.lru_scan(u, nu_log, theta_log, B, C, D, gamma_log, initial_state=state)
    now = state
    for step in range(seq_len):
        of_step, now = ssm.lru_step(now, u[:, step], nu_log, theta_log, B, C, D, gamma_log)
        close(of_step, y[:, step], 1e-13)
    close(now, last, 1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_rg_lru_is_its_loop(shape):
    rng = np.random.default_rng(0)
    batch, seq_len, width = shape
    x, state, Lambda = random(rng, *shape), random(rng, batch, width), random(rng, width)
    r, i = rng.random(shape), rng.random(shape)
    log_a = -8 * r * np.log1p(np.exp(Lambda))
    for common in ways(rng, batch, seq_len):
        factor = np.sqrt(-np.expm1(2 * log_a))
        if "resets" in common:
            factor[common["resets"]] = 1
        h, last = ssm.rg_lru(x, r, i, Lambda, initial_state=state, **common)
        expected = loop_linear(np.exp(log_a), factor * i * x, state, **common)
        close(h, expected[0], 1e-13)
        close(last, expected[1], 1e-13)
    resets = rng.random((batch, seq_len)) < 0.3
    h, last = ssm.rg_lru(x, r, i, Lambda, initial_state=state, resets=resets)
    now = state
    for step in range(seq_len):
        of_step, now = ssm.rg_lru_step(now, x[:, step], r[:, step], i[:, step], Lambda, resets=resets[:, step])
        close(of_step, h[:, step], 1e-13)
    close(now, last, 1e-13)


def test_rg_lru_is_that_of_transformers():
    torch = pytest.importorskip("torch")
    module = transformers_module("recurrent_gemma")
    configuration = pytest.importorskip("transformers.models.recurrent_gemma.configuration_recurrent_gemma")
    heads, width, batch, seq_len = 2, 16, 2, 40
    config = configuration.RecurrentGemmaConfig(lru_width=width, num_attention_heads=heads, hidden_size=width)
    layer = module.RecurrentGemmaRglru(config)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.tensor(rng.uniform(-0.7, 0.7, parameter.shape), dtype=torch.float32))
    x = random(rng, batch, seq_len, width, dtype=np.float32)
    position_ids = np.tile(np.concatenate([np.arange(25), np.arange(15)]), (batch, 1))
    with torch.no_grad():
        expected = layer(torch.tensor(x), torch.tensor(position_ids)).numpy()

    def gate(weight, bias):
        blocks = x.reshape(batch, seq_len, heads, 1, -1) @ weight.detach().numpy()
        return 1 / (1 + np.exp(-(blocks[..., 0, :] + bias.detach().numpy()).reshape(x.shape)))

    r = gate(layer.recurrent_gate_weight, layer.recurrent_gate_bias)
    i = gate(layer.input_gate_weight, layer.input_gate_bias)
    h, _ = ssm.rg_lru(x, r, i, layer.recurrent_param.detach().numpy(), resets=position_ids == 0)
    assert h.dtype == np.float32
    close(h, expected, 1e-5)


@pytest.mark.parametrize("kernel", [2, 4])
def test_convolution_is_that_of_torch(kernel):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, weight, bias = random(rng, 2, 9, 50), random(rng, 9, kernel), random(rng, 9)
    whole = torch.nn.functional.conv1d(*map(torch.tensor, (x, weight[:, None], bias)), padding=kernel - 1, groups=9)
    y, last = ssm.causal_conv1d(x, weight, bias, "silu")
    close(y, torch.nn.functional.silu(whole[..., :50]).numpy(), 1e-13)
    close(last, x[..., 51 - kernel :], 0)


def through_torch(function, arrays):
    """Outputs of a function of torch tensors, upstream gradients, and the gradients of its inputs."""
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    outputs = function(torch, *tensors)
    rng = np.random.default_rng(1)
    upstream = [random(rng, *out.shape, dtype=out.detach().numpy().dtype) for out in outputs]
    torch.autograd.backward(outputs, [torch.tensor(array) for array in upstream])
    return upstream, [tensor.grad.numpy() for tensor in tensors]


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("constant", [False, True])
def test_gradients_of_the_linear_scan_are_those_of_torch(dtype, constant):
    rng = np.random.default_rng(0)
    shape = (2, 70, 5)
    a = random(rng, *((5,) if constant else shape), dtype=dtype)
    x, state = random(rng, *shape, dtype=dtype), random(rng, 2, 5, dtype=dtype)

    def function(torch, a, x, state):
        states = []
        for step in range(70):
            state = (a if constant else a[:, step]) * state + x[:, step]
            states.append(state)
        return torch.stack(states, 1), state

    upstream, expected = through_torch(function, (a, x, state))
    inputs, initial = linear.linear_inputs(a, x, state)
    steps = _arrays.as_steps(2, 70)
    h, _ = linear.linear_forward(inputs, initial, steps, threads=1)
    for got, gradient in zip(
        linear.linear_backward(inputs, initial, h, *upstream, steps, threads=1), expected, strict=True
    ):
        close(got, gradient, 1e-13)


def test_gradients_of_s4d_are_those_of_torch():
    rng = np.random.default_rng(0)
    u, D, log_dt = random(rng, 2, 3, 70), random(rng, 3), np.zeros(3)
    A, B, C = (random(rng, 3, 5, dtype=complex) for _ in range(3))
    state = random(rng, 2, 3, 5, dtype=complex)
    inputs, initial = s4d.s4d_inputs(u, A - 1, log_dt, B, C, D, state)

    def function(torch, u, a, b, c, d, state):
        ys = []
        for step in range(70):
            state = a * state + b * u[..., step, None]
            ys.append(2 * (c * state).sum(-1).real + d * u[..., step])
        return torch.stack(ys, -1), state

    upstream, expected = through_torch(function, (*inputs, state))
    steps = _arrays.as_steps(2, 70)
    _, _, kept = s4d.s4d_forward(inputs, initial, steps, threads=1, checkpoints=True)
    for got, gradient in zip(s4d.s4d_backward(inputs, kept, *upstream, steps, threads=2), expected, strict=True):
        close(got, gradient, 1e-13)


@pytest.mark.parametrize("activation", [None, "silu"])
def test_gradients_of_the_convolution_are_those_of_torch(activation):
    rng = np.random.default_rng(0)
    arrays = random(rng, 2, 5, 70), random(rng, 5, 4), random(rng, 5), random(rng, 2, 5, 3)

    def function(torch, x, weight, bias, state):
        joined = torch.cat([state, x], -1)
        y = torch.nn.functional.conv1d(joined, weight[:, None], bias, groups=5)
        return torch.nn.functional.silu(y) if activation else y, joined[..., -3:]

    upstream, expected = through_torch(function, arrays)
    inputs, initial = conv.conv_inputs(*arrays[:3], activation, arrays[3])
    got = conv.conv_backward(inputs, initial, *upstream, _arrays.as_steps(2, 70), threads=2)
    for got_, gradient in zip(got, expected, strict=True):
        close(got_, gradient, 1e-13)


def test_any_layout_is_right_and_inputs_stay():
    rng = np.random.default_rng(0)
    x, weight = random(rng, 2, 9, 10).transpose(0, 2, 1), random(rng, 10, 4)[:, ::-1]
    copies = x.copy(), weight.copy()
    y, _ = ssm.causal_conv1d(x, weight)
    expected, _ = ssm.causal_conv1d(*copies)
    assert np.array_equal(y, expected)
    assert np.array_equal(x, copies[0])
    a = np.broadcast_to(random(rng, 1, 1, 9, dtype=complex), (2, 10, 9))
    h, last = ssm.linear_scan(a, x)
    expected_h, _ = ssm.linear_scan(a[0, 0].copy(), x)
    assert np.array_equal(h, expected_h)
    assert not np.shares_memory(h, last)


def test_padding_may_hold_anything():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bad = np.full((1, 4, 3), np.nan)
        bad[0, 0] = 0.5
        for h in (ssm.linear_scan(bad, bad, lengths=[1]), ssm.rg_lru(bad, bad, bad, np.ones(3), lengths=[1])):
            assert all(np.isfinite(array).all() for array in h)
        y, last = ssm.lru_scan(bad, np.ones(2), np.ones(2), np.ones((2, 3)), np.ones((3, 2)), np.ones(3), lengths=[1])
        assert np.isfinite(y).all()
        assert np.isfinite(last).all()
        y, last = ssm.causal_conv1d(bad.transpose(0, 2, 1), np.ones((3, 4)), lengths=[1])
        assert np.isfinite(y).all()
        assert np.isfinite(last).all()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: ssm.linear_scan(np.ones(3), np.ones((1, 2, 4))),
            ValueError,
            r"a must have the shape \(width\) = \(4\)",
        ),
        (lambda: ssm.linear_scan(["x"], np.ones((1, 2, 1))), TypeError, "a must be float32, float64, complex64"),
        (lambda: ssm.linear_scan(np.ones(4), np.ones((2, 4))), ValueError, "x must have the shape"),
        (
            lambda: ssm.linear_scan(np.ones(4), np.ones((1, 2, 4)), initial_state=np.ones(4)),
            ValueError,
            "initial_state must have the shape",
        ),
        (lambda: ssm.causal_conv1d(np.ones((1, 2, 4)), np.ones((2, 0))), ValueError, "weight must have 1 to 256 taps"),
        (
            lambda: ssm.causal_conv1d(np.ones((1, 2, 4)), np.ones((2, 3)), activation="relu"),
            ValueError,
            "activation must be None or 'silu', not 'relu'",
        ),
        (lambda: ssm.causal_conv1d(np.ones((1, 2, 4), complex), np.ones((2, 3))), TypeError, "x must be float32"),
        (
            lambda: ssm.s4d_scan(np.ones((1, 2, 4), complex), *[np.ones((2, 1))] * 4),
            TypeError,
            "u must be real, not complex128",
        ),
        (
            lambda: ssm.s4d_scan(np.ones((1, 2, 4)), np.ones((2, 3)), np.ones(2), np.ones((2, 2)), np.ones((2, 3))),
            ValueError,
            "B must have the shape",
        ),
        (
            lambda: ssm.s4d_scan(np.ones((1, 2, 4)), np.ones((2, 0)), np.ones(2), np.ones((2, 0)), np.ones((2, 0))),
            ValueError,
            "A must have at least one mode",
        ),
        (
            lambda: ssm.lru_scan(np.ones((1, 2, 4)), np.ones(3), np.ones(2), np.ones((3, 4)), np.ones((4, 3))),
            ValueError,
            "theta_log must have the shape",
        ),
        (lambda: ssm.rg_lru(*[np.ones((1, 2, 4))] * 2, np.ones((1, 2, 3)), np.ones(4)), ValueError, "gate_i must have"),
    ],
)
def test_bad_input_is_named(call, error, text):
    with pytest.raises(error, match=text):
        call()
