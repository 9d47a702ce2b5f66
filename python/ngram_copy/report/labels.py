"""How engines, tasks and numbers are named in a report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ngram_copy import score

Options = Mapping[str, Any]

_ALWAYS = {"n", "kept", "slots", "state_bits", "vocab_size", "source"}
_SHORT = {"vocab_size": "D"}


def labels(configurations: Iterable[Options]) -> dict[str, str]:
    """A short label for each configuration (by its full text): its name and what distinguishes it."""
    groups: dict[str, dict[str, Options]] = defaultdict(dict)
    for options in configurations:
        groups[family(options)][full_label(options)] = flat(options)
    found = {}
    for name, group in groups.items():
        values: dict[str, set[str]] = defaultdict(set)
        for options in group.values():
            for key in {key for other in group.values() for key in other}:
                values[key].add(str(options.get(key)))
        for full, options in group.items():
            parts = [
                option(key.rsplit(".", 1)[-1], value)
                for key, value in sorted(options.items(), key=lambda item: (item[0] not in _SHORT, item[0]))
                if key != "name" and value is not None and (key in _ALWAYS or len(values[key]) > 1)
            ]
            found[full] = " ".join([name, *parts])
    return found


def aliases(cases: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The suite's own names of the engines, where each stands for one configuration; else nothing."""
    pairs = {(full_label(case["engine"]), case.get("label")) for case in cases if case.get("engine")}
    unique = len({full for full, _ in pairs}) == len({label for _, label in pairs}) == len(pairs)
    return {full: str(label) for full, label in pairs} if unique and all(label for _, label in pairs) else {}


def in_order(cases: Iterable[Mapping[str, Any]]) -> list[str]:
    """Engines with all their options, each once, in the order of the legends."""
    found = {full_label(case["engine"]): case["engine"] for case in cases if case.get("engine")}
    return sorted(found, key=lambda full: natural(found[full]))


def option(key: str, value: Any) -> str:
    """An option for a label: its value alone where that says enough."""
    if isinstance(value, str):
        return value.rstrip("/").rsplit("/", 1)[-1]
    if isinstance(value, bool):
        return key if value else f"no_{key}"
    if isinstance(value, (list, tuple)):
        value = f"{value[0]}…{value[-1]}" if len(value) > 3 else ",".join(map(str, value))
    return f"{_SHORT.get(key, key)}={value}"


def full_label(options: Options) -> str:
    """A task or engine with all its options, as Python would write the call."""
    return f"{options['name']}({_arguments(options)})"


def _arguments(options: Options) -> str:
    return ", ".join(_argument(key, value) for key, value in sorted(options.items()) if key != "name")


def _argument(key: str, value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"{key}={value!r}"
    return f"{key}={full_label(value)}" if "name" in value else f"{key}({_arguments(value)})"


def flat(options: Options, above: str = "") -> dict[str, Any]:
    """Options whose tables are opened: ``{"model": {"mixer": "gru"}}`` is ``{"model.mixer": "gru"}``."""
    found: dict[str, Any] = {}
    for key, value in options.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


def family(options: Options) -> str:
    """The kind of an engine: its name; of a model its mixer, or the pattern of its mixers, or its file."""
    model = options.get("model")
    if not isinstance(model, Mapping):
        model = options if options["name"] in score.MODELS else {}
    if "bottleneck" in model:
        return "bottleneck"
    layers = [str(layer["mixer"]) for layer in model.get("layers") or [] if "mixer" in layer]
    file = option("", model["build"].rpartition(":")[0]).removesuffix(".py") if model.get("build") else ""
    return str("+".join(dict.fromkeys(layers)) or model.get("pattern") or model.get("mixer") or file or options["name"])


def natural(options: Options) -> tuple[Any, ...]:
    """Sort key: models last, the name, the kind, then options with numbers by their value."""
    rest = [
        (k, 0, v, "") if isinstance(v, (int, float)) else (k, 1, 0, str(v)) for k, v in sorted(flat(options).items())
    ]
    return (score.is_learned(options), str(options["name"]), family(options), rest)


def short_hash(data_hash: str) -> str:
    """The first twelve digits."""
    return data_hash.removeprefix("sha256:")[:12]


def number(value: float) -> str:
    """A number of bits or tokens for reading: three digits, thousands grouped."""
    if value == 0 or 0.01 <= abs(value) < 100:
        return f"{value:.3g}"
    if abs(value) < 0.01:
        return f"{value:.1e}"
    return f"{value:,.0f}"


def percent(value: float) -> str:
    """A share in percent; never rounded up to 100% nor down to 0% of something."""
    text = f"{100 * value:.1f}%"
    if text == "100.0%" and value < 1:
        return ">99.9%"
    if text == "0.0%" and value > 0:
        return "<0.1%"
    return text.replace(".0%", "%")
