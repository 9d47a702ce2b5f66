"""What a suite means: its cases, one for each task × engine × length × seed, made without running them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ngram_copy.engines import ENGINES
from ngram_copy.engines.base import Engine
from ngram_copy.engines.foreign import ForeignEngine
from ngram_copy.engines.huggingface import HuggingFaceEngine
from ngram_copy.engines.own import content_hash
from ngram_copy.engines.trained import shape_of
from ngram_copy.results import SCHEMA, canonical_json
from ngram_copy.statistics import STATISTICS, Row, Statistic
from ngram_copy.suite.options import SuiteError, check_options, one_line, options_of, signature_of
from ngram_copy.suite.schema import AXES, File, Statistics, make_statistic
from ngram_copy.tasks.base import Batch, Task, TextTask

if typing.TYPE_CHECKING:
    from ngram_copy.train import Training


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
    _file: File
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
            raise SuiteError(f"the model fits no case: {reasons[engine]}")
        for statistic in self._file.statistics:
            made = make_statistic(statistic)
            seeds = statistic.seeds if seed is None else [seed]
            axes = [getattr(statistic, axis) if axis in made.axes else [None] for axis in AXES]
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
            raise SuiteError(f"{engine} on {task}: {one_line(error)}") from error

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
            description={"suite": self.name, **determines, "task": described(task), "label": engine},
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
        self, entry: Statistics, task: str, engine: str | None, n: int | None, length: int | None, seed: int
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
        made = make_statistic(entry)
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
            "task": described(task),
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


def described(task: Task) -> dict[str, Any]:
    """A task as records tell it: its name and all options."""
    return {"name": task.name, **options_of(task)}


@functools.lru_cache(maxsize=64)
def first_example(task: Task, length: int, seed: int) -> Batch:
    """Example 0 of the split ``test``, a batch of one."""
    return task.batch(length, seed=seed, split="test", start=0, count=1)


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
