"""Decays within a chunk, for the outer and the delta family.

With G_i the sum of the log-gates up to step i of a chunk, both families need exp(G_i - G_j) for j ≤ i. Sums over the
steps j + 1 … i are taken as sums, never as differences of two cumulative sums: strong gates do not cancel weak ones, a
gate of -inf is a plain zero, and what lies above the diagonal is -inf before exp, so that nothing overflows.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 8
"""Steps in a block of a chunk, where gates differ by key channel."""


class Gates(Protocol):
    """What a chunk needs of its gates; heads of rows and columns may be fewer than those of the state."""

    def scores(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Σ_k rows_ik columns_jk exp(G_ik - G_jk) for j ≤ i, else 0: (batch, heads, chunk, chunk)."""

    def from_start(self, rows: Tensor) -> Tensor:
        """rows_i exp(G_i), what the state before the chunk is read by: (batch, heads, chunk, head_k)."""

    def to_end(self, columns: Tensor) -> Tensor:
        """columns_j exp(G_last - G_j), what is left at the chunk's end: (batch, heads, chunk, head_k)."""

    def carry(self, state: Tensor) -> Tensor:
        """exp(G_last) state: (batch, heads, head_k, head_v)."""


def gates_of(g: Tensor | None, segments: Segments, heads: int) -> Gates:
    """Gates of a chunk from log-gates (batch or 1, heads, chunk), (batch, heads, chunk, head_k) or None."""
    return ChannelGates(g, segments) if g is not None and g.dim() == 4 else HeadGates(g, segments, heads)


class Segments:
    """Which steps of a chunk see which: those before them in the same packed example."""

    def __init__(self, resets: Tensor | None, chunk: int, device: torch.device) -> None:
        self.visible = torch.ones(chunk, chunk, dtype=torch.bool, device=device).tril()
        """(chunk, chunk), or (batch, 1, chunk, chunk) with resets."""
        self.first: Tensor | None = None
        """(batch, 1, chunk, 1): in the segment that the state before the chunk belongs to; None: all are."""
        self.last: Tensor | None = None
        """(batch, 1, chunk, 1): in the segment of the chunk's end."""
        if resets is not None:
            segment = resets.cumsum(1)
            self.visible = self.visible & (segment[:, None, :, None] == segment[:, None, None, :])
            self.first = (segment == 0)[:, None, :, None]
            self.last = (segment == segment[:, -1:])[:, None, :, None]

    def kept(self, state: Tensor) -> Tensor:
        """The state before the chunk as the chunk's end sees it: zero after a reset."""
        return state if self.first is None else state.masked_fill(~self.first[:, :, -1:], 0)


class HeadGates:
    """A gate for each head, or none."""

    def __init__(self, g: Tensor | None, segments: Segments, heads: int) -> None:
        self.segments = segments
        self.heads = heads
        if g is None:
            self.within = self.start = self.end = None
        else:
            sums = sums_between(g[..., None])[..., 0]
            self.within = sums.masked_fill(~segments.visible, -torch.inf).exp()
            self.start = g.cumsum(-1).exp()[..., None]
            self.end = sums[..., -1, :].exp()[..., None]

    def scores(self, rows: Tensor, columns: Tensor) -> Tensor:
        products = _spread(rows @ columns.mT, self.heads)
        return products.masked_fill(~self.segments.visible, 0) if self.within is None else products * self.within

    def from_start(self, rows: Tensor) -> Tensor:
        return _decayed(_spread(rows, self.heads), self.start, self.segments.first)

    def to_end(self, columns: Tensor) -> Tensor:
        return _decayed(_spread(columns, self.heads), self.end, self.segments.last)

    def carry(self, state: Tensor) -> Tensor:
        kept = self.segments.kept(state)
        return kept if self.start is None else self.start[..., -1:, :] * kept


