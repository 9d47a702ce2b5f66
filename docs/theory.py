"""The tables of docs/theory.md: what the reference records of the suite theory say, its trained parts included.

python docs/theory.py results/2026-11-25-theory --page docs/theory.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from headline import splice, splice_page
from learned import shown, table

from ngram_copy import score, theory
from ngram_copy.results import read

Record = dict[str, Any]


def checked(records: Sequence[Record]) -> str:
    """The transformer against the n-gram copier, and all strings against the states: totals."""
    agreements = [record["result"] for record in statistics(records, "agreement")]
    swapped = [result["swapped"] for result in agreements]
    censuses = statistics(records, "census")
    counts = [row for record in censuses for row in record["result"]["rows"]]
    lines = [
        ("strings given to the transformer", total(agreements, "strings")),
        ("determined positions of their copies", total(agreements, "positions")),
        ("… with their halves swapped", total(swapped, "positions")),
        ("disagreements with the n-gram copier", total([*agreements, *swapped], "disagreements")),
        ("strings in which an n-gram repeats", total(agreements, "repeat_strings")),
        ("whole copies against the rule", total(agreements, "rule_disagreements")),
        ("engines in the census", len(censuses)),
        ("strings given to them", total(counts, "strings")),
        ("lengths with more strings copied than states", sum(row["copied"] > row["states"] for row in counts)),
    ]
    return table(["", "count"], [[what, f"{count:,}"] for what, count in lines])


def law(records: Sequence[Record]) -> str:
    """L½ of the largest n of each vocabulary, beside the formula."""
    rows = []
    of_uniform = [record for record in statistics(records, "half-length") if record["result"]["formula"]]
    for size in sorted({vocabulary(record) for record in of_uniform}):
        mine = sorted((one for one in of_uniform if vocabulary(one) == size), key=lambda one: one["case"]["n"])
        for record in (mine[len(mine) // 2], mine[-1]):
            result = record["result"]
            half, formula = result["half"], result["formula"]["half"]
            rows.append([
                *(f"{size}", f"{record['case']['n']}", f"{result['samples']:,}"),
                f"{half['value']:,} ({half['low']:,} to {half['high']:,})",
                *(f"{formula:,.0f}", f"{result['parameters']:,}"),
            ])  # fmt: skip
    return table(["D", "heads n", "strings grown", "L½ (95%)", "formula", "parameters"], rows)


def slopes(records: Sequence[Record]) -> str:
    """Growth of log2(L½ - n) with each head."""
    found = score.verdicts(records)["half_length"]["slopes"]
    rows = []
    for size, one in sorted((int(size), one) for size, one in found.items()):
        measured = f"{one['value']:.4f} ({one['low']:.4f} to {one['high']:.4f})"
        rows.append([f"{size}", f"{one['points']}", measured, f"{one['expected']:.4f}"])
    return table(["D", "values of n", "slope of log2(L½ − n) (95%)", "½·log2 D"], rows)


def heads(records: Sequence[Record]) -> str:
    """How far trained transformers of few heads copy half of the strings, beside the n-gram copier of as many."""
    uniform = [record for record in statistics(records, "half-length") if record["result"]["formula"]]
    measured = {(vocabulary(one), one["case"]["n"]): one["result"] for one in uniform}
    rows = []
    for engine, cells in by_engine(records, "heads-"):
        n = cells[0]["case"]["engine"]["model"]["layers"][0]["options"]["n_heads"]
        size = vocabulary(cells[0])
        right = [one["case"]["length"] for one in cells if 2 * strings(one)["correct"] >= strings(one)["total"]]
        longest = max(right, default=0)
        beyond = [one["case"]["length"] for one in cells if one["case"]["length"] > longest]
        trained = cells[0]["case"]["engine"]["training"]["lengths"]
        at = next((shown(one) for one in cells if one["case"]["length"] == longest), "–")
        rows.append([
            *(engine, f"{size}", f"{n}", f"L ≤ {trained[-1]}", f"{longest}" if longest else "none", at),
            *(f"{min(beyond)}" if beyond else "–", f"{half_right(n, size, measured[size, n])}"),
        ])  # fmt: skip
    head = [
        *("model", "D", "heads n", "trained on", "longest measured L with half right", "there", "next measured L"),
        "longest L with half right, n-gram copier",
    ]
    return table(head, rows)


def half_right(n: int, vocab_size: int, measured: dict[str, Any]) -> int:
    """The longest L at which the n-gram copier copies at least half of the strings.

    By exact counts where these can be had; else one less than the measured L½, the shortest at which half fail.
    """
    length = n
    while (error := theory.p_ngram(length + 1, n, vocab_size)) is not None:
        if error > 1 / 2:
            return length
        length += 1
    return int(measured["half"]["value"]) - 1


def machines(records: Sequence[Record]) -> str:
    """What learned machines of b bits recall, and the delay line by bits of a number."""
    rows = []
    for prefix in ("bottleneck-", "delay-line-"):
        for engine, cells in by_engine(records, prefix):
            for cell in cells:
                result = cell["result"]
                recalled, size = result["bits_recalled"], result["state_bits"]
                rows.append([
                    *(engine, f"{vocabulary(cell)}", f"{cell['case']['length']}", f"{result['h_min']:.0f}"),
                    f"{size:,.0f}",
                    f"{recalled['mean']:.2f} ({recalled['low']:.2f} to {recalled['high']:.2f})",
                    *(f"{recalled['mean'] / size:.0%}", shown(cell)),
                ])  # fmt: skip
    head = ["engine", "D", "L", "bits of the string", "bits of state", "bits recalled (95%)", "of its state", "whole"]
    return table(head, rows)


def formats(records: Sequence[Record]) -> str:
    """The n·m at which number formats break the construction."""
    rows = []
    for record in sorted(statistics(records, "precision"), key=lambda one: (vocabulary(one), one["result"]["dtype"])):
        result = record["result"]
        first = result["first_failure"]
        tried = max(row["product"] for row in result["rows"])
        rows.append([
            *(f"{result['dtype']}, D = {vocabulary(record)}", f"{tried}", "none" if first is None else f"{first}"),
            f"{result['limit']:,}",
        ])  # fmt: skip
    return table(["format", "n·m tried to", "first that fails", "allowed to"], rows)


# --- Records --------------------------------------------------------------------------------------------


def statistics(records: Iterable[Record], name: str) -> list[Record]:
    """Records of a statistic.

    Raises
    ------
    ValueError
        If there are none.
    """
    found = [record for record in records if record["case"].get("statistic") == name]
    if not found:
        raise ValueError(f"no records of the statistic {name}: run the suite theory with --trained")
    return found


def by_engine(records: Iterable[Record], prefix: str) -> list[tuple[str, list[Record]]]:
    """Accuracy records of engines whose names begin so, by engine, in the order of vocabulary and name, and by length.

    Raises
    ------
    ValueError
        If there are none.
    """
    found: dict[str, list[Record]] = {}
    for record in records:
        if record["kind"] == "accuracy" and record["case"]["label"].startswith(prefix):
            found.setdefault(record["case"]["label"], []).append(record)
    if not found:
        raise ValueError(f"no records of engines {prefix}…: run the suite theory with --trained")

    def order(item: tuple[str, list[Record]]) -> tuple[int, list[int]]:
        numbers = [int(part) for part in item[0].replace("-d", "-").split("-") if part.isdigit()]
        return vocabulary(item[1][0]), numbers

    return [
        (name, sorted(cells, key=lambda one: (vocabulary(one), one["case"]["length"])))
        for name, cells in sorted(found.items(), key=order)
    ]


def vocabulary(record: Record) -> int:
    """D."""
    return int(record["case"]["task"]["vocab_size"])


def strings(record: Record) -> dict[str, Any]:
    """Counts of whole strings."""
    counts: dict[str, Any] = record["result"]["strings"]
    return counts


def total(rows: Iterable[dict[str, Any]], key: str) -> int:
    """Of all rows."""
    return sum(row[key] for row in rows)


TABLES = {"checked": checked, "formats": formats, "law": law, "slopes": slopes, "heads": heads, "machines": machines}


def page(text: str, folder: Path) -> str:
    """The page with its tables made anew from a results folder.

    Raises
    ------
    ValueError
        If marks or records are missing.
    """
    records = read(folder)
    for name, make in TABLES.items():
        text = splice(text, make(records), name)
    return text


def main(arguments: list[str] | None = None) -> int:
    """Splice the tables into the page."""
    return splice_page(__doc__.splitlines()[0], page, "theory, run with --trained", arguments)


if __name__ == "__main__":
    sys.exit(main())
