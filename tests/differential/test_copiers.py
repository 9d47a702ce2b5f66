"""Copiers against a few lines of plain Python, cut and resumed elsewhere, and their errors."""

import doctest
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ngram_copy as nc
from ngram_copy.ngram import copiers

BOS, COPY, EOS = 100, 101, 102


def key(tokens, n, boundaries):
    """The last n tokens; None at and before the nearest boundary."""
    last = []
    for token in tokens[::-1][:n]:
        if token in boundaries:
            break
        last.append(token)
    return tuple(last + [None] * (n - len(last)))


def say(tokens, learned, *, n, policy, on_miss, boundaries, end):
    """(token, source) after ``tokens``, of which the first ``learned`` are looked up; -1: none."""
    found = []
    for i in range(min(learned, len(tokens))):
        if key(tokens[:i], n, boundaries) == key(tokens, n, boundaries):
            if tokens[i] not in boundaries:
                found.append((tokens[i], i))
            elif end is not None and i > 0:
                found.append((None, i))
    if found:
        if policy == "most_frequent":
            values = [value for value, _ in found]
            token, source = max(found, key=lambda pair: (values.count(pair[0]), -pair[1]))
        else:
            token, source = found[0 if policy == "first" else -1]
        return end if token is None else token, source
    if on_miss == "repeat" and tokens and tokens[-1] not in boundaries:
        return tokens[-1], -1
    return (on_miss, -1) if isinstance(on_miss, int) else (-1, -1)


OPTIONS = st.fixed_dictionaries(
    {
        "n": st.integers(1, 4),
        "policy": st.sampled_from(["first", "last", "most_frequent"]),
        "on_miss": st.sampled_from(["stop", "repeat", 1]),
        "boundaries": st.sampled_from([(), (BOS, COPY), (0,)]),
        "end": st.sampled_from([None, EOS, 2]),
    }
)
TOKENS = st.lists(st.sampled_from([0, 0, 1, 1, 2, BOS, COPY, 2**32 - 1]), min_size=1, max_size=30)


@given(OPTIONS, st.booleans(), TOKENS, st.data(), st.sampled_from([np.int64, np.uint32, ">i8"]))
def test_predict_is_the_plain_copier(options, include_generated, tokens, data, dtype):
    start = data.draw(st.integers(0, len(tokens)))
    length = data.draw(st.integers(0, len(tokens)))
    copier = nc.NgramCopier(**options, include_generated=include_generated, seed=start)
    batch = np.array([tokens, tokens], dtype=dtype)
    predicted, sources = copier.predict(batch, lengths=[len(tokens), length], start=start, threads=2)
    expected = [say(tokens[:i], i if include_generated else start, **options) for i in range(start, len(tokens))]
    assert list(zip(predicted[0].tolist(), sources[0].tolist(), strict=True)) == expected
    shorter = expected[: max(length - start, 0)]
    shorter += [(-1, -1)] * (len(expected) - len(shorter))
    assert list(zip(predicted[1].tolist(), sources[1].tolist(), strict=True)) == shorter


@given(OPTIONS, st.booleans(), TOKENS, st.lists(st.sampled_from([0, 1, 2]), max_size=4))
def test_free_generation_is_the_plain_copier(options, include_generated, prompt, query):
    copier = nc.NgramCopier(**options, include_generated=include_generated)
    context, expected = prompt + query, []
    while len(expected) < 20:
        token, _ = say(context, len(context) if include_generated else len(prompt), **options)
        if token < 0:
            break
        expected.append(token)
        context.append(token)
        if token == options["end"]:
            break
    assert copier.resume(copier.cut(prompt), 20, query).tolist() == expected
    if not query:
        assert copier.complete(prompt, 20).tolist() == expected


