"""What the models of the diagonal family share: step sizes, and factors that are the same at all steps.

The family has a state for each channel, ``h_t = a_t h_{t-1} + x_t``, with a and x from the inputs of each model.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from ngram_copy.models.ops.chunks import hide, over


def step_size(dt: Tensor, bias: Tensor | None, use_softplus: bool, active: Tensor | None) -> Tensor:
    """Δ (batch, time, …): bias over the last dimension, softplus; 0 at steps that do not count: the state stays."""
    if bias is not None:
        dt = dt + bias.to(dt.dtype)
    if use_softplus:
        dt = softplus(dt, threshold=60)  # beyond 60, log1p(exp(-x)) is below float64's spacing; 20, the default, is not
    return dt if active is None else hide(dt, active)


def fixed(a: Tensor, like: Tensor, active: Tensor | None) -> Tensor:
    """Spread factors that are the same at all steps over (batch, chunk, …); 1 where a step does not count.

    Parameters
    ----------
    a : tensor (d_model, n_modes) or (width)
    like : tensor (batch, chunk, …)
    active : tensor (batch, chunk) of bool, or None
    """
    spread = a.expand(like.shape[:2] + a.shape)
    return spread if active is None else spread.masked_fill(~over(active, spread), 1)


def real_part(a: Tensor, b: Tensor) -> Tensor:
    """Re(a b), without the imaginary part."""
    return a.real * b.real - a.imag * b.imag
