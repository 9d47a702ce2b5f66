"""Teleports: force an n-gram from elsewhere in the string into the middle of its copy, and see what comes next.

    <bos> x_1 … x_L <copy> x_1 … x_m  g_1 … g_n  ?

A model that looks up what it has just said goes on after g in x; one that counts, or replays what it has stored, goes
on as if nothing had happened. The strings are those of a copy task, edited so that every explanation predicts another
token, in three designs:

- *once*: g occurs in x once;
- *ahead*: it occurs three times, all of them beyond x_m. Only the middle one stands after x_m too, so that it alone is
  matched by n + 1 tokens;
- *behind*: the same, all of them before x_m. What is nearest to x_m is the first place there, and the last one here.

In all, the last token of g occurs nowhere else in x (other occurrences are replaced), so a look-up by fewer than n
tokens finds the same places. A look-up by k > n tokens finds none of them (or the middle one, where k = n + 1), as the
token before g in x is another than x_m.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ngram_copy import sample
from ngram_copy.engines.base import Engine
from ngram_copy.score import wilson_interval
from ngram_copy.tasks.base import Batch, Task

ATTEMPTS = 256
"""Choices of places that are tried for each string."""

LEAST_VOCABULARY = 8
"""Data tokens with which five places can have different successors."""

ONCE = ("there", "offset", "resumed", "none", "other")
"""What can follow an n-gram that occurs once.

