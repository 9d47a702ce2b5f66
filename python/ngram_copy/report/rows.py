"""What a report knows of the records: tidy rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ngram_copy.report.labels import Options
from ngram_copy.score import RowVerdict


@dataclass(frozen=True)
class Proportion:
    """A count of successes with its 95% interval.

    Attributes
    ----------
    correct, total : int
        Successes and trials.
    low, high : float
        Wilson interval of the probability, as the record carries it.
    """

    correct: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """``correct / total``."""
        return self.correct / self.total

    @property
    def count(self) -> str:
        """``k/N``."""
        return f"{self.correct}/{self.total}"

    @property
    def interval(self) -> str:
        """The interval to three decimals."""
        return f"{self.low:.3f}–{self.high:.3f}"


@dataclass(frozen=True)
class Quantised:
    """A learned engine's answers from a state that was rounded once, at the cut.

    Attributes
    ----------
    bits_per_value : float
        Of the codec.
    state_bits : float
        What such a state can hold.
    strings : Proportion
        Whole answers.
    recalled : tuple of float, or None
        As of a cell.
    """

    bits_per_value: float
    state_bits: float
    strings: Proportion
    recalled: tuple[float, float, float] | None


@dataclass(frozen=True)
class Cell:
    """One accuracy record: a task × engine × length × seed.

    Attributes
    ----------
    task, engine : str
        Labels; what distinguishes each from the others of its run.
    family : str
        Name of the engine, shared by its configurations; of a learned one its mixer.
    strings, tokens : Proportion
        Whole answers, and teacher-forced tokens; None for a model that reads text by a tokenizer of its own.
    recalled : tuple of float, or None
        Bits recalled: mean, and low and high end of its 95% interval; None where the source is unknown.
    state_bits : float
        Mean bits of state at the cut.
    h_min : float or None
        Min-entropy of the answer in bits.
    bound, token_bound : float or None
        Upper bounds of P(whole string correct) and of the share of tokens right.
    diagnostics : mapping
        Counts over all strings, as the engine gave them.
    learned : bool
        Whether the engine is a model.
    trained : tuple of int, or None
        Shortest and longest string of its training.
    quantised : tuple of Quantised
        From the smallest state to the largest.
    kept : Quantised or None
        The smallest that keeps 99% of the bits recalled.
    verdict : RowVerdict or None
        Why a learned engine's strings fail.
    errors : mapping
        Classes of errors in a sample of ``checked`` strings.
    """

    case_id: str
    suite: str
    task: str
    engine: str
    family: str
    task_options: Options
    engine_options: Options
    length: int
    seed: int
    strings: Proportion
    tokens: Proportion | None
    recalled: tuple[float, float, float] | None
    state_bits: float
    h_min: float | None
    bound: float | None
    token_bound: float | None
    diagnostics: Mapping[str, Any]
    data_hash: str
    learned: bool = False
    trained: tuple[int, int] | None = None
    quantised: tuple[Quantised, ...] = ()
    kept: Quantised | None = None
    verdict: RowVerdict | None = None
    errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def size(self) -> float:
        """Bits of the state, or of the smallest that stands for it."""
        return self.kept.state_bits if self.kept else self.state_bits

    @property
    def share(self) -> float | None:
        """Bits recalled in units of ``size``; None where either is unknown or zero."""
        return self.recalled[0] / self.size if self.recalled and self.size else None

    @property
    def above(self) -> float | None:
        """Bits of the state, quantised or not, than which it recalls more beyond its interval; None: of none."""
        states = [(self.state_bits, self.recalled), *((row.state_bits, row.recalled) for row in self.quantised)]
        return min((size for size, recalled in states if recalled and recalled[1] > size), default=None)


@dataclass(frozen=True)
class Repeats:
    """One statistic record: how often some n-gram repeats within a window.

    Attributes
    ----------
    windows : Proportion
        Windows in which some n-gram repeats.
    union, exact : float or None
        The formulas for uniform tokens; the union bound is capped at 1.
    """

    case_id: str
    suite: str
    task: str
    n: int
    length: int
    seed: int
    windows: Proportion
    union: float | None
    exact: float | None
    data_hash: str


@dataclass(frozen=True)
class Longest:
    """A length at which an error is reached, with its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """Value and interval."""
        return f"{self.value:,.0f} ({self.low:,.0f} to {self.high:,.0f})"


@dataclass(frozen=True)
class HalfLength:
    """One statistic record: how long strings are of which an n-gram copier, and its transformer, fail at a share.

    Attributes
    ----------
    vocab_size : int or None
        D of uniform strings; None where the source is another.
    half, one_percent : Longest or None
        Where 1/2 and 1% of the strings fail; None where that was not reached.
    formula, exact : mapping
        ``half`` and ``one_percent`` of uniform strings, where they are known.
    transformer : Proportion or None
        Whole strings of ``transformer_length`` that the constructed transformer itself copied.
    heads, parameters : int
        Of its first layer, and of all of it.
    cut_bits : float
        Of its cache at the cut, at the length of ``half``.
    """

    case_id: str
    suite: str
    task: str
    vocab_size: int | None
    n: int
    seed: int
    samples: int
    half: Longest | None
    one_percent: Longest | None
    formula: Mapping[str, float]
    exact: Mapping[str, float]
    transformer: Proportion | None
    transformer_length: int | None
    heads: int
    parameters: int
    cut_bits: float | None
    data_hash: str

    @property
    def series(self) -> str:
        """D of uniform strings, or the task."""
        return self.task if self.vocab_size is None else f"D={self.vocab_size}"


