"""Which backend runs a call; the calls of fla-core and mamba-ssm, held against stand-ins of their signatures."""

import inspect
import sys
import types

import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from ops_cases import CASES

from ngram_copy.models import ops
from ngram_copy.models.ops import backends, external, naive, rust
from ngram_copy.models.ops.arguments import PLAIN, Steps

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def case_of(name):
    return next(case for case in CASES if case.id == name)


@pytest.fixture
def gpu(monkeypatch):
    """Both packages installed, and a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends, "INSTALLED", {"fla": True, "mamba_ssm": True})


def test_every_function_has_its_backends():
    functions = {name for name in ops.__all__ if name not in {"Resolution", "resolve_backend", "l2_normalise"}}
    assert functions == backends.FUNCTIONS
    assert functions == {case.function for case in CASES} | {case.step for case in CASES}
    assert set(backends.EXTERNAL) <= functions


def test_what_is_no_device_is_said():
    with pytest.raises(ValueError, match="no device is called 'torch'"):
        ops.resolve_backend("selective_scan", "torch")


def test_on_the_cpu_it_is_rust():
    found = ops.resolve_backend("selective_scan", torch.zeros(1))
    assert found == ops.Resolution("rust", "the CPU's backend")
    assert ops.resolve_backend("selective_scan") == found
    assert ops.resolve_backend("selective_scan", "cpu", torch.float64, backend="torch").backend == "torch"
    assert ops.resolve_backend("selective_scan", backend="rust").reason == "asked for"


def test_what_the_core_lacks_says_so(monkeypatch):
    monkeypatch.setattr(rust, "KERNELS", {})
    assert ops.resolve_backend("delta_rule") == ("torch", "not Rust: the core does not have it")
    with pytest.raises(ValueError, match="backend='rust' cannot run delta_rule: the core does not have it"):
        ops.resolve_backend("delta_rule", backend="rust")


def test_without_packages_a_gpu_has_torch(monkeypatch):
    monkeypatch.setattr(backends, "INSTALLED", {"fla": False, "mamba_ssm": False})
    assert ops.resolve_backend("delta_rule", CUDA) == ("torch", "not fla: fla-core is not installed")
    assert ops.resolve_backend("mamba2_scan", "cuda:1") == ("torch", "not mamba_ssm: mamba-ssm is not installed")
    assert ops.resolve_backend("s4d_scan", CUDA) == ("torch", "no other backend has it on a GPU")
    assert ops.resolve_backend("s4d_scan", "mps") == ("torch", "the only backend on mps")
    with pytest.raises(ValueError, match="backend='fla' cannot run kimi_delta_attention: fla-core is not installed"):
        ops.resolve_backend("kimi_delta_attention", CUDA, torch.bfloat16, backend="fla")
    monkeypatch.setattr(backends, "INSTALLED", {"fla": True, "mamba_ssm": True})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ops.resolve_backend("delta_rule", CUDA, torch.bfloat16).reason == "not fla: torch sees no GPU"


@pytest.mark.usefixtures("gpu")
def test_with_packages_a_gpu_has_them():
    found = ops.resolve_backend("gated_delta_rule", CUDA, torch.bfloat16)
    assert found == ("fla", "fla is installed and has chunk_gated_delta_rule")
    assert ops.resolve_backend("selective_scan", CUDA).backend == "mamba_ssm"
    assert ops.resolve_backend("mamba2_scan", CUDA, backend="torch").backend == "torch"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("function", "where", "options", "reason"),
    [
        ("selective_scan", [torch.float32], {"initial_state": True}, "selective_scan_fn takes no initial_state"),
        ("selective_scan", [torch.float32], {"resets": True}, "selective_scan_fn has no resets inside a row"),
        ("selective_scan", [torch.float64], {}, "selective_scan_fn does not compute in float64"),
        ("delta_rule", [torch.float32], {}, "chunk_delta_rule takes float16 and bfloat16 alone"),
        ("gated_delta_rule_step", [], {"gradients": True}, "fused_recurrent_gated_delta_rule gives no gradients"),
    ],
)
def test_what_a_package_cannot_do_goes_to_torch_or_is_refused(function, where, options, reason):
    found = ops.resolve_backend(function, CUDA, *where, **options)
    package = backends.EXTERNAL[function].package
    assert found == ("torch", f"not {package}: {reason}")
    with pytest.raises(ValueError, match=f"backend='{package}' cannot run {function}: {reason}"):
        ops.resolve_backend(function, CUDA, *where, backend=package, **options)


def test_no_backend_runs_elsewhere_than_it_can():
    with pytest.raises(ValueError, match="backend='rust' cannot run rg_lru: it runs on the CPU, not on cuda"):
        ops.resolve_backend("rg_lru", CUDA, backend="rust")
    with pytest.raises(ValueError, match="backend='fla' cannot run rg_lru: it does not have it"):
        ops.resolve_backend("rg_lru", CUDA, backend="fla")
    with pytest.raises(ValueError, match=r"function must be one of .*, not 'scan'"):
        ops.resolve_backend("scan")


def stand_in(monkeypatch, path, name, function):
    """Put a module with one function where it would be imported from, and return the calls that it gets."""
    calls = []

    def recorded(*args, **kwargs):
        calls.append(inspect.signature(function).bind(*args, **kwargs).arguments)
        return function(*args, **kwargs)

    parts = path.split(".")
    for end in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    module = types.ModuleType(path)
    setattr(module, name, recorded)
    monkeypatch.setitem(sys.modules, path, module)
    return calls


def padded(case, batch=2, seq_len=9):
    active = torch.ones(batch, seq_len, dtype=torch.bool)
    active[1, 4:] = False
    return case.arguments(batch, seq_len, torch.float32), Steps(torch.tensor([seq_len, 4]), False, active, None)


# The signatures of fla-core 0.6.0; `gate` is the name under which a function takes its gate.
def chunk_gla(q, k, v, g, scale=None, initial_state=None, output_final_state=False):
    assert output_final_state
    return naive.gated_linear_attention(q, k, v, g, scale, initial_state=initial_state)


def chunk_linear_attn(q, k, v, scale=None, initial_state=None, output_final_state=False, normalize=True):
    assert output_final_state
    assert not normalize
    return naive.linear_attention(q, k, v, scale, initial_state=initial_state)


def chunk_retention(q, k, v, scale=None, initial_state=None, output_final_state=False):
    assert q.shape[2] == v.shape[2]
    return naive.retention(q, k, v, scale, initial_state=initial_state)


def chunk_simple_gla(q, k, v, g=None, g_gamma=None, scale=None, initial_state=None, output_final_state=False):
    return naive.gated_linear_attention(q, k, v, g, scale, initial_state=initial_state)


def chunk_delta_rule(q, k, v, beta, scale=None, initial_state=None, output_final_state=False):
    return naive.delta_rule(q, k, v, beta, scale, initial_state=initial_state)


def chunk_gated_delta_rule(q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False):
    return naive.gated_delta_rule(q, k, v, g, beta, scale, initial_state=initial_state)


FLA = {
    "gla": ("gated_linear_attention", "chunk_gla", "gla", chunk_gla),
    "linear_attention": ("linear_attention", "chunk_linear_attn", "linear_attn", chunk_linear_attn),
    "retention": ("retention", "chunk_retention", "retention", chunk_retention),
    "delta": ("delta_rule", "chunk_delta_rule", "delta_rule", chunk_delta_rule),
    "gated_delta": ("gated_delta_rule", "chunk_gated_delta_rule", "gated_delta_rule", chunk_gated_delta_rule),
    "kda": ("kimi_delta_attention", "chunk_kda", "kda", chunk_gated_delta_rule),
}


@pytest.mark.parametrize("name", FLA)
def test_fla_is_called_by_its_signature(name, monkeypatch):
    function, called, module, stand = FLA[name]
    assert backends.EXTERNAL[function].function == called
    calls = stand_in(monkeypatch, f"fla.ops.{module}", called, stand)
    arguments, steps = padded(case_of(name))
    state = case_of(name).initial_state(2, torch.float32)
    given = [arguments.get(key) for key in ("q", "k", "v", "g", "beta")]
    if name == "retention":
        steps, lengths = PLAIN, None
    else:
        arguments["k"][1, 6], arguments["v"][1, 6], lengths = torch.nan, torch.nan, [9, 4]
    y, last = external.fla_scan(function, called, *given, 0.3, state, steps)
    expected = case_of(name).oracle(arguments, scale=0.3, initial_state=state, lengths=lengths)
    torch.testing.assert_close((y, last), expected)
    assert len(calls) == 1


@pytest.mark.parametrize("padding", ["left", "right"])
def test_retention_of_fla_does_not_fade_in_padding(padding, monkeypatch):
    """Its own function fades on: so where there is padding, the gate is given to another one."""
    stand_in(monkeypatch, "fla.ops.simple_gla", "chunk_simple_gla", chunk_simple_gla)
    monkeypatch.setattr("ngram_copy.models.ops.outer.choose", lambda *_: "fla")
    case = case_of("retention")
    arguments, state = case.arguments(2, 9, torch.float32), case.initial_state(2, torch.float32)
    common = {"initial_state": state, "lengths": [9, 4], "padding": padding}
    torch.testing.assert_close(case.run(arguments, **common), case.oracle(arguments, **common))


@pytest.mark.parametrize("name", FLA)
def test_steps_of_fla_are_sequences_of_one(name, monkeypatch):
    function, _, module, stand = FLA[name]
    called = backends.EXTERNAL[f"{function}_step"].function
    if called == "fused_recurrent_gla":

        def stand(q, k, v, gk=None, gv=None, scale=None, initial_state=None, output_final_state=False):
            return chunk_gla(q, k, v, gk, scale, initial_state, output_final_state)

    stand_in(monkeypatch, f"fla.ops.{module}", called, stand)
    case = case_of(name)
    arguments, state = case.arguments(2, 1, torch.float32), case.initial_state(2, torch.float32)
    first = [arguments[key][:, 0] if key in arguments else None for key in ("q", "k", "v", "g", "beta")]
    y, last = external.fla_step(function, called, state, *first, 0.3)
    torch.testing.assert_close((y[:, None], last), case.oracle(arguments, scale=0.3, initial_state=state))


@pytest.mark.filterwarnings("ignore")  # fla warns that there is no GPU and no flash-attn
@pytest.mark.parametrize("name", FLA)
def test_the_signatures_are_those_of_fla(name):
    """Where fla-core is installed: the stand-ins take what its functions take."""
    pytest.importorskip("fla", reason="fla-core is not installed")
    function, called, module, stand = FLA[name]
    theirs = inspect.signature(getattr(__import__(f"fla.ops.{module}", fromlist=[called]), called)).parameters
    for parameter in inspect.signature(stand).parameters:
        assert parameter in theirs
    positions = [key for key in ("q", "k", "v") if key in theirs]
    assert list(theirs)[:3] == positions
    step = backends.EXTERNAL[f"{function}_step"].function
    theirs = inspect.signature(getattr(__import__(f"fla.ops.{module}", fromlist=[step]), step)).parameters
    gate = "gk" if step == "fused_recurrent_gla" else "g"
    assert {"scale", "initial_state", "output_final_state"} <= set(theirs)
    assert ("g" in inspect.signature(stand).parameters) <= (gate in theirs)
    assert ("beta" in inspect.signature(stand).parameters) <= ("beta" in theirs)


# The signatures of mamba-ssm 2.2.
def selective_scan_fn(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):
    assert return_last_state
    y, state = naive.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return y, state.detach()


def selective_state_update(state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False):
    """mamba-ssm's, with heads; the state is written in place."""
    ratio = x.shape[1] // B.shape[1]
    step = naive.step_size(dt, dt_bias, dt_softplus)
    wide = B.repeat_interleave(ratio, 1)[:, :, None]
    state.copy_((step[..., None] * A).exp() * state + (step * x)[..., None] * wide)
    y = (state * C.repeat_interleave(ratio, 1)[:, :, None]).sum(-1)
    y = y if D is None else y + D * x
    return y if z is None else y * torch.nn.functional.silu(z)


