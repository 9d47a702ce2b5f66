"""Learned engines: what each model came to, and the rules by which its rows are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from ngram_copy.report.labels import number, percent
from ngram_copy.report.rows import Cell, Quantised, Summary, Training
from ngram_copy.score import COPIES, KEEPS, NEAR

TITLE = "Learned models"

AFTER = "strings"
"""The chart that its section follows."""

FIRST = "Each row of a learned model has a verdict, by the first of these rules that applies:"

RULES = {
    "copies": f"at least {COPIES:.0%} of the whole strings are right, by their count.",
    "state-limited": (
        f"the strings fail; the lower limit of the bits recalled is at least {NEAR:.0%} of the smallest quantised "
        f"state that keeps {KEEPS:.0%} of them (of the state as it is, where that is bits already); and no state of "
        f"that size can copy {COPIES:.0%} of such strings, by the string bound."
    ),
    "not generalised": (
        "the strings fail, and the model copies at all trained lengths that were measured: it did not carry over."
    ),
    "not learned": "the model fails at trained lengths: training did not find it, whatever the state could hold.",
    "fails": "no trained length is known, or none was measured.",
}
"""By the word of the verdict; the first that applies."""

OPEN = f"A question mark: the 95% interval of the whole strings holds {COPIES:.0%}, so more strings could turn it."
EVIDENCE = (
    "Only state-limited rows are evidence for the theorem. The others say what this training made of this model: with "
    "a state as large it might have copied."
)
SEEDS = (
    "Seeds are models of their own: each has its row and its mark, with the interval of its strings; they are never "
    "counted together. Bits: the largest lower limit of the bits recalled over all lengths, and the smallest quantised "
    f"state that keeps {KEEPS:.0%} of the bits recalled there: what the model stores lies between."
)


@dataclass(frozen=True)
class Outcome:
    """A learned model (an engine and a seed) on one task.

    Attributes
    ----------
    cells : list of Cell
        By length.
    training : Training or None
        What made it, where its record is there.
    """

    cells: list[Cell]
    training: Training | None

    @property
    def longest(self) -> int | None:
        """The longest measured length at which it copies."""
        return max((cell.length for cell in self.cells if _word(cell) == "copies"), default=None)

    @property
    def best(self) -> Cell | None:
        """The cell with the largest lower limit of the bits recalled."""
        known = [cell for cell in self.cells if cell.recalled]
        return max(known, key=_low, default=None)

    @property
    def verdicts(self) -> str:
        """Its verdicts by length: ``copies 8–32, not generalised 64–128``."""
        parts = []
        for text, group in groupby(self.cells, lambda cell: cell.verdict.text if cell.verdict else "–"):
            lengths = [cell.length for cell in group]
            parts.append(f"{text} {lengths[0]}" + (f"–{lengths[-1]}" if len(lengths) > 1 else ""))
        return ", ".join(parts)


def outcomes(summary: Summary) -> list[Outcome]:
    """All learned models, in the order of task, engine and seed."""
    trainings = {(training.engine, training.seed): training for training in summary.trainings}

    def model(cell: Cell) -> tuple[str, str, int]:
        return (cell.task, cell.engine, cell.seed)

    models: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in summary.cells:
        if cell.learned:
            models.setdefault(model(cell), []).append(cell)
    places = {key: place for place, key in enumerate(dict.fromkeys(key[:2] for key in models))}
    return [
        Outcome(sorted(cells, key=lambda cell: cell.length), trainings.get((engine, seed)))
        for (_, engine, seed), cells in sorted(models.items(), key=lambda item: (places[item[0][:2]], item[0][2]))
    ]


def _word(cell: Cell) -> str:
    return cell.verdict.word if cell.verdict else ""


def _low(cell: Cell) -> float:
    return cell.recalled[1] if cell.recalled else 0.0


# --- sentences ------------------------------------------------------------------------------------------


def sentence(summary: Summary) -> str:
    """How many rows have which verdict, and how near the quantised states come to the law."""
    cells = [cell for cell in summary.cells if cell.learned]
    counts = {word: sum(_word(cell) == word for cell in cells) for word in RULES}
    models = len({(cell.engine, cell.seed) for cell in cells})
    said = ", ".join(f"{word} {count}" for word, count in counts.items() if count or word == "state-limited")
    text = f"{_plural(len(cells), 'row')} of {_plural(models, 'model')}: {said}. "
    if not counts["state-limited"]:
        text += "No row is limited by its state, so no failure here is evidence for the theorem. "
    return (text + nearest(cells)).strip()


def nearest(cells: Sequence[Cell]) -> str:
    """How near the states of learned engines come to the law; nothing where none is quantised."""
    states = [(cell, row) for cell in cells for row in cell.quantised if row.recalled and row.state_bits]
    if not states:
        return ""
    cell, row = max(states, key=lambda pair: _used(pair[1]))
    bits = f"{row.bits_per_value:g} bit{'' if row.bits_per_value == 1 else 's'} a value"
    return (
        f"Nearest to the law comes {cell.engine} (seed {cell.seed}) at L = {cell.length} on {cell.task}: at {bits} its "
        f"state is {number(row.state_bits)} bits, of which it recalls {percent(_used(row))}."
    )


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _used(row: Quantised) -> float:
    return row.recalled[0] / row.state_bits if row.recalled else 0.0


def strings(cells: Sequence[Cell]) -> str:
    """On the task with most cells of learned engines: how far each of them copies."""
    learned = [cell for cell in cells if cell.learned]
    names = [cell.task for cell in learned]
    task = max(dict.fromkeys(names), key=names.count)
    here = [cell for cell in learned if cell.task == task]
    parts = []
    for engine, group in groupby(here, lambda cell: cell.engine):
        rows = list(group)
        longest = [
            max((cell.length for cell in rows if cell.seed == seed and _word(cell) == "copies"), default=0)
            for seed in sorted({cell.seed for cell in rows})
        ]
        end = ", the longest measured" if min(longest) == max(cell.length for cell in here) else ""
        parts.append(f"{engine}{trained_on(rows[0].trained, ' (trained on {})')} {_reach(longest)}{end}")
    seeds = ", by seed" if len({cell.seed for cell in here}) > 1 else ""
    return f"Learned engines copy at least {COPIES:.0%} of the strings on {task}{seeds}: {'; '.join(parts)}."


def _reach(longest: Sequence[int]) -> str:
    """The longest lengths of the seeds, 0 for none."""
    found = sorted(set(longest))
    if found == [0]:
        return "at no length"
    reach = "to L = " + _range([length for length in found if length])
    return reach + (" or at no length" if not found[0] else "")


def _range(values: Sequence[int]) -> str:
    """The value that all have, or the least to the most."""
    return f"{values[0]:,}" if len(set(values)) == 1 else f"{min(values):,} to {max(values):,}"


def trained_on(lengths: tuple[int, int] | None, form: str = "{}") -> str:
    """Trained lengths: ``L ≤ 32``, or ``L = 8 to 32``."""
    if lengths is None:
        return ""
    low, high = lengths
    return form.format(f"L ≤ {high}" if low == 1 < high else f"L = {low}" + (f" to {high}" if high > low else ""))


def training(trainings: Sequence[Training]) -> str:
    """Which engines solved their training strings, after how many examples."""
    parts = []
    for engine, group in groupby(trainings, lambda training: training.engine):
        rows = list(group)
        solved = [row.examples_to_solve for row in rows if row.examples_to_solve is not None]
        if not solved:
            parts.append(f"{engine} not within {max(row.examples for row in rows):,}")
        elif len(solved) == len(rows) > 2:
            parts.append(f"{engine} after {median(solved):,.0f} (median of {len(rows)} seeds)")
        else:
            seeds = f" ({len(solved)} of {len(rows)} seeds)" if len(rows) > 1 else ""
            parts.append(f"{engine} after {_range(solved)}{seeds}")
    return (
        f"Examples until {COPIES:.0%} of the strings of the longest trained length come out whole: {', '.join(parts)}."
    )


def errors(cells: Sequence[Cell]) -> str:
    """The commonest class of errors of each engine."""
    parts = []
    for engine in dict.fromkeys(cell.engine for cell in cells):
        counts: dict[str, int] = {}
        for cell in (cell for cell in cells if cell.engine == engine):
            for name, count in classes(cell).items():
                counts[name] = counts.get(name, 0) + count
        total = sum(counts.values())
        if total:
            name = max(counts, key=lambda name: counts[name])
            parts.append(f"{engine}: {name} ({percent(counts[name] / total)} of {total:,} failures)")
    return f"The commonest error of {'; '.join(parts)}." if parts else "No string failed."


def classes(cell: Cell) -> dict[str, int]:
    """Failed strings of the sample by class."""
    return {name: int(count) for name, count in cell.errors.items() if count and name not in {"checked", "correct"}}


# --- tables ---------------------------------------------------------------------------------------------

TRAINING_HEADINGS = (
    *("engine", "kind", "parameters", "trained on", "seed", "learning rate", "steps", "examples"),
    *("examples to solve", "seconds", "data", "case"),
)
TRAINING_NUMBERS = {2, 4, 5, 6, 7, 8, 9}
OUTCOME_HEADINGS = (
    *("task", "engine", "trained on", "seed", f"longest L at ≥ {COPIES:.0%}", "bits recalled", "quantised state"),
    *("share of it", "at L", "verdict by length"),
)
OUTCOME_NUMBERS = {3, 4, 5, 6, 7, 8}


def training_row(row: Training) -> list[str]:
    """A training under ``TRAINING_HEADINGS``."""
    tried = f" (of {len(row.tried)} tried)" if len(row.tried) > 1 else ""
    return [
        *(row.engine, row.family, f"{row.parameters:,}", trained_on(row.trained), f"{row.seed}"),
        *(f"{row.lr:g}{tried}", f"{row.steps:,}", f"{row.examples:,}", row.to_solve, f"{row.seconds:.0f}"),
        *(row.data_hash.removeprefix("sha256:")[:12], row.case_id),
    ]


def outcome_row(row: Outcome) -> list[str]:
    """A model on a task under ``OUTCOME_HEADINGS``."""
    first, best = row.cells[0], row.best
    bits = ["–"] * 4
    if best is not None:
        kept, low = best.kept, _low(best)
        bits = ["≥ " + number(low), "–", "–", f"{best.length}"]
        if kept:
            bits[1:3] = ["≤ " + number(kept.state_bits), percent(low / kept.state_bits)]
    longest = "none" if row.longest is None else f"{row.longest:,}"
    return [first.task, first.engine, trained_on(first.trained), f"{first.seed}", longest, *bits, row.verdicts]
