"""The tables of docs/learned.md: what the reference records of the suite copy say.

python docs/learned.py results/2026-11-25-copy --page docs/learned.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headline import splice

from ngram_copy.results import ResultsError, read

Record = Mapping[str, Any]


def solving(records: Sequence[Record]) -> str:
    """How many examples each model needed until it copied, by the greatest length that it learned from."""
    trainings = [record for record in of_kind(records, "training") if recipe(record)["stop_when_solved"]]
    lengths = sorted({recipe(record)["lengths"][1] for record in trainings})
    head = ["model", "parameters"]
    head += [
        title
        for length in lengths
        for title in (f"L ≤ {length}: examples", "rate kept", f"whole strings at L = {length}")
    ]
    rows = []
    for model in models(trainings):
        mine = {recipe(one)["lengths"][1]: one for one in trainings if model_of(one) == model}
        row = [model, f"{mine[lengths[0]]['result']['parameters']:,}"]
        for length in lengths:
            result = mine[length]["result"]
            solved = result["examples_to_solve"]
            row += [
                f"> {result['examples']:,}" if solved is None else f"{solved:,}",
                f"{result['lr']:g}",
                " ".join(shown(one) for one in cells(records, mine[length], length)),
            ]
        rows.append(row)
    return table(head, rows)


def reaching(records: Sequence[Record]) -> str:
    """Whole strings by length, of models that learned from short ones; a row for each seed."""
    trainings = [record for record in of_kind(records, "training") if not recipe(record)["stop_when_solved"]]
    found = {length for training in trainings for length in lengths_of(records, training)}
    lengths = sorted(found)
    head = ["model", "seed", "seconds", *(f"L = {length:,}" for length in lengths)]
    rows = []
    for training in trainings:
        row = [model_of(training), f"{training['case']['seed']}", f"{training['environment']['seconds']:.0f}"]
        row += [" ".join(shown(one) for one in cells(records, training, length)) for length in lengths]
        rows.append(row)
    return table(head, rows)


def of_kind(records: Iterable[Record], kind: str) -> list[Record]:
    """Records of a kind.

    Raises
    ------
    ValueError
        If there are none.
    """
    found = [record for record in records if record["kind"] == kind]
    if not found:
        raise ValueError(f"no records of kind {kind}")
    return found


def recipe(training: Record) -> Mapping[str, Any]:
    """Options of a training."""
    options: Mapping[str, Any] = training["case"]["engine"]["training"]
    return options


def model_of(training: Record) -> str:
    """The engine's name without the length that it learned from."""
    return str(training["case"]["label"]).rsplit("-", 1)[0]


def models(trainings: Iterable[Record]) -> list[str]:
    """Models in the order of the records' suite, each once."""
    return list(dict.fromkeys(sorted((model_of(one) for one in trainings), key=_order)))


def _order(model: str) -> tuple[int, str]:
    known = ("hard-alibi", "rope", "alibi", "mamba", "mamba2", "gla", "gated-delta", "gru", "lstm")
    return known.index(model) if model in known else len(known), model


def lengths_of(records: Iterable[Record], training: Record) -> set[int]:
    """Lengths at which a trained engine was measured."""
    return {record["case"]["length"] for record in records if record["case"].get("trained_by") == training["case_id"]}


def cells(records: Iterable[Record], training: Record, length: int) -> list[Record]:
    """What a trained engine did at a length."""
    return [
        record
        for record in records
        if record["case"].get("trained_by") == training["case_id"] and record["case"]["length"] == length
    ]


def shown(cell: Record) -> str:
    """Count and interval."""
    strings = cell["result"]["strings"]
    return f"{strings['correct']}/{strings['total']} ({strings['low']:.2f}–{strings['high']:.2f})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


TABLES = {"solving": solving, "reaching": reaching}


def page(text: str, records: Sequence[Record]) -> str:
    """The page with its tables made anew.

    Raises
    ------
    ValueError
        If marks or records are missing.
    """
    for name, make in TABLES.items():
        text = splice(text, make(records), name)
    return text


def main(arguments: list[str] | None = None) -> int:
    """Splice the tables into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", type=Path, help="results folder of the suite copy")
    parser.add_argument("--page", type=Path, required=True, help="Markdown file with the marks")
    options = parser.parse_args(arguments)
    try:
        text = page(options.page.read_text(encoding="utf-8"), read(options.records))
        options.page.write_text(text, encoding="utf-8")
    except (OSError, ResultsError, ValueError) as error:
        print(f"{options.records}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