@given(st.integers(1, 5), st.integers(1, 3), st.lists(st.integers(0, 2), max_size=20), st.booleans())
def test_a_copy_succeeds_exactly_when_no_ngram_repeats(n, vocab_size, x, include_generated):
    x = [token % vocab_size for token in x]
    grams = [tuple(x[i : i + n]) for i in range(len(x) - n + 1)]
    copier = nc.NgramCopier(n, include_generated=include_generated, boundaries=(BOS, COPY), end=EOS)
    prompt = [BOS, *x, COPY]
    free = copier.complete(prompt, len(x) + 3).tolist() == [*x, EOS]
    forced, _ = copier.predict([[*prompt, *x, EOS]], start=len(prompt))
    assert free == (forced[0].tolist() == [*x, EOS]) == (len(set(grams)) == len(grams))


@given(st.integers(1, 3), st.sampled_from(["keep_first", "overwrite"]), st.lists(st.integers(0, 2), max_size=25))
def test_a_roomy_exact_table_is_the_exact_copier(n, eviction, x):
    bounded = nc.BoundedNgramCopier(
        n, slots=4096, key_bits=21, value_bits=7, eviction=eviction, boundaries=(BOS, COPY), end=EOS
    )
    prompt = [BOS, *x, COPY]
    load = bounded.load(prompt)
    assert load["insertions"] == len(x) + 1
    distinct = len({key([BOS, *x[:i]], n, (BOS,)) for i in range(len(x) + 1)})
    assert load["occupied"] <= distinct
    # Where nothing shares a slot, the table says what the copier says that learns from the prompt alone.
    assert load["collisions"] > 0 or load["occupied"] == distinct
    if load["collisions"] == 0:
        policy = {"keep_first": "first", "overwrite": "last"}[eviction]
        exact = nc.NgramCopier(n, policy=policy, include_generated=False, boundaries=(BOS, COPY), end=EOS)
        tokens = [[*prompt, *x, EOS]]
        predicted, sources = bounded.predict(tokens, start=len(prompt))
        assert (predicted == exact.predict(tokens, start=len(prompt))[0]).all()
        assert (sources == -1).all()
        assert bounded.complete(prompt, 40).tolist() == exact.complete(prompt, 40).tolist()


def test_bounded_tables_count_their_bits():
    copier = nc.BoundedNgramCopier(2, slots=50, key_bits=14, value_bits=7, boundaries=[127])
    assert copier.state_bits == 50 * 22
    header = len(copier.cut([])) - math.ceil(50 * 22 / 8)
    assert 10 < header < 30
    assert len(copier.cut(list(range(100)))) == len(copier.cut([]))
    load = copier.load(list(range(100)))
    assert load["slots"] == 50
    assert load["insertions"] == 100
    assert 30 < load["occupied"] < 50
    assert load["collisions"] + load["occupied"] == 100  # all n-grams differ


MACHINES = [
    "nc.NgramCopier(3, boundaries=(100, 101), end=102)",
    "nc.NgramCopier(2, policy='most_frequent', on_miss='repeat', include_generated=False, boundaries=(100, 101))",
    "nc.BoundedNgramCopier(2, slots=97, key_bits=5, value_bits=7, boundaries=(100, 101), end=102)",
    "nc.PrefixMachine(6, 13, vocab_size=26, boundaries=(100, 101), end=102)",
]


def made(source):
    return eval(source, {"nc": nc})


@pytest.mark.parametrize("source", MACHINES)
def test_another_process_goes_on_alike(source):
    x = nc.sample.uniform(0, 1, 0, 1, 40, 26)[0].tolist()
    prompt = [BOS, *x, COPY]
    state = made(source).cut(prompt)
    code = f"import ngram_copy as nc; print({source}.resume(bytes.fromhex({state.hex()!r}), 60, [{x[0]}]).tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = made(source).resume(state, 60, [x[0]]).tolist()
    assert done.stdout.strip() == str(here)
    assert len(here) > 2
    # Free generation is what the parallel pass says when it is fed its own answers.
    forced, _ = made(source).predict([[*prompt, x[0], *here]], start=len(prompt))
    assert forced[0, 1:].tolist() == here


