"""What records say together: exact tests of the bounds, and the laws that were measured."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ngram_copy.theory import (
    binomial_tail,
    binomial_test,
    poisson_binomial_tail,
)


def verdicts(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Test the claims of the theory on the records of a run, by exact tests and by counts.

    Parameters
    ----------
    records : iterable of mapping
        Of schema "ngram-copy/1"; those of other kinds are passed over.

    Returns
    -------
    dict
        - ``above_bound``: {cells, p_value, per_engine}: is some engine above its string bounds? Over the cells whose
          bound is below 1, each engine (told by its options) gets twice the smaller of two p-values: that of its total
          of right strings over all cells (``poisson_binomial_tail``), and its least ``binomial_tail`` times its
          number of cells (which a slack cell cannot hide). ``p_value`` is the least times the number of engines. Cells
          of an engine that share their data count in separate totals; others must come from separate streams.
        - ``bits_above_state``: {cells, quantised, p_value}: does some engine recall more bits than its state holds? The
          least ``bits_recalled_p_value`` of all cells whose source is known and of all their quantised states, times
          the number of both.
        - ``prefix_fits``: {cells, min_p, rows}: does the prefix machine reach the bound? Two-sided ``binomial_test``
          in each cell of uniform strings with a bound in [0.05, 0.95]; rows are {case_id, label, k, N, bound, p}.
        - ``copier_rule``: {strings, disagreements}: does the exact copier succeed exactly where no n-gram repeats?
        - ``agreement``: {records, strings, positions, disagreements, undetermined, rule_strings, repeat_strings,
          rule_disagreements}: sums over all records in which the constructed transformer is held against the copier;
          positions and disagreements where halves are swapped are among them.
        - ``census``: {counts, strings, above, largest}: does some engine copy more strings than it has states? A count
          is an engine and a length, of all its strings; ``largest`` is {share, engine, length}.
        - ``half_length``: {points, outside, worst, small, equal, small_outside, slopes}: does the longest string with
          an error of 1/2 follow the formula? ``points`` have D^n >= ``ASYMPTOTIC`` and are held against it, ``small``
          ones against exact counts (``equal``: the same number); those ``outside`` fail ``half_length_fits``.
          ``worst`` is {label, value, formula}, ``slopes`` are those of ``half_length_slope`` by D.

        Without any cell the p-values are None; the last three are there only where there are such records.
    """
    records = list(records)
    accuracy = [record for record in records if record.get("kind") == "accuracy"]
    found = {
        "above_bound": _above_bound(accuracy),
        "bits_above_state": _bits_above_state(accuracy),
        "prefix_fits": _prefix_fits(accuracy),
        "copier_rule": _copier_rule(accuracy),
    }
    for statistic, test in _TESTS.items():
        rows = [r for r in records if r.get("kind") == "statistic" and r["case"].get("statistic") == statistic]
        if rows:
            found[statistic.replace("-", "_")] = test(rows)
    return found


class _Cell(NamedTuple):
    k: int
    n: int
    bound: float
    data_hash: str


def _label(case: Mapping[str, Any]) -> str:
    return str(case.get("label") or case["engine"]["name"])


