"""The theory as plain functions: what a fixed state can copy, what an n-gram copier can, what a table holds.

The statements follow Jelassi, Brandfonbrener, Kakade and Malach, "Repeat After Me: Transformers are Better than State
Space Models at Copying" (ICML 2024, arXiv 2402.01032); what is derived here is derived in the docstring that states it.
"""

from ngram_copy.theory.ngrams import (
    ConstructionSizes,
    construction_sizes,
    median_length,
    p_ngram,
    p_ngram_monte_carlo,
    p_ngram_poisson,
    p_ngram_union_bound,
    required_n,
)
from ngram_copy.theory.significance import (
    Estimate,
    binomial_tail,
    binomial_test,
    bits_recalled_p_value,
    mean_interval,
    poisson_binomial_tail,
    wilson_interval,
)
from ngram_copy.theory.state import (
    bits_recalled_bound,
    copy_accuracy_bound,
    max_copy_length,
    rate_distortion,
    required_state_bits,
    string_bound,
    token_bound,
    tokens_bits,
)
from ngram_copy.theory.tables import (
    bounded_string_accuracy,
    bounded_table_bits,
    bounded_token_accuracy,
    expected_collisions,
    expected_occupied,
    expected_survivors,
    false_positive_rate,
    key_survival,
)

__all__ = [
    "ConstructionSizes",
    "Estimate",
    "binomial_tail",
    "binomial_test",
    "bits_recalled_bound",
    "bits_recalled_p_value",
    "bounded_string_accuracy",
    "bounded_table_bits",
    "bounded_token_accuracy",
    "construction_sizes",
    "copy_accuracy_bound",
    "expected_collisions",
    "expected_occupied",
    "expected_survivors",
    "false_positive_rate",
    "key_survival",
    "max_copy_length",
    "mean_interval",
    "median_length",
    "p_ngram",
    "p_ngram_monte_carlo",
    "p_ngram_poisson",
    "p_ngram_union_bound",
    "poisson_binomial_tail",
    "rate_distortion",
    "required_n",
    "required_state_bits",
    "string_bound",
    "token_bound",
    "tokens_bits",
    "wilson_interval",
]
