"""Statistics: what a suite measures beside accuracy; ``STATISTICS`` holds them by name."""

from ngram_copy.statistics.agreement import Agreement
from ngram_copy.statistics.base import Row, Statistic
from ngram_copy.statistics.census import Census
from ngram_copy.statistics.half_length import HalfLength
from ngram_copy.statistics.precision import Precision
from ngram_copy.statistics.repeats import Repeats

STATISTICS: dict[str, type[Statistic]] = {
    statistic.name: statistic for statistic in (Repeats, Agreement, Census, Precision, HalfLength)
}
"""All statistics by name; a new one is a file and a line here."""

__all__ = ["STATISTICS", "Row", "Statistic"]
