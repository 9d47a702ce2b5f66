"""The recurrences of ``ngram_copy.models.ops``, each with arguments to call it by: one list for all of its tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ngram_copy.models import ops
from ngram_copy.models.ops import naive

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A function, how to make its arguments, and which of their dimensions are time."""

    id: str
    function: str
    make: Callable[[torch.Generator, int, int, torch.dtype], Arguments]
    time: dict[str, int]
    state: tuple[int, ...]
    step: str
    step_names: dict[str, str] = field(default_factory=dict)
    complex_state: bool = False
    output_time: int = 1

    def arguments(self, batch: int, seq_len: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Arguments:
        return self.make(torch.Generator().manual_seed(seed), batch, seq_len, dtype)

    def initial_state(self, batch: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> torch.Tensor:
        dtype = dtype.to_complex() if self.complex_state else dtype
        return torch.randn(batch, *self.state, dtype=dtype, generator=torch.Generator().manual_seed(seed))

    def run(self, arguments: Arguments, **common: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return getattr(ops, self.function)(**arguments, **common)

    def oracle(self, arguments: Arguments, **common: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return getattr(naive, self.function)(**arguments, **common)

    def part(self, arguments: Arguments, start: int, end: int) -> Arguments:
        """The steps from ``start`` to before ``end``."""
        return {
            name: value.narrow(self.time[name], start, end - start) if name in self.time else value
            for name, value in arguments.items()
        }

    def one_step(
        self, state: torch.Tensor, arguments: Arguments, t: int, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The step function at step t."""
        at = {
            self.step_names.get(name, name): value.select(self.time[name], t) if name in self.time else value
            for name, value in arguments.items()
        }
        return getattr(ops, self.step)(state, **at, **options)


def _randn(g, *shape, dtype):
    return torch.randn(*shape, dtype=dtype, generator=g)


def _rand(g, *shape, dtype):
    return torch.rand(*shape, dtype=dtype, generator=g)


D_MODEL, N = 4, 3
SELECTIVE_NAMES = {"u": "x", "delta": "dt", "delta_bias": "dt_bias", "delta_softplus": "dt_softplus"}


def _selective(groups, full):
    def make(g, batch, seq_len, dtype):
        channels = (batch, D_MODEL, seq_len)
        weights = (batch, groups, N, seq_len) if groups else (batch, N, seq_len)
        found = {
            "u": _randn(g, *channels, dtype=dtype),
            "delta": _rand(g, *channels, dtype=dtype),
            "A": -_rand(g, D_MODEL, N, dtype=dtype) - 0.1,
            "B": _randn(g, *weights, dtype=dtype),
            "C": _randn(g, *weights, dtype=dtype),
        }
        if full:
            found |= {
                "D": _randn(g, D_MODEL, dtype=dtype),
                "z": _randn(g, *channels, dtype=dtype),
                "delta_bias": _randn(g, D_MODEL, dtype=dtype),
                "delta_softplus": True,
            }
        return found

    return make


def _s4d(g, batch, seq_len, dtype):
    wide = dtype.to_complex()
    return {
        "u": _randn(g, batch, D_MODEL, seq_len, dtype=dtype),
        "A": torch.complex(-_rand(g, D_MODEL, N, dtype=dtype) - 0.1, 3 * _randn(g, D_MODEL, N, dtype=dtype)),
        "log_dt": _rand(g, D_MODEL, dtype=dtype) - 2,
        "B": _randn(g, D_MODEL, N, dtype=wide),
        "C": _randn(g, D_MODEL, N, dtype=wide),
        "D": _randn(g, D_MODEL, dtype=dtype),
    }


def _linear(constant, wide):
    def make(g, batch, seq_len, dtype):
        a = _rand(g, *([D_MODEL] if constant else [batch, seq_len, D_MODEL]), dtype=dtype)
        if wide:
            a = torch.polar(a, 3 * _randn(g, *a.shape, dtype=dtype))
        return {"a": a, "x": _randn(g, batch, seq_len, D_MODEL, dtype=a.dtype if wide else dtype)}

    return make


def _lru(full):
    def make(g, batch, seq_len, dtype):
        wide = dtype.to_complex()
        found = {
            "u": _randn(g, batch, seq_len, D_MODEL, dtype=dtype),
            "nu_log": _randn(g, N, dtype=dtype) - 1,
            "theta_log": _randn(g, N, dtype=dtype),
            "B": _randn(g, N, D_MODEL, dtype=wide),
            "C": _randn(g, D_MODEL, N, dtype=wide),
        }
        if full:
            found |= {"D": _randn(g, D_MODEL, dtype=dtype), "gamma_log": _randn(g, N, dtype=dtype) - 1}
        return found

    return make


def _rg_lru(g, batch, seq_len, dtype):
    gates = {name: _randn(g, batch, seq_len, D_MODEL, dtype=dtype).sigmoid() for name in ("gate_r", "gate_i")}
    return {
        "x": _randn(g, batch, seq_len, D_MODEL, dtype=dtype),
        **gates,
        "Lambda": _randn(g, D_MODEL, dtype=dtype) - 2,
    }


H, R, K, V = 2, 2, 5, 3


def _heads(gate="", delta=False, ratio=1):
    def make(g, batch, seq_len, dtype):
        q, k = (_randn(g, batch, seq_len, H, K, dtype=dtype) for _ in range(2))
        found = {"q": q, "k": ops.l2_normalise(k), "v": _randn(g, batch, seq_len, H * ratio, V, dtype=dtype)}
        if gate:
            shape = (batch, seq_len, H * ratio, K)
            found["g"] = -_rand(g, *(shape if gate == "channel" else shape[:3]), dtype=dtype)
        if delta:
            found["beta"] = _rand(g, batch, seq_len, H * ratio, dtype=dtype)
        return found

    return make


def _mamba2(groups, full):
    def make(g, batch, seq_len, dtype):
        found = {
            "x": _randn(g, batch, seq_len, 2 * H, V, dtype=dtype),
            "dt": _rand(g, batch, seq_len, 2 * H, dtype=dtype),
            "A": -_rand(g, 2 * H, dtype=dtype),
            "B": _randn(g, batch, seq_len, groups, N, dtype=dtype),
            "C": _randn(g, batch, seq_len, groups, N, dtype=dtype),
        }
        if full:
            found |= {
                "D": _randn(g, *([2 * H] if groups == 1 else [2 * H, V]), dtype=dtype),
                "z": _randn(g, batch, seq_len, 2 * H, V, dtype=dtype),
                "dt_bias": _randn(g, 2 * H, dtype=dtype),
                "dt_softplus": True,
            }
        return found

    return make


def _convolution(full):
    def make(g, batch, seq_len, dtype):
        found = {
            "x": _randn(g, batch, D_MODEL, seq_len, dtype=dtype),
            "weight": _randn(g, D_MODEL, 4, dtype=dtype),
        }
        return found | ({"bias": _randn(g, D_MODEL, dtype=dtype), "activation": "silu"} if full else {})

    return make


SELECTIVE_TIME = {"u": 2, "delta": 2, "z": 2}
HEADS_TIME = dict.fromkeys(["q", "k", "v", "g", "beta"], 1)
MAMBA2_TIME = dict.fromkeys(["x", "dt", "B", "C", "z"], 1)

CASES = [
    Case(
        "selective",
        "selective_scan",
        _selective(0, False),
        SELECTIVE_TIME | {"B": 2, "C": 2},
        (D_MODEL, N),
        "selective_state_update",
        SELECTIVE_NAMES,
        output_time=2,
    ),
    Case(
        "selective-full-groups",
        "selective_scan",
        _selective(2, True),
        SELECTIVE_TIME | {"B": 3, "C": 3},
        (D_MODEL, N),
        "selective_state_update",
        SELECTIVE_NAMES,
        output_time=2,
    ),
    Case("s4d", "s4d_scan", _s4d, {"u": 2}, (D_MODEL, N), "s4d_state_update", {"u": "x"}, True, output_time=2),
    Case("linear", "linear_scan", _linear(False, False), {"a": 1, "x": 1}, (D_MODEL,), "linear_step"),
    Case("linear-constant", "linear_scan", _linear(True, False), {"x": 1}, (D_MODEL,), "linear_step"),
    Case(
        "linear-complex",
        "linear_scan",
        _linear(False, True),
        {"a": 1, "x": 1},
        (D_MODEL,),
        "linear_step",
        {},
        True,
    ),
    Case("lru", "lru_scan", _lru(False), {"u": 1}, (N,), "lru_step", {}, True),
    Case("lru-full", "lru_scan", _lru(True), {"u": 1}, (N,), "lru_step", {}, True),
    Case("rg_lru", "rg_lru", _rg_lru, dict.fromkeys(["x", "gate_r", "gate_i"], 1), (D_MODEL,), "rg_lru_step"),
    Case("linear_attention", "linear_attention", _heads(), HEADS_TIME, (H, K, V), "linear_attention_step"),
    Case("retention", "retention", _heads(ratio=R), HEADS_TIME, (H * R, K, V), "retention_step"),
    Case("gla", "gated_linear_attention", _heads("channel"), HEADS_TIME, (H, K, V), "gated_linear_attention_step"),
    Case("simple_gla", "gated_linear_attention", _heads("head"), HEADS_TIME, (H, K, V), "gated_linear_attention_step"),
    Case("mamba2", "mamba2_scan", _mamba2(1, False), MAMBA2_TIME, (2 * H, V, N), "mamba2_state_update"),
    Case("mamba2-full", "mamba2_scan", _mamba2(1, True), MAMBA2_TIME, (2 * H, V, N), "mamba2_state_update"),
    Case("mamba2-groups", "mamba2_scan", _mamba2(2, True), MAMBA2_TIME, (2 * H, V, N), "mamba2_state_update"),
    Case("delta", "delta_rule", _heads(delta=True), HEADS_TIME, (H, K, V), "delta_rule_step"),
    Case(
        "gated_delta", "gated_delta_rule", _heads("head", True, R), HEADS_TIME, (H * R, K, V), "gated_delta_rule_step"
    ),
    Case(
        "kda",
        "kimi_delta_attention",
        _heads("channel", True, R),
        HEADS_TIME,
        (H * R, K, V),
        "kimi_delta_attention_step",
    ),
    Case("conv", "causal_conv1d", _convolution(False), {"x": 2}, (D_MODEL, 3), "causal_conv1d_update", output_time=2),
    Case(
        "conv-full", "causal_conv1d", _convolution(True), {"x": 2}, (D_MODEL, 3), "causal_conv1d_update", output_time=2
    ),
]

BACKENDS = ["torch", "auto"]
"""``"auto"`` on a CPU is Rust wherever the core has the function."""
