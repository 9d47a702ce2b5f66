"""The charts: rows to Altair, once for the page (as wide as its box) and once for paper (fixed sizes)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from statistics import median
from typing import Any

import altair as alt

from ngram_copy import theory
from ngram_copy.report import learned, sentences
from ngram_copy.report.learned import trained_on
from ngram_copy.report.style import (
    FORBIDDEN,
    GRID,
    INK,
    MUTED,
    SHADE,
    WARNING,
    Style,
    engine_styles,
    plain_styles,
    shaded_styles,
)
from ngram_copy.report.summary import Cell, Proportion, Repeats, Summary, Training, number, option, percent

Row = dict[str, Any]

_PLAIN = "format(datum.value, ',')"  # logarithmic axes would say 2e+1

CROWD = 6
"""Engines on one task beyond which each kind of them has a panel of its own."""


class Data(dict[str, list[Row]]):
    """Rows by the hash of their content: Altair would check them one by one, several times."""

    def base(self, rows: list[Row]) -> alt.Chart:
        """A chart of rows, to be encoded."""
        name = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]
        self[name] = rows
        return alt.Chart(alt.NamedData(name))


@dataclass(frozen=True)
class Panel:
    """One plot of a chart, without a size; its layers name their data, which ``data`` holds."""

    title: str
    layers: list[alt.Chart]
    data: Data


@dataclass(frozen=True)
class Chart:
    """One or several panels that share their series.

    Attributes
    ----------
    key : str
        Its anchor in the page and the name of its files.
    sentence : str
        What is to be seen, made from the data.
    note : str
        How to read it.
    series : dict of str to Style
        The legend.
    height : int
        Of a panel of the page, in pixels.
    columns : int
        Panels beside each other where there is room.
    """

    key: str
    title: str
    sentence: str
    note: str
    panels: list[Panel]
    series: dict[str, Style] = field(default_factory=dict)
    height: int = 240
    columns: int = 3


@dataclass(frozen=True)
class Missing:
    """A chart that could not be drawn, and the records that it needs."""

    key: str
    title: str
    reason: str


def build(summary: Summary) -> list[Chart | Missing]:
    """All charts of a report, in the order of the page; those of learned models only where there are some."""
    drawn = [chart(summary) for chart in (bits, strings, training, errors, repeats, tables)]
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
        rows.append({**_cell_row(cell), "x": cell.size, "y": max(mean, floor), "low": low, "high": high})
    whole = [{**row, "end": cell.state_bits} for row, cell in zip(rows, cells, strict=True) if cell.kept]
    left = 0.6 * min(row["x"] for row in rows)
    right = 1.7 * max(row["x"] for row in [*rows, *({"x": row["end"]} for row in whole)])
    bottom, top = floor / 1.4, 3 * max(row["high"] for row in rows)
    begin, end = max(left, bottom), min(right, top)
    law = [{"x": x, "y": x, "top": top} for x in (begin, end)]
    middle = begin ** (1 / 3) * end ** (2 / 3)
    texts = [
        {"x": left, "y": top, "text": "impossible: E[B] > b"},
        {"x": middle, "y": middle, "text": "the law: E[B] ≤ b"},
    ]
    # The slope of the diagonal on the screen follows from the plot's sides and the decades along them.
    rise, run = math.log(top / bottom), math.log(right / left)
    angle = alt.ExprRef(f"-atan2(height / {rise:.4f}, width / {run:.4f}) * 180 / PI")

    def axis(channel: Any, name: str, low: float, high: float, title: str) -> Any:
        scale = alt.Scale(type="log", domain=[low, high], nice=False)
        powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        values = [10.0**power for power in powers]
        ticks = alt.Axis(values=values, labelExpr=_PLAIN)
        if whole and name == "x":  # floats take many bits: their numbers must be short to stand beside each other
            ticks = alt.Axis(values=values, labelExpr="format(datum.value, '~s')", labelOverlap="greedy")
        return channel(f"{name}:Q", title=title, scale=scale, axis=ticks)

    x = axis(alt.X, "x", left, right, "bits of state at the cut, b")

    def y(name: str) -> Any:
        return axis(alt.Y, name, bottom, top, "bits recalled, E[B]")

    data = Data()
    line = data.base(law).encode(x=x, y=y("y"))
    corner, along = (data.base([text]).encode(x=x, y=y("y"), text="text:N") for text in texts)
    points = data.base(rows).encode(x=x, color=_colour(styles), opacity=_opacity(0.85))
    layers = [
        line.mark_area(color=FORBIDDEN).encode(y2="top:Q"),
        line.mark_line(color=INK, strokeWidth=1.5),
        corner.mark_text(align="left", baseline="top", dx=10, dy=10, color=WARNING, fontSize=12),
        along.mark_text(angle=angle, dy=-9, color=WARNING, fontSize=12),
        *([_floats(data, whole, x, y("y"), styles)] if whole else []),
        points.mark_rule(strokeWidth=1.5).encode(y=y("low"), y2="high:Q"),
        points.mark_point(filled=True, size=70).encode(
            y=y("y"), shape=_shape(styles), tooltip=_cell_tips(cells), **_edge(styles)
        ),
    ]
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
    return Chart(key, title, sentences.bits(cells), note, [Panel("", layers, data)], styles, height=460, columns=1)


def _floats(data: Data, rows: list[Row], x: Any, y: Any, styles: dict[str, Style]) -> Any:
    """From the smallest quantised state to the state as it is."""
    base = data.base(rows).encode(x=x, x2="end:Q", y=y, color=_colour(styles), opacity=_opacity(0.5))
    return base.mark_rule(strokeWidth=1)


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
    rows = [{**_cell_row(cell), "x": cell.length, **_span(cell.strings)} for cell in cells]
    x, y = _log_x([row["x"] for row in rows], "length L"), _share_axis("whole strings")
    tips = _cell_tips(cells)
    if not models:
        return _panel(title, rows, _bound_line(cells), x, y, styles, tips)
    through = [row for row, cell in zip(rows, cells, strict=True) if not cell.learned] + _medians(models)
    rows = [{**row, "dodge": aside[cell.seed] if cell.learned else 0} for row, cell in zip(rows, cells, strict=True)]
    panel = _panel(title, rows, _bound_line(cells), x, y, styles, tips, through=through)
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
        y = alt.Y("y:Q", **_log_axis(losses, "y", "loss on the answer, nats"))
        tips = _tips(series="engine", seed="seed", examples="examples seen", loss="loss")
        panels.append(_curves("loss", losses, y, styles, tips, marks=False))
    if shares:
        y = _share_axis("whole strings")("y")
        tips = _tips(series="engine", seed="seed", examples="examples seen", strings="whole strings")
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


def _log_axis(rows: Sequence[Row], name: str, title: str) -> dict[str, Any]:
    """A logarithmic axis over the rows."""
    low, high = (pick(row[name] for row in rows) for pick in (min, max))
    low, high = 0.9 * low, 1.1 * high
    axis = alt.Axis(values=_log_ticks(low, high), labelExpr=_PLAIN, labelOverlap="greedy", labelSeparation=5)
    return {"title": title, "axis": axis, "scale": alt.Scale(type="log", domain=[low, high], nice=False)}


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within two numbers; where these are few 1, 2 and 5 times them, or all digits times them."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    inside: list[float] = []
    for digits in ((1,), (1, 2, 5), range(1, 10), range(10, 100)):
        inside = [float(f"{digit}e{power}") for power in powers for digit in digits]
        inside = [tick for tick in inside if low <= tick <= high]
        if len(inside) > 1:
            break
    return inside


def _curves(
    title: str, rows: list[Row], y: Any, styles: dict[str, Style], tips: list[alt.Tooltip], *, marks: bool = True
) -> Panel:
    """A line for each seed; its points, if they are not marked, answer to the pointer alone."""
    data = Data()
    x = alt.X("x:Q", **_log_axis(rows, "x", "examples seen"))
    base = data.base(rows).encode(x=x, y=y, color=_colour(styles), detail="seed:N")
    line = base.mark_line(strokeWidth=1.4).encode(opacity=_opacity(0.9))
    points = base.mark_point(filled=True, size=18).encode(
        shape=_shape(styles), opacity=_opacity(0.9) if marks else alt.value(0), tooltip=tips
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
    x = alt.X("x:Q", **_log_axis(rows, "x", "examples to solve"))
    y = alt.Y("series:N", title=None, sort=list(styles), axis=alt.Axis(labelLimit=140, ticks=False, grid=True))
    tips = _tips(series="engine", seed="seed", text="examples to solve", lr="learning rate", parameters="parameters")

    def base(shown: list[Row]) -> Any:
        return data.base(shown).encode(x=x, y=y, color=_colour(styles), opacity=_opacity(0.9))

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
        layers.append(marks.encode(shape=_shape(styles), tooltip=tips, **_edge(styles)))
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
    tips = _tips(engine="engine", length="length", series="error", count="strings")
    x = alt.X("length:O", title="length L", axis=alt.Axis(labelAngle=0, labelOverlap="greedy"))
    bars = data.base(rows).encode(x=x, y=_share_axis("strings of the sample")("y"), y2="end:Q", color=_colour(styles))
    return Panel(title, [bars.mark_bar(size=16).encode(opacity=_opacity(0.9), tooltip=tips)], data)


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
        texts = {"task": row.task, "windows": row.windows.count, "p": _with_interval(row.windows)}
        formula = row.union if row.exact is None else row.exact
        rows.append(
            {"series": f"n={row.n}", "seed": row.seed, "x": row.length, **_span(row.windows), **texts}
            | {"formula": formula, "exact": exact, "union": union}
        )
    tips = _tips(
        task="task",
        series="n-gram",
        x="window",
        seed="seed",
        windows="with a repeat",
        p="share",
        exact="exact",
        union="union bound",
    )
    x, y = _log_x([row["x"] for row in rows], "window, tokens"), _share_axis("windows with a repeat")
    formulas = [{**row, "y": row["formula"]} for row in rows if row["formula"] is not None]
    return _panel(title, rows, formulas, x, y, styles, tips)


# --- (f) bounded tables ---------------------------------------------------------------------------------


def tables(summary: Summary) -> Chart | Missing:
    """Bounded tables by size: load, collisions and tokens right, three panels for each task."""
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
            x, y = _log_x([row["x"] for row in rows], "slots M", base=2), _share_axis(heading)
            lines = _closed_forms(here, labels, name)
            panels.append(_panel(f"{task}: {heading}", rows, lines, x, y, styles, _TABLE_TIPS, join=False))
    note = (
        "Sums over all strings of a cell. Slots in use: at the cut. Collisions: n-grams turned away or replaced, of "
        "all that were inserted. Tokens right: teacher-forced, with their 95% Wilson interval. Dashed, for uniform "
        "strings: the closed forms for distinct n-grams in independent, uniform slots. Kinds of tables with the same "
        "number of slots stand beside each other at its tick."
    )
    return Chart(key, title, sentences.tables(cells), note, panels, styles)


def _dodges(tables: Sequence[tuple[int, str]]) -> list[float]:
    """By how many pixels each point is moved, so that kinds of tables of one size do not hide each other."""
    kinds = {size: sorted({kind for other, kind in tables if other == size}) for size, _ in tables}
    step = min(_DODGE, _DODGE_WIDTH / (len(kinds) * max(map(len, kinds.values()))))
    return [step * (kinds[size].index(kind) - (len(kinds[size]) - 1) / 2) for size, kind in tables]


_DODGE = 9
_DODGE_WIDTH = 200  # of all sizes together: the width of a panel on paper
_TABLE_PANELS = {"load": "slots in use", "collisions": "insertions that collide", "tokens": "tokens right"}


def _table_row(cell: Cell, series: str, name: str) -> Row:
    counts = {key: int(cell.diagnostics.get(key, 0)) for key in ("slots", "occupied", "insertions", "collisions")}
    tokens = cell.tokens if name == "tokens" else None
    load = counts["occupied"] / counts["slots"]
    colliding = counts["collisions"] / max(counts["insertions"], 1)
    share = colliding if name == "collisions" else load
    return {
        **_cell_row(cell),
        "series": series,
        "x": cell.engine_options["slots"],
        **(_span(tokens) if tokens else {"y": share, "low": share, "high": share}),
        "load": f"{percent(load)} of {cell.engine_options['slots']:,} slots",
        "collisions": f"{counts['collisions']:,} of {counts['insertions']:,}",
    }


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
        for m in slots if keys else []:
            if name == "load":
                value = theory.expected_occupied(m, keys) / m
            elif name == "collisions":
                value = theory.expected_collisions(m, keys) / keys
            else:
                bits = cell.engine_options.get("key_bits")
                value = theory.bounded_token_accuracy(m, keys, cell.task_options["vocab_size"], key_bits=bits)
            rows.append({"series": label, "seed": cell.seed, "x": m, "y": value})
    return rows


# --- what the charts share ------------------------------------------------------------------------------


def _panel(
    title: str,
    rows: list[Row],
    lines: list[Row],
    x: Any,
    y: Any,
    styles: dict[str, Style],
    tips: list[alt.Tooltip],
    *,
    join: bool = True,
    through: list[Row] | None = None,
) -> Panel:
    """Dashed lines of theory, the points, their intervals; a line through them if ``join`` or theory has none.

    The line goes through the points, or ``through`` others where they are given.
    """
    data = Data()
    base = data.base(rows).encode(x=x, color=_colour(styles), opacity=_opacity(0.9))
    aside = alt.ExprRef("datum.dodge") if any(row.get("dodge") for row in rows) else alt.Undefined
    layers = [
        base.mark_rule(strokeWidth=1.4, xOffset=aside).encode(y=y("low"), y2="high:Q"),
        base.mark_point(filled=True, size=46, xOffset=aside).encode(
            y=y("y"), shape=_shape(styles), tooltip=tips, **_edge(styles)
        ),
    ]
    if join or not lines:
        joined = (
            base if through is None else data.base(through).encode(x=x, color=_colour(styles), opacity=_opacity(0.9))
        )
        layers.insert(0, joined.mark_line(strokeWidth=1.6).encode(y=y("y"), detail="seed:N"))
    if lines:
        theirs = data.base(lines).encode(x=x, y=y("y"), color=_colour(styles), opacity=_opacity(0.9), detail="seed:N")
        layers.insert(0, theirs.mark_line(strokeDash=[5, 3], strokeWidth=1.2, interpolate="monotone"))
    return Panel(title, layers, data)


def _colour(styles: dict[str, Style]) -> alt.Color:
    return alt.Color(
        "series:N", title=None, scale=alt.Scale(domain=list(styles), range=[s.colour for s in styles.values()])
    )


def _shape(styles: dict[str, Style]) -> alt.Shape:
    return alt.Shape(
        "series:N", title=None, scale=alt.Scale(domain=list(styles), range=[s.shape for s in styles.values()])
    )


def _edge(styles: dict[str, Style]) -> dict[str, Any]:
    """A dark edge around the points of the series that have one; nothing where none has."""
    edged = [label for label, style in styles.items() if style.edge]
    if not edged:
        return {}
    test = f"indexof({json.dumps(edged)}, datum.series) >= 0"
    stroke = alt.when(test).then(alt.value(INK)).otherwise(alt.value("transparent"))
    return {"stroke": stroke, "strokeWidth": alt.value(0.7)}


def _opacity(full: float) -> Any:
    """Faint where the legend's pick is another series."""
    return alt.when("pick == '' || pick == datum.series").then(alt.value(full)).otherwise(alt.value(0.07))


