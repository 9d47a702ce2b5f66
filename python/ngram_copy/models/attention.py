"""Softmax attention, and where it looks.

    q, k, v = W_q x, W_k x, W_v x                             (batch, n_heads, seq_len, head_dim)
    y_i = Σ_{j ≤ i} softmax_j(q_i · k_j / √head_dim + bias_ij) v_j,  then W_o

``positions`` says how a head knows where a token stands (ALiBi: Press et al. 2022, arXiv 2108.12409; RoPE: Su et al.
2021, arXiv 2104.09864; Hard-ALiBi: Jelassi et al. 2024, arXiv 2402.01032):

- ``"none"`` (NoPE): by the causal mask alone. Learned positions are the skeleton's ``max_positions``, with this;
- ``"rope"``: q and k are rotated by angles that grow with their positions;
- ``"alibi"``: bias_ij = -slope · (i - j), the slope a power of two for each head;
- ``"hard-alibi"``: each head has a *window*: bias 0 on the last ``window`` tokens (its own included), -∞ before;
  a window of 0 is a NoPE head that sees all.

A ``window`` is allowed with the others too: sliding-window attention. ``log_scale`` multiplies the queries of heads
without a window at position i (from 1) by max(1, ln i / ln log_scale): softmax over a longer context stays as sharp
as over ``log_scale`` tokens.

The state is the keys and values: all of them for heads without a window; for the others, each as many of the last as
the widest window needs, which is more than a narrower one would.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ngram_copy.models.base import LayerState, Mixer, linear

_AT_ONCE = 512  # tokens up to which one call for all heads is faster than one without a mask for some

POSITIONS = ("none", "rope", "alibi", "hard-alibi")


class Attention(Mixer):
    """Attention of one layer.

    Parameters
    ----------
    d_model : int
    n_heads : int
    head_dim : int, optional
        Of queries and keys; by default d_model / n_heads.
    value_dim : int, optional
        Of values; by default ``head_dim``.
    n_kv_heads : int, optional
        Heads of keys and values, each shared by n_heads / n_kv_heads heads of queries (grouped-query attention).
    positions : {"none", "rope", "alibi", "hard-alibi"}
    windows : int or sequence of int
        Tokens that a head sees, its own included; 0: all. One number stands for all heads.
    rope_dim : int, optional
        Coordinates of a head that are rotated, the first ones; by default all.
    rope_base : float
    log_scale : float
        0: none.
    qkv_bias, out_bias : bool

    Raises
    ------
    ValueError
        If sizes do not divide, a size is not positive, a rotated size is odd, or an option is unknown.
    """

    name: ClassVar[str] = "attention"
    summary: ClassVar[str] = "softmax attention: RoPE, NoPE, ALiBi, Hard-ALiBi, sliding windows, grouped heads"
    letter: ClassVar[str] = "A"
    grows: ClassVar[bool] = True

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int = 4,
        head_dim: int | None = None,
        value_dim: int | None = None,
        n_kv_heads: int | None = None,
        positions: str = "rope",
        windows: int | Sequence[int] = 0,
        rope_dim: int | None = None,
        rope_base: float = 10_000.0,
        log_scale: float = 0.0,
        qkv_bias: bool = False,
        out_bias: bool = False,
    ) -> None:
        super().__init__()
        if n_heads < 1:
            raise ValueError(f"n_heads must be at least 1, not {n_heads}")
        if head_dim is None:
            if d_model % n_heads:
                raise ValueError(f"n_heads = {n_heads} does not divide d_model = {d_model}: give head_dim")
            head_dim = d_model // n_heads
        n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        value_dim = head_dim if value_dim is None else value_dim
        if n_kv_heads < 1 or n_heads % n_kv_heads:
            raise ValueError(f"n_kv_heads = {n_kv_heads} does not divide n_heads = {n_heads}")
        if min(head_dim, value_dim) < 1:
            raise ValueError(f"head_dim and value_dim must be at least 1, not {head_dim} and {value_dim}")
        if positions not in POSITIONS:
            raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, not {positions!r}")
        rope_dim = head_dim if rope_dim is None else rope_dim
        if positions == "rope" and (rope_dim % 2 or not 0 < rope_dim <= head_dim):
            raise ValueError(f"RoPE rotates pairs: rope_dim must be even and in 2 … {head_dim}, not {rope_dim}")
        if log_scale and log_scale <= 1:
            raise ValueError(f"log_scale must be 0 (none) or above 1, not {log_scale}")
        windows = [windows] * n_heads if isinstance(windows, int) else list(windows)
        if len(windows) != n_heads or min(windows) < 0:
            raise ValueError(f"windows must be {n_heads} numbers, one a head, 0 or more; not {windows}")
        if n_kv_heads < n_heads and len(set(windows)) > 1:
            raise ValueError("heads that share keys must share their window: n_kv_heads < n_heads with several windows")
        self.n_heads, self.n_kv_heads, self.head_dim, self.value_dim = n_heads, n_kv_heads, head_dim, value_dim
        self.positions, self.rope_dim, self.rope_base, self.log_scale = positions, rope_dim, rope_base, log_scale
        # Heads without a window come first inside: two groups, each a slice, with caches of their own lengths.
        order = sorted(range(n_heads), key=lambda head: windows[head] > 0)
        self.order = order
        self.windows = [windows[head] for head in order]
        self.n_open = sum(window == 0 for window in windows)
        self.reach = max(windows)
        self.slopes = [_slopes(n_heads)[head] for head in order] if positions == "alibi" else None
        self.query = linear(d_model, n_heads * head_dim, qkv_bias)
        self.key = linear(d_model, n_kv_heads * head_dim, qkv_bias)
        self.value = linear(d_model, n_kv_heads * value_dim, qkv_bias)
        self.out = linear(n_heads * value_dim, d_model, out_bias, scale=0.5)

    def initial_state(self, batch: int) -> LayerState:
        heads = {"open": self._kv_open, "near": self.n_kv_heads - self._kv_open}
        weight = self.key.weight
        return {
            f"{group}_{what}": weight.new_zeros(batch, count, 0, width)
            for group, count in heads.items()
            if count
            for what, width in (("keys", self.head_dim), ("values", self.value_dim))
        }

    def state_size(self, length: int) -> int:
        """``(head_dim + value_dim) · (open heads · length + other heads · min(length, widest window - 1))``."""
        near = min(length, max(self.reach - 1, 0))
        heads = self._kv_open * length + (self.n_kv_heads - self._kv_open) * near
        return heads * (self.head_dim + self.value_dim)

    def forward(self, x: Tensor, state: LayerState, position: int) -> tuple[Tensor, LayerState]:
        return self.forward_last(x, state, position, x.shape[1])

    def forward_last(self, x: Tensor, state: LayerState, position: int, last: int) -> tuple[Tensor, LayerState]:
        found: list[Tensor] = []
        after: LayerState = {}
        for heads, queries, keys, values in self._groups(x, state, position, last):
            found.append(self._attend(queries, keys, values, heads))
            n_open = max(self._kv_open - (heads.start or 0), 0)
            first = max(keys.shape[2] - self.reach + 1, 0)  # that a window reaches from the next token
            if n_open:
                after |= {"open_keys": keys[:, :n_open], "open_values": values[:, :n_open]}
            if n_open < keys.shape[1]:
                after |= {"near_keys": keys[:, n_open:, first:], "near_values": values[:, n_open:, first:]}
        mixed = (torch.cat(found, dim=1) if len(found) > 1 else found[0]).transpose(1, 2)
        y: Tensor = self.out(mixed.reshape(len(x), last, self.n_heads * self.value_dim))
        return y, after

    def weights(self, x: Tensor, state: LayerState, position: int) -> Tensor:
        """Where each head looks in ``forward`` of the same arguments.

        Returns
        -------
        tensor (batch, n_heads, seq_len, position + seq_len)
            Softmax over all tokens so far; heads in the order of the options.
        """
        found = []
        for heads, queries, keys, _ in self._groups(x, state, position, x.shape[1]):
            shared = keys.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1)
            scores = queries @ shared.transpose(2, 3) / math.sqrt(self.head_dim)
            scores = scores + self._mask(scores.shape[2], scores.shape[3], heads, scores)
            # Windowed heads forget keys: what they keep are the last ones.
            found.append(functional.pad(scores.softmax(-1), (position + x.shape[1] - scores.shape[3], 0)))
        return torch.cat(found, dim=1)[:, [self.order.index(head) for head in range(self.n_heads)]]

    def output_columns(self, head: int) -> slice:
        """Columns of ``out.weight`` that carry a head, counted in the order of the options."""
        place = self.order.index(head)
        return slice(place * self.value_dim, (place + 1) * self.value_dim)

    def _groups(
        self, x: Tensor, state: LayerState, position: int, last: int
    ) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Heads (inner order) that are computed at once: which, their queries, keys and values (old ones first).

        Queries are those of the last tokens. A short sequence without a past is one group. Else heads without a window
        are apart from those with one: their caches differ in length, and they need no mask.
        """
        q, k, v = self._projected(x, position, last)
        if self.log_scale and position + x.shape[1] > self.log_scale:
            q = q * self._sharpness(last, position + x.shape[1] - last, q)
        if not position and x.shape[1] <= _AT_ONCE:
            yield slice(0, self.n_heads), q, k, v
            return
        groups = {"open": (slice(0, self.n_open), slice(0, self._kv_open))}
        groups["near"] = (slice(self.n_open, self.n_heads), slice(self._kv_open, self.n_kv_heads))
        for group, (heads, kv_heads) in groups.items():
            if f"{group}_keys" in state:
                keys = torch.cat([state[f"{group}_keys"], k[:, kv_heads]], dim=2)
                values = torch.cat([state[f"{group}_values"], v[:, kv_heads]], dim=2)
                yield heads, q[:, heads], keys, values

    def _projected(self, x: Tensor, position: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the last tokens, keys and values of all: (batch, heads, seq_len or last, width)."""
        first = x.shape[1] - last
        if not first:  # queries and keys at once are faster
            qk, v = _product(x, [self.query, self.key], [self.value])
            q, k = torch.split(self._heads(qk, position), [self.n_heads, self.n_kv_heads], dim=2)
        else:
            (q,) = _product(x[:, first:], [self.query])
            k, v = _product(x, [self.key], [self.value])
            q, k = self._heads(q, position + first), self._heads(k, position)
        v = v.view(len(x), x.shape[1], self.n_kv_heads, self.value_dim)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _heads(self, x: Tensor, position: int) -> Tensor:
        """Queries or keys of all heads, rotated if they are: (batch, seq_len, heads, head_dim)."""
        heads = x.view(*x.shape[:2], x.shape[2] // self.head_dim, self.head_dim)
        return rotate(heads, position, self.rope_dim, self.rope_base) if self.positions == "rope" else heads

    @property
    def _kv_open(self) -> int:
        """Key heads of the heads without a window."""
        return self.n_open * self.n_kv_heads // self.n_heads

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, heads: slice) -> Tensor:
        """The last queries of a sequence of keys: (batch, heads, seq_len, value_dim)."""
        seq_len, n_keys = q.shape[2], k.shape[2]
        grouped = self.n_kv_heads < self.n_heads
        if not any(self.windows[heads]) and self.slopes is None and seq_len in {1, n_keys}:
            return functional.scaled_dot_product_attention(q, k, v, is_causal=seq_len > 1, enable_gqa=grouped)
        # Four dimensions and numbers, not truth values: else torch leaves its fast kernel.
        mask = self._mask(seq_len, n_keys, heads, q)[None]
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)

    def _mask(self, seq_len: int, n_keys: int, heads: slice, like: Tensor) -> Tensor:
        """What is added to the scores of the last queries: (heads, seq_len, n_keys)."""
        windows = self.windows[heads]
        place = torch.arange(n_keys, device=like.device)
        back = place[n_keys - seq_len :, None] - place  # (seq_len, n_keys): how far back each key lies
        hidden = like.new_zeros(seq_len, n_keys).masked_fill(back < 0, float("-inf"))
        # Windows and slopes go in as numbers: a tensor of them would be copied to the device in each call.
        masks = {window: hidden.masked_fill(back >= window, float("-inf")) if window else hidden for window in windows}
        mask = torch.stack([masks[window] for window in windows])
        if self.slopes is not None:
            far = back.to(torch.promote_types(like.dtype, torch.float32))
            mask = mask + torch.stack([far * -slope for slope in self.slopes[heads]]).to(like.dtype)
        return mask

    def _sharpness(self, seq_len: int, position: int, q: Tensor) -> Tensor:
        """max(1, ln i / ln log_scale) of positions from 1, of heads without a window: (n_heads, seq_len, 1)."""
        place = torch.arange(position + 1, position + seq_len + 1, device=q.device, dtype=torch.float32)
        sharp = (place.log() / math.log(self.log_scale)).clamp(min=1).to(q.dtype)[:, None]
        return torch.stack([torch.ones_like(sharp) if window else sharp for window in self.windows])


def _product(x: Tensor, *groups: list[nn.Linear]) -> tuple[Tensor, ...]:
    """What groups of linear layers make of x, those of a group side by side; by one product."""
    layers = [layer for group in groups for layer in group]
    weight = torch.cat([layer.weight for layer in layers])
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    widths = [sum(layer.out_features for layer in group) for group in groups]
    return torch.split(functional.linear(x, weight, bias), widths, dim=-1)


def rotate(x: Tensor, position: int, rope_dim: int, rope_base: float) -> Tensor:
    """RoPE on the first ``rope_dim`` coordinates: coordinate i is paired with i + rope_dim / 2.

    Parameters
    ----------
    x : tensor (batch, seq_len, heads, head_dim)
    position : int
        Of the first token.
    rope_dim : int
        Even.
    rope_base : float

    Returns
    -------
    tensor like x
    """
    half, seq_len = rope_dim // 2, x.shape[1]
    place = torch.arange(position, position + seq_len, device=x.device, dtype=torch.float32)
    rates = rope_base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = (place[:, None] * rates)[:, None]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second, rest = torch.split(x, [half, half, x.shape[-1] - rope_dim], dim=-1)
    # Not by halves, which takes twice as many operations.
    turned = x[..., :rope_dim] * torch.cat([cos, cos], dim=-1)
    turned = turned.addcmul(torch.cat([second, first], dim=-1), torch.cat([-sin, sin], dim=-1))
    return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned


def _slopes(n_heads: int) -> list[float]:
    """ALiBi's: 2^(-8 k / n_heads), k = 1 … n_heads."""
    return [2.0 ** (-8 * (head + 1) / n_heads) for head in range(n_heads)]
