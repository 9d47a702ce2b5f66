"""The report as a table in the terminal: 100 columns, readable without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ngram_copy.report.summary import Cell, Summary, number, percent, summarise
from ngram_copy.report.verdict import Verdict, judge

_MARKS = {"holds": ("✓", "green"), "FAILS": ("✗", "bold red"), "not tested": ("·", "dim")}


def table(records: Sequence[Mapping[str, Any]], *, verdicts: Mapping[str, Any] | None = None) -> RenderableType:
    """All accuracy cells, grouped by task and engine, the repeats of n-grams, and the verdicts.

    Parameters
    ----------
    records : sequence of mapping
        Records of schema ``ngram-copy/1``.
    verdicts : mapping, optional
        What ``score.verdicts`` found.

    Returns
    -------
    renderable
        For ``rich.console.Console.print``.

    Raises
    ------
    ValueError
        As ``summarise``.
    """
    summary = summarise(records)
    parts: list[RenderableType] = []
    if summary.cells:
        parts.append(_cells(summary.cells))
    if summary.repeats:
        parts.append(_repeats(summary))
    parts += [_failures(summary)] if summary.failures else []
    parts += [_verdict(verdict) for verdict in judge(verdicts)] if verdicts is not None else []
    return Group(*parts)


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False
    )


def _cells(cells: Sequence[Cell]) -> Table:
    found = _table("Accuracy (whole strings with 95% interval; bits at the cut)")
    found.add_column("engine", min_width=16, overflow="fold")
    seeds = len({cell.seed for cell in cells}) > 1
    for name in ("L", *(["seed"] if seeds else []), "strings", "95%", "tokens", "recalled", "state", "bound"):
        found.add_column(name, justify="right", no_wrap=True)
    for task, rows in groupby(cells, lambda cell: cell.task):
        found.add_section()
        found.add_row(Text(task, style="bold", overflow="fold"))
        before = ""
        for cell in rows:
            found.add_row(
                "" if cell.engine == before else f"  {cell.engine}",
                f"{cell.length}",
                *([f"{cell.seed}"] if seeds else []),
                cell.strings.count,
                f"{cell.strings.low:.2f}–{cell.strings.high:.2f}",
                percent(cell.tokens.value),
                "–" if cell.recalled is None else number(cell.recalled[0]),
                number(cell.state_bits),
                "–" if cell.bound is None else number(cell.bound),
            )
            before = cell.engine
    return found


def _repeats(summary: Summary) -> Table:
    found = _table("Windows in which some n-gram repeats (95% interval; uniform tokens by formula)")
    found.add_column("text", min_width=16, overflow="fold")
    for name in ("n", "window", "repeating", "share", "95%", "union", "exact"):
        found.add_column(name, justify="right", no_wrap=True)
    for task, rows in groupby(summary.repeats, lambda row: row.task):
        found.add_section()
        for place, row in enumerate(rows):
            found.add_row(
                task if place == 0 else "",
                f"{row.n}",
                f"{row.length}",
                row.windows.count,
                percent(row.windows.value),
                f"{row.windows.low:.3f}–{row.windows.high:.3f}",
                *("–" if value is None else f"{value:.2g}" for value in (row.union, row.exact)),
            )
    return found


def _failures(summary: Summary) -> Text:
    lines = [f"✗ {f.task} {f.engine} L={f.length}: {f.message}" for f in summary.failures]
    return Text("\n".join([f"{len(lines)} cases could not be run:", *lines]))


def _verdict(verdict: Verdict) -> Text:
    mark, style = _MARKS[verdict.word]
    return Text.assemble((f"{mark} {verdict.word}", style), f"  {verdict.claim} ", (verdict.evidence, "dim"))