class ChannelGates:
    """A gate for each key channel.

    exp(G_i - G_j) does not factor without overflow over a whole chunk. So it is cut into blocks of 8 steps. Within
    a block all pairs are taken one by one; between blocks the decay is that from j to the end of its block, times that
    of the blocks between, times that from the start of i's block to i: three factors, none above 1 (as in fla).
    """

    def __init__(self, g: Tensor, segments: Segments) -> None:
        self.segments = segments
        self.heads, self.chunk = g.shape[1], g.shape[2]
        self.blocks = -(-self.chunk // BLOCK)
        g = self._in_blocks(g)  # (batch, heads, blocks, block, head_k)
        sums = sums_between(g)
        self.within = sums.exp()
        start = g.cumsum(-2)
        self.block_start, self.block_end = start.exp(), sums[..., -1, :, :].exp()
        totals = start[..., -1, :]  # (batch, heads, blocks, head_k)
        before = pad(totals.cumsum(-2)[..., :-1, :], (0, 0, 1, 0))
        after = sums_between(totals)  # (…, b, c, head_k): from the end of block c to the end of block b
        self.start = self._in_steps((start + before[..., None, :]).exp())
        self.end = self._in_steps((sums[..., -1, :, :] + after[..., -1, :, None, :]).exp())
        self.total = totals.sum(-2).exp()
        # From the end of block c to the start of block b, which is the end of block b - 1.
        self.between = pad(after[..., :-1, :, :], (0, 0, 0, 0, 1, 0), value=-torch.inf).exp()

    def scores(self, rows: Tensor, columns: Tensor) -> Tensor:
        rows = self._in_blocks(_spread(rows, self.heads))
        columns = self._in_blocks(_spread(columns, self.heads))
        here = (rows[..., :, None, :] * columns[..., None, :, :] * self.within).sum(-1)
        left = (rows * self.block_start)[..., :, None, :, :] * self.between[..., None, :]
        there = left @ (columns * self.block_end)[..., None, :, :, :].mT  # (…, blocks, blocks, block, block)
        own = torch.eye(self.blocks, dtype=here.dtype, device=here.device)[:, :, None, None]
        length = self.blocks * BLOCK
        pairs = (there + own * here[..., :, None, :, :]).transpose(-3, -2).reshape(*here.shape[:2], length, length)
        return pairs[..., : self.chunk, : self.chunk].masked_fill(~self.segments.visible, 0)

    def from_start(self, rows: Tensor) -> Tensor:
        return _decayed(_spread(rows, self.heads), self.start, self.segments.first)

    def to_end(self, columns: Tensor) -> Tensor:
        return _decayed(_spread(columns, self.heads), self.end, self.segments.last)

    def carry(self, state: Tensor) -> Tensor:
        return self.total[..., None] * self.segments.kept(state)

    def _in_blocks(self, tensor: Tensor) -> Tensor:
        """(batch, heads, chunk, head_k) → (batch, heads, blocks, 8, head_k), filled with zeros."""
        rest = self.blocks * BLOCK - self.chunk
        filled = pad(tensor, (0, 0, 0, rest)) if rest else tensor
        return filled.reshape(*filled.shape[:2], self.blocks, BLOCK, filled.shape[-1])

    def _in_steps(self, tensor: Tensor) -> Tensor:
        return tensor.flatten(2, 3)[:, :, : self.chunk]


class Chunk(NamedTuple):
    """Keys, values and gates of a chunk, finite, and what the rest does to outputs and state."""

    state: Tensor
    k: Tensor
    v: Tensor
    g: Tensor | None
    beta: Tensor | None
    poison: Tensor
    """(batch, heads, chunk, head_v): NaN at columns of the state that hold a NaN after this step, else 1."""


def contain(segments: Segments, state: Tensor, k: Tensor, v: Tensor, g: Tensor | None, beta: Tensor | None) -> Chunk:
    """Take out what is not finite, such that matrix products carry no NaN to earlier steps or through a reset.

    A value that is not finite spoils its column of the state from its step on; a key, beta or gate (but -inf, a gate
    that is shut) spoils all columns; a reset clears.

    Parameters
    ----------
    segments : Segments
    state : tensor (batch, heads, head_k, head_v)
    k : tensor (batch, heads of keys, chunk, head_k)
    v : tensor (batch, heads, chunk, head_v)
    g : tensor (batch or 1, heads, chunk) or (batch, heads, chunk, head_k), or None
    beta : tensor (batch, heads, chunk), or None
    """
    heads = v.shape[1]
    bad_k, bad_v = ~k.isfinite(), ~v.isfinite()
    bad = bad_v | _spread(bad_k.any(-1, keepdim=True), heads)
    if g is not None:
        bad_g = g.isnan() | (g == torch.inf)
        bad = bad | (bad_g if g.dim() == 4 else bad_g[..., None]).any(-1, keepdim=True)
        g = g.masked_fill(bad_g, 0)
    if beta is not None:
        bad_beta = ~beta.isfinite()
        bad = bad | bad_beta[..., None]
        beta = beta.masked_fill(bad_beta, 0)
    bad_state = ~state.isfinite().all(-2, keepdim=True)
    seen = segments.visible.to(v.dtype) @ bad.to(v.dtype) > 0
    seen = seen | (bad_state if segments.first is None else bad_state & segments.first)
    poison = torch.where(seen, torch.nan, 1.0).to(v.dtype)
    return Chunk(state.masked_fill(bad_state, 0), k.masked_fill(bad_k, 0), v.masked_fill(bad_v, 0), g, beta, poison)


def sums_between(g: Tensor) -> Tensor:
    """Sums of g over the steps j + 1 … i: (…, steps, channels) → (…, i, j, channels), -inf where j > i."""
    steps = g.shape[-2]
    below = torch.ones(steps, steps, dtype=torch.bool, device=g.device).tril(-1)
    terms = g[..., :, None, :].expand(*g.shape[:-1], steps, g.shape[-1]).masked_fill(~below[..., None], 0)
    return terms.cumsum(-3).masked_fill(below.mT[..., None], -torch.inf)


def _spread(tensor: Tensor, heads: int) -> Tensor:
    """Repeat the heads (dimension 1): head h of the state reads head h // ratio."""
    ratio = heads // tensor.shape[1]
    return tensor if ratio == 1 else tensor.repeat_interleave(ratio, dim=1, output_size=heads)


def _decayed(tensor: Tensor, decay: Tensor | None, kept: Tensor | None) -> Tensor:
    decayed = tensor if decay is None else tensor * decay
    return decayed if kept is None else decayed.masked_fill(~kept, 0)
