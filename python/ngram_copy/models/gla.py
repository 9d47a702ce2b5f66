"""Gated linear attention, RetNet and linear attention: one layer, three gates of a matrix state.

    q, k, v = W_q x, W_k x, W_v x                             (batch, seq_len, n_heads, head_dim or value_dim)
    S_t = Diag(α_t) S_{t-1} + k_t v_tᵀ                        (batch, n_heads, head_dim, value_dim)
    o_t = S_tᵀ q_t / √head_dim
    y_t = W_o (RMSNorm(o_t) · silu(W_z x_t))                  the norm is over a head's value_dim

``gate`` is what α_t is:

- ``"channel"``: σ(W₂ W₁ x_t + b)^(1/16), for each coordinate of the keys: GLA (Yang et al. 2024, arXiv 2312.06635);
- ``"fixed"``: 1 - 2^(-5-h) for head h: RetNet (Sun et al. 2023, arXiv 2307.08621), which also rotates its queries and
  keys by their positions: ``rope_base = 10000``;
- ``"none"``: 1: linear attention (Katharopoulos et al. 2020, arXiv 2006.16236). Theirs has ``feature_map = "elu"`` on
  queries and keys, and a normaliser: with z_t = Σ_{j ≤ t} k_j, the output is S_tᵀ q_t / (z_t · q_t + 1e-6).

Layers ``GatedLinearAttention``, ``MultiScaleRetention`` and ``LinearAttention`` of flash-linear-attention. An optional
short convolution with SiLU stands before the heads; its state is its last inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ngram_copy.models import ops
from ngram_copy.models.attention import rotate
from ngram_copy.models.base import LayerState, Mixer, linear
from ngram_copy.models.parts import (
    HeadNorm,
    ShortConv,
    backends,
    head_size,
    low_rank,
    require_at_least,
    require_one_of,
    to_heads,
    widened,
)

GATES = ("channel", "fixed", "none")
FEATURE_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "elu": lambda x: functional.elu(x) + 1,
    "relu": functional.relu,
    "silu": functional.silu,
}
POSITIVE = ("elu", "relu")
"""Feature maps below which a normaliser cannot fall."""


class GLA(Mixer):
    """Gated linear attention of one layer; see the top of this file.

    Parameters
    ----------
    d_model : int
    n_heads : int
    head_dim : int, optional
        Of queries and keys; by default d_model / n_heads. (The paper's layer has half of it.)
    value_dim : int, optional
        Of values; by default ``head_dim``.
    gate : {"channel", "fixed", "none"}
    gate_rank : int
        Of W₂ W₁; with the gate ``"channel"``.
    gate_normalizer : float
        The root that is taken of the gate ``"channel"``.
    feature_map : {"none", "elu", "relu", "silu"}
        Of queries and keys; elu is elu(x) + 1.
    normalise : bool
        Divide the output by the sum of its weights; only with a feature map that is never negative, and no rotation.
    rope_base : float
        0: queries and keys are not rotated.
    conv_size : int
        Taps of the short convolution; 0: none.
    conv_bias, output_norm, output_gate : bool
    norm_eps : float
    backend : {"auto", "rust", "torch", "fla"}
        Of the recurrence; see :mod:`ngram_copy.models.ops`.

    Raises
    ------
    ValueError
        If sizes do not divide, a size is not positive, a rotated size is odd, or an option is unknown.
    """

    name: ClassVar[str] = "gla"
    summary: ClassVar[str] = "gated linear attention: GLA, RetNet, linear attention"
    letter: ClassVar[str] = "G"

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int = 4,
        head_dim: int | None = None,
        value_dim: int | None = None,
        gate: str = "channel",
        gate_rank: int = 16,
        gate_normalizer: float = 16.0,
        feature_map: str = "none",
        normalise: bool = False,
        rope_base: float = 0.0,
        conv_size: int = 0,
        conv_bias: bool = False,
        output_norm: bool = True,
        output_gate: bool = True,
        norm_eps: float = 1e-5,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.backend, conv_backend = backends(backend)
        head_dim = head_size(d_model, n_heads, head_dim)
        value_dim = head_dim if value_dim is None else value_dim
        require_at_least(1, head_dim=head_dim, value_dim=value_dim, gate_rank=gate_rank)
        require_at_least(0, conv_size=conv_size)
        require_one_of(GATES, gate=gate)
        require_one_of(FEATURE_MAPS, feature_map=feature_map)
        if not gate_normalizer > 0:
            raise ValueError(f"gate_normalizer must be above 0, not {gate_normalizer}")
        if normalise and feature_map not in POSITIVE:
            raise ValueError(f"normalise needs a feature_map that is {' or '.join(POSITIVE)}, not {feature_map!r}")
        if normalise and rope_base:
            raise ValueError(f"normalise needs keys that are not rotated: rope_base = 0, not {rope_base}")
        if rope_base and rope_base <= 1:
            raise ValueError(f"rope_base must be 0 (no rotation) or above 1, not {rope_base}")
        if rope_base and head_dim % 2:
            raise ValueError(f"RoPE rotates pairs: head_dim must be even, not {head_dim}")
        self.n_heads, self.head_dim, self.value_dim = n_heads, head_dim, value_dim
        self.gate, self.gate_normalizer = gate, gate_normalizer
        self.feature_map, self.normalise, self.rope_base = FEATURE_MAPS[feature_map], normalise, rope_base
        self.widths = [n_heads * head_dim, n_heads * head_dim, n_heads * value_dim]
        self.qkv = linear(d_model, sum(self.widths))
        self.conv = ShortConv(sum(self.widths), conv_size, conv_bias, conv_backend) if conv_size else None
        self.gate_logits = low_rank(d_model, gate_rank, n_heads * head_dim, bias=True) if gate == "channel" else None
        self.output_gate = linear(d_model, n_heads * value_dim) if output_gate else None
        self.norm = HeadNorm(value_dim, norm_eps) if output_norm else None
        self.out = linear(n_heads * value_dim, d_model, scale=0.5)

    def initial_state(self, batch: int) -> LayerState:
        sizes = (batch, self.n_heads, self.head_dim, self.value_dim + self.normalise)
        state = {"memory": widened(self.qkv.weight.new_zeros(sizes))}
        return state if self.conv is None else {**state, "conv": self.conv.initial_state(batch)}

    def state_size(self, length: int) -> int:
        """``n_heads · head_dim · (value_dim + normalise) + (conv_size - 1) · n_heads · (2 head_dim + value_dim)``.

        Without a convolution, the first summand alone.
        """
        memory = self.n_heads * self.head_dim * (self.value_dim + self.normalise)
        return memory if self.conv is None else memory + (self.conv.weight.shape[1] - 1) * sum(self.widths)

    def forward(self, x: Tensor, state: LayerState, position: int) -> tuple[Tensor, LayerState]:
        qkv, after = self.qkv(x), {}
        if self.conv is not None:
            qkv, after["conv"] = self.conv(qkv, state["conv"])
        q, k, v = self._heads(qkv, position)
        memory = state["memory"]
        if self.gate == "channel":
            o, memory = ops.gated_linear_attention(
                q, k, v, self._log_gate(x), self._scale, initial_state=memory, backend=self.backend
            )
        elif self.gate == "fixed":
            o, memory = ops.retention(q, k, v, self._scale, initial_state=memory, backend=self.backend)
        else:
            o, memory = ops.linear_attention(q, k, v, self._scale, initial_state=memory, backend=self.backend)
        return self._finish(o, x), {"memory": memory, **after}

    def step(self, x: Tensor, state: LayerState, position: int) -> tuple[Tensor, LayerState]:
        qkv, after = self.qkv(x), {}
        if self.conv is not None:
            qkv, after["conv"] = self.conv.step(qkv, state["conv"])
        q, k, v = (one[:, 0] for one in self._heads(qkv[:, None], position))
        memory = state["memory"]
        if self.gate == "channel":
            o, memory = ops.gated_linear_attention_step(
                memory, q, k, v, self._log_gate(x), self._scale, backend=self.backend
            )
        elif self.gate == "fixed":
            o, memory = ops.retention_step(memory, q, k, v, self._scale, backend=self.backend)
        else:
            o, memory = ops.linear_attention_step(memory, q, k, v, self._scale, backend=self.backend)
        return self._finish(o, x), {"memory": memory, **after}

    @property
    def _scale(self) -> float:
        """Of the output; where it is normalised there is nothing to scale."""
        return 1.0 if self.normalise else self.head_dim**-0.5

    def _heads(self, qkv: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """Split (batch, seq_len, width) into q, k, v, each (batch, seq_len, n_heads, its size)."""
        q, k, v = (to_heads(one, self.n_heads) for one in torch.split(qkv, self.widths, dim=-1))
        q, k = self.feature_map(q), self.feature_map(k)
        if self.rope_base:
            q, k = (rotate(one, position, self.head_dim, self.rope_base) for one in (q, k))
        if self.normalise:  # a column of ones: what it gathers is the sum of the keys
            v = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
        return q, k, v

    def _log_gate(self, x: Tensor) -> Tensor:
        """The logarithm of α: (…, n_heads, head_dim)."""
        assert self.gate_logits is not None
        gate = functional.logsigmoid(self.gate_logits(x)) / self.gate_normalizer
        return to_heads(gate, self.n_heads)

    def _finish(self, o: Tensor, x: Tensor) -> Tensor:
        """From heads (…, n_heads, value_dim) to (…, d_model)."""
        if self.normalise:
            o = o[..., :-1] / (o[..., -1:] + 1e-6)
        z = None if self.output_gate is None else to_heads(self.output_gate(x), self.n_heads)
        if self.norm is not None:
            o = self.norm(o, z)
        elif z is not None:
            o = o * functional.silu(z)
        y: Tensor = self.out(o.flatten(-2))
        return y
