"""Gated DeltaNet, DeltaNet and Kimi Delta Attention: a matrix state from which a key's old value is erased.

    q, k, v = silu(conv(W x))                                 (batch, seq_len, heads, head_dim or value_dim)
    q, k = q / |q|, k / |k|;  β_t = σ(W_β x_t)
    S_t = Diag(α_t) S_{t-1} + k_t β_t (v_t - (Diag(α_t) S_{t-1})ᵀ k_t)ᵀ     (batch, n_value_heads, head_dim, value_dim)
    o_t = S_tᵀ q_t / √head_dim
    y_t = W_o (RMSNorm(o_t) · f(W_z x_t))                     the norm is over a head's value_dim

``gate`` is what α_t is, and with it which layer this is:

- ``"head"``: exp(-exp(A_log) softplus(W_a x_t + dt_bias)), one for each head: Gated DeltaNet (Yang et al. 2024, arXiv
  2412.06464); the output's gate f is silu. The layer of Qwen3-Next;
- ``"channel"``: the same for each coordinate of the keys, where W_a has rank ``value_dim``: Kimi Delta Attention (Kimi
  Team 2025, arXiv 2510.26692); f is the sigmoid, and W_z has rank ``value_dim`` too;
- ``"none"``: 1: DeltaNet (Schlag et al. 2021, arXiv 2102.11174; Yang et al. 2024, arXiv 2406.06484); no f.

Layers ``GatedDeltaNet``, ``KimiDeltaAttention`` and ``DeltaNet`` of flash-linear-attention, and how they
initialise A_log and dt_bias. One value head for each head of queries and keys, or several that share them.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ngram_copy.models import ops
from ngram_copy.models.base import LayerState, Mixer, linear
from ngram_copy.models.parts import (
    HeadNorm,
    ShortConv,
    backends,
    head_size,
    initial_dt_bias,
    low_rank,
    parameter,
    require_at_least,
    require_one_of,
    to_heads,
    widened,
)

OUTPUT_GATES = {"head": "silu", "channel": "sigmoid", "none": "none"}
"""Of each gate: what its layer multiplies the output by."""


class GatedDelta(Mixer):
    """Gated delta rule of one layer; see the top of this file.

    Parameters
    ----------
    d_model : int
    n_heads : int
        Of queries and keys.
    head_dim : int, optional
        Of queries and keys; by default d_model / n_heads.
    value_dim : int, optional
        Of values; by default ``head_dim``.
    n_value_heads : int, optional
        A multiple of n_heads, by default n_heads; value head h reads the queries and keys of h // (their ratio).
    gate : {"head", "channel", "none"}
    output_gate : {"silu", "sigmoid", "none"}, optional
        By default what the layer of that gate has.
    negative_eigenvalues : bool
        β is doubled: a key may be written with its sign turned (Grazzi et al. 2024, arXiv 2411.12537).
    conv_size : int
        Taps of the short convolution; 0: none, and silu alone.
    conv_bias : bool
    norm_eps : float
    backend : {"auto", "rust", "torch", "fla"}
        Of the recurrence; see :mod:`ngram_copy.models.ops`.

    Raises
    ------
    ValueError
        If sizes do not divide, a size is not positive, or an option is unknown.
    """

    name: ClassVar[str] = "gated_delta"
    summary: ClassVar[str] = "gated delta rule: Gated DeltaNet, DeltaNet, Kimi Delta Attention"
    letter: ClassVar[str] = "D"

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int = 4,
        head_dim: int | None = None,
        value_dim: int | None = None,
        n_value_heads: int | None = None,
        gate: str = "head",
        output_gate: str | None = None,
        negative_eigenvalues: bool = False,
        conv_size: int = 4,
        conv_bias: bool = False,
        norm_eps: float = 1e-5,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.backend, conv_backend = backends(backend)
        head_dim = head_size(d_model, n_heads, head_dim)
        value_dim = head_dim if value_dim is None else value_dim
        n_value_heads = n_heads if n_value_heads is None else n_value_heads
        require_at_least(1, head_dim=head_dim, value_dim=value_dim, n_value_heads=n_value_heads)
        require_at_least(0, conv_size=conv_size)
        if n_value_heads % n_heads:
            raise ValueError(f"n_value_heads = {n_value_heads} is not a multiple of n_heads = {n_heads}")
        require_one_of(OUTPUT_GATES, gate=gate)
        output_gate = OUTPUT_GATES[gate] if output_gate is None else output_gate
        require_one_of(("silu", "sigmoid", "none"), output_gate=output_gate)
        self.n_heads, self.head_dim = n_heads, head_dim
        self.n_value_heads, self.value_dim = n_value_heads, value_dim
        self.gate, self.beta_scale = gate, 2.0 if negative_eigenvalues else 1.0
        self.widths = [n_heads * head_dim, n_heads * head_dim, n_value_heads * value_dim]
        self.qkv = linear(d_model, sum(self.widths))
        self.conv = ShortConv(sum(self.widths), conv_size, conv_bias, conv_backend) if conv_size else None
        self.beta = linear(d_model, n_value_heads)
        self.decay: nn.Module | None = None
        self.output_gate: nn.Module | None = None
        value_width = n_value_heads * value_dim
        if gate == "head":
            self.decay = linear(d_model, n_value_heads)
            self._add_rates(n_value_heads, least=0.0)
        elif gate == "channel":
            self.decay = low_rank(d_model, value_dim, n_value_heads * head_dim)
            self._add_rates(n_value_heads * head_dim, least=1.0)
        if output_gate != "none":
            narrow = gate == "channel"
            self.output_gate = low_rank(d_model, value_dim, value_width) if narrow else linear(d_model, value_width)
        self.norm = HeadNorm(value_dim, norm_eps, output_gate)
        self.out = linear(value_width, d_model, scale=0.5)

    def _add_rates(self, steps: int, least: float) -> None:
        """A_log, with exp(A_log) uniform on (least, 16], and dt_bias, with softplus(dt_bias) in 0.001 … 0.1."""
        rate = 16 - torch.rand(self.n_value_heads, device="cpu") * (16 - least)  # never 0, which has no logarithm
        self.A_log = parameter(rate.log())
        self.dt_bias = parameter(initial_dt_bias(steps, 0.001, 0.1, 1e-4))

    def initial_state(self, batch: int) -> LayerState:
        sizes = (batch, self.n_value_heads, self.head_dim, self.value_dim)
        state = {"memory": widened(self.qkv.weight.new_zeros(sizes))}
        return state if self.conv is None else {**state, "conv": self.conv.initial_state(batch)}

    def state_size(self, length: int) -> int:
        """``n_value_heads · head_dim · value_dim + (conv_size - 1)(2 n_heads · head_dim + n_value_heads · value_dim)``.

        Without a convolution, the first summand alone.
        """
        memory = self.n_value_heads * self.head_dim * self.value_dim
        return memory if self.conv is None else memory + (self.conv.weight.shape[1] - 1) * sum(self.widths)

    def forward(self, x: Tensor, state: LayerState, position: int) -> tuple[Tensor, LayerState]:
        qkv, after = self.qkv(x), {}
        if self.conv is None:
            qkv = functional.silu(qkv)
        else:
            qkv, after["conv"] = self.conv(qkv, state["conv"])
        q, k, v = self._heads(qkv)
        beta, memory = self._beta(x), state["memory"]
        if self.gate == "head":
            o, memory = ops.gated_delta_rule(
                q, k, v, self._log_gate(x), beta, initial_state=memory, backend=self.backend
            )
        elif self.gate == "channel":
            o, memory = ops.kimi_delta_attention(
                q, k, v, self._log_gate(x), beta, initial_state=memory, backend=self.backend
            )
        else:
            o, memory = ops.delta_rule(q, k, v, beta, initial_state=memory, backend=self.backend)
        return self._finish(o, x), {"memory": memory, **after}

    def step(self, x: Tensor, state: LayerState, position: int) -> tuple[Tensor, LayerState]:
        qkv, after = self.qkv(x), {}
        if self.conv is None:
            qkv = functional.silu(qkv)
        else:
            qkv, after["conv"] = self.conv.step(qkv, state["conv"])
        q, k, v = self._heads(qkv)
        beta, memory = self._beta(x), state["memory"]
        if self.gate == "head":
            o, memory = ops.gated_delta_rule_step(memory, q, k, v, self._log_gate(x), beta, backend=self.backend)
        elif self.gate == "channel":
            o, memory = ops.kimi_delta_attention_step(memory, q, k, v, self._log_gate(x), beta, backend=self.backend)
        else:
            o, memory = ops.delta_rule_step(memory, q, k, v, beta, backend=self.backend)
        return self._finish(o, x), {"memory": memory, **after}

    def _heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split (…, width) into q and k (…, n_heads, head_dim) of length 1, and v (…, n_value_heads, value_dim)."""
        q, k, v = torch.split(qkv, self.widths, dim=-1)
        q, k = (ops.l2_normalise(to_heads(one, self.n_heads)) for one in (q, k))
        return q, k, to_heads(v, self.n_value_heads)

    def _beta(self, x: Tensor) -> Tensor:
        """How much is written: (…, n_value_heads)."""
        beta: Tensor = self.beta(x).sigmoid() * self.beta_scale
        return beta

    def _log_gate(self, x: Tensor) -> Tensor:
        """The logarithm of α in float32 or wider: (…, n_value_heads), by channel (…, n_value_heads, head_dim)."""
        assert self.decay is not None
        dt = functional.softplus(widened(self.decay(x)) + widened(self.dt_bias))
        rates = widened(self.A_log).exp()
        if self.gate == "head":
            return -rates * dt
        return -rates[:, None] * to_heads(dt, self.n_value_heads)

    def _finish(self, o: Tensor, x: Tensor) -> Tensor:
        """From heads (…, n_value_heads, value_dim) to (…, d_model)."""
        z = None if self.output_gate is None else to_heads(self.output_gate(x), self.n_value_heads)
        y: Tensor = self.out(self.norm(o, z).flatten(-2))
        return y
