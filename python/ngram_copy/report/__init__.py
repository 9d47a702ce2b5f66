"""Reports of a run: a table in the terminal, Markdown, one self-contained HTML page, charts for a paper."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ngram_copy.report.summary import summarise
from ngram_copy.report.verdict import judge

if TYPE_CHECKING:
    from rich.console import RenderableType

Records = Sequence[Mapping[str, Any]]


def write(
    records: Records,
    out_dir: str | Path,
    *,
    verdicts: Mapping[str, Any] | None = None,
    command: str | None = None,
) -> dict[str, Path]:
    """Write ``index.html``, ``report.md`` and the charts as ``charts/*.svg`` and ``charts/*.pdf``.

    Parameters
    ----------
    records : sequence of mapping
        Records of schema ``ngram-copy/1``.
    out_dir : str or Path
        The folder; made if missing. Each file is replaced at once or not at all.
    verdicts : mapping, optional
        What ``ngram_copy.score.verdicts(records)`` found.
    command : str, optional
        What makes the records again; by default it is made of the names of their suites.

    Returns
    -------
    dict of str to Path
        Names relative to the folder, and where each file is.

    Raises
    ------
    ValueError
        If there are no records, one is of another schema, or one lacks a field.
    ImportError
        If the extra ``bench`` is not installed.
    OSError
        If a file cannot be written.
    """
    summary = summarise(records)
    try:
        import vl_convert

        from ngram_copy.report import charts, markdown, page, plots
    except ModuleNotFoundError as error:
        raise _needs_bench(error) from None
    drawn = charts.build(summary)
    found = judge(verdicts)
    command = command or "\n".join(f"ngram-copy run {suite} --out results/mine" for suite in summary.suites)
    contents: dict[str, bytes] = {}
    for chart in drawn:
        if isinstance(chart, plots.Chart):
            spec = plots.paper_spec(chart)
            svg = vl_convert.vegalite_to_svg(spec, vl_version=page.VEGA_LITE)
            contents[f"charts/{chart.key}.svg"] = svg.encode()
            contents[f"charts/{chart.key}.pdf"] = vl_convert.svg_to_pdf(svg)
    contents["report.md"] = markdown.render(summary, drawn, found, command).encode()
    contents["index.html"] = page.render(summary, drawn, found, command).encode()
    return {name: _replace(Path(out_dir) / name, content) for name, content in contents.items()}


def table(records: Records, *, verdicts: Mapping[str, Any] | None = None) -> RenderableType:
    """The table for the terminal; see ``ngram_copy.report.terminal.table``.

    Raises
    ------
    ValueError
        If there are no records, one is of another schema, or one lacks a field.
    ImportError
        If the extra ``bench`` is not installed.
    """
    try:
        from ngram_copy.report import terminal
    except ModuleNotFoundError as error:
        raise _needs_bench(error) from None
    return terminal.table(records, verdicts=verdicts)


def _needs_bench(error: ModuleNotFoundError) -> ImportError:
    if error.name is None or error.name.split(".")[0] not in {"altair", "vl_convert", "rich"}:
        return error
    return ImportError(f"a report needs {error.name}: pip install 'ngram-copy[bench]'")


def _replace(path: Path, content: bytes) -> Path:
    """Write a file beside its place, then move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException as error:
        os.unlink(beside)
        if isinstance(error, OSError):
            error.filename = str(path)  # a disk that is full does not name the file
        raise
    return path
