"""Checkpoints: what is saved is loaded, whatever interrupts the writing, and what is damaged is refused."""

import json
import os

import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from safetensors import safe_open
from safetensors.torch import save_file

from ngram_copy.models import LanguageModel, LayerConfig, ModelConfig
from ngram_copy.models.checkpoint import (
    CONFIG,
    WEIGHTS,
    CheckpointError,
    load_model,
    load_weights,
    named_tensors,
    read_extra,
    read_tensors,
    save_model,
    weights_hash,
)

ATTENTION = LayerConfig("attention", {"n_heads": 2, "windows": (2, 0), "positions": "hard-alibi"}, mlp=12)
SMALL = ModelConfig(vocab_size=7, d_model=8, layers=(ATTENTION,))
CONFIGS = {
    "attention": SMALL,
    "tied": ModelConfig(vocab_size=7, d_model=8, layers=(ATTENTION, ATTENTION), tied=True, head_bias=True),
    "positions": ModelConfig(vocab_size=7, d_model=8, layers=(ATTENTION,), max_positions=9, norm="layer"),
    "lstm": ModelConfig(vocab_size=7, d_model=8, layers=(LayerConfig("lstm", {"d_hidden": 5}),), norm="none"),
}
TOKENS = torch.arange(6)[None]


def made(config=SMALL, seed=0):
    torch.manual_seed(seed)
    return LanguageModel(config)


class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(6.0).view(2, 3).T)  # not contiguous
        self.again = self.weight
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("nothing", torch.empty(0))
        self.register_buffer("void", torch.empty(0))


# --- Round trips ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_saved_is_loaded(tmp_path, config, dtype):
    model = made(config).to(dtype)
    save_model(tmp_path, model, {"step": 3, "name": "ä"})
    before = torch.random.get_rng_state()
    loaded = load_model(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert loaded.config.to_json() == json.loads(json.dumps(config.to_json()))
    assert weights_hash(loaded) == weights_hash(model)
    assert torch.equal(loaded(TOKENS), model.eval()(TOKENS))
    assert not loaded.training
    assert read_extra(tmp_path) == {"step": 3, "name": "ä"}
    assert read_tensors(tmp_path) == {}
    assert json.loads((tmp_path / CONFIG).read_text())["model"] == json.loads(json.dumps(config.to_json()))
    assert {path.name for path in tmp_path.iterdir()} == {CONFIG, WEIGHTS}


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for name in "ab":
        save_model(tmp_path / name, made(), {"b": 1, "a": [2]})
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()


def test_a_tied_weight_is_stored_once_and_stays_tied(tmp_path):
    save_model(tmp_path, made(CONFIGS["tied"]), {})
    with safe_open(tmp_path / WEIGHTS, framework="pt") as file:
        assert "embedding.weight" in file.keys()  # noqa: SIM118
        assert "head.weight" not in file.keys()  # noqa: SIM118
    loaded = load_model(tmp_path)
    assert loaded.head.weight is loaded.embedding.weight


def test_a_module_of_ones_own(tmp_path):
    own, other = Own(), Own()
    with torch.no_grad():
        own.weight += 1
        own.count += 1
    save_model(tmp_path, own, {"a": 1}, {"more/x": torch.arange(3)})
    assert not (tmp_path / CONFIG).exists()
    assert set(named_tensors(own)) == {"weight", "count", "nothing", "void"}
    load_weights(tmp_path, other)
    assert weights_hash(other) == weights_hash(own) != weights_hash(Own())
    assert read_tensors(tmp_path)["more/x"].tolist() == [0, 1, 2]
    with pytest.raises(CheckpointError, match="module of one's own: make it, and use load_weights"):
        load_model(tmp_path)


def test_the_hash_sees_names_shapes_dtypes_and_bytes():
    def hashed(name, x):
        module = torch.nn.Module()
        module.register_buffer(name, x)
        return weights_hash(module)

    x = torch.arange(6, dtype=torch.int32)
    cases = [("a", x), ("b", x), ("a", x.view(2, 3)), ("a", x.view(torch.float32)), ("a", x + 1)]
    assert len({hashed(*case) for case in cases}) == len(cases)
    assert hashed("a", x.view(2, 3)) == hashed("a", x.view(2, 3).T.contiguous().T)


# --- Killed while it writes -----------------------------------------------------------------------------


class Killed(BaseException):
    """What the process dies of; no handler of errors sees it."""


def kill_at(monkeypatch, moment):
    """Die before the ``moment``-th call of what changes the disk."""
    calls = 0

    def dying(function):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == moment:
                raise Killed
            return function(*arguments, **options)

        return call

    for name in ("fsync", "replace", "open", "unlink"):
        monkeypatch.setattr(os, name, dying(getattr(os, name)))


@pytest.mark.parametrize("other", [False, True], ids=["the same config", "another config"])
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path, other):
    old, new = made(seed=1), made(CONFIGS["lstm"] if other else SMALL, seed=2)
    outcomes = []
    for moment in range(1, 20):
        folder = tmp_path / str(moment)
        save_model(folder, old, {"step": 1})
        with pytest.MonkeyPatch.context() as monkeypatch:
            kill_at(monkeypatch, moment)
            try:
                save_model(folder, new, {"step": 2})
                killed = False
            except Killed:
                killed = True
        step = read_extra(folder)["step"]
        assert weights_hash(load_model(folder)) == weights_hash({1: old, 2: new}[step])
        outcomes.append(step)
        if not killed:
            break
        save_model(folder, new, {"step": 3})  # what the dead one left is in nobody's way
        assert read_extra(folder) == {"step": 3}
        assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS}
    assert not killed
    assert outcomes == sorted(outcomes)
    assert outcomes[0] == 1


