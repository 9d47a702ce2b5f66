"""The Rust backend as torch custom ops, ``ngram_copy::selective_scan`` and others, with fake kernels and gradients.

Each family's primitive is one op and its backward op. An op hands NumPy views of its tensors to a :class:`Kernel`,
copies nothing that is contiguous, and returns new arrays. It keeps its inputs and a state for every 64 steps for the
way back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, from_numpy, get_num_threads
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from ngram_copy import ssm
from ngram_copy.models.ops.arguments import Checker, Steps, to_real
from ngram_copy.models.ops.kernels import KERNELS, PRIMITIVE_OF, Array, NumpySteps
from ngram_copy.ssm import conv, selective

BLOCK = 64
"""Steps between two states that are kept for a backward pass."""


class Primitive(NamedTuple):
    """An op's signature, in names of dimensions, ``|`` between shapes; ``?`` ends the name of what may be None."""

    arrays: dict[str, str]
    options: dict[str, str]
    """Name → ``"bool"`` or ``"float"``."""
    y: str
    """The argument whose shape and dtype the output has."""
    state: str
    kept: str
    """Dimensions of the kept states, ``blocks`` among them; none; or that the output itself is what is kept."""
    state_like: str = ""
    """The argument whose dtype the states have, where it is not that of the output."""


OUTPUT = "output"

PRIMITIVES = {
    "selective_scan": Primitive(
        {
            "u": "batch d_model seq_len",
            "delta": "batch d_model seq_len",
            "A": "d_model d_state",
            "B": "batch n_groups d_state seq_len",
            "C": "batch n_groups d_state seq_len",
            "D?": "d_model",
            "z?": "batch d_model seq_len",
            "delta_bias?": "d_model",
        },
        {"delta_softplus": "bool"},
        y="u",
        state="batch d_model d_state",
        kept="batch d_model blocks d_state",
    ),
    "s4d_scan": Primitive(
        {
            "u": "batch d_model seq_len",
            "decay": "d_model n_modes",
            "into": "d_model n_modes",
            "C": "d_model n_modes",
            "D?": "d_model",
        },
        {},
        y="u",
        state="batch d_model n_modes",
        kept="batch d_model blocks n_modes",
        state_like="decay",
    ),
    "linear_scan": Primitive(
        {"a": "batch seq_len width | width", "x": "batch seq_len width"},
        {},
        y="x",
        state="batch width",
        kept=OUTPUT,
    ),
    "outer": Primitive(
        {
            "q": "batch seq_len n_heads head_k",
            "k": "batch seq_len n_heads head_k",
            "v": "batch seq_len v_heads head_v",
            "g?": "batch seq_len v_heads | batch seq_len v_heads head_k | v_heads",
        },
        {"scale": "float"},
        y="v",
        state="batch v_heads head_k head_v",
        kept="",
    ),
    "delta": Primitive(
        {
            "q": "batch seq_len n_heads head_k",
            "k": "batch seq_len n_heads head_k",
            "v": "batch seq_len v_heads head_v",
            "g?": "batch seq_len v_heads | batch seq_len v_heads head_k",
            "beta": "batch seq_len v_heads",
        },
        {"scale": "float"},
        y="v",
        state="batch v_heads head_k head_v",
        kept="batch v_heads blocks head_k head_v",
    ),
    "causal_conv1d": Primitive(
        {"x": "batch channels seq_len", "weight": "channels kernel", "bias?": "channels"},
        {"silu": "bool"},
        y="x",
        state="batch channels kernel-1",
        kept="",
    ),
}


def transformed() -> bool:
    """Whether torch.func or forward mode computes derivatives, which the core's ops cannot, or leave out in silence."""
    if forward_ad._current_level >= 0 or is_compiling():  # a compiler cannot look at the stack of transforms
        return forward_ad._current_level >= 0
    transforms = torch._C._functorch.get_interpreter_stack() or ()
    return any(one.key() != torch._C._functorch.TransformType.Vmap for one in transforms)


def has(function: str) -> bool:
    """Whether the core runs a function."""
    return PRIMITIVE_OF[function] in KERNELS


def selective_step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
) -> tuple[Tensor, Tensor] | None:
    """One step of the selective scan, as :func:`direct` does it."""
    return direct(selective.selective_step, (state, x, dt, A, B, C, D, z, dt_bias), dt_softplus)


def conv_step(
    state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor] | None:
    """One step of the convolution, as :func:`direct` does it."""
    return direct(conv.conv_step, (state, x, weight, bias), silu)


