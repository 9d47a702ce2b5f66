"""Models by name: the table ``[models.X]`` of a suite as a ``ModelConfig``, presets, and widths that match a size.

A table, in TOML::

    preset = "tiny"           # of PRESETS; what stands beside it overrides it
    mixer = "attention"       # of all layers; or pattern = "MMMA", a letter a layer (Mixer.letter)
    n_layers = 2              # a pattern is repeated; by default it stands once
    d_model = 64
    mlp = 256                 # width of the MLPs, 0: none; a list has one for each layer
    norm = "layer"            # and whatever else ModelConfig has
    [models.X.attention]      # options of a mixer
    n_heads = 12

or, where layers differ in more than that, each of them: ``layers = [{mixer = "mamba", options = {…}, mlp = 0}, …]``.
"""

from __future__ import annotations

import bisect
import difflib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ngram_copy.models import MIXERS, LanguageModel, LayerConfig, ModelConfig

Table = Mapping[str, Any]


def _heads(n_heads: int, n_hard: int, **options: Any) -> Table:
    """Options of Hard-ALiBi: ``n_hard`` heads, of which head i sees i + 1 tokens, and others that see all."""
    windows = [*range(1, n_hard + 1), *[0] * (n_heads - n_hard)]
    return {"n_heads": n_heads, "positions": "hard-alibi", "windows": windows, **options}


PRESETS: dict[str, dict[str, Table]] = {
    # Learns to copy in a minute on one core (the recurrent ones, short strings).
    "tiny": {
        "any": {"n_layers": 2, "d_model": 64},
        "attention": {"attention": _heads(12, 6, head_dim=16)},
        "mamba2": {"mamba2": {"d_state": 16, "head_dim": 16}},
        "gla": {"gla": {"conv_size": 4}},
        "lstm": {"d_model": 128},
        "gru": {"d_model": 128},
    },
    # For a GPU of any size, or an hour of a CPU. A Mamba layer stands for half of a layer with an MLP.
    "small": {
        "any": {"n_layers": 4, "d_model": 256, "mlp": 1024},
        "attention": {"attention": _heads(8, 4)},
        "mamba": {"n_layers": 8, "mlp": 0},
        "mamba2": {"n_layers": 8, "mlp": 0, "mamba2": {"d_state": 64, "head_dim": 32}},
        "gla": {"gla": {"conv_size": 4}},
        "lstm": {"mlp": 0},
        "gru": {"mlp": 0},
    },
    # "Repeat After Me" (Jelassi et al. 2024, arXiv 2402.01032) and its code: a GPT-NeoX with 8 of 16 heads hard-masked;
    # Mamba with d_state 32, in 24 layers, which make the 160M parameters that all have; an LSTM of 4 layers (34M),
    # theirs with dropout and without norms and residuals. The others are ours, after these.
    "paper": {
        "any": {"n_layers": 12, "d_model": 1024, "mlp": 4096, "norm": "layer"},
        "attention": {
            "attention": _heads(16, 8, rope_dim=16, qkv_bias=True, out_bias=True),
            "mlp_bias": True,
            "parallel_residual": True,
        },
        "mamba": {"n_layers": 24, "mlp": 0, "mamba": {"d_state": 32}},
        "mamba2": {"n_layers": 24, "mlp": 0},
        "lstm": {"n_layers": 4, "mlp": 0},
        "gru": {"n_layers": 4, "mlp": 0},
    },
}
"""Name → mixer → a table; what a mixer lacks there is in ``"any"``.

In a pattern each mixer has its own options and MLP, and the rest is that of the first letter's mixer.
"""

SHAPE = ("mixer", "pattern", "n_layers", "mlp")
"""What a table says of its layers where it does not list them."""
_FIELDS = {
    name: hint for name, hint in typing.get_type_hints(ModelConfig).items() if name not in {"vocab_size", "layers"}
}


