"""A learned b-bit machine: what it keeps of a prompt are b bits, and no number beside them.

    u = W₂ gelu(W₁ Σ_t E[t, x_t] / √max_len)         over all tokens x_t before ``<copy>``, t their places
    z = sign(u) ∈ {-1, 1}^b                          the state at the cut
    logits of answer token i = T_i (z, gelu(W₃ z)) + e_(L - i)

Whatever E, W and T are, the answers are a function of z (and of places and lengths, which are free): so a trained
machine obeys the bounds of a b-bit state with b as it stands, not with the bits of its floats. Every place has tables
of its own, as a constructed machine would: what is hard to learn is which b bits to keep, not how to find a place.

The sign has no gradient. Backward it is taken for tanh: dz/du = 1 - tanh²(u), a *straight-through* estimator
(Bengio, Léonard and Courville 2013, arXiv 1308.3432); forward it is the sign itself, in training too.

Tokens that come after ``<copy>`` are counted and not read: of a string of independent tokens, those before tell nothing
of the next.

Glossary: *memory*, the sum over the tokens so far while a prompt is read, then the bits, packed in bytes; *place*, of a
token in the prompt (from 0, ``<bos>``'s) or in the answer (from 0).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ngram_copy.models.base import linear

_SPECIAL = 4  # <bos>, <copy>, <eos> and padding, the last tokens of a vocabulary
_COPY = 3  # <copy>, from the end
_LEAST_LEN = 8  # what an engine tries a module on


@dataclass(frozen=True)
class BottleneckConfig:
    """The shape of a machine; calling it with the number of tokens makes one.

    Parameters
    ----------
    bottleneck : int
        b, a multiple of 8.
    max_len : int
        The longest string that it can read, at least 8.
    width : int
        Of the layers before and behind the bits.

    Raises
    ------
    ValueError
        If a number is not allowed.
    """

    bottleneck: int
    max_len: int = 64
    width: int = 128

    def __post_init__(self) -> None:
        for name, value, least in (("bottleneck", self.bottleneck, 8), ("max_len", self.max_len, _LEAST_LEN)):
            _require(name, value, least)
        _require("width", self.width, 1)
        if self.bottleneck % 8:
            raise ValueError(f"bottleneck must be a multiple of 8 (bits are packed in bytes), not {self.bottleneck}")

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> BottleneckConfig:
        """Read a table ``[models.X]`` of a suite.

        Raises
        ------
        ValueError
            If an option is unknown or its value not allowed.
        """
        known = cls.__dataclass_fields__
        for name in table:
            if name not in known:
                raise ValueError(f"unknown option {name!r} beside bottleneck (known: {', '.join(known)})")
        return cls(**table)

    def __call__(self, vocab_size: int) -> Bottleneck:
        return Bottleneck(self, vocab_size)

    def to_json(self) -> dict[str, Any]:
        """JSON values of all options."""
        return {"bottleneck": self.bottleneck, "max_len": self.max_len, "width": self.width}


@dataclass
class BottleneckState:
    """What a machine keeps between two tokens; all rows stand at the same place.

    Attributes
    ----------
    memory : tensor
        Before ``<copy>`` float (batch, width), the sum over the tokens so far; after it uint8 (batch, bits / 8), the
        bits, eight in a byte, the first the lowest.
    read : int
        Tokens before ``<copy>`` so far.
    answered : int
        Tokens behind ``<copy>`` so far; -1 before it.
    """

    memory: Tensor
    read: int
    answered: int


class Bottleneck(nn.Module):
    """See the top of this file.

    Parameters
    ----------
    config : BottleneckConfig
    vocab_size : int
        Special tokens included: the last four.
    """

    def __init__(self, config: BottleneckConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.bits = config.bottleneck
        self.vocab_size = vocab_size
        self.copy_token = vocab_size - _COPY
        bits, width, places = self.bits, config.width, config.max_len + 1
        # E: a row for each token at each place.
        self.embedding = nn.Parameter(torch.randn(places * vocab_size, width) / 2)
        self.hidden = linear(width, width, bias=True)
        self.signs = linear(width, bits, bias=True)
        self.unfold = linear(bits, width, bias=True)
        # T: how each token at each place of an answer (its end included) reads the bits and the layer behind them.
        self.tables = nn.Parameter(
            torch.cat(
                [
                    torch.randn(places * vocab_size, bits) / math.sqrt(bits),
                    torch.randn(places * vocab_size, width) / (2 * math.sqrt(width)),
                ],
                dim=1,
            )
        )
        # e: of how many tokens are left to say.
        self.left = nn.Embedding(places, vocab_size)
        nn.init.zeros_(self.left.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """From token ids (batch, seq_len) to logits (batch, seq_len, vocab_size); 0 before ``<copy>``, which is free.

        Raises
        ------
        ValueError
            If a string or an answer is longer than max_len.
        """
        seq_len = tokens.shape[1]
        is_copy = tokens == self.copy_token
        # Where <copy> stands first; seq_len, where there is none.
        cut = torch.where(is_copy.any(1), is_copy.int().argmax(1), seq_len)
        prompt = tokens[:, : int(cut.max()) if len(cut) else 0]
        place = torch.arange(seq_len, device=tokens.device)
        before = (place[: prompt.shape[1]] < cut[:, None]).to(self.signs.weight.dtype)
        signs = self._signs(self._sum(prompt, 0, before))
        answered = place - cut[:, None]  # (batch, seq_len)
        says = self._says(signs, answered.clamp(min=0), (cut - 1)[:, None])
        return says.masked_fill((answered < 0)[..., None], 0.0)

    def prefill(self, tokens: Tensor) -> tuple[Tensor, BottleneckState]:
        """Logits as ``forward`` gives them, and the state after the last token.

        Raises
        ------
        ValueError
            As ``forward``; or if ``<copy>`` does not stand at the same place in all rows.
        """
        logits = self(tokens)
        is_copy = tokens == self.copy_token
        cuts = {row.index(True) if True in row else -1 for row in is_copy.tolist()}
        if len(cuts) > 1:
            raise ValueError("rows of one state must have <copy> at the same place")
        cut = cuts.pop() if cuts else -1
        if cut < 0:
            return logits, BottleneckState(self._sum(tokens, 0), tokens.shape[1], -1)
        packed = pack(self._signs(self._sum(tokens[:, :cut], 0)))
        return logits, BottleneckState(packed, cut, tokens.shape[1] - cut - 1)

    def step(self, tokens: Tensor, state: BottleneckState) -> tuple[Tensor, BottleneckState]:
        """One token a row, (batch,), after a state; logits (batch, vocab_size) and the state after it.

        Raises
        ------
        ValueError
            As ``prefill``.
        """
        if state.answered >= 0:
            after = BottleneckState(state.memory, state.read, state.answered + 1)
            return self.answer(after), after
        is_copy = (tokens == self.copy_token).tolist()
        if all(is_copy):
            after = BottleneckState(pack(self._signs(state.memory)), state.read, 0)
            return self.answer(after), after
        if any(is_copy):
            raise ValueError("rows of one state must have <copy> at the same place")
        memory = state.memory + self._sum(tokens[:, None], state.read)
        nothing = memory.new_zeros(len(tokens), self.vocab_size)
        return nothing, BottleneckState(memory, state.read + 1, -1)

    def answer(self, state: BottleneckState) -> Tensor:
        """Logits (batch, vocab_size) of the next token of an answer, after a state behind ``<copy>``."""
        signs = unpack(state.memory).to(self.signs.weight.dtype)
        where = torch.tensor([[state.answered]], device=signs.device).expand(len(signs), 1)
        return self._says(signs, where, torch.full_like(where, state.read - 1))[:, 0]

    # --- Parts ----------------------------------------------------------------------------------------------

    def _sum(self, tokens: Tensor, start: int, kept: Tensor | None = None) -> Tensor:
        """Σ_t E[t, x_t] over tokens (batch, count) from the place ``start``, those that are kept: (batch, width)."""
        count = tokens.shape[1]
        if start + count > self.config.max_len + 1:
            raise ValueError(f"max_len = {self.config.max_len} is too short for {start + count} tokens before <copy>")
        # A product with ones and zeros: several times as fast, backward, as picking rows and adding them up.
        ones = functional.one_hot(tokens, self.vocab_size).to(self.signs.weight.dtype)
        ones = ones if kept is None else ones * kept[..., None]
        tables = self.embedding[start * self.vocab_size : (start + count) * self.vocab_size]
        return ones.flatten(1) @ tables

    def _signs(self, memory: Tensor) -> Tensor:
        """The bits of a sum, as -1 and 1: (batch, bits)."""
        hidden = functional.gelu(self.hidden(memory / math.sqrt(self.config.max_len)))
        u: Tensor = self.signs(hidden)
        soft = torch.tanh(u)
        hard = torch.where(u >= 0, 1.0, -1.0).to(u.dtype)
        # soft - soft is 0 exactly, and has the gradient of tanh.
        return hard + (soft - soft.detach())

    def _says(self, signs: Tensor, place: Tensor, length: Tensor) -> Tensor:
        """Logits at places (batch, count) of answers of some lengths (batch, 1): (batch, count, vocab_size)."""
        most = int(place.max()) + 1 if place.numel() else 0
        if most > self.config.max_len + 1:
            raise ValueError(f"max_len = {self.config.max_len} is too short for {most} tokens of an answer")
        seen = torch.cat([signs, functional.gelu(self.unfold(signs))], dim=1)
        tables = self.tables[: most * self.vocab_size]
        logits = functional.linear(seen, tables).view(len(seen), most, self.vocab_size)
        logits = logits.gather(1, place[..., None].expand(-1, -1, self.vocab_size))
        left = (length - place).clamp(0, self.config.max_len)
        found: Tensor = logits + self.left(left)
        return found


def pack(signs: Tensor) -> Tensor:
    """Signs (batch, bits) as bytes (batch, bits / 8), the first bit the lowest of its byte."""
    bits = (signs > 0).to(torch.uint8).view(len(signs), -1, 8)
    return (bits << torch.arange(8, dtype=torch.uint8, device=signs.device)).sum(2, dtype=torch.uint8)


def unpack(packed: Tensor) -> Tensor:
    """Undo ``pack``: -1 and 1, int8."""
    bits = (packed[..., None] >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    return bits.flatten(1).to(torch.int8) * 2 - 1


def _require(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number, {least} or more, not {value!r}")
