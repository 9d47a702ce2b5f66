"""``compare``: the same cases of two runs, side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ngram_copy.cli.console import UserError, plain, plural, print_json, stdout, table
from ngram_copy.cli.matching import case_key, describe, read_results, require_same_data

if TYPE_CHECKING:
    from ngram_copy.results import Record


@dataclass(frozen=True)
class Difference:
    """One number of a case in two runs.

    Attributes
    ----------
    a, b : float
        The values.
    low, high : float
        95% interval of ``b - a`` for independent runs; on shared data it is wider than need be.
    """

    a: float
    b: float
    low: float
    high: float

    @property
    def change(self) -> float:
        """``b - a``."""
        return self.b - self.a


def proportions(a: dict[str, Any], b: dict[str, Any], successes: str = "correct") -> Difference:
    """The difference of two proportions with Newcombe's interval (1998, method 10) from their Wilson intervals."""
    p, q = a[successes] / a["total"], b[successes] / b["total"]
    low = q - p - math.hypot(q - b["low"], a["high"] - p)
    high = q - p + math.hypot(b["high"] - q, p - a["low"])
    return Difference(p, q, low, high)


def means(a: dict[str, Any], b: dict[str, Any]) -> Difference:
    """The difference of two means; half-widths of the intervals add as squares."""
    half = math.hypot((a["high"] - a["low"]) / 2, (b["high"] - b["low"]) / 2)
    change = b["mean"] - a["mean"]
    return Difference(a["mean"], b["mean"], change - half, change + half)


def compare(
    a: Annotated[Path, typer.Argument(help="A results folder: the reference.")],
    b: Annotated[Path, typer.Argument(help="A results folder: what is compared with it.")],
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Exit 1 if whole-string accuracy drops by more than this in a cell.")
    ] = 0.0,
    bits: Annotated[
        float, typer.Option(min=0, help="Exit 1 if the bits recalled drop by more than this in a cell.")
    ] = 0.001,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")] = False,
) -> None:
    """Compare two runs on the cases that both have.

    Cases are matched by task, engine, length, seed and number of examples; tasks
    and engines by their options as well, and models by their weights: those of
    which anything differs are counted, and some named, as not compared.
    Exit code 1: in some case B is worse than A by more than a threshold, or
    failed where A has a result. Data of different hashes are refused.

    [bold]Examples[/bold]

      ngram-copy compare results/before results/after

      ngram-copy compare results/before results/after --threshold 0.01 --bits 2
    """
    first = {case_key(record): record for record in read_results(a)}
    second = {case_key(record): record for record in read_results(b)}
    both = [key for key in first if key in second and first[key]["kind"] != "error"]
    broken = [first[key] for key in both if second[key]["kind"] == "error"]
    pairs = [(first[key], second[key]) for key in both if second[key]["kind"] == first[key]["kind"]]
    if not pairs and not broken:
        raise UserError(f"{a} and {b} share no case")
    require_same_data(pairs)
    rows = [(record, *_differences(record, other)) for record, other in pairs]
    worse = [
        record
        for record, strings, recalled in rows
        if record["kind"] == "accuracy"
        and ((strings and -strings.change > threshold) or (recalled and -recalled.change > bits))
    ]
    lonely = (
        [record for key, record in first.items() if key not in both],
        [record for key, record in second.items() if key not in both],
    )
    if as_json:
        print_json(
            {
                "cells": [_as_json(record, strings, recalled) for record, strings, recalled in rows],
                "worse": [record["case_id"] for record in worse],
                "failed": [record["case_id"] for record in broken],
                "only_in_a": len(lonely[0]),
                "only_in_b": len(lonely[1]),
            }
        )
    else:
        _show(rows, worse, broken, lonely)
    if worse or broken:
        raise typer.Exit(1)


_NAMED = 5  # of the cells that only one run has

_Row = tuple["Record", Difference | None, Difference | None]


def _differences(a: Record, b: Record) -> tuple[Difference | None, Difference | None]:
    first, second = a["result"], b["result"]
    if a["kind"] == "accuracy":
        recalled = first["bits_recalled"] and second["bits_recalled"]
        return (
            proportions(first["strings"], second["strings"]),
            means(first["bits_recalled"], second["bits_recalled"]) if recalled else None,
        )
    if a["kind"] == "statistic" and "windows" in first:
        return proportions({**first["windows"], **first["p"]}, {**second["windows"], **second["p"]}, "repeating"), None
    return None, None


def _as_json(record: Record, strings: Difference | None, recalled: Difference | None) -> dict[str, Any]:
    def numbers(found: Difference | None) -> dict[str, float] | None:
        if found is None:
            return None
        return {"a": found.a, "b": found.b, "change": found.change, "low": found.low, "high": found.high}

    name = "repeats" if record["kind"] == "statistic" else "strings"
    return {"case_id": record["case_id"], "case": record["case"], name: numbers(strings), "bits": numbers(recalled)}


def _show(
    rows: list[_Row], worse: list[Record], broken: list[Record], lonely: tuple[list[Record], list[Record]]
) -> None:
    screen = stdout()
    changed = [row for row in rows if any(found and found.change for found in row[1:])]
    if changed:
        columns = ("strings", "change (95%)", "bits recalled", "change (95%) ")
        shown = table("cell", *columns, right=columns)
        for record, strings, recalled in changed:
            style = "red" if record in worse else None
            shown.add_row(plain(describe(record)), *_cells(strings, ".4f"), *_cells(recalled, ".2f"), style=style)
        screen.print(shown)
    screen.print(f"{plural(len(rows), 'shared cell')}: {len(rows) - len(changed):,} equal, {len(changed):,} changed.")
    if any(lonely):
        counts = f"{plural(len(lonely[0]), 'cell')} only in A, {len(lonely[1]):,} only in B (or failed in A)"
        screen.print(f"Not compared: {counts}.")
        for name, records in zip("AB", lonely, strict=True):
            for record in records[:_NAMED]:
                screen.print(f"  {name}: {plain(describe(record))}")
            if len(records) > _NAMED:
                screen.print(f"  {name}: {len(records) - _NAMED:,} more")
    for record in broken:
        screen.print(f"[red]Failed in B:[/red] {plain(describe(record))}")
    if worse:
        screen.print(f"[red]{plural(len(worse), 'cell')} worse than the threshold.[/red]")


def _cells(found: Difference | None, form: str) -> tuple[str, str]:
    if found is None:
        return "", ""
    interval = f"({found.low:+{form}} … {found.high:+{form}})"
    return f"{found.a:{form}} → {found.b:{form}}", f"{found.change:+{form}} {interval}"
