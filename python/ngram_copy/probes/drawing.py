"""Charts of a probe: SVG for each, and one HTML page that needs nothing else. Needs the extra ``bench``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from ngram_copy.probes.teleport import MEANINGS, reading
from ngram_copy.report.page import VEGA_LITE
from ngram_copy.report.plots import Chart, Data, Panel, paper_spec
from ngram_copy.report.style import HUES, INK, Style, plain_styles

Row = dict[str, Any]


def write(result: Mapping[str, Any], out_dir: str | Path) -> list[Path]:
    """Write ``probe.json``, ``probe.html`` and ``charts/*.svg``.

    Parameters
    ----------
    result : mapping
        What ``ngram_copy.probes.probe`` returned.
    out_dir : str or Path
        Made if missing; files of these names are replaced.

    Returns
    -------
    list of Path

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    specs = _specs(result)
    out = Path(out_dir)
    contents = {
        f"charts/{key}.svg": vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE) for key, spec in specs.items()
    }
    contents["probe.html"] = vl_convert.vegalite_to_html(_page(list(specs.values())), vl_version=VEGA_LITE, bundle=True)
    contents["probe.json"] = json.dumps(result, indent=1) + "\n"
    for name, content in contents.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}")
        beside.write_text(content, encoding="utf-8")
        os.replace(beside, path)
    return [out / name for name in contents]


def _specs(result: Mapping[str, Any]) -> dict[str, Row]:
    where = f"{result['name']}, {result['task']['name']}, L = {result['length']}, {result['strings']} strings"
    found = {"teleports": _titled(teleport_chart(result), where)}
    if result["repeats"]:
        found["repeats"] = _titled(repeat_chart(result), where)
    if result["heads"]:
        found["heads"] = _titled(head_chart(result), where)
        # Cells of a fixed size, however many heads there are.
        sizes = [(26 * len(_columns(result)), _CELL * len(result["heads"])), (140, _CELL * len(result["heads"]))]
        for plot, (width, height) in zip(found["heads"]["concat"], sizes, strict=True):
            plot |= {"width": width, "height": height}
    return found


_CELL = 16


def _titled(chart: Chart, where: str) -> Row:
    title = {"text": chart.title, "subtitle": [where, chart.sentence, chart.note], "anchor": "start", "offset": 12}
    return {**paper_spec(chart), "title": title}


def _page(specs: Sequence[Row]) -> Row:
    """All charts below each other."""
    shared = {"$schema", "config", "datasets", "params"}
    return {
        **{key: specs[0][key] for key in shared if key in specs[0]},
        "datasets": {name: rows for spec in specs for name, rows in spec["datasets"].items()},
        "vconcat": [{key: value for key, value in spec.items() if key not in shared} for spec in specs],
        "resolve": {"scale": {"color": "independent", "shape": "independent"}},
        "spacing": 40,
    }


# --- Teleports and repeats ------------------------------------------------------------------------------


def teleport_chart(result: Mapping[str, Any]) -> Chart:
    """What follows a forced n-gram, against n: where it occurs once, and where three times."""
    styles = plain_styles(list(MEANINGS.values()))
    panels = []
    titles = {"once": "the n-gram occurs once", "ahead": "three times, ahead", "behind": "three times, behind"}
    for design, title in titles.items():
        tallies = [(one["n"], one[design]) for one in result["teleports"] if one[design]]
        rows = [
            _point(MEANINGS[name], n, count, tally["total"])
            for n, tally in tallies
            for name, count in tally["said"].items()
        ]
        if rows:
            panels.append(_lines(title, rows, "tokens forced, n", "answers that go on", styles))
    return Chart(
        "teleports",
        "Teleports: what follows an n-gram forced into the middle of a copy",
        reading(result),
        "Bars: 95% Wilson intervals. Effective n: the smallest with half of the answers after the n-gram.",
        panels,
        styles,
    )


def repeat_chart(result: Mapping[str, Any]) -> Chart:
    """Copies of strings with a planted repeat, against its length, beside those of the n-gram copier."""
    copier = f"n-gram copier, n = {result['effective_n'] or 'that planted'}"
    styles = plain_styles([result["name"], copier])
    panels = []
    for successor, what, title in (
        ("different", "strings", "different successors: whole strings"),
        ("different", "second", "different successors: the token after the second"),
        ("same", "strings", "the same successor: whole strings"),
        ("same", "second", "the same successor: the token after the second"),
    ):
        rows = [
            _point(label, one["n"], one[who][what], one["strings"] if what == "strings" else one["pairs"])
            for one in result["repeats"]
            if one["successor"] == successor
            for who, label in (("engine", result["name"]), ("copier", copier))
        ]
        if rows:
            panels.append(_lines(title, rows, "tokens repeated, n", "right", styles))
    return Chart(
        "repeats",
        "Planted repeats: an n-gram that occurs twice in the string",
        f"A copier by k-grams breaks at n = k. Plain copies of {result['name']}: {result['plain']['count']} of "
        f"{result['strings']}.",
        "Bars: 95% Wilson intervals. The same successor makes the repeat one token longer.",
        panels,
        styles,
        columns=2,
    )


def _point(series: str, n: int, count: Mapping[str, Any], total: int) -> Row:
    share = count["count"] / total if total else 0.0
    text = f"{count['count']} of {total}"
    return {"series": series, "x": n, "y": share, "low": count["low"], "high": count["high"], "count": text}


def _lines(title: str, rows: list[Row], x_title: str, y_title: str, styles: Mapping[str, Style]) -> Panel:
    data = Data()
    ticks = sorted({row["x"] for row in rows})
    x = alt.X("x:Q", title=x_title, scale=alt.Scale(zero=False, padding=10), axis=alt.Axis(values=ticks, grid=False))

    def y(name: str) -> alt.Y:
        axis = alt.Axis(format="%", values=[0, 0.25, 0.5, 0.75, 1])
        return alt.Y(f"{name}:Q", title=y_title, scale=alt.Scale(domain=[0, 1]), axis=axis)

    labels = list(styles)  # of all panels, as they share the legend
    colours = alt.Scale(domain=labels, range=[styles[label].colour for label in labels])
    shapes = alt.Scale(domain=labels, range=[styles[label].shape for label in labels])
    base = data.base(rows).encode(x=x, color=alt.Color("series:N", title=None, scale=colours))
    tips = [alt.Tooltip("series:N", title="goes on"), alt.Tooltip("x:Q", title="n"), alt.Tooltip("count:N")]
    layers = [
        base.mark_line(strokeWidth=1.4).encode(y=y("y")),
        base.mark_rule(strokeWidth=1.2).encode(y=y("low"), y2="high:Q"),
        base.mark_point(filled=True, size=42).encode(
            y=y("y"), shape=alt.Shape("series:N", title=None, scale=shapes), tooltip=tips
        ),
    ]
    return Panel(title, layers, data)


# --- Heads ----------------------------------------------------------------------------------------------


def _columns(result: Mapping[str, Any]) -> list[str]:
    """Of the heat map."""
    first = result["heads"][0]
    back = [f"-{k}" if k else "self" for k in range(len(first["back"]))]
    after = [f"match+{k}" if k else "match" for k in range(len(first["after"]))]
    return [*reversed(back), *after]


def head_chart(result: Mapping[str, Any]) -> Chart:
    """A heat map of where each head looks, beside the whole strings that are copied without it."""
    names = [f"{head['layer']}.{head['head']}" for head in result["heads"]]
    columns = _columns(result)
    cells, lost = Data(), Data()
    masses = [
        {"head": name, "place": place, "mass": mass, "text": f"{mass:.2f}".lstrip("0") if mass >= 0.095 else ""}
        for name, head in zip(names, result["heads"], strict=True)
        for place, mass in zip(columns, [*reversed(head["back"]), *head["after"]], strict=True)
    ]
    without = {one["what"]: one["strings"] for one in result["removed"]}
    bars = [
        {
            "head": name,
            "kind": head["kind"],
            "y": without[name]["count"] / without[name]["total"],
            "low": without[name]["low"],
            "high": without[name]["high"],
            "count": f"{without[name]['count']} of {without[name]['total']}",
        }
        for name, head in zip(names, result["heads"], strict=True)
    ]
    rows = alt.Y("head:N", sort=names, title="layer.head", axis=alt.Axis(grid=False))
    heat = cells.base(masses).encode(
        x=alt.X("place:N", sort=columns, title="where it looks", axis=alt.Axis(labelAngle=-60, grid=False)), y=rows
    )
    dark = alt.when("datum.mass > 0.55").then(alt.value("white")).otherwise(alt.value(INK))
    mass = alt.Color(
        "mass:Q", title="mass", scale=alt.Scale(range=["#ffffff", HUES[0]], domain=[0, 1], interpolate="rgb")
    )
    tips = [alt.Tooltip("head:N"), alt.Tooltip("place:N"), alt.Tooltip("mass:Q", format=".3f")]
    bar = lost.base(bars).encode(y=rows)

    def x(name: str) -> alt.X:
        axis = alt.Axis(format="%", values=[0, 0.5, 1])
        return alt.X(f"{name}:Q", title="whole strings without it", scale=alt.Scale(domain=[0, 1]), axis=axis)

    kinds = [alt.Tooltip("head:N"), alt.Tooltip("kind:N"), alt.Tooltip("count:N", title="whole strings")]
    panels = [
        Panel(
            "attention while copying",
            [
                heat.mark_rect().encode(color=mass, tooltip=tips),
                heat.mark_text(fontSize=8).encode(text="text:N", color=dark),
            ],
            cells,
        ),
        Panel(
            "removed",
            [
                bar.mark_rule(strokeWidth=1.2, color=INK).encode(x=x("low"), x2="high:Q"),
                bar.mark_point(filled=True, size=36, color=INK).encode(x=x("y"), tooltip=kinds),
            ],
            lost,
        ),
    ]
    whole = without["nothing"]
    groups = [f"{what} {one['count']}" for what, one in without.items() if what.startswith("all ")]
    return Chart(
        "heads",
        "Heads: where each looks, and what is copied without it",
        f"Whole strings of {whole['total']}: {whole['count']} as it is; without {', '.join(groups)}.",
        "Mean attention mass; match: the token just copied, in the prompt; match+1: the one that comes next.",
        panels,
    )
