"""How well can a sequence model copy from its context? N-gram copiers, bounds and a benchmark."""

from ngram_copy import sample, ssm, theory
from ngram_copy.ngram import (
    BoundedNgramCopier,
    BoundedNgramTable,
    NgramCopier,
    NgramStatistics,
    NgramTable,
    PrefixMachine,
    RepeatWindows,
    StateError,
    __version__,
    first_conflict,
    first_repeat,
    hash_ngrams,
    ngram_statistics,
    repeat_windows,
)

__all__ = [
    "BoundedNgramCopier",
    "BoundedNgramTable",
    "NgramCopier",
    "NgramStatistics",
    "NgramTable",
    "PrefixMachine",
    "RepeatWindows",
    "StateError",
    "__version__",
    "first_conflict",
    "first_repeat",
    "hash_ngrams",
    "ngram_statistics",
    "repeat_windows",
    "sample",
    "ssm",
    "theory",
]
