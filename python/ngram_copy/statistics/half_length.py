"""The longest strings that n-gram copying copies: where half of them fail, and where one in a hundred does."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from itertools import count
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy import ngram, theory
from ngram_copy.engines.base import Engine
from ngram_copy.score import exact_match
from ngram_copy.statistics.base import Axis, Progress, Row, Statistic
from ngram_copy.tasks.copy import Copy
from ngram_copy.tasks.text import TextCopy

ERRORS = {"half": 0.5, "one_percent": 0.01}

_NORMAL = NormalDist().inv_cdf(0.975)
_WEIGHED = 6  # strings · D for each example
_TOKENS = 4096  # at least so many for each example: short strings cost nothing
_BEYOND = 1.06  # of the formula's length: more than the interval needs, as a rule
_TOLERANCE = 1e-9  # errors that are equal but for rounding are equal
_GRID = 12  # lengths of a text that are tried in one pass
_TEXT_PASSES = 8  # passes that a text takes, about

_LONGEST_TRANSFORMER = 1000
_MOST_STRINGS = 64
_OPERATIONS = 1e10  # of the transformer, a row
_MOST_PARAMETERS = 1 << 25


class HalfLength(Statistic):
    """The smallest L at which the n-gram copier's error p_ngram(L) is at least 1/2, and at least 1%.

    1/2: the median of the length at which a growing string first repeats an n-gram, which ``theory.median_length``
    approximates. The constructed transformer of n + 1 heads has the same error.

    *Uniform strings* (``copy``): p_ngram is estimated by ``ngram.repeat_free`` for all L at once; the interval of L is
    where the 95% intervals of p_ngram reach the error. Where a share S of the strings has survived, weights vary by
    S·√(ln(1/S)/D), as a string's events are nearly a Poisson number of mean D·ln(1/S); d ln S/d ln L = -2·ln 2 at
    S = 1/2: N strings give L½ with a relative standard error of 1/√(4·ln 2·D·N). There are 6·examples/D strings, at
    least two, and more where these are below 4096·examples tokens: 1000 examples give L½ within 0.8% (one standard
    error). For n = 1 the weight is the same for every string, and one is enough.

    *Text* (``text_copy``): all windows of the text are counted, so that there is no sampling error: the interval is the
    value itself. It says nothing of other texts.

    Parameters
    ----------
    transformer_up_to : int
        Where L½ is at most this, the constructed transformer itself answers strings of L½ tokens (fewer than the
        examples, so that it takes seconds; not if it had more than 2^25 parameters).
    """

    name: ClassVar[str] = "half-length"
    summary: ClassVar[str] = "the lengths at which half of the strings, and 1%, hold an n-gram twice"
    axes: ClassVar[tuple[Axis, ...]] = ("n",)

    def __init__(self, *, transformer_up_to: int = _LONGEST_TRANSFORMER) -> None:
        if transformer_up_to < 0:
            raise ValueError(f"transformer_up_to must be at least 0, not {transformer_up_to}")
        self.transformer_up_to = transformer_up_to

    def check(self, row: Row) -> None:
        """Refuse tasks other than ``copy`` of uniform strings and ``text_copy``, and strings that are too long."""
        n = _n(row)
        if isinstance(row.task, TextCopy):
            return
        if not isinstance(row.task, Copy) or row.task.source != "uniform":
            raise ValueError(
                f"half-length takes the task copy with the source uniform, or text_copy, not {row.task.name}"
            )
        length = _grown(n, row.task.vocab_size)
        if length > 2**30:
            raise ValueError(
                f"n = {n} with {row.task.vocab_size} tokens takes strings of {length:.3g} tokens, more than 2^30"
            )

    def work(self, row: Row) -> float:
        if isinstance(row.task, TextCopy):
            return float(_TEXT_PASSES * len(row.task.corpus.tokens))
        size = row.task.vocab.size
        length = _grown(_n(row), size)
        return float(_strings(_n(row), size, length, row.examples) * length)

    def measure(self, row: Row, *, threads: int, answered: Callable[[int], None]) -> dict[str, Any]:
        self.check(row)
        n, size = _n(row), row.task.vocab.size
        progress = Progress(row.examples, answered)
        found: dict[str, Any]
        if isinstance(row.task, TextCopy):
            found = _of_text(row.task, n, progress)
            formula = exact = None
        else:
            found = _of_uniform(row, n, size, threads, progress)
            formula = {name: _formula(n, size, error) for name, error in ERRORS.items()}
            exact = _exact(n, size)
        half = found["half"]["value"]
        sizes = theory.construction_sizes(n, size)
        transformer = None
        if half is not None and half <= self.transformer_up_to and sizes.parameters <= _MOST_PARAMETERS:
            transformer = _transformer(row, n, half, threads)
        progress.end()
        return {
            **found,
            "formula": formula,
            "exact": exact,
            "transformer": transformer,
            "heads": sum(sizes.heads),
            "parameters": sizes.parameters,
            "cut_bits": None if half is None else 32 * cached_numbers(n, size, half),
        }


def cached_numbers(n: int, vocab_size: int, length: int) -> int:
    """Keys and values that the constructed transformer of n holds at the cut of a string of L tokens.

    It has read ``<bos>`` and the string. Layer 1 keeps of each head a key and e numbers of the last n tokens, layer 2
    keys of n·e numbers and values of all tokens.
    """
    sizes = theory.construction_sizes(n, vocab_size)
    value, key = sizes.head_dims
    tokens = length + 1
    return n * min(tokens, n) * (1 + value) + tokens * (key + sizes.value_dim)


def _n(row: Row) -> int:
    if row.n is None:
        raise ValueError("a half-length is measured of an n")
    return row.n


def _formula(n: int, vocab_size: int, error: float) -> float:
    """``theory.median_length`` for another error: √(2·ln(1/(1 - error))·D^n / (1 - 1/D)) + n."""
    half = theory.median_length(n, vocab_size)
    return (half - n) * math.sqrt(-math.log1p(-error) / math.log(2)) + n


def _exact(n: int, vocab_size: int) -> dict[str, int] | None:
    """The lengths by exact counts, where they can be had."""
    found: dict[str, int] = {}
    for length in count(n):
        p = theory.p_ngram(length, n, vocab_size)
        if p is None:
            return None
        found = {name: length for name, error in ERRORS.items() if p >= error - _TOLERANCE} | found
        if len(found) == len(ERRORS):
            return found
    raise AssertionError("lengths do not end")


# --- Uniform strings --------------------------------------------------------------------------------------


def _grown(n: int, vocab_size: int) -> int:
    """How long strings are grown at first: for short ones the formula is too short."""
    half = _BEYOND * theory.median_length(n, vocab_size)
    return math.ceil(min(half, 2.0**62)) + n + 8


def _strings(n: int, vocab_size: int, length: int, examples: int) -> int:
    if n == 1:
        return 1
    return max(2, math.ceil(_WEIGHED * examples / vocab_size), math.ceil(_TOKENS * examples / length))


def _of_uniform(row: Row, n: int, vocab_size: int, threads: int, progress: Progress) -> dict[str, Any]:
    length = _grown(n, vocab_size)
    strings = _strings(n, vocab_size, length, row.examples)
    stream = row.task.stream(0, "test", "repeat-free", n)
    while True:
        grown = ngram.repeat_free(
            vocab_size,
            n,
            length,
            samples=strings,
            seed=row.seed,
            stream=stream,
            threads=threads,
            progress=lambda done: progress.share(0.9 * done / strings),
        )
        lengths, error, standard_error = grown.steps()
        found = {name: _reached(lengths, error, standard_error, limit) for name, limit in ERRORS.items()}
        if all(number is not None for values in found.values() for number in values.values()):
            break
        length *= 2  # the strings grow on: what was measured stays as it is
    digest = hashlib.sha256()
    for values, dtype in ((grown.counts, "<i8"), (grown.positions, "<u4"), (grown.forbidden, "<u4")):
        digest.update(values.astype(dtype, copy=False).tobytes())
    return {"data_hash": f"sha256:{digest.hexdigest()}", "samples": strings, **found}


def _reached(
    lengths: NDArray[np.int64], error: NDArray[np.float64], standard_error: NDArray[np.float64], limit: float
) -> dict[str, int | None]:
    """The smallest lengths at which an error and the ends of its 95% interval reach a limit."""
    half = _NORMAL * standard_error

    def first(values: NDArray[np.float64]) -> int | None:
        at = np.flatnonzero(values >= limit - _TOLERANCE)
        return int(lengths[at[0]]) if len(at) else None

    return {"value": first(error), "low": first(error + half), "high": first(error - half)}


# --- Text -------------------------------------------------------------------------------------------------


def _of_text(task: TextCopy, n: int, progress: Progress) -> dict[str, Any]:
    corpus = task.corpus
    ranges = {name: (0, len(corpus.tokens)) for name in ERRORS}  # the error is below the limit at the first
    whole = dict.fromkeys(ERRORS, False)  # whether it is reached at the second
    windows = 0
    for number in count(1):
        tried = sorted({length for low, high in ranges.values() for length in _between(low, high)})
        if not tried:
            break
        for found in ngram.repeat_windows(corpus.tokens, n, tried):
            for name, (low, high) in ranges.items():
                if not low < found.length <= high or found.total == 0:
                    continue
                if found.repeating >= ERRORS[name] * found.total:
                    ranges[name], whole[name] = (low, found.length), True
                    windows = found.total if name == "half" else windows
                else:
                    ranges[name] = (found.length, high)
        progress.share(number / _TEXT_PASSES)
    lengths = {name: high if whole[name] else None for name, (_, high) in ranges.items()}
    return {
        "data_hash": corpus.sha256,
        "samples": windows,
        **{name: dict.fromkeys(("value", "low", "high"), length) for name, length in lengths.items()},
    }


def _between(low: int, high: int) -> list[int]:
    """Some lengths in ``low + 1`` … ``high - 1``, in equal ratios; of an untried range, ``high`` as well."""
    if low == 0:
        return sorted({min(high, 2**power) for power in range(high.bit_length() + 1)})
    return sorted({round(low * (high / low) ** (k / _GRID)) for k in range(1, _GRID)} - {low, high})


# --- The transformer itself -------------------------------------------------------------------------------


def _transformer(row: Row, n: int, length: int, threads: int) -> dict[str, Any]:
    """How many strings of a length the constructed transformer copies, their ends included."""
    from ngram_copy.engines.constructed import ConstructedEngine

    engine: Engine = ConstructedEngine(row.task.vocab, n=n, max_len=length)
    sizes = theory.construction_sizes(n, row.task.vocab.size)
    context = 2 * length + 3
    operations = 2 * context * (sizes.parameters + context * (n * (1 + sizes.head_dims[0]) + sizes.head_dims[1]))
    strings = min(row.examples, _MOST_STRINGS, max(4, int(_OPERATIONS / operations)))
    correct = 0
    for batch in row.task.batches(length, seed=row.seed, split="test", examples=strings, batch=8, threads=threads):
        predicted = engine.predict(batch, threads=threads)
        correct += int(exact_match(predicted.tokens, batch.answers()).strings.sum())
    low, high = theory.wilson_interval(correct, strings)
    return {"length": length, "strings": strings, "correct": correct, "low": low, "high": high}
