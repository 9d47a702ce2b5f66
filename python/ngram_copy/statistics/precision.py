"""The n·m at which the constructed transformer breaks in a dtype, found by search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

from ngram_copy.statistics.agreement import check_copies, compare, named_dtype, transformer
from ngram_copy.statistics.base import Axis, Row, Statistic
from ngram_copy.tasks.base import DataHash

_AT_ONCE = 16
_COST = 20_000  # of a token in all the transformers that a search makes, in tokens that are copied symbolically


class Precision(Statistic):
    """The constructed transformer in a dtype, for larger and larger n, until it differs from the n-gram copier.

    Whether it computes the copier depends on n·m, m the bits of a token. n is doubled until some determined position
    of the row's strings comes out wrong, then the first n that fails is found by bisection: that all larger ones fail
    as well is assumed.

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
        batches = []
        for batch in row.task.batches(
            length, seed=row.seed, split="test", examples=row.examples, batch=_AT_ONCE, threads=threads
        ):
            data.update(batch)
            batches.append(batch)
        rows: dict[int, dict[str, int]] = {}

        def fails(n: int) -> bool:
            model = transformer(n, vocab.size, length, dtype=self.dtype, force=True)
            engine = NeuralEngine(vocab, model)
            counts: Counter[str] = Counter()
            for batch in batches:
                counts += compare(engine, batch, n)
            found = {"positions": counts["determined"], "disagreements": counts["disagreements"]}
            rows[n] = {"n": n, "product": n * bits, **found}
            return found["disagreements"] > 0

        first = _first(fails, max(1, self.up_to // bits))
        answered(row.examples)
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


def _length(row: Row) -> int:
    if row.length is None:
        raise ValueError("precision is of a length")
    return row.length
