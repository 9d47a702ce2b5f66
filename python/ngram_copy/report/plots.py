"""What a chart is made of: panels, axes, series, and their way to Vega-Lite.

Once for the page (as wide as its box), once for paper (fixed sizes).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt

from ngram_copy.report.labels import number, percent
from ngram_copy.report.learned import trained_on
from ngram_copy.report.rows import Cell, Proportion
from ngram_copy.report.style import GRID, INK, MUTED, Style

Row = dict[str, Any]

PLAIN = "format(datum.value, ',')"  # logarithmic axes would say 2e+1


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


def log_axis(rows: Sequence[Row], name: str, title: str) -> dict[str, Any]:
    """A logarithmic axis over the rows."""
    low, high = (pick(row[name] for row in rows) for pick in (min, max))
    low, high = 0.9 * low, 1.1 * high
    axis = alt.Axis(values=log_ticks(low, high), labelExpr=PLAIN, labelOverlap="greedy", labelSeparation=5)
    return {"title": title, "axis": axis, "scale": alt.Scale(type="log", domain=[low, high], nice=False)}


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within two numbers; where these are few 1, 2 and 5 times them, or all digits times them."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    inside: list[float] = []
    for digits in ((1,), (1, 2, 5), range(1, 10), range(10, 100)):
        inside = [float(f"{digit}e{power}") for power in powers for digit in digits]
        inside = [tick for tick in inside if low <= tick <= high]
        if len(inside) > 1:
            break
    return inside


def panel(
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
    base = data.base(rows).encode(x=x, color=colour(styles), opacity=opacity(0.9))
    aside = alt.ExprRef("datum.dodge") if any(row.get("dodge") for row in rows) else alt.Undefined
    layers = [
        base.mark_rule(strokeWidth=1.4, xOffset=aside).encode(y=y("low"), y2="high:Q"),
        base.mark_point(filled=True, size=46, xOffset=aside).encode(
            y=y("y"), shape=shape(styles), tooltip=tips, **edge(styles)
        ),
    ]
    if join or not lines:
        joined = base if through is None else data.base(through).encode(x=x, color=colour(styles), opacity=opacity(0.9))
        layers.insert(0, joined.mark_line(strokeWidth=1.6).encode(y=y("y"), detail="seed:N"))
    if lines:
        theirs = data.base(lines).encode(x=x, y=y("y"), color=colour(styles), opacity=opacity(0.9), detail="seed:N")
        layers.insert(0, theirs.mark_line(strokeDash=[5, 3], strokeWidth=1.2, interpolate="monotone"))
    return Panel(title, layers, data)


def colour(styles: dict[str, Style]) -> alt.Color:
    """The colour of each series."""
    return alt.Color(
        "series:N", title=None, scale=alt.Scale(domain=list(styles), range=[s.colour for s in styles.values()])
    )


def shape(styles: dict[str, Style]) -> alt.Shape:
    """The shape of each series."""
    return alt.Shape(
        "series:N", title=None, scale=alt.Scale(domain=list(styles), range=[s.shape for s in styles.values()])
    )


def edge(styles: dict[str, Style]) -> dict[str, Any]:
    """A dark edge around the points of the series that have one; nothing where none has."""
    edged = [label for label, style in styles.items() if style.edge]
    if not edged:
        return {}
    test = f"indexof({json.dumps(edged)}, datum.series) >= 0"
    stroke = alt.when(test).then(alt.value(INK)).otherwise(alt.value("transparent"))
    return {"stroke": stroke, "strokeWidth": alt.value(0.7)}


def opacity(full: float) -> Any:
    """Faint where the legend's pick is another series."""
    return alt.when("pick == '' || pick == datum.series").then(alt.value(full)).otherwise(alt.value(0.07))


def log_x(values: Sequence[float], title: str, base: int = 10) -> alt.X:
    """A logarithmic axis with a tick at each value, if the values span more than a factor of 4."""
    low, high = min(values), max(values)
    axis = alt.Axis(values=sorted(set(values)), labelExpr=PLAIN, labelOverlap="greedy", labelSeparation=5, grid=False)
    if high <= 4 * low:
        return alt.X("x:Q", title=title, axis=axis, scale=alt.Scale(zero=False, padding=12))
    return alt.X("x:Q", title=title, axis=axis, scale=alt.Scale(type="log", base=base, padding=12, nice=False))


def share_axis(title: str) -> Any:
    """An axis from 0 to 100%, to be called with a column's name."""
    scale, axis = alt.Scale(domain=[0, 1]), alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
    return lambda name: alt.Y(f"{name}:Q", title=title, scale=scale, axis=axis)


def span(share: Proportion) -> Row:
    """A share with its interval, as ``y``, ``low`` and ``high``."""
    return {"y": share.value, "low": share.low, "high": share.high}


def with_interval(share: Proportion) -> str:
    """A share and its interval, for reading."""
    return f"{percent(share.value)} (95%: {share.interval})"


def cell_row(cell: Cell) -> Row:
    """What every chart's tooltip says of a cell."""
    recalled = "unknown source" if cell.recalled is None else "{} (95%: {} to {})".format(*map(number, cell.recalled))
    row = {
        "series": cell.engine,
        "seed": cell.seed,
        "task": cell.task,
        "engine": cell.engine,
        "length": cell.length,
        "strings": f"{cell.strings.count} = {with_interval(cell.strings)}",
        "tokens_text": f"{cell.tokens.count} = {with_interval(cell.tokens)}" if cell.tokens else "not counted",
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


def tips(**fields: str) -> list[alt.Tooltip]:
    """Tooltips: columns and their titles."""
    return [alt.Tooltip(f"{name}:N", title=title) for name, title in fields.items()]


CELL_TIPS = tips(
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
_LEARNED_TIPS = tips(kept="smallest quantised state", trained="trained on", verdict="verdict")


def cell_tips(cells: Sequence[Cell]) -> list[alt.Tooltip]:
    """Tooltips of cells; what only learned engines have is left out where there is none."""
    return [*CELL_TIPS, *_LEARNED_TIPS] if any(cell.learned for cell in cells) else CELL_TIPS


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
    # Validated by a test: it takes most of the time.
    return {**plot.to_dict(validate=False), "datasets": datasets, "params": _PICK, "config": config}
