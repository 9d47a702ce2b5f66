"""What a fixed state can copy: bounds on whole strings, on the bits recalled and on single tokens.

b = ``state_bits`` is log2 of the number of states that are possible at the cut, D = ``vocab_size``, L = ``seq_len``.
"""

from __future__ import annotations

import math
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from ngram_copy._arguments import SIZE_LIMIT, integer, real


def string_bound(state_bits: float, h_min: float) -> float:
    """Largest probability that a whole answer is right: ``min(1, 2^(b - H_min))``.

    From the cut on, what is emitted depends on the state alone, so at most 2^b different answers can come out,
    and each is the right one with probability at most 2^-H_min. True for every update and readout, trained or
    not, randomised or not (then in expectation). It does not say that any machine reaches it for this source
    (for uniform strings one does), and nothing about single tokens.

    Parameters
    ----------
    state_bits : float
        b, log2 of the number of states at the cut, >= 0.
    h_min : float
        Min-entropy in bits of the answer given what is revealed after the cut: no answer is likelier than 2^-h_min.

    Raises
    ------
    ValueError
        If a parameter is negative or not a number.
    """
    excess = real("state_bits", state_bits, 0) - real("h_min", h_min, 0)
    return 1.0 if not excess < 0 else 2.0**excess


def copy_accuracy_bound(*, state_bits: float, seq_len: SupportsIndex, vocab_size: SupportsIndex) -> float:
    """Largest probability to copy a uniform string: ``min(1, 2^(b - L·log2 D))``.

    ``string_bound`` at H_min = L·log2 D. The machine that keeps the first k tokens and guesses the rest reaches it
    at b = k·log2 D. It is false for strings that are not uniform: planted repeats, text, draws without repetition.

    Raises
    ------
    ValueError
        If ``state_bits`` < 0, ``seq_len`` < 0 or ``vocab_size`` < 1.
    """
    return string_bound(
        state_bits, integer("seq_len", seq_len, 0, SIZE_LIMIT) * math.log2(integer("vocab_size", vocab_size, 1))
    )


def bits_recalled_bound(state_bits: float) -> float:
    """Largest mean of the bits recalled, in bits: ``E[B] <= I(X; S) <= b``.

    B(x) = log2 q(x | s) - log2 p(x) for answer x, source p and a model's teacher-forced probabilities q.
    ``E[B] = I(X; S) - E[KL(p(. | s) || q(. | s))]``, for any source. It does not bound B of a single string, but
    ``P(B >= b + t) <= 2^-t``: E[2^B] = sum_x q(x | s(x)) <= sum_s sum_x q(x | s) <= 2^b, and Markov.

    Raises
    ------
    ValueError
        If ``state_bits`` < 0.
    """
    return real("state_bits", state_bits, 0)


def rate_distortion(delta: float, vocab_size: SupportsIndex) -> float:
    """Bits that a uniform token must leave in the state to be wrong with probability delta only.

    ``R_D(δ) = log2 D - h2(δ) - δ·log2(D - 1)`` for δ <= 1 - 1/D, else 0: Shannon's rate-distortion function of a
    uniform source under Hamming distortion (h2: binary entropy).

    Raises
    ------
    ValueError
        If ``delta`` is outside of [0, 1] or ``vocab_size`` < 2.
    """
    d = integer("vocab_size", vocab_size, 2)
    delta = real("delta", delta, 0, 1)
    if delta >= 1 - 1 / d:
        return 0.0
    if delta == 0:
        return math.log2(d)
    entropy = -delta * math.log2(delta) - (1 - delta) * math.log1p(-delta) / math.log(2)
    return max(0.0, math.log2(d) - entropy - delta * math.log2(d - 1))


