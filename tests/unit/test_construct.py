"""The constructed transformer: what its weights must be, and what happens where one of them is not."""

import itertools
import math
import os
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from constructed import contexts

from ngram_copy import _educational, theory
from ngram_copy.engines.constructed import ConstructedEngine
from ngram_copy.models import parts
from ngram_copy.models.checkpoint import load_model, save_model, weights_hash
from ngram_copy.models.construct import DOUBT, SHARPNESS, copy_transformer, limit, required_sharpness
from ngram_copy.tasks.base import VocabularySpec
from ngram_copy.tasks.copy import Copy, copy_batch


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def say(model, x, vocab_size, *, answer=None):
    """The most likely token at <copy> and after each token of the answer, by default ``x`` itself."""
    tokens = [vocab_size, *x, vocab_size + 1, *(x if answer is None else answer)]
    with torch.inference_mode():
        return model(torch.tensor([tokens]))[0, len(x) + 1 :].argmax(-1).tolist()


def copies(model, x, vocab_size):
    return say(model, x, vocab_size) == [*x, vocab_size + 2]


def elsewhere(model, x, vocab_size, match, answered=None):
    """Attention to all but one position, after so many tokens of the answer; by default after all."""
    context = torch.from_numpy(contexts([x], vocab_size))
    context = context if answered is None else context[:, : len(x) + 2 + answered]
    first, second = model.blocks
    with torch.inference_mode():
        h, _ = first(model.embedding(context), first.mixer.initial_state(1), 0)
        weights = second.mixer.weights(h, second.mixer.initial_state(1), 0)[0, 0, -1]
    return 1 - float(weights[match])


# --- What it is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["bits", "one-hot"])
def test_sizes_are_those_of_theory(value):
    for n, d, ends, snaps in itertools.product((1, 2, 7), (2, 3, 4, 26, 65), (True, False), (True, False)):
        options = {"value": value, "end_of_string": ends, "snapping": snaps}
        model = copy_transformer(n, d, 10, **options)
        sizes = theory.construction_sizes(n, d, **options)
        assert model.parameter_count() == sizes.parameters
        assert (model.config.d_model, model.config.layers[0].mlp) == (sizes.d_model, sizes.d_mlp)
        first, second = model.mixers()
        assert (first.n_heads, second.n_heads) == sizes.heads
        assert (first.value_dim, second.head_dim, second.value_dim) == (*sizes.head_dims, sizes.value_dim)


def test_it_is_an_ordinary_model_of_two_layers():
    model = copy_transformer(3, 26, 10)
    assert not model.training
    assert {x.dtype for x in model.parameters()} == {torch.float32}
    config = model.config
    assert (config.vocab_size, config.norm, config.activation) == (30, "none", "relu")
    assert [layer.options["positions"] for layer in config.layers] == ["hard-alibi", "none"]
    assert config.layers[0].options["windows"] == [2, 3, 4]
    assert config.layers[1].mlp == 0
    assert (config.tied, config.max_positions, config.parallel_residual) == (False, 0, False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_saved_and_loaded_like_a_trained_one(tmp_path, dtype):
    model = copy_transformer(2, 5, 10, dtype=getattr(torch, dtype))
    save_model(tmp_path, model, {})
    loaded = load_model(tmp_path)
    assert weights_hash(loaded) == weights_hash(model)
    assert copies(loaded, [1, 0, 2, 4], 5)


def test_the_same_arguments_give_the_same_weights_and_draw_nothing():
    before = torch.random.get_rng_state()
    assert weights_hash(copy_transformer(3, 7, 50)) == weights_hash(copy_transformer(3, 7, 50))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("n", "vocab_size", "length"), [(1, 2, 3), (2, 2, 9), (3, 5, 20), (6, 26, 4)])
