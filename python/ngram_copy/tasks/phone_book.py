"""A phone book of N entries, then one name: say its number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy import sample
from ngram_copy.tasks.base import Batch, TextTask, VocabularySpec, check_length

FIRST = (
    "Ada Alan Alma Amos Anna Arno Bela Bert Cara Carl Clio Dana Dora Earl Edda Egon Elsa Emil Enid Eric Etta Evan "
    "Fay Finn Gina Glen Greta Hans Hedy Hugo Ida Igor Ines Ivan Jana Jens Jill Jude Kara Kurt Lara Leon Lena Lars "
    "Mara Max Mina Nils Nora Olaf Olga Otto Pia Paul Rosa Rolf Sara Sven Tara Theo Una Uwe Vera Yves"
).split()
LAST = (
    "Abbot Adler Baker Berg Blum Boyd Braun Brook Busch Carr Chase Clark Cole Cruz Dahl Diaz Drake Dunn Ellis Engel "
    "Ernst Falk Field Fink Ford Frank Frost Gray Green Haas Hahn Hall Hart Holt Horn Hunt Kerr King Klein Koch Lang "
    "Lowe Marsh Meyer Moore Nash Noble Park Penn Price Quinn Reed Rhys Ross Sachs Shaw Stone Swan Todd Vogel Wade "
    "Weber Wolf Young"
).split()


@dataclass(frozen=True)
class PhoneBook(TextTask):
    """``<bos>`` lines ``Name: digits`` ``<copy>`` | ``Name: `` | digits; the length is the number of lines.

    Names are distinct, digits uniform, and the name that is asked for is drawn after the cut. Tokens are ASCII
    characters.

    Parameters
    ----------
    digits : int
        Digits of a number, 1 … 64.
    """

    name: ClassVar[str] = "phone_book"
    summary: ClassVar[str] = "say the number of one of N names in a phone book"

    digits: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= 64:
            raise ValueError(f"digits must be 1 … 64, not {self.digits}")

    @property
    def vocab(self) -> VocabularySpec:
        return VocabularySpec(128)

    def batch(self, length: int, *, seed: int, split: str, start: int, count: int, threads: int = 1) -> Batch:
        people = len(FIRST) * len(LAST)
        check_length(self, length, 1)
        if length > people:
            raise ValueError(f"{self.name}: length must be at most {people}, the number of names, not {length}")

        names = sample.distinct(
            seed, self.stream(length, split, "names"), start, count, length, people, threads=threads
        )
        digits = sample.uniform(
            seed, self.stream(length, split, "digits"), start, count, length * self.digits, 10, threads=threads
        )
        asked = sample.integers(seed, self.stream(length, split, "asked"), start, count, 0, length)
        vocab = self.vocab
        rows, marks = [], []
        for row in range(count):
            numbers = ["".join(map(str, number)) for number in digits[row].reshape(length, self.digits).tolist()]
            keys = [f"{FIRST[name // len(LAST)]} {LAST[name % len(LAST)]}: " for name in names[row].tolist()]
            book = "".join(f"{key}{number}\n" for key, number in zip(keys, numbers, strict=True))
            query, answer = keys[asked[row]], numbers[asked[row]]
            rows.append([vocab.bos, *book.encode(), vocab.copy, *query.encode(), *answer.encode()])
            marks.append((len(rows[-1]), len(book) + 2, len(book) + 2 + len(query)))
        lengths, cut, answer_at = (np.array(column, dtype=np.int64) for column in zip(*marks, strict=True))
        tokens = np.full((count, int(lengths.max())), vocab.pad, dtype=np.uint32)
        for row, values in enumerate(rows):
            tokens[row, : len(values)] = values
        log2_p = np.full((count, self.digits), -np.log2(10))
        return Batch(tokens, lengths, cut, answer_at, log2_p, -float(log2_p[0].sum()))

    def oracle(self, prompt: NDArray[np.uint32], query: NDArray[np.uint32]) -> list[int]:
        key = self.decode(query)
        line = next(line for line in self.decode(prompt[1:-1]).splitlines() if line.startswith(key))
        return list(line.removeprefix(key).encode())

    def decode(self, tokens: NDArray[np.integer[Any]]) -> str:
        return bytes(tokens.astype(np.uint8)).decode("ascii")