def _above_bound(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    cells: defaultdict[str, list[_Cell]] = defaultdict(list)
    labels: dict[str, str] = {}
    for record in records:
        result = record["result"]
        bound = result.get("string_bound")
        if bound is not None and bound < 1:
            engine = json.dumps(record["case"]["engine"], sort_keys=True)
            taken = set(labels.values())
            label = _label(record["case"])
            labels.setdefault(engine, label if label not in taken else engine)
            strings = result["strings"]
            cells[labels[engine]].append(_Cell(strings["correct"], strings["total"], bound, result["data_hash"]))
    per_engine = {label: _engine_p_value(found) for label, found in cells.items()}
    return {
        "cells": sum(len(found) for found in cells.values()),
        "p_value": min(1.0, len(per_engine) * min(per_engine.values())) if per_engine else None,
        "per_engine": per_engine,
    }


def _engine_p_value(cells: Sequence[_Cell]) -> float:
    seen: defaultdict[str, int] = defaultdict(int)
    totals: defaultdict[int, list[_Cell]] = defaultdict(list)  # in each no string twice
    for cell in cells:
        totals[seen[cell.data_hash]].append(cell)
        seen[cell.data_hash] += 1
    total = min(
        poisson_binomial_tail([(cell.n, cell.bound) for cell in part], sum(cell.k for cell in part))
        for part in totals.values()
    )
    single = min(binomial_tail(cell.k, cell.n, cell.bound) for cell in cells)
    return min(1.0, 2 * len(totals) * total, 2 * len(cells) * single)


def _bits_above_state(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def p_values(rows: Iterable[Mapping[str, Any]]) -> list[float]:
        found = [row.get("bits_recalled") or {} for row in rows]
        return [recalled["p_value"] for recalled in found if "p_value" in recalled]

    cells = p_values(record["result"] for record in records)
    # States of one cell share their strings: the least times their number is valid all the same.
    quantised = p_values(row for record in records for row in record["result"].get("quantised") or [])
    every = cells + quantised
    p_value = min(1.0, len(every) * min(every)) if every else None
    return {"cells": len(cells), "quantised": len(quantised), "p_value": p_value}


def _prefix_fits(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rows = []
    for record in records:
        case, result = record["case"], record["result"]
        task, bound = case["task"], result.get("string_bound")
        if case["engine"]["name"] == "prefix" and is_uniform(task) and bound is not None and 0.05 <= bound <= 0.95:
            k, n = result["strings"]["correct"], result["strings"]["total"]
            label = f"{_label(case)}, L = {case['length']}"
            p = binomial_test(k, n, bound)
            rows.append({"case_id": record["case_id"], "label": label, "k": k, "N": n, "bound": bound, "p": p})
    return {"cells": len(rows), "min_p": min((row["p"] for row in rows), default=None), "rows": rows}


def _copier_rule(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    found = [
        record["result"].get("diagnostics", {}) for record in records if record["case"]["engine"]["name"] == "ngram"
    ]
    return {
        "strings": sum(diagnostics.get("rule_strings", 0) for diagnostics in found),
        "disagreements": sum(diagnostics.get("rule_disagreements", 0) for diagnostics in found),
    }


ASYMPTOTIC = 1000
"""D^n from which on the formula of L½ is held against what was measured; below, exact counts are."""

LENGTH_TOLERANCE, LENGTH_SHARE = 1.0, 0.03
"""Tokens, and share of the formula, by which a measured L½ may be off."""


def is_uniform(task: Mapping[str, Any]) -> bool:
    """Whether a record's ``case.task`` copies uniform strings."""
    return bool(task["name"] == "copy" and task.get("source", "uniform") == "uniform")


def half_length_fits(measured: float, formula: float) -> bool:
    """Whether a measured L½ is within one token and 3% of what it should be."""
    return abs(measured - formula) <= LENGTH_TOLERANCE + LENGTH_SHARE * formula


class Slope(NamedTuple):
    """By how much log2(L½ - n) grows with each token of n.

    Attributes
    ----------
    value, low, high : float
        With its 95% interval.
    expected : float
        ½·log2 D.
    points : int
        Lengths n that it goes through.
    """

    value: float
    low: float
    high: float
    expected: float
    points: int


def half_length_slope(points: Sequence[tuple[int, float, float, float]], vocab_size: int) -> Slope | None:
    """Fit a line through log2(L½ - n) by weighted least squares.

    The weights are 1/σ². σ has two parts: that of the 95% intervals of L½, and ``LENGTH_TOLERANCE``, one token, as L½
    is a whole number and the formula leaves out terms of about a token, which tilt the line where strings are short.
    The interval of the slope follows from σ alone: ``±1.96/sqrt(Σ (n - n̄)²/σ²)``.

    Parameters
    ----------
    points : sequence of (int, float, float, float)
        n, and L½ with the ends of its 95% interval.
    vocab_size : int
        D, for ½·log2 D.

    Returns
    -------
    Slope or None
        None for fewer than two n.
    """
    if len({n for n, *_ in points}) < 2:
        return None
    n = np.array([point[0] for point in points], dtype=np.float64)
    value, low, high = (np.array([point[place] for point in points], dtype=np.float64) for place in (1, 2, 3))
    y, bottom, top = (np.log2(np.maximum(length - n, 0.5)) for length in (value, low, high))
    token = np.log2(1 + LENGTH_TOLERANCE / np.maximum(value - n, 1.0))
    sigma = np.hypot((top - bottom) / (2 * _NORMAL), token)
    weight = 1 / sigma**2
    centred = n - np.average(n, weights=weight)
    spread = float((weight * centred**2).sum())
    slope = float((weight * centred * y).sum()) / spread
    half = _NORMAL / float(np.sqrt(spread))
    return Slope(slope, slope - half, slope + half, float(np.log2(vocab_size)) / 2, len(points))


_NORMAL = 1.959963984540054  # of a standard normal variable, 95% lie within it


def _agreement(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    keys = (
        *("strings", "positions", "disagreements", "undetermined"),
        *("rule_strings", "repeat_strings", "rule_disagreements"),
    )
    found = {"records": len(records)} | {key: sum(int(r["result"][key]) for r in records) for key in keys}
    for key in ("positions", "disagreements"):
        found[key] += sum(int(r["result"]["swapped"][key]) for r in records)
    return found


def _census(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rows = [(record["case"], row) for record in records for row in record["result"]["rows"]]
    shares = [
        {"share": _most(row) / row["states"], "engine": _label(case), "length": int(row["length"])}
        for case, row in rows
    ]
    return {
        "counts": len(rows),
        "strings": sum(int(row["strings"]) for _, row in rows),
        "above": sum(_most(row) > row["states"] for _, row in rows),
        "largest": max(shares, key=lambda found: float(found["share"]), default=None),
    }


def _most(row: Mapping[str, Any]) -> int:
    """Strings of a census that come out, teacher-forced or free."""
    return max(int(row["copied"]), int(row["free"]))


def _half_length(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    large: list[dict[str, Any]] = []
    small: list[dict[str, Any]] = []
    points: defaultdict[int, list[tuple[int, float, float, float]]] = defaultdict(list)
    for record in records:
        case, result = record["case"], record["result"]
        half, exact = result["half"], (result.get("exact") or {}).get("half")
        if not is_uniform(case["task"]) or half is None or half["value"] is None:
            continue
        d, n = int(case["task"]["vocab_size"]), int(case["n"])
        found = {"label": f"D = {d}, n = {n}", "value": float(half["value"])}
        if d**n >= ASYMPTOTIC:
            large.append({**found, "formula": float(result["formula"]["half"])})
            points[d].append((n, float(half["value"]), float(half["low"]), float(half["high"])))
        elif exact is not None:
            small.append({**found, "formula": float(exact)})
    slopes = {d: half_length_slope(found, d) for d, found in sorted(points.items())}

    def off(found: Mapping[str, Any]) -> float:
        value, formula = float(found["value"]), float(found["formula"])
        return abs(value - formula) / (LENGTH_TOLERANCE + LENGTH_SHARE * formula)

    return {
        "points": len(large),
        "outside": sum(not half_length_fits(found["value"], found["formula"]) for found in large),
        "worst": max(large, key=off, default=None),
        "small": len(small),
        "equal": sum(found["value"] == found["formula"] for found in small),
        "small_outside": sum(not half_length_fits(found["value"], found["formula"]) for found in small),
        "slopes": {d: slope._asdict() for d, slope in slopes.items() if slope is not None},
    }


_TESTS: dict[str, Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]] = {
    "agreement": _agreement,
    "census": _census,
    "half-length": _half_length,
}
"""What is tested on the records of a statistic."""
