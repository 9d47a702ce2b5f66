"""Suites: TOML files that say which tasks, engines, lengths and seeds are measured.

A suite expands to cases, one for each task × engine × length × seed; everything in it is checked by making
the tasks and engines before anything runs. ``docs/suites.md`` tells how to write one.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import inspect
import itertools
import json
import re
import tomllib
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ngram_copy.engines import ENGINES
from ngram_copy.engines.base import Engine
from ngram_copy.engines.foreign import ForeignEngine
from ngram_copy.engines.huggingface import HuggingFaceEngine
from ngram_copy.engines.own import content_hash
from ngram_copy.engines.trained import TrainedEngine, shape_of
from ngram_copy.results import SCHEMA, canonical_json
from ngram_copy.statistics import STATISTICS, Row, Statistic
from ngram_copy.tasks import TASKS
from ngram_copy.tasks.base import Batch, Task, TextTask

if typing.TYPE_CHECKING:
    from ngram_copy.train import Training


class SuiteError(ValueError):
    """A suite that cannot run; the text is one line that says where and why."""


# --- What a file may hold -------------------------------------------------------------------------------

_Lengths = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
_Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1)]
_Examples = Annotated[int, Field(ge=2, le=10**9)]  # an interval needs two; a result is kept of each
_Alias = Annotated[str, Field(pattern=r"^[^/\s]+$")]  # parts of a case's name
_Names = Annotated[list[str], Field(min_length=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Entry(_Table):
    tasks: _Names
    seeds: _Seeds = [0]
    examples: _Examples = 1000


class _Cases(_Entry):
    engines: _Names
    lengths: _Lengths


class _Statistics(_Entry):
    model_config = ConfigDict(extra="allow", strict=True)  # options of the statistic

    statistic: str
    engines: _Names | None = None
    n: Annotated[list[Annotated[int, Field(ge=1, le=2**16)]], Field(min_length=1)] | None = None
    lengths: _Lengths | None = None


class _File(_Table):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    description: str = ""
    include: list[str] = []
    tasks: dict[_Alias, dict[str, Any]] = {}
    models: dict[_Alias, dict[str, Any]] = {}
    training: dict[_Alias, dict[str, Any]] = {}
    engines: dict[_Alias, dict[str, Any]] = {}
    cases: list[_Cases] = []
    statistics: list[_Statistics] = []


# --- What a file means ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One row of a suite: what is measured, and the classes that measure it.

    Attributes
    ----------
    kind : {"accuracy", "statistic", "training"}
        What kind of record it gives.
    name : str
        ``task/engine/L/seed`` by the suite's aliases; ``task/repeats-n/L/seed`` for a statistic, with the engine before
        it, without n or L where its axes are others, and with ``-option=value`` for each option that is not the
        default; ``training/…`` for a training: for people and ``--only``.
    case_id : str
        16 hexadecimal digits of the SHA-256 of all that determines the result.
    description : dict
        The record's ``case``: JSON values.
    task : Task
        Makes the examples.
    provenance : dict
        ``task.provenance()``, part of the identity.
    length, seed, examples : int
        What is drawn from the task; of a statistic without lengths, 1.
    engine_name : str or None
        Key of ``ENGINES``; None for a statistic without engines.
    engine_options : dict
        All options of the engine, defaults included.
    statistic : Statistic or None
        What is measured, if not accuracy.
    n : int or None
        The n-gram length of a statistic that has it among its axes.
    validation : Task or None
        Of a training: what it is judged by while it lasts.
    trained_by : Case or None
        The training that must come before: an engine that learns is made from what that leaves.
    """

    kind: Literal["accuracy", "statistic", "training"]
    name: str
    case_id: str
    description: dict[str, Any]
    task: Task
    provenance: dict[str, Any]
    length: int
    seed: int
    examples: int
    engine_name: str | None = None
    engine_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    statistic: Statistic | None = dataclasses.field(default=None, compare=False)  # said by the description
    n: int | None = None
    validation: Task | None = None
    trained_by: Case | None = None

    @property
    def learned(self) -> bool:
        """Whether this is a training, or measures what one left."""
        return self.kind == "training" or self.trained_by is not None

    @property
    def apart(self) -> bool:
        """Whether it runs on one thread of a process of its own, as torch's floats depend on their number."""
        engine = None if self.engine_name is None else ENGINES[self.engine_name]
        return self.learned or any(one is not None and one.one_thread for one in (engine, self.statistic))

    def engine(self) -> Engine:
        """Make the engine of an accuracy case or a training, without what is learned."""
        if self.engine_name is None:
            raise ValueError(f"the case {self.name} is a statistic: it has no engine")
        make: Callable[..., Engine] = ENGINES[self.engine_name]
        return make(self.task.vocab, **self.engine_options)

    def row(self, engine: Engine | None) -> Row:
        """Where a statistic is measured; ``engine`` with what it learned."""
        axes = () if self.statistic is None else self.statistic.axes
        length = self.length if "lengths" in axes else None
        return Row(self.task, self.seed, self.examples, engine, self.n, length)

    def training(self) -> Training:
        """The options of a training."""
        from ngram_copy.train import Training

        tasks = {"task", "validation"}
        options = {name: value for name, value in self.engine_options["training"].items() if name not in tasks}
        return Training(**options)

    def check(self) -> None:
        """Make the engine and one example, so that an impossible case is found before the run.

        Raises
        ------
        SuiteError
            If the task cannot make such an example or the engine cannot answer it; the text names the case.
        """
        try:
            learned = self.task if self.trained_by is None else self.trained_by.task
            if learned.vocab != self.task.vocab:
                raise ValueError(
                    f"it learns {learned.vocab.size} tokens, and {self.task.name} has {self.task.vocab.size}"
                )
            engine = None if self.engine_name is None else self.engine()
            if self.statistic is not None:
                self.statistic.check(self.row(engine))
            elif engine is not None:
                _try(engine, self.task, first_example(self.task, self.length, self.seed))
        except (TypeError, ValueError, ArithmeticError, MemoryError) as error:
            raise SuiteError(f"the case {self.name} cannot run: {error}") from error