def test_a_full_disk_leaves_the_last_one(tmp_path, monkeypatch):
    save_model(tmp_path, made(seed=1), {"step": 1})
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left") as caught:
        save_model(tmp_path, made(seed=2), {"step": 2})
    assert caught.value.filename == str(tmp_path / WEIGHTS)
    assert read_extra(tmp_path) == {"step": 1}
    assert {path.name for path in tmp_path.iterdir()} == {CONFIG, WEIGHTS}


# --- Refused --------------------------------------------------------------------------------------------


def one_line(caught):
    assert "\n" not in str(caught.value)


def test_every_truncation_is_refused(tmp_path):
    save_model(tmp_path, made(), {"step": 1})
    path = tmp_path / WEIGHTS
    content = path.read_bytes()
    for size in [0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:size])
        for read in (load_model, read_extra, read_tensors):
            with pytest.raises(CheckpointError, match="is truncated or no checkpoint") as caught:
                read(tmp_path)
            one_line(caught)


def other_json(folder, change):
    """A file like a checkpoint, with another text."""
    save_model(folder, made(), {})
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        about = json.loads(file.metadata()["ngram_copy"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(about, tensors)
    (folder / CONFIG).unlink()
    save_file(tensors, folder / WEIGHTS, {"ngram_copy": json.dumps(about)})


DAMAGES = {
    "is not a checkpoint of this version: 'x'": lambda about, tensors: about.update(format="x"),
    "is of another model: it lacks head.weight": lambda about, tensors: tensors.pop("head.weight"),
    "is of another model: it has more": lambda about, tensors: tensors.update(more=torch.ones(1)),
    r"head.weight is \(7,\) float32 there and \(7, 8\) float32 here": lambda about, tensors: tensors.update(
        {"head.weight": torch.ones(7)}
    ),
    "holds a model that cannot be made: unknown mixer 'x'": lambda about, tensors: about["config"]["layers"][0].update(
        mixer="x"
    ),
    "holds a model that cannot be made: .*colour": lambda about, tensors: about["config"].update(colour=1),
    "holds a model that cannot be made: .*layers": lambda about, tensors: about["config"].pop("layers"),
}


@pytest.mark.parametrize("text", DAMAGES)
def test_what_does_not_fit_is_refused(tmp_path, text):
    other_json(tmp_path, DAMAGES[text])
    with pytest.raises(CheckpointError, match=text) as caught:
        load_model(tmp_path)
    one_line(caught)


def test_a_strange_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such checkpoint"):
        load_model(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="is not a checkpoint of this version: None"):
        load_model(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="is truncated or no checkpoint"):
        load_model(tmp_path)


def test_a_config_of_another_model_beside_the_weights_is_refused(tmp_path):
    save_model(tmp_path / "a", made(), {})
    save_model(tmp_path / "b", made(CONFIGS["lstm"]), {})
    (tmp_path / "a" / CONFIG).write_bytes((tmp_path / "b" / CONFIG).read_bytes())
    with pytest.raises(CheckpointError, match=r"config\.json is of another model than"):
        load_model(tmp_path / "a")


def test_weights_of_another_dtype_or_model_leave_a_module_as_it_was(tmp_path):
    save_model(tmp_path, made(seed=1).to(torch.float64), {})
    model = made(seed=2)
    before = weights_hash(model)
    with pytest.raises(CheckpointError, match=r"float64 there and .* float32 here"):
        load_weights(tmp_path, model)
    with pytest.raises(CheckpointError, match="is of another model"):
        load_weights(tmp_path, Own())
    assert weights_hash(model) == before


def test_what_cannot_be_kept_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keeps JSON values: Out of range float"):
        save_model(tmp_path, made(), {"loss": float("nan")})
    with pytest.raises(ValueError, match=r"keeps JSON values: .*set"):
        save_model(tmp_path, made(), {"loss": {1}})
    with pytest.raises(ValueError, match="must have a '/', not 'x'"):
        save_model(tmp_path, made(), {}, {"x": torch.ones(1)})

    class Odd(torch.nn.Module):
        def get_extra_state(self):
            return "text"

    with pytest.raises(ValueError, match="_extra_state of the module's state is a str, not a tensor"):
        save_model(tmp_path, Odd(), {})
    with pytest.raises(ValueError, match="must not have a '/': a/b"):
        save_model(tmp_path, torch.nn.ModuleDict({"a/b": torch.nn.Linear(1, 1)}), {})
    assert list(tmp_path.iterdir()) == []
