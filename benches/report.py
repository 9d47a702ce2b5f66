"""Ratios of a run of the benchmarks: a table on the terminal, and in README between its marks.

    python -m pytest benches --benchmark-only --benchmark-json=run.json
    python benches/report.py run.json --readme README.md --records results

A benchmark says in ``extra_info``: ``tokens`` (how many it works on: speeds are tokens a second), and if it likes
``peer`` (the name of somebody else's way), ``of`` (the function of ours that a peer is compared with; the first of the
group where it is not said), ``bytes`` (read and written) and ``memory`` (this one is the copy that the shares of memory
speed refer to).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- BEGIN: benchmarks -->", "<!-- END: benchmarks -->"
COMMAND = "make bench"
HEADER = ("", "M tokens/s", "seconds", "spread", "ours is faster by", "of memory speed")


def rows(benchmarks: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Make the cells of one group: name, speed, median, spread (quartiles / median), ratio, share of memory speed."""
    copy = next((b for b in benchmarks if b["extra_info"].get("memory")), None)
    return [
        (
            name(b),
            f"{speed(b) / 1e6:.3g}",
            f"{b['stats']['median']:.3g}",
            f"±{b['stats']['iqr'] / 2 / b['stats']['median']:.0%}",
            f"{speed(own) / speed(b):.2g}×" if (own := counterpart(b, benchmarks)) else "",
            f"{bandwidth(b) / bandwidth(copy):.0%}" if copy and "peer" not in b["extra_info"] else "",
        )
        for b in benchmarks
    ]


def counterpart(benchmark: dict[str, Any], group: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Give our benchmark that a peer is compared with; None for what is no peer, and for a peer that has none."""
    if "peer" not in benchmark["extra_info"]:
        return None
    function = benchmark["extra_info"].get("of", "")
    ours = (b for b in group if "peer" not in b["extra_info"])
    return next((b for b in ours if not function or function_of(b) == function), None)


def function_of(benchmark: dict[str, Any]) -> str:
    """Name the function of a benchmark, without its parameters."""
    return str(benchmark["name"]).split("[")[0].removeprefix("test_")


def name(benchmark: dict[str, Any]) -> str:
    """Name a benchmark: its peer, or its function and what its group does not say of its parameters."""
    info = benchmark["extra_info"]
    if "peer" in info:
        return str(info["peer"])
    function = function_of(benchmark).replace("_", " ")
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


def cpu(run: dict[str, Any]) -> str:
    """Name the processor of a run."""
    machine = run["machine_info"]
    return str(machine.get("cpu", {}).get("brand_raw") or machine["machine"])


def record(run: dict[str, Any]) -> dict[str, Any]:
    """Make what is kept of a run: what the tables are made of, and nothing that names the machine."""
    machine = {key: run["machine_info"][key] for key in ("machine", "system", "python_version")}
    kept = ("name", "group", "params", "extra_info")
    statistics = ("min", "median", "iqr", "rounds")
    return {
        "datetime": run["datetime"],
        "machine_info": machine | {"cpu": {"brand_raw": cpu(run)}},
        "benchmarks": [
            {key: b[key] for key in kept} | {"stats": {key: b["stats"][key] for key in statistics}}
            for b in run["benchmarks"]
        ],
    }


def record_name(kind: str, day: str, processor: str) -> str:
    """Name the file of a record by its kind, day (ISO) and processor."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"\(.*?\)|@.*", "", processor).lower())
    return f"{kind}-{day[:10]}-{'-'.join(words[:5])}.json"


def markdown(run: dict[str, Any]) -> str:
    """Make a table of all groups, with the machine and the command that made it."""
    python = run["machine_info"]["python_version"]
    lines = [
        f"`{COMMAND}`, {run['datetime'][:10]}, {cpu(run)}, Python {python}; one thread, medians.",
        "*Spread*: half the distance of the quartiles. *Ours is faster by*: our speed (in bold) over the peer's, in",
        "the same run. *Of memory speed*: bytes read and written a second, as a share of a copy's of as many bytes.",
        "*Seconds* are those of one call; slow peers were given less data.",
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
    """Print the ratios of a run; splice them into a Markdown file and keep a record, where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="JSON of pytest-benchmark")
    parser.add_argument("--readme", type=Path, help="Markdown file with the marks")
    parser.add_argument("--records", type=Path, help="folder in which a record of the run is kept")
    options = parser.parse_args(arguments)
    try:
        run = json.loads(options.run.read_text())
        print(terminal(run))
        if options.readme:
            options.readme.write_text(splice(options.readme.read_text(), markdown(run)))
        if options.records:
            options.records.mkdir(parents=True, exist_ok=True)
            path = options.records / record_name("benchmarks", run["datetime"], cpu(run))
            path.write_text(json.dumps(record(run), indent=1) + "\n")
    except (OSError, ValueError, KeyError) as error:
        print(f"{options.run}: {error!r}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
