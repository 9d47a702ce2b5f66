"""How often some n-gram repeats within a string of a given length: where an n-gram copier fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from ngram_copy import ngram, theory
from ngram_copy.statistics.base import Axis, Row, Statistic
from ngram_copy.tasks.base import DataHash

_BATCH_TOKENS = 2**20


class Repeats(Statistic):
    """P(some n-gram repeats within L tokens), sampled, beside the formulas for uniform tokens."""

    name: ClassVar[str] = "repeats"
    summary: ClassVar[str] = "how often some n-gram repeats within a string"
    axes: ClassVar[tuple[Axis, ...]] = ("n", "lengths")

    def measure(self, row: Row, *, threads: int, answered: Callable[[int], None]) -> dict[str, Any]:
        if row.n is None or row.length is None:
            raise ValueError("repeats are counted of an n and a length")
        data = DataHash()
        repeating = distinct = 0
        size = max(1, min(1024, _BATCH_TOKENS // row.length))
        for batch in row.task.batches(
            row.length, seed=row.seed, split="test", examples=row.examples, batch=size, threads=threads
        ):
            data.update(batch)
            for prompt in batch.prompts():
                found = ngram.ngram_statistics(prompt[1:-1], row.n)
                repeating += found.distinct < found.total
                distinct += found.distinct
            answered(len(batch))
        low, high = theory.wilson_interval(repeating, row.examples)
        return {
            "data_hash": data.hexdigest(),
            "windows": {"repeating": repeating, "total": row.examples},
            "p": {"value": repeating / row.examples, "low": low, "high": high},
            "formula": {
                "union": theory.p_ngram_union_bound(row.length, row.n, row.task.vocab.size),
                "exact": theory.p_ngram(row.length, row.n, row.task.vocab.size),
            },
            "distinct": distinct,
        }

    def check(self, row: Row) -> None:
        batch = row.task.batch(row.length or 1, seed=row.seed, split="test", start=0, count=1)
        if (batch.tokens[0, 1 : batch.cut[0] - 1] >= row.task.vocab.size).any():
            raise ValueError(f"the prompts of {row.task.name} are not one string")