def mamba_chunk_scan_combined(
    x,
    dt,
    A,
    B,
    C,
    chunk_size,
    D=None,
    z=None,
    dt_bias=None,
    initial_states=None,
    seq_idx=None,
    dt_softplus=False,
    dt_limit=(0.0, float("inf")),
    return_final_states=False,
):
    assert return_final_states
    return naive.mamba2_scan(x, dt, A, B, C, D, z, dt_bias, dt_softplus, initial_state=initial_states)


SELECTIVE = "u delta A B C D z delta_bias".split()


@pytest.mark.parametrize("lengths", [None, [9, 4]])
@pytest.mark.parametrize("name", ["selective", "selective-full-groups"])
def test_mamba_selective_scan(name, lengths, monkeypatch):
    calls = stand_in(monkeypatch, "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn", selective_scan_fn)
    case = case_of(name)
    arguments, steps = padded(case)
    if lengths is None:
        steps = PLAIN
    else:
        arguments["delta"][1, :, 7] = torch.nan
    given = {key: arguments.get(key) for key in SELECTIVE}
    given["B"], given["C"] = (one if one.dim() == 4 else one[:, None] for one in (given["B"], given["C"]))
    given["u"].requires_grad_()
    y, last = external.mamba_selective_scan(*given.values(), arguments.get("delta_softplus", False), steps)
    expected = case.oracle(arguments, lengths=lengths)
    torch.testing.assert_close((y, last), expected)
    assert len(calls) == 1
    y.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"selective_scan_fn gives no gradient of last_state: use backend='torch'"):
        last.sum().backward()


