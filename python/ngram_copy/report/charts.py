"""The charts of a report: rows to Altair."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby, pairwise
from statistics import median
from typing import Any

import altair as alt

from ngram_copy import theory
from ngram_copy.report import laws, learned, memory, plots, sentences
from ngram_copy.report.labels import number, option, percent
from ngram_copy.report.learned import trained_on
from ngram_copy.report.plots import Chart, Data, Missing, Panel, Row
from ngram_copy.report.rows import Cell, Repeats, Summary, Training
from ngram_copy.report.style import SHADE, Style, engine_styles, plain_styles, shaded_styles

CROWD = 6
"""Engines on one task beyond which each kind of them has a panel of its own."""


def build(summary: Summary) -> list[Chart | Missing]:
    """All charts of a report, in the order of the page; those of learned models only where there are some."""
    drawn = [chart(summary) for chart in _IN_ORDER]
    return [chart for chart in drawn if chart is not None]


# --- (a) bits recalled against bits of state ------------------------------------------------------------


def bits(summary: Summary) -> Chart | Missing:
    """Bits recalled against bits of state at the cut: a point for each cell, the diagonal is the law."""
    key, title = "bits", "Bits recalled against bits of state"
    known = [(cell, cell.recalled) for cell in summary.cells if cell.recalled is not None]
    if not known:
        return Missing(key, title, "accuracy records of a task whose source is known (bits_recalled is not null)")
    cells = [cell for cell, _ in known]
    styles = engine_styles(cells)
    floor = min(1.0, *(cell.state_bits for cell in cells))
    rows = []
    for cell, (mean, *interval) in known:
        low, high = (max(end, floor) for end in interval)
        rows.append({**plots.cell_row(cell), "x": cell.size, "y": max(mean, floor), "low": low, "high": high})
    whole = [{**row, "end": cell.state_bits} for row, cell in zip(rows, cells, strict=True) if cell.kept]
    note = (
        "One point for each task, engine, length and seed, with its 95% interval. The diagonal is the law: whoever "
        "answers from a state of b bits recalls at most b bits on average, E[B] ≤ b, however it was made. On the line "
        "each bit of the state serves the answer; far below, most of the state is idle."
    )
    if whole:
        note += (
            " A learned model (dark edge) stands at the smallest quantised state that keeps 99% of its bits recalled; "
            "the line to the right ends at its state as it is, whose floating-point numbers have room for more."
        )
    sunk = sum(mean < floor for _, (mean, *_) in known)
    if sunk:
        note += (
            f" {sunk} at the lower edge recall{'s' if sunk == 1 else ''} less than {number(floor)} bit, or a negative "
            "number: sure of wrong tokens, worse than the source alone."
        )
    panel = memory.law_panel("", rows, styles, plots.cell_tips(cells), floor, whole=whole)
    return Chart(key, title, sentences.bits(cells), note, [panel], styles, height=460, columns=1)


# --- (b) whole strings against length -------------------------------------------------------------------


def strings(summary: Summary) -> Chart | Missing:
    """Whole strings against length: a panel for each task, the bound of each engine as a dashed line."""
    key, title = "strings", "Whole strings against length"
    if not summary.cells:
        return Missing(key, title, "accuracy records")
    styles = engine_styles(summary.cells)
    panels = []
    for task, group in groupby(summary.cells, _task):
        cells = list(group)
        models = [cell for cell in cells if cell.learned]
        others = [cell for cell in cells if not cell.learned]
        # Many engines on one task: a panel for each kind of them.
        crowded = len({cell.engine for cell in others}) > CROWD
        for lengths in sorted({cell.trained or (0, 0) for cell in models}):
            these = [cell for cell in models if (cell.trained or (0, 0)) == lengths]
            beside = _best_of_each_kind(others) if crowded else others
            heading = f"{task}: {trained_on(these[0].trained, 'trained on {}') or 'learned'}"
            panels.append(_strings_panel(heading, [*beside, *these], styles, these[0].trained))
        if models and not crowded:
            continue
        for family in dict.fromkeys(cell.family for cell in others) if crowded else [""]:
            shown = [cell for cell in others if not crowded or cell.family == family]
            panels.append(_strings_panel(f"{task}: {family}" if crowded else task, shown, styles))
    note = (
        "Points: whole strings, with their 95% Wilson interval. Dashed: the bound min(1, 2^(b − H_min)), "
        "where it is below 1."
    )
    if any(cell.learned for cell in summary.cells):
        note += (
            " Learned models (dark edge) have a point for each seed, side by side at their length; their line goes "
            "through the median of the seeds. Shaded: the lengths of their training. Where symbolic engines are many, "
            "the best of each kind stands beside them."
        )
    return Chart(key, title, sentences.strings(summary.cells), note, panels, styles)


def _task(row: Cell | Repeats) -> str:
    return row.task


def _best_of_each_kind(cells: Sequence[Cell]) -> list[Cell]:
    """Of each kind of engine the one with most whole strings, and of several the smallest state."""

    def merit(engine: str) -> tuple[float, float]:
        mine = [cell for cell in cells if cell.engine == engine]
        return sum(cell.strings.value for cell in mine) / len(mine), -max(cell.state_bits for cell in mine)

    kinds: dict[str, dict[str, None]] = {}
    for cell in cells:
        kinds.setdefault(cell.family, {})[cell.engine] = None
    best = {max(engines, key=merit) for engines in kinds.values()}
    return [cell for cell in cells if cell.engine in best]


def _strings_panel(
    title: str, cells: list[Cell], styles: dict[str, Style], trained: tuple[int, int] | None = None
) -> Panel:
    models = [cell for cell in cells if cell.learned]
    aside = _seeds_aside(models)
    rows = [{**plots.cell_row(cell), "x": cell.length, **plots.span(cell.strings)} for cell in cells]
    x, y = plots.log_x([row["x"] for row in rows], "length L"), plots.share_axis("whole strings")
    tips = plots.cell_tips(cells)
    if not models:
        return plots.panel(title, rows, _bound_line(cells), x, y, styles, tips)
    through = [row for row, cell in zip(rows, cells, strict=True) if not cell.learned] + _medians(models)
    rows = [{**row, "dodge": aside[cell.seed] if cell.learned else 0} for row, cell in zip(rows, cells, strict=True)]
    panel = plots.panel(title, rows, _bound_line(cells), x, y, styles, tips, through=through)
    if trained is None:
        return panel
    # No wider than what is drawn, and a little beyond where training went on.
    low, high = (
        max(trained[0], 0.8 * min(row["x"] for row in rows)),
        min(trained[1], 1.25 * max(row["x"] for row in rows)),
    )
    shade = panel.data.base([{"x": low, "end": high}]) if low <= high else None
    layers = [] if shade is None else [shade.mark_rect(color=SHADE).encode(x=x, x2="end:Q")]
    return Panel(panel.title, layers + panel.layers, panel.data)


def _seeds_aside(cells: Sequence[Cell | Training]) -> dict[int, float]:
    """By how many pixels the points of each seed are moved."""
    seeds = sorted({cell.seed for cell in cells})
    step = min(4.0, 12 / len(seeds)) if seeds else 0.0
    return {seed: step * (place - (len(seeds) - 1) / 2) for place, seed in enumerate(seeds)}


def _medians(cells: Sequence[Cell]) -> list[Row]:
    """The median of the seeds of each engine at each length."""
    shares: dict[tuple[str, int], list[float]] = {}
    for cell in cells:
        shares.setdefault((cell.engine, cell.length), []).append(cell.strings.value)
    return [
        {"series": engine, "seed": "median", "x": length, "y": median(values)}
        for (engine, length), values in sorted(shares.items())
    ]


def _bound_line(cells: Sequence[Cell], steps: int = 24) -> list[Row]:
    """The string bound between the measured lengths; b and H_min are linear in L for sources without memory."""

    def series(cell: Cell) -> tuple[str, int]:
        return (cell.engine, cell.seed)

    rows: list[Row] = []
    for (engine, seed), group in groupby(sorted(cells, key=lambda cell: (*series(cell), cell.length)), series):
        known = [(cell.length, cell.state_bits, cell.h_min) for cell in group if cell.h_min is not None]
        points: list[Row] = []
        for (l0, b0, h0), (l1, b1, h1) in pairwise(known):
            for step in range(steps + 1):
                t = step / steps
                bound = theory.string_bound(b0 + (b1 - b0) * t, h0 + (h1 - h0) * t)
                points.append({"series": engine, "seed": seed, "x": l0 + (l1 - l0) * t, "y": bound})
        if any(point["y"] < 1 for point in points):
            rows += points
    return rows


# --- (c) training ---------------------------------------------------------------------------------------


def training(summary: Summary) -> Chart | None:
    """Loss and whole strings by examples seen, and the examples until the task was solved."""
    rows = summary.trainings
    if not rows:
        return None
    styles = engine_styles([*summary.cells, *rows])
    styles = {label: style for label, style in styles.items() if label in {row.engine for row in rows}}
    losses = [
        {
            **_training_row(row),
            "x": seen,
            "y": max(loss, _LEAST_LOSS),
            "loss": f"{loss:.3g}",
            "examples": f"{seen:,.0f}",
        }
        for row in rows
        for seen, loss in _thinned(row.losses)
        if seen > 0
    ]
    shares = [
        {**_training_row(row), "x": seen, "y": k / n, "strings": f"{k}/{n} = {percent(k / n)}", "examples": f"{seen:,}"}
        for row in rows
        for seen, k, n in row.evaluations
        if seen > 0
    ]
    panels = []
    if losses:
        y = alt.Y("y:Q", **plots.log_axis(losses, "y", "loss on the answer, nats"))
        tips = plots.tips(series="engine", seed="seed", examples="examples seen", loss="loss")
        panels.append(_curves("loss", losses, y, styles, tips, marks=False))
    if shares:
        y = plots.share_axis("whole strings")("y")
        tips = plots.tips(series="engine", seed="seed", examples="examples seen", strings="whole strings")
        panels.append(_curves("whole strings of the longest trained length", shares, y, styles, tips))
    panels.append(_to_solve(rows, styles))
    note = (
        "A line and a mark for each seed. Solved: two evaluations in a row with at least 95% of whole strings of the "
        "longest trained length; the count is that of the first. A hollow triangle: not solved after that many "
        "examples. The tick is the median of the seeds, where most of them solved it."
    )
    return Chart("training", "Training", learned.training(rows), note, panels, styles)


_LEAST_LOSS = 1e-4


def _training_row(row: Training) -> Row:
    return {"series": row.engine, "seed": row.seed}


def _thinned(points: Sequence[tuple[float, float]], most: int = 80) -> list[tuple[float, float]]:
    """Means of neighbours, so that there are at most so many points."""
    size = math.ceil(len(points) / most) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _curves(
    title: str, rows: list[Row], y: Any, styles: dict[str, Style], tips: list[alt.Tooltip], *, marks: bool = True
) -> Panel:
    """A line for each seed; its points, if they are not marked, answer to the pointer alone."""
    data = Data()
    x = alt.X("x:Q", **plots.log_axis(rows, "x", "examples seen"))
    base = data.base(rows).encode(x=x, y=y, color=plots.colour(styles), detail="seed:N")
    line = base.mark_line(strokeWidth=1.4).encode(opacity=plots.opacity(0.9))
    points = base.mark_point(filled=True, size=18).encode(
        shape=plots.shape(styles), opacity=plots.opacity(0.9) if marks else alt.value(0), tooltip=tips
    )
    return Panel(title, [line, points], data)


def _to_solve(trainings: Sequence[Training], styles: dict[str, Style]) -> Panel:
    """A row for each engine, a mark for each seed."""
    aside = _seeds_aside(trainings)
    rows = [
        {
            **_training_row(row),
            "x": row.examples if row.examples_to_solve is None else row.examples_to_solve,
            "solved": row.examples_to_solve is not None,
            "text": row.to_solve,
            "lr": f"{row.lr:g}",
            "parameters": f"{row.parameters:,}",
            "dodge": 1.5 * aside[row.seed],
        }
        for row in trainings
    ]
    data = Data()
    x = alt.X("x:Q", **plots.log_axis(rows, "x", "examples to solve"))
    y = alt.Y("series:N", title=None, sort=list(styles), axis=alt.Axis(labelLimit=140, ticks=False, grid=True))
    tips = plots.tips(
        series="engine", seed="seed", text="examples to solve", lr="learning rate", parameters="parameters"
    )

    def base(shown: list[Row]) -> Any:
        return data.base(shown).encode(x=x, y=y, color=plots.colour(styles), opacity=plots.opacity(0.9))

    solved, unsolved = ([row for row in rows if row["solved"] is found] for found in (True, False))
    middles = [
        {"series": label, "x": median(values)}
        for label in styles
        # An unsolved seed comes after all that are solved.
        for values in [[row["x"] if row["solved"] else math.inf for row in rows if row["series"] == label]]
        if len(values) > 1 and math.isfinite(median(values))
    ]
    layers = []
    if middles:
        layers.append(base(middles).mark_tick(thickness=2, size=18))
    if solved:
        marks = base(solved).mark_point(filled=True, size=60, yOffset=alt.ExprRef("datum.dodge"))
        layers.append(marks.encode(shape=plots.shape(styles), tooltip=tips, **plots.edge(styles)))
    if unsolved:
        marks = base(unsolved).mark_point(
            filled=False, size=60, shape="triangle-right", yOffset=alt.ExprRef("datum.dodge")
        )
        layers.append(marks.encode(tooltip=tips))
    return Panel("examples to solve", layers, data)


# --- (d) classes of errors ------------------------------------------------------------------------------

ERRORS = {
    "jump": "jump: to another occurrence of its n-gram",
    "skip": "skip: left tokens out",
    "stop": "stop: ended early",
    "none": "none: no token",
    "other": "other",
}
"""Classes of errors in the order of the bars."""


def errors(summary: Summary) -> Chart | None:
    """How strings went wrong: a panel for each task and learned engine, a bar for each length."""
    failed = {(cell.task, cell.engine) for cell in summary.cells if learned.classes(cell)}
    cells = [cell for cell in summary.cells if cell.errors and (cell.task, cell.engine) in failed]
    if not cells:
        return None
    found = {name for cell in cells for name in learned.classes(cell)}
    styles = plain_styles([ERRORS[name] for name in ERRORS if name in found] + sorted(found - set(ERRORS)))
    several = len({cell.task for cell in cells}) > 1
    panels = []
    for task, of_task in groupby(cells, _task):
        for engine, group in groupby(of_task, lambda cell: cell.engine):
            panels.append(_errors_panel(f"{task}: {engine}" if several else engine, list(group), styles))
    note = (
        "Strings of a sample that fail in free generation, by their first wrong token, of all strings of the sample; "
        "what is missing to 100% is right. The seeds of an engine are added up."
    )
    return Chart("errors", "How strings go wrong", learned.errors(cells), note, panels, styles, height=180)


def _errors_panel(title: str, cells: list[Cell], styles: dict[str, Style]) -> Panel:
    rows = []
    for length in sorted({cell.length for cell in cells}):
        here = [cell for cell in cells if cell.length == length]
        checked = sum(_checked(cell) for cell in here)
        below = 0
        for label in styles:
            count = sum(
                count
                for cell in here
                for name, count in learned.classes(cell).items()
                if ERRORS.get(name, name) == label
            )
            if count:
                share = {"y": below / checked, "end": (below + count) / checked}
                text = f"{count} of {checked} strings"
                rows.append({"series": label, "engine": here[0].engine, "length": length, **share, "count": text})
                below += count
    data = Data()
    tips = plots.tips(engine="engine", length="length", series="error", count="strings")
    x = alt.X("length:O", title="length L", axis=alt.Axis(labelAngle=0, labelOverlap="greedy"))
    bars = data.base(rows).encode(
        x=x, y=plots.share_axis("strings of the sample")("y"), y2="end:Q", color=plots.colour(styles)
    )
    return Panel(title, [bars.mark_bar(size=16).encode(opacity=plots.opacity(0.9), tooltip=tips)], data)


def _checked(cell: Cell) -> int:
    """Strings of the sample; at least those that failed."""
    return max(int(cell.errors.get("checked", 0)), sum(learned.classes(cell).values()))


# --- (e) how often an n-gram repeats --------------------------------------------------------------------


def repeats(summary: Summary) -> Chart | Missing:
    """P(some n-gram repeats within a window), measured, against the formulas for uniform tokens."""
    key, title = "repeats", "How often some n-gram repeats within a window"
    if not summary.repeats:
        return Missing(key, title, "statistic records ('repeats')")
    styles = plain_styles([f"n={n}" for n in sorted({row.n for row in summary.repeats})])
    panels = [_repeats_panel(task, list(rows), styles) for task, rows in groupby(summary.repeats, _task)]
    note = (
        "Points: windows in which some n-gram occurs twice, with their 95% Wilson interval: where the n-gram copier "
        "must fail. Dashed: the same for uniform tokens of as many kinds, by formula (exact where it is feasible, else "
        "the union bound)."
    )
    return Chart(key, title, sentences.repeats(summary.repeats), note, panels, styles)


def _repeats_panel(title: str, repeats: list[Repeats], styles: dict[str, Style]) -> Panel:
    rows = []
    for row in repeats:
        exact, union = ("none" if value is None else f"{value:.3g}" for value in (row.exact, row.union))
        texts = {"task": row.task, "windows": row.windows.count, "p": plots.with_interval(row.windows)}
        formula = row.union if row.exact is None else row.exact
        rows.append(
            {"series": f"n={row.n}", "seed": row.seed, "x": row.length, **plots.span(row.windows), **texts}
            | {"formula": formula, "exact": exact, "union": union}
        )
    tips = plots.tips(
        task="task",
        series="n-gram",
        x="window",
        seed="seed",
        windows="with a repeat",
        p="share",
        exact="exact",
        union="union bound",
    )
    x, y = plots.log_x([row["x"] for row in rows], "window, tokens"), plots.share_axis("windows with a repeat")
    formulas = [{**row, "y": row["formula"]} for row in rows if row["formula"] is not None]
    return plots.panel(title, rows, formulas, x, y, styles, tips)


# --- (f) bounded tables ---------------------------------------------------------------------------------


def tables(summary: Summary) -> Chart | Missing:
    """Bounded tables by size: load, collisions, tokens and whole strings right, a panel of each for each task."""
    key, title = "tables", "Bounded tables by their number of slots"
    cells = [cell for cell in summary.cells if cell.diagnostics.get("slots") and "slots" in cell.engine_options]
    sizes = {(cell.task, cell.engine_options["slots"]) for cell in cells}
    tasks = [task for task in dict.fromkeys(map(_task, cells)) if sum(task == name for name, _ in sizes) > 1]
    cells = [cell for cell in cells if cell.task in tasks]
    if not cells:
        return Missing(
            key, title, "accuracy records of the engine 'bounded' with two numbers of slots or more on one task"
        )
    varied = {
        key
        for cell in cells
        for key, value in cell.engine_options.items()
        if key not in {"name", "slots"} and any(other.engine_options.get(key) != value for other in cells)
    }
    kinds = {
        cell.case_id: " ".join(option(k, v) for k, v in cell.engine_options.items() if k in varied) for cell in cells
    }
    labels = {cell.case_id: f"{kinds[cell.case_id]} L={cell.length}".strip() for cell in cells}
    pairs = sorted({(kinds[cell.case_id], cell.length, labels[cell.case_id]) for cell in cells})
    styles = shaded_styles({label: kind for kind, _, label in pairs})
    panels = []
    for task in tasks:
        here = [cell for cell in cells if cell.task == task]
        for name, heading in _TABLE_PANELS.items():
            dodges = _dodges([(cell.engine_options["slots"], kinds[cell.case_id]) for cell in here])
            rows = [
                {**_table_row(cell, labels[cell.case_id], name), "dodge": dodge}
                for cell, dodge in zip(here, dodges, strict=True)
            ]
            x, y = plots.log_x([row["x"] for row in rows], "slots M", base=2), plots.share_axis(heading)
            lines = _closed_forms(here, labels, name)
            panels.append(plots.panel(f"{task}: {heading}", rows, lines, x, y, styles, _TABLE_TIPS, join=False))
    note = (
        "Sums over all strings of a cell. Slots in use: at the cut. Collisions: n-grams turned away or replaced, of "
        "all that were inserted, as far as the kept bits of keys tell them apart. Tokens right: teacher-forced. Tokens "
        "and whole strings have their 95% Wilson interval. Dashed, for uniform strings: the closed forms for distinct "
        "n-grams in independent, uniform slots; of whole strings, that no n-gram repeats and all have slots of their "
        "own (a birthday) or are right by luck. Kinds of tables with the same number of slots stand beside each other "
        "at its tick."
    )
    return Chart(key, title, sentences.tables(cells), note, panels, styles, columns=len(_TABLE_PANELS))


def _dodges(tables: Sequence[tuple[int, str]]) -> list[float]:
    """By how many pixels each point is moved, so that kinds of tables of one size do not hide each other."""
    kinds = {size: sorted({kind for other, kind in tables if other == size}) for size, _ in tables}
    step = min(_DODGE, _DODGE_WIDTH / (len(kinds) * max(map(len, kinds.values()))))
    return [step * (kinds[size].index(kind) - (len(kinds[size]) - 1) / 2) for size, kind in tables]


_DODGE = 9
_DODGE_WIDTH = 120  # of all sizes together: more than half of a panel on paper
_TABLE_TIPS = [*plots.tips(load="slots in use", collisions="collisions"), *plots.CELL_TIPS]
_TABLE_PANELS = {
    "load": "slots in use",
    "collisions": "insertions that collide",
    "tokens": "tokens right",
    "strings": "whole strings right",
}
_MOST_KEYS = 4096  # in a table whose closed form for whole strings is drawn: time grows as their square


def _table_row(cell: Cell, series: str, name: str) -> Row:
    counts = {key: int(cell.diagnostics.get(key, 0)) for key in ("slots", "occupied", "insertions", "collisions")}
    right = {"tokens": cell.tokens, "strings": cell.strings}.get(name)
    load = counts["occupied"] / counts["slots"]
    colliding = counts["collisions"] / max(counts["insertions"], 1)
    share = colliding if name == "collisions" else load
    return {
        **plots.cell_row(cell),
        "series": series,
        "x": cell.engine_options["slots"],
        **(plots.span(right) if right else {"y": share, "low": share, "high": share}),
        "load": f"{percent(load)} of {cell.engine_options['slots']:,} slots",
        "collisions": f"{counts['collisions']:,} of {counts['insertions']:,}",
    }


def _kept_bits(cell: Cell) -> int | None:
    """Bits of a key's hash that a table keeps; None where it keeps whole n-grams."""
    bits: int = cell.engine_options["key_bits"]
    value_bits = cell.state_bits / cell.engine_options["slots"] - 1 - bits
    return None if cell.engine_options["n"] * value_bits <= bits else bits


