"""Parts that recurrent mixers share: a short convolution, the norm of heads, first step sizes, checks of sizes."""

from __future__ import annotations

import math
import os
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional

from ngram_copy.models import ops
from ngram_copy.models.base import linear


class ShortConv(nn.Module):
    """``silu(Σ_j weight_j x_{t - kernel + 1 + j} + bias)``, each channel by itself; its state is the last inputs.

    Parameters
    ----------
    channels, kernel : int
    bias : bool
    backend : {"auto", "rust", "torch"}
        See :mod:`ngram_copy.models.ops`.
    """

    def __init__(self, channels: int, kernel: int, bias: bool = False, backend: str = "auto") -> None:
        super().__init__()
        self.backend = backend
        # As nn.Conv1d does.
        bound = 1 / math.sqrt(kernel)
        self.weight = nn.Parameter(torch.empty(channels, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound)) if bias else None

    def initial_state(self, batch: int) -> Tensor:
        """(batch, channels, kernel - 1)."""
        channels, kernel = self.weight.shape
        return self.weight.new_zeros(batch, channels, kernel - 1)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Filter (batch, seq_len, channels)."""
        y, state = ops.causal_conv1d(x.mT, self.weight, self.bias, "silu", initial_state=state, backend=self.backend)
        return y.mT, state

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Filter (batch, channels)."""
        return ops.causal_conv1d_update(state, x, self.weight, self.bias, "silu", backend=self.backend)


class HeadNorm(nn.Module):
    """``RMSNorm(x) · activation(gate)`` over a head's coordinates, in float32 or wider; without a gate, the norm alone.

    Parameters
    ----------
    width : int
        Of a head.
    eps : float
    activation : {"silu", "sigmoid"}
        Of the gate.
    """

    def __init__(self, width: int, eps: float, activation: str = "silu") -> None:
        super().__init__()
        self.eps = eps
        self.activation = functional.silu if activation == "silu" else torch.sigmoid
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """``x`` and ``gate`` are (…, width)."""
        y = functional.rms_norm(widened(x), x.shape[-1:], widened(self.weight), self.eps)
        return (y if gate is None else y * self.activation(widened(gate))).to(x.dtype)


def widened(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 if it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def to_heads(x: Tensor, n_heads: int) -> Tensor:
    """(…, width) as (…, n_heads, width / n_heads)."""
    return x.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads)


def low_rank(d_model: int, rank: int, width: int, bias: bool = False) -> nn.Sequential:
    """d_model → rank → width."""
    return nn.Sequential(linear(d_model, rank), linear(rank, width, bias))


def head_size(d_model: int, n_heads: int, head_dim: int | None) -> int:
    """Check n_heads and return head_dim, by default d_model / n_heads.

    Raises
    ------
    ValueError
        If n_heads is not positive, or does not divide d_model where head_dim is None.
    """
    require_at_least(1, n_heads=n_heads)
    if head_dim is not None:
        return head_dim
    if d_model % n_heads:
        raise ValueError(f"n_heads = {n_heads} does not divide d_model = {d_model}: give head_dim")
    return d_model // n_heads


def backends(backend: str, package: str = "fla") -> tuple[str, str]:
    """Backends of the recurrence and of the short convolution, which is not taken from a package.

    Parameters
    ----------
    backend : str
    package : {"fla", "mamba_ssm"}
        The one that has the recurrence.

    Raises
    ------
    ValueError
        If the backend is unknown.
    """
    require_one_of(("auto", "rust", "torch", package), backend=backend)
    return backend, "auto" if backend == package else backend


def initial_dt_bias(width: int, dt_min: float, dt_max: float, floor: float) -> Tensor:
    """Biases b such that softplus(b) is log-uniform in dt_min … dt_max, and at least ``floor``; (width), on the CPU.

    Raises
    ------
    ValueError
        If it is no range of positive numbers.
    """
    if not 0 < dt_min <= dt_max or not floor > 0:
        raise ValueError(f"0 < dt_min <= dt_max and 0 < dt_init_floor are needed, not {dt_min}, {dt_max} and {floor}")
    log_dt = torch.empty(width, device="cpu").uniform_(math.log(dt_min), math.log(dt_max))
    dt = log_dt.exp().clamp(min=floor)
    return dt + (-torch.expm1(-dt)).log()  # the inverse of softplus


def parameter(values: Tensor) -> nn.Parameter:
    """First weights that were computed on the CPU, on the device where modules are made.

    For a sum on the meta device torch would import its compiler, which takes seconds.
    """
    return nn.Parameter(values.to(torch.empty(0).device))


def require_at_least(least: int, **values: int) -> None:
    """Raise ValueError for the first of the values that is smaller, by name."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")


def require_one_of(known: Collection[str], **values: str) -> None:
    """Raise ValueError for the first of the values that is not known, by name."""
    for name, value in values.items():
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")


def require_memory(needed: int, what: str) -> None:
    """Raise ValueError if less memory is free than ``what`` needs, in bytes."""
    there = _free_memory()
    if needed > there:
        raise ValueError(
            f"{what} needs {needed / 2**30:,.1f} GiB of memory, and {there / 2**30:,.1f} GiB are free on this machine"
        )


def _free_memory() -> int:
    """Bytes that can be had without swapping; of the whole machine where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # it cannot be asked: what can be addressed
        return 2**47
