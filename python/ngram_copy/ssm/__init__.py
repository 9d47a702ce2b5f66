"""Reference recurrences of state space models on NumPy arrays, computed in Rust.

Three families: *diagonal* (a state per channel), *outer* (a gated matrix state) and *delta* (erase, then write); and the
causal short convolution. Functions are named and shaped as the models' reference implementations. Each takes an initial
state and gives the last one, so that a sequence can be split anywhere.
"""

from ngram_copy.ssm.delta import (
    delta_rule,
    delta_rule_step,
    gated_delta_rule,
    gated_delta_rule_step,
    kimi_delta_attention,
    kimi_delta_attention_step,
    l2_normalise,
)
from ngram_copy.ssm.outer import (
    gated_linear_attention,
    gated_linear_attention_step,
    linear_attention,
    linear_attention_step,
    mamba2_scan,
    mamba2_state_update,
    retention,
    retention_step,
)
from ngram_copy.ssm.selective import selective_scan, selective_state_update

__all__ = [
    "delta_rule",
    "delta_rule_step",
    "gated_delta_rule",
    "gated_delta_rule_step",
    "gated_linear_attention",
    "gated_linear_attention_step",
    "kimi_delta_attention",
    "kimi_delta_attention_step",
    "l2_normalise",
    "linear_attention",
    "linear_attention_step",
    "mamba2_scan",
    "mamba2_state_update",
    "retention",
    "retention_step",
    "selective_scan",
    "selective_state_update",
]
