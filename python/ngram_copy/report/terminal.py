"""The report as a table in the terminal: 100 columns, readable without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ngram_copy.report import laws, learned
from ngram_copy.report.labels import number, percent
from ngram_copy.report.rows import Agreement, Cell, Census, HalfLength, Precision, Summary, Training
from ngram_copy.report.summary import summarise
from ngram_copy.report.verdict import Verdict, judge
from ngram_copy.score import COPIES

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
        title = "Whole strings copied, in % of all of a length; bits at the longest length, and the most recalled"
        parts += [_title(title), _cells(summary.cells)]
    parts += _learned(summary)
    if summary.repeats:
        parts += [_title("Windows in which some n-gram repeats, in %"), _repeats(summary)]
    parts += _theory(summary)
    parts += [_failures(summary)] if summary.failures else []
    parts += [_verdict(verdict) for verdict in judge(verdicts)] if verdicts is not None else []
    return Group(*parts)


def _title(text: str) -> Text:
    """A line of its own: the title of a narrow table would be broken to the table's width."""
    return Text(text, style="bold")


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)


def _cells(cells: Sequence[Cell]) -> Table:
    """A row for each task and engine; the page has every cell, with its interval and seed."""
    found = _table()
    found.add_column("engine", overflow="fold")
    found.add_column("length:%", overflow="fold", ratio=1)
    for name in ("state bits", "recalled"):
        found.add_column(name, justify="right", no_wrap=True)
    for task, of_task in groupby(cells, lambda cell: cell.task):
        found.add_section()
        found.add_row(Text(task, style="bold", overflow="fold"))
        for engine, group in groupby(of_task, lambda cell: cell.engine):
            rows = list(group)
            recalled = [cell.recalled[0] for cell in rows if cell.recalled is not None]
            found.add_row(
                f"  {engine}",
                "  ".join(f"{length}:{_share(rows, length)}" for length in sorted({cell.length for cell in rows})),
                number(max(rows, key=lambda cell: cell.length).state_bits),
                number(max(recalled)) if recalled else "–",
            )
    return found


def _share(cells: Sequence[Cell], length: int) -> str:
    """Whole strings of a length over all seeds, in %; of a learned engine the least and the most of its seeds."""
    strings = [cell.strings for cell in cells if cell.length == length]
    if any(cell.learned for cell in cells):
        return "–".join(dict.fromkeys(_percent(pick(s.value for s in strings)) for pick in (min, max)))
    return _percent(sum(s.correct for s in strings) / sum(s.total for s in strings))


def _learned(summary: Summary) -> list[RenderableType]:
    """A row for each model and task, with its verdicts; nothing without models."""
    outcomes = learned.outcomes(summary)
    if not outcomes:
        return []
    found = _table()
    found.add_column("model / seed", overflow="fold")
    found.add_column("trained on", no_wrap=True)
    for name in (f"≥{COPIES:.0%} to L", "solved", "bits"):
        found.add_column(name, justify="right", no_wrap=True)
    found.add_column("verdict by length", overflow="fold", ratio=1)
    for task, of_task in groupby(outcomes, lambda row: row.cells[0].task):
        found.add_section()
        found.add_row(Text(task, style="bold"))
        for row in of_task:
            cell, best = row.cells[0], row.best
            ends = [best.recalled[1]] if best and best.recalled else []
            ends += [best.kept.state_bits] if best and best.kept else []
            found.add_row(
                f"  {cell.engine} / {cell.seed}",
                learned.trained_on(cell.trained) or "–",
                "none" if row.longest is None else f"{row.longest}",
                _solved(row.training) if row.training else "–",
                "–".join(map(_compact, ends)) or "–",
                row.verdicts,
            )
    title = "Learned models; bits: most recalled (lower limit) to the quantised state that keeps them"
    notes = [learned.sentence(summary), learned.EVIDENCE]
    notes += [learned.OPEN] if any("?" in row.verdicts for row in outcomes) else []
    return [_title(title), found, Text(" ".join(notes) + "\n")]


def _solved(training: Training) -> str:
    """Examples to solve."""
    if training.examples_to_solve is None:
        return f">{_compact(training.examples)}"
    return _compact(training.examples_to_solve)


