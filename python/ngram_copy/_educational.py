"""The algorithms of this package in a few lines of Python, to be read; what is fast is written in Rust.

Read in order: how an n-gram becomes a number, how a string is copied by looking n-grams up, what the best machine of a
fixed number of states does instead, and how a transformer of two layers looks n-grams up.

>>> list(NgramCopier(n=2).read("banana!").copy("!"))
['b', 'a', 'n', 'a', 'n', 'a', 'n', 'a', 'n']
>>> list(NgramCopier(n=4).read("banana!").copy("!"))
['b', 'a', 'n', 'a', 'n', 'a', '!']
>>> context = [3, 1, 0, 2, 0, 2, 0, 4, 1, 0, 2, 0, 2, 0]  # <bos> b a n a n a <copy> b a n a n a
>>> [int(token) for token in copy_transformer(context, n=4, vocab_size=3).argmax(axis=1)[7:]]
[1, 0, 2, 0, 2, 0, 3]
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BOUNDARY = "<boundary>"
"""What stands before the first token of a string."""


def hash_ngrams(x: Sequence[int], n: int, seed: int = 0) -> NDArray[np.uint64]:
    """Give each n-gram a number of 64 bits: a multilinear hash and a finaliser.

    The sum ``offset + Σ c_j·x_j mod 2^64`` tells n-grams that differ in one token apart for certain, as an odd c_j can
    be divided by. But odd coefficients also pass the parity of the tokens on to the sum's lowest bit, whatever the
    seed, and in general low bits know nothing of higher ones. So the finaliser stirs: the middle of the square of the
    high half goes into the low half, a multiple of the low half into the high one, and both can be undone, so that
    nothing is lost.

    Parameters
    ----------
    x : sequence of int, shape (seq_len,)
        Tokens, 0 … 2^32 - 1.
    n : int
        From 1 to ``seq_len``.
    seed : int
        Chooses the coefficients.

    Returns
    -------
    ndarray of uint64, shape (seq_len - n + 1,)
    """
    random = np.random.default_rng(seed).integers(0, 2**64, n + 1, dtype=np.uint64)
    offset, coefficients = random[0], random[1:] | np.uint64(1)
    tokens = np.asarray(x, dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(tokens, n)
    total = windows @ coefficients + offset  # numpy computes uint64 modulo 2^64
    high, half = total >> np.uint64(32), np.uint64(2**32 - 1)
    low = (total ^ (high * high >> np.uint64(16))) & half
    mixed: NDArray[np.uint64] = (total & ~half) + low * np.uint64(0x9E3779B1)
    return mixed


@dataclass
class NgramCopier:
    """Copy a string by looking up what came after the last n tokens.

    It succeeds exactly where no n-gram of the string repeats, if the string ends in a token of its own. Its memory
    grows with the string.

    Parameters
    ----------
    n : int
        Length of the n-grams, at least 1.
    """

    n: int
    table: dict[tuple[Hashable, ...], Hashable] = field(default_factory=dict)

    def read(self, string: Iterable[Hashable]) -> NgramCopier:
        """Remember for each n-gram the token that came after its first occurrence."""
        key: tuple[Hashable, ...] = (BOUNDARY,) * self.n  # so that the first n tokens have keys, too
        for token in string:
            self.table.setdefault(key, token)
            key = (*key[1:], token)
        return self

    def copy(self, end: Hashable, limit: int = 9) -> Iterator[Hashable]:
        """Emit tokens up to ``end``, or ``limit`` of them: a repeated n-gram can lead in circles."""
        key: tuple[Hashable, ...] = (BOUNDARY,) * self.n
        for _ in range(limit):
            token = self.table[key]  # never missing: what was emitted stood in the string, in this order
            yield token
            if token == end:
                return
            key = (*key[1:], token)


@dataclass(frozen=True)
class PrefixMachine:
    """Copy with ``groups·D^kept`` states, as often as any machine of so many states can.

    Different strings that lead to one state get one answer, so at most one string a state is copied. This machine
    copies one for each: it keeps the first tokens, and of the next one in which of ``groups`` equal groups it is;
    it guesses the group's first member, then zeros.

    Parameters
    ----------
    kept : int
        Tokens kept.
    groups : int
        r, a divisor of D.
    vocab_size : int
        D.
    """

    kept: int
    groups: int
    vocab_size: int

    def read(self, string: Sequence[int]) -> tuple[tuple[int, ...], int]:
        """Return the state: tokens kept and the group of the next (0 where there is none)."""
        following = string[self.kept] if len(string) > self.kept else 0
        return tuple(string[: self.kept]), following * self.groups // self.vocab_size

    def copy(self, state: tuple[tuple[int, ...], int], length: int) -> list[int]:
        """Answer from the state alone, and the length, which is free."""
        kept, group = state
        guess = group * self.vocab_size // self.groups
        return [*kept, guess, *[0] * length][:length]


def copy_transformer(context: Sequence[int], n: int, vocab_size: int, sharpness: float = 16.0) -> NDArray[np.float64]:
    """Say what comes after each token of a context, as the n-gram copier would: two layers of attention do it.

    A token is a row of m bits, each 1 or -1, and a flag that is 0; ``<bos>`` and ``<copy>`` are no bits and a flag 1.

    Layer 1 brings the last n tokens together. Its heads can only average: over the last k + 1 tokens, k = 1 … n. The
    token k steps back is a difference of such means, and the mean of the flags tells how many boundaries lie nearer:
    if there is one, two ReLUs erase the token.

    Layer 2 looks up. Query: the last n tokens. Key: the n tokens before a place. The score of equal ones is larger by
    2·``sharpness`` than any other, so that softmax leaves those places alone. Value: the token that stands there.

    Parameters
    ----------
    context : sequence of int, shape (seq_len,)
        ``<bos> x_1 … x_L <copy> y_1 …`` of data tokens 0 … D - 1, ``<bos>`` being D and ``<copy>`` D + 1.
    n : int
        At least 1.
    vocab_size : int
        D, at least 2.
    sharpness : float
        Beta.

    Returns
    -------
    ndarray of float64, shape (seq_len, D + 1)
        m for what is certain to come, and at most m - 2 for all else; the last column is the end of the string.
    """
    m = max(2, (vocab_size - 1).bit_length())
    codes = 2.0 * (np.arange(vocab_size + 2)[:, None] >> np.arange(m) & 1) - 1
    codes[vocab_size:] = 0
    tokens = np.asarray(context)
    flag, is_copy = (tokens >= vocab_size)[:, None], (tokens == vocab_size + 1)[:, None]
    embedding = np.hstack([codes[tokens], flag])

    # Layer 1: means, the tokens back, and those erased that lie before a boundary.
    place = np.arange(len(tokens))
    back = place[:, None] - place
    means = [embedding]
    for k in range(1, n + 1):
        window = (back >= 0) & (back <= k)
        means.append(window @ embedding / window.sum(axis=1, keepdims=True))
    grams = [embedding]
    for k in range(1, n + 1):
        token = (k + 1) * means[k] - k * means[k - 1]
        nearer = k * means[k - 1][:, m:] - is_copy  # <copy> itself does not count
        grams.append(np.maximum(token - nearer, 0) - np.maximum(-token - nearer, 0))

    # Layer 2: at <copy> whatever follows a boundary is asked for, so its flag weighs more than all the rest.
    weight = np.tile([*[1.0] * m, m], n)
    weight[m] = (n - 1) * m + 2
    scores = sharpness * (np.hstack(grams[:n]) * weight) @ np.hstack(grams[1:]).T
    scores[back < 0] = -np.inf
    attention = np.exp(scores - scores.max(axis=1, keepdims=True))
    attention /= attention.sum(axis=1, keepdims=True)
    found = attention @ np.hstack([codes[tokens], m * is_copy])
    return np.hstack([found[:, :m] @ codes[:vocab_size].T, found[:, m:]])
