"""Copy windows of real text, as bytes or as words."""

from __future__ import annotations

import hashlib
import os
import re
import sysconfig
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy import sample
from ngram_copy.tasks.base import Batch, TextTask, VocabularySpec, check_length
from ngram_copy.tasks.copy import copy_batch

UNITS = ("bytes", "words")

# A word is a run of word characters or one other sign, with the white space before it, so that joining words
# gives the text back; white space at the end of a text is a word of its own.
_WORD = re.compile(rb"\s*(?:\w+|[^\w\s])|\s+")

_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"}


@dataclass(frozen=True)
class Corpus:
    """A text as tokens.

    Attributes
    ----------
    tokens : ndarray of uint32, shape (tokens,)
    vocab_size : int
        256 for bytes, the number of distinct words for words.
    n_files, n_bytes : int
        What was read.
    sha256 : str
        ``sha256:`` and the hash of the names and contents of all files, in order.
    words : tuple of bytes, or None
        The spelling of each word.
    """

    tokens: NDArray[np.uint32]
    vocab_size: int
    n_files: int
    n_bytes: int
    sha256: str
    words: tuple[bytes, ...] | None

    def decode(self, tokens: NDArray[np.integer[Any]]) -> str:
        """The text of tokens; bytes that are no UTF-8 are replaced."""
        if self.words is None:
            return bytes(tokens.astype(np.uint8)).decode("utf-8", errors="replace")
        return b"".join(self.words[token] for token in tokens.tolist()).decode("utf-8", errors="replace")


def standard_library_files() -> tuple[Path, list[Path]]:
    """The folder of Python's standard library and its sources, without tests and installed packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return root, [path for path in _walk(root, _NOT_LIBRARY) if path.suffix == ".py"]


def _walk(folder: Path, left_out: Collection[str] = ()) -> list[Path]:
    """Files below a folder in a fixed order; what is hidden and folders of the names ``left_out`` are not entered."""

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in left_out]
        found += [path for name in files if not name.startswith(".") and (path := Path(parent, name)).is_file()]
    return once(sorted(found, key=lambda path: path.relative_to(folder).as_posix()))


def once(files: Iterable[Path]) -> list[Path]:
    """Each file once, under the first of its names: links may give it several."""
    names: dict[Path, Path] = {}
    for path in files:
        names.setdefault(path.resolve(), path)
    return list(names.values())


def text_files(path: str | Path | None) -> tuple[Path, list[Path]]:
    """The root and the files of a text: a file, a folder, or None for Python's standard library.

    Raises
    ------
    FileNotFoundError
        If the path does not exist.
    ValueError
        If the folder holds no files.
    """
    if path is None:
        return standard_library_files()
    root = Path(path).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"no such file or folder: {root}")
    if root.is_file():
        return root.parent, [root]
    files = _walk(root)
    if not files:
        raise ValueError(f"the folder {root} holds no files (hidden ones are left out)")
    return root, files


@lru_cache(maxsize=4)
def read_corpus(path: str | None, unit: str) -> Corpus:
    """Read a file or all files of a folder, one after another in the order of their names.

    Parameters
    ----------
    path : str or None
        A file, a folder, or None for the sources of Python's standard library.
    unit : {"bytes", "words"}

    Raises
    ------
    FileNotFoundError, PermissionError, IsADirectoryError
        If a file cannot be read.
    ValueError
        If the unit is unknown or there is nothing to read.
    """
    if unit not in UNITS:
        raise ValueError(f"unknown unit {unit!r}; there are: {', '.join(UNITS)}")
    root, files = text_files(path)
    digest = hashlib.sha256()
    contents = []
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
        contents.append(content)
    text = b"".join(contents)
    if not text:
        raise ValueError(f"nothing to read: all {len(files)} files of {root} are empty")
    sha256 = f"sha256:{digest.hexdigest()}"
    if unit == "bytes":
        tokens = np.frombuffer(text, dtype=np.uint8).astype(np.uint32)
        return Corpus(tokens, 256, len(files), len(text), sha256, None)
    numbers: dict[bytes, int] = {}
    tokens = np.concatenate([number_words(content, numbers) for content in contents])
    return Corpus(tokens, len(numbers), len(files), len(text), sha256, tuple(numbers))


def number_words(content: bytes, numbers: dict[bytes, int]) -> NDArray[np.uint32]:
    """The words of a text as numbers, shape (words,); new words are added to ``numbers``."""
    return np.array([numbers.setdefault(word, len(numbers)) for word in _WORD.findall(content)], dtype=np.uint32)


@dataclass(frozen=True)
class TextCopy(TextTask):
    """Windows of real text, each begun at a random place; the source is unknown, so there is no bound.

    Parameters
    ----------
    path : str or None
        A file or a folder; None for the sources of Python's standard library.
    unit : {"bytes", "words"}
    """

    name: ClassVar[str] = "text_copy"
    summary: ClassVar[str] = "repeat a window of real text"

    path: str | None = None
    unit: str = "bytes"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unknown unit {self.unit!r}; there are: {', '.join(UNITS)}")
        text_files(self.path)

    @property
    def corpus(self) -> Corpus:
        """The text; read once."""
        return read_corpus(self.path, self.unit)

    @property
    def vocab(self) -> VocabularySpec:
        return VocabularySpec(self.corpus.vocab_size)

    def provenance(self) -> dict[str, Any]:
        corpus = self.corpus
        return {
            "text": corpus.sha256,
            "files": corpus.n_files,
            "bytes": corpus.n_bytes,
            "tokens": len(corpus.tokens),
            "distinct_tokens": corpus.vocab_size,
        }

    def identity(self) -> dict[str, Any]:
        return {"unit": self.unit, "text": self.corpus.sha256}

    def batch(self, length: int, *, seed: int, split: str, start: int, count: int, threads: int = 1) -> Batch:
        check_length(self, length, 1)
        text = self.corpus.tokens
        if length > len(text):
            raise ValueError(
                f"{self.name}: length must be at most {len(text)}, the {self.unit} of the text, not {length}"
            )
        begin = sample.integers(seed, self.stream(length, split), start, count, 0, len(text) - length + 1)
        return copy_batch(text[begin[:, None] + np.arange(length)], self.vocab, None, None)

    def oracle(self, prompt: NDArray[np.uint32], query: NDArray[np.uint32]) -> list[int]:
        return [*prompt[1:-1].tolist(), self.vocab.eos]

    def decode(self, tokens: NDArray[np.integer[Any]]) -> str:
        return self.corpus.decode(tokens)

    def render_text(self, batch: Batch, index: int) -> str:
        return f"Repeat this text word for word.\n\n{super().render_text(batch, index)}\n\nThe same text again:\n\n"