def tokens_bits(deltas: ArrayLike, vocab_size: SupportsIndex) -> float:
    """Bits of state that errors ``δ_1 … δ_L`` of the single tokens prove: ``Σ R_D(δ_i) <= b``.

    For i.i.d. uniform tokens and one hard guess at each position, teacher-forced or not; δ_i is the probability
    that position i is wrong (an estimate of it carries its noise into the result). It says nothing of other
    sources.

    Parameters
    ----------
    deltas : array_like of float, shape (seq_len,)

    Raises
    ------
    ValueError
        If an error is outside of [0, 1], the rank is not 1, or ``vocab_size`` < 2.
    """
    errors = np.asarray(deltas, dtype=np.float64)
    if errors.ndim != 1:
        raise ValueError(f"deltas must have one dimension, not shape {errors.shape}")
    return math.fsum(rate_distortion(float(delta), vocab_size) for delta in errors)


def token_bound(
    state_bits: float, seq_len: SupportsIndex, vocab_size: SupportsIndex, *, known_tokens: SupportsIndex = 0
) -> float:
    """Largest mean token accuracy of L uniform tokens: ``1 - δ`` with ``R_D(δ) = b/L``.

    R_D is convex, so L·R_D(mean δ_i) <= Σ R_D(δ_i) <= b. The mean loosens it: the machine that keeps the first
    tokens reaches Σ R_D(δ_i) = b, but not this curve (at half the bits of D = 26: 0.52 of the tokens, where the
    curve allows 0.69). Use ``tokens_bits`` where errors are known by position.

    Parameters
    ----------
    state_bits : float
        b >= 0.
    seq_len : int
        L >= 0 uniform tokens.
    vocab_size : int
        D >= 2.
    known_tokens : int
        Further tokens in the mean that need no state, such as the end of the answer.

    Raises
    ------
    ValueError
        If a parameter is out of its range.
    """
    bits = real("state_bits", state_bits, 0)
    length = integer("seq_len", seq_len, 0, SIZE_LIMIT)
    d = integer("vocab_size", vocab_size, 2)
    known = integer("known_tokens", known_tokens, 0)
    if length == 0 or bits >= length * math.log2(d):
        return 1.0
    low, high = 0.0, 1 - 1 / d  # R_D falls from log2 D to 0
    for _ in range(100):
        middle = (low + high) / 2
        if rate_distortion(middle, d) > bits / length:
            low = middle
        else:
            high = middle
    return 1 - low * length / (length + known)


def max_copy_length(state_bits: float, vocab_size: SupportsIndex, error: float = 0.5) -> int:
    """Longest uniform string that the bound lets b bits copy with at most this error.

    The largest L with ``min(1, 2^(b - L·log2 D)) >= 1 - error``: ``floor((b - log2(1 - error)) / log2 D)``, a
    shortfall of a billionth being taken as rounding.

    Raises
    ------
    ValueError
        If ``state_bits`` is negative or infinite, ``vocab_size`` < 2 (one symbol needs no state) or ``error`` is
        outside of [0, 1).
    """
    bits = real("state_bits", state_bits, 0, math.inf, open_high=True)
    d = integer("vocab_size", vocab_size, 2)
    slack = -math.log2(1 - real("error", error, 0, 1, open_high=True))
    return math.floor((bits + slack) / math.log2(d) * (1 + 1e-15) + 1e-9)


def required_state_bits(seq_len: SupportsIndex, vocab_size: SupportsIndex, error: float = 0.5) -> float:
    """Fewest bits of state that the bound allows: ``max(0, L·log2 D + log2(1 - error))``.

    Necessary for an error of at most ``error`` on whole uniform strings. It is sufficient where it is
    k·log2 D + log2 r with r dividing D: the prefix machine.

    Raises
    ------
    ValueError
        If ``seq_len`` < 0, ``vocab_size`` < 1 or ``error`` is outside of [0, 1).
    """
    bits = integer("seq_len", seq_len, 0, SIZE_LIMIT) * math.log2(integer("vocab_size", vocab_size, 1))
    return max(0.0, bits + math.log2(1 - real("error", error, 0, 1, open_high=True)))
