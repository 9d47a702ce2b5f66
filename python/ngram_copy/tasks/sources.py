"""Where tokens come from: sources with an exact probability for every string."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ngram_copy import sample

SOURCES = ("uniform", "zipf", "markov")


class Source(ABC):
    """A distribution over strings of each length that is sampled by counter and known exactly."""

    @abstractmethod
    def sample(self, seed: int, stream: int, start: int, count: int, length: int, threads: int) -> NDArray[np.uint32]:
        """Strings ``start`` … ``start + count - 1`` of a stream, shape (count, length)."""

    @abstractmethod
    def log2_p(self, strings: NDArray[np.uint32]) -> NDArray[np.float64]:
        """log2 probability of each token given those before it, shape (batch, length)."""

    @abstractmethod
    def h_min(self, length: int) -> float:
        """Min-entropy in bits: minus log2 of the probability of the likeliest string."""


class Uniform(Source):
    """Independent tokens, each of ``vocab_size`` equally likely."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def sample(self, seed: int, stream: int, start: int, count: int, length: int, threads: int) -> NDArray[np.uint32]:
        return sample.uniform(seed, stream, start, count, length, self.vocab_size, threads=threads)

    def log2_p(self, strings: NDArray[np.uint32]) -> NDArray[np.float64]:
        return np.full(strings.shape, -np.log2(self.vocab_size))

    def h_min(self, length: int) -> float:
        return length * float(np.log2(self.vocab_size))


class Zipf(Source):
    """Independent tokens, token k with probability proportional to (k + 1)^-exponent, in units of 2^-32."""

    def __init__(self, vocab_size: int, exponent: float) -> None:
        self.vocab_size = vocab_size
        self.exponent = exponent
        self._log2 = np.log2(sample.zipf_counts(vocab_size, exponent).astype(np.float64)) - 32

    def sample(self, seed: int, stream: int, start: int, count: int, length: int, threads: int) -> NDArray[np.uint32]:
        return sample.zipf(seed, stream, start, count, length, self.vocab_size, exponent=self.exponent, threads=threads)

    def log2_p(self, strings: NDArray[np.uint32]) -> NDArray[np.float64]:
        log2_p: NDArray[np.float64] = self._log2[strings]
        return log2_p

    def h_min(self, length: int) -> float:
        return -length * float(self._log2.max())


class Markov(Source):
    """A chain of order one: uniform first token, then ``branching`` possible successors of each token."""

    def __init__(self, vocab_size: int, branching: int, chain_seed: int) -> None:
        self.vocab_size = vocab_size
        self.branching = branching
        self.chain_seed = chain_seed
        successors, counts = sample.markov_chain(vocab_size, branching, chain_seed)
        self._successors = successors
        self._log2 = np.log2(counts.astype(np.float64)) - 32

    def sample(self, seed: int, stream: int, start: int, count: int, length: int, threads: int) -> NDArray[np.uint32]:
        return sample.markov(
            seed,
            stream,
            start,
            count,
            length,
            self.vocab_size,
            branching=self.branching,
            chain_seed=self.chain_seed,
            threads=threads,
        )

    def log2_p(self, strings: NDArray[np.uint32]) -> NDArray[np.float64]:
        log2_p = np.full(strings.shape, -np.log2(self.vocab_size))
        before, after = strings[:, :-1], strings[:, 1:]
        taken = self._successors[before] == after[..., None]
        log2_p[:, 1:] = np.where(taken, self._log2[before], -np.inf).max(axis=-1, initial=-np.inf)
        return log2_p

    def h_min(self, length: int) -> float:
        if length == 0:
            return 0.0
        # best[s]: log2 probability of the likeliest way on from s (Viterbi, from the right).
        best = np.zeros(self.vocab_size)
        for _ in range(length - 1):
            best = (self._log2 + best[self._successors]).max(axis=1)
        return float(np.log2(self.vocab_size) - best.max())


@lru_cache(maxsize=32)
def make_source(name: str, vocab_size: int, exponent: float, branching: int, chain_seed: int) -> Source:
    """The source of a task's options.

    Raises
    ------
    ValueError
        If the name is unknown or an option is out of range.
    """
    if vocab_size < 2:
        raise ValueError(f"vocab_size must be at least 2, not {vocab_size}")
    if name == "uniform":
        return Uniform(vocab_size)
    if name == "zipf":
        return Zipf(vocab_size, exponent)
    if name == "markov":
        return Markov(vocab_size, branching, chain_seed)
    raise ValueError(f"unknown source {name!r}; there are: {', '.join(SOURCES)}")
