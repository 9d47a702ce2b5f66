"""What an answer is worth: exact match, bits recalled, intervals, exact tests of the bounds, classes of errors.

And what a row of results is worth: ``row_verdict`` says of a learned model's cell why its strings fail.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ngram_copy.theory import (
    binomial_tail,
    binomial_test,
    bits_recalled_p_value,
    mean_interval,
    poisson_binomial_tail,
    string_bound,
    wilson_interval,
)

if TYPE_CHECKING:
    from ngram_copy.engines.base import Prediction

Tokens = NDArray[np.int64]


class Match(NamedTuple):
    """What was right.

    Attributes
    ----------
    strings : ndarray of bool, shape (batch,)
        Whether the whole answer was.
    tokens : ndarray of int64, shape (batch,)
        How many tokens of it were.
    """

    strings: NDArray[np.bool_]
    tokens: Tokens


def exact_match(tokens: Tokens, answers: Tokens) -> Match:
    """Compare teacher-forced predictions with answers.

    Parameters
    ----------
    tokens : ndarray of int64, shape (batch, answer_len)
        Predictions, -1: none. What stands beyond an answer's end does not count.
    answers : ndarray of int64, shape (batch, answer_len)
        Filled with -1 on the right. An empty answer is right.

    Raises
    ------
    ValueError
        If the shapes differ or have not two dimensions.
    """
    _same_shape(tokens, answers)
    used = answers >= 0
    right = tokens == answers
    return Match((right | ~used).all(axis=1), (right & used).sum(axis=1))


def _same_shape(values: NDArray[Any], answers: Tokens) -> None:
    if values.shape != answers.shape or answers.ndim != 2:
        raise ValueError(
            f"tokens, log2_p and answers must be of one shape (batch, answer_len), not {values.shape}, {answers.shape}"
        )


@dataclass(frozen=True)
class Smoothing:
    """Probabilities for engines that emit hard tokens.

    Where an engine emits the token ŷ at position t of the answer, ``q(y) = (1 - ε_t)·[y = ŷ] + ε_t·p(y | past)``: it is
    believed but for a share ε_t, which falls back on the source, as all does where it emits none. So silence recalls
    nothing, and a slip costs log2 1/ε_t bits.

    Fitted on other strings than those scored, this is a predictor in its own right: given the state, its probabilities
    sum to 1, so that E[B] <= b holds for it, the p-values of ``bits_recalled_p_value`` are valid, and the mean of B
    estimates its E[B] without bias. As an estimate of what the state holds it errs downwards: an ε_t fitted on N
    strings costs about 1/(2N·ln 2) bits a position, and one ε_t covers strings in which the engine is certain and
    others in which it guesses. Fitted on the strings scored it would err upwards by about the same: do not.

    Attributes
    ----------
    error : ndarray of float64, shape (answer_len,)
        ε_t.
    pooled : float
        ε over all positions: used where the strings of the fit had no prediction, or no such position.
    """

    error: NDArray[np.float64]
    pooled: float

    @classmethod
    def fit(cls, tokens: Tokens, answers: Tokens, log2_p: NDArray[np.float64]) -> Smoothing:
        """Fit ``ε_t = (errors + 1/2)/(predictions + 1)/(1 - p̄_t)``, at most 1, at each position.

        p̄_t is the mean probability of the tokens there: what a guess would hit anyway.

        Parameters
        ----------
        tokens, answers : ndarray of int64, shape (strings, answer_len)
            Predictions (-1: none) and answers (filled with -1) of strings that will not be scored: the split "fit".
        log2_p : ndarray of float64, shape (strings, answer_len)
            Of the answers' tokens under their source.

        Raises
        ------
        ValueError
            If the shapes differ.
        """
        _same_shape(tokens, answers)
        _same_shape(log2_p, answers)
        predicted = (tokens >= 0) & (answers >= 0)
        predictions = predicted.sum(axis=0)
        errors = (predicted & (tokens != answers)).sum(axis=0)
        chance = np.where(predicted, np.exp2(log2_p), 0.0).sum(axis=0)
        pooled = float(_error(errors.sum(), predictions.sum(), chance.sum()))
        return cls(np.where(predictions > 0, _error(errors, predictions, chance), pooled), pooled)

    def bits(self, tokens: Tokens, answers: Tokens, log2_p: NDArray[np.float64]) -> NDArray[np.float64]:
        """``log2 q - log2 p`` of each true token, 0 beyond an answer's end: shape (batch, answer_len).

        Raises
        ------
        ValueError
            If the shapes differ.
        """
        _same_shape(tokens, answers)
        _same_shape(log2_p, answers)
        length = answers.shape[1]
        error = np.full(length, self.pooled)
        error[: len(self.error)] = self.error[:length]
        right = np.log2((1 - error) * np.exp2(-log2_p) + error)
        bits = np.where(tokens == answers, right, np.log2(error))
        return np.where((tokens >= 0) & (answers >= 0), bits, 0.0)


def _error(errors: Any, predictions: Any, chance: Any) -> NDArray[np.float64]:
    """ε from counts of errors and predictions and the summed probability of the tokens that were to be predicted."""
    missed = np.maximum(predictions - chance, 0.5) / np.maximum(predictions, 1)
    error: NDArray[np.float64] = np.minimum((errors + 0.5) / (predictions + 1) / missed, 1.0)
    return error


def bits_recalled(
    prediction: Prediction, answers: Tokens, log2_p: NDArray[np.float64], smoothing: Smoothing | None = None
) -> NDArray[np.float64]:
    """Bits of each answer that the engine recalled: ``B = log2 q(answer | state) - log2 p(answer)``.

    Parameters
    ----------
    prediction : Prediction
        Its ``log2_q`` are used where it has them, else its tokens, smoothed.
    answers : ndarray of int64, shape (batch, answer_len)
        Filled with -1 on the right.
    log2_p : ndarray of float64, shape (batch, answer_len)
        Of the answers' tokens under their source.
    smoothing : Smoothing, optional
        Fitted on other strings; not needed where the engine gives probabilities.

    Returns
    -------
    ndarray of float64, shape (batch,)
        Bits; at most b on average (``theory.bits_recalled_bound``), below 0 where the engine misleads.

    Raises
    ------
    ValueError
        If hard tokens come without a smoothing, or shapes differ.
    """
    _same_shape(log2_p, answers)
    if prediction.log2_q is not None:
        _same_shape(prediction.tokens, answers)
        bits = np.where(answers >= 0, prediction.log2_q - log2_p, 0.0)
    elif smoothing is not None:
        bits = smoothing.bits(prediction.tokens, answers, log2_p)
    else:
        raise ValueError("the engine emits hard tokens: bits recalled need a smoothing, fitted on other strings")
    total: NDArray[np.float64] = bits.sum(axis=1)
    return total


ErrorClass = Literal["correct", "jump", "stop", "skip", "none", "other"]


def classify_error(answer: Sequence[int], emitted: Sequence[int], n: int, *, end: int | None = None) -> ErrorClass:
    """Say how a free copy went wrong, at its first wrong token.

    Parameters
    ----------
    answer : sequence of int
        The string to copy, with its end token if that is to be emitted.
    emitted : sequence of int
        What came instead; -1: no prediction.
    n : int
        Length of the n-grams by which the engine looks up, >= 1.
    end : int, optional
        The end token.

    Returns
    -------
    str
        ``correct``; ``jump``: it went on from another occurrence of the n tokens before; ``stop``: it emitted the end
        too early; ``skip``: it left tokens out and went on with the next n or more; ``none``: it had no prediction;
        ``other``. The first that applies.

    Raises
    ------
    ValueError
        If n < 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    x, y = list(answer), list(emitted)
    if x == y:
        return "correct"
    t = next((i for i, (a, b) in enumerate(zip(x, y, strict=False)) if a != b), min(len(x), len(y)))
    if t == len(y) or y[t] == -1:
        return "none"
    if t == len(x):
        return "other"
    if t >= n and any(x[j - n : j] == x[t - n : t] and x[j] == y[t] for j in range(n, len(x)) if j != t):
        return "jump"
    if y[t] == end:
        return "stop"
    if len(y) >= t + n and any(y[t : t + n] == x[j : j + n] for j in range(t + 1, len(x))):
        return "skip"
    return "other"


