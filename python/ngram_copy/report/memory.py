"""The law of memory: bits recalled against bits of state, where every kind of machine has its place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from ngram_copy.report import laws, plots
from ngram_copy.report.labels import number, option, percent
from ngram_copy.report.plots import Chart, Data, Panel, Row
from ngram_copy.report.rows import Cell, Summary
from ngram_copy.report.style import FORBIDDEN, INK, WARNING, Style, shaded_styles


def law_panel(
    title: str,
    rows: list[Row],
    styles: dict[str, Style],
    tips: list[alt.Tooltip],
    floor: float,
    *,
    whole: Sequence[Row] = (),
    ceiling: float = math.inf,
    join: bool = False,
) -> Panel:
    """Points above or below the law that no more bits are recalled than there are.

    Parameters
    ----------
    title : str
    rows : list of dict
        ``x`` bits of state; ``y``, ``low`` and ``high`` bits recalled, at least ``floor``.
    styles : dict of str to Style
    tips : list of Tooltip
    floor : float
        The least that is shown.
    whole : sequence of dict
        Rows with an ``end``: to where a line goes to the right.
    ceiling : float
        Bits that there are to recall, where all rows share them: the law is min(b, ceiling).
    join : bool
        Whether a line goes through the points of a series.
    """
    left = 0.6 * min(row["x"] for row in rows)
    right = 1.7 * max(row["x"] for row in [*rows, *({"x": row["end"]} for row in whole)])
    bottom, top = floor / 1.4, 3 * max(row["high"] for row in rows)
    begin, end = max(left, bottom), min(right, top, ceiling)
    corners = [begin, end, right] if end == ceiling < right else [begin, end]
    law = [{"x": x, "y": min(x, ceiling), "top": top} for x in corners]
    middle = begin ** (1 / 3) * end ** (2 / 3)
    # The slope of the diagonal on the screen follows from the plot's sides and the decades along them.
    rise, run = math.log(top / bottom), math.log(right / left)
    angle = alt.ExprRef(f"-atan2(height / {rise:.4f}, width / {run:.4f}) * 180 / PI")
    if len(corners) == 2:
        corner_text, place = "impossible: E[B] > b", {"x": middle, "y": middle, "text": "the law: E[B] ≤ b"}
        written: Row = {"angle": angle, "dy": -9}
    else:  # along the level part
        corner_text, place = "impossible", {"x": right, "y": ceiling, "text": "E[B] ≤ min(b, H)"}
        written = {"align": "right", "baseline": "bottom", "dx": -4, "dy": -4}
    texts = [{"x": left, "y": top, "text": corner_text}, place]

    def axis(channel: Any, name: str, low: float, high: float, title: str) -> Any:
        scale = alt.Scale(type="log", domain=[low, high], nice=False)
        powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        values = [10.0**power for power in powers]
        ticks = alt.Axis(values=values, labelExpr=plots.PLAIN)
        if whole and name == "x":  # floats take many bits: their numbers must be short to stand beside each other
            ticks = alt.Axis(values=values, labelExpr="format(datum.value, '~s')", labelOverlap="greedy")
        return channel(f"{name}:Q", title=title, scale=scale, axis=ticks)

    x = axis(alt.X, "x", left, right, "bits of state at the cut, b")

    def y(name: str) -> Any:
        return axis(alt.Y, name, bottom, top, "bits recalled, E[B]")

    data = Data()
    line = data.base(law).encode(x=x, y=y("y"))
    corner, along = (data.base([text]).encode(x=x, y=y("y"), text="text:N") for text in texts)
    points = data.base(rows).encode(x=x, color=plots.colour(styles), opacity=plots.opacity(0.85))
    layers = [
        line.mark_area(color=FORBIDDEN).encode(y2="top:Q"),
        line.mark_line(color=INK, strokeWidth=1.5),
        corner.mark_text(align="left", baseline="top", dx=10, dy=10, color=WARNING, fontSize=12),
        along.mark_text(**written, color=WARNING, fontSize=12),
        *([_floats(data, list(whole), x, y("y"), styles)] if whole else []),
        *([points.mark_line(strokeWidth=1.2).encode(y=y("y"), detail="seed:N")] if join else []),
        points.mark_rule(strokeWidth=1.5).encode(y=y("low"), y2="high:Q"),
        points.mark_point(filled=True, size=70).encode(
            y=y("y"), shape=plots.shape(styles), tooltip=tips, **plots.edge(styles)
        ),
    ]
    return Panel(title, layers, data)


def _floats(data: Data, rows: list[Row], x: Any, y: Any, styles: dict[str, Style]) -> Any:
    """From the smallest quantised state to the state as it is."""
    base = data.base(rows).encode(x=x, x2="end:Q", y=y, color=plots.colour(styles), opacity=plots.opacity(0.5))
    return base.mark_rule(strokeWidth=1)


# --- the frontier ---------------------------------------------------------------------------------------

FAMILIES = ("delay-line", "bottleneck")
"""Machines of a declared number of bits: where one of them is, the others are held against it."""

SIZES = {"slots", "kept", "groups", "state_bits", "bits"}
"""Options that are the size of a state, and make no other kind of machine."""


def frontier(summary: Summary) -> Chart | None:
    """Bits recalled against bits of state, a panel for each task, at one length; None without such machines."""
    places = _places(summary)
    if not places:
        return None
    every = [cell for cells in places.values() for cell in cells]
    kinds = _kinds(every)
    ordered = sorted(every, key=lambda cell: (cell.learned, cell.family != "prefix"))
    styles = shaded_styles(
        {kinds[cell.case_id]: cell.family for cell in ordered},
        {kinds[cell.case_id] for cell in every if cell.learned},
    )
    panels, said = [], []
    for (task, length), cells in places.items():
        entropy = float(cells[0].h_min or 0.0)
        rows = [row for cell in cells for row in _states(cell, kinds[cell.case_id])]
        floor = min(1.0, *(row["x"] for row in rows))
        for row in rows:
            row |= {name: max(row[name], floor) for name in ("y", "low", "high")}
        panels.append(law_panel(f"{task}, L = {length}", rows, styles, _TIPS, floor, ceiling=entropy, join=True))
        said.append(_sentence(f"{task} at L = {length}", entropy, rows))
    note = (
        "All machines answer the same strings, and each point is one size of its state; a line joins the sizes of one "
        "kind. The black line is the law, E[B] ≤ min(b, H), with the H bits that a string has. Of a learned model each "
        "rounding of its state at the cut is a point (dark edge); a learned b-bit machine passes b signs at the cut "
        "and nothing else, so its b is exact. Bits recalled below the lower edge are drawn on it."
    )
    return Chart(
        "frontier",
        "The memory frontier",
        " ".join(said),
        note,
        panels,
        styles,
        height=380,
        columns=3 if len(panels) > 1 else 1,
    )


def _places(summary: Summary) -> dict[tuple[str, int], list[Cell]]:
    """Cells by task and length: of each task the length at which most engines meet, where a declared one is there."""
    law = {model.engine for model in laws.trained_heads(summary.cells)} if summary.half_lengths else set()
    found: dict[tuple[str, int], list[Cell]] = {}
    for cell in summary.cells:
        if cell.recalled is not None and cell.h_min is not None and cell.state_bits > 0 and cell.engine not in law:
            found.setdefault((cell.task, cell.length), []).append(cell)
    engines = {
        (len({cell.engine for cell in cells}), place)
        for place, cells in found.items()
        if any(cell.family in FAMILIES for cell in cells)
    }
    best = {task: max(pair for pair in engines if pair[1][0] == task)[1] for _, (task, _) in sorted(engines)}
    return {place: found[place] for place in sorted(best.values(), key=list(found).index)}


def _kinds(cells: Sequence[Cell]) -> dict[str, str]:
    """By case: the engine without the options that are its size, as far as they tell it from others."""
    names: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        names.setdefault(cell.family, []).append(cell.engine_options)
    found = {}
    for cell in cells:
        if cell.family == "bottleneck":
            found[cell.case_id] = "learned b-bit machine"
        elif cell.learned:
            found[cell.case_id] = cell.engine
        else:
            varied = [
                _option(key, value)
                for key, value in sorted(cell.engine_options.items())
                if key not in SIZES | {"name", "length"}
                and any(other.get(key) != value for other in names[cell.family])
            ]
            found[cell.case_id] = ", ".join([cell.family, *varied])
    return found


def _option(key: str, value: Any) -> str:
    if key == "key_bits":
        return "whole keys" if value is None else f"{value}-bit keys" if value else "unverified"
    return option(key, value).replace("_", " ")


def _states(cell: Cell, series: str) -> list[Row]:
    """A row for the state as it is; of a learned model one for each rounding, as its floats say little of it."""
    states = [(row.state_bits, row.recalled) for row in cell.quantised if row.recalled]
    if cell.recalled and not states:
        states = [(cell.state_bits, cell.recalled)]
    shared = {
        "series": series, "engine": cell.engine, "task": cell.task, "seed": cell.seed, "length": cell.length,
        "strings": plots.with_interval(cell.strings),
    }  # fmt: skip
    return [
        {
            **shared,
            "x": bits,
            "y": recalled[0],
            "low": recalled[1],
            "high": recalled[2],
            "state": f"{number(bits)} bits",
            "recalled": "{} (95%: {} to {})".format(*map(number, recalled)),
            "share": percent(recalled[0] / bits),
        }
        for bits, recalled in states
    ]


_TIPS = plots.tips(
    engine="engine",
    task="task",
    length="length",
    seed="seed",
    state="state at the cut",
    recalled="bits recalled",
    share="of the state",
    strings="whole strings, state as it is",
)


def _sentence(place: str, entropy: float, rows: Sequence[Row]) -> str:
    """How many states are above the law beyond their interval, and the best share of each kind."""
    above = [row for row in rows if row["low"] > min(row["x"], entropy) * (1 + 1e-9)]
    law = (
        f"{len(above)} of {len(rows)} states recall more than the law allows, beyond their 95% interval"
        if above
        else f"none of {len(rows)} states recalls more than the law allows"
    )
    best: dict[str, float] = {}
    for row in rows:
        share = row["y"] / min(row["x"], entropy)
        best[row["series"]] = max(best.get(row["series"], 0.0), share)
    shares = [f"{series} {percent(share)}" for series, share in sorted(best.items(), key=lambda item: -item[1])]
    return f"On {place} ({number(entropy)} bits): {law}; at its best size each kind recalls of it: {', '.join(shares)}."
