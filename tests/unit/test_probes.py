"""Probes: engines whose way to copy is known are recognised; strings are as told; heads as they were made."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngram_copy import probes
from ngram_copy.engines import ENGINES
from ngram_copy.engines.base import Prediction
from ngram_copy.probes import teleport
from ngram_copy.probes.repeats import planted_repeats
from ngram_copy.tasks import TASKS
from ngram_copy.tasks.copy import Copy

LETTERS = Copy()


class Rule:
    """An engine of a rule from (prompt's string, what was copied so far) to the next token."""

    name = "rule"

    def __init__(self, rule):
        self.rule = rule

    def predict(self, batch, *, threads=1):
        tokens = np.full(batch.answers().shape, -1)
        for row, (prompt, answer) in enumerate(zip(batch.prompts(), batch.answers().tolist(), strict=True)):
            x = prompt[1:-1].tolist()
            for t in range(int(batch.lengths[row] - batch.answer[row])):
                tokens[row, t] = self.rule(x, answer[:t])
        return Prediction(tokens)


def longest_match(x, said):
    """What follows the place in x that agrees with the longest end of what was said."""

    def agree(place):
        k = 0
        while k < min(place, len(said)) and x[place - 1 - k] == said[len(said) - 1 - k]:
            k += 1
        return k

    return x[max(range(len(x)), key=agree)]


def replay(x, said):
    """Goes on only where what was said is what was to be said."""
    place = 0
    for token in said:
        place += place < len(x) and token == x[place]
    return x[min(place, len(x) - 1)]


# --- Teleports ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", range(1, 9))
@pytest.mark.parametrize("policy", ["first", "last"])
def test_the_effective_n_of_a_copier_is_its_n(k, policy):
    engine = ENGINES["ngram"](LETTERS.vocab, n=k, policy=policy)
    found = probes.teleports(engine, LETTERS, 48, strings=20)
    assert probes.effective_n(found) == k
    assert probes.policy(found) == policy
    for one in found:
        assert one.once.said["there" if one.n >= k else "none"] == 20
        for tally in (one.ahead, one.behind):
            if one.n >= k:
                assert tally.said[policy] == 20
            if one.n == k - 1:
                assert tally.said["longest"] == 20


@pytest.mark.parametrize(
    ("engine", "most"),
    [(ENGINES["prefix"](LETTERS.vocab, kept=99), "offset"), (Rule(replay), "resumed"), (Rule(lambda *_: 99), "other")],
)
def test_what_is_no_look_up_has_no_effective_n(engine, most):
    found = probes.teleports(engine, LETTERS, 32, strings=40)
    assert probes.effective_n(found) is None
    assert probes.policy(found) is None
    for one in found:
        assert (one.ahead is None) == (one.behind is None) == (one.n > 6)
        for tally in filter(None, (one.once, one.ahead, one.behind)):
            assert max(tally.said, key=tally.said.get) == most


def test_the_longest_match_is_recognised():
    found = probes.teleports(Rule(longest_match), LETTERS, 32, strings=20)
    assert probes.effective_n(found) == 1
    assert probes.policy(found) == "longest"
    assert all(one.once.said["there"] == 20 for one in found)
    assert all(one.ahead.said["longest"] == one.behind.said["longest"] == 20 for one in found[:6])


def test_a_half_is_enough_and_less_is_not():
    def found(there):
        tally = teleport.Tally(10, {**dict.fromkeys(teleport.ONCE, 0), "there": there, "other": 10 - there})
        return [teleport.Teleports(n, tally, None, None) for n in (1, 2)]

    assert probes.effective_n(found(5)) == 1
    assert probes.effective_n(found(4)) is None
    assert probes.policy(found(5)) is None


@pytest.mark.parametrize(
    ("ahead", "behind", "chosen"),
    [
        ([3, 3, 3], [3, 3, 3], "mixed"),
        ([9, 0, 0], [0, 0, 9], "nearest"),
        ([0, 0, 9], [9, 0, 0], "mixed"),
        ([9, 0, 0], [3, 3, 3], "mixed"),
        ([2, 5, 2], [4, 5, 0], "longest"),
        ([2, 2, 5], [0, 0, 9], "last"),
    ],
)
def test_the_preferred_place(ahead, behind, chosen):
    def tally(counts):
        return teleport.Tally(9, dict.fromkeys(teleport.THRICE, 0) | dict(zip(teleport.THRICE, counts, strict=False)))

    one = teleport.Teleports(1, teleport.Tally(9, {"there": 9}), tally(ahead), tally(behind))
    assert probes.policy([one]) == chosen
    result = {"name": "it", "effective_n": 1, "policy": chosen, "plain": {"count": 9}}
    assert teleport.reading(result).startswith("it looks up: its effective n is 1; of three places it ")


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 6),
    extra=st.integers(0, 40),
    vocab_size=st.integers(8, 40),
    seed=st.integers(0, 2**32),
    design=st.sampled_from(teleport.DESIGNS),
    source=st.sampled_from(["uniform", "zipf", "markov"]),
)
def test_strings_are_as_told(n, extra, vocab_size, seed, design, source):
    task = Copy(vocab_size=vocab_size, source=source, branching=5)
    length, repeated = teleport.least_length(n, design) + extra, design != "once"
    forced = teleport.force(task, length, n, design, seed=seed, count=3)
    batch = forced.batch
    names = teleport.THRICE[:3] if repeated else ("there",)
    assert list(forced.said) == [*names, "offset", "resumed"]
    for row in range(3):
        prompt, answer = batch.prompts()[row].tolist(), batch.answers()[row, : forced.column[row]].tolist()
        x, m = prompt[1:-1], len(answer) - n
        assert prompt == [task.vocab.bos, *x, task.vocab.copy]
        assert batch.lengths[row] == length + 3 + len(answer)
        assert answer[:m] == x[:m]
        assert length // 4 <= m <= 3 * length // 4
        places = [i for i in range(length - n + 1) if x[i : i + n] == answer[m:]]
        assert m not in places
        assert len(places) == (3 if repeated else 1)
        # A look-up by fewer tokens finds the same places, one by more tokens at most the middle one.
        assert [i for i in range(length) if x[i] == answer[-1]] == [i + n - 1 for i in places]
        longer = [i for i in places if i and x[i - 1] == answer[m - 1]]
        assert longer == (places[1:2] if repeated else [])
        if design == "ahead":
            assert places[0] > m
        if design == "behind":
            assert places[2] + n < m
        said = {name: forced.said[name][row] for name in forced.said}
        assert said == dict(zip(names, (x[i + n] for i in places), strict=True)) | {
            "offset": x[m + n],
            "resumed": x[m],
        }
        assert len(set(said.values())) == len(said)


