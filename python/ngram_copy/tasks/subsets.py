"""Copy strings over small random alphabets: what trains models that generalise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy import sample
from ngram_copy.tasks.base import Batch, Task, VocabularySpec, check_length
from ngram_copy.tasks.copy import copy_batch

_UNITS = 2**32


@lru_cache(maxsize=32)
def size_counts(vocab_size: int, whole_share: float, smallest: int) -> NDArray[np.int64]:
    """How likely each size of an alphabet is: P(k) = counts[k - smallest] / 2^32, the same on every machine.

    P(k) ∝ 1/k on ``smallest`` … ``vocab_size`` (the log-uniform distribution of integers), mixed with ``whole_share``
    of k = ``vocab_size``; rounded down to whole counts, the rest goes to k = ``vocab_size``.

    Returns
    -------
    ndarray of int64, shape (vocab_size - smallest + 1,)
        Sums to 2^32.
    """
    weights = [int(count) for count in sample.zipf_counts(vocab_size, 1.0)[smallest - 1 :]]
    others = _UNITS - round(whole_share * _UNITS)
    total = sum(weights)
    counts = [others * weight // total for weight in weights]
    counts[-1] += _UNITS - sum(counts)
    return np.array(counts, dtype=np.int64)


@dataclass(frozen=True)
class CopySubsets(Task):
    """Strings of uniform tokens from an alphabet that is drawn for each string; otherwise the task ``copy``.

    A share of the strings uses all tokens. Each of the others first draws a size k with P(k) ∝ 1/k, then k tokens.
    In a small alphabet short n-grams repeat, so a model has to match longer ones. The probability of a string is not
    given, so there is no bound: to measure, take ``copy``.

    Parameters
    ----------
    vocab_size : int
        D, at least 2.
    whole_share : float
        Share of the strings over all tokens, 0 … 1.
    smallest : int
        Least size of the other alphabets, 1 … ``vocab_size``.
    """

    name: ClassVar[str] = "copy_subsets"
    summary: ClassVar[str] = "repeat a random string over a random alphabet: to train on"

    vocab_size: int = 26
    whole_share: float = 0.2
    smallest: int = 3

    def __post_init__(self) -> None:
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, not {self.vocab_size}")
        if not 0 <= self.whole_share <= 1:
            raise ValueError(f"whole_share must be 0 … 1, not {self.whole_share}")
        if not 1 <= self.smallest <= self.vocab_size:
            raise ValueError(f"smallest must be 1 … vocab_size = {self.vocab_size}, not {self.smallest}")
        size_counts(self.vocab_size, self.whole_share, self.smallest)

    @property
    def vocab(self) -> VocabularySpec:
        return VocabularySpec(self.vocab_size)

    def batch(self, length: int, *, seed: int, split: str, start: int, count: int, threads: int = 1) -> Batch:
        check_length(self, length, 1)
        size = self.vocab_size
        # Column 0 chooses the size of the alphabet, the others the tokens in it: (u · k) >> 32 is uniform in
        # 0 … k - 1 to within k / 2^32.
        stream = self.stream(length, split, "draws")
        draws = sample.uniform(seed, stream, start, count, length + 1, _UNITS, threads=threads).astype(np.uint64)
        stream = self.stream(length, split, "alphabets")
        alphabets = sample.distinct(seed, stream, start, count, size, size, threads=threads)
        below = np.cumsum(size_counts(size, self.whole_share, self.smallest)).astype(np.uint64)
        k = self.smallest + np.searchsorted(below, draws[:, 0], side="right").astype(np.uint64)
        places = ((draws[:, 1:] * k[:, None]) >> np.uint64(32)).astype(np.int64)
        strings = np.take_along_axis(alphabets, places, axis=1).astype(np.uint32)
        return copy_batch(strings, self.vocab, None, None)

    def oracle(self, prompt: NDArray[np.uint32], query: NDArray[np.uint32]) -> list[int]:
        return [*prompt[1:-1].tolist(), self.vocab.eos]