def face(function: str, *tensors: Tensor | None, **options: Any) -> tuple[Tensor, Tensor] | None:
    """One step by the function of that name in :mod:`ngram_copy.ssm`, as :func:`direct` does it.

    None where precisions differ: NumPy's functions promote their outputs, torch's do not.
    """
    step = getattr(ssm, function)

    def checked(arrays: tuple[Array | None, ...], threads: int) -> Any:
        doubles = {array.dtype.char in "dD" for array in arrays if array is not None}
        return None if len(doubles) > 1 else step(*arrays, threads=threads, **options)

    return direct(checked, tensors)


def direct(step: Callable[..., Any], tensors: tuple[Tensor | None, ...], *options: Any) -> tuple[Tensor, Tensor] | None:
    """Call a step of the core on NumPy views of tensors, without torch's dispatcher, which takes longer than the step.

    None where that does not do, and the way through the op is to be taken: where gradients are needed (by torch.func,
    too), code is compiled or ``step`` returns None, and where a tensor is none, is on another device, or is of a dtype
    that NumPy or the core refuses.

    Parameters
    ----------
    step : function of a tuple of arrays, the options, and a number of threads
        Returns the output and the new state, two new arrays, or None.
    tensors : tuple of tensors and None
    *options
    """
    if is_compiling() or transformed():
        return None
    try:
        # numpy() is most of what is left to do, and refuses what needs gradients itself.
        arrays = [None if one is None else one.numpy() for one in tensors]
        done = step(tuple(arrays), *options, get_num_threads())
    except (AttributeError, TypeError, RuntimeError):
        return None
    if done is None:
        return None
    y, new_state = done
    return from_numpy(y), from_numpy(new_state)


def call(
    name: str, arrays: Sequence[Tensor | None], options: Sequence[Any], state: Tensor | None, steps: Steps
) -> tuple[Tensor, Tensor]:
    """Run a primitive on tensors of one dtype, with gradients where they are needed.

    Parameters
    ----------
    name : str
        Of the primitive.
    arrays, options : sequences
        Its arguments, in order.
    state : tensor, or None for zeros
    steps : Steps

    Returns
    -------
    y, last_state : tensor
    """
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in (*arrays, state))
    op = getattr(torch.ops.ngram_copy, name).default
    y, last_state, _ = op(*arrays, *options, state, steps.lengths, steps.left, steps.resets, keep)
    return y, last_state


def as_array(tensor: Tensor | None) -> Array | None:
    """A NumPy view of a CPU tensor; a copy where it is not contiguous."""
    if tensor is None:
        return None
    array: Array = tensor.detach().contiguous().resolve_conj().resolve_neg().numpy()
    return array