@pytest.mark.parametrize("source", MACHINES)
@given(data=st.data())
def test_damaged_states_are_refused(source, data):
    state = made(source).cut([BOS, 3, 1, 4, 1, 5, COPY])
    at = data.draw(st.integers(0, len(state) - 1))
    flipped = state[at] ^ data.draw(st.integers(1, 255))
    damaged = state[:at] if data.draw(st.booleans()) else state[:at] + bytes([flipped]) + state[at + 1 :]
    with pytest.raises(nc.StateError, match=r"truncated|damaged|not a state|version"):
        made(source).resume(damaged, 5)


def test_states_of_others_are_refused():
    exact, _, bounded, prefix = (made(source).cut([BOS, 3, COPY]) for source in MACHINES)
    with pytest.raises(nc.StateError, match="the state of a prefix machine is given to an n-gram copier"):
        made(MACHINES[0]).resume(prefix, 5)
    with pytest.raises(nc.StateError, match="the state of an n-gram copier is given to a bounded table"):
        made(MACHINES[2]).resume(exact, 5)
    with pytest.raises(nc.StateError, match="the state is of a machine with kept = 6, groups = 13, vocab_size = 26"):
        nc.PrefixMachine(5, 13, vocab_size=26).resume(prefix, 5)
    with pytest.raises(nc.StateError, match="the state is of a table with"):
        nc.BoundedNgramCopier(2, slots=98, key_bits=5, value_bits=7).resume(bounded, 5)
    with pytest.raises(TypeError, match="state must be bytes, not str"):
        made(MACHINES[0]).resume("text", 5)


@pytest.mark.parametrize(
    ("bits", "vocab_size", "kept", "groups"),
    [(0, 26, 0, 1), (1, 26, 0, 2), (4.6, 26, 0, 13), (10 * math.log2(26), 26, 10, 1), (7, 2, 7, 1), (5, 1, 0, 1)],
)
def test_the_largest_machine_of_some_bits(bits, vocab_size, kept, groups):
    machine = nc.PrefixMachine.from_state_bits(bits, vocab_size)
    assert (machine.kept, machine.groups) == (kept, groups)
    assert machine.state_bits == pytest.approx(kept * math.log2(vocab_size) + math.log2(groups))


def test_the_prefix_machine_by_example():
    machine = nc.PrefixMachine(2, 2, vocab_size=6, boundaries=[BOS, COPY], end=EOS)
    assert machine.complete([BOS, 5, 1, 4, 3, COPY], 10).tolist() == [5, 1, 3, 0, EOS]
    predicted, sources = machine.predict([[BOS, 5, 1, 4, 3, COPY, 0, 0, 0, 0, 0, 0, 0]], start=6)
    assert predicted.tolist() == [[5, 1, 3, 0, EOS, -1, -1]]
    assert sources.tolist() == [[1, 2, -1, -1, -1, -1, -1]]


def test_arrays_of_all_kinds():
    copier = nc.NgramCopier(2, boundaries=[9])
    tokens = np.array([[9, 1, 2, 3, 9, 1, 2, 3]] * 2)
    expected = copier.predict(tokens)[0].tolist()
    for dtype in ("u1", "i1", "u2", "i2", ">u2", "u4", ">u4", "i4", "u8", ">u8", "i8", ">i8"):
        assert copier.predict(tokens.astype(dtype))[0].tolist() == expected
    strided = np.repeat(tokens, 2, axis=1)[:, ::2]
    assert copier.predict(strided)[0].tolist() == expected
    frozen = tokens.astype(np.uint32)
    frozen.flags.writeable = False
    assert copier.predict(frozen)[0].tolist() == expected
    assert copier.predict(np.empty((0, 5), int), start=2)[0].shape == (0, 3)
    assert copier.predict(np.empty((3, 0), int))[0].shape == (3, 0)
    assert copier.complete([], 5).tolist() == []