@pytest.mark.parametrize("design", teleport.DESIGNS)
def test_an_example_is_a_function_of_its_index(design):
    whole = teleport.force(LETTERS, 24, 2, design, count=12)
    for index in (0, 5, 11):
        one = teleport.force(LETTERS, 24, 2, design, start=index, count=1)
        end = int(one.batch.lengths[0])
        assert one.batch.tokens[0, :end].tolist() == whole.batch.tokens[index, :end].tolist()
    other = teleport.force(LETTERS, 24, 2, design, seed=1, count=12)
    assert (other.batch.prompts()[0] != whole.batch.prompts()[0]).any()


def test_strings_of_other_copy_tasks():
    for name in ("copy_subsets", "duplicate_ngram", "text_copy"):
        task = TASKS[name]()
        found = probes.teleports(ENGINES["ngram"](task.vocab, n=3), task, 32, strings=10, max_n=4)
        assert probes.effective_n(found) == 3


@pytest.mark.parametrize(
    ("task", "length", "max_n", "message"),
    [
        (LETTERS, 19, 8, "length must be at least 20 to force n-grams of up to 8 tokens, not 19"),
        (LETTERS, 20, 0, "max_n must be at least 1, not 0"),
        (Copy(vocab_size=7), 20, 2, "at least 8 data tokens; copy has 7"),
        (TASKS["suffix_lookup"](), 20, 2, "a task that copies its whole string, such as copy; suffix_lookup does not"),
        (TASKS["phone_book"](), 20, 2, "phone_book does not"),
    ],
)
def test_what_cannot_be_probed(task, length, max_n, message):
    with pytest.raises(ValueError, match=message):
        probes.teleports(ENGINES["ngram"](task.vocab), task, length, max_n=max_n)


