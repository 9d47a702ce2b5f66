"""What each step of a training learns from."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ngram_copy import sample
from ngram_copy.tasks.base import Batch, Task
from ngram_copy.train.options import Training


@dataclass
class Seen:
    """Where a training stands, and what it measured: JSON values, in every checkpoint."""

    step: int = 0
    examples: int = 0
    tokens: int = 0
    positions: dict[str, int] = field(default_factory=dict)
    """The next unused example of each length."""
    data_hash: str = hashlib.sha256(b"").hexdigest()
    losses: list[list[float]] = field(default_factory=list)
    window: list[float] = field(default_factory=list)
    """Losses since the last entry."""
    evaluations: list[list[int]] = field(default_factory=list)
    validation_loss: float | None = None

    def take(self, batch: Batch, length: int, count: int) -> None:
        """Note that the first ``count`` examples of a batch are trained on."""
        sha = hashlib.sha256(bytes.fromhex(self.data_hash))
        for marks in (batch.lengths, batch.cut, batch.answer):
            sha.update(marks[:count].astype("<i8", copy=False).tobytes())
        sha.update(batch.tokens[:count].astype("<u4", copy=False).tobytes())
        if batch.scored is not None:
            sha.update(batch.scored[:count].astype("<u1").tobytes())
        self.data_hash = sha.hexdigest()
        self.positions[str(length)] = self.positions.get(str(length), 0) + count
        self.examples += count
        self.tokens += int(batch.lengths[:count].sum())


@dataclass(frozen=True)
class Piece:
    """What a step trains on.

    Attributes
    ----------
    tokens : ndarray of int64, shape (rows, seq_len)
    answer : ndarray of bool, shape (rows, seq_len)
        Where the tokens of answers stand that are scored.
    length : int
        The greatest L in it.
    """

    tokens: NDArray[np.int64]
    answer: NDArray[np.bool_]
    length: int

    def __str__(self) -> str:
        return f"{len(self.tokens)} rows of {self.tokens.shape[1]} tokens (L up to {self.length})"


class Stream:
    """What each step trains on: a function of (task, seed, step) and of the examples that were taken before."""

    def __init__(self, task: Task, training: Training, seed: int) -> None:
        self._task, self._training, self._seed = task, training, seed
        self._sizes: dict[int, int] = {}

    def draw(self, step: int, seen: Seen) -> Piece:
        """The data of a step; ``seen`` notes them."""
        return self._packed(step, seen) if self._training.packing else self._of_one_length(step, seen)

    def _of_one_length(self, step: int, seen: Seen) -> Piece:
        length = self._lengths(step, "length of a step", step, 1)[0]
        if length not in self._sizes:
            self._sizes[length] = first_example(self._task, length, self._seed).tokens.shape[1]
        count = max(1, self._training.tokens_per_step // self._sizes[length])
        batch = self._batch(length, seen, count)
        seen.take(batch, length, count)
        return Piece(batch.tokens.astype(np.int64), scored_tokens(batch), length)

    def _packed(self, step: int, seen: Seen) -> Piece:
        """Contexts that are filled one after the other; the example that does not fit in begins the next."""
        training = self._training
        rows = training.tokens_per_step // training.context
        tokens = np.full((rows, training.context), self._task.vocab.pad, dtype=np.int64)
        answer = np.zeros(tokens.shape, dtype=np.bool_)
        row = used = greatest = 0
        for start in itertools.count(step=4 * rows):
            lengths = self._lengths(step, f"lengths of step {step}", start, 4 * rows)
            batches = {length: self._batch(length, seen, lengths.count(length)) for length in set(lengths)}
            scored = {length: scored_tokens(batch) for length, batch in batches.items()}
            taken = dict.fromkeys(batches, 0)
            for length in lengths:
                batch, index = batches[length], taken[length]
                size = int(batch.lengths[index])
                if size > training.context:
                    raise ValueError(f"context = {training.context} has no room for an example of {size} tokens")
                if used + size > training.context:
                    row, used = row + 1, 0
                if row == rows:
                    break
                tokens[row, used : used + size] = batch.tokens[index, :size]
                answer[row, used : used + size] = scored[length][index, :size]
                used += size
                greatest = max(greatest, length)
                taken[length] += 1
            for length in sorted(batches):
                seen.take(batches[length], length, taken[length])
            if row == rows:
                break
        return Piece(tokens, answer, greatest)

    def _batch(self, length: int, seen: Seen, count: int) -> Batch:
        start = seen.positions.get(str(length), 0)
        return self._task.batch(length, seed=self._seed, split="train", start=start, count=count)

    def _lengths(self, step: int, purpose: str, start: int, count: int) -> list[int]:
        """Lengths by the law of a step, in units of 2^-20 of the greatest weight: exact draws."""
        least, cap = self._training.lengths[0], self._training.cap(step)
        weights = [(length / cap) ** self._training.length_power for length in range(least, cap + 1)]
        edges = np.cumsum([max(1, round(2**20 * weight)) for weight in weights])
        stream = sample.stream_id("training", purpose)
        drawn = sample.integers(self._seed, stream, start, count, 0, int(edges[-1]))
        return [least + int(index) for index in np.searchsorted(edges, drawn, side="right")]


def scored_tokens(batch: Batch) -> NDArray[np.bool_]:
    """Which tokens are to be predicted, shape (batch, seq_len)."""
    answers = batch.answers()
    rows, columns = np.nonzero(answers >= 0)
    scored = np.zeros(batch.tokens.shape, dtype=np.bool_)
    scored[rows, batch.answer[rows] + columns] = True
    return scored


def first_example(task: Task, length: int, seed: int, split: str = "train") -> Batch:
    """The first example of a length, or the task's own ValueError."""
    return task.batch(length, seed=seed, split=split, start=0, count=1)
