"""Custom ops, fake kernels, compilation, and device code without a device."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from ops_cases import CASES
from torch._subclasses.fake_tensor import FakeTensorMode

from ngram_copy.models import ops
from ngram_copy.models.mamba import Mamba
from ngram_copy.models.ops import chunks, rust

COMPILED = ["selective-full-groups", "gated_delta", "conv-full"]
RUST = [case for case in CASES if rust.has(case.function)]
FACES = {"selective", "lru", "lru-full", "rg_lru", "mamba2", "mamba2-full", "mamba2-groups", "conv"}
OPS = [case for case in RUST if case.id not in FACES]
"""One case for each kind of arguments of each op."""


@pytest.fixture(autouse=True)
def _fresh():
    torch.set_num_threads(1)
    torch._dynamo.reset()


def by_id(case):
    return case.id


def leaves(arguments):
    return {
        name: value.clone().requires_grad_() if torch.is_tensor(value) else value for name, value in arguments.items()
    }


def called(case, monkeypatch, **common):
    """The arguments with which a case reaches its op: name, arrays, options, state, steps."""
    found, call = [], rust.call

    def recorded(*args):
        found.append(args)
        return call(*args)

    with monkeypatch.context() as patch:
        patch.setattr(rust, "call", recorded)
        case.run(case.arguments(2, 70, torch.float32), backend="rust", **common)
    return found[0]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of opcheck's own
@pytest.mark.parametrize("case", OPS, ids=by_id)
def test_opcheck(case, monkeypatch):
    options = {"lengths": [70, 3], "padding": "left", "resets": torch.arange(140).reshape(2, 70) % 20 == 7}
    options["initial_state"] = case.initial_state(2, torch.float32)
    name, arrays, settings, state, steps = called(case, monkeypatch, **options)
    given = [None if one is None else one.detach().clone().requires_grad_() for one in (*arrays, state)]
    op = getattr(torch.ops.ngram_copy, name).default
    tail = (steps.lengths, steps.left, steps.resets)
    torch.library.opcheck(op, (*given[:-1], *settings, given[-1], *tail, True))
    plain = [None if one is None else one.detach() for one in given]
    some = ("test_schema", "test_faketensor")
    torch.library.opcheck(op, (*plain[:-1], *settings, plain[-1], *tail, False), test_utils=some)
    torch.library.opcheck(op, (*plain[:-1], *settings, None, None, False, None, True), test_utils=some)
    y, last, kept = op(*plain[:-1], *settings, plain[-1], *tail, True)
    backward = getattr(torch.ops.ngram_copy, f"{name}_backward").default
    torch.library.opcheck(
        backward,
        (y, last, y if kept.numel() == 0 else kept, *plain[:-1], *settings, plain[-1], *tail),
        test_utils=some,
    )


@pytest.mark.parametrize("case", OPS, ids=by_id)
def test_there_are_no_second_derivatives_in_rust(case):
    arguments = leaves(case.arguments(1, 3))
    y, _ = case.run(arguments, backend="rust")
    first = next(value for value in arguments.values() if torch.is_tensor(value))
    (gradient,) = torch.autograd.grad(y.abs().sum(), first, create_graph=True)
    with pytest.raises(RuntimeError, match=r"Rust has no second derivatives \(of its op \w+\): use backend='torch'"):
        gradient.abs().sum().backward()


@pytest.mark.parametrize("case", [case for case in CASES if case.id in {"selective", "gla", "kda"}], ids=by_id)
def test_torch_has_second_derivatives(case, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 2)
    arguments = case.arguments(1, 3)
    names = [name for name, value in arguments.items() if torch.is_tensor(value)]

    def run(*values):
        return case.run({**arguments, **dict(zip(names, values, strict=True))}, backend="torch")

    inputs = [arguments[name].requires_grad_() for name in names]
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True, atol=1e-5)


def test_gradients_need_what_was_kept():
    case = CASES[0]
    arguments = case.arguments(1, 3)
    arguments["B"], arguments["C"] = arguments["B"][:, None], arguments["C"][:, None]
    arguments["u"].requires_grad_()
    y, *_ = torch.ops.ngram_copy.selective_scan(
        *arguments.values(), None, None, None, False, None, None, False, None, False
    )
    with pytest.raises(RuntimeError, match=r"was called with keep=False: it kept nothing"):
        y.sum().backward()


def test_an_op_refuses_two_dtypes():
    case = CASES[0]
    arguments = case.arguments(1, 3)
    arguments["B"], arguments["C"] = arguments["B"][:, None].float(), arguments["C"][:, None]
    with pytest.raises(TypeError, match=r"all tensors must be of one dtype, not of torch\.float32, torch\.float64"):
        torch.ops.ngram_copy.selective_scan(
            *arguments.values(), None, None, None, False, None, None, False, None, False
        )


def test_contiguous_tensors_are_not_copied():
    tensor = torch.zeros(3, 4)
    assert np.shares_memory(rust.as_array(tensor), tensor.numpy())
    assert rust.as_array(tensor.mT).flags.c_contiguous
    assert rust.as_array(torch.zeros(2, dtype=torch.complex64).conj()).dtype == np.complex64
    assert rust.as_array(None) is None


def test_steps_of_a_layer_do_not_reach_the_dispatcher(monkeypatch):
    """Their inputs are slices of a projection, and their weights are parameters."""
    mixer = Mamba(8, d_state=4, backend="rust")
    x, state = torch.randn(3, 8), mixer.initial_state(3)
    with torch.no_grad():
        monkeypatch.setattr(rust, "direct", lambda *_: None)
        expected, after = mixer.step(x, state, 0)
        monkeypatch.undo()
        monkeypatch.setattr(rust, "call", lambda *_: pytest.fail("an op was called"))
        found, last = mixer.step(x, state, 0)
    torch.testing.assert_close((found, last), (expected, after))
    assert all(last[key].data_ptr() != state[key].data_ptr() for key in state)


def test_steps_without_the_dispatcher_take_strides_and_refuse_shapes():
    state, x, weight = torch.randn(2, 6, 3), torch.randn(2, 12)[:, ::2], torch.randn(4, 6).mT
    found = rust.conv_step(state, x, weight, None, True)
    torch.testing.assert_close(found, ops.causal_conv1d_update(state, x, weight, None, "silu", backend="torch"))
    assert rust.conv_step(state, x.reshape(3, 4), weight, None, True) is None
    assert rust.conv_step(state, x, weight.reshape(4, 6), None, True) is None
    assert rust.conv_step(state.flatten(), x, weight, None, True) is None
    assert rust.conv_step(state, x, weight, x[0, :3], True) is None
    assert rust.conv_step(state, x, weight.double(), None, True) is None

    state, A, B = torch.randn(2, 6, 4), -torch.rand(4, 6).mT, torch.randn(2, 8)[:, ::2]
    given = [state, x, x, A, B, B, None, x, None]
    found = rust.selective_step(*given, True)
    torch.testing.assert_close(found, ops.selective_state_update(*given, True, backend="torch"))
    five, groups = torch.randn(2, 5, 4), torch.randn(2, 2, 4)
    for index, wrong in [
        (0, state.reshape(2, 4, 6)),
        (1, x.reshape(3, 4)),
        (2, x.reshape(3, 4)),
        (3, A.reshape(4, 6)),
        (4, B.reshape(4, 2)),
        (4, B.flatten()),
        (4, five),
        (4, five[:, :0]),
        (5, groups),
        (6, x[0, :5]),
        (7, x.reshape(3, 4)),
        (8, x[0, :5]),
        (8, x[0].double()),
    ]:
        assert rust.selective_step(*given[:index], wrong, *given[index + 1 :], True) is None


def compiled(case, backend, seq_len):
    arguments, state = leaves(case.arguments(2, seq_len)), case.initial_state(2).requires_grad_()
    resets, lengths = torch.zeros(2, seq_len, dtype=torch.bool), torch.tensor([seq_len, 7])
    resets[0, 5] = True

    def loss(arguments, state, lengths, resets):
        y, last = case.run(arguments, initial_state=state, lengths=lengths, resets=resets, backend=backend)
        return y.abs().sum() + last.abs().sum()

    found = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        value = function(arguments, state, lengths, resets)
        value.backward()
        tensors = [one for one in (*arguments.values(), state) if torch.is_tensor(one)]
        found.append([value.detach(), *(one.grad for one in tensors)])
        for one in tensors:
            one.grad = None
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("case", [case for case in CASES if case.id in COMPILED], ids=by_id)
def test_whole_graphs_compile(case):
    compiled(case, "torch", 9)


def test_chunks_compile(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 8)
    compiled(next(case for case in CASES if case.id == "linear"), "torch", 12)


@pytest.mark.parametrize("case", [case for case in RUST if case.id in COMPILED], ids=by_id)
def test_whole_graphs_compile_with_rust(case):
    compiled(case, "rust", 9)


def test_lengths_are_checked_in_compiled_code():
    function = torch.compile(ops.linear_scan, fullgraph=True, backend="aot_eager")
    a, x = torch.rand(4), torch.randn(2, 5, 4)
    function(a, x, lengths=torch.tensor([5, 2]), backend="torch")
    with pytest.raises(RuntimeError, match="lengths must be 0 to seq_len=5"):
        function(a, x, lengths=torch.tensor([6, 2]), backend="torch")


@pytest.mark.parametrize("case", CASES, ids=by_id)
def test_on_a_fake_gpu_nothing_is_on_the_cpu(case, monkeypatch):
    """A tensor made on the CPU in the middle of device code raises."""
    monkeypatch.setattr(chunks, "CHUNK", 8)
    arguments, state = case.arguments(2, 9, torch.float32), case.initial_state(2, torch.float32)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:

        def there(value):
            return mode.from_tensor(value).to("cuda") if torch.is_tensor(value) else value

        arguments, state = {name: there(value) for name, value in arguments.items()}, there(state)
        resets, lengths = there(torch.zeros(2, 9, dtype=torch.bool)), there(torch.tensor([3, 4]))
        for common in (
            {"initial_state": state, "lengths": [9, 3]},
            {"lengths": lengths, "padding": "left", "resets": resets},
        ):
            y, last = case.run(arguments, **common)
            assert y.device.type == last.device.type == "cuda"
            assert last.shape == state.shape
        y, last = case.one_step(state, arguments, 3)
        assert y.device.type == last.device.type == "cuda"


@pytest.mark.parametrize("case", OPS, ids=by_id)
def test_fake_kernels_refuse_tensors_of_two_devices(case, monkeypatch):
    given = case.initial_state(2, torch.float32)
    name, arrays, settings, state, _ = called(case, monkeypatch, initial_state=given)
    op = getattr(torch.ops.ngram_copy, name).default
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        fakes = [None if one is None else mode.from_tensor(one) for one in (*arrays, state)]
        y, last, _ = op(*fakes[:-1], *settings, fakes[-1], None, False, None, False)
        assert last.shape == state.shape
        for index, one in enumerate(fakes):
            if one is not None:
                mixed = [*fakes[:index], one.to("cuda"), *fakes[index + 1 :]]
                with pytest.raises(Exception, match=r"device|must be on"):
                    op(*mixed[:-1], *settings, mixed[-1], None, False, None, False)
                assert y.device.type == "cpu"


def test_backward_on_a_fake_device():
    """Forward and backward of every function on a device that torch knows nothing of, in a process of its own."""
    script = Path(__file__).parent.parent / "support" / "ops_on_fake_device.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == [case.id for case in CASES], done.stdout + done.stderr[-2000:]
