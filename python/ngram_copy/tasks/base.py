"""What a task is: a source of examples, each a function of (task, seed, split, index) alone.

An example is a sequence of tokens with two marks::

    <bos> x_1 … x_L <copy> | q_1 … q_m | y_1 … y_K
                           ^ cut        ^ answer

What an engine keeps of the tokens before the *cut* is its state. The *query* (empty for copying) is
revealed after the cut; the *answer* is what is scored. All examples of a batch share ``seq_len``;
shorter ones are padded on the right with ``vocab.pad``.

Where several queries and answers alternate (``mqar``), the answer begins at the cut and ``scored`` says which
of its tokens count; the others are revealed as soon as they are reached::

    <bos> x_1 … x_L <copy> | q_1 y_1 q_2 q_3 y_3 …
                           ^ cut and answer
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy import sample

SPLITS = ("train", "validation", "test", "fit")
"""Disjoint counter streams; ``fit`` is for what is fitted on other strings (smoothing, codecs)."""

BLANK = 2**32 - 1
"""Stands in a query where a token was that is scored; no token of any task."""


@dataclass(frozen=True)
class VocabularySpec:
    """The tokens of a task: ``size`` data tokens 0 … size-1, then four special ones.

    Attributes
    ----------
    size : int
        D, the number of data tokens.
    """

    size: int

    @property
    def bos(self) -> int:
        """Opens every example; a boundary symbol."""
        return self.size

    @property
    def copy(self) -> int:
        """Ends what is to be remembered; a boundary symbol."""
        return self.size + 1

    @property
    def eos(self) -> int:
        """The end of an answer."""
        return self.size + 2

    @property
    def pad(self) -> int:
        """Fills the right of shorter examples."""
        return self.size + 3

    @property
    def total(self) -> int:
        """The number of all tokens, special ones included: the width of an embedding."""
        return self.size + 4

    @property
    def boundaries(self) -> tuple[int, int]:
        """``(bos, copy)``: the symbols that nothing is copied across."""
        return self.bos, self.copy


@dataclass(frozen=True)
class Batch:
    """Examples of one task, split and length.

    Attributes
    ----------
    tokens : ndarray of uint32, shape (batch, seq_len)
        Whole examples, padded on the right.
    lengths : ndarray of int64, shape (batch,)
        Tokens in use.
    cut : ndarray of int64, shape (batch,)
        Index of the first token after the cut.
    answer : ndarray of int64, shape (batch,)
        Index of the first token of the answer; ``cut`` where there is no query.
    log2_p : ndarray of float64, shape (batch, answer_len), or None
        log2 probability of each token of the answer under the task's source, given the answer before it,
        what is revealed after the cut, and the length (so the end has probability 1); 0 beyond an answer's
        end and at what is not scored. None where the source is unknown.
    h_min : float or None
        Min-entropy of the answer in bits, given what is revealed: no answer is likelier than 2^-h_min.
    scored : ndarray of bool, shape (batch, answer_len), or None
        Which tokens from ``answer`` on count; the others are revealed. None: all do.
    """

    tokens: NDArray[np.uint32]
    lengths: NDArray[np.int64]
    cut: NDArray[np.int64]
    answer: NDArray[np.int64]
    log2_p: NDArray[np.float64] | None
    h_min: float | None
    scored: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def prompts(self) -> list[NDArray[np.uint32]]:
        """Tokens before the cut, an array for each example."""
        return [row[:cut] for row, cut in zip(self.tokens, self.cut, strict=True)]

    def queries(self) -> list[NDArray[np.uint32]]:
        """Tokens revealed after the cut, an array for each example.

        Those before the answer; where ``scored`` is given, all of them to the end of the example, with the largest
        uint32 (``BLANK``) in place of each token that is scored.
        """
        if self.scored is None:
            return [row[c:a] for row, c, a in zip(self.tokens, self.cut, self.answer, strict=True)]
        answers = self.answers()
        return [
            np.concatenate([row[c:a], np.where(answers[i, : end - a] < 0, row[a:end], BLANK)]).astype(np.uint32)
            for i, (row, c, a, end) in enumerate(zip(self.tokens, self.cut, self.answer, self.lengths, strict=True))
        ]

    def answers(self) -> NDArray[np.int64]:
        """Tokens of the answers, shape (batch, answer_len), filled with -1 on the right.

        Column t is the token at ``answer + t``; -1 also stands where a token is not scored.
        """
        answer_len = int((self.lengths - self.answer).max(initial=0))
        positions = self.answer[:, None] + np.arange(answer_len)
        inside = positions < self.lengths[:, None]
        if self.scored is not None:
            inside &= self.scored
        clipped = np.minimum(positions, self.tokens.shape[1] - 1)
        return np.where(inside, np.take_along_axis(self.tokens, clipped, axis=1).astype(np.int64), -1)


class DataHash:
    """SHA-256 of the examples seen, independent of how they were cut into batches."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def update(self, batch: Batch) -> None:
        """Add a batch: its tokens in use and its marks, as little-endian integers, and which tokens are scored."""
        marks = zip(batch.tokens, batch.lengths, batch.cut, batch.answer, strict=True)
        for index, (row, length, cut, answer) in enumerate(marks):
            self._sha.update(np.array([length, cut, answer], dtype="<i8").tobytes())
            self._sha.update(row[:length].astype("<u4", copy=False).tobytes())
            if batch.scored is not None:
                self._sha.update(batch.scored[index, : length - answer].astype("<u1").tobytes())

    def hexdigest(self) -> str:
        """``sha256:`` and 64 hexadecimal digits."""
        return f"sha256:{self._sha.hexdigest()}"