# --- Learned models: why a row fails --------------------------------------------------------------------

COPIES = 0.95
"""Share of whole strings from which on a cell counts as copied."""

KEEPS = 0.99
"""Share of the bits recalled that a quantised state must keep to stand for the state."""

NEAR = 0.8
"""Share of its quantised state that a model must recall for its failure to be the state's."""

RowWord = Literal["copies", "not learned", "not generalised", "state-limited", "fails"]


@dataclass(frozen=True)
class RowVerdict:
    """What a cell of a learned model says.

    Attributes
    ----------
    word : str
        ``copies``; ``not learned``: it fails at trained lengths; ``not generalised``: it copies there and fails here;
        ``state-limited``: its state is in use and cannot hold more; ``fails``: no trained length is known.
    open : bool
        The 95% interval of the whole strings holds ``COPIES``: with more strings it could turn out otherwise.
    reason : str
        The numbers behind it.
    """

    word: RowWord
    open: bool
    reason: str

    @property
    def text(self) -> str:
        """The word, with a question mark where it is open."""
        return f"{self.word}?" if self.open else self.word


MODELS = ("trained", "module", "huggingface")
"""Names of the engines that are models."""


def is_learned(engine: Mapping[str, Any]) -> bool:
    """Whether a record's ``case.engine`` is a model."""
    return engine["name"] in MODELS


