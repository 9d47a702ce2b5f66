"""The exponential law of the constructed transformer, and what holds that transformer to the n-gram copier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from ngram_copy import score, theory
from ngram_copy.report import plots
from ngram_copy.report.labels import flat, number, percent, short_hash
from ngram_copy.report.plots import Chart, Data, Panel, Row
from ngram_copy.report.rows import Agreement, Cell, Census, HalfLength, Precision, Summary
from ngram_copy.report.style import Style, plain_styles

BY_HEADS = "by heads"
ERRORS = ("one_percent", "half")
HALF = 0.5
"""Share of whole strings from which on a length counts as reached."""


# --- the chart ------------------------------------------------------------------------------------------


def law(summary: Summary) -> Chart | None:
    """Longest strings by heads, by bits of parameters and by bits at the cut; None without such records."""
    rows = summary.half_lengths
    if not rows:
        return None
    order = sorted({(row.vocab_size is None, row.vocab_size or 0, row.series) for row in rows})
    styles = plain_styles([series for *_, series in order])
    models = [model for model in trained_heads(summary.cells) if model.series in styles]
    panels = [
        _panel(BY_HEADS, rows, styles, "heads of the first layer, n", lambda row: row.heads, models=models),
        _panel(
            "by bits of the parameters", rows, styles, "bits of the parameters (float32)",
            lambda row: 32.0 * row.parameters,
        ),
    ]  # fmt: skip
    cached = [row for row in rows if row.cut_bits]
    if cached:
        panels.append(_cut_panel(cached, styles))
    note = (
        "Filled points: L½, the length at which half of the strings fail, with its 95% interval; "
        "hollow: where 1% fail. Dashed: the formula for uniform strings, L½ = √(2 ln 2 · Dⁿ / (1 − 1/D)) + n; it is "
        "asymptotic, so below Dⁿ = 1000 exact counts are what to compare with (in the table). Dotted, at the right: "
        "the longest string that the bound lets a state of as many bits copy. Heads and bits are different resources: "
        "the length grows exponentially in the heads, but the cache grows with the length, and bit for bit of memory "
        "the machine that keeps the first tokens copies longer. This is one construction; nothing is claimed of other "
        "transformers."
    )
    if models:
        note += (
            " Crosses: transformers that were trained, one for each seed, by the heads of their first layer: the "
            "longest measured length of which they copy half of the strings."
        )
    return Chart("law", "The longest copy grows exponentially in the heads", _sentence(rows, models), note, panels,
                 styles, height=300)  # fmt: skip


_TIPS = plots.tips(
    series="strings",
    n="n",
    heads="heads",
    error="error",
    longest="L",
    formula="formula",
    exact="exact",
    parameters="parameters",
    cut="bits at the cut",
)


def _row(row: HalfLength, key: str, x: float) -> Row | None:
    """A point for the error of 1/2 or of 1%; None where that was not reached."""
    longest = row.half if key == "half" else row.one_percent
    if longest is None or longest.value <= 0:
        return None
    return {
        "series": row.series,
        "seed": row.seed,
        "x": x,
        "y": longest.value,
        "low": max(longest.low, 1),
        "high": longest.high,
        "n": row.n,
        "heads": f"{row.heads} in the first layer, 1 in the second",
        "error": "1/2" if key == "half" else "1%",
        "longest": longest.text,
        "formula": f"{row.formula[key]:,.1f}" if key in row.formula else "none",
        "exact": f"{row.exact[key]:,.0f}" if key in row.exact else "none",
        "parameters": f"{row.parameters:,}",
        "cut": number(row.cut_bits) if row.cut_bits else "unknown",
    }


def _panel(
    title: str,
    rows: Sequence[HalfLength],
    styles: dict[str, Style],
    axis: str,
    position: Callable[[HalfLength], float],
    *,
    models: Sequence[TrainedHeads] = (),
) -> Panel:
    """Points of both errors, the formula through their places, and trained transformers."""
    formulas = [
        {"series": row.series, "x": position(row), "y": row.formula[key], "error": key}
        for row in sorted(rows, key=lambda row: row.n)
        for key in ERRORS
        if row.formula.get(key, 0) >= 1
    ]
    points = {key: [made for row in rows if (made := _row(row, key, position(row)))] for key in ERRORS}
    return _drawn(
        title, axis, styles, formulas, [5, 3], points, [_model_row(model) for model in models if model.longest]
    )


def _cut_panel(rows: Sequence[HalfLength], styles: dict[str, Style], steps: int = 24) -> Panel:
    """By bits of the cache at the cut; beside it what the bound lets so many bits copy."""
    bits = [row.cut_bits or 0.0 for row in rows]
    low, high = min(bits), max(bits)
    places = [low * (high / low) ** (step / steps) for step in range(steps + 1)]
    bounds = [
        {"series": series, "x": b, "y": theory.max_copy_length(b, size), "error": "half"}
        for series, size in sorted({(row.series, row.vocab_size) for row in rows if row.vocab_size})
        for b in places
    ]
    points = {"half": [made for row in rows if (made := _row(row, "half", row.cut_bits or 0.0))]}
    return _drawn("by bits at the cut", "bits at the cut (float32 cache)", styles, bounds, [1, 3], points, [])


def _drawn(
    title: str,
    axis: str,
    styles: dict[str, Style],
    lines: list[Row],
    dash: list[int],
    points: dict[str, list[Row]],
    models: list[Row],
) -> Panel:
    """Lines of theory, points with intervals (of the error of 1/2 filled), crosses of trained transformers."""
    every = [*lines, *models, *(row for rows in points.values() for row in rows)]
    data = Data()
    x = _heads_axis(every, axis) if title == BY_HEADS else alt.X("x:Q", **_bits_axis(every, "x", axis))
    scale = _bits_axis([*every, *({"y": row[end]} for row in every if "low" in row for end in ("low", "high"))], "y",
                       "L")  # fmt: skip

    def base(rows: list[Row]) -> Any:
        return data.base(rows).encode(x=x, color=plots.colour(styles), opacity=plots.opacity(0.9))

    def y(name: str) -> alt.Y:
        return alt.Y(f"{name}:Q", **scale)

    layers = []
    if lines:
        layers.append(base(lines).mark_line(strokeDash=dash, strokeWidth=1.2).encode(y=y("y"), detail="error:N"))
    for key, rows in points.items():
        if rows:
            marks = base(rows).mark_point(filled=key == "half", size=46 if key == "half" else 30)
            layers += [
                base(rows).mark_rule(strokeWidth=1.4).encode(y=y("low"), y2="high:Q"),
                marks.encode(y=y("y"), shape=plots.shape(styles), tooltip=_TIPS),
            ]
    if models:
        marks = base(models).mark_point(shape="M-1,-1L1,1M1,-1L-1,1", size=70, strokeWidth=1.8, filled=False)
        layers.append(marks.encode(y=y("y"), tooltip=_MODEL_TIPS))
    return Panel(title, layers, data)


def _heads_axis(rows: Sequence[Row], title: str) -> alt.X:
    scale = alt.Scale(domain=[0, max(row["x"] for row in rows) + 1], nice=False)
    return alt.X("x:Q", title=title, scale=scale, axis=alt.Axis(tickMinStep=1, grid=False))


def _bits_axis(rows: Sequence[Row], name: str, title: str) -> dict[str, Any]:
    """A logarithmic axis whose numbers are short."""
    axis = plots.log_axis([row for row in rows if name in row], name, title)
    axis["axis"].labelExpr = "format(datum.value, '~s')"
    return axis


# --- trained transformers -------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainedHeads:
    """A trained transformer (an engine and a seed) on uniform strings.

    Attributes
    ----------
    series : str
        ``D=…``.
    heads : int
        Of its first layer.
    longest : int
        The longest measured length of which half of the strings are whole; 0: none.
    measured : int
        The longest that was measured.
    """

    series: str
    engine: str
    heads: int
    seed: int
    longest: int
    measured: int


def first_heads(options: Any) -> int | None:
    """Heads of the first layer of a trained transformer; None for other engines."""
    model = options.get("model")
    if not isinstance(model, dict):
        return None
    layers = model.get("layers") or [model]
    found = [value for key, value in flat(layers[0]).items() if key.rsplit(".", 1)[-1] == "n_heads"]
    return int(found[0]) if found else None


def trained_heads(cells: Sequence[Cell]) -> list[TrainedHeads]:
    """Trained models of attention alone that were measured on uniform strings of several lengths."""
    groups: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in cells:
        if cell.learned and cell.family == "attention" and score.is_uniform(cell.task_options):
            groups.setdefault((cell.task, cell.engine, cell.seed), []).append(cell)
    found = []
    for (_, engine, seed), rows in groups.items():
        heads = first_heads(rows[0].engine_options)
        if heads is not None and len({row.length for row in rows}) > 1:
            longest = max((row.length for row in rows if row.strings.value >= HALF), default=0)
            series = f"D={rows[0].task_options['vocab_size']}"
            found.append(TrainedHeads(series, engine, heads, seed, longest, max(row.length for row in rows)))
    return sorted(found, key=lambda model: (int(model.series[2:]), model.heads, model.engine, model.seed))


_MODEL_TIPS = plots.tips(engine="trained", heads="heads of the first layer", seed="seed", longest="L")


def _model_row(model: TrainedHeads) -> Row:
    end = ", the longest measured" if model.longest == model.measured else ""
    return {
        "series": model.series,
        "engine": model.engine,
        "heads": model.heads,
        "seed": model.seed,
        "x": model.heads,
        "y": model.longest,
        "longest": f"{model.longest:,}{end}",
    }


def _sentence(rows: Sequence[HalfLength], models: Sequence[TrainedHeads]) -> str:
    """The longest strings, the slopes, and what trained transformers reach."""
    known = [row for row in rows if row.half]
    parts = []
    for series in dict.fromkeys(row.series for row in known):
        here = [row for row in known if row.series == series]
        few, many = (pick(here, key=lambda row: row.heads) for pick in (min, max))
        if few.half and many.half and few is not many:
            heads = f"{few.heads} to {many.heads} heads"
            parts.append(f"from {few.half.value:,.0f} to {many.half.value:,.0f} with {heads} ({series})")
    text = f"The length at which half of the strings fail grows {'; '.join(parts)}." if parts else ""
    slopes = [
        f"{slope.value:.3f} ({slope.low:.3f} to {slope.high:.3f}) beside {slope.expected:.3f} at {series}"
        for series, slope in slopes_of(rows).items()
    ]
    if slopes:
        text += f" Slope of log2(L½ − n) a head, with its 95% interval, beside ½·log2 D: {'; '.join(slopes)}."
    for series in dict.fromkeys(model.series for model in models):
        reach: dict[int, list[str]] = {}
        for model in models:
            if model.series == series:
                more = "≥ " if model.longest == model.measured else ""
                reach.setdefault(model.heads, []).append(f"{more}{model.longest:,}" if model.longest else "none")
        said = "; ".join(f"{heads}: {', '.join(longest)}" for heads, longest in sorted(reach.items()))
        text += f" Trained transformers at {series}, longest L by heads and seed: {said}."
    return text.strip()


def slopes_of(rows: Sequence[HalfLength]) -> dict[str, score.Slope]:
    """The slope of log2(L½ − n) for each D with two rows or more where the formula holds."""
    found = {}
    for series in dict.fromkeys(row.series for row in rows if row.vocab_size):
        points = [
            (row.n, row.half.value, row.half.low, row.half.high)
            for row in rows
            if row.series == series and row.half and row.vocab_size and row.vocab_size**row.n >= score.ASYMPTOTIC
        ]
        size = next(row.vocab_size for row in rows if row.series == series)
        slope = score.half_length_slope(points, size or 0)
        if slope is not None:
            found[series] = slope
    return found


# --- tables ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A table of the report.

    Attributes
    ----------
    key : str
        Its anchor in the page.
    note : str
        How to read it.
    numbers : set of int
        Columns that are numbers.
    """

    key: str
    title: str
    note: str
    headings: tuple[str, ...]
    rows: list[list[str]]
    numbers: set[int]


