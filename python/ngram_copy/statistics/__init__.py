"""Statistics: what a suite measures beside accuracy; ``STATISTICS`` holds them by name."""

from ngram_copy.statistics.base import Row, Statistic
from ngram_copy.statistics.repeats import Repeats

STATISTICS: dict[str, type[Statistic]] = {statistic.name: statistic for statistic in (Repeats,)}
"""All statistics by name; a new one is a file and a line here."""

__all__ = ["STATISTICS", "Row", "Statistic"]
