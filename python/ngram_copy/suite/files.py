"""Reading suites: shipped ones and files, those that they include, and all that can be wrong with them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ngram_copy.engines import ENGINES
from ngram_copy.engines.trained import TrainedEngine
from ngram_copy.statistics import STATISTICS
from ngram_copy.suite.cases import Suite, described, expanded
from ngram_copy.suite.options import SuiteError, check_options, did_you_mean, one_line, require_known, signature_of
from ngram_copy.suite.schema import AXES, File, Statistics, first_problem
from ngram_copy.tasks import TASKS
from ngram_copy.tasks.base import Task


def shipped() -> dict[str, str]:
    """Names of the suites in the package and their descriptions."""
    found = {}
    for entry in sorted(resources.files("ngram_copy.suites").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml") and not entry.name.startswith("_"):  # those are for inclusion alone
            content = tomllib.loads(entry.read_text("utf-8"))
            found[entry.name.removesuffix(".toml")] = str(content.get("description", ""))
    return found


def load(name_or_path: str | Path) -> Suite:
    """Read and check a suite.

    Parameters
    ----------
    name_or_path : str or Path
        The name of a shipped suite, or a path (recognised by its ``.toml`` or a separator).

    Raises
    ------
    SuiteError
        If there is no such suite, or something in it is wrong; one line that says where.
    """
    return parse(*_read(name_or_path))


def _read(name_or_path: str | Path) -> tuple[str, str]:
    """A suite's text, and its name for messages."""
    source = str(name_or_path)
    if isinstance(name_or_path, Path) or source.endswith(".toml") or "/" in source or "\\" in source:
        try:
            return Path(name_or_path).read_text("utf-8"), source
        except OSError as error:
            raise SuiteError(f"cannot read the suite {source}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise SuiteError(f"{source}: not a TOML file: byte {error.start} is not UTF-8") from error
    names = list(shipped())
    sizes = [name.removeprefix(f"{source}-") for name in names if name.startswith(f"{source}-")]
    if source in names or source.startswith("_"):
        file = resources.files("ngram_copy.suites").joinpath(f"{source}.toml")
        if file.is_file():
            return file.read_text("utf-8"), f"{source}.toml"
    if sizes:
        raise SuiteError(f"the suite {source} comes in sizes: give --size {' or --size '.join(sizes)}")
    raise SuiteError(f"no suite {source!r}{did_you_mean(source, names)}; or give the path of a .toml file")


def parse(text: str, source: str = "suite.toml") -> Suite:
    """Check a suite's TOML text; ``source`` names it in messages.

    Raises
    ------
    SuiteError
        If the text is malformed (with its line), or names an unknown key, task, engine or option.
    """
    content = _with_includes(_tables(text, source), source, ())
    try:
        file = File.model_validate(content)
    except ValidationError as error:
        raise SuiteError(f"{source}: {first_problem(error, File)}") from error
    tasks = {alias: _make_task(alias, table, source) for alias, table in file.tasks.items()}
    engines: dict[str, tuple[str, dict[str, Any]]] = {}
    learned_from: dict[str, tuple[Task, Task]] = {}
    for alias, table in file.engines.items():
        where = f"{source}: [engines.{alias}]"
        name, options = _pop_name(table, "engine", ENGINES, where)
        if issubclass(ENGINES[name], TrainedEngine):
            options, learned_from[alias] = _learned(options, file, tasks, where, source)
        engines[alias] = (name, check_options(ENGINES[name], options, where))
    for index, entry in enumerate(file.cases):
        require_known(entry.tasks, tasks, f"{source}: cases[{index}].tasks", "task")
        require_known(entry.engines, engines, f"{source}: cases[{index}].engines", "engine")
    for index, statistic in enumerate(file.statistics):
        where = f"{source}: statistics[{index}]"
        require_known([statistic.statistic], STATISTICS, f"{where}.statistic", "statistic")
        require_known(statistic.tasks, tasks, f"{where}.tasks", "task")
        require_known(statistic.engines or [], engines, f"{where}.engines", "engine")
        _check_statistic(statistic, where)
    if not file.cases and not file.statistics:
        raise SuiteError(f"{source}: nothing to run: add a [[cases]] or a [[statistics]] table")
    return Suite(file.name, file.description, text, source, file, tasks, engines, learned_from)


def _tables(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SuiteError(f"{source}: {_with_line(str(error), text)}") from error


def _with_includes(content: dict[str, Any], source: str, within: tuple[str, ...]) -> dict[str, Any]:
    """What the suites that a file includes hold, then its own; a name stands for one thing alone."""
    included = content.get("include", [])
    if not isinstance(included, list) or not all(isinstance(name, str) for name in included):
        return content  # said by the check of the whole file
    merged: dict[str, Any] = {}
    for name in included:
        if name in within:
            raise SuiteError(f"{source}: {name} includes itself, by {' → '.join((*within, name))}")
        text, where = _read(name)
        _merge(merged, _with_includes(_tables(text, where), where, (*within, name)), f"{source}: include {name}")
    _merge(merged, content, source)
    return {**merged, **{key: content[key] for key in ("name", "description") if key in content}}


def _merge(into: dict[str, Any], content: Mapping[str, Any], where: str) -> None:
    for key, value in content.items():
        if key in {"name", "description", "include"}:
            continue
        if isinstance(value, list) and isinstance(into.get(key, []), list):
            into[key] = [*into.get(key, []), *value]
        elif isinstance(value, dict) and isinstance(into.get(key, {}), dict):
            for alias, table in value.items():
                if into.setdefault(key, {}).setdefault(alias, table) != table:
                    raise SuiteError(f"{where}: [{key}.{alias}] is another one in a suite that is included")
        else:
            into[key] = value


def _with_line(message: str, text: str) -> str:
    """Python 3.11's message at the end of a file names no line: add it."""
    return message.replace("(at end of document)", f"(at line {text.rstrip().count(chr(10)) + 1}, the end of the file)")


def _make_task(alias: str, table: dict[str, Any], source: str) -> Task:
    name, options = _pop_name(table, "task", TASKS, f"{source}: [tasks.{alias}]")
    return make_task(name, options, f"{source}: [tasks.{alias}]")


def make_task(name: str, options: Mapping[str, Any], where: str) -> Task:
    """Make the task ``name`` of its options; ``where`` begins the text of an error.

    Raises
    ------
    SuiteError
        If the name, an option or its value is not allowed.
    """
    require_known([name], TASKS, where, "task")
    cls = TASKS[name]
    checked = check_options(cls, options, where)
    try:
        task = cls(**checked)
        task.provenance()  # reads the text of a text task
    except (TypeError, ValueError, OSError) as error:
        raise SuiteError(f"{where}: {one_line(error)}") from error
    return task


def _check_statistic(entry: Statistics, where: str) -> None:
    """Hold the axes and the options of a statistic's table against its class, and fill the options' defaults in."""
    cls = STATISTICS[entry.statistic]
    axes: tuple[str, ...] = cls.axes
    known = [*(name for name in Statistics.model_fields if name in axes or name not in AXES), *signature_of(cls)]
    extra = dict(entry.model_extra or {})
    for key in [*extra, *(axis for axis in AXES if axis not in axes and getattr(entry, axis) is not None)]:
        if key not in known:
            raise SuiteError(f"{where}.{key}: unknown key{did_you_mean(key, known)}")
    for axis in axes:
        if getattr(entry, axis) is None:
            raise SuiteError(f"{where}.{axis}: this key is missing: {entry.statistic} is measured for each of them")
    checked = check_options(cls, extra, where)
    try:
        cls(**checked)
    except (TypeError, ValueError) as error:
        raise SuiteError(f"{where}: {one_line(error)}") from error
    entry.__pydantic_extra__ = checked


def _learned(
    options: dict[str, Any], file: File, tasks: Mapping[str, Task], where: str, source: str
) -> tuple[dict[str, Any], tuple[Task, Task]]:
    """The options of an engine that learns, its tables in their places; what it learns from, and is judged by."""
    require_known(options, ["model", "training"], where, "option of trained")
    for key, known in (("model", file.models), ("training", file.training)):
        if key not in options:
            raise SuiteError(f"{where}: the option {key} is missing")
        require_known([options[key]], known, f"{where}.{key}", f"[{key if key == 'training' else 'models'}.…] table")
    here = f"{source}: [training.{options['training']}]"
    table = dict(file.training[options["training"]])
    alias = table.pop("task", None)
    if alias is None:
        raise SuiteError(f"{here}: the key task is missing: the alias of the task to learn")
    validation = table.pop("validation", alias)
    require_known([alias, validation], tasks, here, "task")
    if tasks[alias].vocab != tasks[validation].vocab:
        raise SuiteError(f"{here}: {alias} and {validation} have different tokens")
    try:
        from ngram_copy.train import Training
    except ModuleNotFoundError as error:
        raise SuiteError(f"{source}: training a model needs {error.name}: pip install 'ngram-copy[torch]'") from error
    checked = check_options(Training, table, here)
    try:
        Training(**checked)
        expanded(file.models[options["model"]], tasks[alias])
    except (TypeError, ValueError) as error:
        raise SuiteError(f"{here}, [models.{options['model']}]: {one_line(error)}") from error
    judged = {"task": described(tasks[alias]), "validation": described(tasks[validation])}
    training = {**judged, **json.loads(json.dumps(checked))}
    return {"model": file.models[options["model"]], "training": training}, (tasks[alias], tasks[validation])


def _pop_name(table: dict[str, Any], key: str, known: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    if key not in table:
        raise SuiteError(f'{where}: the key {key} is missing, such as {key} = "{next(iter(known), "name")}"')
    name = table[key]
    if not isinstance(name, str):
        raise SuiteError(f"{where}.{key}: a name in quotes is needed, not {name!r}")
    require_known([name], known, where, key)
    return name, {option: value for option, value in table.items() if option != key}