def _log_x(values: Sequence[float], title: str, base: int = 10) -> alt.X:
    """A logarithmic axis with a tick at each value, if the values span more than a factor of 4."""
    low, high = min(values), max(values)
    axis = alt.Axis(values=sorted(set(values)), labelExpr=_PLAIN, labelOverlap="greedy", labelSeparation=5, grid=False)
    if high <= 4 * low:
        return alt.X("x:Q", title=title, axis=axis, scale=alt.Scale(zero=False, padding=12))
    return alt.X("x:Q", title=title, axis=axis, scale=alt.Scale(type="log", base=base, padding=12, nice=False))


def _share_axis(title: str) -> Any:
    scale, axis = alt.Scale(domain=[0, 1]), alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
    return lambda name: alt.Y(f"{name}:Q", title=title, scale=scale, axis=axis)


def _span(share: Proportion) -> Row:
    return {"y": share.value, "low": share.low, "high": share.high}


def _with_interval(share: Proportion) -> str:
    return f"{percent(share.value)} (95%: {share.interval})"


def _cell_row(cell: Cell) -> Row:
    recalled = "unknown source" if cell.recalled is None else "{} (95%: {} to {})".format(*map(number, cell.recalled))
    row = {
        "series": cell.engine,
        "seed": cell.seed,
        "task": cell.task,
        "engine": cell.engine,
        "length": cell.length,
        "strings": f"{cell.strings.count} = {_with_interval(cell.strings)}",
        "tokens_text": f"{cell.tokens.count} = {_with_interval(cell.tokens)}" if cell.tokens else "not counted",
        "recalled": recalled,
        "state": f"{number(cell.state_bits)} bits",
        "bound": "none" if cell.bound is None else f"{cell.bound:.3g}",
        "token_bound": "none" if cell.token_bound is None else f"{cell.token_bound:.3g}",
    }
    if not cell.learned:
        return row
    return row | {
        "kept": f"{number(cell.kept.state_bits)} bits ({cell.kept.bits_per_value:g} a value)"
        if cell.kept
        else "unknown",
        "verdict": cell.verdict.text if cell.verdict else "–",
        "trained": trained_on(cell.trained) or "unknown",
    }


