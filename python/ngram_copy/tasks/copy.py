"""Copy a random string: ``<bos> x_1 … x_L <copy> | x_1 … x_L <eos>``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy.tasks.base import Batch, Task, VocabularySpec, check_length
from ngram_copy.tasks.sources import Source, make_source


def copy_batch(
    strings: NDArray[np.uint32],
    vocab: VocabularySpec,
    log2_p: NDArray[np.float64] | None,
    h_min: float | None,
) -> Batch:
    """A batch whose answers are the strings themselves, end included.

    Parameters
    ----------
    strings : ndarray of uint32, shape (batch, length)
    vocab : VocabularySpec
    log2_p : ndarray of float64, shape (batch, length), or None
        Of the strings' tokens; the end adds nothing, as the length is known.
    h_min : float or None
    """
    count, length = strings.shape
    tokens = np.empty((count, 2 * length + 3), dtype=np.uint32)
    tokens[:, 0] = vocab.bos
    tokens[:, 1 : length + 1] = strings
    tokens[:, length + 1] = vocab.copy
    tokens[:, length + 2 : -1] = strings
    tokens[:, -1] = vocab.eos
    marks = np.full(count, length + 2, dtype=np.int64)
    if log2_p is not None:
        log2_p = np.pad(log2_p, ((0, 0), (0, 1)))
    return Batch(tokens, np.full(count, 2 * length + 3, dtype=np.int64), marks, marks, log2_p, h_min)


@dataclass(frozen=True)
class Copy(Task):
    """Strings of a known source, to be repeated whole.

    Parameters
    ----------
    vocab_size : int
        D, at least 2.
    source : {"uniform", "zipf", "markov"}
    exponent : float
        Of Zipf's law.
    branching : int
        Successors of each token of the Markov chain.
    chain_seed : int
        Seed of the Markov chain itself, apart from the seed of the strings.
    """

    name: ClassVar[str] = "copy"
    summary: ClassVar[str] = "repeat a random string of L tokens and stop at its end"

    vocab_size: int = 26
    source: str = "uniform"
    exponent: float = 1.0
    branching: int = 4
    chain_seed: int = 0

    def __post_init__(self) -> None:
        self._source  # noqa: B018  checks the options at once

    @property
    def _source(self) -> Source:
        return make_source(self.source, self.vocab_size, self.exponent, self.branching, self.chain_seed)

    @property
    def vocab(self) -> VocabularySpec:
        return VocabularySpec(self.vocab_size)

    def batch(self, length: int, *, seed: int, split: str, start: int, count: int, threads: int = 1) -> Batch:
        check_length(self, length, 1)
        strings = self._source.sample(seed, self.stream(length, split), start, count, length, threads)
        return copy_batch(strings, self.vocab, self._source.log2_p(strings), self._source.h_min(length))

    def oracle(self, prompt: NDArray[np.uint32], query: NDArray[np.uint32]) -> list[int]:
        return [*prompt[1:-1].tolist(), self.vocab.eos]
