"""Two models for ``ngram-copy run … --model my_model.py:build`` and ``my_model.py:build_gru``.

A model is a function from the size of the vocabulary to an ``nn.Module``. The last four tokens of a vocabulary are
``<bos>``, ``<copy>``, ``<eos>`` and padding; those before it are the task's own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class InductionHead(nn.Module):
    """One attention head made by hand: it looks for the last tokens further up, and says what came after them."""

    def __init__(self, vocab_size: int, n: int = 3, scale: float = 10.0) -> None:
        super().__init__()
        self.vocab_size, self.n, self.scale = vocab_size, n, scale
        self.bos, self.copy, self.eos = vocab_size - 4, vocab_size - 3, vocab_size - 2

    def forward(self, tokens: Tensor) -> Tensor:
        """From token ids (batch, seq_len) to logits (batch, seq_len, vocab_size)."""
        text = tokens.where(tokens != self.copy, self.bos)  # the answer begins as the prompt does
        same = text[:, :, None] == text[:, None, :]  # (batch, query, key)
        matched = score = same.float()
        for k in range(1, self.n):  # how many tokens, up to n, are the same before both
            matched = matched * functional.pad(same.float()[:, :-k, :-k], (k, 0, k, 0))
            score = score + matched
        seq_len = tokens.shape[1]
        past = torch.ones(seq_len, seq_len, dtype=torch.bool, device=tokens.device).tril(-1)
        found = score.masked_fill(~past, -1.0).argmax(-1)  # the first of the best
        after = tokens.roll(-1, dims=1).gather(1, found)
        after = after.where(after != self.copy, self.eos)  # the answer ends where the prompt does
        return self.scale * functional.one_hot(after, self.vocab_size).float()


class TinyGRU(nn.Module):
    """A recurrent model: ``prefill`` and ``step`` show its state, so that it is measured."""

    def __init__(self, vocab_size: int, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """From token ids (batch, seq_len) to logits (batch, seq_len, vocab_size)."""
        return self.prefill(tokens)[0]

    def prefill(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits as ``forward`` gives them, and the state after the last token."""
        y, h = self.gru(self.embedding(tokens))
        return self.head(y), h

    def step(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One token a row, (batch,), after a state; logits (batch, vocab_size) and the state after it."""
        y, h = self.gru(self.embedding(tokens)[:, None], state)
        return self.head(y[:, 0]), h


def build(vocab_size: int) -> nn.Module:
    """A model without a state of its own: the prompt must be kept."""
    return InductionHead(vocab_size)


def build_gru(vocab_size: int) -> nn.Module:
    """A model with a state. Its weights are random here; load yours."""
    return TinyGRU(vocab_size)
