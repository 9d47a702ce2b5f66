"""N-grams: hashes, tables, copiers and statistics: the NumPy faces of the core.

Tokens are integers 0 … 2^32 - 1 of any integer type.
"""

from ngram_copy._rust import StateError, __version__
from ngram_copy.ngram.copiers import BoundedNgramCopier, NgramCopier, PrefixMachine
from ngram_copy.ngram.hashes import hash_ngrams
from ngram_copy.ngram.repeat_free import RepeatFree, repeat_free
from ngram_copy.ngram.statistics import (
    NgramStatistics,
    RepeatWindows,
    first_conflict,
    first_repeat,
    ngram_statistics,
    repeat_windows,
)
from ngram_copy.ngram.tables import BoundedNgramTable, NgramTable

__all__ = [
    "BoundedNgramCopier",
    "BoundedNgramTable",
    "NgramCopier",
    "NgramStatistics",
    "NgramTable",
    "PrefixMachine",
    "RepeatFree",
    "RepeatWindows",
    "StateError",
    "__version__",
    "first_conflict",
    "first_repeat",
    "hash_ngrams",
    "ngram_statistics",
    "repeat_free",
    "repeat_windows",
]