@dataclass(frozen=True)
class Task(ABC):
    """A source of examples; its options are the keyword arguments of its class.

    Subclasses are frozen dataclasses whose fields are the options (JSON values), so that a suite file
    can name them and a record can carry them.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    @property
    @abstractmethod
    def vocab(self) -> VocabularySpec:
        """The tokens of this task."""

    @abstractmethod
    def batch(self, length: int, *, seed: int, split: str, start: int, count: int, threads: int = 1) -> Batch:
        """Examples ``start`` … ``start + count - 1`` of a length, the same for every batch size and thread count.

        Parameters
        ----------
        length : int
            L, the number of data tokens (or lines, names, …: the task says) to remember.
        seed : int
            Seed of the case, 0 … 2^63 - 1.
        split : str
            One of ``SPLITS``.
        start, count : int
            The range of examples.
        threads : int
            Threads of the sampler; no influence on the result.

        Raises
        ------
        ValueError
            If the task cannot make examples of this length; the text says which lengths it can.
        """

    @abstractmethod
    def oracle(self, prompt: NDArray[np.uint32], query: NDArray[np.uint32]) -> list[int]:
        """The answer, found from prompt and query by the most obvious code; ``--verify`` compares with it.

        Both are as ``Batch.prompts`` and ``Batch.queries`` give them.
        """

    def provenance(self) -> dict[str, Any]:
        """What else determines the data, such as the hash of a text; part of every record."""
        return {}

    def identity(self) -> dict[str, Any]:
        """What the data depend on beside length, seed, split and index: the options, by default."""
        return asdict(self)

    def stream(self, length: int, split: str, *purpose: str | int) -> int:
        """The counter stream of a length and split, apart from those of all other tasks, options and lengths.

        So the cells of a suite are independent samples, and counts may be added up over them.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; there are: {', '.join(SPLITS)}")
        options = json.dumps(self.identity(), sort_keys=True)
        return sample.stream_id(self.name, options, length, split, *purpose)

    def batches(
        self, length: int, *, seed: int, split: str, examples: int, batch: int = 1024, threads: int = 1
    ) -> Iterator[Batch]:
        """Examples 0 … examples - 1 in batches of at most ``batch``."""
        for start in range(0, examples, batch):
            count = min(batch, examples - start)
            yield self.batch(length, seed=seed, split=split, start=start, count=count, threads=threads)


@dataclass(frozen=True)
class TextTask(Task):
    """A task whose tokens stand for text, so that a pretrained model with its own tokenizer can take it too."""

    @abstractmethod
    def decode(self, tokens: NDArray[np.integer[Any]]) -> str:
        """The text of data tokens."""

    def render_text(self, batch: Batch, index: int) -> str:
        """Prompt and query of one example as text, special tokens left out."""
        before = batch.tokens[index, : batch.answer[index]]
        return self.decode(before[before < self.vocab.size])

    def answer_text(self, batch: Batch, index: int) -> str:
        """The answer of one example as text, without white space at its ends."""
        answer = batch.tokens[index, batch.answer[index] : batch.lengths[index]]
        return self.decode(answer[answer < self.vocab.size]).strip()

    def score_text(self, batch: Batch, index: int, generated: str) -> bool:
        """Whether generated text begins with the answer, white space at both ends aside."""
        return generated.strip().startswith(self.answer_text(batch, index))


def check_length(task: Task, length: int, least: int) -> None:
    """Refuse lengths below ``least``.

    Raises
    ------
    ValueError
        Naming the task, the length and the shortest that is allowed.
    """
    if length < least:
        raise ValueError(f"{task.name}: length must be at least {least} with these options, not {length}")