def model_config(vocab_size: int, options: Table) -> ModelConfig:
    """Read a table; see the top of this file.

    Parameters
    ----------
    vocab_size : int
    options : mapping of str to JSON values

    Returns
    -------
    ModelConfig
        Of a model that can be made. The options of its mixers are all there, defaults too.

    Raises
    ------
    ValueError
        If a key is unknown or missing, a value is not allowed, or keys contradict each other; the text is one line.
    """
    _require_known(options, ["preset", *SHAPE, "layers", *_FIELDS, *MIXERS], "option")
    if "layers" in options:
        for name in options:
            if name in SHAPE or name in MIXERS or name == "preset":
                raise ValueError(f"layers says all of each layer: {name} cannot stand beside it")
        table, layers = options, _listed_layers(options["layers"])
    else:
        table, layers = _repeated_layers(options)
    if "d_model" not in table:
        raise ValueError("d_model is missing (a preset has one)")
    for name in _FIELDS.keys() & table.keys():
        _require_type(name, table[name], _FIELDS[name])
    config = ModelConfig(vocab_size, layers=tuple(layers), **{name: table[name] for name in _FIELDS if name in table})
    measure(config)  # makes the layers
    return config


def _repeated_layers(options: Table) -> tuple[Table, list[LayerConfig]]:
    """The table with its preset's values, and the layers, of one that names a mixer or a pattern."""
    pattern = _pattern(options)
    preset = {mixer: _preset(options["preset"], mixer) if "preset" in options else {} for mixer in pattern}
    for name in MIXERS.keys() & options.keys():
        if name not in pattern:
            raise ValueError(f"options of {name}, which is not in this model")
    table = {**preset[pattern[0]], **options}
    # A pattern says how many layers there are, if nothing beside it does.
    n_layers = options.get("n_layers", len(pattern)) if "pattern" in options else table.get("n_layers")
    if n_layers is None:
        raise ValueError("n_layers is missing (a preset has one)")
    _require_type("n_layers", n_layers, int)
    if n_layers < 1 or n_layers % len(pattern):
        raise ValueError(f"n_layers must be at least 1 and a multiple of the pattern's {len(pattern)}, not {n_layers}")
    mlps = options.get("mlp")
    _require_type("mlp", mlps, int | Sequence[int] | None)
    if isinstance(mlps, Sequence) and len(mlps) != n_layers:
        raise ValueError(f"mlp must be one width or {n_layers}, one for each layer; not {len(mlps)}")
    layers = []
    for index in range(n_layers):
        mixer = pattern[index % len(pattern)]
        mlp = preset[mixer].get("mlp", 0) if mlps is None else mlps if isinstance(mlps, int) else mlps[index]
        own = options.get(mixer, {})
        layers.append(LayerConfig(mixer, _mixer_options(mixer, own, preset[mixer].get(mixer, {})), mlp))
    return table, layers


def _pattern(options: Table) -> list[str]:
    """Mixers of the layers, before they are repeated."""
    if ("mixer" in options) == ("pattern" in options):
        raise ValueError("a model needs a mixer or a pattern" + (", not both" if "mixer" in options else ""))
    if "mixer" in options:
        _require_known([options["mixer"]], MIXERS, "mixer")
        return [options["mixer"]]
    _require_type("pattern", options["pattern"], str)
    letters = {mixer.letter: name for name, mixer in MIXERS.items()}
    unknown = [letter for letter in options["pattern"] if letter not in letters]
    if unknown or not options["pattern"]:
        known = ", ".join(f"{letter} ({name})" for letter, name in letters.items())
        raise ValueError(f"pattern must be made of {known}; not {options['pattern']!r}")
    return [letters[letter] for letter in options["pattern"]]


def _preset(name: str, mixer: str) -> Table:
    _require_known([name], PRESETS, "preset")
    return {**PRESETS[name]["any"], **PRESETS[name].get(mixer, {})}


def _listed_layers(layers: Any) -> list[LayerConfig]:
    """Layers that a table lists one by one."""
    _require_type("layers", layers, Sequence[Mapping[str, Any]])
    made = []
    for index, layer in enumerate(layers):
        where = f"layers[{index}]"
        _require_known(layer, ["mixer", "options", "mlp"], f"{where} key")
        if "mixer" not in layer:
            raise ValueError(f"{where}.mixer is missing")
        _require_known([layer["mixer"]], MIXERS, f"{where} mixer")
        _require_type(f"{where}.mlp", layer.get("mlp", 0), int)
        options = _mixer_options(layer["mixer"], layer.get("options", {}), {})
        made.append(LayerConfig(layer["mixer"], options, layer.get("mlp", 0)))
    return made


