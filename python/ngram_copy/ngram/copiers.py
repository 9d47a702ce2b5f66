"""Copiers: machines that answer with what they remember of a prompt.

What a copier keeps of a prompt at the *cut* can be taken as bytes (:meth:`Copier.cut`) and gone on from in another
process (:meth:`Copier.resume`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ngram_copy import _rust
from ngram_copy._arguments import MAX_N, MAX_TOKEN, SEED_LIMIT, as_uint32, integer


class _Core(Protocol):
    def predict(
        self,
        tokens: NDArray[np.uint32],
        lengths: NDArray[np.int64] | None,
        start: int,
        threads: int,
        out: tuple[NDArray[np.int64], NDArray[np.int64]],
    ) -> None: ...
    def complete(self, prompt: NDArray[np.uint32], max_new_tokens: int) -> NDArray[np.int64]: ...
    def cut(self, prompt: NDArray[np.uint32]) -> bytes: ...
    def resume(self, state: bytes, max_new_tokens: int, query: NDArray[np.uint32]) -> NDArray[np.int64]: ...


class Copier:
    """What all copiers can do; made as one of its subclasses."""

    _core: _Core

    def predict(
        self, tokens: ArrayLike, *, lengths: ArrayLike | None = None, start: int = 0, threads: int = 1
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Answer a batch teacher-forced: column j predicts token ``start + j`` from ``tokens[:, :start + j]``.

        Parameters
        ----------
        tokens : array of integers, shape (batch, seq_len)
            Prompts (the first ``start`` tokens) and what follows them.
        lengths : array of integers, shape (batch,), optional
            Tokens in use of each row; those after are not looked at.
        start : int
            The cut, 0 … seq_len.
        threads : int
            At least 1; no influence on the result.

        Returns
        -------
        predicted : ndarray of int64, shape (batch, seq_len - start)
            -1: none.
        sources : ndarray of int64, shape (batch, seq_len - start)
            Position in the row that each token was copied from, -1: none.

        Raises
        ------
        ValueError
            If an argument is out of its range; the text says which.
        TypeError
            If tokens are not integers.
        """
        tokens = as_uint32("tokens", tokens, ndim=2)
        start = integer("start", start, 0, tokens.shape[1] + 1)
        if lengths is not None:
            lengths = as_uint32("lengths", lengths, ndim=1).astype(np.int64)
        shape = len(tokens), tokens.shape[1] - start
        out = np.empty(shape, np.int64), np.empty(shape, np.int64)
        self._core.predict(tokens, lengths, start, integer("threads", threads, 1, 2**16), out)
        return out

    def complete(self, prompt: ArrayLike, max_new_tokens: int) -> NDArray[np.int64]:
        """Go on after a prompt.

        Parameters
        ----------
        prompt : array of integers, shape (seq_len,)
        max_new_tokens : int
            0 … 2^32 - 1.

        Returns
        -------
        ndarray of int64, shape (new_tokens,)
            Ends with the end token if there is one, or before what the copier does not know.

        Raises
        ------
        MemoryError
            If there is no room for so many tokens.
        """
        return self._core.complete(as_uint32("prompt", prompt, ndim=1), _count(max_new_tokens))

    def cut(self, prompt: ArrayLike) -> bytes:
        """Return all that is kept of a prompt, as bytes that :meth:`resume` goes on from in any process.

        Parameters
        ----------
        prompt : array of integers, shape (seq_len,)
        """
        return self._core.cut(as_uint32("prompt", prompt, ndim=1))

    def resume(self, state: bytes, max_new_tokens: int, query: ArrayLike = ()) -> NDArray[np.int64]:
        """Go on from a state.

        Parameters
        ----------
        state : bytes
            From :meth:`cut` of a copier with the same options.
        max_new_tokens : int
            0 … 2^32 - 1.
        query : array of integers, shape (query_len,)
            Tokens that are revealed now and come before the answer.

        Returns
        -------
        ndarray of int64, shape (new_tokens,)
            As in :meth:`complete`.

        Raises
        ------
        ngram_copy.StateError
            If the state is damaged, of another version, or of a copier of another kind or shape.
        """
        if not isinstance(state, bytes | bytearray | memoryview):
            raise TypeError(f"state must be bytes, not {type(state).__name__}")
        return self._core.resume(bytes(state), _count(max_new_tokens), as_uint32("query", query, ndim=1))


