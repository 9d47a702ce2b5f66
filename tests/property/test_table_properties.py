"""Tables against a dict, hashes against Python integers."""

from collections import Counter, defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ngram_copy.ngram import BoundedNgramTable, NgramTable, hash_ngrams

MASK = 2**64 - 1


@st.composite
def texts(draw):
    """Tokens of an alphabet of few letters, which may be large, in any integer type that holds them."""
    letters = draw(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 3), min_size=1, max_size=4))
    text = draw(st.lists(st.sampled_from(letters), max_size=60))
    types = ("u1", "u2", "u4", "u8", "i2", "i4", "i8", ">u4", ">i8")
    wide_enough = [dtype for dtype in types if max(letters) <= np.iinfo(dtype).max]
    return np.array(text, draw(st.sampled_from(wide_enough)))


def mix(h):
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    h = (h ^ (h >> 27)) * 0x94D049BB133111EB & MASK
    return h ^ (h >> 31)


def finish(total):
    high, low = divmod(total, 2**32)
    low ^= (high * high >> 16) % 2**32
    return (high * 2**32 + low * 0x9E3779B1) & MASK


@given(texts(), st.integers(1, 12), st.integers(0, MASK))
def test_hashes_are_their_definition(text, n, seed):
    state = mix(seed)
    offset = mix(state ^ mix(n))

    def hashed(window):
        total = offset
        for p in range(0, n, 2):
            pair = window[p : p + 2]
            for kind in range(3):  # of the 16 bits of a token: the third ones are those of what is no token
                coefficient = mix(state + (3 * (p // 2) + kind + 1) * 0x9E3779B97F4A7C15 & MASK) | 1
                limbs = [(token >> 16 * kind) % 2**16 for token in pair]
                total += coefficient * sum(limb << 16 * i for i, limb in enumerate(limbs))
        return finish(total & MASK)

    expected = [hashed(text.tolist()[i : i + n]) for i in range(len(text) - n + 1)]
    assert hash_ngrams(text, n, seed=seed).tolist() == expected


@given(texts(), st.integers(1, 10), st.integers(0, MASK), st.booleans())
def test_tables_are_dicts(text, n, seed, other_way):
    if len(text) < n:
        return
    tokens = text.tolist()
    expected = defaultdict(list)
    for at in range(n, len(tokens)):
        expected[tuple(tokens[at - n : at])].append(at)
    policies = ("first", "last", "most_frequent", "positions")
    tables = {policy: NgramTable(text, n, policy=policy, seed=seed) for policy in policies}
    absent = tuple(tokens[:n][::-1]) if other_way else (77,) * n
    for ngram, at in [*expected.items(), (absent, expected.get(absent, []))]:
        counts = Counter(tokens[i] for i in at)
        best = max(counts.values(), default=0)
        most_frequent = next((i for i in at if counts[tokens[i]] == best), None)
        sources = (at[0], at[-1], most_frequent, at[0]) if at else (None,) * 4
        for (policy, table), source in zip(tables.items(), sources, strict=True):
            assert table.source(ngram) == source, policy
            assert table.next_token(ngram) == (None if source is None else tokens[source]), policy
        assert tables["positions"].positions(ngram).tolist() == at
    for table in tables.values():
        assert len(table) == len({ngram for ngram, at in expected.items() if at})


@given(
    st.lists(st.integers(0, 7), max_size=60),
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(9, 64),
    st.sampled_from(["keep_first", "overwrite"]),
    st.integers(0, MASK),
)
def test_an_exact_bounded_table_answers_with_a_successor_or_not_at_all(text, n, slots, key_bits, eviction, seed):
    table = BoundedNgramTable(n, slots=slots, key_bits=key_bits, value_bits=3, eviction=eviction, seed=seed)
    table.insert(text)
    successors = defaultdict(list)
    for at in range(n, len(text)):
        successors[tuple(text[at - n : at])].append(text[at])
    answers = {ngram: table.next_token(ngram) for ngram in successors}
    for ngram, answer in answers.items():
        assert answer in (None, successors[ngram][0 if eviction == "keep_first" else -1])
    assert sum(answer is not None for answer in answers.values()) == table.occupied
    assert table.next_token((7,) * n) is None or (7,) * n in successors
    again = BoundedNgramTable.from_bytes(table.to_bytes())
    assert {ngram: again.next_token(ngram) for ngram in successors} == answers
