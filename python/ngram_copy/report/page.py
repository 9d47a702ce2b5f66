"""The report as one HTML page that needs nothing else: charts, their JavaScript, tables, styles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

import altair as alt
import vl_convert

from ngram_copy.report import laws, learned
from ngram_copy.report.markdown import REPEAT_HEADINGS, cell_table, repeat_row
from ngram_copy.report.plots import Chart, Missing, page_spec
from ngram_copy.report.rows import Summary
from ngram_copy.report.style import INK, Style
from ngram_copy.report.verdict import Verdict

VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
"""The version of Vega-Lite that Altair writes, as vl-convert names it."""

# Vega's symbols in a box from -5 to 5.
_SYMBOLS = {
    "circle": '<circle r="4.2"/>',
    "square": '<rect x="-4" y="-4" width="8" height="8"/>',
    "triangle-up": '<path d="M0-5 5 4H-5Z"/>',
    "triangle-down": '<path d="M0 5 5-4H-5Z"/>',
    "diamond": '<path d="M0-5.2 5.2 0 0 5.2-5.2 0Z"/>',
    "cross": '<path d="M-1.7-5h3.4v3.3H5v3.4H1.7V5h-3.4V1.7H-5v-3.4h3.3Z"/>',
}


def render(summary: Summary, charts: Sequence[Chart | Missing], verdicts: Sequence[Verdict], command: str) -> str:
    """The whole page.

    Parameters
    ----------
    summary : Summary
    charts : sequence of Chart or Missing
    verdicts : sequence of Verdict
    command : str
        What makes these records again.
    """
    sections = {}
    for chart in charts:
        sections[chart.key] = (chart.title, _chart(chart))
        if chart.key == learned.AFTER and (models := _learned(summary)):
            sections["learned"] = (learned.TITLE, models)
    for table in laws.tables(summary):
        shown = _table(table.headings, table.rows, table.numbers)
        sections[table.key] = (table.title, f'<p class="note">{escape(table.note)}</p>{shown}')
    if summary.cells:
        sections["cells"] = ("All cells", _table(*cell_table(summary.cells)))
    if summary.repeats:
        rows = [repeat_row(row) for row in summary.repeats]
        sections["statistics"] = ("Repeats of n-grams", _table(REPEAT_HEADINGS, rows, set(range(1, 8))))
    if summary.failures:
        rows = [[f.task, f.engine, f.place, f.message, f.case_id] for f in summary.failures]
        sections["failures"] = (
            "Cases that could not be run",
            _table(("task", "engine", "L", "error", "case"), rows, {2}),
        )
    sections["provenance"] = ("Engines, environment, command", _provenance(summary, command))
    specs = {
        f"{chart.key}-{place}": page_spec(chart, panel)
        for chart in charts
        if isinstance(chart, Chart)
        for place, panel in enumerate(chart.panels)
    }
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return Template(resources.files(__package__).joinpath("page.html").read_text("utf-8")).substitute(
        lead=_lead(summary),
        verdicts="".join(map(_verdict, verdicts)),
        contents="".join(f'<li><a href="#{key}">{escape(title)}</a></li>' for key, (title, _) in sections.items()),
        sections="".join(
            f'<section id="{key}"><h2>{escape(title)}</h2>{body}</section>' for key, (title, body) in sections.items()
        ),
        specs=json.dumps(specs, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        bundle=bundle.replace("</script", "<\\/script"),
    )


def _lead(summary: Summary) -> str:
    counts = [
        f"{len(summary.cells)} cells" if summary.cells else "",
        f"{len({cell.engine for cell in summary.cells})} engines on {len(summary.tasks)} tasks"
        if summary.cells
        else "",
        f"{sum(cell.strings.total for cell in summary.cells):,} strings" if summary.cells else "",
        f"{len(summary.repeats)} statistics of n-grams" if summary.repeats else "",
        f"{checks} checks of the theory" if (checks := _checks(summary)) else "",
        f"{len(summary.trainings)} trained models" if summary.trainings else "",
    ]
    suites = f"Suite {', '.join(summary.suites)}: " if summary.suites else ""
    return escape(suites + ", ".join(filter(None, counts)) + ".")


def _checks(summary: Summary) -> int:
    """Statistics other than repeats."""
    return len(summary.half_lengths) + len(summary.agreements) + len(summary.censuses) + len(summary.precisions)


def _verdict(verdict: Verdict) -> str:
    mark = {"holds": "✓", "FAILS": "✗", "not tested": "·"}[verdict.word]
    return (
        f'<li class="{verdict.word.lower().replace(" ", "-")}">'
        f'<b><span aria-hidden="true">{mark}</span> {verdict.word}</b>'
        f"<p>{escape(verdict.claim)}</p><small>{escape(verdict.evidence)}</small></li>"
    )


def _learned(summary: Summary) -> str:
    """What each model came to, and the rules; nothing without models."""
    outcomes = learned.outcomes(summary)
    parts = []
    if outcomes:
        rules = "".join(f"<li><b>{escape(word)}</b>: {escape(text)}</li>" for word, text in learned.RULES.items())
        rows = [learned.outcome_row(row) for row in outcomes]
        parts = [
            f'<p class="seen">{escape(learned.sentence(summary))}</p><p class="seen">{escape(learned.EVIDENCE)}</p>',
            f'<div class="note"><p>{escape(learned.FIRST)}</p><ol>{rules}</ol><p>{escape(learned.OPEN)}</p>',
            f"<p>{escape(learned.SEEDS)}</p></div>",
            _table(learned.OUTCOME_HEADINGS, rows, learned.OUTCOME_NUMBERS),
        ]
    if summary.trainings:
        rows = [learned.training_row(row) for row in summary.trainings]
        parts.append(_table(learned.TRAINING_HEADINGS, rows, learned.TRAINING_NUMBERS))
    return "".join(parts)


def _chart(chart: Chart | Missing) -> str:
    if isinstance(chart, Missing):
        return f'<p class="missing">No chart: there are no {escape(chart.reason)}.</p>'
    panels = "".join(
        f"<figure>{f'<figcaption>{escape(panel.title)}</figcaption>' if panel.title else ''}"
        f'<div class="plot" id="plot-{chart.key}-{place}" style="height:{chart.height + 60}px"></div></figure>'
        for place, panel in enumerate(chart.panels)
    )
    legend = "".join(_legend(label, style) for label, style in chart.series.items())
    return (
        f'<p class="seen">{escape(chart.sentence)}</p>'
        f'<div class="legend" role="group" aria-label="Series">{legend}</div>'
        f'<div class="panels columns-{chart.columns}">{panels}</div><p class="note">{escape(chart.note)} '
        f'For a paper: <a href="charts/{chart.key}.svg">SVG</a>, <a href="charts/{chart.key}.pdf">PDF</a>.</p>'
    )


def _legend(label: str, style: Style) -> str:
    edge = f' stroke="{INK}"' if style.edge else ""
    symbol = f'<svg viewBox="-6 -6 12 12" fill="{style.colour}"{edge} aria-hidden="true">{_SYMBOLS[style.shape]}</svg>'
    return f'<button type="button" aria-pressed="false" data-series="{escape(label)}">{symbol}{escape(label)}</button>'


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], numeric: set[int], *, wrapped: bool = False) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        shown = (
            f"<{tag}{' class=n' if place in numeric else ''}>{escape(text)}</{tag}>" for place, text in enumerate(row)
        )
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(cells(row, "td") for row in rows)
    head = cells(headings, "th")
    kind = "scroll wrapped" if wrapped else "scroll"
    return f'<div class="{kind}" tabindex="0"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _provenance(summary: Summary, command: str) -> str:
    long = any(len(options) > 120 for options in summary.engines.values())
    engines = _table(("engine", "with all its options"), list(summary.engines.items()), set(), wrapped=long)
    environment: list[Any] = [[key, ", ".join(values)] for key, values in summary.environment.items()]
    environment.append(["time of all cases", f"{summary.seconds:.1f} s"])
    return (
        f"{engines if summary.engines else ''}{_table(('environment', ''), environment, set())}"
        f"<p>To make it again:</p><pre>{escape(command)}</pre>"
    )