class NgramCopier(Copier):
    """The n-gram copy algorithm: look up the last n tokens, and say what followed them.

    What is looked up is the *key*: the last n tokens, where everything at and before the nearest boundary counts as
    boundary. Right after a boundary the key is therefore that of the beginning, and the first n tokens come out right.
    Where the end is predicted too, a copy succeeds exactly when no n-gram of the string repeats (THEORY, section 2).
    The whole text is kept, 8 bytes a token and at most 27 for the index.

    Parameters
    ----------
    n : int
        Tokens of the key, 1 … 65536.
    policy : {"first", "last", "most_frequent"}
        Which of several occurrences is followed; of equally frequent tokens that which came first.
    on_miss : {"stop", "repeat"} or int
        What to say where the key has not been seen: nothing, the last token again, or a fixed token.
    include_generated : bool
        Whether what comes after the cut is looked up, too.
    boundaries : iterable of int
        Tokens that nothing is copied across, such as ``<bos>`` and ``<copy>``.
    end : int, optional
        The token to say where a boundary followed; without it ends are not predicted.
    seed : int
        Of the hash; no influence on the answers.

    Examples
    --------
    >>> NgramCopier(n=2).complete([1, 2, 3, 4, 1, 2], max_new_tokens=3).tolist()
    [3, 4, 1]
    """

    def __init__(
        self,
        n: int = 4,
        *,
        policy: str = "first",
        on_miss: str | int = "stop",
        include_generated: bool = True,
        boundaries: Iterable[int] = (),
        end: int | None = None,
        seed: int = 0,
    ) -> None:
        n = integer("n", n, 1, MAX_N + 1)
        seed = integer("seed", seed, 0, SEED_LIMIT)
        marks = _marks(boundaries, end)
        self._core = _rust.NgramCopier(n, policy, _miss(on_miss), bool(include_generated), marks, seed)


class BoundedNgramCopier(Copier):
    """The n-gram copy algorithm over a table of a fixed number of bits: all that it keeps of the prompt.

    A key has one slot where it can be; a slot is an occupied flag, a key and a token. What comes after the cut is not
    learned, and the cut counts as a boundary: what was before it is known through the table alone.

    Parameters
    ----------
    n : int
        Tokens of the key, 1 … 65536.
    slots : int
        M, 1 … 2^32.
    key_bits : int
        0 … 64: bits of the key by which it is recognised; exact where n · value_bits fit, and 0: not verified.
    value_bits : int
        1 … 32; tokens, boundaries and the end must be below 2^value_bits.
    eviction : {"keep_first", "overwrite"}
        Which of two keys for one slot stays.
    on_miss, boundaries, end, seed
        As in :class:`NgramCopier`; the seed decides which keys share a slot.
    """

    _core: _rust.BoundedNgramCopier

    def __init__(
        self,
        n: int = 4,
        *,
        slots: int,
        key_bits: int,
        value_bits: int,
        eviction: str = "keep_first",
        on_miss: str | int = "stop",
        boundaries: Iterable[int] = (),
        end: int | None = None,
        seed: int = 0,
    ) -> None:
        shape = (
            integer("n", n, 1, MAX_N + 1),
            integer("slots", slots, 1, 2**63),
            integer("key_bits", key_bits, 0, 65),
            integer("value_bits", value_bits, 1, 33),
        )
        seed = integer("seed", seed, 0, SEED_LIMIT)
        marks = _marks(boundaries, end)
        self._core = _rust.BoundedNgramCopier(shape, eviction, _miss(on_miss), marks, seed)

    @property
    def state_bits(self) -> int:
        """M · (1 + key_bits + value_bits)."""
        return self._core.state_bits

    def load(self, prompt: ArrayLike) -> dict[str, int]:
        """Tell how full a prompt makes the table.

        Parameters
        ----------
        prompt : array of integers, shape (seq_len,)

        Returns
        -------
        dict
            ``slots``, those ``occupied``, ``insertions``, and ``collisions``: insertions that found another key in
            their slot. They add up over prompts.
        """
        slots, occupied, insertions, collisions = self._core.load(as_uint32("prompt", prompt, ndim=1))
        return {"slots": slots, "occupied": occupied, "insertions": insertions, "collisions": collisions}


