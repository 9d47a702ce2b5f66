"""The constructed transformer against the n-gram copier of the whole context, wherever that is determined."""

import json
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from constructed import ENDS, contexts, planted, successors

from ngram_copy.engines.constructed import ConstructedEngine
from ngram_copy.engines.symbolic import NgramEngine
from ngram_copy.models.checkpoint import save_model
from ngram_copy.models.construct import copy_transformer
from ngram_copy.tasks.copy import Copy, copy_batch


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def compare(model, n, vocab_size, strings, *, ends=True):
    """Positions of the answer with one successor, those that differ, strings, and those against the rule."""
    tokens = contexts(strings, vocab_size)
    length = strings.shape[1]
    few = max(1, 2**21 // (n * tokens.shape[1] ** 2))  # the first layer has so many scores a row
    with torch.inference_mode():
        logits = torch.cat([model(part, last=length + 1) for part in torch.from_numpy(tokens).split(few)]).float()
    best = logits.argmax(-1).numpy()
    likely = logits.softmax(-1).numpy()
    counts = np.zeros(4, dtype=int)
    for row, (context, string) in enumerate(zip(tokens.tolist(), strings.tolist(), strict=True)):
        for column, found in enumerate(successors(context, n, vocab_size)[length + 1 :]):
            candidates = {token for token in found if ends or token != ENDS}
            if len(candidates) != 1:
                continue
            (one,) = candidates
            wanted = vocab_size + 2 if one == ENDS else one
            counts[0] += 1
            counts[1] += best[row, column] != wanted or likely[row, column, wanted] < 1 - 1e-6
        grams = [tuple(string[i : i + n]) for i in range(length - n + 1)]
        copied = best[row].tolist() == [*string, vocab_size + 2]
        counts[2] += 1
        counts[3] += copied != (len(set(grams)) == len(grams))
    return counts


def sweep(count, rows, longest, seed=0):
    """Counts over random strings: D, n and L drawn, many shorter than n; planted repeats."""
    rng = np.random.default_rng(seed)
    total = np.zeros(4, dtype=int)
    while total[2] < count:
        vocab_size = int(rng.choice([2, 3, 4, 5, 8, 26, 64]))
        n = int(rng.integers(1, 13))
        length = int(np.exp(rng.uniform(0, np.log(longest))))
        value = str(rng.choice(["bits", "one-hot"]))
        model = copy_transformer(n, vocab_size, longest, value=value, snapping=bool(rng.random() < 0.5))
        strings = np.stack([planted(rng, vocab_size, n, length) for _ in range(rows)])
        total += compare(model, n, vocab_size, strings)
    return total


def test_it_says_what_the_copier_says():
    positions, differ, strings, against = sweep(1200, 12, 64)
    assert (differ, against) == (0, 0)
    assert positions > 10_000
    assert strings >= 1200


@pytest.mark.exhaustive
def test_it_says_what_the_copier_says_of_many_and_longer_strings():
    positions, differ, strings, against = sweep(20_000, 40, 512, seed=1)
    assert (differ, against) == (0, 0)
    assert positions > 1_000_000
    assert strings >= 20_000


@pytest.mark.parametrize(("vocab_size", "n", "length"), [(2, 1, 6), (2, 2, 8), (2, 4, 9), (3, 2, 5), (4, 1, 4)])
def test_every_string_of_a_length(vocab_size, n, length):
    places = np.arange(vocab_size**length)[:, None] // vocab_size ** np.arange(length) % vocab_size
    model = copy_transformer(n, vocab_size, length)
    positions, differ, strings, against = compare(model, n, vocab_size, places)
    assert (differ, strings, against) == (0, vocab_size**length, 0)
    assert positions > strings


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("vocab_size", "n"), [(2, 20), (26, 5), (64, 3)])
def test_low_precision_says_the_same(dtype, vocab_size, n):
    rng = np.random.default_rng(2)
    model = copy_transformer(n, vocab_size, 100, dtype=getattr(torch, dtype))
    rare = (rng.random((6, 100)) < 0.08) * rng.integers(0, vocab_size, (6, 100))  # means near -1: rounded most
    mixed = np.stack([planted(rng, vocab_size, n, 100) for _ in range(6)])
    for strings in (rare, mixed):
        positions, differ, _, against = compare(model, n, vocab_size, strings)
        assert (differ, against) == (0, 0)
        assert positions > 100


