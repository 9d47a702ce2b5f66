"""The causal short convolution that stands before most recurrences: a filter of a few taps for each channel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad, silu

from ngram_copy.models.ops import rust
from ngram_copy.models.ops.arguments import PLAIN, Checker, Lengths, Steps, steps_of, without_autocast
from ngram_copy.models.ops.backends import choose


@without_autocast
def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    initial_state: Tensor | None = None,
    lengths: Lengths = None,
    padding: str = "right",
    resets: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Causal convolution of each channel: ``y_t = Σ_j weight_j x_{t - kernel + 1 + j} + bias``, then SiLU if asked for.

    Shapes of causal-conv1d's ``causal_conv1d_fn``.

    Parameters
    ----------
    x : tensor (batch, channels, seq_len)
    weight : tensor (channels, kernel)
    bias : tensor (channels), optional
    activation : "silu" or None
    initial_state : tensor (batch, channels, kernel - 1), optional
        The inputs before, oldest first.
    lengths, padding, resets, backend
        See :mod:`ngram_copy.models.ops`.

    Returns
    -------
    y : tensor (batch, channels, seq_len), of x's dtype
    last_state : tensor (batch, channels, kernel - 1)
        The last inputs, of the dtype of x, or of initial_state where that is wider.

    Raises
    ------
    TypeError, ValueError
        If an argument, its dtype, shape or device is not allowed, or the backend named cannot run it.
    """
    check = Checker()
    check.real("x", x, "batch channels seq_len")
    _check_filter(check, weight, bias, activation)
    state = _state(check, "initial_state", initial_state, x)
    steps = steps_of(check, lengths, padding, resets)
    chosen = choose("causal_conv1d", backend, x, initial_state, steps)
    if check.sizes["seq_len"] == 0:
        return x.clone(), state.clone()
    if chosen == "rust":
        wide = check.cast(x, weight, bias)
        y, last_state = rust.call("causal_conv1d", wide, [activation == "silu"], state.to(check.dtype), steps)
        return y.to(x.dtype), last_state.to(state.dtype)
    return _filter(x, weight, bias, activation, state, steps, check.dtype)


