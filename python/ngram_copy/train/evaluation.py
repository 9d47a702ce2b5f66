"""How many whole strings a model answers, and when it had learned to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ngram_copy.engines.neural import NeuralEngine
from ngram_copy.models.base import LanguageModel
from ngram_copy.score import COPIES, exact_match
from ngram_copy.tasks.base import Batch, Task
from ngram_copy.train.data import first_example

SOLVED = COPIES
"""Share of whole strings at which an evaluation counts as solved."""

_EVALUATED_TOKENS = 2**14  # in one pass


def evaluate(model: nn.Module, task: Task, length: int, seed: int, examples: int) -> tuple[int, float]:
    """Whole strings of the split "validation", teacher-forced by argmax.

    Parameters
    ----------
    model : module
        On the device where it shall run.
    task : Task
    length, seed, examples : int
        Examples 0 … examples - 1 are taken.

    Returns
    -------
    correct : int
        Strings all of whose tokens are right, the end included.
    loss : float
        Nats a token of the answers.
    """
    correct = tokens = 0
    nats = 0.0
    size = max(1, _EVALUATED_TOKENS // first_example(task, length, seed, "validation").tokens.shape[1])
    for batch in task.batches(length, seed=seed, split="validation", examples=examples, batch=size):
        answers = batch.answers()
        if isinstance(model, LanguageModel):
            prediction = NeuralEngine(task.vocab, model).predict(batch)
            found, log2_q = prediction.tokens, prediction.log2_q
        else:
            found, log2_q = _predict(model, batch, answers, task)
        if log2_q is None:
            raise ValueError("a neural engine gives probabilities")
        correct += int(exact_match(found, answers).strings.sum())
        tokens += int(np.count_nonzero(answers >= 0))
        nats -= float(log2_q.sum()) * math.log(2)
    return correct, nats / max(1, tokens)


def _predict(
    model: nn.Module, batch: Batch, answers: NDArray[np.int64], task: Task
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The likeliest tokens, and log2 q of the true ones, shapes (batch, answer_len), of a module of one's own."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    tokens = torch.from_numpy(batch.tokens.astype(np.int64)).to(device)
    with torch.inference_mode():
        log_q = logits_of(model, tokens[:, :-1], task).float().log_softmax(-1)
        best = log_q.argmax(-1).cpu().numpy()
        true = log_q.gather(2, tokens[:, 1:, None])[..., 0].cpu().numpy().astype(np.float64)
    columns = np.minimum(batch.answer[:, None] - 1 + np.arange(answers.shape[1]), best.shape[1] - 1)
    inside = answers >= 0
    return (
        np.where(inside, np.take_along_axis(best, columns, axis=1), -1),
        np.where(inside, np.take_along_axis(true, columns, axis=1) / math.log(2), 0.0),
    )


def logits_of(model: nn.Module, tokens: Tensor, task: Task, first: int = 0) -> Tensor:
    """What a module says, checked: (batch, seq_len - first, at least the task's tokens).

    Only a ``LanguageModel`` takes a first position to begin at.
    """
    out = model(tokens, tokens.shape[1] - first) if first else model(tokens)
    logits = getattr(out, "logits", out)
    expected = (len(tokens), tokens.shape[1] - first)
    if not isinstance(logits, Tensor) or logits.shape[:-1] != expected or logits.shape[-1] < task.vocab.total:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ValueError(f"the model must give logits of shape {(*expected, task.vocab.total)}, not {got}")
    return logits


def examples_to_solve(evaluations: Sequence[Sequence[int]]) -> int | None:
    """Examples seen at the first of two evaluations in a row with at least 95% of strings right; None: unsolved.

    Parameters
    ----------
    evaluations : sequence of (step, examples, correct, total)
    """
    good = [correct >= SOLVED * total for _, _, correct, total in evaluations]
    for index in range(len(good) - 1):
        if good[index] and good[index + 1]:
            return evaluations[index][1]
    return None
