"""What a row of results is worth: why the strings of a learned model's cell fail."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ngram_copy.theory import string_bound, wilson_interval

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