def tables(summary: Summary) -> list[Table]:
    """The tables of the four statistics, those that have rows."""
    made = (
        _half_lengths(summary.half_lengths),
        _slopes(summary.half_lengths),
        _agreements(summary.agreements),
        _censuses(summary.censuses),
        _precisions(summary.precisions),
    )
    return [table for table in made if table.rows]


def _half_lengths(rows: Sequence[HalfLength]) -> Table:
    note = (
        "Heads: of the first layer; the second has one. Samples of 95% intervals: of strings, or of windows of a text. "
        "Formula and exact: for uniform strings. Itself: whole strings of that length that the constructed "
        "transformer copied, where it fits; beyond, the n-gram copier stands for it, which equals it."
    )
    headings = (
        *("strings", "heads", "samples", "L at error 1/2", "formula", "exact", "L at error 1%", "formula", "exact"),
        *("parameters", "bits at the cut", "itself", "at L", "data", "case"),
    )

    def line(row: HalfLength) -> list[str]:
        def of(known: Any, key: str, form: str) -> str:
            return format(known[key], form) if key in known else "–"

        itself = row.transformer
        return [
            *(row.task, f"{row.heads}", f"{row.samples:,}"),
            *(row.half.text if row.half else "–", of(row.formula, "half", ",.1f"), of(row.exact, "half", ",.0f")),
            row.one_percent.text if row.one_percent else "–",
            *(of(row.formula, "one_percent", ",.1f"), of(row.exact, "one_percent", ",.0f")),
            *(f"{row.parameters:,}", number(row.cut_bits) if row.cut_bits else "–"),
            *(f"{itself.count} ({itself.interval})" if itself else "–",),
            *(f"{row.transformer_length:,}" if row.transformer_length else "–", short_hash(row.data_hash), row.case_id),
        ]

    return Table("half-lengths", "The longest copies", note, headings, [line(row) for row in rows], set(range(1, 13)))


