"""Reference recurrences of state space models on NumPy arrays, computed in Rust.

Three families: *diagonal* (a state per channel), *outer* (a gated matrix state) and *delta* (erase, then write); and
the causal short convolution. Functions are named and shaped as the models' reference implementations. Each takes an
initial state and gives the last one, so that a sequence can be split anywhere.
"""

from ngram_copy.ssm.conv import causal_conv1d, causal_conv1d_update
from ngram_copy.ssm.delta import (
    delta_rule,
    delta_rule_step,
    gated_delta_rule,
    gated_delta_rule_step,
    kimi_delta_attention,
    kimi_delta_attention_step,
    l2_normalise,
)
from ngram_copy.ssm.linear import linear_scan, linear_step, lru_scan, lru_step, rg_lru, rg_lru_step
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
from ngram_copy.ssm.s4d import s4d_scan, s4d_state_update, zero_order_hold
from ngram_copy.ssm.selective import selective_scan, selective_state_update

__all__ = [
    "causal_conv1d",
    "causal_conv1d_update",
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
    "linear_scan",
    "linear_step",
    "lru_scan",
    "lru_step",
    "mamba2_scan",
    "mamba2_state_update",
    "retention",
    "retention_step",
    "rg_lru",
    "rg_lru_step",
    "s4d_scan",
    "s4d_state_update",
    "selective_scan",
    "selective_state_update",
    "zero_order_hold",
]
