"""``stats``: the n-grams of real text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ngram_copy.cli.console import UserError, complain, plural, print_json, stderr, stdout, table, user_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LENGTHS = [16, 64, 256, 1024, 4096, 16384, 65536]
_PIECE = 2**22
_END_OF_WORD = re.compile(rb"\S(?=\s)")


def stats(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="Files and folders; hidden files are left out.")],
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Length of the n-grams.")] = 4,
    lengths: Annotated[
        list[int] | None,
        typer.Option(
            "--lengths",
            "-L",
            min=1,
            metavar="L",
            help="Length of a window; may be given again.",
            show_default="16, 64 … 65536",
        ),
    ] = None,
    words: Annotated[bool, typer.Option("--words", help="Count words, not bytes.")] = False,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads; they change the time, not the results.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")] = False,
) -> None:
    """Count the n-grams of text, and the windows in which one repeats.

    A window of L tokens in which an n-gram repeats is one that the n-gram
    copier of that n cannot copy. Every window of the text is counted; files are
    read one after another in the order of their names, each once. "If uniform":
    P(repeat) of random strings over as many symbols (256 bytes, or the words).

    [bold]Examples[/bold]

      ngram-copy stats some_folder --n 4

      ngram-copy stats book.txt --n 3 --words --lengths 100 --lengths 1000

      ngram-copy stats src docs -n 8 --json
    """
    from ngram_copy import ngram, theory

    with _Progress() as progress:
        tokens, found = _read(paths, words, progress)
        if len(tokens) < n:
            raise UserError(f"the text has {len(tokens):,} {found['unit']}, too few for a {n}-gram")
        chosen = sorted({length for length in lengths or _LENGTHS if length <= len(tokens)})
        if not chosen:
            raise UserError(f"no window fits into {len(tokens):,} {found['unit']}: choose shorter --lengths")
        for length in lengths or []:
            if length > len(tokens):
                complain(f"no window of {length:,} fits into {len(tokens):,} {found['unit']}: it is left out")
        with user_errors(ValueError, MemoryError):
            counts = ngram.ngram_statistics(tokens, n, threads=threads, progress=progress.of("counting", len(tokens)))
            step = progress.of("windows", len(tokens))
            windows = ngram.repeat_windows(tokens, n, chosen, progress=step)
    found |= {
        "n": n,
        "ngrams": counts.total,
        "distinct": counts.distinct,
        "repeated": counts.repeated,
        "windows": [
            {
                "length": window.length,
                "repeating": window.repeating,
                "total": window.total,
                "p": window.repeating / window.total,
                "p_uniform": theory.p_ngram_poisson(window.length, n, found["vocab_size"]),
            }
            for window in windows
        ],
    }
    if as_json:
        print_json(found)
    else:
        _show(found)


class _Progress:
    """A bar for each step, with the time left, on a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        screen = stderr()
        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
        self._bar = Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def of(self, step: str, total: int) -> Callable[[int], None]:
        """Begin a step; what is returned is called with how much of it is done."""
        task = self._bar.add_task(step, total=total)
        return lambda done: self._bar.update(task, completed=done)


def _read(paths: Sequence[Path], words: bool, progress: _Progress) -> tuple[NDArray[Any], dict[str, Any]]:
    """All files as one row of tokens, and what was read."""
    import numpy as np

    from ngram_copy.tasks.text import number_words, once, text_files

    numbers: dict[bytes, int] = {}
    parts = []
    with user_errors(ValueError, OSError):
        files = once(file for path in paths for file in text_files(path)[1])
        total = sum(file.stat().st_size for file in files)
        step, done = progress.of("reading", total), 0
        for file in files:
            for piece in _pieces(file.read_bytes()):
                parts.append(number_words(piece, numbers) if words else np.frombuffer(piece, dtype=np.uint8))
                done += len(piece)
                step(done)
    if not parts:
        raise UserError(f"nothing to read: {'the file is' if len(files) == 1 else f'all {len(files)} files are'} empty")
    return np.concatenate(parts), {
        "files": len(files),
        "bytes": done,
        "unit": "words" if words else "bytes",
        "tokens": sum(map(len, parts)),
        "vocab_size": len(numbers) if words else 256,
    }


def _pieces(content: bytes) -> Iterator[bytes]:
    """A text in pieces of some megabytes, cut where a word ends."""
    start = 0
    while start < len(content):
        cut = _END_OF_WORD.search(content, start + _PIECE)
        end = cut.end() if cut else len(content)
        yield content[start:end]
        start = end


def _show(found: dict[str, Any]) -> None:
    from ngram_copy.report.labels import percent

    screen = stdout()
    gram = f"{found['n']}-gram"
    read = f"{plural(found['files'], 'file')}, {plural(found['bytes'], 'byte')}"
    words = f": {plural(found['tokens'], 'word')} ({found['vocab_size']:,} different)"
    screen.print(read + (words if found["unit"] == "words" else ""))
    share = percent(found["distinct"] / found["ngrams"])
    screen.print(
        f"{plural(found['ngrams'], gram)}: {found['distinct']:,} distinct ({share}), "
        f"{found['repeated']:,} of these occur more than once\n"
    )
    columns = ("L", "windows", "with a repeat", "P(repeat)", "if uniform")
    shown = table(*columns, right=columns)
    for row in found["windows"]:
        p = _chance(row["p"], ".4f", least=0.0001, most=0.9999)
        uniform = _chance(row["p_uniform"], ".2g", least=0, most=0.99)
        shown.add_row(f"{row['length']:,}", f"{row['total']:,}", f"{row['repeating']:,}", p, uniform)
    screen.print(shown)


def _chance(p: float, form: str, *, least: float, most: float) -> str:
    """A probability for reading; never rounded up to 1 nor down to 0."""
    text = f"{p:{form}}"
    if p < 1 and float(text) == 1:
        return f"> {most}"
    return f"< {least}" if p > 0 and float(text) == 0 else text
