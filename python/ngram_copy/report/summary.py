"""Records as tidy rows: the one place that knows where a number stands in a record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ngram_copy import score
from ngram_copy.results import SCHEMA
from ngram_copy.score import RowVerdict

Options = Mapping[str, Any]


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


# Options that stand in a label even where all configurations of a run share them.
_ALWAYS = {"n", "kept", "slots", "state_bits", "vocab_size", "source"}
_SHORT = {"vocab_size": "D"}


def _labels(configurations: Iterable[Options]) -> dict[str, str]:
    """A short label for each configuration (by its full text): its name and what distinguishes it."""
    groups: dict[str, dict[str, Options]] = defaultdict(dict)
    for options in configurations:
        groups[family(options)][full_label(options)] = flat(options)
    labels = {}
    for name, group in groups.items():
        values: dict[str, set[str]] = defaultdict(set)
        for options in group.values():
            for key in {key for other in group.values() for key in other}:
                values[key].add(str(options.get(key)))
        for full, options in group.items():
            parts = [
                option(key.rsplit(".", 1)[-1], value)
                for key, value in sorted(options.items(), key=lambda item: (item[0] not in _SHORT, item[0]))
                if key != "name" and value is not None and (key in _ALWAYS or len(values[key]) > 1)
            ]
            labels[full] = " ".join([name, *parts])
    return labels


def _aliases(cases: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The suite's own names of the engines, where each stands for one configuration; else nothing."""
    pairs = {(full_label(case["engine"]), case.get("label")) for case in cases if case.get("engine")}
    unique = len({full for full, _ in pairs}) == len({label for _, label in pairs}) == len(pairs)
    return {full: str(label) for full, label in pairs} if unique and all(label for _, label in pairs) else {}


def _in_order(cases: Iterable[Mapping[str, Any]]) -> list[str]:
    """Engines with all their options, each once, in the order of the legends."""
    found = {full_label(case["engine"]): case["engine"] for case in cases if case.get("engine")}
    return sorted(found, key=lambda full: natural(found[full]))


def option(key: str, value: Any) -> str:
    """An option for a label: its value alone where that says enough."""
    if isinstance(value, str):
        return value.rstrip("/").rsplit("/", 1)[-1]
    if isinstance(value, bool):
        return key if value else f"no_{key}"
    if isinstance(value, (list, tuple)):
        value = f"{value[0]}…{value[-1]}" if len(value) > 3 else ",".join(map(str, value))
    return f"{_SHORT.get(key, key)}={value}"


def full_label(options: Options) -> str:
    """A task or engine with all its options, as Python would write the call."""
    return f"{options['name']}({_arguments(options)})"


def _arguments(options: Options) -> str:
    return ", ".join(_argument(key, value) for key, value in sorted(options.items()) if key != "name")


