"""``stats``: its counts are those of a Python dict."""

import json
import random
from collections import Counter

import numpy as np
import pytest

from ngram_copy.cli import stats
from ngram_copy.tasks.text import number_words, read_corpus

WORDS = ["she", "sells", "sea", "shells", "by", "the", "shore,", "(so)", "  ", "\n", "\n\n", "é"]


@pytest.fixture
def folder(tmp_path):
    """Two files in folders of their own, an empty one, and a hidden one."""
    random.seed(1)
    for name, size in (("a.txt", 700), ("sub/b.txt", 400), ("c.txt", 0), (".hidden", 100)):
        path = tmp_path / "text" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(" ".join(random.choice(WORDS) for _ in range(size)))
    return tmp_path / "text"


@pytest.mark.parametrize("unit", ["bytes", "words"])
@pytest.mark.parametrize("n", [1, 3, 6])
def test_counts_are_those_of_a_dict(cli, folder, unit, n):
    outcome = cli("stats", folder, "--n", n, "-L", 8, "-L", 50, "--json", *(["--words"] if unit == "words" else []))
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    found = json.loads(outcome.out)
    tokens = read_corpus(str(folder), unit).tokens.tolist()
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    counts = Counter(grams)
    assert found["files"] == 3
    assert found["bytes"] == sum(path.stat().st_size for path in folder.rglob("*.txt"))
    assert found["tokens"] == len(tokens)
    assert found["ngrams"] == len(grams)
    assert found["distinct"] == len(counts)
    assert found["repeated"] == sum(count > 1 for count in counts.values())
    for row, length in zip(found["windows"], (8, 50), strict=True):
        windows = [grams[i : i + length - n + 1] for i in range(len(tokens) - length + 1)]
        repeating = sum(len(set(window)) < len(window) for window in windows)
        assert row["length"] == length
        assert (row["repeating"], row["total"]) == (repeating, len(windows))
        assert row["p"] == repeating / len(windows)


def test_what_is_printed(cli, folder):
    outcome = cli("stats", folder, "-n", 4)
    assert outcome.code == 0
    found = json.loads(cli("stats", folder, "-n", 4, "--json").out)
    assert outcome.out.startswith(f"{found['files']} files, {found['bytes']:,} bytes\n")
    assert (
        f": {json.loads(cli('stats', folder, '--words', '--json').out)['tokens']:,} words ("
        in cli("stats", folder, "--words").out
    )
    assert f"{found['distinct']:,} distinct" in outcome.out
    assert "P(repeat)" in outcome.out
    assert [row["length"] for row in found["windows"]] == [16, 64, 256, 1024, 4096]


@pytest.mark.parametrize(
    ("p", "form", "text"),
    [
        *((1, ".4f", "1.0000"), (0.99999, ".4f", "> 0.9999"), (0.99994, ".4f", "0.9999")),
        *((0, ".4f", "0.0000"), (0.00001, ".4f", "< 0.0001"), (0.5, ".4f", "0.5000")),
        *((1, ".2g", "1"), (0.9999, ".2g", "> 0.99"), (3.21e-9, ".2g", "3.2e-09"), (0, ".2g", "0")),
    ],
)
def test_chances_are_never_rounded_to_all_or_nothing(p, form, text):
    assert stats._chance(p, form, least=0.0001, most=0.9999 if form == ".4f" else 0.99) == text


def test_several_paths(cli, folder):
    found = json.loads(cli("stats", folder / "a.txt", folder / "sub", "--json").out)
    assert found["files"] == 2
    assert found["tokens"] == json.loads(cli("stats", folder, "--json").out)["tokens"]


def test_a_file_of_several_names_is_read_once(cli, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"once upon a time")
    (tmp_path / "b.txt").symlink_to("a.txt")
    found = json.loads(cli("stats", tmp_path, tmp_path / "a.txt", tmp_path / "b.txt", "-L", 8, "--json").out)
    assert (found["files"], found["bytes"]) == (1, 16)


def test_windows_that_do_not_fit_are_named(cli, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"once upon a time")
    outcome = cli("stats", tmp_path, "-L", 8, "-L", 1000, "--json")
    assert [window["length"] for window in json.loads(outcome.out)["windows"]] == [8]
    assert outcome.err == "ngram-copy: no window of 1,000 fits into 16 bytes: it is left out\n"


def test_a_text_too_short(bad, tmp_path):
    (tmp_path / "short").write_text("abc")
    assert "the text has 3 bytes, too few for a 4-gram" in bad("stats", tmp_path / "short")
    assert "no window fits into 3 bytes" in bad("stats", tmp_path / "short", "-n", 2, "-L", 10)


def test_a_large_file_in_pieces_has_the_same_words(monkeypatch, folder):
    monkeypatch.setattr(stats, "_PIECE", 50)
    content = (folder / "a.txt").read_bytes() + b"\n\n\n end\n"
    pieces = list(stats._pieces(content))
    assert b"".join(pieces) == content
    assert len(pieces) > 20
    whole, numbers = {}, {}
    parts = [number_words(piece, numbers) for piece in pieces]
    assert np.array_equal(np.concatenate(parts), number_words(content, whole))
    assert numbers == whole
