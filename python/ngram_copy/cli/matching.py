"""Records by cell: what ``compare`` and ``rank`` match on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ngram_copy.cli.console import UserError, user_errors

if TYPE_CHECKING:
    from ngram_copy.results import Record


def read_results(path: Path) -> list[Record]:
    """The records of a folder; the user's errors become one line."""
    from ngram_copy.results import ResultsError, read

    with user_errors(ResultsError):
        return read(path)


def case_key(record: Record) -> str:
    """What a record measures, whatever its suite and labels are called."""
    from ngram_copy.results import canonical_json

    return canonical_json({name: value for name, value in record["case"].items() if name not in {"suite", "label"}})


def cell_key(record: Record) -> str:
    """What an engine was asked: the case without the engine."""
    from ngram_copy.results import canonical_json

    left_out = {"suite", "label", "engine", "trained_by", "weights"}
    return canonical_json({name: value for name, value in record["case"].items() if name not in left_out})


def require_same_data(pairs: Iterable[tuple[Record, Record]]) -> None:
    """Refuse results of one case on different data.

    Raises
    ------
    UserError
        Naming the case and both hashes.
    """
    for a, b in pairs:
        hashes = a["result"].get("data_hash"), b["result"].get("data_hash")
        if hashes[0] != hashes[1]:
            raise UserError(
                f"{describe(a)}: the data differ ({_short(hashes[0])} against {_short(hashes[1])}), such as two "
                "versions of a text: these results cannot be compared"
            )


def describe(record: Record) -> str:
    """A cell in words: ``copy, ngram n=3, length 20, seed 0``."""
    case = record["case"]
    if record["kind"] == "training":
        return f"training of {case.get('label', 'a model')} on {task_label(case)}, seed {case['seed']}"
    parts = [task_label(case), *([case.get("label", case["engine"]["name"])] if "engine" in case else [])]
    if "statistic" in case:
        parts.append(f"{case['statistic']} of {case['n']}-grams" if "n" in case else case["statistic"])
    parts += [f"length {case['length']}"] if "length" in case else []
    return ", ".join([*parts, f"seed {case['seed']}"])


def task_label(case: dict[str, Any]) -> str:
    """The task's name with the options that tell sources apart."""
    task = case["task"]
    shown = [str(task[option]) for option in ("source", "unit", "successor") if option in task]
    size = [f"D={task['vocab_size']}"] if "vocab_size" in task else []
    return " ".join([task["name"], *shown, *size])


def _short(data_hash: object) -> str:
    return str(data_hash)[:19]
