"""From arguments to a result: the checks, and the grid of rates."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ngram_copy._arguments import integer, real
from ngram_copy.models.base import LanguageModel, ModelConfig
from ngram_copy.models.checkpoint import named_tensors, save_model
from ngram_copy.models.machine import torch_threads
from ngram_copy.tasks.base import Task
from ngram_copy.train.data import first_example
from ngram_copy.train.loop import DivergedError, Meter, Progress, Run, Setting, read_last, summary_writer
from ngram_copy.train.machine import Interrupt, Team, TrainingError, own_random_state
from ngram_copy.train.options import Training

MakeModel = Callable[[int], nn.Module]
"""A model of one's own: from the number of tokens to a module from token ids to logits."""


@dataclass(frozen=True)
class TrainingResult:
    """What came of a training; ``to_json`` is a record's ``result``.

    Attributes
    ----------
    model : module
        Trained, in eval mode.
    data_hash : str
        SHA-256 over all that was trained on, a chain h ← SHA-256(h, examples and marks) over the steps: so it can be
        continued, and costs well under 1% of a step.
    lr : float
        The best of the grid.
    grid : list of dict
        ``{lr, correct, total, loss}`` of each: whole strings at the last evaluation, and the loss on them in nats a
        token; one that diverged has 0 correct, no loss, and ``diverged``: the step.
    steps, examples, tokens : int
        Trained on by the best.
    parameters : int
    losses : list of [int, float]
        Step and mean loss of the steps since the entry before.
    evaluations : list of [int, int, int, int]
        Step, examples seen, strings correct, strings in all.
    examples_to_solve : int or None
        Examples seen at the first of two evaluations in a row at 95%; None: unsolved.
    weights_hash : str
    train_lengths : list of int
        The least and the greatest.
    seconds : float
        That this call took.
    device : str
    """

    model: nn.Module = field(repr=False)
    data_hash: str
    lr: float
    grid: list[dict[str, Any]]
    steps: int
    examples: int
    tokens: int
    parameters: int
    losses: list[list[float]]
    evaluations: list[list[int]]
    examples_to_solve: int | None
    weights_hash: str
    train_lengths: list[int]
    seconds: float
    device: str

    def to_json(self) -> dict[str, Any]:
        """What depends on the case alone: all but the model, the time and the device."""
        apart = {"model", "seconds", "device"}
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in apart}


def train(
    config: ModelConfig | MakeModel,
    training: Training,
    task: Task,
    *,
    seed: int,
    folder: str | Path,
    validation: Task | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    device: str = "auto",
    checkpoint_seconds: float = 20.0,
    log_dir: str | Path | None = None,
) -> TrainingResult:
    """Train a model, or go on where the folder's training stopped; one that is finished is read.

    Ctrl-C ends the step, writes a checkpoint and raises KeyboardInterrupt; a second one does not wait.

    Parameters
    ----------
    config : ModelConfig, or callable from int to module
        The model's shape; or a function that makes a module of one's own for a number of tokens: from token ids
        (batch, seq_len) to logits (batch, seq_len, tokens), or to something with ``logits``.
    training : Training
    task : Task
        Its split "train" is trained on.
    seed : int
        Of the data and of the first weights, 0 … 2^63 - 1.
    folder : str or Path
        For the checkpoint; made if missing. See ``models/checkpoint.py``: ``load_model`` reads it at any time.
    validation : Task, optional
        Its split "validation" is evaluated; by default ``task``.
    on_progress : callable, optional
        Called after each step (on a GPU: every few).
    device : str
        "auto" (a CUDA GPU if there is one), "cpu", "cuda", "cuda:1", "mps", …
    checkpoint_seconds : float
        Between checkpoints.
    log_dir : str or Path, optional
        For TensorBoard, which must be installed.

    Raises
    ------
    ValueError
        If an argument is not allowed, the task cannot make such lengths, or model and task do not fit.
    CheckpointError
        If the folder holds another training, or a damaged checkpoint.
    TrainingError
        If the loss is not finite (of a grid: for all rates), or memory ran out.
    OSError
        If a checkpoint cannot be written.
    """
    began = time.perf_counter()
    folder = Path(folder)
    with torch_threads(training.threads):
        team = Team(device)
        with own_random_state(team.device), Interrupt() as interrupt:
            setting = _checked(config, training, task, validation or task, seed, team)
            if log_dir is not None:
                summary_writer()
            run = functools.partial(
                Run,
                setting,
                interrupt=interrupt,
                meter=Meter(on_progress, len(training.grid) * training.steps),
                checkpoint_seconds=real("checkpoint_seconds", checkpoint_seconds, 0),
                log_dir=None if log_dir is None else Path(log_dir),
            )
            if len(training.grid) == 1:
                result, model = run(folder, training.grid[0], setting.about).finish()
            else:
                result, model = _grid(setting, folder, run)
    model.eval()
    return TrainingResult(**result, model=model, seconds=time.perf_counter() - began, device=str(team.device))