def test_the_readable_twin_says_the_same(n, vocab_size, length):
    scale = math.log((vocab_size + 4) / DOUBT) / 1.5
    model = copy_transformer(n, vocab_size, length, snapping=False, dtype=torch.float64)
    rng = np.random.default_rng(n)
    for x in rng.integers(0, vocab_size, (10, length)):
        (context,) = contexts([x], vocab_size)
        with torch.inference_mode():
            logits = model(torch.from_numpy(context)[None])[0].numpy()
        twin = _educational.copy_transformer(context.tolist(), n, vocab_size)
        said = np.column_stack([logits[:, :vocab_size], logits[:, vocab_size + 2]])
        np.testing.assert_allclose(said / scale, twin, atol=1e-9)


@pytest.mark.parametrize("snapping", [True, False])
@pytest.mark.parametrize("vocab_size", [2, 26])
def test_the_first_layer_finds_the_tokens_back_to_the_boundary(vocab_size, snapping):
    n, length = 5, 8
    model = copy_transformer(n, vocab_size, length, snapping=snapping)
    x = np.random.default_rng(1).integers(0, vocab_size, length)
    (context,) = contexts([x], vocab_size)
    block = model.blocks[0]
    with torch.inference_mode():
        embedded = model.embedding(torch.from_numpy(context)[None])
        h = block(embedded, block.mixer.initial_state(1), 0)[0][0]
    m = theory.construction_sizes(n, vocab_size).token_bits
    e, start = m + 1, (m + 1) * (n + 1) + 1
    for i in range(len(context)):
        for k in range(1, n + 1):
            # <copy> does not count in its own n-gram: it is the key of the end.
            nearer = context[max(i - k + 1, 0) + (k > i + 1) : i + (context[i] != vocab_size + 1)]
            erased = k > i or (nearer >= vocab_size).any() or (k > 1 and (context[i - k + 1 : i] >= vocab_size).any())
            wanted = torch.zeros(e) if erased else embedded[0, i - k, :e]
            torch.testing.assert_close(h[i, start + (k - 1) * e :][:e], wanted, atol=1e-5, rtol=0)


# --- How sharp its attention must be --------------------------------------------------------------------


@pytest.mark.parametrize("length", [3, 50, 400])
def test_the_bound_counts_all_keys_of_the_context(length):
    # After y_L = 1 the n-gram 1 stands before <copy> alone; all 2L + 1 others miss by 2, one bit or two missing ones.
    x, error = [0] * (length - 1) + [1], 0.01
    sharpness = required_sharpness(length, error)
    at_the_bound = copy_transformer(1, 2, length, sharpness=sharpness)
    wrong = elsewhere(at_the_bound, x, 2, length + 1)
    assert wrong == pytest.approx(error / (1 + error), rel=1e-3)
    # As if the context had L keys: too much.
    short = copy_transformer(1, 2, length, sharpness=math.log(length / error) / 2)
    assert elsewhere(short, x, 2, length + 1) > 1.9 * error


def test_below_the_bound_the_many_wrong_keys_win():
    # 2 is followed by 1, and the many 0s, one bit away from 2, by 0.
    length = 200
    x = [2, 1] + [0] * (length - 2)
    enough = copy_transformer(1, 4, length, sharpness=required_sharpness(length, 0.1))
    assert say(enough, x, 4, answer=[2]) == [2, 1]
    blunt = copy_transformer(1, 4, length, sharpness=math.log(length / 4) / 2)
    assert say(blunt, x, 4, answer=[2])[-1] == 0


def test_the_default_is_sharp_enough_and_never_below_16():
    assert required_sharpness(512, 0.01) == pytest.approx(math.log(1025 / 0.01) / 2)
    assert required_sharpness(512, 0.01) < SHARPNESS
    assert weights_hash(copy_transformer(2, 4, 512)) == weights_hash(copy_transformer(2, 4, 9, sharpness=16.0))
    strict = required_sharpness(512, 1e-20)
    assert strict > SHARPNESS
    wanted = copy_transformer(2, 4, 512, sharpness=strict)
    assert weights_hash(copy_transformer(2, 4, 512, error=1e-20)) == weights_hash(wanted)


