"""``rank``: engines by their mean over the cells that all of them answered."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ngram_copy.cli.console import UserError, plain, plural, print_json, stdout, table
from ngram_copy.cli.matching import cell_key, describe, read_results, require_same_data

if TYPE_CHECKING:
    from ngram_copy.results import Record


@dataclass(frozen=True)
class Standing:
    """An engine's means over the shared cells; each cell counts once.

    Attributes
    ----------
    engine : str
        Its label, or its name and options where labels do not tell engines apart.
    strings, tokens : float
        Whole answers and teacher-forced tokens that are right.
    bits : float or None
        Bits recalled; None where a shared cell has no known source.
    state_bits : float
        Bits of state at the cut.
    """

    engine: str
    strings: float
    tokens: float
    bits: float | None
    state_bits: float


def rank(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR…", help="Results folders; cells may be spread over them.")
    ],
    engine: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only these engines, by label; may be given again.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")] = False,
) -> None:
    """Rank engines over the cells that all of them answered.

    A cell is a task, a length and a seed. Engines are ordered by whole strings,
    then by bits recalled; each shared cell counts once.

    [bold]Examples[/bold]

      ngram-copy rank results/mine

      ngram-copy rank results/mine results/theirs --engine 'table-*'
    """
    records = [record for folder in folders for record in read_results(folder) if record["kind"] == "accuracy"]
    answers = _by_engine(records, engine or [])
    every = {key: record for cells in answers.values() for key, record in cells.items()}
    shared = [key for key in every if all(key in cells for cells in answers.values())]
    left_out = [key for key in every if key not in shared]
    if not shared:
        by_cell = {key: [label for label, cells in answers.items() if key in cells] for key in every}
        most = max(by_cell, key=lambda key: len(by_cell[key]))
        raise UserError(
            f"no cell was answered by all {plural(len(answers), 'engine')} ({_some(list(answers))}): choose some with "
            f"--engine; most of them meet at {_without_engine(every[most])}: {', '.join(by_cell[most])}"
        )
    standings = sorted(
        (_standing(label, [cells[key] for key in shared]) for label, cells in answers.items()),
        key=lambda standing: (-standing.strings, -(standing.bits or 0), standing.state_bits, standing.engine),
    )
    missing = {key: [label for label, cells in answers.items() if key not in cells] for key in left_out}
    if as_json:
        print_json(
            {
                "shared": len(shared),
                "left_out": [{"case": every[key]["case"], "missing": missing[key]} for key in left_out],
                "engines": [vars(standing) for standing in standings],
            }
        )
        return
    columns = ("#", "whole strings", "tokens", "bits recalled", "bits of state")
    shown = table("#", "engine", *columns[1:], right=columns)
    for place, standing in enumerate(standings, 1):
        shown.add_row(
            str(place),
            plain(standing.engine),
            f"{standing.strings:.4f}",
            f"{standing.tokens:.4f}",
            "-" if standing.bits is None else f"{standing.bits:,.1f}",
            f"{standing.state_bits:,.1f}",
        )
    screen = stdout()
    screen.print(shown)
    screen.print(f"Means over the {plural(len(shared), 'cell')} of {len(every):,} that all engines answered.")
    unknown = sum(any(cells[key]["result"]["bits_recalled"] is None for cells in answers.values()) for key in shared)
    if unknown:
        screen.print(f"Bits recalled have no mean: in {unknown:,} of these cells they are not known.")
    for key in left_out[:5]:
        screen.print(f"Left out: {plain(_without_engine(every[key]))} (no result of {plain(_some(missing[key]))})")
    if len(left_out) > 5:
        screen.print(f"Left out: {len(left_out) - 5:,} more (all are listed by --json).")


def _by_engine(records: list[Record], globs: list[str]) -> dict[str, dict[str, Record]]:
    """Records by engine and cell; results of one case on different data are refused."""
    from ngram_copy.results import canonical_json

    engines: dict[str, dict[str, Record]] = defaultdict(dict)
    names: dict[str, set[str]] = defaultdict(set)
    cells: dict[str, Record] = {}
    for record in records:
        configuration = canonical_json(record["case"]["engine"])
        require_same_data([(cells.setdefault(cell_key(record), record), record)])
        engines[configuration][cell_key(record)] = record
        names[configuration].add(record["case"].get("label", record["case"]["engine"]["name"]))
    labels = {configuration: sorted(found)[0] for configuration, found in names.items()}
    if len(set(labels.values())) < len(labels):
        labels = {configuration: _call(next(iter(cells.values()))) for configuration, cells in engines.items()}
    for glob in globs:
        if not any(fnmatchcase(label, glob) for label in labels.values()):
            raise UserError(f"--engine {glob}: none of {', '.join(labels.values())}")
    chosen = {
        labels[configuration]: cells
        for configuration, cells in engines.items()
        if not globs or any(fnmatchcase(labels[configuration], glob) for glob in globs)
    }
    if not chosen:
        raise UserError("no accuracy records: nothing to rank")
    return chosen


def _call(record: Record) -> str:
    options = dict(record["case"]["engine"])
    name = options.pop("name")
    return f"{name}({', '.join(f'{option}={value}' for option, value in options.items())})"


def _standing(label: str, records: list[Record]) -> Standing:
    results = [record["result"] for record in records]
    recalled = [result["bits_recalled"] for result in results]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    return Standing(
        label,
        mean([result["strings"]["correct"] / result["strings"]["total"] for result in results]),
        mean([result["tokens"]["correct"] / result["tokens"]["total"] for result in results]),
        mean([bits["mean"] for bits in recalled]) if all(recalled) else None,
        mean([result["state_bits"] for result in results]),
    )


def _some(names: list[str]) -> str:
    """The first names, and how many there are besides."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _without_engine(record: Record) -> str:
    parts = describe(record).split(", ")
    return ", ".join([parts[0], *parts[2:]])