def causal_conv1d_update(
    state: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """One step of :func:`causal_conv1d`; unlike causal-conv1d's it leaves ``state`` as it is.

    Parameters
    ----------
    state : tensor (batch, channels, kernel - 1)
    x : tensor (batch, channels)
    weight : tensor (channels, kernel)
    bias : tensor (channels), optional
    activation : "silu" or None
    backend : str

    Returns
    -------
    y : tensor (batch, channels), of x's dtype
    new_state : tensor (batch, channels, kernel - 1)

    Raises
    ------
    TypeError, ValueError
        If an argument, its dtype, shape or device is not allowed, or the backend named cannot run it.
    """
    if backend in {"auto", "rust"} and activation in {None, "silu"}:
        done = rust.conv_step(state, x, weight, bias, activation == "silu")
        if done is not None:
            return done
    return _update(state, x, weight, bias, activation, backend)


@without_autocast
def _update(
    state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, backend: str
) -> tuple[Tensor, Tensor]:
    """Any step, checked."""
    check = Checker()
    check.real("x", x, "batch channels")
    _check_filter(check, weight, bias, activation)
    state = _state(check, "state", state, x)
    chosen = choose("causal_conv1d_update", backend, x, state, PLAIN, x, weight, bias)
    if chosen == "rust":
        wide = check.cast(x[..., None], weight, bias)
        y, new_state = rust.call("causal_conv1d", wide, [activation == "silu"], state.to(check.dtype), PLAIN)
        return y[..., 0].to(x.dtype), new_state.to(state.dtype)
    seen = torch.cat([state, x[..., None].to(state.dtype)], dim=-1)
    y = (seen.to(check.dtype) * weight.to(check.dtype)).sum(-1)
    return _finish(y, bias, activation, 1).to(x.dtype), seen[..., 1:].clone()


def _check_filter(check: Checker, weight: Tensor, bias: Tensor | None, activation: str | None) -> None:
    check.real("weight", weight, "channels kernel")
    check.optional("bias", bias, "channels")
    if check.sizes["kernel"] == 0:
        raise ValueError("weight must have a kernel of at least 1, not 0")
    if activation not in {None, "silu"}:
        raise ValueError(f"activation must be None or 'silu', not {activation!r}")
    check.sizes["kernel-1"] = check.sizes["kernel"] - 1


def _state(check: Checker, name: str, state: Tensor | None, x: Tensor) -> Tensor:
    """Inputs are kept as they are: in their own dtype, which loses nothing."""
    if state is None:
        sizes = [check.sizes[dim] for dim in ("batch", "channels", "kernel-1")]
        return torch.zeros(sizes, dtype=x.dtype, device=x.device)
    check.real(name, state, "batch channels kernel-1")
    return state.to(torch.promote_types(state.dtype, x.dtype))


def _filter(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    state: Tensor,
    steps: Steps,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The torch backend; sums are of ``dtype``."""
    seq_len, taps = x.shape[-1], weight.shape[1] - 1
    rows, resets = x, steps.resets
    if steps.active is not None:
        rows = rows.masked_fill(~steps.active[:, None], 0)
    order = _to_the_left(steps, seq_len)
    if order is not None:  # padding on the right: what counts begins at 0, next to the state
        rows = rows.gather(2, order[:, None].expand_as(rows))
        resets = None if resets is None else resets.gather(1, order)
    before = torch.cat([state, rows.to(state.dtype)], dim=-1)
    segment = None if resets is None else pad(resets.cumsum(1), (taps, 0))
    y = _finish(_taps(before.to(dtype), weight.to(dtype), segment), bias, activation, 2)
    if order is not None:
        y = y.gather(2, order.argsort(1)[:, None].expand_as(y))
    if steps.active is not None:
        y = y.masked_fill(~steps.active[:, None], 0)
    return y.to(x.dtype), _last(before, segment, steps.lengths, taps)


def _finish(y: Tensor, bias: Tensor | None, activation: str | None, dims: int) -> Tensor:
    """Bias and activation of (batch, channels) or (batch, channels, seq_len)."""
    if bias is not None:
        y = y + bias.to(y.dtype).reshape((-1,) + (1,) * (dims - 1))
    return silu(y) if activation == "silu" else y


def _to_the_left(steps: Steps, seq_len: int) -> Tensor | None:
    """Which step of a row comes where, such that padding is on the right; (batch, seq_len)."""
    if not steps.left or steps.lengths is None:
        return None
    position = torch.arange(seq_len, device=steps.lengths.device)
    return (position - steps.lengths[:, None]) % seq_len


def _taps(before: Tensor, weight: Tensor, segment: Tensor | None) -> Tensor:
    """The filter over (batch, channels, kernel - 1 + seq_len); taps of other segments are left out, NaN and all."""
    if segment is None:
        return conv1d(before, weight[:, None], groups=weight.shape[0])
    kernel = weight.shape[1]
    seq_len = before.shape[-1] - kernel + 1
    own = segment[:, kernel - 1 :]
    y = weight[:, -1:] * before[..., kernel - 1 :]
    for tap in range(kernel - 1):
        other = segment[:, tap : tap + seq_len] != own
        y = y + weight[:, tap, None] * before[..., tap : tap + seq_len].masked_fill(other[:, None], 0)
    return y


def _last(before: Tensor, segment: Tensor | None, lengths: Tensor | None, taps: int) -> Tensor:
    """The last inputs that count; zero where a reset lies between them and the end."""
    if lengths is None:
        last = before[..., before.shape[-1] - taps :]
        where = None if segment is None else segment[:, segment.shape[-1] - taps :] != segment[:, -1:]
    else:
        index = lengths[:, None] + torch.arange(taps, device=lengths.device)
        last = before.gather(2, index[:, None].expand(-1, before.shape[1], -1))
        # Beyond a row's end no reset counts, so the segment of the end is that of the sequence's end.
        where = None if segment is None else segment.gather(1, index) != segment[:, -1:]
    return last.clone() if where is None else last.masked_fill(where[:, None], 0)