def test_boundaries_must_weigh_as_much_as_a_bit():
    # At y_1 = 0 the key "boundary, 0" must beat "0 0" and "1 0", whose tokens there are worth nothing.
    n, error, x = 2, 0.01, [0, 1, 0, 0, 1, 1, 0, 1, 0]
    # x_2 is what "boundary, 0" stands before.
    model = copy_transformer(n, 2, len(x), sharpness=required_sharpness(len(x), error))
    assert elsewhere(model, x, 2, 2, answered=1) < error
    e = 3
    with torch.no_grad():
        model.blocks[1].mixer.query.weight[2 * e - 1] /= 2  # c² = 1 for the boundary one token back
    assert elsewhere(model, x, 2, 2, answered=1) > error


def test_at_copy_the_first_token_must_win():
    # The n - 1 tokens before <copy> stand before nearly all places of this string.
    n, length, error = 3, 40, 0.01
    x = [0] * length
    model = copy_transformer(n, 2, length, sharpness=required_sharpness(length, error))
    assert elsewhere(model, x, 2, 1, answered=0) < error
    with torch.no_grad():
        model.blocks[1].mixer.query.weight[2] *= ((n - 1) * 2 + 1) / ((n - 1) * 2 + 2)  # 1 more than they, not 2
    assert elsewhere(model, x, 2, 1, answered=0) > error


def test_a_token_must_have_two_bits():
    # With one, a token that a key lacks is missed by 1 alone: <bos>'s, x_1's and y_1's get too much.
    length, error = 60, 0.01
    x = [0] * (length - 1) + [1]
    model = copy_transformer(1, 2, length, sharpness=required_sharpness(length, error))
    assert theory.construction_sizes(1, 2).token_bits == 2
    assert elsewhere(model, x, 2, length + 1) < error
    with torch.no_grad():
        model.embedding.weight[:2, 1] = 0  # the second bit
    assert elsewhere(model, x, 2, length + 1) > error


# --- What it looks up -----------------------------------------------------------------------------------


def test_it_looks_at_the_whole_context_and_at_what_was_generated():
    # The prompt does not have 3 → 2: the answer so far does.
    model = copy_transformer(1, 5, 20)
    assert say(model, [0, 1], 5, answer=[3, 2, 4, 3])[-1] == 2


def test_a_token_after_itself_is_a_match_at_once():
    model = copy_transformer(1, 5, 20)
    assert say(model, [0, 1], 5, answer=[3, 3])[-1] == 3


def test_nothing_is_looked_up_across_a_boundary():
    # 1 2 is no n-gram of the context if <copy> stands between them; "boundary, 2" then has no match.
    model = copy_transformer(2, 4, 20)
    assert say(model, [2, 3, 1, 2, 0], 4, answer=[2])[-1] == 3


def test_a_repeat_with_one_successor_does_no_harm():
    x = [0, 1, 2, 3, 0, 1, 2, 4]  # 0 1 → 2 twice; 1 2 → 3, 4
    model = copy_transformer(2, 5, 20)
    said = say(model, x, 5)
    wrong = {position for position, token in enumerate(x) if said[position] != token}
    assert wrong
    assert wrong <= {3, 7}
    assert copies(copy_transformer(4, 5, 20), x, 5)


def test_a_repeat_to_the_end_of_the_string_is_harmless_only_where_the_end_is_not_predicted():
    x = [0, 1, 2, 0, 1]  # 0 1 → 2, and the end
    assert say(copy_transformer(2, 3, 20, end_of_string=False), x, 3)[:-1] == x
    assert not copies(copy_transformer(2, 3, 20), x, 3)


def test_several_matches_give_a_majority_of_bits_or_of_tokens():
    # After 0 came 1, 1, 2, 4 and 6: no bit is set in most of them, and 0 itself never came.
    x = [0, 1, 0, 1, 0, 2, 0, 4, 0, 6]
    for sharpness in (16.0, 64.0):
        bits = copy_transformer(1, 8, 20, sharpness=sharpness)
        names = copy_transformer(1, 8, 20, value="one-hot", sharpness=sharpness)
        assert say(bits, x, 8, answer=[0])[-1] == 0
        assert say(names, x, 8, answer=[0])[-1] == 1