def _argument(key: str, value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"{key}={value!r}"
    return f"{key}={full_label(value)}" if "name" in value else f"{key}({_arguments(value)})"


def flat(options: Options, above: str = "") -> dict[str, Any]:
    """Options whose tables are opened: ``{"model": {"mixer": "gru"}}`` is ``{"model.mixer": "gru"}``."""
    found: dict[str, Any] = {}
    for key, value in options.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


def family(options: Options) -> str:
    """The kind of an engine: its name; of a model its mixer, or the pattern of its mixers, or its file."""
    model = options.get("model")
    if not isinstance(model, Mapping):
        model = options if options["name"] in score.MODELS else {}
    if "bottleneck" in model:
        return "bottleneck"
    layers = [str(layer["mixer"]) for layer in model.get("layers") or [] if "mixer" in layer]
    file = option("", model["build"].rpartition(":")[0]).removesuffix(".py") if model.get("build") else ""
    return str("+".join(dict.fromkeys(layers)) or model.get("pattern") or model.get("mixer") or file or options["name"])


def natural(options: Options) -> tuple[Any, ...]:
    """Sort key: models last, the name, the kind, then options with numbers by their value."""
    rest = [
        (k, 0, v, "") if isinstance(v, (int, float)) else (k, 1, 0, str(v)) for k, v in sorted(flat(options).items())
    ]
    return (score.is_learned(options), str(options["name"]), family(options), rest)


def _proportion(counts: Mapping[str, Any], successes: str = "correct", bounds: Mapping[str, Any] | None = None) -> Any:
    bounds = counts if bounds is None else bounds
    return Proportion(int(counts[successes]), int(counts["total"]), float(bounds["low"]), float(bounds["high"]))


def summarise(records: Sequence[Mapping[str, Any]]) -> Summary:
    """Read records into rows.

    Kinds that the report does not show (timing), and statistics that it does not know, are left out.

    Parameters
    ----------
    records : sequence of mapping
        Records of schema ``ngram-copy/1``.

    Raises
    ------
    ValueError
        If there are no records, one is of another schema, or one lacks a field; the text names it.
    """
    if not records:
        raise ValueError("nothing to report: there are no records")
    for number, record in enumerate(records, 1):
        if record.get("schema") != SCHEMA:
            raise ValueError(f"record {number} is of schema {record.get('schema')!r}; this report reads {SCHEMA!r}")
    verdicts = _verdicts(records)
    cases = [record["case"] for record in records]
    tasks = _labels(case["task"] for case in cases if case.get("task"))
    engines = _aliases(cases) or _labels(case["engine"] for case in cases if case.get("engine"))
    cells: list[tuple[Any, Cell]] = []
    trainings: list[tuple[Any, Training]] = []
    statistics: list[tuple[Any, Statistic]] = []
    failures = []
    for number, record in enumerate(records, 1):
        case, result = record["case"], record["result"]
        try:
            task = tasks[full_label(case["task"])] if case.get("task") else ""
            engine = engines[full_label(case["engine"])] if case.get("engine") else ""
            if record["kind"] == "accuracy":
                order = (natural(case["task"]), natural(case["engine"]), case["length"], case["seed"])
                cells.append((order, _cell(record, task, engine, verdicts.get(record["case_id"]))))
            elif record["kind"] == "training":
                trainings.append(((natural(case["engine"]), case["seed"]), _training(record, engine)))
            elif record["kind"] == "statistic":
                read = _STATISTICS.get(case["statistic"])
                if read is not None:
                    order = (natural(case["task"]), natural(case["engine"]) if engine else (), *_axes(case))
                    statistics.append((order, read(record, task, engine)))
            elif record["kind"] == "error":
                message = f"{result['error']}: {result['message']}"
                failures.append(Failure(record["case_id"], task, engine, case.get("length"), message))
        except KeyError as missing:
            name = record.get("case_id", number)
            raise ValueError(f"record {name} of kind {record.get('kind')!r} lacks the field {missing}") from None
    measured = [row for _, row in sorted(statistics, key=lambda pair: pair[0])]
    return Summary(
        cells=[cell for _, cell in sorted(cells, key=lambda pair: pair[0])],
        repeats=[row for row in measured if isinstance(row, Repeats)],
        trainings=[row for _, row in sorted(trainings, key=lambda pair: pair[0])],
        failures=failures,
        engines={engines[full]: full for full in _in_order(cases)},
        environment=_environment(records),
        suites=sorted({str(case["suite"]) for case in cases if case.get("suite")}),
        seconds=sum(float(record.get("environment", {}).get("seconds", 0.0)) for record in records),
        half_lengths=[row for row in measured if isinstance(row, HalfLength)],
        agreements=[row for row in measured if isinstance(row, Agreement)],
        censuses=[row for row in measured if isinstance(row, Census)],
        precisions=[row for row in measured if isinstance(row, Precision)],
    )


def _axes(case: Mapping[str, Any]) -> tuple[Any, ...]:
    """Where in the order of its task a statistic stands."""
    return (case.get("n") or 0, case.get("length") or 0, str(case.get("options")), case["seed"])


def _verdicts(records: Sequence[Mapping[str, Any]]) -> dict[str, RowVerdict]:
    """Of learned engines; a record that lacks a field is told of where its row is made."""
    try:
        return score.row_verdicts(records)
    except KeyError:
        return {}


def _recalled(bits: Mapping[str, Any] | None) -> tuple[float, float, float] | None:
    return None if bits is None else (float(bits["mean"]), float(bits["low"]), float(bits["high"]))


def _quantised(row: Mapping[str, Any]) -> Quantised:
    return Quantised(
        bits_per_value=float(row["bits_per_value"]),
        state_bits=float(row["state_bits"]),
        strings=_proportion(row["strings"]),
        recalled=_recalled(row["bits_recalled"]),
    )


def _cell(record: Mapping[str, Any], task: str, engine: str, verdict: RowVerdict | None) -> Cell:
    case, result = record["case"], record["result"]
    quantised = sorted(map(_quantised, result.get("quantised") or []), key=lambda row: row.state_bits)
    kept = score.smallest_state(result)
    return Cell(
        case_id=record["case_id"],
        suite=str(case["suite"]),
        task=task,
        engine=engine,
        family=family(case["engine"]),
        task_options=case["task"],
        engine_options=case["engine"],
        length=int(case["length"]),
        seed=int(case["seed"]),
        strings=_proportion(result["strings"]),
        tokens=None if result["tokens"] is None else _proportion(result["tokens"]),
        recalled=_recalled(result["bits_recalled"]),
        state_bits=float(result["state_bits"]),
        h_min=result["h_min"],
        bound=result["string_bound"],
        token_bound=result.get("token_bound"),
        diagnostics=result.get("diagnostics", {}),
        data_hash=result["data_hash"],
        learned=score.is_learned(case["engine"]),
        trained=score.trained_lengths(case["engine"]),
        quantised=tuple(quantised),
        kept=None if kept is None else _quantised(kept),
        verdict=verdict,
        errors=result.get("errors") or {},
    )


def _training(record: Mapping[str, Any], engine: str) -> Training:
    case, result = record["case"], record["result"]
    evaluations = sorted((int(step), int(seen), int(k), int(n)) for step, seen, k, n in result["evaluations"])
    # Losses are by step; the examples seen at a step are known where there was an evaluation, and at both ends.
    known = {0: 0, **{step: seen for step, seen, _, _ in evaluations}, int(result["steps"]): int(result["examples"])}
    steps, seen = zip(*sorted(known.items()), strict=True)
    losses = [(float(np.interp(step, steps, seen)), float(loss)) for step, loss in result["losses"]]
    return Training(
        case_id=record["case_id"],
        suite=str(case["suite"]),
        engine=engine,
        family=family(case["engine"]),
        seed=int(case["seed"]),
        lr=float(result["lr"]),
        tried=tuple(sorted({float(row["lr"]) for row in result["grid"]})),
        steps=int(result["steps"]),
        examples=int(result["examples"]),
        seconds=float(record.get("environment", {}).get("seconds", 0.0)),
        examples_to_solve=result["examples_to_solve"],
        losses=tuple(losses),
        evaluations=tuple((seen, k, n) for _, seen, k, n in evaluations),
        parameters=int(result["parameters"]),
        trained=(int(result["train_lengths"][0]), int(result["train_lengths"][-1])),
        engine_options=case["engine"],
        data_hash=result["data_hash"],
    )


def _repeats(record: Mapping[str, Any], task: str, _: str) -> Repeats:
    case, result = record["case"], record["result"]
    formula = result.get("formula") or {}
    return Repeats(
        case_id=record["case_id"],
        suite=str(case["suite"]),
        task=task,
        n=int(case["n"]),
        length=int(case["length"]),
        seed=int(case["seed"]),
        windows=_proportion(result["windows"], "repeating", result["p"]),
        union=None if formula.get("union") is None else min(1.0, float(formula["union"])),
        exact=formula.get("exact"),
        data_hash=result["data_hash"],
    )


def _longest(found: Mapping[str, Any] | None) -> Longest | None:
    if found is None or found["value"] is None:
        return None
    return Longest(float(found["value"]), float(found["low"]), float(found["high"]))


def _known(found: Mapping[str, Any] | None) -> dict[str, float]:
    return {key: float(value) for key, value in (found or {}).items() if value is not None}


def _half_length(record: Mapping[str, Any], task: str, _: str) -> HalfLength:
    case, result = record["case"], record["result"]
    itself = result["transformer"]
    return HalfLength(
        case_id=record["case_id"],
        suite=str(case["suite"]),
        task=task,
        vocab_size=int(case["task"]["vocab_size"]) if score.is_uniform(case["task"]) else None,
        n=int(case["n"]),
        seed=int(case["seed"]),
        samples=int(result["samples"]),
        half=_longest(result["half"]),
        one_percent=_longest(result["one_percent"]),
        formula=_known(result["formula"]),
        exact=_known(result["exact"]),
        transformer=None if itself is None else _proportion({**itself, "total": itself["strings"]}),
        transformer_length=None if itself is None else int(itself["length"]),
        heads=int(case["n"]),
        parameters=int(result["parameters"]),
        cut_bits=None if result["cut_bits"] is None else float(result["cut_bits"]),
        data_hash=result["data_hash"],
    )


def _agreement(record: Mapping[str, Any], task: str, _: str) -> Agreement:
    case, result = record["case"], record["result"]
    counts = ("strings", "positions", "disagreements", "undetermined")
    rule = ("rule_strings", "repeat_strings", "rule_disagreements")
    return Agreement(
        case_id=record["case_id"],
        suite=str(case["suite"]),
        task=task,
        n=int(case["n"]),
        length=int(case["length"]),
        seed=int(case["seed"]),
        construction=", ".join(str(value) for _, value in sorted((case.get("options") or {}).items())),
        shorter=int(result["shorter_strings"]),
        swapped_positions=int(result["swapped"]["positions"]),
        swapped_disagreements=int(result["swapped"]["disagreements"]),
        **{key: int(result[key]) for key in (*counts, *rule)},
        d_model=int(result["transformer"]["d_model"]),
        parameters=int(result["transformer"]["parameters"]),
        data_hash=result["data_hash"],
    )


def _census(record: Mapping[str, Any], task: str, engine: str) -> Census:
    case, result = record["case"], record["result"]
    keys = ("length", "strings", "states", "copied")
    bits = (case.get("options") or {}).get("bits")
    rows = sorted(tuple(int(row[key]) for key in keys) for row in result["rows"])
    return Census(
        case_id=record["case_id"],
        suite=str(case["suite"]),
        task=task,
        engine=f"{engine}, rounded to {bits} bits" if bits else engine,
        seed=int(case["seed"]),
        rows=tuple((length, strings, states, copied) for length, strings, states, copied in rows),
        data_hash=result["data_hash"],
    )


def _precision(record: Mapping[str, Any], task: str, _: str) -> Precision:
    case, result = record["case"], record["result"]
    keys = ("n", "product", "positions", "disagreements")
    rows = sorted(tuple(int(row[key]) for key in keys) for row in result["rows"])
    return Precision(
        case_id=record["case_id"],
        suite=str(case["suite"]),
        task=task,
        dtype=str(result["dtype"]),
        length=int(case["length"]),
        seed=int(case["seed"]),
        rows=tuple((n, product, positions, wrong) for n, product, positions, wrong in rows),
        first_failure=result["first_failure"],
        limit=result["limit"],
        data_hash=result["data_hash"],
    )


_STATISTICS: dict[str, Callable[[Mapping[str, Any], str, str], Statistic]] = {
    "repeats": _repeats,
    "half-length": _half_length,
    "agreement": _agreement,
    "census": _census,
    "precision": _precision,
}
"""How a record of each statistic is read."""


def _environment(records: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Distinct values of each entry, in order of appearance; times of single cases are left out."""
    values: dict[str, dict[str, None]] = defaultdict(dict)
    for record in records:
        for key, value in record.get("environment", {}).items():
            if key not in {"seconds", "time"}:
                values[key][str(value)] = None
    return {key: list(seen) for key, seen in values.items()}


def short_hash(data_hash: str) -> str:
    """The first twelve digits."""
    return data_hash.removeprefix("sha256:")[:12]


def number(value: float) -> str:
    """A number of bits or tokens for reading: three digits, thousands grouped."""
    if value == 0 or 0.01 <= abs(value) < 100:
        return f"{value:.3g}"
    if abs(value) < 0.01:
        return f"{value:.1e}"
    return f"{value:,.0f}"


def percent(value: float) -> str:
    """A share in percent; never rounded up to 100% nor down to 0% of something."""
    text = f"{100 * value:.1f}%"
    if text == "100.0%" and value < 1:
        return ">99.9%"
    if text == "0.0%" and value > 0:
        return "<0.1%"
    return text.replace(".0%", "%")
