"""The n·m at which the constructed transformer breaks in a dtype, found by search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy import sample
from ngram_copy.statistics.agreement import check_copies, compare, named_dtype, transformer
from ngram_copy.statistics.base import Axis, Progress, Row, Statistic
from ngram_copy.tasks.base import Batch, DataHash
from ngram_copy.tasks.copy import copy_batch

_AT_ONCE = 16
_COST = 20_000  # of a token in all the transformers that a search makes, in tokens that are copied symbolically


class Precision(Statistic):
    """The constructed transformer in a dtype, for larger and larger n, until it differs from the n-gram copier.

    Whether it computes the copier depends on n·m, m the bits of a token. n is doubled until some determined position
    comes out wrong, then the first n that fails is found by bisection: that all larger ones fail as well is assumed.
    Random strings would not tell, as two n-grams of theirs differ in half of their bits: in each string an n-gram
    occurs a second time with one bit of its first token changed, and another successor (see ``with_near_miss``). And
    their means are near 0, where formats are fine: so every other string is nearly constant (see ``nearly_constant``),
    its means are near ±1, and the differences that give a token back add most of the rounding up. Strings are of the
    row's length, or longer where two n-grams need more.

    Parameters
    ----------
    dtype : str
        Of torch.
    up_to : int
        Largest n·m that is tried.
    """

    name: ClassVar[str] = "precision"
    summary: ClassVar[str] = "the n·m beyond which a dtype no longer computes the n-gram copier"
    axes: ClassVar[tuple[Axis, ...]] = ("lengths",)
    one_thread: ClassVar[bool] = True

    def __init__(self, *, dtype: str = "bfloat16", up_to: int = 512) -> None:
        if up_to < 2:
            raise ValueError(f"up_to must be at least 2, not {up_to}")
        self.dtype = dtype
        self.up_to = up_to

    def check(self, row: Row) -> None:
        """Refuse tasks that do not copy, and lengths that they cannot make."""
        check_copies(row.task, _length(row), row.seed)

    def work(self, row: Row) -> float:
        return float(_COST * row.examples * (row.length or 1))

    def measure(self, row: Row, *, threads: int, answered: Callable[[int], None]) -> dict[str, Any]:
        """Search.

        Returns
        -------
        dict
            ``rows`` by n, each with the ``product`` n·m, determined ``positions`` and ``disagreements``;
            ``first_failure``, the least product that fails, None where none up to ``up_to`` does; ``limit``, the
            product up to which the construction allows the dtype.
        """
        from ngram_copy.engines.neural import NeuralEngine, require_torch

        require_torch("the constructed transformer")
        from ngram_copy.models.construct import limit

        vocab, length = row.task.vocab, _length(row)
        bits = max(2, (vocab.size - 1).bit_length())
        data = DataHash()
        rows: dict[int, dict[str, int]] = {}
        most = max(1, self.up_to // bits)
        tries = 2 * most.bit_length()  # at most: to a failure, and back to the first
        progress = Progress(row.examples, answered)

        def fails(n: int) -> bool:
            model = transformer(n, vocab.size, length, dtype=self.dtype, force=True)
            engine = NeuralEngine(vocab, model)
            counts: Counter[str] = Counter()
            for start in range(0, row.examples, _AT_ONCE):
                batch = _batch(row, n, max(length, 2 * (n + 1)), start, threads)
                data.update(batch)
                counts += compare(engine, batch, n)
                progress.share((len(rows) + (start + len(batch)) / row.examples) / tries)
            found = {"positions": counts["determined"], "disagreements": counts["disagreements"]}
            rows[n] = {"n": n, "product": n * bits, **found}
            return found["disagreements"] > 0

        first = _first(fails, most)
        progress.end()
        return {
            "data_hash": data.hexdigest(),
            "dtype": self.dtype,
            "rows": [rows[n] for n in sorted(rows)],
            "first_failure": None if first is None else first * bits,
            "limit": limit(named_dtype(self.dtype)),
        }


def _first(fails: Callable[[int], bool], most: int) -> int | None:
    """The least of 1 … most that fails, if each does that is larger than one that does; None where none fails."""
    good, n = 0, 1
    while not fails(n):
        if n == most:
            return None
        good, n = n, min(2 * n, most)
    while n - good > 1:
        middle = (good + n) // 2
        if fails(middle):
            n = middle
        else:
            good = middle
    return n


def with_near_miss(
    strings: NDArray[np.uint32], n: int, vocab_size: int, places: NDArray[np.int64]
) -> NDArray[np.uint32]:
    """Repeat an n-gram of each string in it, but for one bit of its first token, and with another successor.

    Parameters
    ----------
    strings : ndarray of uint32, shape (batch, length)
        Of 2(n + 1) tokens or more.
    n : int
    vocab_size : int
    places : ndarray of int64, shape (batch, 2)
        Random numbers 0 … 2^31 - 1 that say where the n-gram stands, and how much later again.

    Returns
    -------
    ndarray of uint32, shape (batch, length)
    """
    strings = strings.copy()
    slack = strings.shape[1] - 2 * (n + 1)
    first = places[:, 0] * (slack + 1) >> 31
    second = first + n + 1 + (places[:, 1] * (slack - first + 1) >> 31)
    rows = np.arange(len(strings))[:, None]
    block = strings[rows, first[:, None] + np.arange(n + 1)]
    # Without its lowest bit a token is another one, and 0 becomes 1: a single bit differs.
    block[:, 0] = np.where(block[:, 0] > 0, block[:, 0] & (block[:, 0] - 1), 1)
    block[:, n] = (block[:, n] + 1) % vocab_size
    strings[rows, second[:, None] + np.arange(n + 1)] = block
    return strings


def nearly_constant(strings: NDArray[np.uint32], chances: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Keep one token in twenty of each string, and make the others 0.

    Parameters
    ----------
    strings : ndarray of uint32, shape (batch, length)
    chances : ndarray of int64, shape (batch, length)
        Random numbers 0 … 19.

    Returns
    -------
    ndarray of uint32, shape (batch, length)
    """
    return np.where(chances == 0, strings, 0).astype(np.uint32)


def _batch(row: Row, n: int, length: int, start: int, threads: int) -> Batch:
    """Some of the row's strings, for an n."""
    count = min(_AT_ONCE, row.examples - start)
    batch = row.task.batch(length, seed=row.seed, split="test", start=start, count=count, threads=threads)
    strings = batch.tokens[:, 1 : length + 1]

    def random(what: str, size: int, below: int) -> NDArray[np.int64]:
        stream = row.task.stream(length, "test", what, n)
        return sample.uniform(row.seed, stream, start, count, size, below, threads=threads).astype(np.int64)

    every_other = np.arange(start, start + count) % 2 == 1
    strings = np.where(every_other[:, None], nearly_constant(strings, random("constant", length, 20)), strings)
    strings = with_near_miss(strings, n, row.task.vocab.size, random("near-miss", 2, 2**31))
    return copy_batch(strings, row.task.vocab, None, None)


def _length(row: Row) -> int:
    if row.length is None:
        raise ValueError("precision is of a length")
    return row.length