def _closed_forms(cells: Sequence[Cell], labels: dict[str, str], name: str, steps: int = 32) -> list[Row]:
    """Theory's lines for copies of uniform strings, for each series of several sizes."""
    sizes = [cell.engine_options["slots"] for cell in cells]
    low, high = min(sizes), max(sizes)
    slots = sorted({round(low * (high / low) ** (step / steps)) for step in range(steps + 1)})
    rows = []
    for label, cell in {labels[cell.case_id]: cell for cell in cells}.items():
        several = len({c.engine_options["slots"] for c in cells if labels[c.case_id] == label}) > 1
        if not several or (cell.task_options["name"], cell.task_options.get("source")) != ("copy", "uniform"):
            continue
        keys = round(cell.diagnostics.get("insertions", 0) / cell.strings.total)
        size, bits = cell.task_options["vocab_size"], _kept_bits(cell)
        distinct = 1 - theory.p_ngram_poisson(cell.length, cell.engine_options["n"], size)
        drawn = keys and (name != "strings" or keys <= _MOST_KEYS)
        for m in slots if drawn else []:
            if name == "load":
                value = theory.expected_occupied(m, keys) / m
            elif name == "collisions":
                # A key whose kept bits agree with those in its slot is taken for the same one.
                seen = 1 - 2.0 ** -(64 if bits is None else bits)
                value = seen * theory.expected_collisions(m, keys) / keys
            elif name == "tokens":
                value = theory.bounded_token_accuracy(m, keys, size, key_bits=bits)
            else:
                value = distinct * theory.bounded_string_accuracy(m, keys, size, key_bits=bits)
            rows.append({"series": label, "seed": cell.seed, "x": m, "y": value})
    return rows


_IN_ORDER: tuple[Callable[[Summary], Chart | Missing | None], ...] = (
    *(bits, memory.frontier, strings, training, errors),
    *(laws.law, repeats, tables),
)
