"""The charts: rows to Altair, once for the page (as wide as its box) and once for paper (fixed sizes)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

import altair as alt

from ngram_copy.report import sentences
from ngram_copy.report.style import FORBIDDEN, GRID, INK, MUTED, WARNING, Style, engine_styles, plain_styles
from ngram_copy.report.summary import Cell, Proportion, Repeats, Summary, number, percent

Row = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """One plot of a chart, without a size."""

    title: str
    plot: alt.LayerChart


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
    """All charts of a report, in the order of the page."""
    return [chart(summary) for chart in (bits, strings, repeats, tables)]


# --- (a) bits recalled against bits of state ------------------------------------------------------------


def bits(summary: Summary) -> Chart | Missing:
    """Bits recalled against bits of state at the cut: a point for each cell, the diagonal is the law."""
    key, title = "bits", "Bits recalled against bits of state"
    known = [(cell, cell.recalled) for cell in summary.cells if cell.recalled is not None]
    if not known:
        return Missing(key, title, "accuracy records of a task whose source is known (bits_recalled is not null)")
    cells = [cell for cell, _ in known]
    styles = engine_styles(cells)
    rows = [
        {**_cell_row(cell), "x": cell.state_bits, "y": mean, "low": low, "high": high}
        for cell, (mean, low, high) in known
    ]
    top = 1.7 * max(max(row["x"], row["high"]) for row in rows)
    left = 0.55 * min(row["x"] for row in rows)
    bottom = min(0.0, 1.5 * min(row["low"] for row in rows))
    law = [{"x": x, "y": x, "top": top} for x in _symlog_steps(left, top)]
    middle = _unsymlog(_symlog(left) + 0.6 * (_symlog(top) - _symlog(left)))
    texts = [
        {"x": left, "y": top, "text": "impossible: more than the state holds"},
        {"x": middle, "y": middle, "text": "the law: E[B] ≤ b"},
    ]
    # Both scales are alike, so the slope of the diagonal on the screen follows from the plot's sides.
    rise, run = (_symlog(top) - _symlog(low) for low in (bottom, left))
    angle = alt.ExprRef(f"-atan2(height / {rise:.4f}, width / {run:.4f}) * 180 / PI")

    def axis(channel: Any, name: str, low: float, title: str) -> Any:
        scale = alt.Scale(type="symlog", constant=1, domain=[low, top], nice=False)
        return channel(f"{name}:Q", title=title, scale=scale, axis=alt.Axis(values=_decades(low, top), format="~s"))

    x = axis(alt.X, "x", left, "bits of state at the cut, b")

    def y(name: str) -> Any:
        return axis(alt.Y, name, bottom, "bits recalled, E[B]")

    law_base = _base(law).encode(x=x, y=y("y"))
    text_base = _base(texts[:1]).encode(x=x, y=y("y"), text="text:N")
    law_text = _base(texts[1:]).encode(x=x, y=y("y"), text="text:N")
    points = _base(rows).encode(x=x, color=_colour(styles), opacity=_opacity(0.85))
    plot = alt.layer(
        law_base.mark_area(color=FORBIDDEN).encode(y2="top:Q"),
        law_base.mark_line(color=INK, strokeWidth=1.5),
        text_base.mark_text(align="left", baseline="top", dx=10, dy=10, color=WARNING, fontSize=12),
        law_text.mark_text(angle=angle, dy=13, color=INK, fontSize=12),
        points.mark_rule(strokeWidth=1.5).encode(y=y("low"), y2="high:Q"),
        points.mark_point(filled=True, size=70).encode(y=y("y"), shape=_shape(styles), tooltip=_CELL_TIPS),
    )
    note = "One point for each task, engine and length, with its 95% interval; both axes are logarithmic beyond 1 bit."
    return Chart(key, title, sentences.bits(cells), note, [Panel("", plot)], styles, height=460, columns=1)


def _symlog(value: float) -> float:
    return math.copysign(math.log1p(abs(value)), value)


def _unsymlog(value: float) -> float:
    return math.copysign(math.expm1(abs(value)), value)


def _symlog_steps(low: float, high: float, steps: int = 40) -> list[float]:
    begin, end = _symlog(low), _symlog(high)
    return [low, *(_unsymlog(begin + (end - begin) * step / steps) for step in range(1, steps)), high]


def _decades(low: float, high: float) -> list[float]:
    powers = [10.0**power for power in range(math.ceil(math.log10(max(-low, high, 1.0))) + 1)]
    return [value for value in (*(-p for p in reversed(powers)), 0.0, *powers) if low <= value <= high]


# --- (b) whole strings against length -------------------------------------------------------------------


def strings(summary: Summary) -> Chart | Missing:
    """Whole strings against length: a panel for each task, the bound of each engine as a dashed line."""
    key, title = "strings", "Whole strings against length"
    if not summary.cells:
        return Missing(key, title, "accuracy records")
    styles = engine_styles(summary.cells)
    panels = [Panel(task, _strings_panel(list(cells), styles)) for task, cells in groupby(summary.cells, _task)]
    note = (
        "Points: whole strings, with their 95% Wilson interval. Dashed: the bound min(1, 2^(b − H_min)), "
        "where it is below 1."
    )
    return Chart(key, title, sentences.strings(summary.cells), note, panels, styles)


def _task(row: Cell | Repeats) -> str:
    return row.task


def _strings_panel(cells: list[Cell], styles: dict[str, Style]) -> alt.LayerChart:
    rows = [{**_cell_row(cell), "x": cell.length, **_span(cell.strings)} for cell in cells]
    x, y = _log_x([row["x"] for row in rows], "length L"), _share_axis("whole strings")
    layers = [_base(_bound_line(cells)).mark_line(strokeDash=[5, 3], strokeWidth=1.2, interpolate="linear")]
    layers = [layer.encode(x=x, y=y("y"), color=_colour(styles), detail="seed:N", opacity=_opacity(0.9)) for layer in layers]
    return alt.layer(*layers, *_measured(rows, x, y, styles, _CELL_TIPS))


def _bound_line(cells: Sequence[Cell], steps: int = 24) -> list[Row]:
    """The string bound between the measured lengths; b and H_min are linear in L for sources without memory."""
    rows = []
    for (engine, seed), group in groupby(
        sorted(cells, key=lambda cell: (cell.engine, cell.seed, cell.length)), lambda cell: (cell.engine, cell.seed)
    ):
        known = [(c.length, c.state_bits, c.h_min) for c in group if c.h_min is not None and c.bound is not None]
        points = []
        for (l0, b0, h0), (l1, b1, h1) in pairwise(known):
            for step in range(steps + 1):
                t = step / steps
                slack = min(0.0, (b0 - h0) * (1 - t) + (b1 - h1) * t)
                points.append({"series": engine, "seed": seed, "x": l0 + (l1 - l0) * t, "y": 2.0**slack})
        if any(point["y"] < 1 for point in points):
            rows += points
    return rows


# --- (c) how often an n-gram repeats --------------------------------------------------------------------


def repeats(summary: Summary) -> Chart | Missing:
    """P(some n-gram repeats within a window), measured, against the formulas for uniform tokens."""
    key, title = "repeats", "How often some n-gram repeats within a window"
    if not summary.repeats:
        return Missing(key, title, "statistic records ('repeats')")
    styles = plain_styles([f"n={n}" for n in sorted({row.n for row in summary.repeats})])
    panels = [Panel(task, _repeats_panel(list(rows), styles)) for task, rows in groupby(summary.repeats, _task)]
    note = (
        "Points: windows in which some n-gram occurs twice, with their 95% Wilson interval: where the n-gram copier must "
        "fail. Dashed: the same for uniform tokens of as many kinds, by formula (exact where it is feasible, else the union bound)."
    )
    return Chart(key, title, sentences.repeats(summary.repeats), note, panels, styles)


def _repeats_panel(repeats: list[Repeats], styles: dict[str, Style]) -> alt.LayerChart:
    rows = []
    for row in repeats:
        exact, union = ("none" if value is None else f"{value:.3g}" for value in (row.exact, row.union))
        texts = {"task": row.task, "windows": row.windows.count, "p": _with_interval(row.windows)}
        formula = row.union if row.exact is None else row.exact
        rows.append(
            {"series": f"n={row.n}", "seed": row.seed, "x": row.length, **_span(row.windows), **texts}
            | {"formula": formula, "exact": exact, "union": union}
        )
    tips = _tips(task="task", series="n-gram", x="window", windows="with a repeat", p="share", exact="exact", union="union bound")
    x, y = _log_x([row["x"] for row in rows], "window, tokens"), _share_axis("windows with a repeat")
    lines = _base([{**row, "y": row["formula"]} for row in rows if row["formula"] is not None])
    formula_line = lines.mark_line(strokeDash=[5, 3], strokeWidth=1.2, interpolate="monotone")
    encoded = formula_line.encode(x=x, y=y("y"), color=_colour(styles), detail="seed:N", opacity=_opacity(0.9))
    return alt.layer(encoded, *_measured(rows, x, y, styles, tips))


# --- (d) bounded tables ---------------------------------------------------------------------------------


def tables(summary: Summary) -> Chart | Missing:
    """Bounded tables by size: load, collisions and tokens right, three panels for each task."""
    key, title = "tables", "Bounded tables by their number of slots"
    cells = [cell for cell in summary.cells if cell.diagnostics.get("slots") and "slots" in cell.engine_options]
    sizes = {(cell.task, cell.engine_options["slots"]) for cell in cells}
    tasks = [task for task in dict.fromkeys(map(_task, cells)) if sum(task == name for name, _ in sizes) > 1]
    cells = [cell for cell in cells if cell.task in tasks]
    if not cells:
        return Missing(key, title, "accuracy records of the engine 'bounded' with two numbers of slots or more on one task")
    labels = {cell.case_id: _table_series(cell, cells) for cell in cells}
    styles = plain_styles(list(dict.fromkeys(labels.values())))
    panels = []
    for task in tasks:
        rows = [_table_row(cell, labels[cell.case_id]) for cell in cells if cell.task == task]
        for name, heading in (("load", "slots in use"), ("collisions", "insertions that collide"), ("tokens", "tokens right")):
            panels.append(Panel(f"{task}: {heading}", _table_panel(rows, name, heading, styles)))
    note = (
        "Sums over all strings of a cell. Load: slots in use at the cut. Collisions: n-grams turned away or replaced, of all that were "
        "inserted. Tokens right: teacher-forced, with their 95% Wilson interval."
    )
    return Chart(key, title, sentences.tables(cells), note, panels, styles)


def _table_series(cell: Cell, cells: Sequence[Cell]) -> str:
    """What distinguishes a table from the others but for its slots, and the length."""
    options = [k for k in cell.engine_options if len({str(c.engine_options.get(k)) for c in cells}) > 1 and k != "slots"]
    return " ".join([*(f"{key}={cell.engine_options[key]}" for key in options), f"L={cell.length}"])


def _table_row(cell: Cell, series: str) -> Row:
    d = cell.diagnostics
    load = d["occupied"] / d["slots"]
    colliding = d["collisions"] / d["insertions"] if d.get("insertions") else 0.0
    return {
        **_cell_row(cell),
        "series": series,
        "x": cell.engine_options["slots"],
        "load": {"y": load, "low": load, "high": load},
        "collisions": {"y": colliding, "low": colliding, "high": colliding},
        "tokens": _span(cell.tokens),
        "load_text": f"{percent(load)} of {cell.engine_options['slots']}",
        "collisions_text": f"{d['collisions']:,} of {d.get('insertions', 0):,}",
    }


def _table_panel(rows: list[Row], name: str, heading: str, styles: dict[str, Style]) -> alt.LayerChart:
    shown = [{**{k: v for k, v in row.items() if not isinstance(v, dict)}, **row[name]} for row in rows]
    x, y = _log_x([row["x"] for row in rows], "slots M", base=2), _share_axis(heading)
    tips = [*_tips(load_text="load", collisions_text="collisions"), *_CELL_TIPS]
    return alt.layer(*_measured(shown, x, y, styles, tips))


# --- what the charts share ------------------------------------------------------------------------------


def _base(rows: list[Row]) -> alt.Chart:
    return alt.Chart(alt.Data(values=rows))


def _measured(rows: list[Row], x: Any, y: Any, styles: dict[str, Style], tips: list[alt.Tooltip]) -> list[alt.Chart]:
    """A line through the points, their intervals, the points."""
    base = _base(rows).encode(x=x, color=_colour(styles), opacity=_opacity(0.9))
    return [
        base.mark_line(strokeWidth=1.6).encode(y=y("y"), detail="seed:N"),
        base.mark_rule(strokeWidth=1.4).encode(y=y("low"), y2="high:Q"),
        base.mark_point(filled=True, size=46).encode(y=y("y"), shape=_shape(styles), tooltip=tips),
    ]


def _colour(styles: dict[str, Style]) -> alt.Color:
    return alt.Color("series:N", title=None, scale=alt.Scale(domain=list(styles), range=[s.colour for s in styles.values()]))


def _shape(styles: dict[str, Style]) -> alt.Shape:
    return alt.Shape("series:N", title=None, scale=alt.Scale(domain=list(styles), range=[s.shape for s in styles.values()]))


def _opacity(full: float) -> Any:
    """Faint where the legend's pick is another series."""
    return alt.when("pick == '' || pick == datum.series").then(alt.value(full)).otherwise(alt.value(0.07))