def test_a_signal_ends_a_long_call():
    def stop(*_):
        raise TimeoutError("enough")

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(TimeoutError, match="enough"):
            nc.NgramCopier(1).complete([1, 1], 2**32 - 1)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(TimeoutError, match="enough"):
            nc.sample.uniform(0, 0, 0, 400, 1_000_000, 3, out=np.empty((400, 1_000_000), np.uint32))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


ENDLESS = {
    "complete": "nc.NgramCopier(2).complete([1, 2, 1, 2], 2**32 - 1)",
    "resume": "copier = nc.NgramCopier(2); copier.resume(copier.cut([1, 2, 1, 2]), 2**32 - 1)",
    "long n-grams": "nc.NgramCopier(2**16, on_miss=1).complete([1, 2, 1, 2], 2**32 - 1)",
    "most frequent": "nc.NgramCopier(2, policy='most_frequent').complete([1, 2, 1, 2], 2**32 - 1)",
    "bounded": "nc.BoundedNgramCopier(1, slots=9, key_bits=64, value_bits=8, on_miss=1).complete([1, 1, 1], 2**32 - 1)",
    "prefix": "nc.PrefixMachine(0, vocab_size=2).resume(PREFIX_STATE, 2**32 - 1)",
}
# Of a string of 2^62 tokens: a machine that keeps none of them has it in a few bytes.
PREFIX_STATE = "4e4743530203c0eb37088040813f0000000000000020"


def ends(call, after, memory=None):
    """What a call that would go on for long says in another process that gets Ctrl-C, or little more memory."""
    room = f"int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + {memory}"
    lines = [
        "import resource, sys, numpy, ngram_copy as nc",
        f"PREFIX_STATE = bytes.fromhex({PREFIX_STATE!r})",
        f"resource.setrlimit(resource.RLIMIT_AS, ({room},) * 2)" if memory else "",
        "print(flush=True)",
        f"try: {call}",
        "except BaseException as error: print(type(error).__name__, error)",
        "else: print('done')",
    ]
    with subprocess.Popen([sys.executable, "-c", "\n".join(lines)], stdout=subprocess.PIPE, text=True) as child:
        try:
            child.stdout.readline()
            if after is not None:
                time.sleep(after)
                child.send_signal(signal.SIGINT)
            return child.communicate(timeout=60)[0]
        finally:
            child.kill()


@pytest.mark.parametrize("call", ENDLESS.values(), ids=ENDLESS)
def test_ctrl_c_ends_endless_answers(call):
    assert ends(call, after=0.3) == "KeyboardInterrupt \n"


@pytest.mark.skipif(sys.platform != "linux", reason="no limit of memory")
@pytest.mark.parametrize("call", [ENDLESS["complete"], ENDLESS["most frequent"], ENDLESS["bounded"]])
def test_answers_that_memory_cannot_hold(call):
    assert ends(call, after=None, memory=2**26).startswith("MemoryError cannot allocate ")