@dataclass(frozen=True)
class Suite:
    """A checked suite file.

    Attributes
    ----------
    name, description : str
        From the file.
    text : str
        The file as it was read.
    source : str
        Where it was read, for messages.
    """

    name: str
    description: str
    text: str
    source: str
    _file: _File
    _tasks: dict[str, Task]
    _engines: dict[str, tuple[str, dict[str, Any]]]
    _learned_from: dict[str, tuple[Task, Task]]
    _added: frozenset[str] = frozenset()

    def with_models(self, models: Sequence[str], *, pretrained: bool = False) -> Suite:
        """The suite with models of one's own in all its cases; ``cases`` leaves out those that do not fit.

        Parameters
        ----------
        models : sequence of str
            ``FILE.py:FUNCTION`` (see docs/your-model.md) or ``hf:PATH``.
        pretrained : bool
            Whether a model of a file is measured as it is. If not, it is trained like the suite's own, by each of their
            recipes; in a suite that trains nothing it is measured as it is.

        Raises
        ------
        SuiteError
            If a name is of neither kind, or two models have one name.
        """
        engines, learned_from = dict(self._engines), dict(self._learned_from)
        taken: set[str] = set()
        added: dict[str, set[str]] = {}  # the engine that a model stands beside (or ""), and its own aliases
        recipes: dict[str, str] = {}  # each recipe's first engine
        for like in () if pretrained else self._learned_from:
            recipes.setdefault(canonical_json(self._engines[like][1]["training"]), like)
        for model in models:
            path = model.removeprefix("hf:")
            alias = re.split(r"[/\\\s]+", path.removesuffix("/"))[-1]
            if alias in engines or alias in taken:
                raise SuiteError(f"--model {model}: another engine is called {alias}")
            taken.add(alias)
            if model.startswith("hf:"):
                engines[alias] = (
                    "huggingface",
                    check_options(ENGINES["huggingface"], {"path": path}, f"--model {model}"),
                )
                added.setdefault("", set()).add(alias)
            elif not recipes:
                engines[alias] = ("module", check_options(ENGINES["module"], {"build": path}, f"--model {model}"))
                added.setdefault("", set()).add(alias)
            else:
                for like in self._learned_from:
                    training = self._engines[like][1]["training"]
                    first = recipes[canonical_json(training)]
                    name = alias if len(recipes) == 1 else f"{alias}@{first}"
                    engines[name] = ("trained", {"model": {"build": path}, "training": training})
                    learned_from[name] = self._learned_from[like]
                    added.setdefault(like, set()).add(name)
        entries = [
            entry.model_copy(
                update={
                    "engines": [
                        *entry.engines,
                        *sorted(set().union(*(added.get(of, ()) for of in ["", *entry.engines]))),
                    ]
                }
            )
            for entry in self._file.cases
        ]
        file = self._file.model_copy(update={"cases": entries})
        new = frozenset(engines) - frozenset(self._engines)
        return dataclasses.replace(self, _file=file, _engines=engines, _learned_from=learned_from, _added=new)

    def cases(self, seed: int | None = None, unfit: list[str] | None = None) -> list[Case]:
        """All cases in the order of the file; a cell that is listed twice is run once.

        Parameters
        ----------
        seed : int, optional
            Replaces the seeds of the file.
        unfit : list of str, optional
            Takes why a model of ``with_models`` is left out of a case; without a list, that is an error.

        Raises
        ------
        SuiteError
            If a model cannot be made, or fits no case.
        """
        found: dict[str, Case] = {}
        reasons: dict[str, str] = {}
        fitting: set[str] = set()
        for entry in self._file.cases:
            seeds = entry.seeds if seed is None else [seed]
            for row in itertools.product(entry.tasks, entry.engines, entry.lengths, seeds):
                try:
                    case = self._accuracy(*row, entry.examples)
                    if row[1] in self._added:
                        case.check()
                except SuiteError as error:
                    if unfit is None or row[1] not in self._added:
                        raise
                    unfit.append(str(error))
                    reasons.setdefault(row[1], str(error))
                    continue
                fitting.add(row[1])
                if case.trained_by is not None:
                    self._add(found, case.trained_by)
                self._add(found, case)
        for engine in reasons.keys() - fitting:
            raise SuiteError(f"the model {engine} fits no case: {reasons[engine]}")
        for statistic in self._file.statistics:
            made = _make_statistic(statistic)
            seeds = statistic.seeds if seed is None else [seed]
            axes = [getattr(statistic, axis) if axis in made.axes else [None] for axis in _AXES]
            for task, engine, n, length, one in itertools.product(statistic.tasks, *axes, seeds):
                case = self._statistic(statistic, task, engine, n, length, one)
                if case.trained_by is not None:
                    self._add(found, case.trained_by)
                self._add(found, case)
        return list(found.values())

    def _add(self, found: dict[str, Case], case: Case) -> None:
        known = found.setdefault(case.case_id, case)
        if known.name != case.name:
            raise SuiteError(f"{self.source}: {known.name} and {case.name} are the same case under two names")

    def _accuracy(self, task: str, engine: str, length: int, seed: int, examples: int) -> Case:
        determines, rest = self._of_engine(task, engine, seed)
        name = f"{task}/{engine}/{length}/{seed}"
        return self._case("accuracy", name, determines, task, length, seed, examples, **rest)

    def _weights(self, task: str, engine: str) -> dict[str, Any]:
        """What a model from elsewhere is, beside its options."""
        name, options = self._engines[engine]
        make: Callable[..., Engine] = ENGINES[name]
        try:
            return make(self._tasks[task].vocab, **options).provenance()
        except ValueError as error:
            raise SuiteError(f"{engine} on {task}: {_one_line(error)}") from error

    def _training(self, engine: str, seed: int) -> Case:
        """What trains an engine; its length and examples are those of the strings that it learns from."""
        engine_name, options = self._engines[engine]
        task, validation = self._learned_from[engine]
        training = options["training"]
        provenance = task.provenance()
        determines = {"engine": {"name": engine_name, **options}, "seed": seed}
        identity = {"schema": SCHEMA, "kind": "training", "provenance": provenance, **determines}
        identity["model"] = expanded(options["model"], task)
        length = training["lengths"][-1]
        return Case(
            kind="training",
            name=f"training/{engine}/{length}/{seed}",
            case_id=_case_id(identity),
            description={"suite": self.name, **determines, "task": _described(task), "label": engine},
            task=task,
            provenance=provenance,
            length=length,
            seed=seed,
            examples=1,
            engine_name=engine_name,
            engine_options=options,
            validation=validation,
        )

    def _statistic(
        self, entry: _Statistics, task: str, engine: str | None, n: int | None, length: int | None, seed: int
    ) -> Case:
        options = dict(entry.model_extra or {})
        determines: dict[str, Any] = {"statistic": entry.statistic}
        if n is not None:
            determines["n"] = n
        if options:
            determines["options"] = options
        defaults = signature_of(STATISTICS[entry.statistic])
        chosen = [f"{key}={value}" for key, value in options.items() if value != defaults[key].default]
        measured = "-".join([entry.statistic, *([] if n is None else [str(n)]), *chosen])
        parts = [task, engine, measured, length, seed]
        name = "/".join(str(part) for part in parts if part is not None)
        made = _make_statistic(entry)
        rest: dict[str, Any] = {"label": task, "statistic": made, "n": n}
        if engine is not None:
            engine_determines, of_engine = self._of_engine(task, engine, seed)
            determines |= engine_determines
            rest |= of_engine
        return self._case("statistic", name, determines, task, length, seed, entry.examples, **rest)

    def _of_engine(self, task: str, engine: str, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """What an engine adds to what determines a case, and to the case."""
        engine_name, options = self._engines[engine]
        determines: dict[str, Any] = {"engine": {"name": engine_name, **options}}
        if issubclass(ENGINES[engine_name], ForeignEngine):
            determines["weights"] = self._weights(task, engine)
        training = self._training(engine, seed) if engine in self._learned_from else None
        if training is not None:
            determines["trained_by"] = training.case_id
        rest = {"label": engine, "engine_name": engine_name, "engine_options": options, "trained_by": training}
        return determines, rest

    def _case(
        self,
        kind: Literal["accuracy", "statistic"],
        name: str,
        determines: dict[str, Any],
        task_alias: str,
        length: int | None,
        seed: int,
        examples: int,
        *,
        label: str,
        **rest: Any,
    ) -> Case:
        task = self._tasks[task_alias]
        provenance = task.provenance()
        determines = {
            "task": _described(task),
            **determines,
            **({} if length is None else {"length": length}),
            "seed": seed,
            "examples": examples,
        }
        identity = {"schema": SCHEMA, "kind": kind, "provenance": provenance, **determines}
        return Case(
            kind=kind,
            name=name,
            case_id=_case_id(identity),
            description={"suite": self.name, **determines, "label": label},
            task=task,
            provenance=provenance,
            length=length or 1,
            seed=seed,
            examples=examples,
            **rest,
        )


def _try(engine: Engine, task: Task, batch: Batch) -> None:
    """Have an engine measure its state on an example."""
    if not isinstance(engine, HuggingFaceEngine) or not engine.reads_text:
        engine.state_bits(batch.prompts())
    elif isinstance(task, TextTask):
        engine.text_state_bits([task.render_text(batch, 0)])
    else:
        raise ValueError(f"the model takes text, by its own tokenizer, and the task {task.name} has none")


def _case_id(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]


def _described(task: Task) -> dict[str, Any]:
    return {"name": task.name, **options_of(task)}


@functools.lru_cache(maxsize=64)
def first_example(task: Task, length: int, seed: int) -> Batch:
    """Example 0 of the split ``test``, a batch of one."""
    return task.batch(length, seed=seed, split="test", start=0, count=1)


# --- Reading --------------------------------------------------------------------------------------------


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
        file = _File.model_validate(content)
    except ValidationError as error:
        raise SuiteError(f"{source}: {_first_problem(error, _File)}") from error
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
        _require_known(entry.tasks, tasks, f"{source}: cases[{index}].tasks", "task alias")
        _require_known(entry.engines, engines, f"{source}: cases[{index}].engines", "engine alias")
    for index, statistic in enumerate(file.statistics):
        where = f"{source}: statistics[{index}]"
        _require_known([statistic.statistic], STATISTICS, f"{where}.statistic", "statistic")
        _require_known(statistic.tasks, tasks, f"{where}.tasks", "task alias")
        _require_known(statistic.engines or [], engines, f"{where}.engines", "engine alias")
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
    _require_known([name], TASKS, where, "task")
    cls = TASKS[name]
    checked = check_options(cls, options, where)
    try:
        task = cls(**checked)
        task.provenance()  # reads the text of a text task
    except (TypeError, ValueError, OSError) as error:
        raise SuiteError(f"{where}: {_one_line(error)}") from error
    return task


def _make_statistic(entry: _Statistics) -> Statistic:
    make: Callable[..., Statistic] = STATISTICS[entry.statistic]
    return make(**(entry.model_extra or {}))


def _check_statistic(entry: _Statistics, where: str) -> None:
    """Hold the axes and the options of a statistic's table against its class, and fill the options' defaults in."""
    cls = STATISTICS[entry.statistic]
    axes: tuple[str, ...] = cls.axes
    known = [*(name for name in _Statistics.model_fields if name in axes or name not in _AXES), *signature_of(cls)]
    extra = dict(entry.model_extra or {})
    for key in [*extra, *(axis for axis in _AXES if axis not in axes and getattr(entry, axis) is not None)]:
        if key not in known:
            raise SuiteError(f"{where}.{key}: unknown key{did_you_mean(key, known)}")
    for axis in axes:
        if getattr(entry, axis) is None:
            raise SuiteError(f"{where}.{axis}: this key is missing: {entry.statistic} is measured for each of them")
    checked = check_options(cls, extra, where)
    try:
        cls(**checked)
    except (TypeError, ValueError) as error:
        raise SuiteError(f"{where}: {_one_line(error)}") from error
    entry.__pydantic_extra__ = checked


_AXES = ("engines", "n", "lengths")


def _learned(
    options: dict[str, Any], file: _File, tasks: Mapping[str, Task], where: str, source: str
) -> tuple[dict[str, Any], tuple[Task, Task]]:
    """The options of an engine that learns, its tables in their places; what it learns from, and is judged by."""
    _require_known(options, ["model", "training"], where, "option of trained")
    for key, known in (("model", file.models), ("training", file.training)):
        if key not in options:
            raise SuiteError(f"{where}: the option {key} is missing")
        _require_known([options[key]], known, f"{where}.{key}", f"[{key if key == 'training' else 'models'}.…] table")
    here = f"{source}: [training.{options['training']}]"
    table = dict(file.training[options["training"]])
    alias = table.pop("task", None)
    if alias is None:
        raise SuiteError(f"{here}: the key task is missing: the alias of the task to learn")
    validation = table.pop("validation", alias)
    _require_known([alias, validation], tasks, here, "task alias")
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
        raise SuiteError(f"{here}, [models.{options['model']}]: {_one_line(error)}") from error
    judged = {"task": _described(tasks[alias]), "validation": _described(tasks[validation])}
    training = {**judged, **json.loads(json.dumps(checked))}
    return {"model": file.models[options["model"]], "training": training}, (tasks[alias], tasks[validation])


def expanded(model: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """All that a model's table means, presets and defaults included: JSON values.

    Raises
    ------
    ValueError
        If an option is unknown or a size is not allowed.
    """
    from ngram_copy.models import ModelConfig
    from ngram_copy.models.bottleneck import BottleneckConfig

    shape = shape_of(model, task.vocab)
    return (
        shape.to_json()
        if isinstance(shape, ModelConfig | BottleneckConfig)
        else {**model, "file": content_hash(model["build"])}
    )


def _pop_name(table: dict[str, Any], key: str, known: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    if key not in table:
        raise SuiteError(f'{where}: the key {key} is missing, such as {key} = "{next(iter(known), "name")}"')
    name = table[key]
    if not isinstance(name, str):
        raise SuiteError(f"{where}.{key}: a name in quotes is needed, not {name!r}")
    _require_known([name], known, where, key)
    return name, {option: value for option, value in table.items() if option != key}


# --- Options of classes ---------------------------------------------------------------------------------


def options_of(task: Task) -> dict[str, Any]:
    """All options of a task, defaults included, as JSON values."""
    fields = dataclasses.fields(typing.cast(Any, task))
    options: dict[str, Any] = json.loads(
        json.dumps({field.name: getattr(task, field.name) for field in fields if field.init})
    )
    return options


def signature_of(cls: type[Any]) -> dict[str, inspect.Parameter]:
    """The options of a task's or an engine's class: its keyword arguments."""
    parameters = inspect.signature(cls).parameters
    return {name: parameter for name, parameter in parameters.items() if name != "vocab"}


def check_options(cls: type[Any], options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of a class with its defaults filled in, each checked against its annotation.

    Raises
    ------
    SuiteError
        If an option is unknown, missing or of another type.
    """
    parameters = signature_of(cls)
    _require_known(options, parameters, where, f"option of {getattr(cls, 'name', cls.__name__)}")
    hints = _hints(cls)
    checked = {}
    for name, parameter in parameters.items():
        if name not in options:
            if parameter.default is inspect.Parameter.empty:
                raise SuiteError(f"{where}: the option {name} is missing")
            checked[name] = parameter.default
            continue
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(hints.get(name, Any))
            checked[name] = adapter.validate_json(json.dumps(options[name]), strict=True)
        except TypeError as error:  # a TOML date
            raise SuiteError(f"{where}.{name}: {options[name]} is not a number, string, list or truth value") from error
        except ValidationError as error:
            problem = _pydantic_text(error.errors()[0]["msg"])
            raise SuiteError(f"{where}.{name}: {options[name]!r} {problem}") from error
    return checked


def _hints(cls: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(cls if dataclasses.is_dataclass(cls) else cls.__init__)


# --- Messages -------------------------------------------------------------------------------------------


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` where a name is near, and the list of all names that there are."""
    names = [str(one) for one in known]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{hint} (known: {', '.join(names) or 'none'})" if near else f"{hint} known: {', '.join(names) or 'none'}"


def _require_known(names: Iterable[str], known: Iterable[str], where: str, what: str) -> None:
    known = list(known)
    for name in names:
        if not isinstance(name, str):
            raise SuiteError(f"{where}: a name in quotes is needed, not {name!r}")
        if name not in known:
            raise SuiteError(f"{where}: unknown {what} {name!r}{did_you_mean(name, known)}")


def _pydantic_text(message: str) -> str:
    return message.removeprefix("Input ").replace("should ", "must ")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """The first of pydantic's findings as one line, with the number of the others."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    if problem["type"] == "extra_forbidden":
        text = f"unknown key{did_you_mean(str(problem['loc'][-1]), _model_at(model, problem['loc'][:-1]).model_fields)}"
    elif problem["type"] == "missing":
        text = "this key is missing"
    elif problem["type"] == "too_short":
        text = "must not be empty"
    else:
        text = f"{_pydantic_text(problem['msg'])}, not {problem['input']!r}"
    others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {text}{others}"


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """The model of the table that a location of a finding leads to: ``("cases", 0)`` → ``_Cases``."""
    tables: dict[str, type[BaseModel]] = {"cases": _Cases, "statistics": _Statistics}
    return tables.get(str(location[0]), model) if location else model