def _log_x(values: Sequence[float], title: str, base: int = 10) -> alt.X:
    """A logarithmic axis with a tick at each value, if the values span more than a factor of 4."""
    low, high = min(values), max(values)
    axis = alt.Axis(values=sorted(set(values)), format=",", labelOverlap="greedy", grid=False)
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
    return {
        "series": cell.engine,
        "seed": cell.seed,
        "task": cell.task,
        "engine": cell.engine,
        "length": cell.length,
        "strings": f"{cell.strings.count} = {_with_interval(cell.strings)}",
        "tokens_text": f"{cell.tokens.count} = {_with_interval(cell.tokens)}",
        "recalled": recalled,
        "state": f"{number(cell.state_bits)} bits",
        "bound": "none" if cell.bound is None else f"{cell.bound:.3g}",
    }


def _tips(**fields: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{name}:N", title=title) for name, title in fields.items()]


_CELL_TIPS = _tips(
    engine="engine",
    task="task",
    length="length",
    strings="whole strings",
    tokens_text="tokens",
    recalled="bits recalled",
    state="state at the cut",
    bound="bound for strings",
)


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
_PICK = [{"name": "pick", "value": ""}]


def page_spec(chart: Chart, panel: Panel) -> Row:
    """A panel as wide as its box, without a legend: the page has one for all panels."""
    spec: Row = panel.plot.properties(width="container", height=chart.height).to_dict()
    config = {**_CONFIG, "legend": {"disable": True}, "font": "system-ui, sans-serif"}
    return {**spec, "params": _PICK, "config": config, "autosize": {"type": "fit-x", "contains": "padding"}}


def paper_spec(chart: Chart) -> Row:
    """All panels beside each other at fixed sizes, with a legend: for SVG and PDF."""
    width, height = (460, 340) if chart.columns == 1 else (210, 150)
    plots = [
        panel.plot.properties(width=width, height=height, **({"title": panel.title} if panel.title else {}))
        for panel in chart.panels
    ]
    spec: Row = alt.concat(*plots, columns=chart.columns).to_dict()
    return {**spec, "params": _PICK, "config": {**_CONFIG, "font": "Helvetica, Arial, Liberation Sans, sans-serif"}}
