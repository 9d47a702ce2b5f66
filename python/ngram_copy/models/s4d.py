"""S4D: a diagonal state space model, whose rates and weights do not depend on the tokens.

    h_t = exp(Δ A) h_{t-1} + (exp(Δ A) - 1)/A · B u_t         (batch, d_model, n_modes), complex; n_modes = d_state / 2
    y_t = 2 Re(C · h_t) + D u_t                               (batch, d_model)
    "glu":     a, b = W_out GELU(y);  output a · σ(b)
    "linear":  output W_out y

Each channel has modes of its own, one of each pair of conjugates: A = -exp(A_log) + i A_imag. Gu, Gupta, Goel and Ré
2022 (arXiv 2206.11893), whose initial weights S4D-Lin are these: A_n = -1/2 + i π n, B = 1, Δ log-uniform. There B is
not learned. The recurrence is :func:`ngram_copy.models.ops.s4d_scan`.

The state is h, its real and imaginary parts beside each other.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ngram_copy.models import ops
from ngram_copy.models.base import LayerState, Mixer, linear
from ngram_copy.models.parts import parameter, require_at_least, require_one_of, widened


class S4D(Mixer):
    """S4D of one layer.

    Parameters
    ----------
    d_model : int
    d_state : int
        Numbers that a channel keeps; two for each mode, so even.
    dt_min, dt_max : float
        At first Δ is log-uniform in dt_min … dt_max.
    output : {"glu", "linear"}
        What follows the recurrence; with "linear" the layer is linear in its inputs.
    backend : {"auto", "rust", "torch"}
        Of the recurrence; see :mod:`ngram_copy.models.ops`.

    Raises
    ------
    ValueError
        If d_state is not even and positive, dt_min … dt_max is no range, or the output or the backend is unknown.
    """

    name: ClassVar[str] = "s4d"
    summary: ClassVar[str] = "S4D: a diagonal state space model, the same at every token"
    letter: ClassVar[str] = "S"

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        output: str = "glu",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        require_at_least(1, d_state=d_state)
        require_one_of(("glu", "linear"), output=output)
        require_one_of(("auto", "rust", "torch"), backend=backend)
        if d_state % 2:
            raise ValueError(f"d_state must be even, two numbers for each mode, not {d_state}")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"0 < dt_min <= dt_max is needed, not {dt_min} and {dt_max}")
        self.d_model, self.d_state, self.output, self.backend = d_model, d_state, output, backend
        shape = (d_model, d_state // 2)
        float_type = torch.get_default_dtype()
        frequencies = math.pi * torch.arange(shape[1], dtype=float_type, device="cpu")
        self.A_log = parameter(torch.full(shape, math.log(0.5), dtype=float_type, device="cpu"))
        self.A_imag = parameter(frequencies.repeat(d_model, 1))
        self.log_dt = parameter(torch.empty(d_model, device="cpu").uniform_(math.log(dt_min), math.log(dt_max)))
        # Complex weights as real and imaginary parts: an optimiser, a file and a cast of dtype know real ones alone.
        self.B = parameter(torch.tensor([1.0, 0.0], device="cpu").repeat(*shape, 1))
        self.C = parameter(torch.randn(*shape, 2, device="cpu") / math.sqrt(2))
        self.D = parameter(torch.randn(d_model, device="cpu"))
        self.out_proj = linear(d_model, 2 * d_model if output == "glu" else d_model, bias=output == "glu")

    def initial_state(self, batch: int) -> LayerState:
        return {"modes": widened(self.A_imag.new_zeros(batch, *self.A_imag.shape, 2))}

    def state_size(self, length: int) -> int:
        """``d_model · d_state``, at every length."""
        return self.d_model * self.d_state

    def forward(self, x: Tensor, state: LayerState, position: int) -> tuple[Tensor, LayerState]:
        y, modes = ops.s4d_scan(
            x.mT, *self._weights(), self.D, initial_state=_complex(state["modes"]), backend=self.backend
        )
        return self._project(y.mT), {"modes": torch.view_as_real(modes)}

    def step(self, x: Tensor, state: LayerState, position: int) -> tuple[Tensor, LayerState]:
        y, modes = ops.s4d_state_update(_complex(state["modes"]), x, *self._weights(), self.D, backend=self.backend)
        return self._project(y), {"modes": torch.view_as_real(modes)}

    def _weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A (d_model, n_modes), log_dt (d_model), B and C (d_model, n_modes)."""
        A = torch.complex(-widened(self.A_log).exp(), widened(self.A_imag))
        return A, self.log_dt, _complex(self.B), _complex(self.C)

    def _project(self, y: Tensor) -> Tensor:
        """What follows the recurrence, of (…, d_model)."""
        if self.output == "linear":
            projected: Tensor = self.out_proj(y)
            return projected
        return functional.glu(self.out_proj(functional.gelu(y)), dim=-1)


def _complex(pairs: Tensor) -> Tensor:
    """(…, 2) as complex numbers, of float32 or float64 parts."""
    return torch.view_as_complex(widened(pairs).contiguous())
