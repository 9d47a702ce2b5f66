"""A transformer of two layers that copies by looking n-grams up, its weights set by formula: nothing is trained.

For every n there is one (after Jelassi et al. 2024, arXiv 2402.01032): n heads of Hard-ALiBi bring the last n tokens to
each position, and one head without positions attends from the last n tokens to all places that the same n tokens stand
before. It says what the n-gram copier of its whole context says, generated tokens included, wherever all matches have
one successor. So the length that it copies grows exponentially with its heads.

``<bos>`` and ``<copy>`` are *boundaries*: an n-gram ends there, and what lies before a boundary is erased. Each token
has m = max(2, ⌈log2 D⌉) bits, written as ±1, and a flag that marks boundaries: e = m + 1 coordinates. The residual
stream is cut into blocks, each written once::

    E      bits and flag of the token itself                                       e
    mark   1 at <copy>                                                             1, where the end is predicted
    A_k    mean of E over the last k + 1 tokens, k = 1 … n (A_0 is E)              n·e  by the heads of layer 1
    G_k    E of the token k steps back, 0 if a boundary lies in between            n·e  by the MLP of layer 1
    name   the token as one of D                                                   D    where values are one-hot
    O      mean of the tokens that came after the last n                           m or D, and 1 for the end
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import SupportsIndex, cast

import torch
from torch import Tensor

from ngram_copy._arguments import MAX_N, SIZE_LIMIT, integer, real
from ngram_copy.models.attention import Attention
from ngram_copy.models.base import MLP, LanguageModel, LayerConfig, ModelConfig
from ngram_copy.models.parts import require_memory, require_one_of
from ngram_copy.theory import ConstructionSizes, construction_sizes

SHARPNESS = 16.0
"""β where the bound allows less: exact for any length that fits in memory."""

DOUBT = 1e-6
"""What all wrong tokens together get at most where the next token is determined."""

VALUES = ("bits", "one-hot")


def copy_transformer(
    n: SupportsIndex,
    vocab_size: SupportsIndex,
    max_len: SupportsIndex,
    *,
    error: float = 0.01,
    value: str = "bits",
    end_of_string: bool = True,
    snapping: bool = True,
    sharpness: float | None = None,
    dtype: torch.dtype = torch.float32,
    force: bool = False,
) -> LanguageModel:
    """Construct the transformer.

    Parameters
    ----------
    n : int
        Length of the n-grams, and heads of the first layer.
    vocab_size : int
        D data tokens 0 … D - 1; after them the model has ``<bos>``, ``<copy>``, ``<eos>`` and ``<pad>``.
    max_len : int
        Longest string to copy; the model itself knows no limit.
    error : float
        Attention that places without a match get at most, all together, in (0, 1].
    value : {"bits", "one-hot"}
        What is averaged over several matches with different successors: their bits, so that each bit is what most of
        them have and the whole may be none of them; or their names, so that the most frequent one wins.
    end_of_string : bool
        Whether ``<eos>`` is predicted where the string ended.
    snapping : bool
        Whether what the first layer finds is rounded to -1, 0 or 1, which low precision needs.
    sharpness : float, optional
        β, which the scores of attention are multiplied by; by default ``required_sharpness``, and at least
        ``SHARPNESS``.
    dtype : torch.dtype
        float64, float32, float16 or bfloat16.
    force : bool
        Whether a dtype is allowed beyond its ``limit``.

    Returns
    -------
    LanguageModel
        In eval mode, on the CPU.

    Raises
    ------
    ValueError
        If an argument is out of its range, a dtype is past its limit, or there is not so much memory.
    """
    n = integer("n", n, 1, MAX_N + 1)
    d = integer("vocab_size", vocab_size, 2, SIZE_LIMIT)
    max_len = integer("max_len", max_len, 1, SIZE_LIMIT)
    require_one_of(VALUES, value=value)
    least = required_sharpness(max_len, error)
    beta = max(SHARPNESS, least) if sharpness is None else real("sharpness", sharpness, 0, open_high=True)
    sizes = construction_sizes(n, d, value=value, end_of_string=end_of_string, snapping=snapping)
    _check_precision(n, sizes.token_bits, dtype, snapping=snapping, force=force)
    _check_memory(n, d, max_len, sizes, dtype)

    config = ModelConfig(
        vocab_size=d + 4,
        d_model=sizes.d_model,
        layers=(
            LayerConfig("attention", _attention(n, sizes.head_dims[0], "hard-alibi", head_dim=1), sizes.d_mlp),
            LayerConfig("attention", _attention(1, sizes.value_dim, "none", head_dim=sizes.head_dims[1])),
        ),
        norm="none",
        activation="relu",
        mlp_bias=True,
        head_bias=True,
    )
    with torch.device("meta"):  # first weights are not drawn: all are set
        model = LanguageModel(config).to(dtype)
    model = model.to_empty(device="cpu").eval()
    places = _Places(n, d, sizes.token_bits, end_of_string, value == "one-hot")
    first, second = model.mixers()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        _embed(model, places)
        _average(cast("Attention", first), places)
        _step_back(cast("MLP", model.blocks[0].mlp), places, snapping)
        _look_up(cast("Attention", second), places, beta)
        _say(model, places)
    return model


def required_sharpness(max_len: SupportsIndex, error: float) -> float:
    """β such that places without a match get at most ``error`` of the attention: ½·ln((2L + 1) / error).

    A score without a match is smaller by 2β or more. A context has up to 2L + 2 tokens, L the string's length:
    ``<bos>``, the string, ``<copy>`` and the answer; so all but the match are 2L + 1.

    Raises
    ------
    ValueError
        If ``max_len`` < 1 or ``error`` is outside (0, 1].
    """
    length = integer("max_len", max_len, 1, SIZE_LIMIT)
    if not 0 < error <= 1:
        raise ValueError(f"error must be in (0, 1], not {error}")
    return math.log((2 * length + 1) / error) / 2


def limit(dtype: torch.dtype) -> int:
    """The largest n·m for which a dtype computes the copier.

    A mean A_k, whose entries are at most 1, is rounded by up to eps/4; a token k steps back is a difference of k + 1
    and k times such means, wrong by (2k + 1)·eps/4, and snapping forgives less than ¼: so 2n + 1 < 1/eps, and m is at
    least 2. Scores need less: they are sums of n·m numbers ±1, and a match has 2 more than others. How long the
    context is does not matter.

    Raises
    ------
    ValueError
        If it is not a dtype of real numbers of 16 bits or more.
    """
    if not dtype.is_floating_point or dtype.itemsize < 2:
        raise ValueError(f"dtype must be float64, float32, float16 or bfloat16, not {_name(dtype)}")
    return int(1 / torch.finfo(dtype).eps) - 2


# --- The weights ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Places:
    """Where each block stands in the residual stream, and the code of tokens."""

    n: int
    d: int
    m: int
    ends: bool
    """Whether the end of the string is predicted."""
    named: bool
    """Whether values are one-hot."""

    @property
    def e(self) -> int:
        return self.m + 1

    @property
    def bits(self) -> slice:
        return slice(0, self.m)

    @property
    def flag(self) -> int:
        return self.m

    @property
    def mark(self) -> int:
        """1 at ``<copy>``; no block of its own where the end is not predicted."""
        return self.e

    def mean(self, k: int) -> slice:
        """A_k."""
        start = self.e + self.ends + (k - 1) * self.e if k else 0
        return slice(start, start + self.e)

    def back(self, k: int) -> slice:
        """G_k; G_0 is the token itself."""
        start = self.mean(self.n + k).start if k else 0
        return slice(start, start + self.e)

    @property
    def names(self) -> slice:
        start = self.mean(2 * self.n).stop
        return slice(start, start + (self.d if self.named else 0))

    @property
    def value(self) -> list[int]:
        """What the second layer moves."""
        said = self.names if self.named else self.bits
        return [*range(said.start, said.stop), *([self.mark] if self.ends else [])]

    @property
    def out(self) -> slice:
        """O: as ``value``."""
        start = self.names.stop
        return slice(start, start + len(self.value))

    def code(self, like: Tensor) -> Tensor:
        """Bits of the data tokens as ±1: (D, m)."""
        tokens = torch.arange(self.d)[:, None]
        return (2 * (tokens >> torch.arange(self.m) & 1) - 1).to(like.dtype)


def _attention(n_heads: int, value_dim: int, positions: str, head_dim: int) -> dict[str, object]:
    windows = list(range(2, n_heads + 2)) if positions == "hard-alibi" else 0
    return {
        "n_heads": n_heads,
        "head_dim": head_dim,
        "value_dim": value_dim,
        "positions": positions,
        "windows": windows,
    }


def _embed(model: LanguageModel, places: _Places) -> None:
    """E, and the token's name where values are one-hot. All special tokens are boundaries: no bits, but a flag."""
    d, weight = places.d, model.embedding.weight
    weight[:d, places.bits] = places.code(weight)
    weight[d:, places.flag] = 1
    if places.ends:
        weight[d + 1, places.mark] = 1
    if places.named:
        weight[:d, places.names].fill_diagonal_(1)


