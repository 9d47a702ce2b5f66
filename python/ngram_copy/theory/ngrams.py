"""What an n-gram copier can copy: it fails where an n-gram of the string repeats.

p_ngram(L) is the probability that two of the L - n + 1 n-grams of a string are equal; D = ``vocab_size``. Where the
end of the string is predicted too, it is the copier's error, for any source: a repeat, followed to the right, ends in
two different successors, or in one successor and the end.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from functools import lru_cache
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ngram_copy._arguments import SIZE_LIMIT, integer, real
from ngram_copy.theory.significance import Estimate, wilson_interval
from ngram_copy.theory.tables import log_all_distinct


def _windows(seq_len: SupportsIndex, n: SupportsIndex) -> int:
    return max(0, integer("seq_len", seq_len, 0, SIZE_LIMIT) - integer("n", n, 1) + 1)


@lru_cache(maxsize=64)
def _distinct_strings(n: int, vocab_size: int, max_work: int) -> tuple[int, ...]:
    """Numbers of strings with 0, 1, 2, … n-grams, all distinct, for as many as ``max_work`` steps reach.

    A dynamic program over (set of n-grams used, last n - 1 tokens). Tokens are numbered as they first appear, so
    a new one stands for (D - tokens seen) choices: the cost hardly depends on D.
    """
    prefix_codes = vocab_size ** (n - 1)
    # (n-grams used, code of the last n - 1 tokens, tokens seen so far) -> number of strings
    layer: dict[tuple[frozenset[int], int, int], int] = {(frozenset(), 0, 0): 1}
    counts: list[int] = []
    work = 0
    for length in range(1, vocab_size**n + n):
        if length >= n:
            counts.append(sum(layer.values()))
        following: dict[tuple[frozenset[int], int, int], int] = {}
        for (used, last, seen), ways in layer.items():
            work += seen + 1
            if work > max_work:
                return tuple(counts)
            for token in range(min(seen + 1, vocab_size)):
                code = last * vocab_size + token
                if length >= n and code in used:
                    continue
                now = used | {code} if length >= n else used
                key = (now, code % prefix_codes, max(seen, token + 1))
                choices = vocab_size - seen if token == seen else 1
                following[key] = following.get(key, 0) + ways * choices
        layer = following
    return (*counts, sum(layer.values()))


def _out_of_reach(seq_len: int, n: int, vocab_size: int, max_work: int) -> bool:
    """Whether ``_distinct_strings`` surely takes more than ``max_work`` steps to strings of ``seq_len`` tokens.

    It goes over each of its states once, and these are at least as many as

    - beginnings of n - 1 tokens: 2^(n - 2), even of two kinds;
    - strings in which each old token stands between two that are new. None repeats an n-gram, and no two have the
      same set of n-grams: a pair (c, a) with a <= c says that the old token a follows c.
    """
    if n - 2 > max_work.bit_length():
        return True
    ends_new, ends_old = {1: 1}, {0: 0}  # tokens seen so far -> strings
    for _ in range(2, seq_len):
        states = sum(ends_new.values()) + sum(ends_old.values())
        if not states or states > max_work:
            return states > max_work
        seen = ends_new.keys() | ends_old.keys()
        following = {m + 1: ends_new.get(m, 0) + ends_old.get(m, 0) for m in seen if m < vocab_size}
        ends_new, ends_old = following, {m: ways * m for m, ways in ends_new.items()}
    return False


def p_ngram(
    seq_len: SupportsIndex, n: SupportsIndex, vocab_size: SupportsIndex, *, max_work: SupportsIndex = 200_000
) -> float | None:
    """Probability that some n-gram of a uniform string repeats, exactly; None where that is out of reach.

    The error of the n-gram copier that predicts the end too. For n = 1 it is the birthday problem,
    ``1 - Π_{i<L} (1 - i/D)``; for n > 1 strings without a repeat are counted by a dynamic program over the sets of
    n-grams used, in whole numbers. More n-grams than D^n must repeat.

    Parameters
    ----------
    seq_len, n, vocab_size : int
        L >= 0, n >= 1, D >= 1.
    max_work : int
        Steps of the dynamic program (200,000 take a third of a second, once for all lengths of an n and D).

    Returns
    -------
    float or None
        Correctly rounded for n > 1, to about 1e-12 relative for n = 1.

    Raises
    ------
    ValueError
        If a parameter is below its least value.
    """
    windows = _windows(seq_len, n)
    n = operator.index(n)
    d = integer("vocab_size", vocab_size, 1)
    max_work = integer("max_work", max_work, 0)
    if windows <= 1:
        return 0.0
    if n * math.log2(d) < 64 and windows > d**n:
        return 1.0
    if n == 1:
        return -math.expm1(log_all_distinct(windows, d))
    if _out_of_reach(operator.index(seq_len), n, d, max_work):
        return None
    counts = _distinct_strings(n, d, max_work)
    if windows >= len(counts):
        return None
    strings: int = d ** operator.index(seq_len)
    return (strings - counts[windows]) / strings


def p_ngram_union_bound(
    seq_len: SupportsIndex,
    n: SupportsIndex,
    vocab_size: SupportsIndex | None = None,
    *,
    probabilities: ArrayLike | None = None,
) -> float:
    """Upper bound of p_ngram for i.i.d. tokens: the expected number of equal pairs, at most 1.

    Uniform tokens: ``C(L - n + 1, 2)·D^-n``: two n-grams are equal with probability D^-n whether they overlap or
    not. In general, with S_k = Σ_a p_a^k, n-grams at distance d are equal exactly if x_t = x_{t+d} for n successive
    t: of the n + d tokens, those at the same place modulo d must be equal. These are d classes, r = (n + d) mod d
    of them with q + 1 members, the others with q = floor((n + d)/d), hence

    ``P(equal at distance d) = S_{q+1}^r · S_q^(d-r)``, which is S_2^n for d >= n and larger below, and the bound is
    ``Σ_d (L - n + 1 - d)·P(equal at distance d)``.

    Parameters
    ----------
    seq_len, n : int
        L >= 0, n >= 1.
    vocab_size : int, optional
        D >= 1 for uniform tokens; one of this and ``probabilities`` is given.
    probabilities : array_like of float, shape (vocab_size,), optional
        Of the tokens.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or not exactly one of the last two is given.
    """
    windows = _windows(seq_len, n)
    n = operator.index(n)
    if (vocab_size is None) == (probabilities is None):
        raise ValueError("give either vocab_size (uniform tokens) or probabilities")
    if probabilities is None:
        d = integer("vocab_size", 1 if vocab_size is None else vocab_size, 1)
        return float(min(1.0, math.comb(windows, 2) * 2.0 ** (-n * math.log2(d))))
    p = _distribution(probabilities)
    logs = np.log(p[p > 0])

    def log_power_sum(k: int) -> float:
        return math.log(float(np.exp(k * (logs - logs.max())).sum())) + k * float(logs.max())

    near = min(n, windows)  # distances 1 … near - 1 overlap
    expected = math.comb(windows - near + 1, 2) * math.exp(n * log_power_sum(2))
    for distance in range(1, near):
        q, r = divmod(n + distance, distance)
        log_equal = r * log_power_sum(q + 1) + (distance - r) * log_power_sum(q)
        expected += (windows - distance) * math.exp(log_equal)
    return min(1.0, expected)


def p_ngram_poisson(seq_len: SupportsIndex, n: SupportsIndex, vocab_size: SupportsIndex) -> float:
    """Approximate p_ngram for uniform tokens: ``1 - exp(-λ)``, λ the expected number of clumps of equal pairs.

    Equal pairs come in clumps, as the pair one step on is equal with probability 1/D again. A clump starts at a pair
    (i, j) that is equal while (i - 1, j - 1) is not, or where i is the first n-gram, so with N = L - n + 1 n-grams
    ``λ = D^-n·[(N - 1) + C(N - 1, 2)·(1 - 1/D)]``. Each repeat lies in a clump: λ itself is an upper bound, below
    the union bound; its exponential form is asymptotic. (Where the exact values can be had it
    differs from them by at most 0.20 at D = 2, n = 2, 0.08 at D = 2, n = 4, 0.05 at D = 2, n = 5 and 0.01 at D = 4,
    n = 3.)

    Raises
    ------
    ValueError
        If ``seq_len`` < 0, ``n`` < 1 or ``vocab_size`` < 1.
    """
    windows = _windows(seq_len, n)
    d = integer("vocab_size", vocab_size, 1)
    if windows <= 1:
        return 0.0
    log_pair = -operator.index(n) * math.log(d)
    if math.log(windows) > -log_pair:  # more n-grams than there are
        return 1.0
    return -math.expm1(-((windows - 1) + math.comb(windows - 1, 2) * (1 - 1 / d)) * math.exp(log_pair))


def p_ngram_monte_carlo(
    seq_len: SupportsIndex,
    n: SupportsIndex,
    vocab_size: SupportsIndex | None = None,
    *,
    samples: SupportsIndex,
    rng: np.random.Generator,
    probabilities: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """p_ngram of i.i.d. tokens from a sample of strings, with Wilson's interval.

    Parameters
    ----------
    seq_len, n : int
        L >= 0, n >= 1.
    vocab_size : int, optional
        D >= 1 for uniform tokens; one of this and ``probabilities`` is given.
    samples : int
        Strings to draw, >= 1.
    rng : numpy.random.Generator
        Where they come from.
    probabilities : array_like of float, shape (vocab_size,), optional
        Of the tokens.
    confidence : float
        Of the interval.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or not exactly one of ``vocab_size`` and ``probabilities`` is given.
    """
    windows = _windows(seq_len, n)
    length, n = operator.index(seq_len), operator.index(n)
    samples = integer("samples", samples, 1)
    if (vocab_size is None) == (probabilities is None):
        raise ValueError("give either vocab_size (uniform tokens) or probabilities")
    p = None if probabilities is None else _distribution(probabilities)
    d = len(p) if p is not None else integer("vocab_size", vocab_size or 0, 1)
    repeats = 0
    rows = max(1, 2**20 // max(1, length))
    for start in range(0, samples, rows):
        shape = (min(rows, samples - start), length)
        x = rng.integers(0, d, shape) if p is None else rng.choice(d, size=shape, p=p)
        if windows > 1:
            codes = np.sort(_ngram_codes(x, n), axis=1)
            repeats += int(np.any(codes[:, 1:] == codes[:, :-1], axis=1).sum())
    return Estimate(repeats / samples, *wilson_interval(repeats, samples, confidence))


def _ngram_codes(x: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Give each n-gram of the rows a number, equal exactly for equal n-grams."""
    windows = x.shape[1] - n + 1
    d = int(x.max()) + 1
    codes, size = x[:, :windows].astype(np.int64), d
    for offset in range(1, n):
        if size * d >= 2**63:  # number them anew, densely
            values, inverse = np.unique(codes, return_inverse=True)
            codes, size = inverse.reshape(codes.shape), len(values)
        codes, size = codes * d + x[:, offset : offset + windows], size * d
    return codes


