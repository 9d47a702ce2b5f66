"""Records as tidy rows: the one place that knows where a number stands in a record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ngram_copy import score
from ngram_copy.report.labels import aliases, family, full_label, in_order, labels, natural
from ngram_copy.report.rows import (
    Agreement,
    Cell,
    Census,
    Failure,
    HalfLength,
    Longest,
    Precision,
    Proportion,
    Quantised,
    Repeats,
    Statistic,
    Summary,
    Training,
)
from ngram_copy.results import SCHEMA
from ngram_copy.score import RowVerdict


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
    tasks = labels(case["task"] for case in cases if case.get("task"))
    engines = aliases(cases) or labels(case["engine"] for case in cases if case.get("engine"))
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
        engines={engines[full]: full for full in in_order(cases)},
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
