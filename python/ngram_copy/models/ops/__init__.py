"""Reference recurrences in torch: whole sequences, single steps and gradients, on any device.

Functions are named and shaped as the models' reference implementations, and as those of :mod:`ngram_copy.ssm`. Each
takes an initial state and returns the last one, so that a sequence can be split anywhere; outputs are new tensors, and
inputs stay as they are.

Sums and states are float32 for float16, bfloat16 and float32 inputs, and float64 where one argument is float64. Outputs
have the dtype of the main input.

Common arguments, by keyword alone
----------------------------------
initial_state : tensor, optional
    The state before the first step; zeros by default.
lengths : sequence of int, or integer tensor (batch), optional
    How many steps of each row count, 0 … seq_len. The others never touch the state, and their outputs and gradients
    are 0, whatever they hold. A tensor on a GPU is read back once, to be checked.
padding : {"right", "left"}
    Where the steps that do not count are.
resets : tensor (batch, seq_len) of bool, optional
    Steps before which the state (of a convolution: the inputs before) is zero: packed examples.
backend : {"auto", "rust", "torch", "fla", "mamba_ssm"}
    ``"auto"`` is Rust on the CPU; on CUDA mamba-ssm or fla-core where they are installed and take the arguments; torch
    elsewhere. A backend that is named and cannot run is an error. :func:`resolve_backend` says what would run, and why.

The torch backend loops over chunks of 64 steps; memory is that of one chunk and of seq_len / 64 states, gradients
included. The calls of fla-core and mamba-ssm are written after their signatures and have never run on a GPU here.
"""

from ngram_copy.models.ops.backends import Resolution, resolve_backend
from ngram_copy.models.ops.convolution import causal_conv1d, causal_conv1d_update
from ngram_copy.models.ops.delta import (
    delta_rule,
    delta_rule_step,
    gated_delta_rule,
    gated_delta_rule_step,
    kimi_delta_attention,
    kimi_delta_attention_step,
    l2_normalise,
)
from ngram_copy.models.ops.linear import (
    linear_scan,
    linear_step,
    lru_scan,
    lru_step,
    rg_lru,
    rg_lru_step,
)
from ngram_copy.models.ops.mamba2 import mamba2_scan, mamba2_state_update
from ngram_copy.models.ops.outer import (
    gated_linear_attention,
    gated_linear_attention_step,
    linear_attention,
    linear_attention_step,
    retention,
    retention_step,
)
from ngram_copy.models.ops.s4d import s4d_scan, s4d_state_update
from ngram_copy.models.ops.selective import selective_scan, selective_state_update

__all__ = [
    "Resolution",
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
    "resolve_backend",
    "retention",
    "retention_step",
    "rg_lru",
    "rg_lru_step",
    "s4d_scan",
    "s4d_state_update",
    "selective_scan",
    "selective_state_update",
]