def _define(name: str, primitive: Primitive) -> None:
    """Register a primitive's op, its backward op, their fake kernels and its gradient."""
    names = [key.rstrip("?") for key in primitive.arrays]
    count, choices = len(names), len(primitive.options)
    typed = [f"Tensor{'?' if key.endswith('?') else ''} {key.rstrip('?')}" for key in primitive.arrays]
    typed += [f"{kind} {key}" for key, kind in primitive.options.items()]
    tail = "Tensor? initial_state, Tensor? lengths, bool left, Tensor? resets"
    schema = f"({', '.join(typed)}, {tail}, bool keep) -> (Tensor, Tensor, Tensor)"
    of = "Tensor of_y, Tensor? of_last_state, Tensor kept"
    backward_schema = f"({of}, {', '.join(typed)}, {tail}) -> Tensor[]"

    def numpy_steps(
        arrays: Sequence[Tensor | None], lengths: Tensor | None, left: bool, resets: Tensor | None
    ) -> NumpySteps:
        sizes = _checked(primitive, arrays, None, lengths, resets).sizes
        return sizes["batch"], sizes["seq_len"], as_array(lengths), left, as_array(resets)

    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        tensors, options = arguments[:count], arguments[count : count + choices]
        state, lengths, left, resets, keep = arguments[count + choices :]
        given = [*map(as_array, tensors), *options]
        steps = numpy_steps(tensors, lengths, left, resets)
        y, last_state, kept = KERNELS[name].forward(given, as_array(state), steps, torch.get_num_threads(), keep)
        kept = np.empty(0, last_state.dtype) if kept is None else kept
        return torch.from_numpy(y), torch.from_numpy(last_state), torch.from_numpy(kept)

    def fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        tensors = arguments[:count]
        state, lengths, _, resets, keep = arguments[count + choices :]
        check = _checked(primitive, tensors, state, lengths, resets)
        y = tensors[names.index(primitive.y)]
        like = tensors[names.index(primitive.state_like or primitive.y)]
        kept = _sizes(primitive.kept, check) if keep and primitive.kept not in {OUTPUT, ""} else [0]
        last_state = like.new_empty(_sizes(primitive.state, check))
        return torch.empty_like(y, memory_format=torch.contiguous_format), last_state, like.new_empty(kept)

    def backward(of_y: Tensor, of_last_state: Tensor | None, kept: Tensor, *arguments: Any) -> list[Tensor]:
        tensors, options = arguments[:count], arguments[count : count + choices]
        state, lengths, left, resets = arguments[count + choices :]
        gradients = KERNELS[name].backward(
            [*map(as_array, tensors), *options],
            *map(as_array, (state, kept, of_y, of_last_state)),
            numpy_steps(tensors, lengths, left, resets),
            torch.get_num_threads(),
        )
        return [torch.from_numpy(gradient) for gradient in gradients if gradient is not None]

    def fake_backward(of_y: Tensor, of_last_state: Tensor | None, kept: Tensor, *arguments: Any) -> list[Tensor]:
        tensors = arguments[:count]
        state, lengths, _, resets = arguments[count + choices :]
        check = _checked(primitive, tensors, state, lengths, resets)
        if of_last_state is not None:
            check.on_device("of_last_state", of_last_state)
        check.on_device("of_y", of_y)
        check.on_device("kept", kept)
        gradients = [
            torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors if tensor is not None
        ]
        like = tensors[names.index(primitive.state_like or primitive.y)]
        return [*gradients, like.new_empty(_sizes(primitive.state, check))]

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        tensors, options = inputs[:count], inputs[count : count + choices]
        state, lengths, left, resets, keep = inputs[count + choices :]
        ctx.save_for_backward(*tensors, state, lengths, resets, output[0 if primitive.kept == OUTPUT else 2])
        ctx.options, ctx.left, ctx.keep = options, left, keep
        ctx.set_materialize_grads(False)

    def gradient(ctx: Any, of_y: Tensor | None, of_last_state: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
        if not ctx.keep:
            raise RuntimeError(
                f"ngram_copy::{name} was called with keep=False: it kept nothing to compute gradients from"
            )
        *tensors, state, lengths, resets, kept = ctx.saved_tensors
        if of_y is None:
            of_y = torch.zeros_like(tensors[names.index(primitive.y)])
        op = getattr(torch.ops.ngram_copy, f"{name}_backward").default
        found = iter(op(of_y, of_last_state, kept, *tensors, *ctx.options, state, lengths, ctx.left, resets))
        gradients = [None if tensor is None else next(found) for tensor in tensors]
        return (*gradients, *[None] * choices, None if state is None else next(found), None, None, None, None)

    def no_second(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(f"Rust has no second derivatives (of its op {name}): use backend='torch'")

    op = torch.library.custom_op(f"ngram_copy::{name}", forward, mutates_args=(), device_types="cpu", schema=schema)
    op.register_fake(fake)
    op.register_autograd(gradient, setup_context=setup_context)
    backward_op = torch.library.custom_op(
        f"ngram_copy::{name}_backward", backward, mutates_args=(), device_types="cpu", schema=backward_schema
    )
    backward_op.register_fake(fake_backward)
    backward_op.register_autograd(no_second)


def _checked(
    primitive: Primitive,
    tensors: Sequence[Tensor | None],
    state: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
) -> Checker:
    """Check shapes and devices of an op's tensors, and that they have one dtype."""
    check = Checker()
    for (name, dims), tensor in zip(primitive.arrays.items(), tensors, strict=True):
        if tensor is not None:
            shapes = [shape.strip() for shape in dims.split("|")]
            fitting = [shape for shape in shapes if len(shape.split()) == tensor.dim()]
            check.number(name.rstrip("?"), tensor, (fitting or shapes)[0])
            if "kernel" in check.sizes:
                check.sizes["kernel-1"] = check.sizes["kernel"] - 1
    if state is not None:
        check.number("initial_state", state, primitive.state)
    if lengths is not None:
        check.on_device("lengths", lengths)
        check.shape("lengths", lengths, "batch")
    if resets is not None:
        check.on_device("resets", resets)
        check.shape("resets", resets, "batch seq_len")
    check.sizes["blocks"] = -(-check.sizes["seq_len"] // BLOCK)
    real = {to_real(tensor.dtype) for tensor in (*tensors, state) if tensor is not None}
    if len(real) != 1:
        raise TypeError(f"all tensors must be of one dtype, not of {', '.join(sorted(map(str, real)))}")
    return check


def _sizes(dims: str, check: Checker) -> list[int]:
    return [check.sizes[dim] for dim in dims.split()]


for _name, _primitive in PRIMITIVES.items():
    _define(_name, _primitive)