def median_length(n: SupportsIndex, vocab_size: SupportsIndex) -> float:
    """Length of uniform strings at which the n-gram copier fails half the time, asymptotically.

    ``L½ = sqrt(2·ln 2·D^n / (1 - 1/D)) + n``: ``p_ngram_poisson`` solved for ½. log2(L½ - n) grows by ½·log2 D with
    each token of n: exponential in n, that is in the heads of the two-layer construction. Below D^n = 1000 prefer
    ``p_ngram``.

    Raises
    ------
    ValueError
        If ``n`` < 1 or ``vocab_size`` < 2.
    """
    n = integer("n", n, 1)
    d = integer("vocab_size", vocab_size, 2)
    exponent = (math.log2(2 * math.log(2) / (1 - 1 / d)) + n * math.log2(d)) / 2
    return 2.0**exponent + n if exponent < 1024 else math.inf


def required_n(seq_len: SupportsIndex, vocab_size: SupportsIndex, error: float) -> int:
    """Smallest n whose union bound guarantees ``p_ngram(L) <= error`` for uniform strings.

    About ``log_D(L² / (2·error))``; a smaller n may do, as the bound is not tight. An error of 0 takes n = L.

    Raises
    ------
    ValueError
        If ``seq_len`` < 0, ``vocab_size`` < 1 or ``error`` is outside of [0, 1].
    """
    length = integer("seq_len", seq_len, 0, SIZE_LIMIT)
    d = integer("vocab_size", vocab_size, 1)
    error = real("error", error, 0, 1)
    low, high = 1, max(1, length)  # no pair at n = L; the bound falls with n
    allowed = math.log2(error) if error else -math.inf
    while low < high:
        middle = (low + high) // 2
        # As logarithms: the bound itself underflows.
        pairs = math.comb(length - middle + 1, 2)
        if not pairs or error == 1 or math.log2(pairs) - middle * math.log2(d) <= allowed:
            high = middle
        else:
            low = middle + 1
    return low