class PrefixMachine(Copier):
    """The machine of r·D^k states that reaches the bound for whole strings (THEORY, section 1).

    It keeps the first k tokens of the string (of the prompt without boundaries) and which of r equal groups of the
    vocabulary the next one is in. It says what it kept, then the first token of the group, then 0, and the end after as
    many tokens as there were: lengths are free.

    Parameters
    ----------
    kept : int
        k, at least 0.
    groups : int
        r, a divisor of ``vocab_size``.
    vocab_size : int
        D, 1 … 2^32; tokens of the string must be below it.
    boundaries : iterable of int
        Tokens that are not part of the string.
    end : int, optional
        The token to say after the string; nothing without it.

    Examples
    --------
    >>> PrefixMachine(kept=2, groups=2, vocab_size=4).complete([3, 2, 3, 1], max_new_tokens=9).tolist()
    [3, 2, 2, 0]
    """

    _core: _rust.PrefixMachine

    def __init__(
        self,
        kept: int,
        groups: int = 1,
        *,
        vocab_size: int,
        boundaries: Iterable[int] = (),
        end: int | None = None,
    ) -> None:
        kept = integer("kept", kept, 0, 2**63)
        groups = integer("groups", groups, 1, 2**32 + 1)
        self._core = _rust.PrefixMachine(kept, groups, _vocab_size(vocab_size), _marks(boundaries, end))

    @classmethod
    def from_state_bits(
        cls, state_bits: float, vocab_size: int, *, boundaries: Iterable[int] = (), end: int | None = None
    ) -> PrefixMachine:
        """Make the largest machine of at most ``state_bits`` bits: first the largest k, then the largest r.

        Parameters
        ----------
        state_bits : float
            b, finite and at least 0; a machine of b + 10^-9 bits is taken for one of b, as logarithms are rounded.
        vocab_size, boundaries, end
            As in the class.
        """
        machine = cls.__new__(cls)
        marks = _marks(boundaries, end)
        machine._core = _rust.PrefixMachine.from_state_bits(float(state_bits), _vocab_size(vocab_size), marks)
        return machine

    @property
    def kept(self) -> int:
        """Tokens kept, k."""
        return self._core.kept

    @property
    def groups(self) -> int:
        """Groups of the next token, r."""
        return self._core.groups

    @property
    def state_bits(self) -> float:
        """log2 of the number of states: k · log2 D + log2 r."""
        return self._core.state_bits


def _count(max_new_tokens: SupportsIndex) -> int:
    return integer("max_new_tokens", max_new_tokens, 0, 2**32)


def _vocab_size(vocab_size: SupportsIndex) -> int:
    return integer("vocab_size", vocab_size, 1, MAX_TOKEN + 2)


def _marks(boundaries: Iterable[int], end: int | None) -> tuple[list[int], int | None]:
    tokens = [integer("boundaries", token, 0, MAX_TOKEN + 1) for token in boundaries]
    return tokens, None if end is None else integer("end", end, 0, MAX_TOKEN + 1)


def _miss(on_miss: str | int) -> str | int:
    return on_miss if isinstance(on_miss, str) else integer("on_miss", on_miss, 0, MAX_TOKEN + 1)
