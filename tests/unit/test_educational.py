"""The readable twins, against all strings of small alphabets."""

import doctest
import math
from itertools import product

import numpy as np
import pytest

from ngram_copy import _educational, theory
from ngram_copy._educational import NgramCopier, PrefixMachine, hash_ngrams

END = "end"


def test_the_examples_in_its_text():
    assert doctest.testmod(_educational).failed == 0
    assert doctest.testmod(_educational).attempted == 4


@pytest.mark.parametrize(("vocab_size", "longest"), [(2, 9), (3, 6)])
def test_the_copier_succeeds_exactly_where_no_ngram_repeats(vocab_size, longest):
    for n in (1, 2, 3):
        for length in range(longest + 1):
            failures = 0
            for x in product(range(vocab_size), repeat=length):
                copied = list(NgramCopier(n).read([*x, END]).copy(END, limit=length + 1))
                grams = [x[i : i + n] for i in range(length - n + 1)]
                assert (copied == [*x, END]) == (len(set(grams)) == len(grams))
                failures += copied != [*x, END]
            assert theory.p_ngram(length, n, vocab_size) == pytest.approx(failures / vocab_size**length)


@pytest.mark.parametrize(("kept", "groups", "vocab_size"), [(0, 1, 2), (2, 1, 3), (1, 2, 4), (2, 4, 4), (1, 3, 6)])
def test_the_prefix_machine_reaches_the_bound_with_the_states_that_it_says(kept, groups, vocab_size):
    machine = PrefixMachine(kept, groups, vocab_size)
    bits = kept * math.log2(vocab_size) + math.log2(groups)
    for length in range(1, 5):
        texts = list(product(range(vocab_size), repeat=length))
        states = {machine.read(x) for x in texts}
        right = sum(machine.copy(machine.read(x), length) == list(x) for x in texts)
        bound = theory.copy_accuracy_bound(state_bits=bits, seq_len=length, vocab_size=vocab_size)
        assert len(states) <= groups * vocab_size**kept
        assert right / len(texts) == pytest.approx(bound)


def test_the_hash_tells_ngrams_apart_and_knows_no_parity():
    x = np.random.default_rng(0).integers(0, 4, 5000)
    for n in (1, 3, 6):
        h = hash_ngrams(x, n)
        grams = {tuple(x[i : i + n]) for i in range(len(x) - n + 1)}
        assert h.shape == (len(x) - n + 1,)
        assert len(set(h.tolist())) == len(grams)
        assert h[0] == hash_ngrams(x[:n], n)[0] != hash_ngrams(x[:n], n, seed=1)[0]
    pairs = np.array(list(product(range(64), repeat=2))).ravel()
    low = np.array([hash_ngrams(pair, 2)[0] & np.uint64(1) for pair in pairs.reshape(-1, 2)], dtype=int)
    parity = pairs.reshape(-1, 2).sum(axis=1) % 2
    agree = int((low == parity).sum())
    assert abs(agree - 2048) < 6 * 32  # 6 standard deviations of a coin
