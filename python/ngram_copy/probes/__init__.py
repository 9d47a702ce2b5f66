"""Probes: whether a model looks up what it copies, by how many tokens, and with which heads.

``probe`` runs all of them; ``teleport``, ``repeats`` and ``heads`` hold one each. ``heads`` needs the extra ``torch``,
and is imported for models of ``ngram_copy.models`` alone.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ngram_copy.engines.base import Engine
from ngram_copy.engines.neural import NeuralEngine
from ngram_copy.probes.repeats import Repeats, breaks_at, planted_repeats
from ngram_copy.probes.teleport import Tally, Teleports, effective_n, interval, policy, teleports
from ngram_copy.score import exact_match
from ngram_copy.tasks.base import Task

SCHEMA = "ngram-copy/probe/1"


def probe(
    engine: Engine,
    task: Task,
    length: int,
    *,
    name: str | None = None,
    strings: int = 200,
    seed: int = 0,
    max_n: int = 8,
    threads: int = 1,
) -> dict[str, Any]:
    """Run all probes that an engine allows.

    Parameters
    ----------
    engine : Engine
        Where it is a ``NeuralEngine`` over a model with attention, its heads are scored and removed as well.
    task : Task
        Of the copy kind.
    length : int
        L, at least ``2 (max_n + 2)``.
    name : str, optional
        Of the engine, in tables and charts; by default its own.
    strings : int
        Of each n and design; at least 1.
    seed : int
        Of the strings.
    max_n : int
        The longest n-gram that is forced or planted.
    threads : int
        Of symbolic engines.

    Returns
    -------
    dict
        JSON values.

        - ``schema``, ``name``, ``task``, ``length``, ``strings``, ``seed``;
        - ``plain``: whole strings that are right as they are;
        - ``effective_n``, ``policy``, ``breaks_at``: see the functions of these names; the last is null too where less
          than half of the plain strings are right;
        - ``teleports``: a list of {n, once, ahead, behind}; ``repeats``: a list of what ``Repeats`` holds;
        - ``heads``: a list of {layer, head, back, after, kind}, ``removed``: of {what, heads, strings}; or both null,
          and ``heads_left_out`` says why.

    Raises
    ------
    ValueError
        If a number is too small, or the task is not of the copy kind.
    """
    if strings < 1:
        raise ValueError(f"strings must be at least 1, not {strings}")
    sizes: dict[str, int] = {"strings": strings, "seed": seed}
    found = teleports(engine, task, length, max_n=max_n, threads=threads, **sizes)
    n = effective_n(found)
    batches = task.batches(length, seed=seed, split="test", examples=strings, batch=256)
    plain = sum(int(exact_match(engine.predict(b, threads=threads).tokens, b.answers()).strings.sum()) for b in batches)
    planted = planted_repeats(engine, task.vocab, length, max_n=max_n, copier_n=n, threads=threads, **sizes)
    return {
        "schema": SCHEMA,
        "name": name or engine.name,
        "task": {"name": task.name, **asdict(task)},
        "length": length,
        **sizes,
        "plain": interval(plain, strings),
        "effective_n": n,
        "policy": policy(found),
        "breaks_at": breaks_at(planted) if 2 * plain >= strings else None,
        "teleports": [one.to_json() for one in found],
        "repeats": [one.to_json() for one in planted],
        **_heads(engine, task, length, sizes),
    }


def _heads(engine: Engine, task: Task, length: int, sizes: dict[str, int]) -> dict[str, Any]:
    """The part of ``probe`` that is about heads."""

    def left_out(why: str) -> dict[str, Any]:
        return {"heads": None, "removed": None, "heads_left_out": why}

    if not isinstance(engine, NeuralEngine):
        return left_out(f"the engine {engine.name} is no model of ngram_copy.models")
    from ngram_copy.probes import heads

    if not heads.attention_layers(engine.model):
        return left_out("the model has no attention")
    scores = heads.head_scores(engine.model, task, length, **sizes)
    removed = heads.removals(engine, engine.model, scores, task, length, **sizes)
    return {
        "heads": [score.to_json() for score in scores],
        "removed": [one.to_json() for one in removed],
        "heads_left_out": None,
    }


__all__ = [
    "SCHEMA",
    "Repeats",
    "Tally",
    "Teleports",
    "breaks_at",
    "effective_n",
    "planted_repeats",
    "policy",
    "probe",
    "teleports",
]