def _slopes(rows: Sequence[HalfLength]) -> Table:
    note = (
        f"Weighted least squares over the n with Dⁿ ≥ {score.ASYMPTOTIC:,}, weights from the intervals of L½ and one "
        "token, as L½ is a whole number and the formula leaves out terms of about a token: by how much each further "
        "head lengthens the longest copy, as a power of 2."
    )
    found = slopes_of(rows)
    lines = [
        [series, f"{slope.points}", f"{slope.value:.4f}", f"{slope.low:.4f} to {slope.high:.4f}",
         f"{slope.expected:.4f}"]
        for series, slope in found.items()
    ]  # fmt: skip
    headings = ("strings", "lengths n", "slope of log2(L½ − n)", "95%", "½·log2 D")
    return Table("slopes", "The slope of the law", note, headings, lines, {1, 2, 3, 4})


def _agreements(rows: Sequence[Agreement]) -> Table:
    note = (
        "Teacher-forced. Determined: some earlier n-gram equals the last n tokens, and all that do have one successor; "
        "there the constructed transformer must say what the n-gram copier of the whole context says: in copies, and "
        "where a string is answered with its halves swapped, so that what is looked up stands elsewhere. Against the "
        "rule: strings whose whole copy, end included, is right although an n-gram repeats, or wrong although none "
        "does."
    )
    headings = (
        *("task", "n", "strings", "with a repeat", "against the rule", "determined positions", "disagreements"),
        *("halves swapped: positions", "disagreements there", "undetermined", "shorter than n", "L ≤", "options"),
        *("width", "parameters", "data", "case"),
    )
    lines = [
        [
            *(row.task, f"{row.n}", f"{row.strings:,}", f"{row.repeat_strings:,} of {row.rule_strings:,}"),
            *(f"{row.rule_disagreements:,}", f"{row.positions:,}", f"{row.disagreements:,}"),
            *(f"{row.swapped_positions:,}", f"{row.swapped_disagreements:,}", f"{row.undetermined:,}"),
            *(f"{row.shorter:,}", f"{row.length}", row.construction),
            *(f"{row.d_model:,}", f"{row.parameters:,}", short_hash(row.data_hash), row.case_id),
        ]
        for row in rows
    ]
    title = "The transformer against the n-gram copier"
    return Table("agreements", title, note, headings, lines, set(range(1, 15)) - {12})


