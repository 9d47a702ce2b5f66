"""What an engine is: something that answers batches, knows no task, and can be cut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy.tasks.base import BLANK, Batch, VocabularySpec


@dataclass(frozen=True)
class Prediction:
    """Teacher-forced answers of an engine to a batch.

    Attributes
    ----------
    tokens : ndarray of int64, shape (batch, answer_len)
        The most likely token at each position of the answer given the true tokens before it; -1: none.
        Columns beyond an answer's end are -1, and those that are not scored.
    log2_q : ndarray of float64, shape (batch, answer_len), or None
        log2 probability given to the true token (0 where none is scored); None for engines that emit hard tokens.
    sources : ndarray of int64, shape (batch, answer_len), or None
        Position in the sequence that each token was copied from, -1: none; None for engines that do not copy by
        position.
    """

    tokens: NDArray[np.int64]
    log2_q: NDArray[np.float64] | None = None
    sources: NDArray[np.int64] | None = None


class Engine(ABC):
    """Answers batches; made as ``ENGINES[name](vocab, **options)``.

    Subclasses take ``vocab`` first and their options (JSON values) as keywords.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    one_thread: ClassVar[bool] = False
    """Whether its numbers depend on how many threads there are: a run gives it one."""

    vocab: VocabularySpec

    @abstractmethod
    def predict(self, batch: Batch, *, threads: int = 1) -> Prediction:
        """Answer a batch teacher-forced."""

    @abstractmethod
    def cut(self, prompts: Sequence[NDArray[np.uint32]]) -> list[bytes]:
        """The whole state after each prompt, as bytes that another process can go on from."""

    @abstractmethod
    def resume(
        self,
        states: Sequence[bytes],
        max_new_tokens: int,
        queries: Sequence[NDArray[np.uint32]] | None = None,
    ) -> list[NDArray[np.int64]]:
        """Feed each query to its state, then emit freely up to ``max_new_tokens`` tokens or ``eos``.

        Raises
        ------
        ngram_copy.StateError
            If a state is damaged, of another version or of another engine.
        """

    def generate(self, batch: Batch, max_new_tokens: int) -> list[NDArray[np.int64]]:
        """Answer a batch freely: ``cut``, then ``resume``; see ``answer``."""
        return self.answer(self.cut(batch.prompts()), batch, max_new_tokens)

    def answer(self, states: Sequence[bytes], batch: Batch, max_new_tokens: int) -> list[NDArray[np.int64]]:
        """Answer a batch freely from its states at the cut.

        Where a batch says what is scored, the other tokens are fed as they come, and each token that is scored is
        emitted from the state at the cut, the revealed tokens, and the engine's own tokens before it.

        Returns
        -------
        list of ndarray of int64
            The emitted tokens of each example; only those that are scored, up to the first that is missing or ``eos``.
        """
        if batch.scored is None:
            return self.resume(states, max_new_tokens, batch.queries())
        fed = batch.queries()
        blanks = [np.flatnonzero(query == BLANK)[:max_new_tokens] for query in fed]
        emitted: list[list[int]] = [[] for _ in fed]
        for turn in range(max(map(len, blanks), default=0)):
            # Whoever has filled all blanks before this one.
            rows = [row for row, places in enumerate(blanks) if turn < len(places) and turn == len(emitted[row])]
            known = [fed[row][: blanks[row][turn]] for row in rows]
            for row, out in zip(rows, self.resume([states[row] for row in rows], 1, known), strict=True):
                if len(out) and 0 <= out[0] != self.vocab.eos:
                    emitted[row].append(int(out[0]))
                    fed[row][blanks[row][turn]] = out[0]
        return [np.array(tokens, dtype=np.int64) for tokens in emitted]

    @abstractmethod
    def state_bits(self, prompts: Sequence[NDArray[np.uint32]]) -> NDArray[np.float64]:
        """log2 of the number of states that the engine can be in after prompts of these lengths, shape (batch,).

        Lengths, positions, seeds and options are free: they do not depend on the tokens.
        """

    def provenance(self) -> dict[str, Any]:
        """What else determines the answers, such as the hash of weights; part of every record."""
        return {}

    def quantised(self, bits: int, prompts: Sequence[NDArray[np.uint32]]) -> Engine | None:
        """An engine whose state is rounded once, at the cut; None where a state is not made of numbers.

        Parameters
        ----------
        bits : int
            Of each number, 1 … 16.
        prompts : sequence of ndarray
            Of one length, other than those that will be answered: what the rounding is fitted on.
        """
        return None

    def diagnostics(self, batch: Batch, prediction: Prediction) -> dict[str, int]:
        """Count what explains the answers (slots, occupied, collisions, repeats); the counts add up over batches."""
        return {}


def rows_by(values: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.intp], int]]:
    """Rows of each distinct value."""
    for value in np.unique(values):
        yield np.flatnonzero(values == value), int(value)
