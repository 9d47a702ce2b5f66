"""``construct``: the transformer whose weights are set by formula: make it, let it copy, doubt it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ngram_copy.cli.console import UserError, plain, plural, print_json, stderr, stdout, table, user_errors

if TYPE_CHECKING:
    from ngram_copy.results import Record

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="The transformer of two layers that is the n-gram copier by formula: nothing in it is trained.",
    epilog="[bold]Begin with[/bold]  ngram-copy construct save --out results/copier   ·   "
    "ngram-copy construct copy results/copier --length 4096   ·   ngram-copy construct check --strings 2000",
)

_VOCABULARIES = [2, 3, 4, 8, 26, 64]
_NGRAMS = list(range(1, 13))
_CONSTRUCTION = "construction"  # what save keeps beside the weights

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the strings.")]
Threads = Annotated[
    int, typer.Option(min=1, max=1024, help="Processes beside each other; they change the time, not the results.")
]


# --- One transformer ------------------------------------------------------------------------------------


@app.command()
def save(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.")],
    n: Annotated[int, typer.Option("--n", "-n", help="Tokens that are looked up: heads of the first layer.")] = 8,
    vocab: Annotated[int, typer.Option(help="D, the number of data tokens.")] = 26,
    max_len: Annotated[int, typer.Option(help="Longest string to copy.")] = 4096,
    error: Annotated[float, typer.Option(help="Attention left for what does not match, in (0, 1].")] = 0.01,
    value: Annotated[str, typer.Option(help="What is averaged over several matches: bits or one-hot.")] = "bits",
    dtype: Annotated[str, typer.Option(help="float32, float64, float16 or bfloat16.")] = "float32",
    force: Annotated[bool, typer.Option("--force", help="Allow a dtype beyond its n·m, where it breaks.")] = False,
    as_json: Json = False,
) -> None:
    """Construct a transformer and save it as an ordinary checkpoint.

    What is saved is config and weights: to load it, no formula is needed.

    [bold]Examples[/bold]

      ngram-copy construct save --n 8 --vocab 26 --max-len 4096 --out results/copier

      ngram-copy construct save --n 12 --vocab 2 --max-len 100 --dtype bfloat16 --out results/small
    """
    from ngram_copy.engines.neural import require_torch

    made_of = {"n": n, "vocab_size": vocab, "max_len": max_len, "error": error, "value": value, "dtype": dtype}
    with user_errors(ValueError, OSError, MemoryError):
        require_torch("the constructed transformer")
        from ngram_copy.models.checkpoint import WEIGHTS, read_extra, save_model
        from ngram_copy.models.construct import copy_transformer
        from ngram_copy.statistics.agreement import named_dtype, sizes

        if (out / WEIGHTS).exists() and _CONSTRUCTION not in read_extra(out):
            raise UserError(f"{out} holds a checkpoint that was not constructed: choose another --out")
        model = copy_transformer(n, vocab, max_len, error=error, value=value, dtype=named_dtype(dtype), force=force)
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        with stderr().status(f"writing {plural(weights, 'byte')} …"):
            save_model(out, model, {_CONSTRUCTION: made_of})
    path = out / WEIGHTS
    size = path.stat().st_size
    found = {**made_of, **sizes(n, model), "bytes": size, "path": str(path)}
    if as_json:
        print_json(found)
        return
    screen = stdout()
    screen.print(
        f"n = {n}: {found['heads']} heads ({n} and 1), width {found['d_model']:,}, "
        f"{found['parameters']:,} parameters, {plural(size, 'byte')}"
    )
    screen.print(plain(path), soft_wrap=True)


@app.command()
def copy(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A checkpoint, such as `construct save` writes.")],
    length: Annotated[
        int | None,
        typer.Option(
            "--length", "-L", min=1, help="Tokens of the string.", show_default="1000, or the longest it was made for"
        ),
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Load a checkpoint as an ordinary model, and let it copy a random string freely.

    The model reads the string, is cut to bytes, and goes on from these alone,
    token by token, until it says the end. Exit code 1 if the copy is not exact.

    [bold]Examples[/bold]

      ngram-copy construct copy results/copier --length 4096

      ngram-copy construct copy results/copier --length 100 --seed 7 --json
    """
    from ngram_copy.engines.neural import NeuralEngine, require_torch
    from ngram_copy.tasks.base import VocabularySpec
    from ngram_copy.tasks.copy import Copy

    screen = stderr()
    with user_errors(ValueError, OSError, MemoryError):
        require_torch("a checkpoint")
        from ngram_copy.models.checkpoint import load_model, read_extra

        model = load_model(folder)
        made_of = read_extra(folder).get(_CONSTRUCTION, {})
        length = min(1000, made_of.get("max_len", 1000)) if length is None else length
        if length > made_of.get("max_len", length):
            raise UserError(f"{folder} was made for strings of up to {made_of['max_len']:,} tokens, not {length:,}")
        task = Copy(vocab_size=model.config.vocab_size - VocabularySpec(0).total)
        engine = NeuralEngine(task.vocab, model)
        batch = task.batch(length, seed=seed, split="test", start=0, count=1)
        with screen.status(f"copying {plural(length, 'token')} …"):
            states = engine.cut(batch.prompts())
            emitted = engine.resume(states, length + 2)[0].tolist()
    answer = batch.answers()[0].tolist()
    right = next((at for at, (a, b) in enumerate(zip(answer, emitted, strict=False)) if a != b), len(emitted))
    found: dict[str, Any] = {
        "length": length,
        "seed": seed,
        "exact": emitted[:length] == answer[:-1],
        "stopped": emitted == answer,
        "right": min(right, length),
        "emitted": len(emitted),
        "state_bytes": len(states[0]),
    }
    if made_of:
        from ngram_copy.statistics.agreement import has_repeat

        found["repeat"] = bool(has_repeat(batch.tokens[:, 1 : length + 1], made_of["n"])[0])
    if as_json:
        print_json(found)
    else:
        _show_copy(found, made_of)
    if not found["stopped"]:
        raise typer.Exit(1)


