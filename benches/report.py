"""Ratios of a run of the benchmarks: a table on the terminal, and in README between its marks.

    python -m pytest benches --benchmark-only --benchmark-json=results/benchmarks.json
    python benches/report.py results/benchmarks.json --readme README.md

A benchmark says in ``extra_info``: ``tokens`` (how many it works on: speeds are tokens a second), and if it likes
``peer`` (the name of somebody else's way), ``bytes`` (read and written) and ``memory`` (this one is the copy that the
shares of memory speed refer to). The first benchmark of a group that is no peer is what the peers are compared with.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- BEGIN: benchmarks -->", "<!-- END: benchmarks -->"
COMMAND = "make bench"
HEADER = ("", "M tokens/s", "seconds", "spread", "ours is faster by", "of memory speed")


def rows(benchmarks: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Make the cells of one group: name, speed, median, spread (quartiles / median), ratio, share of memory speed."""
    own = next((b for b in benchmarks if "peer" not in b["extra_info"]), None)
    copy = next((b for b in benchmarks if b["extra_info"].get("memory")), None)
    return [
        (
            name(b),
            f"{speed(b) / 1e6:.3g}",
            f"{b['stats']['median']:.3g}",
            f"±{b['stats']['iqr'] / 2 / b['stats']['median']:.0%}",
            f"{speed(own) / speed(b):.2g}×" if own and "peer" in b["extra_info"] else "",
            f"{bandwidth(b) / bandwidth(copy):.0%}" if copy and "peer" not in b["extra_info"] else "",
        )
        for b in benchmarks
    ]


def name(benchmark: dict[str, Any]) -> str:
    """Name a benchmark: its peer, or its function and what its group does not say of its parameters."""
    info = benchmark["extra_info"]
    if "peer" in info:
        return str(info["peer"])
    function = benchmark["name"].split("[")[0].removeprefix("test_").replace("_", " ")
    values = [str(value) for value in (benchmark["params"] or {}).values()]
    said = [value for value in values if value.isidentifier() and value not in benchmark["group"]]
    memory = f" (peak {info['peak_mb']:.0f} MB above the tokens)" if "peak_mb" in info else ""
    return f"**{' '.join([function, *said])}**{memory}"


def speed(benchmark: dict[str, Any]) -> float:
    """Tokens a second, by the median."""
    return float(benchmark["extra_info"]["tokens"] / benchmark["stats"]["median"])


def bandwidth(benchmark: dict[str, Any]) -> float:
    """Bytes a second, by the median."""
    return float(benchmark["extra_info"]["bytes"] / benchmark["stats"]["median"])


def groups(run: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Benchmarks by group, both in the order of the run; those that work on no tokens are left out."""
    found: dict[str, list[dict[str, Any]]] = {}
    for benchmark in run["benchmarks"]:
        if "tokens" in benchmark["extra_info"]:
            found.setdefault(benchmark["group"] or "", []).append(benchmark)
    return found


def markdown(run: dict[str, Any]) -> str:
    """Make a table of all groups, with the machine and the command that made it."""
    machine = run["machine_info"]
    cpu = machine.get("cpu", {}).get("brand_raw") or machine.get("machine", "")
    lines = [
        f"`{COMMAND}`, {run['datetime'][:10]}, {cpu}, Python {machine['python_version']}; one thread, medians, "
        "spread: half the distance of the quartiles.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|---" + "|--:" * (len(HEADER) - 1) + "|",
    ]
    for group, benchmarks in groups(run).items():
        lines.append(f"| *{group}* " + "| " * (len(HEADER) - 1) + "|")
        lines += ["| " + " | ".join(row) + " |" for row in rows(benchmarks)]
    return "\n".join(lines)


def terminal(run: dict[str, Any]) -> str:
    """Make the same for the terminal, in columns."""
    lines: list[str] = []
    for group, benchmarks in groups(run).items():
        cells = [(group, *HEADER[1:]), *((row[0].replace("**", ""), *row[1:]) for row in rows(benchmarks))]
        first = max(len(row[0]) for row in cells)
        lines += [f"{row[0]:<{first}}" + "".join(f"{cell:>19}" for cell in row[1:]) for row in cells]
        lines.append("")
    return "\n".join(lines)


def splice(text: str, table: str) -> str:
    """Put a table between the marks of a text."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the marks {BEGIN} and {END} are not there")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Print the ratios of a run; with ``--readme`` also splice them into a Markdown file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="JSON of pytest-benchmark")
    parser.add_argument("--readme", type=Path, help="Markdown file with the marks")
    options = parser.parse_args(arguments)
    try:
        run = json.loads(options.run.read_text())
        print(terminal(run))
        if options.readme:
            options.readme.write_text(splice(options.readme.read_text(), markdown(run)))
    except (OSError, ValueError, KeyError) as error:
        print(f"{options.run}: {error!r}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