def _tips(**fields: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{name}:N", title=title) for name, title in fields.items()]


_CELL_TIPS = _tips(
    engine="engine",
    task="task",
    length="length",
    seed="seed",
    strings="whole strings",
    tokens_text="tokens",
    recalled="bits recalled",
    state="state at the cut",
    bound="bound for strings",
    token_bound="bound for tokens",
)
_LEARNED_TIPS = _tips(kept="smallest quantised state", trained="trained on", verdict="verdict")


def _cell_tips(cells: Sequence[Cell]) -> list[alt.Tooltip]:
    return [*_CELL_TIPS, *_LEARNED_TIPS] if any(cell.learned for cell in cells) else _CELL_TIPS


_TABLE_TIPS = [*_tips(load="slots in use", collisions="collisions"), *_CELL_TIPS]


# --- to Vega-Lite ---------------------------------------------------------------------------------------

_CONFIG: Row = {
    "view": {"stroke": None},
    "axis": {
        "labelColor": MUTED,
        "titleColor": INK,
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "labelFontSize": 11,
        "gridColor": GRID,
        "domainColor": MUTED,
        "tickColor": MUTED,
    },
    "legend": {"labelColor": INK, "labelFontSize": 11, "symbolSize": 60, "labelLimit": 320},
    "title": {"color": INK, "fontSize": 12, "fontWeight": 600, "anchor": "start"},
}
# The series that the page's legend has picked; none in a paper.
_PICK = [{"name": "pick", "value": ""}]


def page_spec(chart: Chart, panel: Panel) -> Row:
    """A panel as wide as its box, without a legend: the page has one for all panels."""
    spec = _spec(alt.layer(*panel.layers).properties(width="container", height=chart.height), [panel])
    spec["config"] |= {"legend": {"disable": True}, "font": "system-ui, sans-serif"}
    return {**spec, "autosize": {"type": "fit-x", "contains": "padding"}}


def paper_spec(chart: Chart) -> Row:
    """All panels beside each other at fixed sizes, with a legend: for SVG and PDF."""
    if len(chart.panels) == 1:
        return _spec(alt.layer(*chart.panels[0].layers).properties(width=440, height=320), chart.panels)
    plots = [alt.layer(*panel.layers).properties(width=200, height=140, title=panel.title) for panel in chart.panels]
    return _spec(alt.concat(*plots, columns=chart.columns), chart.panels)


def _spec(plot: Any, panels: Sequence[Panel]) -> Row:
    datasets = {name: rows for panel in panels for name, rows in panel.data.items()}
    config = {**_CONFIG, "font": "Helvetica, Arial, Liberation Sans, sans-serif"}
    return {**plot.to_dict(), "datasets": datasets, "params": _PICK, "config": config}
