"""What the commands share: consoles, errors, and the reading of records."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


class UserError(Exception):
    """Bad input: its text is the one line that the user sees."""


def complain(message: str) -> None:
    """Print an error as one line on stderr."""
    print(f"ngram-copy: {' '.join(message.split())}", file=sys.stderr)


@contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Exceptions of these kinds are the user's: one line and exit code 2."""
    try:
        yield
    except BrokenPipeError:
        raise
    except kinds as error:
        if isinstance(error, OSError) and error.filename:
            raise UserError(f"{error.filename}: {error.strerror}") from error
        raise UserError(str(error) or type(error).__name__) from error


_WIDE = 200  # columns where there is no terminal


def stdout() -> Console:
    """For results."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)


def stderr() -> Console:
    """For progress and remarks."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, allow_nan=False))


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table; the columns in ``right`` hold numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", no_wrap=column in right)
    return made


def plain(text: object) -> str:
    """Text that rich shows as it is."""
    return escape(str(text))


def plural(count: int, noun: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def version() -> str:
    """The version of the installed package."""
    from importlib import metadata

    return metadata.version("ngram-copy")
