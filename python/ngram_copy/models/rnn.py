"""LSTM and GRU.

    LSTM: i, f, o = σ(…), g = tanh(…) of (x_t, h_{t-1});  c_t = f c_{t-1} + i g;  h_t = o tanh(c_t)
    GRU:  r, z = σ(…);  n = tanh(W x_t + r (U h_{t-1} + b));  h_t = (1 - z) n + z h_{t-1}

Hochreiter and Schmidhuber 1997; Cho et al. 2014 (arXiv 1406.1078). torch's ``nn.LSTM`` and ``nn.GRU`` run here. Shapes:
x (batch, seq_len, d_model); h and c (batch, d_hidden); the output is projected to d_model where d_hidden differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from ngram_copy.models.base import LayerState, Mixer, linear


class _Recurrent(Mixer):
    """What both share: torch's one-layer network, and a projection where the widths differ.

    Parameters
    ----------
    d_model : int
    d_hidden : int, optional
        By default d_model.

    Raises
    ------
    ValueError
        If d_hidden < 1.
    """

    _network: ClassVar[Callable[..., nn.Module]]
    _parts: ClassVar[tuple[str, ...]]

    def __init__(self, d_model: int, *, d_hidden: int | None = None) -> None:
        super().__init__()
        self.d_hidden = d_model if d_hidden is None else d_hidden
        if self.d_hidden < 1:
            raise ValueError(f"d_hidden must be at least 1, not {self.d_hidden}")
        self.rnn: nn.Module = self._network(d_model, self.d_hidden, batch_first=True)
        self.out: nn.Module = nn.Identity() if self.d_hidden == d_model else linear(self.d_hidden, d_model)

    def initial_state(self, batch: int) -> LayerState:
        weight = next(self.rnn.parameters())
        return {name: weight.new_zeros(batch, self.d_hidden) for name in self._parts}

    def forward(self, x: Tensor, state: LayerState, position: int) -> tuple[Tensor, LayerState]:
        if not x.shape[1]:
            return x, state
        before = [state[name][None].contiguous() for name in self._parts]
        with torch.autocast("cpu", enabled=False):  # it has no LSTM where a CPU has no bfloat16 instructions
            y, after = self.rnn(x.to(before[0].dtype), tuple(before) if len(before) > 1 else before[0])
        parts = after if isinstance(after, tuple) else (after,)
        return self.out(y), {name: part[0] for name, part in zip(self._parts, parts, strict=True)}

    def state_size(self, length: int) -> int:
        """``d_hidden`` for each of h and (LSTM) c."""
        return len(self._parts) * self.d_hidden


class LSTM(_Recurrent):
    """Long short-term memory; see the top of this file."""

    name: ClassVar[str] = "lstm"
    summary: ClassVar[str] = "long short-term memory"
    letter: ClassVar[str] = "L"
    _network = nn.LSTM
    _parts = ("h", "c")


class GRU(_Recurrent):
    """Gated recurrent unit; see the top of this file."""

    name: ClassVar[str] = "gru"
    summary: ClassVar[str] = "gated recurrent unit"
    letter: ClassVar[str] = "R"
    _network = nn.GRU
    _parts = ("h",)
