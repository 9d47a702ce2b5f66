"""A census: every string there is, the strings that an engine copies, and the states it can be in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy.engines.base import Engine
from ngram_copy.score import exact_match
from ngram_copy.statistics.base import Axis, Progress, Row, Statistic
from ngram_copy.tasks.base import DataHash
from ngram_copy.tasks.copy import copy_batch

MOST_STRINGS = 2**20
"""Strings of one length that are still all tried."""

_AT_ONCE = 4096
_FITTED = 256  # strings that a rounding is fitted on, at most


class Census(Statistic):
    """All D^L strings of each length, not a sample: how many are copied, and how many states tell them apart.

    An engine whose answer depends on its state at the cut alone cannot copy more strings of a length than it has
    states. States are counted as bytes (``Engine.cut``), copied strings by ``Engine.predict``, which need not read
    these bytes: an engine that looked elsewhere would be found out. ``free`` counts the strings that come out where the
    engine goes on from the bytes.

    Parameters
    ----------
    bits : int
        Of each number of a state that is rounded at the cut; 0: states are as they are.
    shorter : bool
        Whether shorter strings than the row's length are tried too; not for engines of one length.
    """

    name: ClassVar[str] = "census"
    summary: ClassVar[str] = "all strings of a length: those that are copied, and the states there are"
    axes: ClassVar[tuple[Axis, ...]] = ("engines", "lengths")

    def __init__(self, *, bits: int = 0, shorter: bool = True) -> None:
        if not 0 <= bits <= 16:
            raise ValueError(f"bits must be 0 (states as they are) or 1 … 16, not {bits}")
        self.bits = bits
        self.shorter = shorter

    def check(self, row: Row) -> None:
        """Refuse other tasks than ``copy``, and more strings than ``MOST_STRINGS``."""
        _, length = _engine_and_length(row)
        if row.task.name != "copy":
            raise ValueError(f"a census is of the task copy, not of {row.task.name}")
        size = row.task.vocab.size
        if size**length > MOST_STRINGS:
            raise ValueError(
                f"a census of {size}^{length} strings is too large: at most {MOST_STRINGS:,} of one length are tried"
            )

    def work(self, row: Row) -> float:
        return float(row.task.vocab.size ** (row.length or 1) * (row.length or 1) * 100)

    def measure(self, row: Row, *, threads: int, answered: Callable[[int], None]) -> dict[str, Any]:
        """Try all strings.

        Returns
        -------
        dict
            ``rows``, each of a length: the number of ``strings``, of distinct ``states``, of strings ``copied`` (by
            ``predict``) and copied ``free``; ``state_bits``, log2 of the states that the engine declares. The
            ``largest_share`` of copied strings in states, and the length ``at`` which it is.
        """
        engine, length = _engine_and_length(row)
        self.check(row)
        data = DataHash()
        lengths = range(1 if self.shorter else length, length + 1)
        rows = []
        progress = Progress(row.examples, answered)
        total = sum(row.task.vocab.size**one for one in lengths)
        tried = 0
        for one in lengths:
            counted = Counted(self._rounded(row, engine, one), one)
            for strings in all_strings(row.task.vocab.size, one):
                batch = copy_batch(strings, row.task.vocab, None, None)
                data.update(batch)
                counted.add(strings, threads)
                tried += len(strings)
                progress.share(tried / total)
            rows.append(counted.to_json())
        progress.end()
        shares = [one["copied"] / one["states"] for one in rows]
        largest = int(np.argmax(shares))
        return {
            "data_hash": data.hexdigest(),
            "rows": rows,
            "largest_share": shares[largest],
            "at": rows[largest]["length"],
        }

    def _rounded(self, row: Row, engine: Engine, length: int) -> Engine:
        """The engine, its states rounded if that is asked for, by levels fitted on strings of the same length."""
        if not self.bits:
            return engine
        fit = row.task.batch(length, seed=row.seed, split="fit", start=0, count=_FITTED)
        rounded = engine.quantised(self.bits, fit.prompts())
        if rounded is None:
            raise ValueError(f"the states of {engine.name} are not numbers that could be rounded")
        return rounded


class Counted:
    """Strings of one length that an engine was given, and what came of them.

    Parameters
    ----------
    engine : Engine
    length : int
    """

    def __init__(self, engine: Engine, length: int) -> None:
        self._engine = engine
        self._length = length
        self._answers: dict[bytes, NDArray[np.int64]] = {}  # by the SHA-256 of a state
        self._strings = self._copied = self._free = 0
        self._state_bits = 0.0

    def add(self, strings: NDArray[np.uint32], threads: int = 1) -> None:
        """Let the engine copy strings: shape (batch, length)."""
        batch = copy_batch(strings, self._engine.vocab, None, None)
        answers = batch.answers()
        self._strings += len(strings)
        self._copied += int(exact_match(self._engine.predict(batch, threads=threads).tokens, answers).strings.sum())
        states = self._engine.cut(batch.prompts())
        names = [hashlib.sha256(state).digest() for state in states]
        new = {name: state for name, state in zip(names, states, strict=True) if name not in self._answers}
        # What is the same state says the same.
        said = self._engine.resume(list(new.values()), self._length + 1)
        self._answers.update(zip(new, said, strict=True))
        self._free += sum(
            np.array_equal(self._answers[name], answer) for name, answer in zip(names, answers, strict=True)
        )
        self._state_bits = max(self._state_bits, float(self._engine.state_bits(batch.prompts()[:1])[0]))

    def to_json(self) -> dict[str, Any]:
        """The counts."""
        return {
            "length": self._length,
            "strings": self._strings,
            "states": len(self._answers),
            "copied": self._copied,
            "free": self._free,
            "state_bits": self._state_bits,
        }


def all_strings(vocab_size: int, length: int) -> Iterator[NDArray[np.uint32]]:
    """Every string of a length in the order of its digits, some thousands at a time."""
    count = vocab_size**length
    powers = np.array([vocab_size**place for place in reversed(range(length))], dtype=np.int64)
    for start in range(0, count, _AT_ONCE):
        numbers = np.arange(start, min(start + _AT_ONCE, count), dtype=np.int64)
        yield (numbers[:, None] // powers % vocab_size).astype(np.uint32)


def _engine_and_length(row: Row) -> tuple[Engine, int]:
    if row.engine is None or row.length is None:
        raise ValueError("a census is of an engine and a length")
    return row.engine, row.length