def _checked(
    config: ModelConfig | MakeModel, training: Training, task: Task, validation: Task, seed: int, team: Team
) -> Setting:
    seed = integer("seed", seed, 0, 2**63)
    total = task.vocab.total
    if validation.vocab != task.vocab:
        raise ValueError(f"validation must have the task's {task.vocab.size} data tokens, not {validation.vocab.size}")
    sizes = [first_example(task, length, seed).tokens.shape[1] for length in training.lengths]
    first_example(validation, training.lengths[1], seed, "validation")
    name, room = ("context", training.context) if training.packing else ("tokens_per_step", training.tokens_per_step)
    if max(sizes) > room:
        raise ValueError(
            f"{name} = {room} has no room for an example of length {training.lengths[1]}: it has {max(sizes)} tokens"
        )
    if isinstance(config, ModelConfig):
        width = room if training.packing else max(sizes)
        if config.vocab_size != total:
            raise ValueError(f"the model has {config.vocab_size} tokens, and the task {total}")
        if 0 < config.max_positions < width - 1:
            raise ValueError(
                f"max_positions must be at least {width - 1} for these lengths, not {config.max_positions}"
            )
    elif isinstance(config, nn.Module) or not callable(config):
        raise ValueError(
            f"config must be a ModelConfig or a function that makes a module, not a {type(config).__name__}"
        )

    def build() -> nn.Module:
        """The model with its first weights, the same on every device."""
        torch.default_generator.manual_seed(seed)
        if team.device.type != "cpu":
            torch.get_device_module(team.device).manual_seed(seed)
        model = LanguageModel(config) if isinstance(config, ModelConfig) else config(total)
        if not isinstance(model, nn.Module):
            raise ValueError(f"config({total}) must make a torch module, not a {type(model).__name__}")
        return model

    about = {
        "model": config.to_json() if isinstance(config, ModelConfig) else _shapes(build()),
        "training": training.to_json(),
        "task": _described(task),
        "validation": _described(validation),
        "seed": seed,
    }
    return Setting(build, training, task, validation, seed, team, json.loads(json.dumps(about)))


def _described(task: Task) -> dict[str, Any]:
    return {"name": task.name, "identity": task.identity(), "provenance": task.provenance()}


def _shapes(model: nn.Module) -> dict[str, Any]:
    """What is known of a module of one's own."""
    shapes = {name: list(x.shape) for name, x in named_tensors(model).items()}
    digest = hashlib.sha256(json.dumps(shapes).encode()).hexdigest()
    return {"module": type(model).__qualname__, "tensors": len(shapes), "shapes": digest}


def _grid(setting: Setting, folder: Path, run: Callable[..., Run]) -> tuple[dict[str, Any], nn.Module]:
    """Train each rate in a folder of its own, and keep the best: most strings, then least loss, then first."""
    extra = read_last(folder, setting.about)
    if "result" in extra:
        return run(folder, setting.training.grid[0], setting.about).finish()
    rows: list[dict[str, Any]] = []
    best: tuple[dict[str, Any], nn.Module] | None = None
    diverged: DivergedError | None = None
    folders = [folder / f"lr-{lr!r}" for lr in setting.training.grid]
    for lr, beside in zip(setting.training.grid, folders, strict=True):
        about = {**setting.about, "training": {**setting.about["training"], "lr": [lr]}}
        try:
            result, model = run(beside, lr, about).finish()
        except DivergedError as error:
            diverged = error
            total = setting.training.eval_examples
            rows.append({"lr": lr, "correct": 0, "total": total, "loss": None, "diverged": error.step})
            continue
        rows += result["grid"]
        if best is None or _rank(result) < _rank(best[0]):
            best = result, model
    if best is None:
        raise TrainingError(
            f"the loss is not finite with any lr of {list(setting.training.grid)}: try less"
        ) from diverged
    best[0]["grid"] = rows
    if setting.team.writes:
        save_model(folder, best[1], {"about": setting.about, "result": best[0]})
        for one in folders:
            shutil.rmtree(one, ignore_errors=True)
    return best


def _rank(result: Mapping[str, Any]) -> tuple[int, float]:
    row = result["grid"][0]
    return -row["correct"], row["loss"]
