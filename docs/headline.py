"""README's first table: what the reference records say of random strings of 26 letters.

python docs/headline.py results/2026-11-28-symbolic --readme README.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ngram_copy.report.labels import number, percent
from ngram_copy.report.rows import Cell
from ngram_copy.report.summary import summarise
from ngram_copy.results import ResultsError, read

LENGTHS = (16, 64, 128, 217, 218, 256, 512, 1024)
TASK = {"name": "copy", "source": "uniform", "vocab_size": 26}


def markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """Make the table; all seeds of a length count together.

    Raises
    ------
    ValueError
        If the records hold no strings of 26 letters, or not all of the engines.
    """
    cells = [cell for cell in summarise(records).cells if TASK.items() <= cell.task_options.items()]
    table = of(cells, "table-1024")
    size = f"{table[0].engine_options['slots']:,} slots, {number(table[0].state_bits)} bits"
    rows = [
        ("exact copier `ngram-4`: whole strings", "ngram-4", strings),
        ("its rule: strings in which no 4-gram repeats", "ngram-4", unrepeated),
        ("prefix machine `prefix-1024-bits`: whole strings", "prefix-1024-bits", strings),
        ("its bound, of any state of as many bits", "prefix-1024-bits", bound),
        (f"`table-1024` ({size}): bits recalled", "table-1024", recalled),
        ("bits of the string", "table-1024", entropy),
    ]
    examples = " or ".join(f"{count:,}" for count in sorted({cell.strings.total for cell in cells}))
    widest = max(max(s.high - s.value, s.value - s.low) for s in (cell.strings for cell in cells))
    lines = [
        f"`ngram-copy run symbolic`, random strings of 26 letters, {examples} for each length and seed.",
        f"95% intervals reach {100 * widest:.1f} points at most to each side; blank: not measured. "
        "`make headline` writes this.",
        "",
        "| length L | " + " | ".join(f"{length:,}" for length in LENGTHS) + " |",
        "|---" + "|--:" * len(LENGTHS) + "|",
        *(f"| {title} | " + " | ".join(row(of(cells, engine), show)) + " |" for title, engine, show in rows),
    ]
    return "\n".join(lines) + "\n"


def of(cells: Sequence[Cell], engine: str) -> list[Cell]:
    """Cells of an engine.

    Raises
    ------
    ValueError
        If there are none.
    """
    found = [cell for cell in cells if cell.engine == engine]
    if not found:
        raise ValueError(f"no copied strings of 26 letters by {engine}")
    return found


def row(cells: Sequence[Cell], show: Callable[[list[Cell]], str]) -> list[str]:
    """Show the cells of each length; nothing where there are none."""
    groups = [[cell for cell in cells if cell.length == length] for length in LENGTHS]
    return [show(group) if group else "" for group in groups]


def strings(cells: list[Cell]) -> str:
    """Share of whole strings."""
    return percent(sum(cell.strings.correct for cell in cells) / sum(cell.strings.total for cell in cells))


def unrepeated(cells: list[Cell]) -> str:
    """Share of strings in which no n-gram repeats, counted without the copier."""
    repeating = sum(cell.diagnostics["repeat_strings"] for cell in cells)
    return percent(1 - repeating / sum(cell.diagnostics["rule_strings"] for cell in cells))


def bound(cells: list[Cell]) -> str:
    """Bound of whole strings; seeds have the same."""
    return percent(cells[0].bound or 0.0)


def recalled(cells: list[Cell]) -> str:
    """Mean bits recalled."""
    means = [cell.recalled[0] for cell in cells if cell.recalled]
    return number(sum(means) / len(means))


def entropy(cells: list[Cell]) -> str:
    """Bits of a string: what could be recalled."""
    return number(cells[0].h_min or 0.0)


def splice(text: str, table: str, name: str = "headline") -> str:
    """Put a table between the marks of that name in a text.

    Raises
    ------
    ValueError
        If the marks are not there.
    """
    begin, end = f"<!-- BEGIN: {name} -->", f"<!-- END: {name} -->"
    before, found, rest = text.partition(f"{begin}\n")
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the marks {begin} and {end} are not there")
    return f"{before}{begin}\n{table}{end}{after}"


def splice_page(
    description: str, page: Callable[[str, Path], str], suite: str, arguments: list[str] | None = None
) -> int:
    """The command of a page whose tables are made from records: ``FOLDER --page FILE``.

    Parameters
    ----------
    description : str
    page : callable
        From the page's text and a results folder to the text with its tables made anew.
    suite : str
        What the folder holds records of.
    arguments : list of str, optional
        By default those of the process.

    Returns
    -------
    int
        Exit code: 2 where marks or records are missing.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("records", type=Path, help=f"results folder of the suite {suite}")
    parser.add_argument("--page", type=Path, required=True, help="Markdown file with the marks")
    options = parser.parse_args(arguments)
    try:
        text = page(options.page.read_text(encoding="utf-8"), options.records)
        options.page.write_text(text, encoding="utf-8")
    except (OSError, ResultsError, ValueError) as error:
        print(f"{options.records}: {error}", file=sys.stderr)
        return 2
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Print the table; with ``--readme`` also splice it into a Markdown file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", type=Path, help="results folder of the suite symbolic")
    parser.add_argument("--readme", type=Path, help="Markdown file with the marks")
    options = parser.parse_args(arguments)
    try:
        table = markdown(read(options.records))
        if options.readme:
            text = splice(options.readme.read_text(encoding="utf-8"), table)
            options.readme.write_text(text, encoding="utf-8")
    except (OSError, ResultsError, ValueError) as error:
        print(f"{options.records}: {error}", file=sys.stderr)
        return 2
    print(table, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
