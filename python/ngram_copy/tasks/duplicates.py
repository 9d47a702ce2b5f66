"""Copy a string in which an n-gram was planted twice: where the n-gram algorithm must break."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy import sample
from ngram_copy.tasks.base import Batch, Task, VocabularySpec, check_length
from ngram_copy.tasks.copy import copy_batch

SUCCESSORS = ("same", "different")


@dataclass(frozen=True)
class DuplicateNgram(Task):
    """Uniform strings with planted repeats; otherwise the task ``copy``.

    Blocks of n + 1 tokens are drawn without replacement and paired; the second of a pair takes over the n-gram of
    the first, and the token after it is the same or a different one.

    Parameters
    ----------
    vocab_size : int
        D, at least 2.
    n : int
        Tokens of a planted n-gram.
    repeats : int
        Pairs to plant.
    successor : {"same", "different"}
        The token after the second occurrence against that after the first.
    """

    name: ClassVar[str] = "duplicate_ngram"
    summary: ClassVar[str] = "repeat a string in which n-grams were planted twice"

    vocab_size: int = 26
    n: int = 3
    repeats: int = 1
    successor: str = "different"

    def __post_init__(self) -> None:
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, not {self.vocab_size}")
        for option, value in (("n", self.n), ("repeats", self.repeats)):
            if value < 1:
                raise ValueError(f"{option} must be at least 1, not {value}")
        if self.successor not in SUCCESSORS:
            raise ValueError(f"unknown successor {self.successor!r}; there are: {', '.join(SUCCESSORS)}")

    @property
    def vocab(self) -> VocabularySpec:
        return VocabularySpec(self.vocab_size)

    def batch(self, length: int, *, seed: int, split: str, start: int, count: int, threads: int = 1) -> Batch:
        size = self.n + 1
        check_length(self, length, 2 * self.repeats * size)

        def draw(purpose: str, columns: int, high: int) -> NDArray[np.uint32]:
            stream = self.stream(length, split, purpose)
            return sample.uniform(seed, stream, start, count, columns, high, threads=threads)

        strings = draw("strings", length, self.vocab_size)
        offset = draw("offset", 1, length % size + 1).astype(np.int64)
        stream = self.stream(length, split, "blocks")
        blocks = sample.distinct(seed, stream, start, count, 2 * self.repeats, length // size, threads=threads)
        begin = offset + blocks.astype(np.int64) * size
        shift = draw("shift", self.repeats, self.vocab_size - 1) + 1 if self.successor == "different" else 0
        source = begin[:, : self.repeats, None] + np.arange(size)
        target = begin[:, self.repeats :, None] + np.arange(size)
        rows = np.arange(count)[:, None, None]
        planted = strings[rows, source]
        planted[:, :, -1] = (planted[:, :, -1] + shift) % self.vocab_size
        strings[rows, target] = planted
        return copy_batch(strings, self.vocab, None, None)

    def oracle(self, prompt: NDArray[np.uint32], query: NDArray[np.uint32]) -> list[int]:
        return [*prompt[1:-1].tolist(), self.vocab.eos]
