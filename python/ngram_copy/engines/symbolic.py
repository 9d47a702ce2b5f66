"""Symbolic engines: the exact n-gram copier, bounded hash tables, the prefix machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ngram_copy.engines.base import Engine, Prediction, rows_by
from ngram_copy.ngram import BoundedNgramCopier, NgramCopier, PrefixMachine
from ngram_copy.tasks.base import Batch, VocabularySpec


class _Copier(Protocol):
    """What the copiers of the core share."""

    def predict(
        self, tokens: NDArray[np.uint32], *, lengths: NDArray[np.int64], start: int, threads: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...

    def cut(self, prompt: NDArray[np.uint32]) -> bytes: ...

    def resume(self, state: bytes, max_new_tokens: int, query: NDArray[np.uint32]) -> NDArray[np.int64]: ...


class _SymbolicEngine(Engine):
    """An engine over a copier of the core.

    What ``<bos>`` and ``<copy>`` are and where the end of an answer is predicted is told to the copier once.
    """

    _copier: _Copier

    def predict(self, batch: Batch, *, threads: int = 1) -> Prediction:
        answers = batch.answers()
        shape = answers.shape
        tokens = np.full(shape, -1, dtype=np.int64)
        sources = np.full(shape, -1, dtype=np.int64)
        for rows, cut in rows_by(batch.cut):
            predicted, copied = self._copier.predict(
                batch.tokens[rows], lengths=batch.lengths[rows], start=cut, threads=threads
            )
            # Columns of the prediction count from the cut, those of an answer from its own beginning.
            skip = (batch.answer[rows] - cut)[:, None]
            columns = skip + np.arange(shape[1])
            inside = answers[rows] >= 0
            columns = np.minimum(columns, predicted.shape[1] - 1)
            tokens[rows] = np.where(inside, np.take_along_axis(predicted, columns, axis=1), -1)
            sources[rows] = np.where(inside, np.take_along_axis(copied, columns, axis=1), -1)
        return Prediction(tokens, sources=sources)

    def cut(self, prompts: Sequence[NDArray[np.uint32]]) -> list[bytes]:
        return [self._copier.cut(prompt) for prompt in prompts]

    def resume(
        self, states: Sequence[bytes], max_new_tokens: int, queries: Sequence[NDArray[np.uint32]] | None = None
    ) -> list[NDArray[np.int64]]:
        if queries is None:
            queries = [np.empty(0, dtype=np.uint32)] * len(states)
        return [self._copier.resume(state, max_new_tokens, query) for state, query in zip(states, queries, strict=True)]


class NgramEngine(_SymbolicEngine):
    """The exact n-gram copier: it keeps the whole text and looks each n-gram up.

    Parameters
    ----------
    n : int
        Length of the n-gram that is looked up.
    policy : {"first", "last", "most_frequent"}
        Which of several occurrences is followed.
    on_miss : {"stop", "repeat"} or int
        What to say where the n-gram has not been seen.
    include_generated : bool
        Whether what was generated is looked up too.
    """

    name: ClassVar[str] = "ngram"
    summary: ClassVar[str] = "exact n-gram copier; keeps the whole text"

    def __init__(
        self,
        vocab: VocabularySpec,
        *,
        n: int = 4,
        policy: str = "first",
        on_miss: str | int = "stop",
        include_generated: bool = True,
    ) -> None:
        self.vocab = vocab
        self.n = n
        self._copier = NgramCopier(
            n=n,
            policy=policy,
            on_miss=on_miss,
            include_generated=include_generated,
            boundaries=vocab.boundaries,
            end=vocab.eos,
        )

    def state_bits(self, prompts: Sequence[NDArray[np.uint32]]) -> NDArray[np.float64]:
        return _text_bits(prompts, self.vocab)

    def diagnostics(self, batch: Batch, prediction: Prediction) -> dict[str, int]:
        """Count the strings that must succeed by THEORY's rule, and those that do not follow it.

        Where the answer is the prompt's own text and its end, a copy succeeds exactly when no n-gram of it repeats.

        Returns
        -------
        dict
            ``rule_strings`` under the rule, ``repeat_strings`` with a repeat, ``rule_disagreements``.
        """
        answers = batch.answers()
        counts = {"rule_strings": 0, "repeat_strings": 0, "rule_disagreements": 0}
        for prompt, answer, predicted in zip(batch.prompts(), answers, prediction.tokens, strict=True):
            text, copied = prompt[1:-1], answer[answer >= 0]
            if not (len(copied) == len(text) + 1 and copied[-1] == self.vocab.eos and (copied[:-1] == text).all()):
                continue
            written, width = text.tobytes(), text.itemsize
            grams = {written[width * i : width * (i + self.n)] for i in range(len(text) - self.n + 1)}
            repeats = len(grams) < len(text) - self.n + 1
            counts["rule_strings"] += 1
            counts["repeat_strings"] += repeats
            counts["rule_disagreements"] += bool(np.array_equal(answer, predicted)) == repeats
        return counts


class BoundedEngine(_SymbolicEngine):
    """A hash table of fixed size from n-grams to next tokens: all that it keeps of the text.

    Parameters
    ----------
    n : int
        Length of the n-gram that is looked up.
    slots : int
        M; an n-gram has one slot where it can be.
    key_bits : int
        Bits of the key kept to recognise it; 0: not verified.
    eviction : {"keep_first", "overwrite"}
        Which of two n-grams for one slot stays.
    """

    name: ClassVar[str] = "bounded"
    summary: ClassVar[str] = "n-gram table of M slots; keeps nothing else"

    def __init__(
        self,
        vocab: VocabularySpec,
        *,
        n: int = 4,
        slots: int = 1024,
        key_bits: int = 8,
        eviction: str = "keep_first",
    ) -> None:
        self.vocab = vocab
        self._copier: BoundedNgramCopier = BoundedNgramCopier(
            n=n,
            slots=slots,
            key_bits=key_bits,
            value_bits=(vocab.total - 1).bit_length(),
            eviction=eviction,
            boundaries=vocab.boundaries,
            end=vocab.eos,
        )

    def state_bits(self, prompts: Sequence[NDArray[np.uint32]]) -> NDArray[np.float64]:
        return np.full(len(prompts), float(self._copier.state_bits))

    def diagnostics(self, batch: Batch, prediction: Prediction) -> dict[str, int]:
        """Slots, slots occupied, insertions and collisions (n-grams turned away or replaced), over all strings."""
        total = {"slots": 0, "occupied": 0, "insertions": 0, "collisions": 0}
        for prompt in batch.prompts():
            for key, value in self._copier.load(prompt).items():
                total[key] += value
        return total


class PrefixEngine(_SymbolicEngine):
    """The machine of r·D^k states that reaches the bound for whole strings.

    It keeps the first k tokens and which of r groups the next is in; it guesses the rest by a constant.

    Parameters
    ----------
    kept : int
        k.
    groups : int
        r, a divisor of D.
    state_bits : float, optional
        In place of ``kept`` and ``groups``: the largest machine of at most so many bits.
    """

    name: ClassVar[str] = "prefix"
    summary: ClassVar[str] = "keeps the first k tokens and guesses the rest; the best fixed state for whole strings"

    def __init__(
        self, vocab: VocabularySpec, *, kept: int = 8, groups: int = 1, state_bits: float | None = None
    ) -> None:
        self.vocab = vocab
        marks: dict[str, Any] = {"boundaries": vocab.boundaries, "end": vocab.eos}
        self._copier: PrefixMachine = (
            PrefixMachine(kept=kept, groups=groups, vocab_size=vocab.size, **marks)
            if state_bits is None
            else PrefixMachine.from_state_bits(state_bits, vocab.size, **marks)
        )

    def state_bits(self, prompts: Sequence[NDArray[np.uint32]]) -> NDArray[np.float64]:
        return np.full(len(prompts), self._copier.state_bits)


def _text_bits(prompts: Sequence[NDArray[np.uint32]], vocab: VocabularySpec) -> NDArray[np.float64]:
    """Bits of the data tokens of each prompt; where the special ones stand depends on lengths alone."""
    counts = np.array([np.count_nonzero(prompt < vocab.size) for prompt in prompts], dtype=np.float64)
    return counts * float(np.log2(vocab.size))
