"""The training of one rate: steps, evaluations, checkpoints."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ngram_copy.models import LanguageModel
from ngram_copy.models.checkpoint import (
    WEIGHTS,
    CheckpointError,
    load_weights,
    read_extra,
    read_tensors,
    save_model,
    weights_hash,
)
from ngram_copy.tasks.base import Task
from ngram_copy.train.data import Piece, Seen, Stream
from ngram_copy.train.evaluation import evaluate, examples_to_solve, logits_of
from ngram_copy.train.machine import Interrupt, Team, TrainingError, memory
from ngram_copy.train.options import Training

_POINTS = 100  # of the loss curve that is kept
_GPU_CHECK = 20  # steps between looks at losses that lie on a GPU


@dataclass(frozen=True)
class Setting:
    """Checked arguments of ``train``."""

    build: Callable[[], nn.Module]
    training: Training
    task: Task
    validation: Task
    seed: int
    team: Team
    about: dict[str, Any]
    """All that determines the result, as JSON: a folder of another training is refused."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    Attributes
    ----------
    step, steps : int
        Done and in all, over all rates of a grid.
    loss : float
        Of the last step, in nats a token.
    exact_match : float or None
        Share of whole strings at the last evaluation.
    examples : int
        Seen by this rate.
    tokens_per_second : float
        Of examples, since the first step of this call.
    seconds_left : float
    lr : float
        Which rate of the grid.
    """

    step: int
    steps: int
    loss: float
    exact_match: float | None
    examples: int
    tokens_per_second: float
    seconds_left: float
    lr: float


class Run:
    """The training of one rate of the grid.

    Parameters
    ----------
    setting : Setting
    folder : Path
    lr : float
    about : dict
        The setting's, of this rate alone.
    interrupt, meter, checkpoint_seconds, log_dir
        See ``train``.
    """

    def __init__(
        self,
        setting: Setting,
        folder: Path,
        lr: float,
        about: dict[str, Any],
        *,
        interrupt: Interrupt,
        meter: Meter,
        checkpoint_seconds: float,
        log_dir: Path | None,
    ) -> None:
        self._setting, self._folder, self._lr, self._about = setting, folder, lr, about
        self._interrupt, self._meter = interrupt, meter
        self._checkpoint_seconds, self._log_dir = checkpoint_seconds, log_dir
        self._training, self._team = setting.training, setting.team

    def finish(self) -> tuple[dict[str, Any], nn.Module]:
        """Train to the end: the fields of the result, and the model."""
        training, team = self._training, self._team
        extra = read_last(self._folder, self._about)
        self._model = self._setting.build()
        if "result" in extra:
            load_weights(self._folder, self._model)
            self._meter.advance(training.steps)
            return extra["result"], self._model.to(team.device)
        self._model.to(team.device).train()
        self._parameters = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        self._optimizer = self._adamw()
        self._seen = self._restore(extra) if extra else Seen()
        self._meter.advance(self._seen.step)
        team.wait()  # all have read before the first writes
        self._wrapped = team.wrap(self._model)
        self._is_ours = isinstance(self._model, LanguageModel)
        self._stream = Stream(self._setting.task, training, self._setting.seed)
        self._unread: list[tuple[int, Tensor]] = []
        saved = time.monotonic()
        with self._log() as log:
            while self._seen.step < training.steps and not (training.stop_when_solved and self._solved()):
                loss = self._step()
                if self._evaluation_is_due():
                    self._evaluate()
                    log("exact match", self._seen.evaluations[-1][2] / self._seen.evaluations[-1][3])
                if loss is not None:
                    log("loss", loss)
                    self._meter.report(self._seen, loss, self._lr)
                if self._interrupt.asked or time.monotonic() - saved >= self._checkpoint_seconds:
                    self._save_running()
                    saved = time.monotonic()
                if self._interrupt.asked:
                    raise KeyboardInterrupt
        self._meter.advance(training.steps - self._seen.step)
        result = self._result()
        self._save({"result": result}, running=False)
        return result, self._model

    # --- a step ---

    def _step(self) -> float | None:
        """One update. Returns the loss where it was looked at: on a GPU every few steps, as a look waits for it."""
        seen = self._seen
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr * self._training.rate(seen.step)
        before = seen.tokens
        piece = self._stream.draw(seen.step, seen)
        with memory(f"at step {seen.step + 1}: {piece}"):
            loss = self._update(piece)
        seen.step += 1
        self._meter.advance(1, tokens=seen.tokens - before)
        self._unread.append((seen.step, loss))
        if self._team.device.type == "cpu" or len(self._unread) == _GPU_CHECK or self._must_look():
            return self._look()
        return None

    def _must_look(self) -> bool:
        return self._evaluation_is_due() or self._interrupt.asked

    def _update(self, piece: Piece) -> Tensor:
        """Mean loss over the answers' tokens, after an update by its gradient."""
        team = self._team
        self._optimizer.zero_grad(set_to_none=True)
        count = int(piece.answer.sum())
        total = torch.zeros((), device=team.device)
        mine = np.arange(team.rank, len(piece.tokens), team.count)
        parts = min(self._training.accumulation, -(-len(piece.tokens) // team.count))
        for number, rows in enumerate(np.array_split(mine, parts), 1):
            with team.apart(self._wrapped) if number < parts else contextlib.nullcontext():
                loss = self._nats(piece, rows)
                # Processes average their gradients: theirs are shares of the sum.
                (loss * (team.count / count)).backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        if self._training.clip:
            nn.utils.clip_grad_norm_(self._parameters.values(), self._training.clip)
        self._optimizer.step()
        return team.sum(total) / count

    def _nats(self, piece: Piece, rows: NDArray[np.intp]) -> Tensor:
        """-Σ ln q over the answers' tokens of some rows."""
        device = self._team.device
        tokens, answer = piece.tokens[rows], piece.answer[rows]
        if not len(rows):  # another process has more: all must go backward equally often
            tokens, answer = piece.tokens[:1], np.zeros_like(piece.answer[:1])
        # Column c predicts the token at c + 1; the first that counts, in any row, is the first that is asked for.
        first = int(np.flatnonzero(piece.answer.any(0))[0]) - 1
        where = torch.from_numpy(np.flatnonzero(answer[:, first + 1 :])).to(device)
        true = torch.from_numpy(tokens[:, 1:][answer[:, 1:]]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._training.precision == "bfloat16"):
            seen = torch.from_numpy(tokens[:, :-1]).to(device)
            logits = logits_of(self._wrapped, seen, self._setting.task, first if self._is_ours else 0)
            logits = logits if self._is_ours else logits[:, first:]
        return functional.cross_entropy(logits.flatten(0, 1)[where].float(), true, reduction="sum")

    def _look(self) -> float:
        """Losses of the steps since the last look; the last one is returned."""
        values = torch.stack([loss for _, loss in self._unread]).tolist()
        width = -(-self._training.steps // _POINTS)
        for (step, _), loss in zip(self._unread, values, strict=True):
            self._check(math.isfinite(loss), step)
            self._seen.window.append(loss)
            if step % width == 0 or step == self._training.steps:
                self._seen.losses.append([step, sum(self._seen.window) / len(self._seen.window)])
                self._seen.window.clear()
        self._unread.clear()
        last: float = values[-1]
        return last

    def _check(self, good: bool, step: int) -> None:
        if good:
            return
        kept = read_last(self._folder, self._about).get("seen", {}).get("step")
        stays = (
            "there is no checkpoint yet" if kept is None else f"the checkpoint of step {kept} stays in {self._folder}"
        )
        raise DivergedError(step, f"the loss is not finite at step {step} with lr = {self._lr:g}: try less; {stays}")

    # --- evaluation ---

    def _evaluation_is_due(self) -> bool:
        every, step = self._training.eval_every, self._seen.step
        return step == self._training.steps or bool(every and step % every == 0)

    def _evaluate(self) -> None:
        """Whole strings of the split "validation", teacher-forced."""
        training, seen = self._training, self._seen
        total, length = training.eval_examples, training.lengths[1]
        self._model.eval()
        with memory(f"in the evaluation at step {seen.step}: {total} strings of L = {length}"):
            correct, loss = evaluate(self._model, self._setting.validation, length, self._setting.seed, total)
        self._model.train()
        correct, loss = self._team.agree((correct, loss))
        self._check(math.isfinite(loss), seen.step)
        seen.evaluations.append([seen.step, seen.examples, correct, total])
        seen.validation_loss = loss

    def _solved(self) -> bool:
        return examples_to_solve(self._seen.evaluations) is not None

    def _result(self) -> dict[str, Any]:
        """The fields of ``TrainingResult`` that depend on the case alone."""
        seen = self._seen
        if seen.window:
            seen.losses.append([seen.step, sum(seen.window) / len(seen.window)])
        _, _, correct, total = seen.evaluations[-1]
        return {
            "data_hash": f"sha256:{seen.data_hash}",
            "lr": self._lr,
            "grid": [{"lr": self._lr, "correct": correct, "total": total, "loss": seen.validation_loss}],
            "steps": seen.step,
            "examples": seen.examples,
            "tokens": seen.tokens,
            "parameters": sum(parameter.numel() for parameter in self._model.parameters()),
            "losses": seen.losses,
            "evaluations": seen.evaluations,
            "examples_to_solve": examples_to_solve(seen.evaluations),
            "weights_hash": weights_hash(self._model),
            "train_lengths": list(self._training.lengths),
        }

    # --- the optimiser and the checkpoint ---

    def _adamw(self) -> torch.optim.AdamW:
        training = self._training
        matrices = [p for p in self._parameters.values() if p.dim() > 1]
        others = [p for p in self._parameters.values() if p.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self._lr,
            betas=(training.betas[0], training.betas[1]),
            fused=self._team.device.type in {"cpu", "cuda"},
        )

    def _save_running(self) -> None:
        """Write where the training stands, all losses read."""
        if self._unread:
            self._look()
        self._save({"seen": asdict(self._seen)}, running=True)

    def _save(self, extra: dict[str, Any], *, running: bool) -> None:
        """Write a checkpoint, if the weights are worth keeping; the optimiser's state while it runs."""
        if self._unread:
            self._look()
        finite = all(bool(torch.isfinite(parameter).all()) for parameter in self._parameters.values())
        self._check(finite, self._seen.step)
        if not self._team.writes:
            return
        tensors = {}
        if running:
            tensors["random/cpu"] = torch.get_rng_state()
            if self._team.device.type != "cpu":
                tensors["random/device"] = torch.get_device_module(self._team.device).get_rng_state(self._team.device)
            for name, parameter in self._parameters.items():
                for key, value in self._optimizer.state[parameter].items():
                    tensors[f"adamw/{key}/{name}"] = value
        save_model(self._folder, self._model, {"about": self._about, **extra}, tensors)

    def _restore(self, extra: dict[str, Any]) -> Seen:
        """Undo ``_save``."""
        load_weights(self._folder, self._model)
        tensors = read_tensors(self._folder)
        torch.set_rng_state(tensors.pop("random/cpu"))
        if "random/device" in tensors and self._team.device.type != "cpu":
            torch.get_device_module(self._team.device).set_rng_state(tensors["random/device"], self._team.device)
        for key, value in tensors.items():
            what, *rest = key.split("/", 2)
            if what == "adamw":
                parameter = self._parameters[rest[1]]
                self._optimizer.state[parameter][rest[0]] = value.to(parameter.device)
        return Seen(**extra["seen"])

    @contextlib.contextmanager
    def _log(self) -> Iterator[Callable[[str, float], None]]:
        """What writes a number of the present step to TensorBoard, if it is asked for."""
        if self._log_dir is None or not self._team.writes:
            yield lambda name, value: None
            return
        where = self._log_dir / f"lr-{self._lr!r}" if len(self._setting.training.grid) > 1 else self._log_dir
        writer = summary_writer()(str(where), purge_step=self._seen.step + 1)
        try:
            yield lambda name, value: writer.add_scalar(name, value, self._seen.step)
        finally:
            writer.close()


class DivergedError(TrainingError):
    """The loss became infinite or NaN."""

    def __init__(self, step: int, text: str) -> None:
        super().__init__(text)
        self.step = step


def read_last(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """What the folder's checkpoint says; empty where there is none.

    Raises
    ------
    CheckpointError
        If it is damaged, or of another training.
    """
    if not (folder / WEIGHTS).exists():
        return {}
    extra = read_extra(folder)
    other = [name for name, value in about.items() if extra.get("about", {}).get(name) != value]
    if other:
        raise CheckpointError(f"{folder} holds another training (other: {', '.join(other)}): choose another folder")
    return extra


class Meter:
    """Counts steps over all rates, and tells how fast they go."""

    def __init__(self, on_progress: Callable[[Progress], None] | None, steps: int) -> None:
        self._on_progress, self._steps = on_progress, steps
        self._done = self._fresh = self._tokens = 0
        self._began = time.perf_counter()
        self._first: tuple[float, int, int] | None = None  # when the first steps were done, how many, their tokens

    def advance(self, steps: int, tokens: int = 0) -> None:
        """Steps that were just trained, on so many tokens; or, without tokens, that need not be."""
        self._done += steps
        self._fresh += steps * bool(tokens)
        self._tokens += tokens
        if tokens and self._first is None:
            self._first = time.perf_counter(), self._fresh, self._tokens

    def report(self, seen: Seen, loss: float, lr: float) -> None:
        """Call back."""
        if self._on_progress is None:
            return
        began, fresh, tokens = self._began, self._fresh, self._tokens
        if self._first is not None and fresh > self._first[1]:  # the first step waits for much that is made once
            began, fresh, tokens = self._first[0], fresh - self._first[1], tokens - self._first[2]
        seconds = max(time.perf_counter() - began, 1e-9)
        last = seen.evaluations[-1] if seen.evaluations else None
        self._on_progress(
            Progress(
                step=self._done,
                steps=self._steps,
                loss=loss,
                exact_match=last[2] / last[3] if last else None,
                examples=seen.examples,
                tokens_per_second=tokens / seconds,
                seconds_left=(self._steps - self._done) * seconds / max(1, fresh),
                lr=lr,
            )
        )


def summary_writer() -> Any:
    """TensorBoard's writer.

    Raises
    ------
    ValueError
        If it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("log_dir needs TensorBoard: pip install tensorboard") from error
    return SummaryWriter
