"""The torch backend: a loop over chunks of time, and the scan within a chunk.

A recurrence is a function of a chunk: (state, mask of the chunk, inputs of the chunk) → (state, outputs). Where
gradients are needed and there is more than one chunk, each chunk keeps its inputs and its first state alone and is
computed again on the way back, so memory is that of one chunk and of seq_len / 64 states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ngram_copy.models.ops.arguments import Steps, to_complex

CHUNK = 64
"""Steps in a chunk."""

BLOCK = 8
"""Steps in a block of the scan within a chunk."""


class Mask(NamedTuple):
    """The part of :class:`Steps` that a chunk sees: (batch, chunk) bool each, or None."""

    active: Tensor | None
    resets: Tensor | None


Body = Callable[..., tuple[Tensor, Tensor]]


def over_chunks(
    body: Body,
    state: Tensor,
    inputs: Sequence[Tensor | None],
    steps: Steps,
    dtype: torch.dtype,
    output_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Run ``body`` over chunks of time.

    Parameters
    ----------
    body : function of (state, mask, *inputs of a chunk), returning (state, outputs (batch, chunk, …))
        Steps that do not count reach it as zeros, and what it puts out for them is dropped.
    state : tensor (batch, …)
        In the dtype of the sums.
    inputs : tensors (batch, seq_len, …), or None
        Real ones are cast to ``dtype`` chunk by chunk. seq_len is at least 1.
    steps : Steps
    dtype : torch.dtype
        The dtype of the sums.
    output_dtype : torch.dtype

    Returns
    -------
    outputs : tensor (batch, seq_len, …) of ``output_dtype``
    state : tensor (batch, …)
    """

    def run(
        state: Tensor, active: Tensor | None, resets: Tensor | None, *chunk: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ready = [None if piece is None else _ready(piece, active, dtype) for piece in chunk]
        state, output = body(state, Mask(active, resets), *ready)
        output = output.to(output_dtype)
        return state, output if active is None else hide(output, active)

    length = next(piece.shape[1] for piece in inputs if piece is not None)
    again = torch.is_grad_enabled() and length > CHUNK
    outputs = []
    for chunk in zip(*(_split(piece, length) for piece in (steps.active, steps.resets, *inputs)), strict=True):
        if again:
            state, output = checkpoint(run, state, *chunk, use_reentrant=False, preserve_rng_state=False)
        else:
            state, output = run(state, *chunk)
        outputs.append(output)
    return torch.cat(outputs, dim=1), state


def hide(tensor: Tensor, active: Tensor) -> Tensor:
    """Zero (batch, time, …) at steps that do not count: their NaN do not pass, in values and in gradients."""
    return tensor.masked_fill(~over(active, tensor), 0)


def over(mask: Tensor, tensor: Tensor) -> Tensor:
    """View a mask (batch, time) such that it spreads over a tensor (batch, time, …)."""
    return mask.reshape(mask.shape + (1,) * (tensor.dim() - 2))


def _split(piece: Tensor | None, length: int) -> Sequence[Tensor | None]:
    """Chunks of a tensor. Split, not sliced: the gradient is then one cat, not a padded copy for each chunk."""
    if piece is None:
        return [None] * -(-length // CHUNK)
    return torch.split(piece, CHUNK, dim=1)


def _ready(piece: Tensor, active: Tensor | None, dtype: torch.dtype) -> Tensor:
    cast = piece.to(to_complex(dtype) if piece.is_complex() else dtype)
    return cast if active is None else hide(cast, active)


def scan(a: Tensor, x: Tensor, state: Tensor, resets: Tensor | None) -> Tensor:
    """All states of ``h_t = a_t h_{t-1} + x_t`` within a chunk.

    The chunk is cut into blocks of 8 steps: the steps of all blocks are taken side by side, then the state is carried
    from block to block, then added where it is seen. For a chunk of 64 that is 16 short operations one after the other,
    and a sixth of the memory traffic of a scan that doubles its stride six times. Nothing is divided by, and no
    logarithm is taken: where |a| ≤ 1 nothing overflows. A NaN reaches later steps alone.

    Parameters
    ----------
    a, x : tensors (batch, chunk, …)
    state : tensor (batch, …)
        Before the chunk.
    resets : tensor (batch, chunk) of bool, or None
        The state is zero before these steps, even where it was NaN.

    Returns
    -------
    tensor (batch, chunk, …)
    """
    length = x.shape[1]
    steps_a, steps_x = _in_blocks(a, 1).unbind(2), _in_blocks(x, 0).unbind(2)
    cuts = None if resets is None else _in_blocks(resets, 0)  # (batch, blocks, BLOCK)
    factors, sums = [steps_a[0]], [steps_x[0]]
    for step in range(1, BLOCK):
        factor, sum_ = factors[-1], sums[-1]
        if cuts is not None:
            factor, sum_ = _cut(factor, cuts[:, :, step]), _cut(sum_, cuts[:, :, step])
        factors.append(steps_a[step] * factor)
        sums.append(steps_x[step] + steps_a[step] * sum_)
    before = []
    for block, (factor, sum_) in enumerate(zip(factors[-1].unbind(1), sums[-1].unbind(1), strict=True)):
        before.append(state)
        seen = state if cuts is None else _cut(state, cuts[:, block].any(1))
        state = sum_ + factor * seen
    carried = torch.stack(before, dim=1)[:, :, None]  # (batch, blocks, 1, …)
    if cuts is not None:
        carried = carried.expand(*cuts.shape, *carried.shape[3:])
        carried = _cut(carried, cuts.cumsum(2) > 0)
    states = torch.stack(sums, dim=2) + torch.stack(factors, dim=2) * carried
    return states.flatten(1, 2)[:, :length]


def _in_blocks(tensor: Tensor, fill: int) -> Tensor:
    """(batch, chunk, …) → (batch, blocks, BLOCK, …); what is missing from the last block is filled in."""
    batch, length, *rest = tensor.shape
    missing = -length % BLOCK
    if missing:
        end = tensor.new_full((1, 1), fill).reshape([1] * tensor.dim()).expand(batch, missing, *rest)
        tensor = torch.cat([tensor, end], dim=1)
    return tensor.reshape(batch, -1, BLOCK, *rest)


def _cut(tensor: Tensor, mask: Tensor) -> Tensor:
    """Zero where the mask, of the tensor's first dimensions, is set."""
    return tensor.masked_fill(mask.reshape(mask.shape + (1,) * (tensor.dim() - mask.dim())), 0)


def last(states: Tensor) -> Tensor:
    """The state after a chunk, by itself: a view would keep all states of the chunk alive."""
    return states[:, -1].clone()
