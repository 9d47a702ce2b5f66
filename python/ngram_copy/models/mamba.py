"""Mamba: a selective state space model.

    u, z = W_in x                                             (batch, seq_len, d_inner) each, d_inner = expand · d_model
    u = SiLU(conv(u))                                         a causal filter of d_conv taps for each channel
    δ, B, C = W_x u                                           (batch, seq_len, dt_rank), (…, d_state), (…, d_state)
    Δ = softplus(W_dt δ + bias)                               (batch, seq_len, d_inner)
    h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t                    (batch, d_inner, d_state); A = -exp(A_log)
    y_t = (C_t · h_t + D u_t) · SiLU(z_t),  then W_out

Gu and Dao 2023 (arXiv 2312.00752), figure 3 and algorithm 2; mamba_ssm's ``Mamba``, whose options and initial weights
these are. The recurrence is :func:`ngram_copy.models.ops.selective_scan`.

The state is the last (d_conv - 1) inputs of the filter, and h.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ngram_copy.models import ops
from ngram_copy.models.base import LayerState, Mixer, linear
from ngram_copy.models.parts import ShortConv, backends, initial_dt_bias, parameter, require_at_least, widened


class Mamba(Mixer):
    """Mamba of one layer.

    Parameters
    ----------
    d_model : int
    d_state : int
        Numbers that a channel keeps.
    d_conv : int
        Taps of the filter; 1: none but the current token.
    expand : int
        d_inner / d_model.
    dt_rank : int, optional
        By default d_model / 16, rounded up.
    dt_min, dt_max, dt_init_floor : float
        At first Δ is log-uniform in dt_min … dt_max, and at least ``dt_init_floor``, where W_dt δ is 0.
    bias, conv_bias : bool
        Of W_in and W_out; of the filter.
    backend : {"auto", "rust", "torch", "mamba_ssm"}
        Of the recurrence; see :mod:`ngram_copy.models.ops`.

    Raises
    ------
    ValueError
        If a size is not positive, dt_min … dt_max is no range, or the backend is unknown.
    """

    name: ClassVar[str] = "mamba"
    summary: ClassVar[str] = "Mamba: a selective state space model"
    letter: ClassVar[str] = "M"

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        bias: bool = False,
        conv_bias: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        require_at_least(1, d_state=d_state, d_conv=d_conv, expand=expand, dt_rank=dt_rank)
        self.backend, conv_backend = backends(backend, "mamba_ssm")
        self.d_inner, self.d_state, self.d_conv, self.dt_rank = expand * d_model, d_state, d_conv, dt_rank
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias)
        self.conv1d = ShortConv(self.d_inner, d_conv, conv_bias, conv_backend)
        self.x_proj = nn.Linear(self.d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, self.d_inner)
        nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        self.dt_proj.bias = parameter(initial_dt_bias(self.d_inner, dt_min, dt_max, dt_init_floor))
        rates = torch.arange(1, d_state + 1, dtype=torch.get_default_dtype(), device="cpu")
        self.A_log = parameter(rates.log().repeat(self.d_inner, 1))
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = linear(self.d_inner, d_model, bias, scale=0.5)

    def initial_state(self, batch: int) -> LayerState:
        scan = widened(self.A_log.new_zeros(batch, self.d_inner, self.d_state))
        return {"conv": self.conv1d.initial_state(batch), "scan": scan}

    def state_size(self, length: int) -> int:
        """``expand · d_model · (d_state + d_conv - 1)``, at every length."""
        return self.d_inner * (self.d_state + self.d_conv - 1)

    def forward(self, x: Tensor, state: LayerState, position: int) -> tuple[Tensor, LayerState]:
        u, z = self.in_proj(x).chunk(2, dim=-1)  # (batch, seq_len, d_inner)
        u, conv = self.conv1d(u, state["conv"])
        dt, B, C = self._selected(u)
        y, scan = ops.selective_scan(
            u.mT,
            dt.mT,
            self._rates,
            B.mT,
            C.mT,
            self.D,
            z.mT,
            self.dt_proj.bias,
            True,
            # At the start it is zero, and mamba_ssm takes none.
            initial_state=state["scan"] if position else None,
            backend=self.backend,
        )
        return self.out_proj(y.mT), {"conv": conv, "scan": scan}

    def step(self, x: Tensor, state: LayerState, position: int) -> tuple[Tensor, LayerState]:
        u, z = self.in_proj(x).chunk(2, dim=-1)  # (batch, d_inner)
        u, conv = self.conv1d.step(u, state["conv"])
        dt, B, C = self._selected(u)
        y, scan = ops.selective_state_update(
            state["scan"], u, dt, self._rates, B, C, self.D, z, self.dt_proj.bias, True, backend=self.backend
        )
        return self.out_proj(y), {"conv": conv, "scan": scan}

    @property
    def _rates(self) -> Tensor:
        """A, (d_inner, d_state)."""
        return -widened(self.A_log).exp()

    def _selected(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Δ before bias and softplus (…, d_inner); B and C (…, d_state), all of u (…, d_inner)."""
        dt, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return functional.linear(dt, self.dt_proj.weight), B, C
