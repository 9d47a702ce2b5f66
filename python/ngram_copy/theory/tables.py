"""What a bounded, direct-mapped table holds: M = ``slots``, no probing.

K = ``keys`` distinct n-grams come once each and fall into slots independently and uniformly, as a good hash lets
them. Either eviction then leaves one key in each occupied slot.
"""

from __future__ import annotations

import math
from typing import Literal, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from ngram_copy._arguments import integer

Eviction = Literal["keep_first", "overwrite"]


def log_all_distinct(keys: int, slots: int) -> float:
    """Log of the probability that ``keys`` independent uniform draws from ``slots`` differ: the birthday problem."""
    if keys > slots:
        return -math.inf
    return math.fsum(
        float(np.log1p(-np.arange(start, min(start + 2**20, keys)) / slots).sum()) for start in range(0, keys, 2**20)
    )


def _log_slot_empty(slots: int, keys: int) -> float:
    """Log of the probability (1 - 1/M)^K that no key fell into a given slot."""
    if keys == 0:
        return 0.0
    return keys * math.log1p(-1 / slots) if slots > 1 else -math.inf


def bounded_table_bits(slots: SupportsIndex, key_bits: SupportsIndex, value_bits: SupportsIndex) -> int:
    """Bits of state of a bounded table: ``M·(1 + key_bits + value_bits)``; the 1 tells whether a slot is occupied.

    Raises
    ------
    ValueError
        If ``slots`` < 1 or a number of bits is negative.
    """
    width = 1 + integer("key_bits", key_bits, 0) + integer("value_bits", value_bits, 0)
    return integer("slots", slots, 1) * width


def expected_occupied(slots: SupportsIndex, keys: SupportsIndex) -> float:
    """Expected number of occupied slots: ``M·(1 - (1 - 1/M)^K)``.

    Raises
    ------
    ValueError
        If ``slots`` < 1 or ``keys`` < 0.
    """
    m = integer("slots", slots, 1)
    return -m * math.expm1(_log_slot_empty(m, integer("keys", keys, 0)))


def key_survival(slots: SupportsIndex, keys: SupportsIndex, eviction: Eviction) -> NDArray[np.float64]:
    """Probability that each key, in order of insertion, is in the table after all: shape (keys,).

    ``keep_first``: none of the i keys before it took its slot, ``(1 - 1/M)^i``; ``overwrite``: none of the
    K - 1 - i keys after it did, ``(1 - 1/M)^(K-1-i)``.

    Raises
    ------
    ValueError
        If ``slots`` < 1, ``keys`` < 0 or the eviction is unknown.
    """
    m = integer("slots", slots, 1)
    survival = (1 - 1 / m) ** np.arange(integer("keys", keys, 0), dtype=np.float64)
    if eviction not in ("keep_first", "overwrite"):
        raise ValueError(f"eviction must be 'keep_first' or 'overwrite', not {eviction!r}")
    return survival if eviction == "keep_first" else survival[::-1]


def expected_survivors(slots: SupportsIndex, keys: SupportsIndex) -> float:
    """Expected number of keys in the table after all: one in each occupied slot, under either eviction.

    ``keep_first`` and ``overwrite`` differ in which keys survive (``key_survival``), not in how many.

    Raises
    ------
    ValueError
        If ``slots`` < 1 or ``keys`` < 0.
    """
    return expected_occupied(slots, keys)


def expected_collisions(slots: SupportsIndex, keys: SupportsIndex) -> float:
    """Expected number of keys dropped or replaced: ``K - M·(1 - (1 - 1/M)^K)``, under either eviction.

    Raises
    ------
    ValueError
        If ``slots`` < 1 or ``keys`` < 0.
    """
    k = integer("keys", keys, 0)
    return max(0.0, k - expected_occupied(slots, k))


def false_positive_rate(slots: SupportsIndex, keys: SupportsIndex, key_bits: SupportsIndex) -> float:
    """Probability that a table answers for a key that was never inserted.

    ``(1 - (1 - 1/M)^K)·2^-key_bits``: the key's slot is occupied, and the kept bits of another key's hash are
    equal by chance. (Where the whole n-gram fits in ``key_bits`` it is kept instead, and the rate is 0.)

    Raises
    ------
    ValueError
        If ``slots`` < 1, ``keys`` < 0 or ``key_bits`` < 0.
    """
    m = integer("slots", slots, 1)
    occupied = -math.expm1(_log_slot_empty(m, integer("keys", keys, 0)))
    return occupied * 2.0 ** -integer("key_bits", key_bits, 0)


def _luck(vocab_size: SupportsIndex, key_bits: SupportsIndex | None) -> float:
    """Probability that a key that did not survive is answered rightly all the same."""
    d = integer("vocab_size", vocab_size, 1)
    return 0.0 if key_bits is None else 2.0 ** -integer("key_bits", key_bits, 0) / d


def bounded_token_accuracy(
    slots: SupportsIndex,
    keys: SupportsIndex,
    vocab_size: SupportsIndex,
    *,
    key_bits: SupportsIndex | None = None,
) -> float:
    """Expected share of K inserted keys that a bounded table answers rightly.

    ``s + (1 - s)·f`` with s = M(1 - (1 - 1/M)^K)/K: a key that did not survive finds another one in its slot, whose
    kept bits agree with probability 2^-key_bits and whose value is right with probability 1/D: f = 2^-key_bits/D.
    The same under ``keep_first`` and ``overwrite``. Assumes distinct keys and independent uniform values: a string
    without repeated n-grams, teacher-forced, its keys counted from the first token to the end.

    Parameters
    ----------
    slots, keys, vocab_size : int
        M >= 1, K >= 0, D >= 1.
    key_bits : int, optional
        Bits of the key's hash kept for verification, 0: unverified; None (default): whole keys, never mistaken.

    Returns
    -------
    float
        1 without keys.

    Raises
    ------
    ValueError
        If a parameter is below its least value.
    """
    k = integer("keys", keys, 0)
    survivors = expected_occupied(slots, k)
    luck = _luck(vocab_size, key_bits)
    return (survivors + (k - survivors) * luck) / k if k else 1.0


def bounded_string_accuracy(
    slots: SupportsIndex,
    keys: SupportsIndex,
    vocab_size: SupportsIndex,
    *,
    key_bits: SupportsIndex | None = None,
) -> float:
    """Probability that a bounded table answers all K inserted keys rightly.

    Whole keys: all fall into slots of their own, ``Π_{i<K} (1 - i/M)`` (birthday problem). Otherwise
    ``E[f^(K - occupied)]`` with f = 2^-key_bits/D, as each further key in a slot agrees with the one kept
    independently: summed over the number of occupied slots, to which key after key is added. Assumptions and
    parameters as in ``bounded_token_accuracy``.

    Raises
    ------
    ValueError
        If a parameter is below its least value, or ``keys`` > 20,000 with ``key_bits`` (time grows as its square).
    """
    m = integer("slots", slots, 1)
    k = integer("keys", keys, 0)
    luck = _luck(vocab_size, key_bits)
    if luck == 0:
        return math.exp(log_all_distinct(k, m))
    if k > 20_000:
        raise ValueError(f"keys must be at most 20000 where keys may be mistaken, not {k}")
    filled = np.arange(min(k, m) + 1) / m
    weights = np.zeros_like(filled)
    weights[0] = 1.0
    for _ in range(k):
        moved = weights[:-1] * (1 - filled[:-1])
        weights *= filled * luck
        weights[1:] += moved
    return float(min(1.0, weights.sum()))