def _mixer_options(mixer: str, own: Any, preset: Table) -> dict[str, Any]:
    """All options of a mixer: its defaults, the preset's, and its own."""
    _require_type(mixer, own, Mapping[str, Any])
    known = _options(mixer)
    _require_known(own, known, f"{mixer} option")
    for name, value in own.items():
        _require_type(f"{mixer}.{name}", value, known[name][1])
    if own.get("positions", preset.get("positions")) != preset.get("positions"):
        preset = {name: value for name, value in preset.items() if name != "windows"}  # they are its positions'
    merged = {**{name: default for name, (default, _) in known.items()}, **preset, **own}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in merged.items()}


# --- Sizes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """How large a model is.

    Attributes
    ----------
    parameters : int
        Numbers that are learned.
    state : int
        Numbers in the state of one row.
    """

    parameters: int
    state: int


def measure(config: ModelConfig, length: int = 0) -> Size:
    """Sizes of a model, without memory for it.

    Parameters
    ----------
    config : ModelConfig
    length : int
        Tokens after which the state is measured.

    Raises
    ------
    ValueError
        If such a model cannot be made; the text says why.
    """
    kinds: list[LayerConfig] = []
    for layer in config.layers:
        if layer not in kinds:
            kinds.append(layer)
    try:
        with torch.device("meta"):
            model = LanguageModel(replace(config, layers=kinds))
    except RuntimeError as error:  # more numbers than torch can count
        raise ValueError(f"no such model can be made: {str(error).splitlines()[0]}") from error
    blocks = [sum(one.numel() for one in block.parameters()) for block in model.blocks]
    states = [mixer.state_size(length) for mixer in model.mixers()]
    each = [kinds.index(layer) for layer in config.layers]
    rest = model.parameter_count() - sum(blocks)
    return Size(rest + sum(blocks[kind] for kind in each), sum(states[kind] for kind in each))


STATE_WIDTHS = ("d_hidden", "head_dim", "d_state")
"""Options of mixers that ``match_state`` tries where d_model does not change the state."""
MAX_WIDTH = 2**20


def match_state(bits: int, options: Table, vocab_size: int, length: int, width: str | None = None) -> dict[str, Any]:
    """Solve a width such that a model's state has a given size.

    Parameters
    ----------
    bits : int
        Of the state in float32.
    options : mapping
        A table as ``model_config`` takes it, of such a model of any size.
    vocab_size, length : int
        A cache of keys grows: its size is taken after ``length`` tokens.
    width : str, optional
        What is changed: ``"d_model"``, or an option of a mixer such as ``"attention.head_dim"``. By default d_model; if
        the state does not depend on it, the first of ``STATE_WIDTHS`` that the mixers have and that it depends on.

    Returns
    -------
    dict
        The table with the largest width whose state has no more bits. Where d_model changes, the widths of MLPs keep
        their ratio to it; all else stays.

    Raises
    ------
    ValueError
        If the table is wrong, the state does not depend on the width, or no width is small or large enough.
    """
    config = model_config(vocab_size, options)
    mixers = dict.fromkeys(layer.mixer for layer in config.layers)
    others = [f"{mixer}.{name}" for name in STATE_WIDTHS for mixer in mixers if name in _options(mixer)]
    for one in ["d_model", *others] if width is None else [width]:
        found = _solve(options, config, one, bits, lambda made: 32 * measure(made, length).state, "bits of state")
        if found is not None:
            return found
    raise ValueError(f"the state after {length} tokens does not depend on {width or 'any width'}")


def match_params(n: int, options: Table, vocab_size: int, width: str = "d_model") -> dict[str, Any]:
    """Solve a width such that a model has a given number of parameters.

    Parameters
    ----------
    n : int
    options, vocab_size, width
        As for ``match_state``.

    Returns
    -------
    dict
        The table with the largest width that gives no more than ``n`` parameters.

    Raises
    ------
    ValueError
        As ``match_state``.
    """
    config = model_config(vocab_size, options)
    found = _solve(options, config, width, n, lambda made: measure(made).parameters, "parameters")
    if found is None:
        raise ValueError(f"the number of parameters does not depend on {width}")
    return found


def _solve(
    options: Table, config: ModelConfig, width: str, wanted: int, size: Callable[[ModelConfig], int], what: str
) -> dict[str, Any] | None:
    """The table with the largest width of a size up to ``wanted``; None if the size does not depend on it."""
    own = _width(config, width)

    @functools.cache
    def size_at(value: int) -> int | None:
        try:
            return size(model_config(config.vocab_size, _with_width(options, config, width, value)))
        except ValueError:  # heads that do not divide it
            return None

    # What is asked of a width is what divides it: so where own and own + stride can be made, all can by strides.
    stride = next((stride for stride in range(1, own + 1) if size_at(own + stride) is not None), own)
    if size_at(own) == size_at(own + stride):
        return None
    widths = range(own % stride or stride, MAX_WIDTH + 1, stride)
    place = bisect.bisect_right(widths, wanted, key=lambda value: size_at(value) or 0)
    if place == len(widths):
        raise ValueError(f"{wanted} {what} are more than {width} = {widths[-1]} gives")
    if place == 0 or size_at(widths[place - 1]) is None:
        least = next(value for value in widths[place:] if size_at(value) is not None)
        raise ValueError(f"{wanted} {what} are too few: with {width} = {least} there are {size_at(least)}")
    return _with_width(options, config, width, widths[place - 1])


def _width(config: ModelConfig, width: str) -> int:
    """What a width is now."""
    if width == "d_model":
        return config.d_model
    mixer, _, option = width.partition(".")
    layer = next((layer for layer in config.layers if layer.mixer == mixer), None)
    if layer is None or option not in _options(mixer):
        raise ValueError(f"width must be d_model or an option of a mixer of this model, not {width!r}")
    with torch.device("meta"):  # what a default of None stands for, the mixer knows
        value = getattr(MIXERS[mixer](config.d_model, **layer.options), option, None)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{width} = {value!r} is not a width")
    return value


def _with_width(options: Table, config: ModelConfig, width: str, value: int) -> dict[str, Any]:
    """The table with another width."""
    if width == "d_model":
        mlps = [max(1, round(layer.mlp * value / config.d_model)) if layer.mlp else 0 for layer in config.layers]
        if "layers" in options:
            layers = [{**one, "mlp": mlp} for one, mlp in zip(options["layers"], mlps, strict=True)]
            return {**options, "d_model": value, "layers": layers}
        mlp = {"mlp": mlps[0] if len(set(mlps)) == 1 else mlps} if any(mlps) else {}
        return {**options, "d_model": value, **mlp}
    mixer, _, option = width.partition(".")
    if "layers" not in options:
        return {**options, mixer: {**options.get(mixer, {}), option: value}}
    changed = [
        {**one, "options": {**one.get("options", {}), option: value}} if one["mixer"] == mixer else one
        for one in options["layers"]
    ]
    return {**options, "layers": changed}


# --- Checks ---------------------------------------------------------------------------------------------


@functools.cache
def _options(mixer: str) -> dict[str, tuple[Any, Any]]:
    """Options of a mixer: name → default and type."""
    make = MIXERS[mixer].__init__
    hints = typing.get_type_hints(make)
    parameters = inspect.signature(make).parameters.values()
    return {one.name: (one.default, hints.get(one.name, Any)) for one in parameters if one.kind is one.KEYWORD_ONLY}


def _require_known(names: Iterable[Any], known: Iterable[str], what: str) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"unknown {what} {name!r}; {hint}(known: {', '.join(known)})")


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", types.NoneType: "nothing"}


def _require_type(name: str, value: Any, hint: Any) -> None:
    if not _fits(value, hint):
        raise ValueError(f"{name} must be {_words(hint)}, not {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in {types.UnionType, typing.Union}:
        return any(_fits(value, one) for one in inner)
    if origin is Sequence:
        return isinstance(value, list | tuple) and all(_fits(one, inner[0]) for one in value)
    if origin is Mapping:
        return isinstance(value, Mapping)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)


def _words(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in {types.UnionType, typing.Union}:
        return " or ".join(_words(one) for one in inner if one is not types.NoneType)
    if origin is Sequence:
        return f"a list, each {_words(inner[0])}"
    return "a table" if origin is Mapping else _WORDS.get(hint, str(hint))