@pytest.mark.parametrize(
    ("length", "n", "design", "message"),
    [
        (11, 4, "once", r"at least 12 to force 4-grams \(once\), not 11"),
        (15, 2, "ahead", r"at least 16 to force 2-grams \(ahead\), not 15"),
        (30, 0, "once", "n must be at least 1, and design one of once, ahead, behind; not 0 and 'once'"),
        (30, 2, "beside", "not 2 and 'beside'"),
    ],
)
def test_what_cannot_be_forced(length, n, design, message):
    with pytest.raises(ValueError, match=message):
        teleport.force(LETTERS, length, n, design)


# --- Planted repeats ------------------------------------------------------------------------------------


def test_a_copier_breaks_at_repeats_of_its_n():
    engine = ENGINES["ngram"](LETTERS.vocab, n=4)
    found = planted_repeats(engine, LETTERS.vocab, 32, strings=50, copier_n=4)
    assert probes.breaks_at(found) == 4
    assert [(one.n, one.successor) for one in found] == [(n, s) for n in range(2, 9) for s in ("same", "different")]
    for one in found:
        assert one.engine == one.copier
        assert one.pairs >= 50
        if one.successor == "same":
            assert one.engine.first == one.engine.second == one.pairs
        else:
            assert one.engine.first == one.pairs
            assert one.engine.second == 0 if one.n >= 4 else one.engine.second >= one.pairs - 2
        assert one.engine.strings == 0 if one.n >= 4 else True


def test_the_copier_beside_has_the_planted_n_where_none_is_given():
    found = planted_repeats(ENGINES["prefix"](LETTERS.vocab, kept=99), LETTERS.vocab, 13, strings=10, max_n=8)
    assert [one.n for one in found[::2]] == [2, 3, 4, 5]
    assert probes.breaks_at(found) is None
    for one in found:
        assert one.copier_n == one.n
        assert one.engine.strings == 10
        assert one.copier.strings == 0 or one.successor == "different"


# --- Heads ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(torch):
    import copy_models

    return copy_models


ATTENTIONS = [
    {"positions": "rope", "n_kv_heads": 2},
    {"positions": "none", "log_scale": 3.0},
    {"positions": "alibi", "windows": [0, 3, 0, 2]},
    {"positions": "hard-alibi", "windows": [2, 0, 1, 0], "log_scale": 3.0},
    {"positions": "rope", "windows": 3, "value_dim": 6},
]


