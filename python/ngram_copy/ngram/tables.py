"""Tables n-gram → next token."""

from __future__ import annotations

from typing import Literal, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ngram_copy import _rust
from ngram_copy._arguments import MAX_N, SEED_LIMIT, as_tokens, integer

Policy = Literal["first", "last", "most_frequent", "positions"]
Eviction = Literal["keep_first", "overwrite"]

MAX_SLOTS = 2**32
"""The most slots of a bounded table."""


class NgramTable:
    """Map from the n-grams of a text to their next tokens, by open addressing.

    ``len(table)`` is the number of distinct n-grams that have a next token. The table owns what it needs: a copy of the
    text as uint32, and 8 bytes for each of its slots, of which at most 0.6 are in use.

    Parameters
    ----------
    x : array of integers, shape (seq_len,)
        The text, 0 … 2^32 - 1, at least n and at most 2^32 - 2 tokens.
    n : int
        Length of the n-grams, 1 … 2^16.
    policy : {"first", "last", "most_frequent", "positions"}
        Which next token is given for an n-gram that occurs more than once: that of its first or last occurrence, or
        the most frequent one (of equally frequent ones that which came first). "positions" gives the first, and keeps
        all: 4 more bytes a token.
    verify : bool
        Compare tokens, so that no n-gram is taken for another. Otherwise n-grams are one where 64 bits of hash, less
        those that number the text's positions, are equal.
    seed : int
        Seed of the hash, 0 … 2^64 - 1; no influence on the answers of a verified table.

    Raises
    ------
    TypeError
        If ``x`` does not hold integers.
    ValueError
        If a token or an argument is not allowed, or the text is shorter than n.
    MemoryError
        If the text is too long, or there is no room for the table.
    """

    def __init__(
        self,
        x: ArrayLike,
        n: SupportsIndex = 4,
        *,
        policy: Policy = "first",
        verify: bool = True,
        seed: SupportsIndex = 0,
    ) -> None:
        tokens = as_tokens("x", x, ndim=1)
        self._n = integer("n", n, 1, MAX_N + 1)
        if not isinstance(policy, str):
            raise TypeError(f"policy must be a string, not {policy!r}")
        self._policy: Policy = policy
        self._core = _rust.NgramTable(tokens, self._n, policy, bool(verify), integer("seed", seed, 0, SEED_LIMIT))

    @property
    def n(self) -> int:
        """Length of the n-grams."""
        return self._n

    @property
    def policy(self) -> Policy:
        """Which next token is given."""
        return self._policy

    @property
    def capacity(self) -> int:
        """Number of slots."""
        return self._core.capacity

    @property
    def nbytes(self) -> int:
        """Bytes held: slots, tokens, links between positions and coefficients of the hash."""
        return self._core.nbytes

    def __len__(self) -> int:
        return self._core.distinct

    def __repr__(self) -> str:
        return f"NgramTable(n={self.n}, policy={self.policy!r}, {len(self)} n-grams, {self.nbytes} bytes)"

    def next_token(self, ngram: ArrayLike) -> int | None:
        """Return the next token of an n-gram, an array of n tokens; None where it is not in the table.

        Raises
        ------
        TypeError
            If the tokens are no integers.
        ValueError
            If they are not n, or one is not 0 … 2^32 - 1.
        """
        return self._core.next_token(as_tokens("ngram", ngram, ndim=1))

    def next_tokens(self, ngrams: ArrayLike, missing: SupportsIndex = -1) -> NDArray[np.int64]:
        """Return the next token of each n-gram.

        Parameters
        ----------
        ngrams : array of integers, shape (m, n)
            N-grams.
        missing : int
            What is given for n-grams that are not in the table.

        Returns
        -------
        ndarray of int64, shape (m,)

        Raises
        ------
        TypeError
            If the tokens are no integers.
        ValueError
            If the shape is another, or a token is not 0 … 2^32 - 1.
        """
        tokens = as_tokens("ngrams", ngrams, ndim=2)
        if tokens.shape[1] != self.n:
            raise ValueError(f"ngrams must have the shape (m, {self.n}), not {tokens.shape}")
        out = np.empty(len(tokens), np.int64)
        self._core.next_tokens(tokens, integer("missing", missing, -(2**63), 2**63), out)
        return out

    def source(self, ngram: ArrayLike) -> int | None:
        """Return the position in the text of the token that :meth:`next_token` returns; None where there is none.

        Raises
        ------
        TypeError, ValueError
            As :meth:`next_token`.
        """
        return self._core.source(as_tokens("ngram", ngram, ndim=1))

    def positions(self, ngram: ArrayLike) -> NDArray[np.int64]:
        """Return the positions of the tokens after all occurrences of an n-gram, with policy "positions".

        Returns
        -------
        ndarray of int64, shape (occurrences,)
            Ascending.

        Raises
        ------
        TypeError, ValueError
            As :meth:`next_token`; also if the table has another policy.
        """
        return self._core.positions(as_tokens("ngram", ngram, ndim=1))