COPIER = nc.NgramCopier()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: nc.NgramCopier(0), ValueError, "n must be 1 to 65536, not 0"),
        (lambda: nc.NgramCopier(65537), ValueError, "n must be 1 to 65536, not 65537"),
        (lambda: nc.NgramCopier(2.0), TypeError, r"n must be an integer, not 2\.0"),
        (lambda: nc.NgramCopier(policy="best"), ValueError, 'policy must be "first", .* not "best"'),
        (lambda: nc.NgramCopier(on_miss="x"), ValueError, 'on_miss must be "stop", "repeat" or a token, not "x"'),
        (lambda: nc.NgramCopier(on_miss=-1), ValueError, r"on_miss must be 0 to 2\^32 - 1, not -1"),
        (lambda: nc.NgramCopier(boundaries=[-2]), ValueError, r"boundaries must be 0 to 2\^32 - 1, not -2"),
        (lambda: nc.NgramCopier(boundaries=[7], end=7), ValueError, "end must not be one of the boundaries, not 7"),
        (lambda: nc.NgramCopier(seed=-1), ValueError, r"seed must be 0 to 2\^64 - 1, not -1"),
        (lambda: COPIER.complete([1.5], 3), TypeError, "prompt must be integers, not float64"),
        (lambda: COPIER.complete([[1]], 3), ValueError, "prompt must have 1 dimension, not 2"),
        (lambda: COPIER.complete([1, -4], 3), ValueError, r"prompt\[1\] must be 0 to 2\^32 - 1, not -4"),
        (lambda: COPIER.complete(np.array([2**63], "u8"), 3), ValueError, r"prompt\[0\] .* not 9223372036854775808"),
        (lambda: COPIER.complete([1], -1), ValueError, "max_new_tokens must be 0 to .*, not -1"),
        (lambda: COPIER.complete([1], 2**32), ValueError, r"max_new_tokens must be 0 to 2\^32 - 1, not 4294967296"),
        (lambda: COPIER.resume(COPIER.cut([1]), 2**62), ValueError, r"max_new_tokens must be 0 to 2\^32 - 1, not"),
        (lambda: COPIER.predict([1]), ValueError, "tokens must have 2 dimensions, not 1"),
        (lambda: COPIER.predict([[1], [2**32]]), ValueError, r"tokens\[1, 0\] must be .*, not 4294967296"),
        (lambda: COPIER.predict([[1]], start=2), ValueError, "start must be 0 to 1, not 2"),
        (lambda: COPIER.predict([[1]], lengths=[1, 1]), ValueError, "lengths must have 1 elements, not 2"),
        (lambda: COPIER.predict([[1]], lengths=[2]), ValueError, r"lengths\[0\] must be 0 to 1, not 2"),
        (lambda: COPIER.predict([[1]], threads=0), ValueError, "threads must be 1 to .*, not 0"),
        (lambda: nc.BoundedNgramCopier(slots=0, key_bits=0, value_bits=8), ValueError, "slots must be .*, not 0"),
        (lambda: nc.BoundedNgramCopier(slots=2**33, key_bits=0, value_bits=8), ValueError, "slots .*8589934592"),
        (lambda: nc.BoundedNgramCopier(slots=1, key_bits=65, value_bits=8), ValueError, "key_bits must be 0 to 64"),
        (lambda: nc.BoundedNgramCopier(slots=1, key_bits=0, value_bits=0), ValueError, "value_bits must be 1 to 32"),
        (
            lambda: nc.BoundedNgramCopier(slots=1, key_bits=0, value_bits=8, eviction="lru"),
            ValueError,
            "eviction .*lru",
        ),
        (
            lambda: nc.BoundedNgramCopier(1, slots=1, key_bits=0, value_bits=2, boundaries=[3]).cut([0, 4]),
            ValueError,
            "token 4: value_bits = 2 hold 0 to 3",
        ),
        (lambda: nc.PrefixMachine(-1, vocab_size=4), ValueError, "kept must be 0 to .*, not -1"),
        (lambda: nc.PrefixMachine(1, 3, vocab_size=4), ValueError, r"groups must divide vocab_size \(4\), not 3"),
        (lambda: nc.PrefixMachine(1, vocab_size=4).cut([3, 4]), ValueError, "token 4 at index 1: .* 0 to 3"),
        (lambda: nc.PrefixMachine.from_state_bits(math.nan, 4), ValueError, "state_bits must be finite .* NaN"),
        (lambda: nc.PrefixMachine.from_state_bits(-1, 4), ValueError, "state_bits must be finite .* not -1"),
    ],
)
def test_bad_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize(("module", "examples"), [(copiers, 2), (nc.sample, 1)])
def test_examples_of_the_docstrings(module, examples):
    assert doctest.testmod(module) == (0, examples)
