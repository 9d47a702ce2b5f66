"""Mamba-2 (SSD): Mamba with heads, one rate for each.

    z, xBC, δ = W_in x                        (batch, seq_len, d_inner), (…, d_inner + 2 n_groups d_state), (…, n_heads)
    x, B, C = SiLU(conv(xBC))                 (…, n_heads, head_dim), (…, n_groups, d_state), (…, n_groups, d_state)
    Δ = softplus(δ + bias)                    (…, n_heads)
    S_t = exp(Δ_t A) S_{t-1} + Δ_t x_t B_tᵀ   (batch, n_heads, head_dim, d_state); A = -exp(A_log), one number a head
    y_t = S_t C_t + D x_t
    out = W_out RMSNorm(y · SiLU(z))

d_inner = expand · d_model = n_heads · head_dim. B and C of a group serve n_heads / n_groups heads, and the norm is
taken over the channels of a group. Dao and Gu 2024 (arXiv 2405.21060), section 7; mamba_ssm's ``Mamba2``, whose options
and initial weights these are. The recurrence is :func:`ngram_copy.models.ops.mamba2_scan`.

The state is the last (d_conv - 1) inputs of the filter, and S.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ngram_copy.models import ops
from ngram_copy.models.base import LayerState, Mixer, linear
from ngram_copy.models.parts import ShortConv, backends, initial_dt_bias, parameter, require_at_least, to_heads, widened


class Mamba2(Mixer):
    """Mamba-2 of one layer.

    Parameters
    ----------
    d_model : int
    d_state : int
        Numbers that a channel keeps.
    d_conv : int
        Taps of the filter; 1: none but the current token.
    expand : int
        d_inner / d_model.
    head_dim : int
    n_groups : int
        Of B and C.
    A_init_range : pair of float
        At first a head's -A is uniform in it.
    rms_norm : bool
        Whether y · SiLU(z) is normed.
    norm_eps : float
    dt_min, dt_max, dt_init_floor : float
        At first softplus(bias) is log-uniform in dt_min … dt_max, and at least ``dt_init_floor``.
    bias, conv_bias : bool
        Of W_in and W_out; of the filter.
    backend : {"auto", "rust", "torch", "mamba_ssm"}
        Of the recurrence; see :mod:`ngram_copy.models.ops`.

    Raises
    ------
    ValueError
        If a size is not positive or does not divide, a range is none, or the backend is unknown.
    """

    name: ClassVar[str] = "mamba2"
    summary: ClassVar[str] = "Mamba-2: a selective state space model with heads"
    letter: ClassVar[str] = "2"

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 128,
        d_conv: int = 4,
        expand: int = 2,
        head_dim: int = 64,
        n_groups: int = 1,
        A_init_range: Sequence[float] = (1.0, 16.0),
        rms_norm: bool = True,
        norm_eps: float = 1e-5,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        bias: bool = False,
        conv_bias: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        require_at_least(1, d_state=d_state, d_conv=d_conv, expand=expand, head_dim=head_dim, n_groups=n_groups)
        self.backend, conv_backend = backends(backend, "mamba_ssm")
        self.d_inner, self.d_state, self.d_conv = expand * d_model, d_state, d_conv
        self.head_dim, self.n_groups = head_dim, n_groups
        if self.d_inner % head_dim:
            raise ValueError(f"head_dim = {head_dim} does not divide expand · d_model = {self.d_inner}")
        self.n_heads = self.d_inner // head_dim
        if self.n_heads % n_groups:
            raise ValueError(f"n_groups = {n_groups} does not divide the number of heads, {self.n_heads}")
        if len(A_init_range) != 2 or not 0 < A_init_range[0] <= A_init_range[1]:
            raise ValueError(f"A_init_range must be two positive numbers, the smaller first, not {A_init_range}")
        channels = self.d_inner + 2 * n_groups * d_state
        self.widths = [self.d_inner, channels, self.n_heads]
        self.in_proj = nn.Linear(d_model, sum(self.widths), bias=bias)
        self.conv1d = ShortConv(channels, d_conv, conv_bias, conv_backend)
        self.dt_bias = parameter(initial_dt_bias(self.n_heads, dt_min, dt_max, dt_init_floor))
        self.A_log = parameter(torch.empty(self.n_heads, device="cpu").uniform_(*A_init_range).log())
        self.D = nn.Parameter(torch.ones(self.n_heads))
        self.norm = GroupedRMSNorm(self.d_inner, n_groups, norm_eps) if rms_norm else None
        self.out_proj = linear(self.d_inner, d_model, bias, scale=0.5)

    def initial_state(self, batch: int) -> LayerState:
        scan = widened(self.A_log.new_zeros(batch, self.n_heads, self.head_dim, self.d_state))
        return {"conv": self.conv1d.initial_state(batch), "scan": scan}

    def state_size(self, length: int) -> int:
        """``d_inner · d_state + (d_inner + 2 · n_groups · d_state) · (d_conv - 1)``, d_inner = expand · d_model."""
        return self.d_inner * self.d_state + self.widths[1] * (self.d_conv - 1)

    def forward(self, x: Tensor, state: LayerState, position: int) -> tuple[Tensor, LayerState]:
        z, xBC, dt = self.in_proj(x).split(self.widths, dim=-1)
        xBC, conv = self.conv1d(xBC, state["conv"])
        u, B, C = self._heads(xBC)
        y, scan = ops.mamba2_scan(
            u,
            dt,
            self._rates,
            B,
            C,
            self.D,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            initial_state=state["scan"],
            backend=self.backend,
        )
        return self._finish(y, z), {"conv": conv, "scan": scan}

    def step(self, x: Tensor, state: LayerState, position: int) -> tuple[Tensor, LayerState]:
        z, xBC, dt = self.in_proj(x).split(self.widths, dim=-1)
        xBC, conv = self.conv1d.step(xBC, state["conv"])
        u, B, C = self._heads(xBC)
        y, scan = ops.mamba2_state_update(
            state["scan"],
            u,
            dt,
            self._rates,
            B,
            C,
            self.D,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            backend=self.backend,
        )
        return self._finish(y, z), {"conv": conv, "scan": scan}

    @property
    def _rates(self) -> Tensor:
        """A, (n_heads)."""
        return -widened(self.A_log).exp()

    def _heads(self, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split into x (…, n_heads, head_dim), B and C (…, n_groups, d_state)."""
        width = self.n_groups * self.d_state
        x, B, C = torch.split(xBC, [self.d_inner, width, width], dim=-1)
        return to_heads(x, self.n_heads), to_heads(B, self.n_groups), to_heads(C, self.n_groups)

    def _finish(self, y: Tensor, z: Tensor) -> Tensor:
        """Gate, norm and W_out of y (…, n_heads, head_dim) and z (…, d_inner)."""
        y = y.flatten(-2) * functional.silu(z)
        out: Tensor = self.out_proj(y if self.norm is None else self.norm(y))
        return out


class GroupedRMSNorm(nn.Module):
    """RMSNorm over each of ``n_groups`` equal parts of the last dimension, with a weight for each channel."""

    def __init__(self, width: int, n_groups: int, eps: float) -> None:
        super().__init__()
        self.n_groups, self.eps = n_groups, eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        parts = to_heads(x, self.n_groups)
        return functional.rms_norm(parts, parts.shape[-1:], eps=self.eps).flatten(-2) * self.weight
