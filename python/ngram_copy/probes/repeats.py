"""Planted repeats: where an n-gram occurs twice, with the same or another token after it.

A copier by k-grams cannot tell two occurrences of an n-gram apart once n ≥ k: it goes on after one of them, which is
right at both places if the same token follows, and at one of them if not. At n < k it sees the difference. A model
that learned that algorithm breaks at the same n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ngram_copy.engines.base import Engine
from ngram_copy.engines.symbolic import NgramEngine
from ngram_copy.probes.teleport import interval
from ngram_copy.score import exact_match
from ngram_copy.tasks.base import VocabularySpec
from ngram_copy.tasks.duplicates import SUCCESSORS, DuplicateNgram


@dataclass
class Right:
    """What an engine got right; counts.

    Attributes
    ----------
    strings : int
        Whole copies.
    first, second : int
        Tokens after the first and after the second occurrence of a repeated n-gram, teacher-forced.
    """

    strings: int = 0
    first: int = 0
    second: int = 0


@dataclass(frozen=True)
class Repeats:
    """Copies of strings with a planted repeat.

    Attributes
    ----------
    n : int
        Tokens of the repeated n-gram.
    successor : {"same", "different"}
        The tokens after its two occurrences.
    strings : int
        All of them.
    pairs : int
        N-grams that occur exactly twice and have such successors: the planted ones, and those that arose by chance.
    engine, copier : Right
        Of the engine, and of the n-gram copier beside it.
    copier_n : int
        Its n.
    """

    n: int
    successor: str
    strings: int
    pairs: int
    engine: Right
    copier: Right
    copier_n: int

    def to_json(self) -> dict[str, Any]:
        """JSON values; each count with its 95% Wilson interval."""

        def counts(right: Right) -> dict[str, Any]:
            return {
                "strings": interval(right.strings, self.strings),
                "first": interval(right.first, self.pairs),
                "second": interval(right.second, self.pairs),
            }

        return {**self.__dict__, "engine": counts(self.engine), "copier": counts(self.copier)}


def planted_repeats(
    engine: Engine,
    vocab: VocabularySpec,
    length: int,
    *,
    strings: int = 200,
    seed: int = 0,
    max_n: int = 8,
    copier_n: int | None = None,
    threads: int = 1,
) -> list[Repeats]:
    """Copy strings of the task ``duplicate_ngram``, by the engine and by an n-gram copier.

    Parameters
    ----------
    engine : Engine
    vocab : VocabularySpec
        Of the engine.
    length : int
        L; n-grams of which two do not fit, ``2 (n + 1) > L``, are left out.
    strings : int
        Of each n and successor, from the split "test".
    seed : int
    max_n : int
        N-grams of 2 … ``max_n`` tokens are planted.
    copier_n : int, optional
        N of the copier beside it; by default that of the planted n-gram.
    threads : int
        Of symbolic engines.

    Returns
    -------
    list of Repeats
        By n, then by successor.
    """
    found = []
    for n in range(2, max_n + 1):
        if 2 * (n + 1) > length:
            break
        for successor in SUCCESSORS:
            task = DuplicateNgram(vocab_size=vocab.size, n=n, successor=successor)
            copier = NgramEngine(vocab, n=copier_n or n)
            rights, pairs = (Right(), Right()), 0
            size = max(1, min(256, 2**17 // (2 * length)))
            for batch in task.batches(length, seed=seed, split="test", examples=strings, batch=size):
                answers = batch.answers()
                events = [(row, *pair) for row, x in enumerate(answers[:, :-1]) for pair in _pairs(x, n, successor)]
                rows, first, second = np.array(events, dtype=np.int64).reshape(-1, 3).T
                pairs += len(rows)
                for right, one in zip(rights, (engine, copier), strict=True):
                    tokens = one.predict(batch, threads=threads).tokens
                    right.strings += int(exact_match(tokens, answers).strings.sum())
                    hits = tokens == answers
                    right.first += int(hits[rows, first].sum())
                    right.second += int(hits[rows, second].sum())
            found.append(Repeats(n, successor, strings, pairs, *rights, copier.n))
    return found


def breaks_at(found: Sequence[Repeats]) -> int | None:
    """The smallest n whose repeats with different successors leave less than half of the strings right; None: none.

    K, for a copier by k-grams. What matches as many tokens as it can copes with longer repeats than its effective n.
    """
    planted = [one for one in found if one.successor == "different"]
    return next((one.n for one in planted if 2 * one.engine.strings < one.strings), None)


def _pairs(string: Sequence[int], n: int, successor: str) -> Iterator[tuple[int, int]]:
    """Places after both occurrences of n-grams that occur twice, without overlap, and are followed as asked."""
    places: dict[tuple[int, ...], list[int]] = {}
    tokens = list(map(int, string))
    for begin in range(len(tokens) - n):
        places.setdefault(tuple(tokens[begin : begin + n]), []).append(begin)
    for found in places.values():
        if len(found) == 2 and found[1] >= found[0] + n:
            first, second = found[0] + n, found[1] + n
            if (tokens[first] == tokens[second]) == (successor == "same"):
                yield first, second