def _censuses(rows: Sequence[Census]) -> Table:
    note = (
        "Every string of each length was given to the engine: how many distinct states it has at the cut, and how "
        "many strings it copies, end included. However it works, it cannot copy more than it has states."
    )
    headings = ("task", "engine", "seed", "L", "strings", "states", "copied", "of the states", "data", "case")
    lines = [
        [
            *(row.task, row.engine, f"{row.seed}", f"{length}", f"{strings:,}", f"{states:,}", f"{copied:,}"),
            *(percent(copied / states), short_hash(row.data_hash), row.case_id),
        ]
        for row in rows
        for length, strings, states, copied in row.rows
    ]
    return Table("censuses", "A census of strings and states", note, headings, lines, set(range(2, 8)))


def _precisions(rows: Sequence[Precision]) -> Table:
    note = (
        "The constructed transformer in a number format, with more and more heads, until determined positions come out "
        "wrong. Precision limits n·m (m: bits of a token), not the length. Allowed: the n·m beyond which the format is "
        "refused unless it is forced."
    )
    headings = (
        *("task", "format", "L", "n·m that were tried", "positions", "first failure at n·m", "wrong there"),
        *("allowed to n·m", "data", "case"),
    )
    lines = []
    for row in rows:
        products = [product for _, product, _, _ in row.rows]
        wrong = {product: f"{count:,} of {positions:,}" for _, product, positions, count in row.rows}
        lines.append([
            *(row.task, row.dtype, f"{row.length:,}", f"{min(products)} to {max(products)}" if products else "–"),
            f"{sum(positions for *_, positions, _ in row.rows):,}",
            *("none" if row.first_failure is None else f"{row.first_failure}", wrong.get(row.first_failure or 0, "–")),
            *("–" if row.limit is None else f"{row.limit:,}", short_hash(row.data_hash), row.case_id),
        ])  # fmt: skip
    return Table("precisions", "Where a number format breaks it", note, headings, lines, set(range(2, 8)))
