"""What an answer is worth: exact match, bits recalled, intervals, exact tests of the bounds, classes of errors.

And what a row of results is worth: ``row_verdict`` says of a learned model's cell why its strings fail.
"""

from ngram_copy.score.cells import (
    COPIES,
    KEEPS,
    MODELS,
    NEAR,
    RowVerdict,
    is_learned,
    row_verdict,
    row_verdicts,
    smallest_state,
    trained_lengths,
)
from ngram_copy.score.claims import (
    ASYMPTOTIC,
    LENGTH_SHARE,
    LENGTH_TOLERANCE,
    Slope,
    half_length_fits,
    half_length_slope,
    is_uniform,
    verdicts,
)
from ngram_copy.score.strings import ErrorClass, Match, Smoothing, bits_recalled, classify_error, exact_match
from ngram_copy.theory import (
    binomial_tail,
    binomial_test,
    bits_recalled_p_value,
    mean_interval,
    poisson_binomial_tail,
    wilson_interval,
)

__all__ = [
    "ASYMPTOTIC",
    "COPIES",
    "KEEPS",
    "LENGTH_SHARE",
    "LENGTH_TOLERANCE",
    "MODELS",
    "NEAR",
    "ErrorClass",
    "Match",
    "RowVerdict",
    "Slope",
    "Smoothing",
    "binomial_tail",
    "binomial_test",
    "bits_recalled",
    "bits_recalled_p_value",
    "classify_error",
    "exact_match",
    "half_length_fits",
    "half_length_slope",
    "is_learned",
    "is_uniform",
    "mean_interval",
    "poisson_binomial_tail",
    "row_verdict",
    "row_verdicts",
    "smallest_state",
    "trained_lengths",
    "verdicts",
    "wilson_interval",
]
