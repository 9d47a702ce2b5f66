"""Records: one JSON line for each case, appended and flushed as made; reading, repairing and comparing them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SCHEMA = "ngram-copy/1"
"""The version of a record; a file of another one is refused."""

RECORDS = "records.jsonl"
"""The file in a results folder."""

KINDS = ("accuracy", "statistic", "training", "timing", "error")
"""What a record can be."""

_SHAPE: dict[str, type] = {"case_id": str, "kind": str, "case": dict, "result": dict}

_CELL = ("suite", "task", "length", "seed", "examples")
_FIELDS: dict[str, dict[str, tuple[str, ...]]] = {
    "accuracy": {
        "case": (*_CELL, "engine"),
        "result": ("data_hash", "strings", "tokens", "bits_recalled", "state_bits", "h_min", "string_bound"),
    },
    "statistic": {"case": ("suite", "task", "seed", "examples", "statistic"), "result": ("data_hash",)},
    "training": {
        "case": ("suite", "label", "engine", "seed"),
        "result": (
            *("data_hash", "lr", "grid", "steps", "examples", "tokens", "parameters", "losses", "evaluations"),
            *("examples_to_solve", "weights_hash", "train_lengths"),
        ),
    },
    "error": {"case": (), "result": ("error", "message")},
}

Record = dict[str, Any]
"""``{schema, case_id, kind, case, result, environment, artifacts}``."""


class ResultsError(ValueError):
    """Records that cannot be used; the text is one line with the file, the line and the reason."""


def canonical_json(value: Any) -> str:
    """Sorted keys, no spaces, ASCII; equal values give equal text.

    Raises
    ------
    ValueError
        For NaN and infinities, which JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def comparison_key(record: Record) -> tuple[str, str, str]:
    """What makes two records equal: (case_id, case, result), never environment or artifacts."""
    return record["case_id"], canonical_json(record["case"]), canonical_json(record["result"])


def comparison_keys(records: Iterable[Record]) -> list[tuple[str, str, str]]:
    """The sorted keys of a run: two runs are equal when these are."""
    return sorted(map(comparison_key, records))


def records_path(path: str | Path) -> Path:
    """The records of a results folder, or the path itself if it is no folder."""
    path = Path(path)
    return path / RECORDS if path.is_dir() else path


def read(path: str | Path) -> list[Record]:
    """Read the records of a results folder or of a file.

    Returns
    -------
    list of dict
        The records in the order of the file.

    Raises
    ------
    ResultsError
        If the file is missing, unreadable or empty, or a line is torn, malformed or of another schema.
    """
    path = records_path(path)
    lines = _lines(path)
    records = [_parse(path, number, line, last=number == len(lines)) for number, line in enumerate(lines, 1)]
    if not records:
        raise ResultsError(f"{path}: no records")
    return records


def repair(path: str | Path) -> list[Record]:
    """Make a file ready to be continued: drop a torn last line and the records of failed cases.

    Returns
    -------
    list of dict
        What is left, in order: complete results.

    Raises
    ------
    ResultsError
        If another line than the last is malformed, or one is of another schema.
    """
    path = records_path(path)
    lines = _lines(path)
    if lines:
        try:
            json.loads(lines[-1])
        except ValueError:
            lines.pop()
    kept = []
    for number, line in enumerate(lines, 1):
        record = _parse(path, number, line)
        if record["kind"] != "error":
            kept.append((line, record))
    content = b"".join(line + b"\n" for line, _ in kept)
    if content != path.read_bytes():
        beside = path.with_name(path.name + ".repaired")
        beside.write_bytes(content)
        beside.replace(path)
    return [record for _, record in kept]


def _lines(path: Path) -> list[bytes]:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        folder = path.parent if path.suffix else path
        raise ResultsError(f"{path}: no such file; `ngram-copy run SUITE --out {folder}` makes it") from error
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {error.strerror or error}") from error
    return content.removesuffix(b"\n").split(b"\n") if content else []


def _parse(path: Path, number: int, line: bytes, *, last: bool = False) -> Record:
    where = f"{path}, line {number}"
    try:
        record = json.loads(line)
    except ValueError as error:
        if last:
            raise ResultsError(
                f"{where}: torn last line (the run was stopped); `ngram-copy run … --resume` repairs it"
            ) from error
        raise ResultsError(f"{where}: not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ResultsError(f"{where}: a record is a JSON object, not {type(record).__name__}")
    schema = record.get("schema")
    if schema != SCHEMA:
        raise ResultsError(f"{where}: records of schema {schema!r}; this version reads {SCHEMA!r}")
    for key, kind in _SHAPE.items():
        if not isinstance(record.get(key), kind):
            raise ResultsError(f"{where}: the key {key!r} is missing or is not a {kind.__name__}")
    if record["kind"] not in KINDS:
        raise ResultsError(f"{where}: kind {record['kind']!r} is none of {', '.join(KINDS)}")
    for part, fields in _FIELDS.get(record["kind"], {}).items():
        for field in fields:
            if field not in record[part]:
                raise ResultsError(f"{where}: a record of kind {record['kind']!r} lacks {part}.{field}")
    return record


class Writer:
    """Appends records to a file; each is on the disk when ``write`` returns.

    Parameters
    ----------
    path : Path
        The file; made if missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    def write(self, record: Record) -> None:
        """Append one record as a line, whole or not at all.

        Raises
        ------
        OSError
            If it cannot be written (disk full, …); what was written of it is taken back.
        """
        line = canonical_json(record).encode() + b"\n"
        start = os.fstat(self._file.fileno()).st_size
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(start)
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