def test_ties_are_shared():
    model = copy_transformer(1, 4, 20, value="one-hot", sharpness=64.0)
    tokens = torch.tensor([[4, 0, 1, 0, 2, 5, 0]])
    with torch.inference_mode():
        logits = model(tokens)[0, -1]
    scale = math.log(8 / DOUBT) / 1.5
    torch.testing.assert_close(logits[:4] / scale, torch.tensor([0.0, 1, 1, 0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("vocab_size", [2, 3, 26, 64])
@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_strings_shorter_than_n(vocab_size, n):
    model = copy_transformer(n, vocab_size, 20)
    rng = np.random.default_rng(n)
    for length in range(n + 1):
        for x in rng.integers(0, vocab_size, (5, length)).tolist():
            assert copies(model, x, vocab_size)  # at most one n-gram: none repeats


def test_constant_strings_fail_from_n_plus_one_on():
    model = copy_transformer(3, 2, 20)
    assert [copies(model, [1] * length, 2) for length in (1, 2, 3, 4, 9)] == [True, True, True, False, False]


@pytest.mark.parametrize("value", ["bits", "one-hot"])
@pytest.mark.parametrize("error", [1e-3, 0.125])
def test_what_is_determined_is_almost_certain(value, error):
    length = 200
    x = np.random.default_rng(0).integers(0, 26, length)
    assert len({tuple(x[i : i + 5]) for i in range(length - 4)}) == length - 4  # so all is determined
    worst = np.array([0] * (length - 1) + [1])  # at its end all other keys are as near as can be
    for n, vocab_size, string, first in ((5, 26, x, 0), (1, 2, worst, length)):
        model = copy_transformer(n, vocab_size, length, value=value, sharpness=required_sharpness(length, error))
        (context,) = contexts([string], vocab_size)
        with torch.inference_mode():
            likely = model(torch.from_numpy(context)[None])[0, length + 1 :].softmax(-1)
        wanted = torch.from_numpy(np.append(string, vocab_size + 2))
        assert float(likely.gather(1, wanted[:, None])[first:].min()) > 1 - DOUBT


# --- What is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"n": 0}, "n must be 1 to 65536, not 0"),
        ({"vocab_size": 1}, "vocab_size must be 2 to 2^63 - 1, not 1"),
        ({"max_len": 0}, "max_len must be 1 to 2^63 - 1, not 0"),
        ({"error": 0.0}, "error must be in (0, 1], not 0.0"),
        ({"error": -0.5}, "error must be in (0, 1], not -0.5"),
        ({"error": 1.5}, "error must be in (0, 1], not 1.5"),
        ({"error": math.nan}, "error must be in (0, 1], not nan"),
        ({"value": "both"}, "value must be one of bits, one-hot, not 'both'"),
        ({"sharpness": -1.0}, "sharpness must be at least 0 and finite, not -1.0"),
        ({"sharpness": math.inf}, "sharpness must be at least 0 and finite, not inf"),
        ({"dtype": torch.int64}, "dtype must be float64, float32, float16 or bfloat16, not int64"),
        (
            {"n": 64, "vocab_size": 2, "dtype": torch.bfloat16},
            "bfloat16 is exact up to n·m = 126, and n·m is 128: it must be forced",
        ),
        (
            {"n": 8, "vocab_size": 4, "dtype": torch.bfloat16, "snapping": False},
            "bfloat16 is exact up to n·m = 126, and n²·m without snapping is 128: it must be forced",
        ),
    ],
)
def test_what_is_refused(changed, text):
    arguments = {"n": 2, "vocab_size": 26, "max_len": 10, **changed}
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the whole text is compared
        copy_transformer(arguments.pop("n"), arguments.pop("vocab_size"), arguments.pop("max_len"), **arguments)
    assert str(caught.value) == text


def test_limits_follow_from_the_precision():
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        n = limit(dtype) // 2  # m = 2
        assert (2 * n + 1) * torch.finfo(dtype).eps < 1 <= (2 * n + 3) * torch.finfo(dtype).eps
    assert [limit(dtype) for dtype in (torch.float16, torch.bfloat16)] == [1022, 126]
    forced = copy_transformer(64, 2, 10, dtype=torch.bfloat16, force=True)
    assert forced.parameter_count() == theory.construction_sizes(64, 2).parameters


def test_float16_does_not_overflow():
    # β·√dk·n·m, a score before it is divided, is beyond float16; no weight and no activation is.
    n, vocab_size = 60, 64
    model = copy_transformer(n, vocab_size, 100, dtype=torch.float16)
    assert SHARPNESS * math.sqrt(7 * n) * 6 * n > torch.finfo(torch.float16).max
    assert all(bool(x.isfinite().all()) for x in model.parameters())
    x = np.random.default_rng(0).integers(0, vocab_size, 70).tolist()
    assert copies(model, x, vocab_size)


def test_what_does_not_fit_in_memory_is_refused_with_its_size(monkeypatch):
    monkeypatch.setattr("ngram_copy.models.parts._free_memory", lambda: 2**20)
    assert copy_transformer(2, 26, 100).parameter_count() * 4 < 2**20
    sizes = theory.construction_sizes(20, 26)
    needed = 4 * (2 * sizes.parameters + 202 * (sizes.head_dims[1] + sizes.value_dim)) / 2**30
    with pytest.raises(ValueError, match=f"needs {needed:,.1f} GiB of memory, and 0.0 GiB are free on this machine"):
        copy_transformer(20, 26, 100)
    with pytest.raises(ValueError, match="max_len = 1000000 needs"):
        copy_transformer(2, 26, 10**6)


def test_memory_is_what_is_free(monkeypatch):
    if sys.platform == "linux":
        assert 2**28 < parts._free_memory() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def nothing(*_, **__):
        raise OSError

    monkeypatch.setattr("builtins.open", nothing)
    monkeypatch.delattr("os.sysconf", raising=False)
    assert parts._free_memory() == 2**47
    with pytest.raises(ValueError, match=r"needs [\d,.]+ GiB of memory, and 131,072.0 GiB are free"):
        copy_transformer(65536, 2**62, 100)


# --- The engine -----------------------------------------------------------------------------------------


def test_the_engine_refuses_longer_strings_and_unknown_options():
    task = Copy(vocab_size=26)
    engine = ConstructedEngine(task.vocab, n=2, max_len=9)
    batch = task.batch(10, seed=0, split="test", start=0, count=2)
    for call in (engine.predict, lambda batch: engine.cut(batch.prompts())):
        with pytest.raises(ValueError, match="made for strings of up to 9 tokens, not 10: max_len"):
            call(batch)
    engine.predict(task.batch(9, seed=0, split="test", start=0, count=2))
    with pytest.raises(ValueError, match=r"dtype must be one of float32, .*, not 'int8'"):
        ConstructedEngine(task.vocab, dtype="int8")
    with pytest.raises(ValueError, match="bfloat16 is exact up to n·m = 126, and n·m is 320"):
        ConstructedEngine(task.vocab, n=64, dtype="bfloat16")
    assert ConstructedEngine(VocabularySpec(2), n=64, dtype="bfloat16", force=True).model.device.type == "cpu"


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_the_engine_in_each_dtype(dtype):
    strings = np.array([[0, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=np.uint32)
    batch = copy_batch(strings, VocabularySpec(2), None, None)
    engine = ConstructedEngine(VocabularySpec(2), n=2, dtype=dtype)
    assert (engine.predict(batch).tokens == batch.answers()).all(1).tolist() == [True, False]
    assert engine.generate(batch, 6)[0].tolist() == [0, 1, 1, 0, 0, 4]
    (bits,) = set(engine.state_bits(batch.prompts()).tolist())
    assert bits == 8 * getattr(torch, dtype).itemsize * engine.model.state_size(6)