def _compact(value: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _percent(value: float) -> str:
    return percent(value).removesuffix("%")


def _repeats(summary: Summary) -> Table:
    """A row for each text and n."""
    found = _table()
    found.add_column("text", overflow="fold")
    found.add_column("n", justify="right", no_wrap=True)
    found.add_column("window:%", overflow="fold", ratio=1)
    for task, of_task in groupby(summary.repeats, lambda row: row.task):
        found.add_section()
        for n, group in groupby(of_task, lambda row: row.n):
            shares = [f"{row.length}:{_percent(row.windows.value)}" for row in group]
            found.add_row(task, f"{n}", "  ".join(shares))
    return found


def _theory(summary: Summary) -> list[RenderableType]:
    """The statistics of the theory, each in a few columns; nothing without them."""
    parts: list[RenderableType] = []
    if summary.half_lengths:
        title = "The longest copies by the heads n of a constructed transformer, with 95% intervals"
        parts += [_title(title), _half_lengths(summary.half_lengths)]
        for series, slope in laws.slopes_of(summary.half_lengths).items():
            found = f"{slope.value:.3f} (95%: {slope.low:.3f} to {slope.high:.3f})"
            parts.append(Text(f"slope of log2(L½ − n) at {series}: {found}, ½·log2 D = {slope.expected:.3f}"))
        parts.append(Text())
    if summary.agreements:
        parts += [_title("The constructed transformer against the n-gram copier"), _agreements(summary.agreements)]
    if summary.censuses:
        title = "A census: all strings of the longest length, and the most copied of any"
        parts += [_title(title), _censuses(summary.censuses)]
    if summary.precisions:
        title = "The n·m at which a number format breaks the constructed transformer"
        parts += [_title(title), _precisions(summary.precisions)]
    return parts


def _half_lengths(rows: Sequence[HalfLength]) -> Table:
    found = _columns("strings", "n", "L at error 1/2", "formula", "exact", "L at error 1%", "parameters")
    for series, group in groupby(rows, lambda row: row.series):
        found.add_section()
        for row in group:
            formula, exact = (known.get("half") for known in (row.formula, row.exact))
            found.add_row(
                *(series, f"{row.n}", row.half.text if row.half else "–"),
                *("–" if formula is None else f"{formula:,.1f}", "–" if exact is None else f"{exact:,.0f}"),
                *(f"{row.one_percent.value:,.0f}" if row.one_percent else "–", f"{row.parameters:,}"),
            )
    return found


def _agreements(rows: Sequence[Agreement]) -> Table:
    found = _columns("task", "n", "strings", "positions", "disagree", "with a repeat", "against the rule")
    for row in rows:
        found.add_row(
            *(row.task, f"{row.n}", f"{row.strings:,}", f"{row.positions + row.swapped_positions:,}"),
            f"{row.disagreements + row.swapped_disagreements:,}",
            *(f"{row.repeat_strings:,}", f"{row.rule_disagreements:,}"),
        )
    return found


def _censuses(rows: Sequence[Census]) -> Table:
    found = _columns("engine", "L", "strings", "states", "copied", "most copied of the states")
    for row in rows:
        share, at = row.largest
        found.add_row(row.engine, *(f"{count:,}" for count in row.rows[-1]), f"{percent(share)} at L = {at}")
    return found


def _precisions(rows: Sequence[Precision]) -> Table:
    found = _columns("task", "format", "n·m tried to", "first failure", "allowed to")
    for row in rows:
        found.add_row(
            *(row.task, row.dtype, f"{max(product for _, product, _, _ in row.rows)}" if row.rows else "–"),
            "none" if row.first_failure is None else f"{row.first_failure}",
            "–" if row.limit is None else f"{row.limit:,}",
        )
    return found


def _columns(first: str, *numbers: str) -> Table:
    """A table whose columns are numbers, but for the first."""
    found = _table()
    found.add_column(first, overflow="fold")
    for name in numbers:
        found.add_column(name, justify="right")
    return found


def _failures(summary: Summary) -> Text:
    lines = [f"✗ {f.task} {f.engine} L={f.place}: {f.message}" for f in summary.failures]
    return Text("\n".join([f"{len(lines)} cases could not be run:", *lines]))


def _verdict(verdict: Verdict) -> Text:
    mark, style = _MARKS[verdict.word]
    return Text.assemble((f"{mark} {verdict.word}", style), f"  {verdict.claim} ", (verdict.evidence, "dim"))
