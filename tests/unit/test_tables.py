"""Tables n-gram → next token: policies, sizes, states and bad input."""

import re

import numpy as np
import pytest

from ngram_copy.ngram import BoundedNgramTable, NgramTable, StateError

TEXT = [1, 2, 3, 1, 2, 4, 1, 2, 4, 5, 1, 2, 3]


@pytest.mark.parametrize(
    ("policy", "token", "source"), [("first", 3, 2), ("last", 3, 12), ("most_frequent", 3, 2), ("positions", 3, 2)]
)
def test_policies(policy, token, source):
    table = NgramTable(TEXT, 2, policy=policy)
    assert table.next_token([1, 2]) == token
    assert table.source([1, 2]) == source
    assert table.next_token([9, 9]) is None
    assert table.source(np.array([2, 9], ">i2")) is None
    assert (table.n, table.policy, len(table)) == (2, policy, 7)


def test_the_most_frequent_and_ties():
    assert NgramTable([7, 1, 7, 2, 7, 2], 1, policy="most_frequent").next_token([7]) == 2
    assert NgramTable([7, 1, 7, 2, 7, 2, 7, 1], 1, policy="most_frequent").next_token([7]) == 1


def test_positions_are_those_of_the_next_tokens():
    table = NgramTable(TEXT, 2, policy="positions")
    assert table.positions([1, 2]).tolist() == [2, 5, 8, 12]
    assert table.positions([9, 9]).tolist() == []
    assert table.positions([1, 2]).dtype == np.int64


def test_many_at_once():
    table = NgramTable(TEXT, 2)
    assert table.next_tokens([[1, 2], [9, 9], [2, 4]]).tolist() == [3, -1, 1]
    assert table.next_tokens([[1, 2], [9, 9], [2, 4]], missing=-5).tolist() == [3, -5, 1]
    assert table.next_tokens(np.zeros((0, 2), np.uint8)).shape == (0,)


def test_sizes():
    table = NgramTable(np.zeros(1000, np.uint8), 3)
    assert len(table) == 1
    assert table.nbytes == 8 * table.capacity + 64 + 4 * 1000 + 64 + 8 * 3 * 2  # three coefficients for two tokens
    assert "1 n-grams" in repr(table)


def test_the_table_owns_its_text():
    text = np.array(TEXT, np.uint32)
    table = NgramTable(text, 2)
    text[:] = 0
    assert table.next_token([1, 2]) == 3


def test_a_text_of_n_tokens_has_no_ngram_with_a_next_token():
    assert len(NgramTable([1, 2, 3], 3)) == 0
    assert NgramTable([1, 2, 3], 3, policy="positions").next_token([1, 2, 3]) is None


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: NgramTable([], 1), ValueError, "0 tokens; a table with n = 1 needs at least 1"),
        (lambda: NgramTable([1, 2], 3), ValueError, "2 tokens; a table with n = 3 needs at least 3"),
        (lambda: NgramTable([[1, 2]], 1), ValueError, "x must have 1 dimension, not 2"),
        (lambda: NgramTable([1.5, 2], 1), TypeError, "x must be integers, not float64"),
        (lambda: NgramTable([1, -2], 1), ValueError, "token -2 at index 1"),
        (lambda: NgramTable(TEXT, 0), ValueError, "n must be 1 to 65536, not 0"),
        (lambda: NgramTable(TEXT, 2, policy="frist"), ValueError, 'policy is "frist"; it must be "first", "last"'),
        (lambda: NgramTable(TEXT, 2, policy=3), TypeError, "policy must be a string, not 3"),
        (lambda: NgramTable(TEXT, 2).next_token([1]), ValueError, "an n-gram of 1 tokens; the table has n = 2"),
        (lambda: NgramTable(TEXT, 2).next_token([1, -1]), ValueError, "token -1 at index 1"),
        (lambda: NgramTable(TEXT, 2).next_token("ab"), TypeError, "ngram must be integers"),
        (lambda: NgramTable(TEXT, 2).next_tokens([[1]]), ValueError, "ngrams must have the shape (m, 2), not (1, 1)"),
        (lambda: NgramTable(TEXT, 2).next_tokens([1, 2]), ValueError, "ngrams must have 2 dimensions, not 1"),
        (lambda: NgramTable(TEXT, 2).positions([1, 2]), ValueError, 'a table with policy "positions" alone'),
        (lambda: bounded(slots=0), ValueError, "slots must be 1 to 2^32, not 0"),
        (lambda: bounded(key_bits=65), ValueError, "key_bits must be 0 to 64, not 65"),
        (lambda: bounded(value_bits=0), ValueError, "value_bits must be 1 to 32, not 0"),
        (lambda: bounded(eviction="lru"), ValueError, 'eviction is "lru"; it must be "keep_first" or "overwrite"'),
        (lambda: bounded(eviction=None), TypeError, "eviction must be a string, not None"),
        (lambda: bounded().insert([1, 2, 8]), ValueError, "token 8 at index 2: value_bits = 3 hold 0 to 7"),
        (lambda: bounded().next_token([1]), ValueError, "an n-gram of 1 tokens; the table has n = 2"),
        (lambda: BoundedNgramTable.from_bytes(b""), StateError, "truncated"),
        (lambda: BoundedNgramTable.from_bytes(bounded().to_bytes()[:-1]), StateError, "damaged or truncated"),
    ],
)
def test_bad_arguments_are_named(call, error, text):
    with pytest.raises(error, match=re.escape(text)):
        call()


def bounded(**options):
    return BoundedNgramTable(2, **{"slots": 64, "key_bits": 6, "value_bits": 3, **options})


def test_a_bounded_table_and_its_bytes():
    table = bounded(seed=3)
    assert (table.n, table.slots, table.key_bits, table.value_bits) == (2, 64, 6, 3)
    assert (table.eviction, table.seed, table.state_bits) == ("keep_first", 3, 64 * (1 + 6 + 3))
    empty = len(table.to_bytes())
    table.insert(TEXT)
    assert table.next_token([2, 3]) == 1
    assert table.next_token([6, 6]) is None
    assert len(table.to_bytes()) == empty
    # What is not state (magic, version, checksum, arguments) does not depend on the text.
    assert table.state_bits / 8 <= empty <= table.state_bits / 8 + 32
    again = BoundedNgramTable.from_bytes(table.to_bytes())
    assert again.to_bytes() == table.to_bytes()
    assert (again.occupied, again.collisions) == (table.occupied, 0)
    assert [again.next_token(TEXT[i : i + 2]) for i in range(11)] == [
        table.next_token(TEXT[i : i + 2]) for i in range(11)
    ]
    assert f"{table.occupied} of 64 slots" in repr(table)


def test_evictions():
    kept, replaced = bounded(slots=1), bounded(slots=1, eviction="overwrite")
    for table in (kept, replaced):
        table.insert(TEXT)
        assert table.occupied == 1
        assert table.collisions > 0
    assert (kept.next_token([1, 2]), kept.next_token([5, 1])) == (3, None)
    assert (replaced.next_token([1, 2]), replaced.next_token([5, 1])) == (3, None)
    without_keys = bounded(slots=1, key_bits=0, eviction="overwrite")
    without_keys.insert(TEXT[:-1])
    assert without_keys.next_token([6, 6]) == 2
    assert without_keys.collisions == 0
