"""Tables of models, presets, and widths that are solved for a size."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from ngram_copy.models import MIXERS, LanguageModel, ModelConfig
from ngram_copy.models.presets import PRESETS, match_params, match_state, measure, model_config

VOCAB = 32


def tiny(mixer, **more):
    return {"preset": "tiny", "mixer": mixer, **more}


# --- Presets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_every_mixer(preset, mixer):
    config = model_config(VOCAB, {"preset": preset, "mixer": mixer})
    with torch.device("meta"):  # no memory: the paper's sizes too
        model = LanguageModel(config)
    assert {layer.mixer for layer in config.layers} == {mixer}
    assert measure(config, 7).parameters == model.parameter_count()
    assert measure(config, 7).state == model.state_size(7)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("preset", PRESETS)
def test_all_options_are_spelled_out_as_json(preset, mixer):
    """So that a record of a run says what was measured, whatever the defaults become."""
    config = model_config(VOCAB, {"preset": preset, "mixer": mixer})
    assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    options = config.layers[0].options
    assert model_config(VOCAB, {"d_model": config.d_model, "layers": [{"mixer": mixer, "options": options}]})
    assert len(options) == len(model_config(VOCAB, {"mixer": mixer, "n_layers": 1, "d_model": 64}).layers[0].options)


def test_tiny_attention_is_the_recipe_that_learns_in_a_minute():
    config = model_config(VOCAB, tiny("attention"))
    assert (config.d_model, len(config.layers), config.norm, config.tied) == (64, 2, "rms", False)
    for layer in config.layers:
        assert layer.mlp == 0
        assert layer.options["windows"] == [1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 0]
        assert (layer.options["n_heads"], layer.options["head_dim"]) == (12, 16)
    assert measure(config).parameters == 102_592


@pytest.mark.parametrize(("mixer", "millions"), [("attention", 151), ("mamba", 162), ("lstm", 34)])
def test_sizes_of_the_paper(mixer, millions):
    assert round(measure(model_config(VOCAB, {"preset": "paper", "mixer": mixer})).parameters / 1e6) == millions


def test_other_positions_have_no_windows_of_the_preset():
    options = model_config(VOCAB, tiny("attention", attention={"positions": "rope"})).layers[0].options
    assert (options["positions"], options["windows"], options["n_heads"]) == ("rope", 0, 12)
    own = {"positions": "rope", "windows": 4}
    assert model_config(VOCAB, tiny("attention", attention=own)).layers[0].options["windows"] == 4


# --- Tables ---------------------------------------------------------------------------------------------


def test_what_stands_beside_a_preset_overrides_it():
    table = tiny("mamba", n_layers=3, d_model=48, mlp=[0, 10, 20], norm="layer", tied=True, mamba={"d_state": 4})
    config = model_config(VOCAB, table)
    assert (config.d_model, config.norm, config.tied) == (48, "layer", True)
    assert [layer.mlp for layer in config.layers] == [0, 10, 20]
    assert config.layers[0].options["d_state"] == 4


def test_patterns():
    config = model_config(VOCAB, {"preset": "paper", "pattern": "MMMA", "n_layers": 8, "mamba": {"d_conv": 2}})
    assert [layer.mixer for layer in config.layers] == ["mamba", "mamba", "mamba", "attention"] * 2
    assert [layer.mlp for layer in config.layers] == [0, 0, 0, 4096] * 2
    assert (config.layers[0].options["d_state"], config.layers[0].options["d_conv"]) == (32, 2)
    assert config.layers[3].options["n_heads"] == 16
    assert len(model_config(VOCAB, {"pattern": "LR", "d_model": 8, "mlp": 5}).layers) == 2
    assert len(model_config(VOCAB, {"preset": "tiny", "pattern": "MMMA"}).layers) == 4


def test_letters_are_of_one_mixer_each():
    assert len({mixer.letter for mixer in MIXERS.values()}) == len(MIXERS)
    pattern = "".join(mixer.letter for mixer in MIXERS.values())
    config = model_config(VOCAB, {"preset": "tiny", "pattern": pattern})
    assert [layer.mixer for layer in config.layers] == list(MIXERS)


def test_layers_one_by_one():
    layers = [{"mixer": "attention", "options": {"n_heads": 2}, "mlp": 9}, {"mixer": "gru"}]
    config = model_config(VOCAB, {"d_model": 12, "layers": layers, "activation": "relu"})
    assert [(layer.mixer, layer.mlp) for layer in config.layers] == [("attention", 9), ("gru", 0)]
    assert config.activation == "relu"


BAD = {
    "preset": (tiny("gru", preset="tny"), "unknown preset 'tny'; did you mean 'tiny'? (known: tiny, small, paper)"),
    "mixer": (tiny("grue"), "unknown mixer 'grue'; did you mean 'gru'? (known: attention, mamba,"),
    "key": (tiny("gru", d_modell=3), "unknown option 'd_modell'; did you mean 'd_model'?"),
    "option": (
        tiny("attention", attention={"n_head": 3}),
        "unknown attention option 'n_head'; did you mean 'n_heads'?",
    ),
    "option-type": (tiny("gru", gru={"d_hidden": "3"}), "gru.d_hidden must be a whole number, not '3'"),
    "option-bool": (tiny("gru", gru={"d_hidden": True}), "gru.d_hidden must be a whole number, not True"),
    "option-list": (
        tiny("attention", attention={"windows": [1.5]}),
        "attention.windows must be a whole number or a list, each a whole number, not [1.5]",
    ),
    "options": (tiny("gru", gru=3), "gru must be a table, not 3"),
    "other-mixer": (tiny("gru", lstm={}), "options of lstm, which is not in this model"),
    "field-type": (tiny("gru", tied=1), "tied must be true or false, not 1"),
    "field-value": (tiny("gru", norm="rm"), "norm must be one of rms, layer, none, not 'rm'"),
    "d_model": (tiny("gru", d_model=0), "d_model must be at least 1, not 0"),
    "d_model-type": (tiny("gru", d_model="64"), "d_model must be a whole number, not '64'"),
    "no-d_model": ({"mixer": "gru", "n_layers": 1}, "d_model is missing (a preset has one)"),
    "no-n_layers": ({"mixer": "gru", "d_model": 8}, "n_layers is missing (a preset has one)"),
    "n_layers": (tiny("gru", n_layers=0), "n_layers must be at least 1"),
    "pattern-multiple": (
        {"preset": "tiny", "pattern": "MMMA", "n_layers": 6},
        "n_layers must be at least 1 and a multiple of the pattern's 4, not 6",
    ),
    "letter": ({"preset": "tiny", "pattern": "MX"}, "pattern must be made of A (attention), M (mamba), "),
    "no-letter": ({"preset": "tiny", "pattern": ""}, "pattern must be made of A (attention), M (mamba), "),
    "neither": ({"preset": "tiny"}, "a model needs a mixer or a pattern"),
    "both": (tiny("gru", pattern="R"), "a model needs a mixer or a pattern, not both"),
    "mlps": (tiny("gru", mlp=[1, 2, 3]), "mlp must be one width or 2, one for each layer; not 3"),
    "mlp": (tiny("gru", mlp=-1), "mlp must be 0 (none) or a width, not -1"),
    "heads": (
        {"mixer": "attention", "n_layers": 2, "d_model": 30},
        "n_heads = 4 does not divide d_model = 30: give head_dim",
    ),
    "rope": ({"mixer": "attention", "n_layers": 2, "d_model": 36}, "rope_dim must be even and in 2 … 9, not 9"),
    "windows": (tiny("attention", attention={"n_heads": 5}), "windows must be 5 numbers, one a head"),
    "layers-beside": ({"d_model": 8, "layers": [{"mixer": "gru"}], "mlp": 3}, "mlp cannot stand beside it"),
    "layers-key": ({"d_model": 8, "layers": [{"mixer": "gru", "mpl": 3}]}, "unknown layers[0] key 'mpl'; did you mean"),
    "layers-mixer": ({"d_model": 8, "layers": [{"mlp": 3}]}, "layers[0].mixer is missing"),
    "layers-empty": ({"d_model": 8, "layers": []}, "a model needs at least one layer"),
    "layers-type": ({"d_model": 8, "layers": 3}, "layers must be a list, each a table, not 3"),
    "huge": (tiny("gru", d_model=10**12), "no such model can be made: "),
}


@pytest.mark.parametrize(("table", "text"), BAD.values(), ids=BAD)
def test_bad_tables_are_refused_in_one_line(table, text):
    with pytest.raises(ValueError) as error:  # noqa: PT011  # its text is compared below
        model_config(VOCAB, table)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


# --- Widths that are solved -----------------------------------------------------------------------------

LENGTH = 50


def next_wider(solved):
    """The same table with the next width that can be made."""
    if "d_model" in solved:
        for d_model in range(solved["d_model"] + 1, 3 * solved["d_model"] + 65):
            try:
                return model_config(VOCAB, {**solved, "d_model": d_model})
            except ValueError:
                continue
    head_dim = solved["attention"]["head_dim"] + 1
    return model_config(VOCAB, {**solved, "attention": {**solved["attention"], "head_dim": head_dim}})


@pytest.mark.parametrize("mixer", MIXERS)
@settings(max_examples=5)
@given(st.integers(100_000, 10_000_000))
def test_match_state_is_the_largest_that_is_not_above(mixer, bits):
    table = tiny(mixer)
    solved = match_state(bits, table, VOCAB, LENGTH)
    assert 32 * measure(model_config(VOCAB, solved), LENGTH).state <= bits
    assert 32 * measure(next_wider(solved), LENGTH).state > bits


@pytest.mark.parametrize("mixer", MIXERS)
@settings(max_examples=5)
@given(st.integers(20_000, 3_000_000))
def test_match_params_is_the_largest_that_is_not_above(mixer, n):
    table = tiny(mixer)
    solved = match_params(n, table, VOCAB)
    assert measure(model_config(VOCAB, solved)).parameters <= n
    assert measure(next_wider(solved)).parameters > n


def test_a_model_matches_its_own_sizes():
    for mixer in MIXERS:
        for preset in PRESETS:
            table = {"preset": preset, "mixer": mixer}
            config = model_config(VOCAB, table)
            assert model_config(VOCAB, match_params(measure(config).parameters, table, VOCAB)) == config
            size = 32 * measure(config, LENGTH).state
            assert model_config(VOCAB, match_state(size, table, VOCAB, LENGTH)) == config


def test_widths_of_mlps_keep_their_ratio():
    solved = match_params(20_000_000, {"preset": "small", "mixer": "attention"}, VOCAB)
    assert solved["mlp"] == 4 * solved["d_model"]
    layers = [{"mixer": "gru", "mlp": 16}, {"mixer": "attention", "options": {"n_heads": 2}}]
    solved = match_params(100_000, {"d_model": 8, "layers": layers}, VOCAB)
    assert [layer.get("mlp") for layer in solved["layers"]] == [2 * solved["d_model"], 0]
    solved = match_params(100_000, {"pattern": "RL", "d_model": 8, "mlp": [16, 0]}, VOCAB)
    assert solved["mlp"] == [2 * solved["d_model"], 0]


def test_other_widths():
    solved = match_state(2**16, tiny("mamba"), VOCAB, LENGTH, "mamba.d_state")
    assert solved == tiny("mamba", mamba={"d_state": 5})
    table = {"d_model": 8, "layers": [{"mixer": "gru", "options": {"d_hidden": 5}}, {"mixer": "lstm"}]}
    solved = match_state(32 * (100 + 16), table, VOCAB, LENGTH)
    assert 32 * measure(model_config(VOCAB, solved), LENGTH).state <= 32 * (100 + 16)
    solved = match_state(32 * (100 + 16), table, VOCAB, LENGTH, "gru.d_hidden")
    assert [layer.options["d_hidden"] for layer in model_config(VOCAB, solved).layers] == [100, None]


def test_a_state_that_d_model_does_not_change():
    solved = match_state(2**20, tiny("attention"), VOCAB, LENGTH)
    assert solved == tiny("attention", attention={"head_dim": solved["attention"]["head_dim"]})
    solved = match_state(2**20, tiny("gru", gru={"d_hidden": 7}), VOCAB, LENGTH)
    assert solved == tiny("gru", gru={"d_hidden": 2**20 // 64})


@pytest.mark.parametrize(
    ("solve", "text"),
    [
        (lambda: match_state(10, tiny("gru"), VOCAB, 9), "10 bits of state are too few: with d_model = 1 there are 64"),
        (lambda: match_params(10, tiny("gla"), VOCAB), "10 parameters are too few: with d_model = 4 there are"),
        (lambda: match_state(2**40, tiny("gru"), VOCAB, 9), "bits of state are more than d_model = 1048576 gives"),
        (lambda: match_state(2**20, tiny("attention"), VOCAB, 0), "after 0 tokens does not depend on any width"),
        (
            lambda: match_state(2**20, tiny("attention"), VOCAB, 9, "d_model"),
            "the state after 9 tokens does not depend on d_model",
        ),
        (lambda: match_params(2**20, tiny("gru"), VOCAB, "mamba.d_state"), "width must be d_model or an option of a"),
        (lambda: match_params(2**20, tiny("attention"), VOCAB, "attention.positions"), "'hard-alibi' is not a width"),
        (lambda: match_params(2**20, tiny("grue"), VOCAB), "unknown mixer 'grue'"),
    ],
)
def test_what_cannot_be_solved_is_said(solve, text):
    with pytest.raises(ValueError) as error:  # noqa: PT011  # its text is compared below
        solve()
    assert text in str(error.value)
