"""The table of docs/recurrences.md: what each recurrence computes, where, how exactly and how fast.

python docs/recurrences.py results/ssm-2026-11-26-some-cpu.json --page docs/recurrences.md

Backends are those of the code's own tables; errors and speeds are those of the record, dashes without one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from headline import splice

from ngram_copy.models.ops import rust
from ngram_copy.models.ops.backends import EXTERNAL

SCHEMA = 1
NOTHING = "-"
HEADER = (
    "recurrence, and its step",
    "equation of a step",
    "source",
    "state of a row, in floats",
    "backends",
    "float32 error of output, last state, gradients",
    "forward, tokens/s",
    "forward + backward, tokens/s",
    "measured with",
)


class Recurrence(NamedTuple):
    """A recurrence as the page tells it."""

    function: str
    step: str
    equation: str
    source: str
    state: str
    """Floats of a row of the batch, a product of sizes in Python; twice as many where numbers are complex."""


RECURRENCES = (
    Recurrence(
        "selective_scan",
        "selective_state_update",
        "h = exp(ΔA) h + Δ B u; y = C·h + D u, times SiLU(z)",
        "Mamba: Gu and Dao 2023, arXiv 2312.00752; `selective_scan_ref` of mamba",
        "d_model * d_state",
    ),
    Recurrence(
        "mamba2_scan",
        "mamba2_state_update",
        "S = exp(ΔA) S + Δ x Bᵀ; y = S C + D x, times SiLU(z)",
        "Mamba-2: Dao and Gu 2024, arXiv 2405.21060; `mamba_chunk_scan_combined` of mamba",
        "n_heads * head_dim * d_state",
    ),
    Recurrence(
        "s4d_scan",
        "s4d_state_update",
        "h = exp(ΔA) h + (exp(ΔA) − 1)/A · B u; y = 2 Re(C·h) + D u",
        "S4D: Gu et al. 2022, arXiv 2206.11893, by recurrence",
        "2 * d_model * n_modes",
    ),
    Recurrence(
        "lru_scan",
        "lru_step",
        "h = λ h + γ B u; y = Re(C h) + D u; λ = exp(−exp(nu_log) + i exp(theta_log))",
        "LRU: Orvieto et al. 2023, arXiv 2303.06349",
        "2 * d_state",
    ),
    Recurrence(
        "rg_lru",
        "rg_lru_step",
        "h = a h + √(1 − a²) (i ⊙ x); log a = −c r softplus(Λ)",
        "Griffin: De et al. 2024, arXiv 2402.19427; `RecurrentGemmaRglru` of transformers",
        "width",
    ),
    Recurrence(
        "linear_scan", "linear_step", "h = a h + x, real or complex", "what LRU and RG-LRU are made of", "width"
    ),
    Recurrence(
        "linear_attention",
        "linear_attention_step",
        "S = S + k vᵀ; o = scale · Sᵀ q",
        "Katharopoulos et al. 2020, arXiv 2006.16236; `naive_recurrent_linear_attn` of flash-linear-attention",
        "n_heads_v * head_k * head_v",
    ),
    Recurrence(
        "retention",
        "retention_step",
        "S = α S + k vᵀ; o = scale · Sᵀ q; α = 1 − 2^(−5−h) for head h",
        "RetNet: Sun et al. 2023, arXiv 2307.08621; `naive_retention` of flash-linear-attention",
        "n_heads_v * head_k * head_v",
    ),
    Recurrence(
        "gated_linear_attention",
        "gated_linear_attention_step",
        "S = Diag(exp(g)) S + k vᵀ; o = scale · Sᵀ q",
        "GLA: Yang et al. 2024, arXiv 2312.06635; `naive_recurrent_gla` of flash-linear-attention",
        "n_heads_v * head_k * head_v",
    ),
    Recurrence(
        "delta_rule",
        "delta_rule_step",
        "S = S + k uᵀ with u = β (v − Sᵀ k); o = scale · Sᵀ q",
        "DeltaNet: Yang et al. 2024, arXiv 2406.06484; `chunk_delta_rule` of flash-linear-attention",
        "n_heads_v * head_k * head_v",
    ),
    Recurrence(
        "gated_delta_rule",
        "gated_delta_rule_step",
        "S = exp(g) S, then as `delta_rule`",
        "Gated DeltaNet: Yang et al. 2024, arXiv 2412.06464; `torch_recurrent_gated_delta_rule` of transformers",
        "n_heads_v * head_k * head_v",
    ),
    Recurrence(
        "kimi_delta_attention",
        "kimi_delta_attention_step",
        "S = Diag(exp(g)) S, then as `delta_rule`",
        "KDA: Kimi Team 2025, arXiv 2510.26692; `naive_recurrent_kda` of flash-linear-attention",
        "n_heads_v * head_k * head_v",
    ),
    Recurrence(
        "causal_conv1d",
        "causal_conv1d_update",
        "y[t] = bias + Σⱼ weight[j] x[t − kernel + 1 + j], then SiLU",
        "Mamba's short convolution, arXiv 2312.00752; `causal_conv1d_fn` of causal-conv1d",
        "channels * (kernel - 1)",
    ),
)


def markdown(record: Mapping[str, Any] | None) -> str:
    """Make the table.

    Raises
    ------
    ValueError
        If the record is of another schema.
    """
    if record is not None and record["schema"] != SCHEMA:
        raise ValueError(f"schema must be {SCHEMA}, not {record['schema']}")
    lines = [
        "| " + " | ".join(HEADER) + " |",
        "|---" * 5 + "|--:" * 3 + "|---|",
        *("| " + " | ".join(row(one, record or {"errors": [], "measurements": []})) + " |" for one in RECURRENCES),
        "",
        "`make recurrences` writes this table. " + origin(record),
    ]
    return "\n".join(lines) + "\n"


def row(one: Recurrence, record: Mapping[str, Any]) -> tuple[str, ...]:
    """Make the cells of a recurrence."""
    return (
        f"`{one.function}`, `{one.step}`",
        one.equation,
        one.source,
        one.state.replace("*", "·").replace(" - ", " − "),
        ", ".join(backends(one.function)),
        error(one.function, record["errors"]),
        *speeds(one.function, record["measurements"]),
    )


def backends(function: str) -> list[str]:
    """Name the backends that have a function; of other packages also what is called, and what it cannot do."""
    found = ["rust"] if rust.has(function) else []
    found.append("torch")
    if function in EXTERNAL:
        offer = EXTERNAL[function]
        limits = {
            "no initial state": not offer.initial_state,
            "no gradients": not offer.gradients,
            "float16 and bfloat16 alone": offer.low_precision_only,
        }
        said = [f"`{offer.function}`", *(limit for limit, holds in limits.items() if holds)]
        found.append(f"{offer.package} ({', '.join(said)})")
    return found


def error(function: str, errors: list[Mapping[str, Any]]) -> str:
    """Show the errors of a recurrence: largest difference from float64 / largest value."""
    found = next((one for one in errors if one["recurrence"] == function), None)
    if found is None:
        return NOTHING
    values = (found.get(key) for key in ("output", "last_state", "gradients"))
    return ", ".join(NOTHING if value is None else f"{value:.1e}" for value in values)


def speeds(function: str, measurements: list[Mapping[str, Any]]) -> tuple[str, str, str]:
    """Show our speed on one thread, forward and with gradients, at the shape of the most tokens, and that shape."""
    ours = [m for m in measurements if (m["recurrence"], m["by"], m["threads"]) == (function, "ngram-copy", 1)]
    sequences = [m for m in ours if m["pass"] != "step"]
    if not sequences:
        return NOTHING, NOTHING, NOTHING
    shape = max((m["shape"] for m in sequences), key=tokens)
    at_shape = {m["pass"]: m for m in sequences if m["shape"] == shape}
    shown = [
        f"{tokens(shape) / statistics.median(at_shape[kind]['seconds']):,.0f}" if kind in at_shape else NOTHING
        for kind in ("forward", "forward + backward")
    ]
    return shown[0], shown[1], ", ".join(f"{name} {size:,}" for name, size in shape.items())


def tokens(shape: Mapping[str, int]) -> int:
    """Steps of all rows."""
    return shape["batch"] * shape["seq_len"]


def origin(record: Mapping[str, Any] | None) -> str:
    """Say where errors and speeds come from."""
    if record is None:
        return "Errors and speeds: nothing is recorded yet."
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return (
        f"Errors (largest difference from float64, as a share of the largest value) and speeds (medians, one thread): "
        f"{record['datetime'][:10]}, {record['cpu']}, {versions}."
    )


def main(arguments: list[str] | None = None) -> int:
    """Print the table; with ``--page`` also splice it into a Markdown file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path, nargs="?", help="record of errors and speeds; dashes without one")
    parser.add_argument("--page", type=Path, help="Markdown file with the marks")
    options = parser.parse_args(arguments)
    try:
        table = markdown(json.loads(options.record.read_text(encoding="utf-8")) if options.record else None)
        if options.page:
            text = splice(options.page.read_text(encoding="utf-8"), table, "recurrences")
            options.page.write_text(text, encoding="utf-8")
    except (OSError, ValueError, KeyError) as error:
        print(f"{options.record}: {error!r}", file=sys.stderr)
        return 2
    print(table, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
