"""``ngram_copy.models.ops``: values, states and gradients of every function, on every backend that runs on a CPU."""

import functools

import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from ops_cases import CASES

from ngram_copy.models import ops
from ngram_copy.models.ops import chunks, naive, rust

PAIRS = [
    pytest.param(case, backend, id=f"{case.id}-{backend}")
    for case in CASES
    for backend in ["torch", "rust"]
    if backend == "torch" or rust.has(case.function)
]
SEQ_LEN = 2 * chunks.CHUNK + 5


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def real(tensor):
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def leaves(arguments):
    return {
        name: value.clone().requires_grad_() if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    }


def outcome(run, arguments, state, **common):
    """Output, last state, and the gradients of everything by a sum that weighs all elements differently."""
    arguments, state = leaves(arguments), None if state is None else state.clone().requires_grad_()
    y, last = run(arguments, initial_state=state, **common)
    (real(y).sin().sum() + real(last).cos().sum()).backward()
    given = [value for value in arguments.values() if isinstance(value, torch.Tensor)] + [state] * (state is not None)
    return [y.detach(), last.detach(), *(torch.zeros_like(one) if one.grad is None else one.grad for one in given)]


def close(found, expected, tolerance=1e-10):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        scale = max(1.0, float(other.abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * scale)


def call(function, arguments, **common):
    return function(**arguments, **common)


def some_resets(batch, seq_len, seed=3):
    return torch.rand(batch, seq_len, generator=torch.Generator().manual_seed(seed)) < 0.07


COMMON = {
    "plain": {},
    "right": {"lengths": [SEQ_LEN, 70, 0], "resets": some_resets(3, SEQ_LEN)},
    "left": {"lengths": torch.tensor([SEQ_LEN, 3, 66]), "padding": "left", "resets": some_resets(3, SEQ_LEN)},
}


@functools.cache
def expected_of(name, common):
    case = next(case for case in CASES if case.id == name)
    return outcome(case.oracle, *inputs_of(case, common), **COMMON[common])


def inputs_of(case, common):
    return case.arguments(3, SEQ_LEN), None if common == "plain" else case.initial_state(3)


@pytest.mark.parametrize("common", COMMON)
@pytest.mark.parametrize(("case", "backend"), PAIRS)
def test_values_and_gradients_are_those_of_the_equation(case, backend, common):
    found = outcome(functools.partial(case.run, backend=backend), *inputs_of(case, common), **COMMON[common])
    close(found, expected_of(case.id, common))


@pytest.mark.parametrize(("case", "backend"), PAIRS)
def test_a_whole_sequence_is_its_parts_and_its_steps(case, backend):
    seq_len = 70
    arguments, state = case.arguments(2, seq_len), case.initial_state(2)
    y, last = case.run(arguments, initial_state=state, backend=backend)
    at, outputs = state, []
    for start, end in [(0, 1), (1, 66), (66, 66), (66, seq_len)]:
        part, at = case.run(case.part(arguments, start, end), initial_state=at, backend=backend)
        outputs.append(part)
    close([torch.cat(outputs, dim=case.output_time), at], [y, last])
    at, outputs = state, []
    for t in range(seq_len):
        part, at = case.one_step(at, arguments, t, backend=backend)
        outputs.append(part)
    close([torch.stack(outputs, dim=case.output_time), at], [y, last])


@pytest.mark.parametrize(("case", "backend"), PAIRS)
def test_packed_examples_are_separate(case, backend):
    arguments = case.arguments(1, 90)
    resets = torch.zeros(1, 90, dtype=torch.bool)
    resets[0, [0, 13, 77]] = True
    y, last = case.run(arguments, initial_state=case.initial_state(1), resets=resets, backend=backend)
    parts = [
        case.run(case.part(arguments, start, end), resets=resets[:, start:end], backend=backend)
        for start, end in [(0, 13), (13, 77), (77, 90)]
    ]
    close([y, last], [torch.cat([part for part, _ in parts], dim=case.output_time), parts[-1][1]])


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize(("case", "backend"), PAIRS)
def test_padding_is_not_there(case, backend, padding):
    """Whatever it holds: here NaN, in every tensor that has time."""
    seq_len, length = 70, 20
    ends = (0, length) if padding == "right" else (seq_len - length, seq_len)
    arguments, state = case.arguments(1, seq_len), case.initial_state(1)
    short = outcome(functools.partial(case.run, backend=backend), case.part(arguments, *ends), state)
    for name, dim in case.time.items():
        if name in arguments:
            outside = torch.ones(seq_len, dtype=torch.bool)
            outside[ends[0] : ends[1]] = False
            arguments[name].movedim(dim, 0)[outside] = torch.nan
    common = {"lengths": [length], "padding": padding}
    padded = outcome(functools.partial(case.run, backend=backend), arguments, state, **common)
    dims = [
        case.output_time,
        None,
        *(case.time.get(name) for name in arguments if torch.is_tensor(arguments[name])),
        None,
    ]
    for one, other, dim in zip(padded, short, dims, strict=True):
        if dim is None:
            close([one], [other])
        else:
            close([one.narrow(dim, ends[0], length)], [other])
            assert float(one.abs().sum()) == pytest.approx(float(other.abs().sum()), rel=1e-9)


@pytest.mark.parametrize(("case", "backend"), PAIRS)
def test_a_nan_goes_forward_in_its_example_alone(case, backend):
    arguments = case.arguments(2, 90)
    resets = torch.zeros(2, 90, dtype=torch.bool)
    resets[0, 50] = True
    clean, _ = case.run(arguments, resets=resets, backend=backend)
    for name in sorted(set(case.time) & set(arguments)):
        spoilt = {**arguments, name: arguments[name].clone()}
        spoilt[name].select(case.time[name], 30)[0] = torch.nan
        y, last = case.run(spoilt, resets=resets, backend=backend)
        by_time, clean_by_time = y.movedim(case.output_time, 1), clean.movedim(case.output_time, 1)
        assert real(by_time[0, 30]).isnan().any(), name
        for part in ([0, slice(0, 30)], [0, slice(50, None)], [1]):
            torch.testing.assert_close(by_time[tuple(part)], clean_by_time[tuple(part)])
        assert real(last).isfinite().all()


@pytest.mark.parametrize(("case", "backend"), PAIRS)
def test_no_steps_hand_the_state_on(case, backend):
    arguments, state = leaves(case.arguments(2, 0)), case.initial_state(2).requires_grad_()
    y, last = case.run(arguments, initial_state=state, backend=backend)
    assert y.shape[case.output_time] == 0
    assert torch.equal(last, state)
    assert last.data_ptr() != state.data_ptr()
    real(last).sum().backward()
    assert torch.equal(real(state.grad), torch.ones_like(real(state)))
    _, zero = case.run(arguments, backend=backend)
    assert not zero.any()


@pytest.mark.parametrize(("case", "backend"), PAIRS)
def test_layout_does_not_matter_and_inputs_stay(case, backend):
    """Transposed and strided in memory, and with rows that are one row spread over the batch."""
    arguments = case.arguments(1, 20)
    for name in case.time:
        if name in arguments:
            arguments[name] = arguments[name].expand(2, *arguments[name].shape[1:])
    expected = case.run(
        {key: value.contiguous() if torch.is_tensor(value) else value for key, value in arguments.items()}
    )
    for name, value in arguments.items():
        if torch.is_tensor(value) and name not in case.time:
            wide = torch.zeros(*(2 * size for size in reversed(value.shape)), dtype=value.dtype).permute(
                *reversed(range(value.dim()))
            )
            arguments[name] = wide[tuple(slice(None, None, 2) for _ in value.shape)].copy_(value)
        elif name in case.time:
            arguments[name] = value.transpose(-1, -2).contiguous().transpose(-1, -2) if value.shape[0] == 1 else value
    before = {name: value.clone() for name, value in arguments.items() if torch.is_tensor(value)}
    y, last = case.run(arguments, backend=backend)
    close([y, last], expected)
    for name, value in before.items():
        assert torch.equal(arguments[name], value)
    starts = {value.untyped_storage().data_ptr() for value in arguments.values() if torch.is_tensor(value)}
    assert y.untyped_storage().data_ptr() not in starts
    assert last.untyped_storage().data_ptr() not in starts | {y.untyped_storage().data_ptr()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("case", "backend"), PAIRS)
def test_low_precision_inputs_have_sums_and_states_in_float32(case, backend, dtype):
    arguments = case.arguments(2, 70, torch.float32)
    low = {
        name: value.to(dtype) if name in case.time and not value.is_complex() else value
        for name, value in arguments.items()
    }
    y, last = case.run(low, backend=backend)
    wide = {
        name: value.float() if name in case.time and not value.is_complex() else value for name, value in low.items()
    }
    expected, expected_last = case.run(wide, backend=backend)
    if not y.is_complex():
        assert y.dtype == dtype
        torch.testing.assert_close(y, expected.to(dtype))
    assert last.dtype == (dtype if case.function == "causal_conv1d" else expected_last.dtype)
    torch.testing.assert_close(last, expected_last.to(last.dtype), rtol=1e-6, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        again, _ = case.run(wide, backend=backend)
        step, _ = case.one_step(case.initial_state(2, torch.float32), wide, 0, backend=backend)
    assert torch.equal(again, expected)
    assert torch.equal(step, case.one_step(case.initial_state(2, torch.float32), wide, 0, backend=backend)[0])


@pytest.mark.parametrize(("case", "backend"), PAIRS)
def test_gradcheck(case, backend, monkeypatch):
    """Over more than one chunk, with padding and resets."""
    monkeypatch.setattr(chunks, "CHUNK", 3)
    arguments, state = case.arguments(2, 7), case.initial_state(2)
    names = [name for name, value in arguments.items() if torch.is_tensor(value)]
    resets = torch.zeros(2, 7, dtype=torch.bool)
    resets[0, 5] = True

    def run(state, *values):
        given = {**arguments, **dict(zip(names, values, strict=True))}
        return case.run(given, initial_state=state, lengths=[7, 5], resets=resets, backend=backend)

    inputs = [value.clone().requires_grad_() for value in (state, *(arguments[name] for name in names))]
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True, atol=1e-6)


@pytest.mark.parametrize(("case", "backend"), PAIRS)
def test_gradcheck_of_a_step(case, backend):
    arguments, state = case.arguments(2, 1), case.initial_state(2)
    names = [name for name, value in arguments.items() if torch.is_tensor(value)]

    def run(state, *values):
        return case.one_step(state, {**arguments, **dict(zip(names, values, strict=True))}, 0, backend=backend)

    inputs = [value.clone().requires_grad_() for value in (state, *(arguments[name] for name in names))]
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # of torch's formulas
@pytest.mark.parametrize("step", [False, True], ids=["scan", "step"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_derivatives_of_forward_mode_and_torch_func_are_torchs(case, step):
    """The core has none of these; it must not leave tangents out in silence."""
    arguments, state = case.arguments(2, 4), case.initial_state(2)
    names = [name for name, value in arguments.items() if torch.is_tensor(value)]

    def run(state, *values, backend="auto"):
        given = {**arguments, **dict(zip(names, values, strict=True))}
        if step:
            return case.one_step(state, given, 0, backend=backend)
        return case.run(given, initial_state=state, backend=backend)

    inputs = [state, *(arguments[name] for name in names)]
    leaves = [value.clone().requires_grad_() for value in inputs]
    checks = {"check_forward_ad": True, "check_backward_ad": False, "check_undefined_grad": False}
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True, atol=1e-6, **checks)
    _, pull = torch.func.vjp(run, *inputs)
    outputs = run(*leaves)
    for found, expected in zip(
        pull(tuple(torch.ones_like(one) for one in outputs)),
        torch.autograd.grad(outputs, leaves, [torch.ones_like(one) for one in outputs]),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match=r"none of torch\.func or in forward mode"):
        torch.func.jvp(functools.partial(run, backend="rust"), tuple(inputs), tuple(map(torch.ones_like, inputs)))


def test_torch_func_sees_through_vmap():
    q, k = torch.randn(2, 3, 1, 5, 2, 4, dtype=torch.float64)

    def loss(q):
        return torch.func.vmap(lambda q, k: ops.linear_attention(q, k, k)[0])(q, k).sin().sum()

    found = torch.func.grad(loss)(q)
    leaf = q.clone().requires_grad_()
    whole = ops.linear_attention(leaf[:, 0], k[:, 0], k[:, 0])[0]
    torch.testing.assert_close(found, torch.autograd.grad(whole.sin().sum(), leaf)[0])


@pytest.mark.parametrize("backend", ["torch", "rust"])
def test_reset_of_a_step_of_rg_lru(backend):
    case = next(case for case in CASES if case.id == "rg_lru")
    if backend == "rust" and not rust.has(case.function):
        backend = "torch"
    arguments, state = case.arguments(2, 1), case.initial_state(2)
    resets = torch.tensor([[True], [False]])
    expected = case.oracle(arguments, initial_state=state, resets=resets)
    y, last = case.one_step(state, arguments, 0, resets=resets[:, 0], backend=backend)
    close([y[:, None], last], expected)


@pytest.mark.parametrize("channel", [False, True], ids=["head", "channel"])
def test_strong_gates_neither_overflow_nor_cancel_weak_ones(channel):
    """Gates of -100, of -1e-3 and of -inf side by side, in float32 against float64."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 100, 2, 8, generator=generator) for _ in range(3))
    k = ops.l2_normalise(k)
    shape = (1, 100, 2, 8) if channel else (1, 100, 2)
    g = torch.where(torch.rand(shape, generator=generator) < 0.3, -100.0, -1e-3)
    g[0, 40, 0], g[0, 90, 1] = -torch.inf, -torch.inf
    beta = torch.rand(1, 100, 2, generator=generator)
    arguments = {"q": q, "k": k, "v": v, "g": g}
    delta = "kimi_delta_attention" if channel else "gated_delta_rule"
    for name, given in {"gated_linear_attention": arguments, delta: {**arguments, "beta": beta}}.items():
        found = outcome(functools.partial(call, getattr(ops, name), backend="torch"), given, None)
        wide = {key: value.double() for key, value in given.items()}
        expected = outcome(functools.partial(call, getattr(naive, name)), wide, None)
        for one, other in zip(found, expected, strict=True):
            assert one.isfinite().all()
            assert float((one - other).abs().max() / other.abs().max()) < 1e-5


def test_gates_that_grow_are_taken_as_they_are():
    q, k, v = (
        torch.randn(1, 70, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) for _ in range(3)
    )
    for g in (torch.full((1, 70, 1), 0.2), torch.full((1, 70, 1, 4), 0.2)):
        close(
            ops.gated_linear_attention(q, k, v, g.double(), backend="torch"),
            naive.gated_linear_attention(q, k, v, g.double()),
        )


def test_s4d_at_a_rate_of_zero():
    """(exp(ΔA) - 1)/A is Δ there."""
    u = torch.ones(1, 1, 5, dtype=torch.float64)
    a = torch.zeros(1, 1, dtype=torch.complex128, requires_grad=True)
    one = torch.ones(1, 1, dtype=torch.complex128)
    y, _ = ops.s4d_scan(u, a, torch.zeros(1, dtype=torch.float64), one, one, backend="torch")
    torch.testing.assert_close(y[0, 0], 2 * torch.arange(1, 6, dtype=torch.float64))
    y.sum().backward()
    assert torch.view_as_real(a.grad).isfinite().all()


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.id in {"selective", "s4d", "gla", "kda", "mamba2-full"}],
    ids=lambda case: case.id,
)
def test_the_torch_backend_keeps_its_inputs_and_a_state_for_each_chunk(case):
    """Not a state for each step, as autograd alone would."""
    seq_len = 10 * chunks.CHUNK
    arguments = leaves(case.arguments(2, seq_len))
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _, state = case.run(arguments, backend="torch")
    inputs = sum(value.nbytes for value in arguments.values() if torch.is_tensor(value))
    parameters = 4096
    assert sum(storage.nbytes() for storage in kept.values()) <= inputs + 10 * state.nbytes + parameters


def test_l2_normalise():
    x = torch.randn(3, 4)
    torch.testing.assert_close(ops.l2_normalise(x, 1e-5), x / (x.square().sum(-1, keepdim=True) + 1e-5).sqrt())
    assert ops.l2_normalise(x.bfloat16()).dtype == torch.bfloat16
    assert ops.l2_normalise(torch.zeros(2, 3)).eq(0).all()


BAD = {
    "shape": ({"A": torch.zeros(3, 3)}, ValueError, r"A must have the shape \(d_model=4, d_state\), not \(3, 3\)"),
    "dimensions": (
        {"B": torch.zeros(2)},
        ValueError,
        r"B must have the shape \(batch=2, n_groups, d_state=3, seq_len=5\)",
    ),
    "groups": (
        {"B": torch.zeros(2, 3, 3, 5), "C": torch.zeros(2, 3, 3, 5)},
        ValueError,
        "d_model=4 must be a multiple of",
    ),
    "dtype": ({"u": torch.zeros(2, 4, 5, dtype=torch.int64)}, TypeError, "u must be of float16, .* not of torch.int64"),
    "list": ({"D": [1.0]}, TypeError, "D must be a tensor, not list"),
    "device": ({"z": torch.zeros(2, 4, 5, device="meta")}, ValueError, "z must be on cpu, .* not on meta"),
    "state": (
        {"initial_state": torch.zeros(2, 4, 9)},
        ValueError,
        r"initial_state must have the shape \(batch=2, d_model=4",
    ),
    "padding": ({"padding": "top"}, ValueError, "padding must be 'right' or 'left', not 'top'"),
    "lengths": ({"lengths": [5, 6]}, ValueError, "lengths must be 0 to seq_len=5, not 6"),
    "tensor of lengths": ({"lengths": torch.tensor([5, -1])}, ValueError, "lengths must be 0 to seq_len=5, not -1"),
    "few lengths": ({"lengths": [5]}, ValueError, r"lengths must have the shape \(batch=2,\), not \(1,\)"),
    "real lengths": ({"lengths": torch.zeros(2)}, TypeError, "lengths must be integers, not torch.float32"),
    "list of reals": ({"lengths": [1.5, 2.0]}, TypeError, "'float' object cannot be interpreted as an integer"),
    "resets": ({"resets": torch.zeros(2, 5)}, TypeError, "resets must be a tensor of bool, not torch.float32"),
    "list of resets": ({"resets": [[True] * 5] * 2}, TypeError, "resets must be a tensor of bool, not list"),
    "shape of resets": (
        {"resets": torch.zeros(2, 4, dtype=torch.bool)},
        ValueError,
        r"resets must have the shape \(batch=2",
    ),
    "backend": (
        {"backend": "numpy"},
        ValueError,
        "backend must be one of auto, rust, torch, fla, mamba_ssm, not 'numpy'",
    ),
    "cannot": ({"backend": "fla"}, ValueError, "backend='fla' cannot run selective_scan: it does not have it"),
    "no GPU": ({"backend": "mamba_ssm"}, ValueError, "cannot run selective_scan: it runs on CUDA, not on cpu"),
}


@pytest.mark.parametrize("bad", BAD)
def test_an_error_names_the_argument(bad):
    changed, error, text = BAD[bad]
    case = next(case for case in CASES if case.id == "selective")
    with pytest.raises(error, match=text):
        ops.selective_scan(**{**case.arguments(2, 5, torch.float32), **changed})


def test_other_arguments_are_checked_too():
    case = next(case for case in CASES if case.id == "kda")
    arguments = case.arguments(2, 5)
    with pytest.raises(ValueError, match=r"v: v_heads=3 must be a multiple of n_heads=2"):
        case.run({**arguments, "v": torch.zeros(2, 5, 3, 3)})
    with pytest.raises(ValueError, match=r"g must have the shape .*head_k=5\)"):
        case.run({**arguments, "g": torch.zeros(2, 5, 4)})
    s4d = next(case for case in CASES if case.id == "s4d").arguments(2, 5)
    with pytest.raises(TypeError, match=r"B must be of complex64 or complex128, not of torch\.float64"):
        ops.s4d_scan(**{**s4d, "B": s4d["B"].real})
    x, weight = torch.zeros(2, 4, 5), torch.zeros(4, 3)
    with pytest.raises(ValueError, match="activation must be None or 'silu', not 'gelu'"):
        ops.causal_conv1d(x, weight, activation="gelu")
    with pytest.raises(ValueError, match="weight must have a kernel of at least 1"):
        ops.causal_conv1d(x, torch.zeros(4, 0))
    with pytest.raises(ValueError, match=r"state must have the shape \(batch=2, channels=4, kernel-1=2\)"):
        ops.causal_conv1d_update(torch.zeros(2, 4, 3), x[..., 0], weight)


def test_a_kernel_of_one_has_no_state():
    x, weight = torch.randn(2, 4, 5), torch.randn(4, 1)
    y, state = ops.causal_conv1d(x, weight)
    torch.testing.assert_close(y, x * weight)
    assert state.shape == (2, 4, 0)