def trained_lengths(engine: Mapping[str, Any]) -> tuple[int, int] | None:
    """Shortest and longest string in the training of a record's ``case.engine``; None where none is said."""
    training = engine.get("training")
    lengths = training.get("lengths") if isinstance(training, Mapping) else None
    return (int(lengths[0]), int(lengths[-1])) if lengths else None


def smallest_state(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The smallest quantised state that keeps ``KEEPS`` of the bits recalled.

    What a model stores lies between the bits that it recalls and this size: its floats have room for much more.

    Parameters
    ----------
    result : mapping
        Of an accuracy record: ``bits_recalled`` and ``quantised``. Where rounded states answered fewer strings, the
        finest of them stands for the state as it is, so that all are compared on the same strings.

    Returns
    -------
    mapping or None
        A row of ``quantised``; None where there is none, or nothing is recalled that it could keep.
    """
    recalled = (result.get("bits_recalled") or {}).get("mean")
    if recalled is None or recalled <= 0:
        return None
    rows = [row for row in result.get("quantised") or [] if row.get("bits_recalled")]
    if any(row["bits_recalled"]["total"] != result["bits_recalled"]["total"] for row in rows):
        recalled = max(rows, key=lambda row: float(row["state_bits"]))["bits_recalled"]["mean"]
    kept = [row for row in rows if row["bits_recalled"]["mean"] >= KEEPS * recalled > 0]
    return min(kept, key=lambda row: float(row["state_bits"]), default=None)


def row_verdict(
    result: Mapping[str, Any],
    *,
    length: int,
    trained: tuple[int, int] | None,
    learned: bool | None,
    same_task: bool = True,
) -> RowVerdict:
    """Say why a learned model's strings fail, by rules; the first that applies.

    1. *copies*: at least ``COPIES`` of the whole strings are right, by their count.
    2. *state-limited*: the lower limit of the bits recalled is at least ``NEAR`` of the smallest quantised state that
       keeps ``KEEPS`` of them (of the state as it is, where that is not made of numbers), and the string bound of a
       state of that size is below ``COPIES``. This alone is evidence for the theorem: elsewhere a better training, or
       another model with a state as large, could do better.
    3. *not generalised*: it copies at trained lengths, and these are other strings.
    4. *not learned*: it fails at trained lengths.
    5. *fails*: no trained length is known, or none was measured.

    Parameters
    ----------
    result : mapping
        Of an accuracy record.
    length : int
        Of its strings.
    trained : tuple of int, or None
        The shortest and the longest string in training.
    learned : bool or None
        Whether the model (an engine and a seed) copies at all trained lengths that were measured; None where none was.
    same_task : bool
        Whether it was trained on this task.
    """
    k, n = int(result["strings"]["correct"]), int(result["strings"]["total"])
    low, high = wilson_interval(k, n)

    def verdict(word: RowWord, why: str = "") -> RowVerdict:
        return RowVerdict(word, low <= COPIES <= high, f"{k}/{n} whole strings" + (f"; {why}" if why else ""))

    if k >= COPIES * n:
        return verdict("copies")
    state = result if result.get("quantised") is None else smallest_state(result)
    h_min = result.get("h_min")
    if state is not None and h_min is not None and result.get("bits_recalled"):
        size, recalled = float(state["state_bits"]), float(result["bits_recalled"]["low"])
        bound = string_bound(size, h_min)
        if recalled >= NEAR * size and bound < COPIES:
            why = f"recalls at least {recalled:.3g} bits of a state of {size:.3g}, whose string bound is {bound:.2g}"
            return verdict("state-limited", why)
    if trained is None:
        return verdict("fails", "its trained lengths are not known")
    lengths = f"trained lengths, {trained[0]} to {trained[1]}"
    if same_task and trained[0] <= length <= trained[1]:
        return verdict("not learned", f"L = {length} is one of the {lengths}")
    if learned is None:
        return verdict("fails", f"none of the {lengths}, was measured")
    if learned:
        return verdict("not generalised", f"it copies at the {lengths}" + ("" if same_task else ", of its own task"))
    return verdict("not learned", f"it fails at the {lengths}, too")


def row_verdicts(records: Iterable[Mapping[str, Any]]) -> dict[str, RowVerdict]:
    """``row_verdict`` of each accuracy record of a learned model, by its ``case_id``; other records are passed over.

    Its own task is the one that it was trained on; where no trained length of that was measured, each task counts as
    its own.
    """
    models: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        if record.get("kind") == "accuracy" and is_learned(record["case"]["engine"]):
            models[json.dumps([record["case"]["engine"], record["case"]["seed"]], sort_keys=True)].append(record)
    found = {}
    for cells in models.values():
        engine = cells[0]["case"]["engine"]
        trained = trained_lengths(engine)
        inside = [cell for cell in cells if trained and trained[0] <= cell["case"]["length"] <= trained[1]]
        own = (engine.get("training") or {}).get("task")
        if not any(cell["case"]["task"] == own for cell in inside):
            own = None
        for cell in cells:
            task = cell["case"]["task"]
            strings = [other["result"]["strings"] for other in inside if other["case"]["task"] == (own or task)]
            learned = all(count["correct"] >= COPIES * count["total"] for count in strings) if strings else None
            found[cell["case_id"]] = row_verdict(
                cell["result"],
                length=int(cell["case"]["length"]),
                trained=trained,
                learned=learned,
                same_task=own is None or task == own,
            )
    return found


def verdicts(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Test the claims of the theory on the records of a run, by exact tests and by counts.

    Parameters
    ----------
    records : iterable of mapping
        Of schema "ngram-copy/1"; those of other kinds are passed over.

    Returns
    -------
    dict
        - ``above_bound``: {cells, p_value, per_engine}: is some engine above its string bounds? Over the cells whose
          bound is below 1, each engine (told by its options) gets twice the smaller of two p-values: that of its total
          of right strings over all cells (``poisson_binomial_tail``), and its least ``binomial_tail`` times its
          number of cells (which a slack cell cannot hide). ``p_value`` is the least times the number of engines. Cells
          of an engine that share their data count in separate totals; others must come from separate streams.
        - ``bits_above_state``: {cells, quantised, p_value}: does some engine recall more bits than its state holds? The
          least ``bits_recalled_p_value`` of all cells whose source is known and of all their quantised states, times
          the number of both.
        - ``prefix_fits``: {cells, min_p, rows}: does the prefix machine reach the bound? Two-sided ``binomial_test``
          in each cell of uniform strings with a bound in [0.05, 0.95]; rows are {case_id, label, k, N, bound, p}.
        - ``copier_rule``: {strings, disagreements}: does the exact copier succeed exactly where no n-gram repeats?
        - ``agreement``: {records, strings, positions, disagreements, undetermined, rule_strings, repeat_strings,
          rule_disagreements}: sums over all records in which the constructed transformer is held against the copier;
          positions and disagreements where halves are swapped are among them.
        - ``census``: {counts, strings, above, largest}: does some engine copy more strings than it has states? A count
          is an engine and a length, of all its strings; ``largest`` is {share, engine, length}.
        - ``half_length``: {points, outside, worst, small, equal, small_outside, slopes}: does the longest string with
          an error of 1/2 follow the formula? ``points`` have D^n >= ``ASYMPTOTIC`` and are held against it, ``small``
          ones against exact counts (``equal``: the same number); those ``outside`` fail ``half_length_fits``.
          ``worst`` is {label, value, formula}, ``slopes`` are those of ``half_length_slope`` by D.

        Without any cell the p-values are None; the last three are there only where there are such records.
    """
    records = list(records)
    accuracy = [record for record in records if record.get("kind") == "accuracy"]
    found = {
        "above_bound": _above_bound(accuracy),
        "bits_above_state": _bits_above_state(accuracy),
        "prefix_fits": _prefix_fits(accuracy),
        "copier_rule": _copier_rule(accuracy),
    }
    for statistic, test in _TESTS.items():
        rows = [r for r in records if r.get("kind") == "statistic" and r["case"].get("statistic") == statistic]
        if rows:
            found[statistic.replace("-", "_")] = test(rows)
    return found


class _Cell(NamedTuple):
    k: int
    n: int
    bound: float
    data_hash: str


def _label(case: Mapping[str, Any]) -> str:
    return str(case.get("label") or case["engine"]["name"])


def _above_bound(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    cells: defaultdict[str, list[_Cell]] = defaultdict(list)
    labels: dict[str, str] = {}
    for record in records:
        result = record["result"]
        bound = result.get("string_bound")
        if bound is not None and bound < 1:
            engine = json.dumps(record["case"]["engine"], sort_keys=True)
            taken = set(labels.values())
            label = _label(record["case"])
            labels.setdefault(engine, label if label not in taken else engine)
            strings = result["strings"]
            cells[labels[engine]].append(_Cell(strings["correct"], strings["total"], bound, result["data_hash"]))
    per_engine = {label: _engine_p_value(found) for label, found in cells.items()}
    return {
        "cells": sum(len(found) for found in cells.values()),
        "p_value": min(1.0, len(per_engine) * min(per_engine.values())) if per_engine else None,
        "per_engine": per_engine,
    }


def _engine_p_value(cells: Sequence[_Cell]) -> float:
    seen: defaultdict[str, int] = defaultdict(int)
    totals: defaultdict[int, list[_Cell]] = defaultdict(list)  # in each no string twice
    for cell in cells:
        totals[seen[cell.data_hash]].append(cell)
        seen[cell.data_hash] += 1
    total = min(
        poisson_binomial_tail([(cell.n, cell.bound) for cell in part], sum(cell.k for cell in part))
        for part in totals.values()
    )
    single = min(binomial_tail(cell.k, cell.n, cell.bound) for cell in cells)
    return min(1.0, 2 * len(totals) * total, 2 * len(cells) * single)


def _bits_above_state(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def p_values(rows: Iterable[Mapping[str, Any]]) -> list[float]:
        found = [row.get("bits_recalled") or {} for row in rows]
        return [recalled["p_value"] for recalled in found if "p_value" in recalled]

    cells = p_values(record["result"] for record in records)
    # States of one cell share their strings: the least times their number is valid all the same.
    quantised = p_values(row for record in records for row in record["result"].get("quantised") or [])
    every = cells + quantised
    p_value = min(1.0, len(every) * min(every)) if every else None
    return {"cells": len(cells), "quantised": len(quantised), "p_value": p_value}


def _prefix_fits(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rows = []
    for record in records:
        case, result = record["case"], record["result"]
        task, bound = case["task"], result.get("string_bound")
        if case["engine"]["name"] == "prefix" and is_uniform(task) and bound is not None and 0.05 <= bound <= 0.95:
            k, n = result["strings"]["correct"], result["strings"]["total"]
            label = f"{_label(case)}, L = {case['length']}"
            p = binomial_test(k, n, bound)
            rows.append({"case_id": record["case_id"], "label": label, "k": k, "N": n, "bound": bound, "p": p})
    return {"cells": len(rows), "min_p": min((row["p"] for row in rows), default=None), "rows": rows}


def _copier_rule(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    found = [
        record["result"].get("diagnostics", {}) for record in records if record["case"]["engine"]["name"] == "ngram"
    ]
    return {
        "strings": sum(diagnostics.get("rule_strings", 0) for diagnostics in found),
        "disagreements": sum(diagnostics.get("rule_disagreements", 0) for diagnostics in found),
    }


# --- The constructed transformer, and the law -----------------------------------------------------------

ASYMPTOTIC = 1000
"""D^n from which on the formula of L½ is held against what was measured; below, exact counts are."""

LENGTH_TOLERANCE, LENGTH_SHARE = 1.0, 0.03
"""Tokens, and share of the formula, by which a measured L½ may be off."""


def is_uniform(task: Mapping[str, Any]) -> bool:
    """Whether a record's ``case.task`` copies uniform strings."""
    return bool(task["name"] == "copy" and task.get("source", "uniform") == "uniform")


def half_length_fits(measured: float, formula: float) -> bool:
    """Whether a measured L½ is within one token and 3% of what it should be."""
    return abs(measured - formula) <= LENGTH_TOLERANCE + LENGTH_SHARE * formula


class Slope(NamedTuple):
    """By how much log2(L½ - n) grows with each token of n.

    Attributes
    ----------
    value, low, high : float
        With its 95% interval.
    expected : float
        ½·log2 D.
    points : int
        Lengths n that it goes through.
    """

    value: float
    low: float
    high: float
    expected: float
    points: int


def half_length_slope(points: Sequence[tuple[int, float, float, float]], vocab_size: int) -> Slope | None:
    """Fit a line through log2(L½ - n) by weighted least squares.

    The weights are 1/σ². σ has two parts: that of the 95% intervals of L½, and ``LENGTH_TOLERANCE``, one token, as L½
    is a whole number and the formula leaves out terms of about a token, which tilt the line where strings are short.
    The interval of the slope follows from σ alone: ``±1.96/sqrt(Σ (n - n̄)²/σ²)``.

    Parameters
    ----------
    points : sequence of (int, float, float, float)
        n, and L½ with the ends of its 95% interval.
    vocab_size : int
        D, for ½·log2 D.

    Returns
    -------
    Slope or None
        None for fewer than two n.
    """
    if len({n for n, *_ in points}) < 2:
        return None
    n = np.array([point[0] for point in points], dtype=np.float64)
    value, low, high = (np.array([point[place] for point in points], dtype=np.float64) for place in (1, 2, 3))
    y, bottom, top = (np.log2(np.maximum(length - n, 0.5)) for length in (value, low, high))
    token = np.log2(1 + LENGTH_TOLERANCE / np.maximum(value - n, 1.0))
    sigma = np.hypot((top - bottom) / (2 * _NORMAL), token)
    weight = 1 / sigma**2
    centred = n - np.average(n, weights=weight)
    spread = float((weight * centred**2).sum())
    slope = float((weight * centred * y).sum()) / spread
    half = _NORMAL / float(np.sqrt(spread))
    return Slope(slope, slope - half, slope + half, float(np.log2(vocab_size)) / 2, len(points))


_NORMAL = 1.959963984540054  # of a standard normal variable, 95% lie within it


def _agreement(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    keys = (
        *("strings", "positions", "disagreements", "undetermined"),
        *("rule_strings", "repeat_strings", "rule_disagreements"),
    )
    found = {"records": len(records)} | {key: sum(int(r["result"][key]) for r in records) for key in keys}
    for key in ("positions", "disagreements"):
        found[key] += sum(int(r["result"]["swapped"][key]) for r in records)
    return found


def _census(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rows = [(record["case"], row) for record in records for row in record["result"]["rows"]]
    shares = [
        {"share": _most(row) / row["states"], "engine": _label(case), "length": int(row["length"])}
        for case, row in rows
    ]
    return {
        "counts": len(rows),
        "strings": sum(int(row["strings"]) for _, row in rows),
        "above": sum(_most(row) > row["states"] for _, row in rows),
        "largest": max(shares, key=lambda found: float(found["share"]), default=None),
    }


def _most(row: Mapping[str, Any]) -> int:
    """Strings of a census that come out, teacher-forced or free."""
    return max(int(row["copied"]), int(row["free"]))


def _half_length(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    large: list[dict[str, Any]] = []
    small: list[dict[str, Any]] = []
    points: defaultdict[int, list[tuple[int, float, float, float]]] = defaultdict(list)
    for record in records:
        case, result = record["case"], record["result"]
        half, exact = result["half"], (result.get("exact") or {}).get("half")
        if not is_uniform(case["task"]) or half is None or half["value"] is None:
            continue
        d, n = int(case["task"]["vocab_size"]), int(case["n"])
        found = {"label": f"D = {d}, n = {n}", "value": float(half["value"])}
        if d**n >= ASYMPTOTIC:
            large.append({**found, "formula": float(result["formula"]["half"])})
            points[d].append((n, float(half["value"]), float(half["low"]), float(half["high"])))
        elif exact is not None:
            small.append({**found, "formula": float(exact)})
    slopes = {d: half_length_slope(found, d) for d, found in sorted(points.items())}

    def off(found: Mapping[str, Any]) -> float:
        value, formula = float(found["value"]), float(found["formula"])
        return abs(value - formula) / (LENGTH_TOLERANCE + LENGTH_SHARE * formula)

    return {
        "points": len(large),
        "outside": sum(not half_length_fits(found["value"], found["formula"]) for found in large),
        "worst": max(large, key=off, default=None),
        "small": len(small),
        "equal": sum(found["value"] == found["formula"] for found in small),
        "small_outside": sum(not half_length_fits(found["value"], found["formula"]) for found in small),
        "slopes": {d: slope._asdict() for d, slope in slopes.items() if slope is not None},
    }


_TESTS: dict[str, Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]] = {
    "agreement": _agreement,
    "census": _census,
    "half-length": _half_length,
}
"""What is tested on the records of a statistic."""


__all__ = [
    "ErrorClass",
    "Match",
    "RowVerdict",
    "Slope",
    "Smoothing",
    "binomial_tail",
    "binomial_test",
    "bits_recalled",
    "bits_recalled_p_value",
    "classify_error",
    "exact_match",
    "half_length_fits",
    "half_length_slope",
    "is_learned",
    "is_uniform",
    "mean_interval",
    "poisson_binomial_tail",
    "row_verdict",
    "row_verdicts",
    "smallest_state",
    "trained_lengths",
    "verdicts",
    "wilson_interval",
]