def test_without_the_end_of_the_string():
    rng = np.random.default_rng(3)
    for vocab_size, n in ((2, 3), (26, 2)):
        model = copy_transformer(n, vocab_size, 40, end_of_string=False)
        strings = np.stack([planted(rng, vocab_size, n, 30) for _ in range(40)])
        positions, differ, _, _ = compare(model, n, vocab_size, strings, ends=False)
        assert differ == 0
        assert positions > 300
        with torch.inference_mode():
            said = model(torch.from_numpy(contexts(strings, vocab_size))).argmax(-1)
        assert int(said.max()) < vocab_size


@pytest.mark.parametrize(("vocab_size", "n"), [(2, 6), (26, 2)])
def test_the_engine_copies_the_strings_that_the_ngram_engine_copies(vocab_size, n):
    task = Copy(vocab_size=vocab_size)
    constructed, symbolic = ConstructedEngine(task.vocab, n=n, max_len=40), NgramEngine(task.vocab, n=n)
    both = []
    for length in (1, 4, 12, 40):
        batch = task.batch(length, seed=5, split="test", start=0, count=20)
        prediction = constructed.predict(batch)
        right = (prediction.tokens == batch.answers()).all(1)
        assert right.tolist() == (symbolic.predict(batch).tokens == batch.answers()).all(1).tolist()
        free = constructed.generate(batch, length + 1)
        copied = [np.array_equal(out, answer) for out, answer in zip(free, batch.answers(), strict=True)]
        assert copied == right.tolist()
        assert np.exp2(prediction.log2_q[right]).min(initial=1) > 1 - 1e-6
        both += right.tolist()
    assert 0 < sum(both) < len(both)


# What a fresh process does: it never imports the formula.
LOADED = """
import json, sys
import torch
from ngram_copy.models.checkpoint import load_model
torch.set_num_threads(1)
model = load_model(sys.argv[1])
prompt = torch.tensor([json.load(sys.stdin)])
out = []
with torch.inference_mode():
    logits, state = model.prefill(prompt, last=1)
    token = logits[:, -1].argmax(-1)
    while len(out) <= 2 * prompt.shape[1]:
        out.append(int(token))
        if out[-1] == int(sys.argv[2]):
            break
        logits, state = model.step(token, state)
        token = logits.argmax(-1)
print(json.dumps({"out": out, "formula": "ngram_copy.models.construct" in sys.modules}))
"""


def copied_elsewhere(folder, length, n):
    """A string of 26 letters, and what a fresh process makes of it with a saved construction."""
    task = Copy(vocab_size=26)
    batch = task.batch(length, seed=0, split="test", start=0, count=1)
    save_model(folder, copy_transformer(n, 26, length), {})
    command = [sys.executable, "-c", LOADED, str(folder), str(task.vocab.eos)]
    prompt = json.dumps(batch.prompts()[0].tolist())
    done = subprocess.run(command, input=prompt, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert not answer["formula"]
    return batch.answers()[0].tolist(), answer["out"]


def test_a_saved_construction_copies_in_a_fresh_process(tmp_path):
    wanted, out = copied_elsewhere(tmp_path, 300, 5)
    assert out == wanted


@pytest.mark.exhaustive
def test_a_saved_construction_copies_4096_letters_in_a_fresh_process(tmp_path):
    wanted, out = copied_elsewhere(tmp_path, 4096, 7)
    assert len(out) == 4097
    assert out == wanted


def test_a_string_longer_than_any_row_at_once():
    # Above 512 tokens the heads with and without a window are computed apart.
    rng = np.random.default_rng(4)
    strings = rng.integers(0, 26, (2, 700))
    positions, differ, _, against = compare(copy_transformer(4, 26, 700), 4, 26, strings)
    assert (differ, against) == (0, 0)
    assert positions > 1300
    batch = copy_batch(strings.astype(np.uint32), Copy(vocab_size=26).vocab, None, None)
    engine = ConstructedEngine(Copy(vocab_size=26).vocab, n=4, max_len=700)
    assert (engine.predict(batch).tokens == batch.answers()).all()
