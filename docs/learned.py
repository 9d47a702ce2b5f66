"""The tables of docs/learned.md: what the reference records of the suites copy, lookup and mqar say.

python docs/learned.py results/2026-11-25-copy --page docs/learned.md

Those of lookup and mqar are the newest in the same folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headline import splice, splice_page

from ngram_copy.results import read

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
            row += [*examples_and_rate(result), " ".join(shown(one) for one in cells(records, mine[length], length))]
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


def answered(records: Sequence[Record]) -> str:
    """Right answers by length, of models trained until they solved their task or a budget ended; a row for each."""
    asked = of_kind(records, "accuracy")
    lengths = sorted({one["case"]["length"] for one in asked})
    by_id = {training["case_id"]: training for training in of_kind(records, "training")}
    rows: dict[tuple[str, str], list[str]] = {}
    for one in asked:
        case = one["case"]
        training = by_id.get(case.get("trained_by"))
        row = rows.setdefault((case["task"]["name"], case["label"]), [f"`{case['task']['name']}`", case["label"]])
        if len(row) == 2:
            row += ["not trained"] * 2 if training is None else [*examples_and_rate(training["result"])]
        row.append(shown(one))
    by_task = sorted(rows.values(), key=lambda row: row[0])
    return table(["task", "model", "examples", "rate kept", *(f"L = {length}" for length in lengths)], by_task)


def examples_and_rate(result: Mapping[str, Any]) -> tuple[str, str]:
    """Examples that a training needed, ``> N`` where it did not get there, and the learning rate that was best."""
    solved = result["examples_to_solve"]
    return f"> {result['examples']:,}" if solved is None else f"{solved:,}", f"{result['lr']:g}"


def probed(probes: Sequence[Record]) -> str:
    """What ``ngram-copy probe`` said of some of the models: a column for each.

    Raises
    ------
    ValueError
        If there are none.
    """
    if not probes:
        raise ValueError("no probes: ngram-copy probe CHECKPOINT --json > FOLDER/probe-NAME.json")
    rows: dict[str, list[str]] = {"plain copies, whole": [], "length L, strings of each kind": []}
    for one in probes:
        plain = one["plain"]
        rows["length L, strings of each kind"].append(f"{one['length']}, {one['strings']}")
        rows["plain copies, whole"].append(f"{plain['count']} ({plain['low']:.2f}–{plain['high']:.2f})")
        for name in ("there", "offset"):
            by_n = ", ".join(str(row["once"]["said"][name]["count"]) for row in one["teleports"])
            rows.setdefault(f"{name}, by n = 1 … {len(one['teleports'])}", []).append(by_n)
        rows.setdefault("effective n", []).append(str(one["effective_n"] or "none"))
        rows.setdefault("of several places", []).append(str(one["policy"] or "none"))
        rows.setdefault("breaks at planted repeats of", []).append(str(one["breaks_at"] or "none"))
        removed = {row["what"]: str(row["strings"]["count"]) for row in one["removed"] or []}
        for kind in ("match", "back", "other"):
            rows.setdefault(f"whole strings without all heads “{kind}”", []).append(
                removed.get(f"all {kind}", "no such heads")
            )
    names = [str(one["file"]) for one in probes]
    return table(["", *names], [[title, *row] for title, row in rows.items()])


def read_probes(folder: Path) -> list[Record]:
    """``probe-*.json`` in a results folder, by name."""
    return [
        {**json.loads(path.read_text(encoding="utf-8")), "file": path.stem.removeprefix("probe-")}
        for path in sorted(folder.glob("probe-*.json"))
    ]


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
BESIDE = ("lookup", "mqar")


def page(text: str, folder: Path) -> str:
    """The page with its tables made anew from a results folder.

    Raises
    ------
    ValueError
        If marks or records are missing.
    """
    records = read(folder)
    for name, make in TABLES.items():
        text = splice(text, make(records), name)
    for suite in BESIDE:
        folders = sorted(folder.resolve().parent.glob(f"*-{suite}"))
        if not folders:
            raise ValueError(f"no records of {suite} beside {folder}")
        text = splice(text, answered(read(folders[-1])), suite)
    return splice(text, probed(read_probes(folder)), "probed")


def main(arguments: list[str] | None = None) -> int:
    """Splice the tables into the page."""
    return splice_page(__doc__.splitlines()[0], page, "copy", arguments)


if __name__ == "__main__":
    sys.exit(main())