- there: what follows it in x;
- offset: x_{m+n+1}, the token of this place of the copy;
- resumed: x_{m+1}, as if nothing had been forced;
- none: no prediction.
"""

THRICE = ("first", "longest", "last", "offset", "resumed", "none", "other")
"""What can follow an n-gram that occurs three times: what follows it at the first place, at that of the longest match
(the middle one), at the last; otherwise as in ``ONCE``."""

DESIGNS = ("once", "ahead", "behind")
"""See the top of this file."""

MEANINGS = {
    "there": "after the n-gram",
    "first": "after the first one",
    "longest": "after the longest match",
    "last": "after the last one",
    "offset": "the old place",
    "resumed": "as if nothing was forced",
    "none": "no prediction",
    "other": "something else",
}
"""The names of ``ONCE`` and ``THRICE`` in words."""


@dataclass(frozen=True)
class Tally:
    """Counts over strings.

    Attributes
    ----------
    total : int
    said : dict of str to int
        How often each explanation was right; they exclude each other and add up to ``total``.
    """

    total: int
    said: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """``{total, said: {name: {count, low, high}}}``, with 95% Wilson intervals."""
        return {"total": self.total, "said": {name: interval(k, self.total) for name, k in self.said.items()}}


def interval(count: int, total: int) -> dict[str, Any]:
    """``{count, low, high}``: a count of ``total`` with its 95% Wilson interval."""
    low, high = wilson_interval(count, total)
    return {"count": count, "low": low, "high": high}


@dataclass(frozen=True)
class Teleports:
    """What came after forced n-grams of one length.

    Attributes
    ----------
    n : int
    once : Tally
        Over ``ONCE``.
    ahead, behind : Tally or None
        Over ``THRICE``; None where the strings are too short for that.
    """

    n: int
    once: Tally
    ahead: Tally | None
    behind: Tally | None

    def to_json(self) -> dict[str, Any]:
        """JSON values; see ``Tally.to_json``."""
        tallies = {"once": self.once, "ahead": self.ahead, "behind": self.behind}
        return {"n": self.n, **{design: tally and tally.to_json() for design, tally in tallies.items()}}


@dataclass(frozen=True)
class Forced:
    """Strings in whose copies an n-gram is forced.

    Attributes
    ----------
    batch : Batch
        The answers end one token after the n-gram.
    column : ndarray of int64, shape (batch,)
        The column of the answer that counts.
    said : dict of str to ndarray of int64, shape (batch,)
        What each explanation predicts there, all different.
    """

    batch: Batch
    column: NDArray[np.int64]
    said: dict[str, NDArray[np.int64]]


def teleports(
    engine: Engine, task: Task, length: int, *, strings: int = 200, seed: int = 0, max_n: int = 8, threads: int = 1
) -> list[Teleports]:
    """Teleport an engine by n-grams of 1 … ``max_n`` tokens.

    Parameters
    ----------
    engine : Engine
    task : Task
        Of the copy kind: its prompt is ``<bos> x <copy>``, its answer x and the end.
    length : int
        L, at least ``2 (max_n + 2)``. The designs of three places need ``4 (n + 2)``, else they are left out.
    strings : int
        Of each n and design, from the split "test".
    seed : int
    max_n : int
        At least 1.
    threads : int
        Of symbolic engines.

    Returns
    -------
    list of Teleports
        For n = 1, 2, …

    Raises
    ------
    ValueError
        If the task is not of the copy kind, the length or the vocabulary is too small, or no such strings are found.
    """
    if max_n < 1:
        raise ValueError(f"max_n must be at least 1, not {max_n}")
    if length < least_length(max_n):
        raise ValueError(
            f"length must be at least {least_length(max_n)} to force n-grams of up to {max_n} tokens, not {length}: "
            "take longer strings or a smaller max_n"
        )

    def tally(n: int, design: str) -> Tally | None:
        if length < least_length(n, design):
            return None
        total = dict.fromkeys(ONCE if design == "once" else THRICE, 0)
        size = max(1, min(256, 2**17 // (2 * length)))
        for start in range(0, strings, size):
            forced = force(task, length, n, design, seed=seed, start=start, count=min(size, strings - start))
            found = _next(engine, forced, threads)
            counts = {name: int((found == said).sum()) for name, said in forced.said.items()}
            counts["none"] = int((found < 0).sum())
            for name, count in counts.items():
                total[name] += count
            total["other"] += len(found) - sum(counts.values())
        return Tally(strings, total)

    found = []
    for n in range(1, max_n + 1):
        once, ahead, behind = (tally(n, design) for design in DESIGNS)
        if once is not None:
            found.append(Teleports(n, once, ahead, behind))
    return found


def least_length(n: int, design: str = "once") -> int:
    """The shortest strings in which n-grams of ``n`` tokens can be forced."""
    return (2 if design == "once" else 4) * (n + 2)


def effective_n(found: Sequence[Teleports]) -> int | None:
    """The smallest n at which at least half of the teleports succeed; None: at none."""
    return next((one.n for one in found if 2 * one.once.said["there"] >= one.once.total > 0), None)


def policy(found: Sequence[Teleports]) -> str | None:
    """Which of three occurrences is followed at the effective n, by at least half in both designs.

    "first", "longest" (match) or "last"; "nearest": the first of those ahead and the last of those behind; "mixed":
    none of these. None where there is no effective n, or the strings are too short to tell.
    """
    n = effective_n(found)
    tallies = next(((one.ahead, one.behind) for one in found if one.n == n), None)
    if tallies is None or tallies[0] is None or tallies[1] is None:
        return None
    most = [{name for name in THRICE if 2 * tally.said[name] >= tally.total} for tally in tallies if tally]
    both = [name for name in ("first", "longest", "last") if all(name in names for names in most)]
    return both[0] if both else "nearest" if "first" in most[0] and "last" in most[1] else "mixed"


def reading(result: Mapping[str, Any]) -> str:
    """What the teleports say, in a sentence; ``result`` as ``probes.probe`` returns it."""
    n, name, plain = result["effective_n"], result["name"], result["plain"]["count"]
    if n is None and 2 * plain < result["strings"]:
        return f"{name} does not copy these strings ({plain} of {result['strings']}), so there is nothing to explain."
    if n is None:
        last = result["teleports"][-1]["once"]
        most = max(last["said"], key=lambda what: last["said"][what]["count"])
        count = last["said"][most]["count"]
        return (
            f"{name} does not go on after an n-gram of up to {len(result['teleports'])} tokens; most often it says: "
            f"{MEANINGS[most]} ({count} of {last['total']})."
        )
    chosen = result["policy"]
    told = {
        None: "",
        "mixed": "; of three places it prefers none",
        "nearest": "; of three places it goes on after the nearest",
    }.get(chosen, f"; of three places it goes on {MEANINGS.get(chosen or '', '')}")
    return f"{name} looks up: its effective n is {n}{told}."


def force(
    task: Task, length: int, n: int, design: str = "once", *, seed: int = 0, start: int = 0, count: int = 1
) -> Forced:
    """Make strings for teleports by n-grams of ``n`` tokens; see the top of this file.

    Example i is a function of (task, length, n, design, seed, i) alone.

    Raises
    ------
    ValueError
        As ``teleports``; or if there is no such design.
    """
    size = task.vocab.size
    if n < 1 or design not in DESIGNS:
        raise ValueError(f"n must be at least 1, and design one of {', '.join(DESIGNS)}; not {n} and {design!r}")
    if length < least_length(n, design):
        raise ValueError(
            f"length must be at least {least_length(n, design)} to force {n}-grams ({design}), not {length}"
        )
    if size < LEAST_VOCABULARY:
        raise ValueError(f"the probe needs at least {LEAST_VOCABULARY} data tokens; {task.name} has {size}")
    strings = copied_strings(task, task.batch(length, seed=seed, split="test", start=start, count=count))
    places = 1 if design == "once" else 3
    made: list[_Planted | None] = [None] * count
    for attempt in range(ATTEMPTS):
        if all(made):
            break
        stream = task.stream(length, "test", "probe", design, n, attempt)
        draws = sample.uniform(seed, stream, start, count, 1 + places + length, 2**32).astype(np.int64)
        for row in range(count):
            if made[row] is None:
                made[row] = _plant(strings[row].astype(np.int64), n, design, draws[row], size, fresh=attempt > 0)
    if not all(made):
        raise ValueError(
            f"no place for a forced {n}-gram found in {ATTEMPTS} attempts, in strings of {length} over {size} tokens: "
            "take longer strings or a larger vocabulary"
        )
    return _forced(task, n, [one for one in made if one is not None], design)


def copied_strings(task: Task, batch: Batch) -> NDArray[np.uint32]:
    """The strings of a copy task, shape (batch, length).

    Raises
    ------
    ValueError
        If the prompts are not ``<bos> x <copy>``, or the answers not x and the end.
    """
    cut = int(batch.cut[0])
    strings = batch.tokens[:, 1 : cut - 1]
    vocab = task.vocab
    expected = np.pad(strings.astype(np.int64), ((0, 0), (0, 1)), constant_values=vocab.eos)
    marks = (batch.cut == cut).all() and (batch.answer == cut).all() and (batch.tokens[:, cut - 1] == vocab.copy).all()
    if not marks or not np.array_equal(batch.answers(), expected):
        raise ValueError(f"the probe needs a task that copies its whole string, such as copy; {task.name} does not")
    return strings


@dataclass(frozen=True)
class _Planted:
    string: NDArray[np.int64]
    middle: int  # m
    starts: NDArray[np.int64]  # of the n-gram


def _plant(
    x: NDArray[np.int64], n: int, design: str, draws: NDArray[np.int64], size: int, *, fresh: bool
) -> _Planted | None:
    """Choose m and the places, and edit the string; None where two explanations would predict one token.

    ``fresh``: other tokens at the edges of the n-grams too.
    """
    length, width = len(x), n + 2  # a block: the token before, the n-gram, the token after
    places = 1 if design == "once" else 3

    def scale(draw: Any, high: int) -> Any:
        return draw * high >> 32  # uniform in 0 … high - 1

    # m, in the middle of the string, and the part of it in which the places are.
    low, high = {
        "once": (length // 3, min(2 * length // 3, length - n - 1)),
        "ahead": (length // 4, min(2 * length // 3, length - 3 * width)),
        "behind": (max(length // 3, 3 * width), min(3 * length // 4, length - n - 1)),
    }[design]
    m = low + int(scale(draws[0], high - low + 1))
    origin, end = {"once": (0, length), "ahead": (m, length), "behind": (0, m)}[design]
    slack = end - origin - places * width
    starts = origin + np.sort(scale(draws[1 : 1 + places], slack + 1)) + width * np.arange(places) + 1
    if m in starts:
        return None
    others = 1 + scale(draws[1 + places :], size - 1)
    if fresh:
        edges = np.concatenate([starts - 1, starts + n, [m, m + n]])
        x = np.where(np.isin(np.arange(length), edges), (x + others) % size, x)
    ends = starts + n - 1
    again = x == x[ends[0]]
    again[ends[0]] = False
    x = np.where(again, (x + others) % size, x)
    for begin in starts[1:]:
        x[begin : begin + n] = x[starts[0] : starts[0] + n]
    if places > 1:
        x[starts[1] - 1] = x[m - 1]
    before = (x[starts - 1] == x[m - 1]).tolist()
    after = [*x[starts + n].tolist(), x[m + n], x[m]]
    if before != ([False, True, False] if places > 1 else [False]) or len(set(after)) < len(after):
        return None
    return _Planted(x, m, starts)


def _forced(task: Task, n: int, made: Sequence[_Planted], design: str) -> Forced:
    vocab, length = task.vocab, len(made[0].string)
    cut = length + 2
    column = np.array([one.middle + n for one in made], dtype=np.int64)
    tokens = np.full((len(made), cut + int(column.max()) + 1), vocab.pad, dtype=np.uint32)
    names = ("there",) if design == "once" else ("first", "longest", "last")
    said = {name: np.empty(len(made), dtype=np.int64) for name in (*names, "offset", "resumed")}
    for row, one in enumerate(made):
        x, m = one.string, one.middle
        begin = one.starts[0]
        whole = [vocab.bos, *x, vocab.copy, *x[:m], *x[begin : begin + n], x[begin + n]]
        tokens[row, : len(whole)] = whole
        said["offset"][row], said["resumed"][row] = x[m + n], x[m]
        for name, place in zip(names, one.starts, strict=True):
            said[name][row] = x[place + n]
    marks = np.full(len(made), cut, dtype=np.int64)
    return Forced(Batch(tokens, cut + column + 1, marks, marks, None, None), column, said)


def _next(engine: Engine, forced: Forced, threads: int) -> NDArray[np.int64]:
    """What an engine predicts after the forced n-grams, shape (batch,)."""
    predicted = engine.predict(forced.batch, threads=threads).tokens
    found: NDArray[np.int64] = np.take_along_axis(predicted, forced.column[:, None], axis=1)[:, 0]
    return found