def _average(attention: Attention, places: _Places) -> None:
    """Head k of layer 1 writes A_k.

    Queries and keys stay zero: softmax of equal scores is the mean over the head's window, the last k + 1 tokens.
    """
    unit = torch.eye(places.e, dtype=attention.value.weight.dtype)
    for k in range(1, places.n + 1):
        columns = attention.output_columns(k - 1)
        attention.value.weight[columns, places.mean(0)] = unit
        attention.out.weight[places.mean(k), columns] = unit


def _step_back(mlp: MLP, places: _Places, snapping: bool) -> None:
    """The MLP of layer 1 writes G_k: the token k steps back, erased if a boundary is nearer than that.

    The token itself is a difference of sums, t = (k + 1)·A_k - k·A_{k-1}, and F = k·A_{k-1}.flag boundaries are nearer:
    both are linear in the means. For a coordinate x of t, -1, 0 or 1, ReLU(x - F) - ReLU(-x - F) is x where F = 0, and
    0 where F ≥ 1; a flag is never negative and needs the first half alone. Where fewer than k + 1 tokens were read,
    means are over those; then t is such a mean, no entry above 1, and F ≥ 1, as ``<bos>`` is among them: erased, too.

    ``<copy>`` itself does not count in its own F where the end is predicted: its key is then the end of the string.

    Snapping puts ReLU(2u - ½) - ReLU(2u - 3/2) in place of each ReLU(u): 0 up to u = ¼ and 1 from u = ¾ on.
    """
    unit = 0
    for k in range(1, places.n + 1):
        here, nearer, back = places.mean(k).start, places.mean(k - 1).start, places.back(k).start
        for coordinate in range(places.e):
            for sign in (1, -1)[: 1 if coordinate == places.flag else 2]:
                u = torch.zeros(mlp.up.in_features, dtype=mlp.up.weight.dtype)
                u[here + coordinate] += sign * (k + 1)
                u[nearer + coordinate] -= sign * k
                u[nearer + places.flag] -= k
                if places.ends:
                    u[places.mark] += 1
                for scale, bias, way in ((2, -0.5, 1), (2, -1.5, -1)) if snapping else ((1, 0.0, 1),):
                    mlp.up.weight[unit] = scale * u
                    mlp.up.bias[unit] = bias
                    mlp.down.weight[back + coordinate, unit] = way * sign
                    unit += 1


