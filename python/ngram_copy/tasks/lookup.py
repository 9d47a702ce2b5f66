"""Look up an n-gram of a string and say what follows it, with the n-gram after the string or before it.

The tasks of "Repeat After Me" (arXiv 2402.01032), with one defect mended: the looked-up n-gram is unique, so
that the answer is determined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy import sample
from ngram_copy.ngram import hash_ngrams
from ngram_copy.tasks.base import Batch, Task, VocabularySpec, check_length

ATTEMPTS = 64


@dataclass(frozen=True)
class _Lookup(Task):
    """What both orders share: uniform strings, in each one n-gram that occurs once.

    Parameters
    ----------
    vocab_size : int
        D, at least 2.
    n : int
        Tokens of the looked-up n-gram.
    answer_len : int
        Tokens to say after it.
    """

    vocab_size: int = 26
    n: int = 3
    answer_len: int = 4

    def __post_init__(self) -> None:
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, not {self.vocab_size}")
        for option, value in (("n", self.n), ("answer_len", self.answer_len)):
            if value < 1:
                raise ValueError(f"{option} must be at least 1, not {value}")

    @property
    def vocab(self) -> VocabularySpec:
        return VocabularySpec(self.vocab_size)

    def _draw(
        self, length: int, seed: int, split: str, attempt: int, start: int, count: int, threads: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Strings and where the looked-up n-gram of each begins, -1 where none is unique."""
        stream = self.stream(length, split, "strings", attempt)
        strings = sample.uniform(seed, stream, start, count, length, self.vocab_size, threads=threads)
        # Among the unique n-grams with a whole answer behind them, the one of least random priority. A collision
        # of hashes could only make a unique n-gram look repeated.
        hashes = hash_ngrams(strings, self.n)
        order = np.argsort(hashes, axis=1, kind="stable")
        ranked = np.take_along_axis(hashes, order, axis=1)
        same = np.zeros((count, hashes.shape[1] + 1), dtype=bool)
        same[:, 1:-1] = ranked[:, 1:] == ranked[:, :-1]
        unique = np.empty(hashes.shape, dtype=bool)
        np.put_along_axis(unique, order, ~(same[:, 1:] | same[:, :-1]), axis=1)
        places = length - self.n - self.answer_len + 1
        stream = self.stream(length, split, "priorities", attempt)
        priority = sample.uniform(seed, stream, start, count, places, 2**32, threads=threads).astype(np.int64)
        priority[~unique[:, :places]] = 2**32
        place = priority.argmin(axis=1)
        return strings, np.where(np.take_along_axis(priority, place[:, None], axis=1)[:, 0] < 2**32, place, -1)

    def _examples(
        self, length: int, seed: int, split: str, start: int, count: int, threads: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]:
        """Strings, the looked-up n-grams, and their answers."""
        check_length(self, length, self.n + self.answer_len)
        strings, place = self._draw(length, seed, split, 0, start, count, threads)
        for row in np.flatnonzero(place < 0):
            for attempt in range(1, ATTEMPTS):
                again, where = self._draw(length, seed, split, attempt, start + int(row), 1, 1)
                if where[0] >= 0:
                    strings[row], place[row] = again[0], where[0]
                    break
            else:
                raise ValueError(
                    f"{self.name}: no unique {self.n}-gram in {ATTEMPTS} strings of length {length} over "
                    f"{self.vocab_size} tokens; take a larger n or a shorter length"
                )
        columns = place[:, None] + np.arange(self.n + self.answer_len)
        found = np.take_along_axis(strings, columns, axis=1)
        return strings, found[:, : self.n], found[:, self.n :]

    def _assemble(self, parts: list[NDArray[np.uint32] | int], count: int, cut_after: int) -> Batch:
        """A batch of the parts one after another; the cut lies behind part ``cut_after``, the answer is the last."""
        blocks = [np.full((count, 1), p, dtype=np.uint32) if isinstance(p, int) else p for p in parts]
        ends = np.cumsum([block.shape[1] for block in blocks])
        tokens = np.concatenate(blocks, axis=1)

        def full(value: int) -> NDArray[np.int64]:
            return np.full(count, value, dtype=np.int64)

        return Batch(tokens, full(int(ends[-1])), full(int(ends[cut_after])), full(int(ends[-2])), None, None)

    def _follows(self, string: list[int], key: list[int]) -> list[int]:
        for i in range(len(string) - self.n + 1):
            if string[i : i + self.n] == key:
                return string[i + self.n : i + self.n + self.answer_len]
        raise ValueError(f"{self.name}: the n-gram {key} is not in the string")


@dataclass(frozen=True)
class SuffixLookup(_Lookup):
    """The n-gram comes after the string: ``<bos> x <copy> | q | answer``; all of x must be kept."""

    name: ClassVar[str] = "suffix_lookup"
    summary: ClassVar[str] = "say what follows an n-gram that is asked for after the string"

    def batch(self, length: int, *, seed: int, split: str, start: int, count: int, threads: int = 1) -> Batch:
        strings, key, answer = self._examples(length, seed, split, start, count, threads)
        return self._assemble([self.vocab.bos, strings, self.vocab.copy, key, answer], count, 2)

    def oracle(self, prompt: NDArray[np.uint32], query: NDArray[np.uint32]) -> list[int]:
        return self._follows(prompt[1:-1].tolist(), query.tolist())


@dataclass(frozen=True)
class PrefixLookup(_Lookup):
    """The n-gram comes before the string: ``<bos> q <copy> x <copy> | answer``; a small state is enough."""

    name: ClassVar[str] = "prefix_lookup"
    summary: ClassVar[str] = "say what follows an n-gram that was named before the string"

    def batch(self, length: int, *, seed: int, split: str, start: int, count: int, threads: int = 1) -> Batch:
        strings, key, answer = self._examples(length, seed, split, start, count, threads)
        vocab = self.vocab
        return self._assemble([vocab.bos, key, vocab.copy, strings, vocab.copy, answer], count, 4)

    def oracle(self, prompt: NDArray[np.uint32], query: NDArray[np.uint32]) -> list[int]:
        tokens = prompt.tolist()
        return self._follows(tokens[self.n + 2 : -1], tokens[1 : self.n + 1])