@pytest.mark.parametrize("name", ["selective", "selective-full-groups", "mamba2", "mamba2-full", "mamba2-groups"])
@pytest.mark.usefixtures("gpu")
def test_mamba_steps(name, monkeypatch):
    """Through the public functions, on CPU tensors that are said to be on a GPU."""
    path = "mamba_ssm.ops.triton.selective_state_update"
    calls = stand_in(monkeypatch, path, "selective_state_update", selective_state_update)
    case = case_of(name)
    module = "mamba2" if "mamba2" in name else "selective"
    monkeypatch.setattr(rust, "direct", lambda *_, **__: None)
    monkeypatch.setattr(f"ngram_copy.models.ops.{module}.choose", lambda *_: "mamba_ssm")
    arguments, state = case.arguments(2, 1, torch.float32), case.initial_state(2, torch.float32)
    before = state.clone()
    found = case.one_step(state, arguments, 0)
    assert torch.equal(state, before)
    assert len(calls) == 1
    y, last = case.oracle(arguments, initial_state=state)
    torch.testing.assert_close(found, (y.select(case.output_time, 0), last))


@pytest.mark.parametrize("lengths", [None, [9, 4]])
@pytest.mark.parametrize("name", ["mamba2", "mamba2-full", "mamba2-groups"])
def test_mamba2_scan(name, lengths, monkeypatch):
    path = "mamba_ssm.ops.triton.ssd_combined"
    calls = stand_in(monkeypatch, path, "mamba_chunk_scan_combined", mamba_chunk_scan_combined)
    case = case_of(name)
    arguments, steps = padded(case)
    if lengths is None:
        steps = PLAIN
    else:
        arguments["dt"][1, 7] = torch.nan
    state = case.initial_state(2, torch.float32)
    given = [arguments.get(key) for key in "x dt A B C D z dt_bias".split()]
    found = external.mamba2_scan(*given, arguments.get("dt_softplus", False), state, steps)
    torch.testing.assert_close(found, case.oracle(arguments, initial_state=state, lengths=lengths))
    assert len(calls) == 1


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.function in backends.EXTERNAL], ids=lambda case: case.id
)
def test_public_functions_reach_the_packages(case, monkeypatch):
    """With the arguments that :mod:`external` wants, in its order."""
    package = backends.EXTERNAL[case.function].package
    reached = []

    def record(kind):
        def call(*args):
            reached.append((kind, inspect.signature(kind).bind(*args).arguments))
            return torch.zeros(2, 4, 1), torch.zeros(2, 4, 3)

        return call

    for kind in (external.fla_scan, external.fla_step, external.mamba_selective_scan, external.mamba2_scan):
        monkeypatch.setattr(external, kind.__name__, record(kind))
    monkeypatch.setattr(rust, "direct", lambda *_, **__: None)
    for module in ("outer", "delta", "selective", "mamba2"):
        monkeypatch.setattr(f"ngram_copy.models.ops.{module}.choose", lambda *_: package)
    arguments = case.arguments(2, 5, torch.float32)
    case.run(arguments)
    if package == "fla":
        case.one_step(case.initial_state(2, torch.float32), arguments, 0)
        assert [kind.__name__ for kind, _ in reached] == ["fla_scan", "fla_step"]
        for _, given in reached:
            assert given["called"] in (
                {"chunk_simple_gla", "fused_recurrent_simple_gla"}
                if case.id == "simple_gla"
                else {backends.EXTERNAL[name].function for name in (case.function, case.step)}
            )
            assert given["scale"] == pytest.approx(arguments["q"].shape[-1] ** -0.5)
            assert (given["g"] is None) == ("g" not in arguments)
            assert (given["beta"] is None) == ("beta" not in arguments)
    else:
        assert len(reached) == 1
