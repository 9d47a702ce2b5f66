"""What is to be seen: a sentence for each chart, made from its rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from ngram_copy.report import learned
from ngram_copy.report.labels import number, percent
from ngram_copy.report.rows import Cell, Repeats
from ngram_copy.score import KEEPS


def bits(cells: Sequence[Cell]) -> str:
    """How many cells are above the law, and the best share of its state that each kind of engine recalls.

    Parameters
    ----------
    cells : sequence of Cell
        Cells with ``recalled``.
    """
    above = [cell for cell in cells if cell.above is not None]
    if above:
        worst = max(above, key=lambda cell: cell.share or 0.0)
        law = (
            f"{len(above)} of {len(cells)} cells recall more bits than their state holds, beyond their 95% interval "
            f"(chance leaves room for {math.ceil(0.025 * len(cells))}), the most {_where(worst)}"
        )
    else:
        law = f"None of {len(cells)} cells recalls more bits than its state holds"
    best: dict[str, float] = {}
    for cell in cells:
        if cell.share is not None:
            best[cell.family] = max(best.get(cell.family, cell.share), cell.share)
    shares = [f"{percent(share)} ({family})" for family, share in sorted(best.items(), key=lambda item: -item[1])]
    states = f" (learned ones: of the smallest quantised state that keeps {KEEPS:.0%} of them)"
    states = states if any(cell.kept for cell in cells) else ""
    return (
        f"{law}; the best cell of each kind of engine recalls {_and(shares)} of its bits of state{states}."
        if shares
        else f"{law}."
    )


def strings(cells: Sequence[Cell]) -> str:
    """On the task with most cells: the longest length at which each kind of engine copies half of the strings.

    Of learned engines: how far each copies nearly all of them.
    """
    symbolic = [cell for cell in cells if not cell.learned]
    if len(symbolic) < len(cells):
        return " ".join([*([strings(symbolic)] if symbolic else []), learned.strings(cells)])
    counts = {task: sum(cell.task == task for cell in cells) for task in dict.fromkeys(cell.task for cell in cells)}
    task = max(counts, key=lambda name: counts[name])
    here = [cell for cell in cells if cell.task == task]
    longest = max(cell.length for cell in here)
    parts = []
    for family in dict.fromkeys(cell.family for cell in here):
        good = [cell for cell in here if cell.family == family and cell.strings.value >= 0.5]
        if not good:
            parts.append(f"no {family} at any length")
            continue
        best = max(good, key=lambda cell: (cell.length, -cell.state_bits))
        end = ", the longest measured" if best.length == longest else ""
        parts.append(f"{best.engine} up to L = {best.length}{end} ({number(best.state_bits)} bits of state)")
    return f"On {task}, at least half of the whole strings come out right with {_and(parts)}."


def repeats(rows: Sequence[Repeats]) -> str:
    """Where measured repeats and the formula for uniform tokens differ most."""
    compared = [(row, row.union if row.exact is None else row.exact) for row in rows]
    known = [(row, formula) for row, formula in compared if formula is not None]
    if not known:
        row = max(rows, key=lambda row: row.windows.value)
        share = percent(row.windows.value)
        return f"Some {row.n}-gram repeats in {share} of windows of {row.length:,} tokens of {row.task}."
    row, formula = max(known, key=lambda pair: abs(pair[0].windows.value - pair[1]))
    name = "the union bound" if row.exact is None else "the exact formula"
    gap = "largest difference" if len(known) > 1 else "difference"
    return (
        f"The {gap} from uniform tokens: within {row.length:,} tokens of {row.task} some {row.n}-gram repeats in "
        f"{percent(row.windows.value)} of windows, where {name} for uniform tokens gives {percent(formula)}."
    )


def tables(cells: Sequence[Cell]) -> str:
    """From the smallest to the largest table of one series: load, collisions, tokens right.

    Parameters
    ----------
    cells : sequence of Cell
        Cells of the engine ``bounded``; at least two sizes in one series.
    """

    def series(cell: Cell) -> tuple[str, int, int, str]:
        rest = sorted((k, str(v)) for k, v in cell.engine_options.items() if k != "slots")
        return (cell.task, cell.length, cell.seed, str(rest))

    groups = [list(group) for _, group in groupby(sorted(cells, key=series), series)]
    group = max(groups, key=lambda group: (len(group), group[0].length))
    small, large = (pick(group, key=lambda cell: cell.engine_options["slots"]) for pick in (min, max))

    def change(what: str, before: float, after: float) -> str:
        verb = "rises" if after > before else "falls" if after < before else "stays"
        return (
            f"{what} {verb} at {percent(before)}"
            if verb == "stays"
            else f"{what} {verb} from {percent(before)} to {percent(after)}"
        )

    def load(cell: Cell) -> float:
        return float(cell.diagnostics["occupied"] / cell.diagnostics["slots"])

    def right(cell: Cell) -> float:
        return cell.tokens.value if cell.tokens else 0.0

    return (
        f"On {small.task} at L = {small.length}, from {small.engine_options['slots']:,} to "
        f"{large.engine_options['slots']:,} slots "
        f"{change('the load', load(small), load(large))} and "
        f"{change('the share of tokens right', right(small), right(large))}."
    )


def _where(cell: Cell) -> str:
    recalled = cell.recalled[0] if cell.recalled else 0.0
    size = cell.state_bits if cell.above is None else cell.above
    return f"{cell.engine} on {cell.task} at L = {cell.length} ({number(recalled)} of {number(size)} bits)"


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