class BoundedNgramTable:
    """Map from n-grams to next tokens in M slots of a fixed number of bits.

    An n-gram has one slot. Its key is the n-gram itself where n·value_bits ≤ key_bits, otherwise the low key_bits of
    its hash: without key bits, whatever is in the slot is taken for the answer. The state has
    M·(1 + key_bits + value_bits) bits: for each slot whether it is occupied, its key and its value.

    Parameters
    ----------
    n : int
        Length of the n-grams, 1 … 2^16.
    slots : int
        M, 1 … 2^32.
    key_bits : int
        0 … 64.
    value_bits : int
        Bits of a token, 1 … 32: tokens are below 2^value_bits.
    eviction : {"keep_first", "overwrite"}
        What is kept where an n-gram finds its slot occupied: what is there (the first n-gram, and of its next tokens
        the first), or what comes (the last n-gram and next token).
    seed : int
        Seed of the hash, 0 … 2^64 - 1.

    Raises
    ------
    ValueError
        If an argument is not allowed.
    MemoryError
        If there is no room for the slots.
    """

    def __init__(
        self,
        n: SupportsIndex = 4,
        *,
        slots: SupportsIndex,
        key_bits: SupportsIndex,
        value_bits: SupportsIndex,
        eviction: Eviction = "keep_first",
        seed: SupportsIndex = 0,
    ) -> None:
        if not isinstance(eviction, str):
            raise TypeError(f"eviction must be a string, not {eviction!r}")
        self._core = _rust.BoundedNgramTable(
            integer("n", n, 1, MAX_N + 1),
            integer("slots", slots, 1, MAX_SLOTS + 1),
            integer("key_bits", key_bits, 0, 65),
            integer("value_bits", value_bits, 1, 33),
            eviction,
            integer("seed", seed, 0, SEED_LIMIT),
        )

    @classmethod
    def from_bytes(cls, state: bytes) -> BoundedNgramTable:
        """Return the table of :meth:`to_bytes`; its count of collisions starts at 0.

        Raises
        ------
        ngram_copy.StateError
            If the state is damaged, truncated, of another version or kind.
        """
        table = cls.__new__(cls)
        table._core = _rust.BoundedNgramTable.from_bytes(bytes(state))
        return table

    def to_bytes(self) -> bytes:
        """Return the table as bytes: a header with its arguments, which are free, and the bits of its state."""
        return self._core.to_bytes()

    @property
    def n(self) -> int:
        """Length of the n-grams."""
        return self._core.options[0]

    @property
    def slots(self) -> int:
        """M, the number of slots."""
        return self._core.options[1]

    @property
    def key_bits(self) -> int:
        """Bits of a key."""
        return self._core.options[2]

    @property
    def value_bits(self) -> int:
        """Bits of a value."""
        return self._core.options[3]

    @property
    def eviction(self) -> str:
        """What is kept where an n-gram finds its slot occupied."""
        return self._core.options[4]

    @property
    def seed(self) -> int:
        """Seed of the hash."""
        return self._core.options[5]

    @property
    def state_bits(self) -> int:
        """M·(1 + key_bits + value_bits)."""
        return self._core.state_bits

    @property
    def occupied(self) -> int:
        """Slots in use."""
        return self._core.counts[0]

    @property
    def collisions(self) -> int:
        """Insertions so far that found another key in their slot, as far as keys tell; not part of the state."""
        return self._core.counts[1]

    def __repr__(self) -> str:
        return f"BoundedNgramTable(n={self.n}, {self.occupied} of {self.slots} slots, {self.state_bits} bits)"

    def insert(self, x: ArrayLike) -> None:
        """Insert every n-gram of a text that has a next token, in order.

        Parameters
        ----------
        x : array of integers, shape (seq_len,)
            Tokens, 0 … 2^value_bits - 1.

        Raises
        ------
        TypeError
            If ``x`` does not hold integers.
        ValueError
            If a token is out of range; nothing is inserted then.
        """
        self._core.insert(as_tokens("x", x, ndim=1))

    def next_token(self, ngram: ArrayLike) -> int | None:
        """Return the next token of an n-gram, an array of n tokens; None where its slot does not have its key.

        Raises
        ------
        TypeError
            If the tokens are no integers.
        ValueError
            If they are not n, or one is not 0 … 2^32 - 1.
        """
        return self._core.next_token(as_tokens("ngram", ngram, ndim=1))