@pytest.mark.parametrize("options", ATTENTIONS)
@pytest.mark.parametrize("before", [0, 7])
def test_weights_are_those_of_forward(torch, options, before):
    from ngram_copy.models.attention import Attention

    torch.manual_seed(0)
    mixer = Attention(16, n_heads=4, **options).double()
    x = torch.randn(2, before + 5, 16, dtype=torch.float64)
    state = mixer.initial_state(2)
    if before:
        _, state = mixer(x[:, :before], state, 0)
    with torch.no_grad():
        weights = mixer.weights(x[:, before:], state, before)
        y, _ = mixer(x[:, before:], state, before)
        values = mixer.value(x).view(2, before + 5, -1, mixer.value_dim)
        values = values.repeat_interleave(4 // values.shape[2], dim=2)[:, :, mixer.order]  # as the config has them
        assert weights.shape == (2, 4, 5, before + 5)
        assert torch.allclose(weights.sum(-1), torch.ones(2, 4, 5, dtype=torch.float64))
        windows = options.get("windows", 0)
        for head, window in enumerate([windows] * 4 if isinstance(windows, int) else windows):
            for query in range(5):
                seen = weights[:, head, query] > 0
                first = max(0, before + query - window + 1) if window else 0
                assert not seen[:, before + query + 1 :].any()
                assert not seen[:, :first].any()
                assert seen[:, first : before + query + 1].all()
        # Inside, head i reads its own slice of the value projection.
        inner = torch.stack([weights[:, head] for head in mixer.order], dim=1)
        values = mixer.value(x).view(2, before + 5, -1, mixer.value_dim).transpose(1, 2)
        mixed = inner @ values.repeat_interleave(4 // values.shape[1], dim=1)
        assert torch.allclose(mixer.out(mixed.transpose(1, 2).reshape(2, 5, -1)), y)


def test_a_model_that_counts_is_found_out(torch, models):
    from ngram_copy.engines.neural import NeuralEngine

    model = models.by_position(LETTERS.vocab, 20)
    result = probes.probe(NeuralEngine(LETTERS.vocab, model), LETTERS, 20, strings=10)
    assert result["effective_n"] is None
    assert all(one["once"]["said"]["offset"]["count"] == 10 for one in result["teleports"])
    idle, counter = result["heads"]
    assert (idle["kind"], counter["kind"]) == ("back", "match")
    assert idle["back"] == pytest.approx([1 / 3] * 3 + [0] * 6)
    assert counter["after"] == pytest.approx([0, 1, 0, 0, 0, 0])
    removed = {one["what"]: one["strings"]["count"] for one in result["removed"]}
    assert removed == {"nothing": 10, "all back": 10, "all match": 0, "0.0": 10, "0.1": 0}
    assert all(one["engine"]["strings"]["count"] == 10 for one in result["repeats"])


def test_a_model_that_matches_is_recognised(torch, models):
    from ngram_copy.engines.neural import NeuralEngine

    task = Copy(vocab_size=120)
    model = models.by_match(task.vocab, 20)
    result = probes.probe(NeuralEngine(task.vocab, model), task, 20, strings=20, max_n=4)
    assert result["effective_n"] == 1
    assert result["teleports"][0]["once"]["said"]["there"]["count"] == 20
    lower, upper = result["heads"]
    assert (lower["kind"], upper["kind"]) == ("back", "match")
    assert lower["back"][1] == pytest.approx(1)
    assert upper["after"][1] > 0.8  # letters that repeat share the mass
    removed = {one["what"]: one["strings"]["count"] for one in result["removed"]}
    assert removed["nothing"] > 0
    assert removed["0.0"] == removed["1.0"] == 0


def test_heads_come_back(torch, models):
    from ngram_copy.probes.heads import without_heads

    model = models.by_position(LETTERS.vocab, 8)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    mixer = model.blocks[0].mixer

    def fail():
        assert not mixer.out.weight[:, mixer.output_columns(1)].any()
        raise KeyError

    with pytest.raises(KeyError), without_heads(model, [(0, 1), (0, 1)]):
        fail()
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    for head in ((0, 2), (1, 0), (0, -1)):
        with pytest.raises(ValueError, match="the model has no head"), without_heads(model, [head]):
            pass


def test_heads_do_not_depend_on_batches(torch, models, monkeypatch):
    from ngram_copy.probes import heads

    model = models.by_match(LETTERS.vocab, 9)
    whole = heads.head_scores(model, LETTERS, 9, strings=7)
    monkeypatch.setattr(heads, "_SCORES", 1)
    for one, other in zip(whole, heads.head_scores(model, LETTERS, 9, strings=7), strict=True):
        assert one.back == pytest.approx(other.back)
        assert one.after == pytest.approx(other.after)
    with pytest.raises(ValueError, match="length must be at least 2 to score heads, not 1"):
        heads.head_scores(model, LETTERS, 1)


def test_kinds_of_heads(torch):
    from ngram_copy.probes.heads import HeadScore

    none = (0.0,) * 9
    assert HeadScore(0, 0, none, (0.3, 0.1, 0.3, 0, 0, 0)).kind == "near"
    assert HeadScore(0, 0, none, (0.0, 0.5, 0.3, 0, 0, 0)).kind == "match"
    assert HeadScore(0, 0, (0.4, 0.3, 0.3, *none[3:]), (0.0,) * 6).kind == "back"
    assert HeadScore(0, 0, (0.4, 0.3, 0.1, *none[3:]), (0.0,) * 6).kind == "other"
    assert HeadScore(0, 0, (0.5, *none[1:]), (0.0,) * 6).kind == "self"


def test_a_model_without_attention(torch):
    from ngram_copy.engines.neural import NeuralEngine
    from ngram_copy.models import LanguageModel, LayerConfig, ModelConfig

    model = LanguageModel(ModelConfig(LETTERS.vocab.total, 8, [LayerConfig("lstm")])).eval()
    result = probes.probe(NeuralEngine(LETTERS.vocab, model), LETTERS, 12, strings=5, max_n=2)
    assert result["heads"] is result["removed"] is None
    assert result["heads_left_out"] == "the model has no attention"
    assert result["plain"]["count"] == 0
    assert result["breaks_at"] is None


# --- All of it ------------------------------------------------------------------------------------------


def test_a_result_is_json_and_adds_up():
    result = probes.probe(ENGINES["ngram"](LETTERS.vocab, n=2), LETTERS, 16, strings=30, max_n=3, name="two")
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["name"] == "two"
    assert result["task"]["name"] == "copy"
    assert (result["effective_n"], result["policy"], result["breaks_at"]) == (2, "first", 2)
    plain = planted_repeats(ENGINES["ngram"](LETTERS.vocab, n=2), LETTERS.vocab, 16, strings=30, max_n=2)[1]
    assert plain.engine.strings < result["plain"]["count"] <= 30
    assert result["heads_left_out"] == "the engine ngram is no model of ngram_copy.models"
    for one in result["teleports"]:
        for tally in filter(None, (one[design] for design in teleport.DESIGNS)):
            assert sum(count["count"] for count in tally["said"].values()) == tally["total"] == 30
            for count in tally["said"].values():
                assert count["low"] <= count["count"] / 30 <= count["high"]
    assert result["teleports"][2]["ahead"] is result["teleports"][2]["behind"] is None  # 20 tokens would be needed
    with pytest.raises(ValueError, match="strings must be at least 1, not 0"):
        probes.probe(ENGINES["ngram"](LETTERS.vocab), LETTERS, 16, strings=0, max_n=3)


def test_what_the_teleports_say():
    def said(engine):
        return teleport.reading(probes.probe(engine, LETTERS, 32, strings=20, max_n=4))

    assert said(ENGINES["ngram"](LETTERS.vocab, n=3)) == (
        "ngram looks up: its effective n is 3; of three places it goes on after the first one."
    )
    assert said(ENGINES["prefix"](LETTERS.vocab, kept=99)) == (
        "prefix does not go on after an n-gram of up to 4 tokens; most often it says: the old place (20 of 20)."
    )
    assert said(ENGINES["prefix"](LETTERS.vocab, kept=9)) == (
        "prefix does not copy these strings (0 of 20), so there is nothing to explain."
    )


def test_charts(torch, models, tmp_path):
    pytest.importorskip("vl_convert", reason="the extra bench is not installed")
    from ngram_copy.engines.neural import NeuralEngine
    from ngram_copy.probes import drawing

    engine = NeuralEngine(LETTERS.vocab, models.by_position(LETTERS.vocab, 12))
    result = probes.probe(engine, LETTERS, 12, strings=5, max_n=2)
    paths = drawing.write(result, tmp_path / "out")
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in paths) == [
        "charts/heads.svg",
        "charts/repeats.svg",
        "charts/teleports.svg",
        "probe.html",
        "probe.json",
    ]
    assert json.loads((tmp_path / "out" / "probe.json").read_text()) == result
    heads = (tmp_path / "out" / "charts" / "heads.svg").read_text()
    assert heads.startswith("<svg")
    for text in ("0.1", "match+1", "without all back 5, all match 0"):
        assert text in heads
    page = (tmp_path / "out" / "probe.html").read_text()
    assert "<script src" not in page
    assert "Planted repeats" in page
    assert set(drawing._specs({**result, "heads": None})) == {"teleports", "repeats"}
    assert set(drawing._specs({**result, "heads": None, "repeats": []})) == {"teleports"}
