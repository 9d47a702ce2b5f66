"""The report as Markdown, with the charts as SVG beside it."""

from __future__ import annotations

from collections.abc import Sequence

from ngram_copy.report import laws, learned
from ngram_copy.report.labels import number, percent, short_hash
from ngram_copy.report.plots import Chart, Missing
from ngram_copy.report.rows import Cell, Repeats, Summary
from ngram_copy.report.verdict import Verdict

CELL_HEADINGS = (
    "task",
    "engine",
    "L",
    "seed",
    "strings",
    "95%",
    "tokens",
    "bits recalled",
    "95%",
    "bits of state",
    "bound",
    "data",
    "case",
)
REPEAT_HEADINGS = ("text", "n", "window", "repeating", "share", "95%", "union bound", "exact", "data", "case")


LEARNED_HEADINGS = (*CELL_HEADINGS[:6], "verdict", *CELL_HEADINGS[6:10], "quantised", *CELL_HEADINGS[10:])
"""Of the cells where some engine is learned."""


def cell_table(cells: Sequence[Cell]) -> tuple[tuple[str, ...], list[list[str]], set[int]]:
    """Headings, rows, and the places of numbers; what only learned engines have is left out where there is none."""
    rows = [cell_row(cell) for cell in cells]
    if not any(cell.learned for cell in cells):
        return CELL_HEADINGS, rows, set(range(2, 11))
    for row, cell in zip(rows, cells, strict=True):
        row.insert(10, number(cell.kept.state_bits) if cell.kept else "–")
        row.insert(6, cell.verdict.text if cell.verdict else "–")
    return LEARNED_HEADINGS, rows, set(range(2, 13)) - {6}


def cell_row(cell: Cell) -> list[str]:
    """An accuracy cell under ``CELL_HEADINGS``."""
    mean, *interval = cell.recalled or (None,)
    return [
        cell.task,
        cell.engine,
        f"{cell.length}",
        f"{cell.seed}",
        cell.strings.count,
        cell.strings.interval,
        percent(cell.tokens.value) if cell.tokens else "–",
        "–" if mean is None else number(mean),
        "–" if mean is None else " to ".join(map(number, interval)),
        number(cell.state_bits),
        "–" if cell.bound is None else number(cell.bound),
        short_hash(cell.data_hash),
        cell.case_id,
    ]


def repeat_row(row: Repeats) -> list[str]:
    """A statistic under ``REPEAT_HEADINGS``."""
    formulas = ["–" if value is None else number(value) for value in (row.union, row.exact)]
    share = percent(row.windows.value)
    counts = [f"{row.n}", f"{row.length}", row.windows.count, share, row.windows.interval]
    return [row.task, *counts, *formulas, short_hash(row.data_hash), row.case_id]


def render(summary: Summary, charts: Sequence[Chart | Missing], verdicts: Sequence[Verdict], command: str) -> str:
    """The whole text."""
    lines = ["# How much is copied from the context?", "", *_verdicts(verdicts)]
    for chart in charts:
        lines += [f"## {chart.title}", ""]
        if isinstance(chart, Missing):
            lines += [f"No chart: there are no {chart.reason}.", ""]
        else:
            lines += [chart.sentence, "", f"![{chart.title}](charts/{chart.key}.svg)", "", chart.note, ""]
        lines += _learned(summary) if chart.key == learned.AFTER else []
    for table in laws.tables(summary):
        lines += [f"## {table.title}", "", table.note, "", *_table(table.headings, table.rows)]
    if summary.cells:
        headings, rows, _ = cell_table(summary.cells)
        lines += ["## All cells", "", *_table(headings, rows)]
    if summary.repeats:
        lines += ["## Repeats of n-grams", "", *_table(REPEAT_HEADINGS, [repeat_row(row) for row in summary.repeats])]
    if summary.failures:
        rows = [[f.task, f.engine, f.place, f.message, f.case_id] for f in summary.failures]
        lines += ["## Cases that could not be run", "", *_table(("task", "engine", "L", "error", "case"), rows)]
    lines += [
        "## Engines",
        "",
        *_table(("engine", "with all its options"), [[k, f"`{v}`"] for k, v in summary.engines.items()]),
    ]
    environment = [[key, ", ".join(values)] for key, values in summary.environment.items()]
    lines += [
        "## Environment",
        "",
        *_table(("", ""), [*environment, ["time of all cases", f"{summary.seconds:.1f} s"]]),
    ]
    return "\n".join([*lines, "## To make it again", "", "```", command, "```", ""])


def _learned(summary: Summary) -> list[str]:
    """What each model came to, and the rules; nothing without models."""
    outcomes = learned.outcomes(summary)
    if not outcomes and not summary.trainings:
        return []
    lines = [f"## {learned.TITLE}", ""]
    if outcomes:
        rules = [f"- **{word}**: {text}" for word, text in learned.RULES.items()]
        rows = [learned.outcome_row(row) for row in outcomes]
        lines += [learned.sentence(summary), "", learned.EVIDENCE, "", learned.FIRST, "", *rules, "", learned.OPEN, ""]
        lines += [learned.SEEDS, "", *_table(learned.OUTCOME_HEADINGS, rows)]
    if summary.trainings:
        lines += _table(learned.TRAINING_HEADINGS, [learned.training_row(row) for row in summary.trainings])
    return lines


def _verdicts(verdicts: Sequence[Verdict]) -> list[str]:
    return [
        "## Verdict",
        "",
        *(f"- **{v.word}**: {v.claim} {v.evidence[0].upper()}{v.evidence[1:]}." for v in verdicts),
        "",
    ]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in row) + " |"

    return [line(headings), f"|{' --- |' * len(headings)}", *map(line, rows), ""]
