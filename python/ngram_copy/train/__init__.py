"""Training: a task and a model's shape in, a checkpoint and a record out.

    L ~ P(L) ∝ L^length_power on lengths[0] … cap(step)         one length a step, tokens_per_step tokens, no padding
    loss = mean over the answers' tokens of -ln q(token | what is before it)
    AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), the gradient's norm clipped, the rate lr · rate(step)

What step t trains on is a function of (task, options, seed, t) alone, so a training that was stopped and continued ends
in the bytes of one that was not (on a CPU, with the same threads, torch and machine type). The running checkpoint is
one file (``models/checkpoint.py``): weights, AdamW's moments, and as JSON the step, the position in the data and all
that was measured. Several GPUs: start the program with ``accelerate launch``; each process takes its share of a step's
rows.

Glossary: a *step* is one update; an *example* is one sequence of the task; *solved*: two evaluations in a row at 95%.
"""

from __future__ import annotations

from ngram_copy.train.evaluation import SOLVED, evaluate, examples_to_solve
from ngram_copy.train.loop import Progress
from ngram_copy.train.machine import TrainingError
from ngram_copy.train.options import Training
from ngram_copy.train.trainer import MakeModel, TrainingResult, train

__all__ = [
    "SOLVED",
    "MakeModel",
    "Progress",
    "Training",
    "TrainingError",
    "TrainingResult",
    "evaluate",
    "examples_to_solve",
    "train",
]
