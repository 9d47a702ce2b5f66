"""What a statistic is: something measured that is no engine's accuracy on a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ngram_copy.engines.base import Engine
from ngram_copy.tasks.base import Task

Axis = Literal["engines", "n", "lengths"]


@dataclass(frozen=True)
class Row:
    """One row of a suite's ``[[statistics]]``: where a statistic is measured.

    Attributes
    ----------
    task : Task
        Where strings come from.
    seed, examples : int
        Which strings, and how many.
    engine : Engine or None
        Of the axis ``engines``.
    n : int or None
        Of the axis ``n``.
    length : int or None
        Of the axis ``lengths``.
    """

    task: Task
    seed: int
    examples: int
    engine: Engine | None = None
    n: int | None = None
    length: int | None = None


class Statistic(ABC):
    """A statistic; made of the options of its table, as keyword arguments, which its constructor checks.

    ``axes`` says what its table must list beside ``tasks``: a row is measured for each combination.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    axes: ClassVar[tuple[Axis, ...]]
    one_thread: ClassVar[bool] = False
    """Whether it computes with torch, of which a run gives it one thread, in a process of its own."""

    @abstractmethod
    def measure(self, row: Row, *, threads: int, answered: Callable[[int], None]) -> dict[str, Any]:
        """Measure one row.

        Parameters
        ----------
        row : Row
        threads : int
            No influence on the result.
        answered : callable
            To be called with the number of examples that were just done; ``row.examples`` in all.

        Returns
        -------
        dict
            JSON values, equal for equal rows; ``data_hash`` among them.

        Raises
        ------
        ValueError
            If the row cannot be measured; the text says why.
        """

    def check(self, row: Row) -> None:  # noqa: B027 (most have nothing to refuse)
        """Refuse a row that cannot be measured, before a run.

        Raises
        ------
        ValueError
            Saying why.
        """

    def work(self, row: Row) -> float:
        """How long ``measure`` takes, roughly, in tokens of a string that is copied symbolically."""
        return float(row.examples * (row.length or 1))


class Progress:
    """Tells of ``examples`` in all, from shares of what is to be done: for what does not go by examples."""

    def __init__(self, examples: int, answered: Callable[[int], None]) -> None:
        self._examples, self._answered, self._told = examples, answered, 0

    def share(self, share: float) -> None:
        """So much is done; the last example is kept for ``end``."""
        new = min(self._examples - 1, int(share * self._examples)) - self._told
        if new > 0:
            self._told += new
            self._answered(new)

    def end(self) -> None:
        """All is done."""
        self._answered(self._examples - self._told)
