"""Multi-query associative recall: pairs of a key and a value, then every key again, each answered by its value.

The task of "Zoology" (Arora, Eyuboglu et al., arXiv 2312.04927), as its ``zoology/data/multiquery_ar.py`` draws it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy import sample
from ngram_copy.tasks.base import BLANK, Batch, Task, VocabularySpec, check_length

_UNITS = 2**32


@dataclass(frozen=True)
class MultiQueryRecall(Task):
    """``<bos> k_1 v_1 … k_K v_K <copy> | …``; the length is K, the number of pairs.

    After the cut come slots of two tokens: in K of them a key and its value, which is scored, in the others fillers.
    Keys are distinct tokens of the lower half but 0, values distinct tokens of the upper half. The slot of the first
    key is drawn with P(i) ∝ i^(power_a - 1), i = 1, 2, …, that of the next in the same way from those left, and so on.

    As in zoology, but that the token after a queried key is its value (there: a filler, and the value only a label).
    A pair is asked for once, so this tells of the values still to come only that they are others; ``log2_p`` knows. And
    here ``random_non_queries`` draws from the counter, not from a global generator. Figure 2 of the paper has
    ``random_non_queries = false`` and the lengths 4, 8, 16 (sequences of 64, 128, 256).

    Parameters
    ----------
    vocab_size : int
        V, at least 4.
    power_a : float
        Above 0, at most 1 (all slots are equally likely).
    tokens_per_pair : int
        Length of the sequence (``<bos>`` and ``<copy>`` aside) divided by K: even, at least 4.
    random_non_queries : bool
        Whether fillers are uniform in 0 … V - 1; else they are 0.
    """

    name: ClassVar[str] = "mqar"
    summary: ClassVar[str] = "say the value of each of K keys (multi-query associative recall)"

    vocab_size: int = 8192
    power_a: float = 0.01
    tokens_per_pair: int = 16
    random_non_queries: bool = True

    def __post_init__(self) -> None:
        if self.vocab_size < 4:
            raise ValueError(f"vocab_size must be at least 4, not {self.vocab_size}")
        if not 0 < self.power_a <= 1:
            raise ValueError(f"power_a must be above 0 and at most 1, not {self.power_a}")
        if self.tokens_per_pair < 4 or self.tokens_per_pair % 2:
            raise ValueError(f"tokens_per_pair must be even and at least 4, not {self.tokens_per_pair}")

    @property
    def vocab(self) -> VocabularySpec:
        return VocabularySpec(self.vocab_size)

    def batch(self, length: int, *, seed: int, split: str, start: int, count: int, threads: int = 1) -> Batch:
        half = self.vocab_size // 2
        check_length(self, length, 1)
        if length > half - 1:
            raise ValueError(f"{self.name}: length must be at most {half - 1}, the number of keys, not {length}")

        def distinct(purpose: str, low: int, high: int) -> NDArray[np.uint32]:
            stream = self.stream(length, split, purpose)
            drawn = sample.distinct(seed, stream, start, count, length, high - low, threads=threads)
            return (drawn + np.uint64(low)).astype(np.uint32)

        def uniform(purpose: str, columns: int, high: int) -> NDArray[np.uint32]:
            stream = self.stream(length, split, purpose)
            return sample.uniform(seed, stream, start, count, columns, high, threads=threads)

        keys, values = distinct("keys", 1, half), distinct("values", half, self.vocab_size)
        slots = (self.tokens_per_pair // 2 - 1) * length
        slot = draw_slots(uniform("slots", length, _UNITS), slots, self.power_a)
        cut = 2 * length + 2
        tokens = np.zeros((count, cut + 2 * slots), dtype=np.uint32)
        tokens[:, 0] = self.vocab.bos
        tokens[:, 1 : cut - 1 : 2] = keys
        tokens[:, 2 : cut - 1 : 2] = values
        tokens[:, cut - 1] = self.vocab.copy
        after = tokens[:, cut:]
        if self.random_non_queries:
            after[:] = uniform("fillers", 2 * slots, self.vocab_size)
        np.put_along_axis(after, 2 * slot, keys, axis=1)
        np.put_along_axis(after, 2 * slot + 1, values, axis=1)
        # In the order in which they are asked for, the values are drawn from those that are left.
        asked = 2 * np.sort(slot, axis=1) + 1
        bits = -np.log2(np.arange(self.vocab_size - half, self.vocab_size - half - length, -1.0))
        scored, log2_p = np.zeros(after.shape, dtype=bool), np.zeros(after.shape)
        np.put_along_axis(scored, asked, True, axis=1)
        np.put_along_axis(log2_p, asked, bits[None], axis=1)
        lengths, marks = (np.full(count, value, dtype=np.int64) for value in (tokens.shape[1], cut))
        return Batch(tokens, lengths, marks, marks, log2_p, -float(bits.sum()), scored)

    def oracle(self, prompt: NDArray[np.uint32], query: NDArray[np.uint32]) -> list[int]:
        pairs = prompt[1:-1].tolist()
        value = dict(zip(pairs[::2], pairs[1::2], strict=True))
        tokens = query.tolist()
        return [value[key] for key, blank in itertools.pairwise(tokens) if blank == BLANK]


def draw_slots(draws: NDArray[np.uint32], slots: int, power_a: float) -> NDArray[np.int64]:
    """Distinct slots, each drawn from those left with P(i) ∝ (i + 1)^(power_a - 1), the same on every machine.

    Parameters
    ----------
    draws : ndarray of uint32, shape (count, k)
        Uniform; k ≤ ``slots``.
    slots : int
    power_a : float
        Above 0, at most 1.

    Returns
    -------
    ndarray of int64, shape (count, k)
        In 0 … slots - 1, in the order drawn.
    """
    left = np.tile(sample.zipf_counts(slots, 1 - power_a), (len(draws), 1))
    chosen = np.empty(draws.shape, dtype=np.int64)
    rows = np.arange(len(draws))
    for column, draw in enumerate(draws.astype(np.uint64).T):
        below = left.cumsum(axis=1)
        place = (draw * below[:, -1]) >> np.uint64(32)
        chosen[:, column] = (below <= place[:, None]).sum(axis=1)
        left[rows, chosen[:, column]] = 0
    return chosen