def _show_copy(found: Mapping[str, Any], made_of: Mapping[str, Any]) -> None:
    screen = stdout()
    length = found["length"]
    if found["exact"]:
        said = "and stopped at its end" if found["stopped"] else "but did not stop at its end"
        screen.print(f"copied {plural(length, 'token')} exactly, {said}")
    else:
        screen.print(f"not exact: {found['right']:,} of {plural(length, 'token')} before the first that is wrong")
    if "repeat" in found:
        gram = f"{made_of['n']}-gram"
        said = f"some {gram} of the string repeats: it must fail" if found["repeat"] else f"no {gram} of it repeats"
        screen.print(f"{said}; {plural(found['state_bytes'], 'byte')} of state at the cut")


# --- Proofs by counting ---------------------------------------------------------------------------------


@app.command()
def check(
    strings: Annotated[int, typer.Option(min=2, help="Random strings in all.")] = 100_000,
    vocab: Annotated[
        list[int] | None,
        typer.Option(min=2, help="D; may be given again.", show_default="2, 3, 4, 8, 26 and 64"),
    ] = None,
    n: Annotated[
        list[int] | None, typer.Option("--n", "-n", min=1, help="May be given again.", show_default="1 … 12")
    ] = None,
    length: Annotated[int, typer.Option("--length", "-L", min=1, help="Longest string.")] = 512,
    value: Annotated[str, typer.Option(help="What is averaged over several matches: bits or one-hot.")] = "bits",
    dtype: Annotated[str, typer.Option(help="float32, float64, float16 or bfloat16.")] = "float32",
    seed: Seed = 0,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Hold the constructed transformer against the n-gram copier, and count.

    Strings of random lengths, shorter than n among them; uniform ones, and ones
    in which an n-gram was planted twice, with the same successor and with
    different ones. At each position where all earlier occurrences of the last n
    tokens have one successor, the transformer must say it; and it must copy a
    string with its end exactly when no n-gram of it repeats. Exit code 1 if it
    differs anywhere.

    [bold]Examples[/bold]

      ngram-copy construct check --strings 100000 --threads 2

      ngram-copy construct check --strings 2000 --vocab 26 --n 3 --length 200

      ngram-copy construct check --strings 500 --vocab 2 -n 4 --dtype bfloat16 --json
    """
    cells = [
        (size, one, kind)
        for size in dict.fromkeys(vocab or _VOCABULARIES)
        for one in dict.fromkeys(n or _NGRAMS)
        for kind in ("uniform", "same", "different")
        if kind == "uniform" or length >= 2 * (one + 1)  # two blocks of a planted n-gram and its successor
    ]
    if strings < 2 * len(cells):
        raise UserError(f"{len(cells)} kinds of strings (D, n, source) need at least {2 * len(cells)} --strings")
    lines = ['name = "check"']
    for index, (size, one, kind) in enumerate(cells):
        planted = "" if kind == "uniform" else f'n = {one}\nsuccessor = "{kind}"\n'
        name = "copy" if kind == "uniform" else "duplicate_ngram"
        examples = strings // len(cells) + (index < strings % len(cells))
        lines.append(
            f'[tasks.{kind}-{size}-{one}]\ntask = "{name}"\nvocab_size = {size}\n{planted}'
            f'[[statistics]]\nstatistic = "agreement"\ntasks = ["{kind}-{size}-{one}"]\nn = [{one}]\n'
            f"lengths = [{length}]\nexamples = {examples}\nseeds = [{seed * len(cells) + index}]\n"
            f"value = {json.dumps(value)}\ndtype = {json.dumps(dtype)}"
        )
    records = _run("\n".join(lines), threads, quiet=as_json)
    rows = _sums(records)
    total = rows[-1]
    if as_json:
        print_json({"total": total, "rows": rows[:-1], "cells": [_cell(record) for record in records]})
    else:
        _show_check(rows)
    if total["disagreements"] or total["rule_disagreements"]:
        raise typer.Exit(1)


_COUNTS = (
    "strings",
    "shorter_strings",
    "positions",
    "undetermined",
    "disagreements",
    "repeat_strings",
    "rule_disagreements",
)


def _sums(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Counts by D, and of all; positions and disagreements of swapped halves included."""
    sizes = sorted({record["case"]["task"]["vocab_size"] for record in records})
    rows = []
    for size in [*sizes, None]:
        results = [record["result"] for record in records if size in {None, record["case"]["task"]["vocab_size"]}]
        row = {name: sum(result[name] for result in results) for name in _COUNTS}
        for name in ("positions", "disagreements"):
            row[name] += sum(result["swapped"][name] for result in results)
        rows.append({"vocab_size": size, **row})
    return rows


def _cell(record: Record) -> dict[str, Any]:
    case = record["case"]
    return {"task": case["task"], "n": case["n"], "seed": case["seed"], "result": record["result"]}


def _show_check(rows: Sequence[Mapping[str, Any]]) -> None:
    screen = stdout()
    columns = (
        "D",
        "strings",
        "shorter than n",
        "determined",
        "wrong there",
        "undetermined",
        "with a repeat",
        "against",
    )
    names = ("strings", "shorter_strings", "positions", "disagreements", "undetermined", "repeat_strings")
    shown = table(*columns, right=columns)
    for row in rows:
        size = "all" if row["vocab_size"] is None else str(row["vocab_size"])
        shown.add_row(size, *(f"{row[name]:,}" for name in (*names, "rule_disagreements")))
    screen.print(shown)
    total = rows[-1]
    screen.print(
        f"\n{plural(total['disagreements'], 'disagreement')} with the n-gram copier "
        f"at {total['positions']:,} determined positions;\n"
        f"{plural(total['rule_disagreements'], 'string')} of {total['strings']:,} against the rule "
        "that a copy succeeds exactly when no n-gram repeats"
    )


@app.command()
def census(
    length: Annotated[int, typer.Option("--length", "-L", min=1, help="Longest string.")] = 12,
    vocab: Annotated[int, typer.Option(min=2, help="D, the number of data tokens.")] = 2,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Let engines copy every string there is, and count the states they were in.

    An engine copies no more strings of a length than it has states at the cut.
    The largest share of copied strings in states is printed: never above 1.
    Exit code 1 if it is.

    [bold]Examples[/bold]

      ngram-copy construct census

      ngram-copy construct census --length 6 --vocab 3 --json
    """
    records = _run(_census_suite(length, vocab), threads, quiet=as_json)
    rows = []
    for record in records:
        result = record["result"]
        engine, bits = record["case"]["engine"], record["case"].get("options", {}).get("bits", 0)
        options = {name: value for name, value in engine.items() if name != "name"}
        shown = {"engine": engine["name"], "label": record["case"]["label"], "options": options, "bits": bits}
        rows.append({**shown, **{key: result[key] for key in ("rows", "largest_share", "at")}})
    largest = max(row["largest_share"] for row in rows)
    if as_json:
        print_json({"vocab_size": vocab, "length": length, "largest_share": largest, "engines": rows})
    else:
        _show_census(rows, vocab, largest)
    if largest > 1:
        raise typer.Exit(1)


def _census_suite(length: int, vocab: int) -> str:
    engines = {
        "ngram-3": 'engine = "ngram"\nn = 3',
        "prefix-4": 'engine = "prefix"\nkept = 4',
        "table-4-unverified": 'engine = "bounded"\nn = 3\nslots = 4\nkey_bits = 0',
        "table-16-verified": 'engine = "bounded"\nn = 3\nslots = 16\nkey_bits = 8',
        "constructed-3": f'engine = "constructed"\nn = 3\nmax_len = {length}',
        **{f"delay-line-{bits}": f'engine = "delay-line"\nlength = {length}\nbits = {bits}' for bits in (1, 3)},
    }
    # (engines, options of the statistic)
    tables: list[tuple[list[str], str]] = [([name for name in engines if not name.startswith("delay")], "")]
    tables += [(["constructed-3"], f"bits = {bits}") for bits in (1, 2)]
    tables += [([name for name in engines if name.startswith("delay")], "shorter = false")]
    lines = ['name = "census"', f'[tasks.strings]\ntask = "copy"\nvocab_size = {vocab}']
    lines += [f"[engines.{name}]\n{options}" for name, options in engines.items()]
    lines += [
        f'[[statistics]]\nstatistic = "census"\ntasks = ["strings"]\nengines = {json.dumps(names)}\n'
        f"lengths = [{length}]\nexamples = 1000\n{options}"
        for names, options in tables
    ]
    return "\n".join(lines)


def _show_census(rows: Sequence[Mapping[str, Any]], vocab: int, largest: float) -> None:
    screen = stdout()
    right = ("L", "strings", "states", "copied", "share", "largest", "at L")
    shown = table("engine", *right, right=right)
    for row in rows:
        last = row["rows"][-1]
        rounded = f", {plural(row['bits'], 'bit')} a number" if row["bits"] else ""
        counts = (f"{last[key]:,}" for key in ("length", "strings", "states", "copied"))
        share = f"{last['copied'] / last['states']:.3f}"
        shown.add_row(plain(row["label"] + rounded), *counts, share, f"{row['largest_share']:.3f}", str(row["at"]))
    screen.print(f"Every string of D = {vocab}: of the longest L, and the largest share of all L.\n")
    screen.print(shown)
    screen.print(f"\nlargest share of copied strings in states: {largest:g}")


@app.command()
def precision(
    vocab: Annotated[
        list[int] | None, typer.Option(min=2, help="D; may be given again.", show_default="2 and 26")
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="May be given again.", show_default="float16 and bfloat16")
    ] = None,
    length: Annotated[int, typer.Option("--length", "-L", min=1, help="Tokens of a string.")] = 128,
    strings: Annotated[int, typer.Option(min=2, help="Strings for each n that is tried.")] = 8,
    up_to: Annotated[int, typer.Option(min=2, help="Largest n·m that is tried.")] = 512,
    seed: Seed = 0,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Search for the n·m at which the transformer breaks in a dtype.

    m is the number of bits of a token. n is doubled until the transformer
    differs from the n-gram copier at a determined position, then bisected.

    [bold]Examples[/bold]

      ngram-copy construct precision --threads 2

      ngram-copy construct precision --vocab 26 --dtype bfloat16 --up-to 400 --json
    """
    lines = ['name = "precision"']
    for size in dict.fromkeys(vocab or [2, 26]):
        lines.append(f'[tasks.copy-{size}]\ntask = "copy"\nvocab_size = {size}')
        lines += [
            f'[[statistics]]\nstatistic = "precision"\ntasks = ["copy-{size}"]\nlengths = [{length}]\n'
            f"examples = {strings}\nseeds = [{seed}]\ndtype = {json.dumps(one)}\nup_to = {up_to}"
            for one in dict.fromkeys(dtype or ["float16", "bfloat16"])
        ]
    records = _run("\n".join(lines), threads, quiet=as_json)
    rows = [{"vocab_size": record["case"]["task"]["vocab_size"], **record["result"]} for record in records]
    if as_json:
        print_json({"length": length, "strings": strings, "rows": rows})
        return
    right = ("D", "largest right", "first wrong", "wrong there", "allowed")
    shown = table("dtype", *right, right=right)
    for row in rows:
        good = max((one["product"] for one in row["rows"] if not one["disagreements"]), default=0)
        bad = next((one for one in row["rows"] if one["product"] == row["first_failure"]), None)
        failed = ("none", "") if bad is None else (f"{bad['product']:,}", f"{bad['disagreements']:,}")
        shown.add_row(row["dtype"], str(row["vocab_size"]), f"{good:,}", *failed, f"{row['limit']:,}")
    screen = stdout()
    screen.print(f"n·m of the constructed transformer on {plural(strings, 'string')} of {plural(length, 'token')}.\n")
    screen.print(shown)


# --- Inside ---------------------------------------------------------------------------------------------


def _run(suite: str, threads: int, *, quiet: bool) -> list[Record]:
    """The records of a suite that is written here, in its order; nothing stays on the disk."""
    from ngram_copy.cli.run import Display
    from ngram_copy.engines.neural import require_torch
    from ngram_copy.results import RECORDS, Writer
    from ngram_copy.run import run_cases
    from ngram_copy.suite import SuiteError, parse

    with user_errors(ValueError, SuiteError, MemoryError):
        require_torch("the constructed transformer")
        cases = parse(suite, "construct").cases()
        for case in cases:
            case.check()
    screen = stderr()
    made: dict[str, Record] = {}
    try:
        with (
            TemporaryDirectory() as folder,
            Writer(Path(folder) / RECORDS) as writer,
            Display(screen, cases, quiet=quiet) as display,
            user_errors(OSError),
        ):
            for record in run_cases(cases, writer, threads=threads, on_progress=display.advance):
                if record["kind"] == "error":
                    raise UserError(record["result"]["message"])
                made[record["case_id"]] = record
    except KeyboardInterrupt:
        screen.print(f"Stopped after {len(made):,} of {plural(len(cases), 'case')}.")
        raise typer.Exit(130) from None
    return [made[case.case_id] for case in cases]
