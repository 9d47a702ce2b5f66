"""Tasks: reproducible, self-consistent, and of the probability that they say."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from ngram_copy.tasks import SPLITS, TASKS, Batch, DataHash
from ngram_copy.tasks.copy import Copy
from ngram_copy.tasks.duplicates import DuplicateNgram
from ngram_copy.tasks.lookup import PrefixLookup, SuffixLookup
from ngram_copy.tasks.phone_book import FIRST, LAST, PhoneBook
from ngram_copy.tasks.subsets import CopySubsets, size_counts
from ngram_copy.tasks.text import TextCopy, read_corpus

# A few settings of each task; a new task must be added here.
SETTINGS = {
    "copy": [{}, {"vocab_size": 2}, {"source": "zipf", "exponent": 1.2}, {"source": "markov", "branching": 3}],
    "copy_subsets": [{}, {"vocab_size": 2, "smallest": 1}, {"vocab_size": 40, "whole_share": 0.0, "smallest": 40}],
    "prefix_lookup": [{}, {"vocab_size": 4, "n": 5, "answer_len": 1}],
    "suffix_lookup": [{}, {"vocab_size": 4, "n": 5, "answer_len": 1}],
    "duplicate_ngram": [{}, {"successor": "same", "repeats": 2}, {"vocab_size": 2, "n": 2}],
    "text_copy": [{}, {"unit": "words"}],
    "phone_book": [{}, {"digits": 3}],
    "mqar": [{}, {"vocab_size": 90, "tokens_per_pair": 4, "power_a": 1.0, "random_non_queries": False}],
}
CASES = [(name, options) for name, settings in SETTINGS.items() for options in settings]


def columns(batch: Batch):
    return [batch.tokens[i, : batch.lengths[i]].tolist() for i in range(len(batch))]


def test_every_task_is_tested():
    assert set(SETTINGS) == set(TASKS)


@pytest.mark.parametrize(("name", "options"), CASES)
class TestEveryTask:
    def make(self, name, options):
        return TASKS[name](**options)

    def test_an_example_depends_on_its_index_alone(self, name, options):
        task = self.make(name, options)
        whole = task.batch(24, seed=3, split="test", start=0, count=20, threads=2)
        parts = [task.batch(24, seed=3, split="test", start=s, count=c) for s, c in ((0, 7), (7, 1), (8, 12))]
        assert columns(whole) == [row for part in parts for row in columns(part)]
        hashes = [DataHash(), DataHash()]
        hashes[0].update(whole)
        for part in parts:
            hashes[1].update(part)
        assert hashes[0].hexdigest() == hashes[1].hexdigest()

    def test_splits_and_seeds_differ(self, name, options):
        task = self.make(name, options)
        seen = [columns(task.batch(24, seed=0, split=split, start=0, count=4)) for split in SPLITS]
        seen.append(columns(task.batch(24, seed=1, split="test", start=0, count=4)))
        assert all(a != b for a, b in itertools.combinations(seen, 2))

    def test_the_oracle_finds_the_answers(self, name, options):
        task = self.make(name, options)
        batch = task.batch(30, seed=1, split="test", start=0, count=50)
        for prompt, query, answer in zip(batch.prompts(), batch.queries(), batch.answers(), strict=True):
            assert task.oracle(prompt, query) == answer[answer >= 0].tolist()

    def test_the_batch_is_well_formed(self, name, options):
        task = self.make(name, options)
        batch = task.batch(30, seed=1, split="train", start=5, count=9)
        assert len(batch) == 9
        assert batch.tokens.dtype == np.uint32
        assert (batch.cut <= batch.answer).all()
        assert (batch.answer < batch.lengths).all()
        assert (batch.lengths <= batch.tokens.shape[1]).all()
        for row, length, cut in zip(batch.tokens, batch.lengths, batch.cut, strict=True):
            assert row[0] == task.vocab.bos
            assert row[cut - 1] == task.vocab.copy
            assert (row[:length] < task.vocab.pad).all()
            assert (row[length:] == task.vocab.pad).all()
        assert (batch.log2_p is None) == (batch.h_min is None)
        if batch.h_min is not None:
            assert batch.log2_p.shape == batch.answers().shape
            assert (batch.log2_p.sum(axis=1) <= -batch.h_min + 1e-9).all()

    def test_too_short_lengths_are_refused(self, name, options):
        with pytest.raises(ValueError, match="length must be at least"):
            self.make(name, options).batch(0, seed=0, split="test", start=0, count=1)


@pytest.mark.parametrize("options", [*SETTINGS["copy"][2:], {}])
def test_probabilities_of_all_strings_sum_to_one(options):
    task = Copy(vocab_size=4, **{**options, **({"branching": 2} if "branching" in options else {})})
    strings = np.array(list(itertools.product(range(4), repeat=4)), dtype=np.uint32)
    log2_p = task._source.log2_p(strings).sum(axis=1)
    assert math.isclose(np.exp2(log2_p).sum(), 1, rel_tol=1e-9)
    assert math.isclose(task._source.h_min(4), -log2_p.max(), rel_tol=1e-12)


@pytest.mark.parametrize("source", ["uniform", "zipf", "markov"])
def test_strings_come_as_often_as_their_probability_says(source):
    task = Copy(vocab_size=3, source=source, branching=2)
    count = 60_000
    batch = task.batch(3, seed=5, split="test", start=0, count=count)
    strings = np.array(list(itertools.product(range(3), repeat=3)), dtype=np.uint32)
    expected = np.exp2(task._source.log2_p(strings).sum(axis=1)) * count
    index = batch.tokens[:, 1:4] @ np.array([9, 3, 1], dtype=np.uint32)
    seen = np.bincount(index, minlength=27)
    possible = expected > 0
    assert (seen[~possible] == 0).all()
    assert stats.chisquare(seen[possible], expected[possible]).pvalue > 1e-6
    assert np.allclose(batch.log2_p[:, :3], task._source.log2_p(batch.tokens[:, 1:4]))


class TestCopySubsets:
    @pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
    def test_the_sizes_of_alphabets_are_log_uniform(self, share):
        counts = size_counts(26, share, 3)
        assert counts.sum() == 2**32
        expected = (1 - share) / np.arange(3, 27) / (1 / np.arange(3, 27)).sum()
        expected[-1] += share
        assert np.allclose(counts / 2**32, expected, rtol=0, atol=1e-8)

    def test_the_strings_follow_them(self):
        # Long strings show their whole alphabet: the number of different tokens is k.
        task = CopySubsets(vocab_size=8, smallest=2, whole_share=0.25)
        strings = task.batch(200, seed=1, split="train", start=0, count=20_000).tokens[:, 1:201]
        present = (strings[:, :, None] == np.arange(8)).any(axis=1)
        k = present.sum(axis=1)
        assert stats.chisquare(np.bincount(k, minlength=9)[2:], size_counts(8, 0.25, 2) / 2**32 * 20_000).pvalue > 1e-6
        # Each token is as likely as any other, in the alphabet and in the string.
        assert stats.chisquare(present[k == 4].sum(axis=0)).pvalue > 1e-6
        first = strings[:, 0]
        assert stats.chisquare(np.bincount(first, minlength=8)).pvalue > 1e-6
        repeats = np.array([(strings[k == n, 0] == strings[k == n, 1]).sum() for n in range(2, 9)])
        counts = np.array([(k == n).sum() for n in range(2, 9)])
        spread = np.sqrt(counts * (1 / np.arange(2, 9)) * (1 - 1 / np.arange(2, 9)))
        assert (np.abs(repeats - counts / np.arange(2, 9)) < 5 * spread).all()

    def test_the_same_numbers_on_every_machine(self):
        batch = CopySubsets().batch(12, seed=0, split="train", start=0, count=3)
        assert batch.tokens[:, 1:13].tolist() == [
            [6, 7, 0, 19, 7, 12, 12, 22, 8, 11, 20, 7],
            [24, 25, 11, 25, 24, 11, 25, 11, 24, 25, 11, 11],
            [2, 10, 8, 10, 13, 8, 8, 13, 2, 13, 8, 2],
        ]


@pytest.mark.parametrize("task", [SuffixLookup(vocab_size=3, n=3, answer_len=2), PrefixLookup(vocab_size=3, n=3)])
def test_the_looked_up_ngram_is_unique(task):
    batch = task.batch(30, seed=0, split="test", start=0, count=200)
    for i in range(len(batch)):
        prompt = batch.tokens[i, : batch.cut[i]].tolist()
        if isinstance(task, SuffixLookup):
            key, string = batch.queries()[i].tolist(), prompt[1:-1]
        else:
            key, string = prompt[1 : task.n + 1], prompt[task.n + 2 : -1]
        assert sum(string[j : j + task.n] == key for j in range(len(string) - task.n + 1)) == 1


def test_a_lookup_that_cannot_be_unique_says_so():
    with pytest.raises(ValueError, match="take a larger n or a shorter length"):
        SuffixLookup(vocab_size=2, n=1, answer_len=1).batch(50, seed=0, split="test", start=0, count=3)


@pytest.mark.parametrize("successor", ["same", "different"])
def test_planted_repeats_stand_in_every_string(successor):
    task = DuplicateNgram(vocab_size=1000, n=3, successor=successor)
    batch = task.batch(40, seed=0, split="test", start=0, count=100)
    for row in batch.tokens:
        string = row[1:41].tolist()
        places = {}
        for i in range(38):
            places.setdefault(tuple(string[i : i + 3]), []).append(i)
        (a, b), *_ = [where for where in places.values() if len(where) == 2]
        assert (string[a + 3] == string[b + 3]) == (successor == "same")


class TestText:
    def test_default_is_the_standard_library_and_its_hash(self):
        provenance = TextCopy().provenance()
        assert provenance["text"].startswith("sha256:")
        assert provenance["bytes"] > 1_000_000
        assert provenance["files"] > 100

    def test_words_give_the_text_back(self, tmp_path):
        text = "Ein Wort,  noch eins:\n\tund naïve Zeichen…\n"
        (tmp_path / "a.txt").write_text(text, encoding="utf-8")
        corpus = read_corpus(str(tmp_path), "words")
        assert corpus.decode(corpus.tokens) == text
        assert read_corpus(str(tmp_path), "bytes").decode(read_corpus(str(tmp_path), "bytes").tokens) == text

    def test_the_hash_follows_contents_and_names(self, tmp_path):
        hashes = set()
        for folder, name, content in (("a", "x", "one"), ("b", "y", "one"), ("c", "x", "two")):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / name).write_text(content)
            hashes.add(read_corpus(str(tmp_path / folder), "bytes").sha256)
        assert len(hashes) == 3

    def test_bad_paths(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file or folder"):
            TextCopy(path=str(tmp_path / "missing"))
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match="holds no files"):
            TextCopy(path=str(tmp_path / "empty"))
        (tmp_path / "empty" / "nothing.txt").touch()
        with pytest.raises(ValueError, match="are empty"):
            _ = TextCopy(path=str(tmp_path / "empty")).vocab
        with pytest.raises(ValueError, match="unknown unit 'letters'"):
            TextCopy(unit="letters")

    def test_a_window_longer_than_the_text(self, tmp_path):
        (tmp_path / "a.txt").write_text("short")
        with pytest.raises(ValueError, match="length must be at most 5"):
            TextCopy(path=str(tmp_path / "a.txt")).batch(6, seed=0, split="test", start=0, count=1)

    def test_text_is_rendered_and_scored(self, tmp_path):
        (tmp_path / "a.txt").write_text("to be or not to be, that is the question")
        task = TextCopy(path=str(tmp_path / "a.txt"))
        batch = task.batch(12, seed=0, split="test", start=0, count=1)
        text = task.decode(batch.tokens[0, 1:13])
        assert text in task.render_text(batch, 0)
        assert task.score_text(batch, 0, f" {text} and more")
        assert not task.score_text(batch, 0, text[:5])


def test_the_phone_book_reads_like_one():
    task = PhoneBook(digits=4)
    batch = task.batch(3, seed=0, split="test", start=0, count=2)
    lines = task.render_text(batch, 0).splitlines()
    assert len(lines) == 4
    assert all(line.split(": ")[0].split()[0] in FIRST for line in lines)
    assert all(line.split(": ")[0].split()[1] in LAST for line in lines)
    answer = next(line.split(": ")[1] for line in lines[:3] if line.startswith(lines[3]))
    assert task.score_text(batch, 0, answer + "\n")
    assert len(FIRST) == len(set(FIRST)) == 64
    assert len(LAST) == len(set(LAST)) == 64
    with pytest.raises(ValueError, match="at most 4096"):
        task.batch(4097, seed=0, split="test", start=0, count=1)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("copy", {"vocab_size": 1}, "vocab_size must be at least 2, not 1"),
        ("copy", {"source": "zip"}, "unknown source 'zip'"),
        ("copy", {"source": "markov", "branching": 27}, "branching"),
        ("copy", {"source": "zipf", "exponent": -1.0}, "exponent"),
        ("copy_subsets", {"vocab_size": 1}, "vocab_size must be at least 2, not 1"),
        ("copy_subsets", {"whole_share": 1.5}, "whole_share must be 0 … 1, not 1.5"),
        ("copy_subsets", {"whole_share": math.nan}, "whole_share must be 0 … 1, not nan"),
        ("copy_subsets", {"smallest": 0}, "smallest must be 1 … vocab_size = 26, not 0"),
        ("copy_subsets", {"smallest": 27}, "smallest must be 1 … vocab_size = 26, not 27"),
        ("suffix_lookup", {"n": 0}, "n must be at least 1, not 0"),
        ("prefix_lookup", {"vocab_size": 0}, "vocab_size must be at least 2"),
        ("duplicate_ngram", {"successor": "other"}, "unknown successor 'other'"),
        ("duplicate_ngram", {"repeats": 0}, "repeats must be at least 1"),
        ("phone_book", {"digits": 0}, "digits must be 1"),
        ("mqar", {"vocab_size": 3}, "vocab_size must be at least 4, not 3"),
        ("mqar", {"power_a": 0.0}, "power_a must be above 0 and at most 1, not 0.0"),
        ("mqar", {"tokens_per_pair": 2}, "tokens_per_pair must be even and at least 4, not 2"),
        ("mqar", {"tokens_per_pair": 7}, "tokens_per_pair must be even and at least 4, not 7"),
    ],
)
def test_bad_options(task, options, message):
    with pytest.raises(ValueError, match=message):
        TASKS[task](**options)