def _look_up(attention: Attention, places: _Places, beta: float) -> None:
    """Layer 2 writes O: what came after the last n tokens, the mean over all places where they stood before.

    The query is the last n tokens, G_0 … G_{n-1}, the key the n tokens before the place's own, G_1 … G_n. Equal bits
    add 1 to the score and others take 1 away, so a match has the largest score possible, and another key loses 2 for a
    bit, or m ≥ 2 for a token that it lacks. A boundary adds m like a token (the flag of the query is c² = m), so that
    it, too, is missed by 2 or more.

    At ``<copy>`` the first token is asked for. Where the end is predicted, the query still has the tokens before
    ``<copy>``, worth up to (n - 1)·m: its own flag counts for 2 more than they, so that keys that have a boundary next
    to them win, whatever follows. (All that such a key has further back is erased.)

    Attention divides scores by √dk, which is undone: query and key have half of the factor β·√dk each, so that neither
    is too large for float16.
    """
    n, m, e = places.n, places.m, places.e
    half = math.sqrt(beta * math.sqrt(attention.head_dim))
    code = half * torch.eye(e, dtype=attention.query.weight.dtype)
    for k in range(n):
        rows = slice(k * e, (k + 1) * e)
        flag = (n - 1) * m + 2 if k == 0 and places.ends else m
        attention.query.weight[rows, places.back(k)] = code
        attention.query.weight[k * e + places.flag, places.back(k).start + places.flag] *= flag
        attention.key.weight[rows, places.back(k + 1)] = code
    for row, source in enumerate(places.value):
        attention.value.weight[row, source] = 1
        attention.out.weight[places.out.start + row, row] = 1


def _say(model: LanguageModel, places: _Places) -> None:
    """Logits: the correlation of each token's code with O.

    Where the successor is certain, its own correlation is m, and any other's m - 2 or less: for ``<eos>``, whose code
    is m at the mark, it is 0. What is never said gets -(m + 1). All is multiplied by κ = ln(vocabulary / DOUBT) / 1.5,
    so that the others have together no more than DOUBT, even if places without a match get ⅛ of the attention.
    """
    d, m, weight, bias = places.d, places.m, model.head.weight, model.head.bias
    scale = math.log((d + 4) / DOUBT) / 1.5
    tokens = weight[:d, places.out]
    if places.named:
        tokens[:, :d].fill_diagonal_(scale * m)
    else:
        tokens[:, :m] = scale * places.code(weight)
    bias[d:] = -scale * (m + 1)
    if places.ends:
        weight[d + 2, places.out.stop - 1] = scale * m
        bias[d + 2] = 0


# --- What is refused ------------------------------------------------------------------------------------


def _check_precision(n: int, m: int, dtype: torch.dtype, *, snapping: bool, force: bool) -> None:
    allowed = limit(dtype)
    # Without snapping, the error of each of the n·m coordinates of a score counts, which grows with n.
    product, what = (n * m, "n·m") if snapping else (n * n * m, "n²·m without snapping")
    if product > allowed and not force:
        raise ValueError(f"{_name(dtype)} is exact up to n·m = {allowed}, and {what} is {product}: it must be forced")


def _check_memory(n: int, d: int, max_len: int, sizes: ConstructionSizes, dtype: torch.dtype) -> None:
    """Weights, once more while they are saved or loaded, and the keys and values of 2L + 2 tokens in layer 2."""
    cache = (2 * max_len + 2) * (sizes.head_dims[1] + sizes.value_dim)
    needed = (2 * sizes.parameters + cache) * dtype.itemsize
    require_memory(needed, f"a transformer of n = {n}, vocab_size = {d} and max_len = {max_len}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