@dataclass(frozen=True)
class ConstructionSizes:
    """Sizes of the two-layer transformer that implements the n-gram copy algorithm.

    Attributes
    ----------
    heads : tuple of int
        Attention heads of the two layers.
    token_bits : int
        m, coordinates that hold a token as ±1.
    d_model, d_mlp : int
        Width, and hidden units of the first layer's MLP (the second has none).
    head_dims : tuple of int
        Size of a value of layer 1, and of a query and key of layer 2.
    value_dim : int
        Size of a value of layer 2.
    parameters : int
        Entries of all its matrices and biases, zeros too.
    """

    heads: tuple[int, int]
    token_bits: int
    d_model: int
    d_mlp: int
    head_dims: tuple[int, int]
    value_dim: int
    parameters: int


def construction_sizes(
    n: SupportsIndex,
    vocab_size: SupportsIndex,
    *,
    value: str = "bits",
    end_of_string: bool = True,
    snapping: bool = True,
) -> ConstructionSizes:
    """Sizes of a constructed two-layer transformer whose copying error is at most p_ngram(L).

    With m = max(2, ⌈log2 D⌉) bits a token and e = m + 1 (a flag tells boundaries): n heads of Hard-ALiBi and one
    head without positions; ``d_model = e·(2n + 1) + m``, where the end of the string is predicted 2 more, and with
    one-hot values 2D - m more; ``d_mlp = n·(2m + 1)``, with ``snapping`` (rounding for low precision) twice as many.
    All grow as n·log D, the length that is copied as D^(n/2): exponentially in the heads.

    Raises
    ------
    ValueError
        If ``n`` < 1, ``vocab_size`` < 1 or ``value`` is neither "bits" nor "one-hot".
    """
    n = integer("n", n, 1)
    d = integer("vocab_size", vocab_size, 1)
    if value not in {"bits", "one-hot"}:
        raise ValueError(f"value must be one of bits, one-hot, not {value!r}")
    m = max(2, (d - 1).bit_length())
    e = m + 1
    value_dim = (m if value == "bits" else d) + end_of_string
    d_model = e * (2 * n + 1) + end_of_string + (0 if value == "bits" else d) + value_dim
    d_mlp = n * (2 * m + 1) * (2 if snapping else 1)
    tokens = d + 4
    embedding_and_head = 2 * tokens * d_model + tokens
    averages = 2 * n * (1 + e) * d_model
    mlp = 2 * d_mlp * d_model + d_mlp + d_model
    look_up = 2 * (n * e + value_dim) * d_model
    parameters = embedding_and_head + averages + mlp + look_up
    return ConstructionSizes((n, 1), m, d_model, d_mlp, (e, n * e), value_dim, parameters)


def _distribution(values: ArrayLike) -> NDArray[np.float64]:
    """Return ``values`` as probabilities, shape (vocab_size,), that sum to 1."""
    p = np.asarray(values, dtype=np.float64)
    if p.ndim != 1 or p.size == 0:
        raise ValueError(f"probabilities must be one row of numbers, not an array of shape {p.shape}")
    total = float(p.sum())
    if not (p.min() >= 0 and abs(total - 1) <= 1e-6):
        raise ValueError(f"probabilities must be >= 0 and sum to 1; the least is {p.min()}, their sum {total}")
    normalised: NDArray[np.float64] = p / total
    return normalised