@dataclass(frozen=True)
class Agreement:
    """One statistic record: the constructed transformer against the n-gram copier of the whole context.

    Attributes
    ----------
    construction : str
        The options of the transformer.
    strings, shorter : int
        Of lengths up to ``length``; those shorter than n.
    positions, disagreements, undetermined : int
        Determined positions, those where the two differ, and those without one answer.
    swapped_positions, swapped_disagreements : int
        Determined positions and disagreements where a string is answered with its halves swapped.
    rule_strings, repeat_strings, rule_disagreements : int
        Strings held against the rule of success, those with a repeat, and those against the rule.
    """

    case_id: str
    suite: str
    task: str
    n: int
    length: int
    seed: int
    construction: str
    strings: int
    shorter: int
    positions: int
    disagreements: int
    undetermined: int
    swapped_positions: int
    swapped_disagreements: int
    rule_strings: int
    repeat_strings: int
    rule_disagreements: int
    d_model: int
    parameters: int
    data_hash: str


@dataclass(frozen=True)
class Census:
    """One statistic record: all strings of each length, those copied and the states at the cut.

    Attributes
    ----------
    rows : tuple of (int, int, int, int)
        Length, strings, distinct states, strings copied.
    engine : str
        With the bits to which the numbers of its state were rounded, if they were.
    """

    case_id: str
    suite: str
    task: str
    engine: str
    seed: int
    rows: tuple[tuple[int, int, int, int], ...]
    data_hash: str

    @property
    def largest(self) -> tuple[float, int]:
        """The largest share of copied strings in states, and the length where it is."""
        return max(((copied / states, length) for length, _, states, copied in self.rows), key=lambda pair: pair[0])


@dataclass(frozen=True)
class Precision:
    """One statistic record: the n·m at which a number format breaks the constructed transformer.

    Attributes
    ----------
    rows : tuple of (int, int, int, int)
        n, n·m, positions, disagreements.
    first_failure : int or None
        The least n·m with a disagreement.
    limit : int or None
        The n·m beyond which the format is refused; None: no limit is known.
    """

    case_id: str
    suite: str
    task: str
    dtype: str
    length: int
    seed: int
    rows: tuple[tuple[int, int, int, int], ...]
    first_failure: int | None
    limit: int | None
    data_hash: str


Statistic = Repeats | HalfLength | Agreement | Census | Precision


@dataclass(frozen=True)
class Training:
    """One training record: an engine × seed.

    Attributes
    ----------
    lr : float
        The learning rate that was chosen, on a validation stream.
    tried : tuple of float
        All of the grid.
    seconds : float
        Wall clock, of all learning rates.
    examples_to_solve : int or None
        Examples seen at the first of two evaluations in a row at 95% or more; None: unsolved.
    losses : tuple of (int, float)
        Examples seen, and the loss there.
    evaluations : tuple of (int, int, int)
        Examples seen; whole strings of the longest trained length that were right, and all of them.
    trained : tuple of int
        Shortest and longest string.
    """

    case_id: str
    suite: str
    engine: str
    family: str
    seed: int
    lr: float
    tried: tuple[float, ...]
    steps: int
    examples: int
    seconds: float
    examples_to_solve: int | None
    losses: tuple[tuple[float, float], ...]
    evaluations: tuple[tuple[int, int, int], ...]
    parameters: int
    trained: tuple[int, int]
    engine_options: Options
    data_hash: str
    learned: bool = True

    @property
    def to_solve(self) -> str:
        """``examples_to_solve``; where it was not solved, more than were seen."""
        return f"> {self.examples:,}" if self.examples_to_solve is None else f"{self.examples_to_solve:,}"


@dataclass(frozen=True)
class Failure:
    """One error record: a case that could not be run."""

    case_id: str
    task: str
    engine: str
    length: int | None
    message: str

    @property
    def place(self) -> str:
        """Its length; a training has none."""
        return "–" if self.length is None else f"{self.length}"


@dataclass(frozen=True)
class Summary:
    """All rows of a report, each kind in the order of task, engine and length.

    Attributes
    ----------
    engines : dict of str to str
        Label of each engine to all its options.
    environment : dict of str to list of str
        Distinct values of each entry, without times.
    """

    cells: list[Cell]
    repeats: list[Repeats]
    trainings: list[Training]
    failures: list[Failure]
    engines: dict[str, str]
    environment: dict[str, list[str]]
    suites: list[str]
    seconds: float
    half_lengths: list[HalfLength] = field(default_factory=list)
    agreements: list[Agreement] = field(default_factory=list)
    censuses: list[Census] = field(default_factory=list)
    precisions: list[Precision] = field(default_factory=list)

    @property
    def tasks(self) -> list[str]:
        """Labels of the tasks that have accuracy cells, in order."""
        return list(dict.fromkeys(cell.task for cell in self.cells))
