"""``probe``: whether a model looks up what it copies, by how many tokens, and with which heads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ngram_copy.cli.console import UserError, plain, print_json, stderr, stdout, table, user_errors
from ngram_copy.cli.explore import key_values

if TYPE_CHECKING:
    from rich.console import Console

    from ngram_copy.engines import Engine
    from ngram_copy.tasks import Task


def probe(
    target: Annotated[
        str,
        typer.Argument(metavar="CHECKPOINT|ENGINE", help="Folder of a trained model, or an engine, such as ngram."),
    ],
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", metavar="KEY=VALUE", help="An option of the engine.")
    ] = None,
    task: Annotated[str, typer.Option(help="A task that copies its whole string.")] = "copy",
    task_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the task; may be given again.")
    ] = None,
    length: Annotated[int, typer.Option("--length", "-L", min=1, help="Tokens of the strings.")] = 32,
    max_n: Annotated[int, typer.Option(min=1, help="The longest n-gram that is forced or planted.")] = 8,
    strings: Annotated[int, typer.Option(min=1, max=10**6, help="Strings of each n.")] = 200,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the strings.")] = 0,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Threads.")] = 1,
    device: Annotated[
        str, typer.Option(help="Where a checkpoint runs: auto (a GPU where there is one), cpu, cuda, …")
    ] = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Folder for probe.json, probe.html and charts.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")] = False,
) -> None:
    """Say whether a model looks up what it copies, by how many tokens, and with which heads.

    An n-gram from elsewhere in the string is forced into the middle of its copy:
    a model that looks it up goes on after it. The smallest n at which half of the
    copies do is its effective n.

    [bold]Examples[/bold]

      ngram-copy probe ngram --option n=3

      ngram-copy probe results/mine/checkpoints/CASE --length 64 --out results/probe

      ngram-copy probe prefix -o kept=8 --json | jq .effective_n
    """
    from ngram_copy import probes

    options = key_values(option or [])
    task_options = key_values(task_option or [], "--task-option")
    made, engine, name = _make(target, options, task, task_options, device)
    with user_errors(ValueError, MemoryError), stderr().status("probing …"), _torch_threads(threads):
        result = probes.probe(engine, made, length, name=name, strings=strings, seed=seed, max_n=max_n, threads=threads)
    written = []
    if out is not None:
        from ngram_copy.probes.drawing import write

        with user_errors(OSError):
            written = write(result, out)
    if as_json:
        print_json(result)
        return
    screen = stdout()
    _show_teleports(result, screen)
    _show_repeats(result, screen)
    _show_heads(result, screen)
    if written:
        screen.print(f"\nWritten to {plain(out)}: {', '.join(plain(path.relative_to(out or '')) for path in written)}")


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """Torch's threads, and back; nothing where torch is not used."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _make(
    target: str, options: dict[str, Any], task: str, task_options: dict[str, Any], device: str
) -> tuple[Task, Engine, str]:
    """The task, the engine, and what to call it."""
    from ngram_copy.engines import ENGINES
    from ngram_copy.suite import SuiteError, check_options, did_you_mean, make_task

    if target in ENGINES:
        if target == "trained":
            raise UserError("the engine trained is probed by its checkpoint: name the folder")
        with user_errors(SuiteError):
            made = make_task(task, task_options, "probe")
            checked = check_options(ENGINES[target], options, "probe")
        with user_errors(ValueError, OSError):
            make: Callable[..., Engine] = ENGINES[target]
            engine = make(made.vocab, **checked)
        said = ", ".join(f"{key} = {value}" for key, value in checked.items() if key in options)
        return made, engine, f"{target}, {said}" if said else target
    if not Path(target).is_dir():
        raise UserError(f"{target}: no folder of a checkpoint, and no engine{did_you_mean(target, ENGINES)}")
    if options:
        raise UserError(f"--option is for engines: a checkpoint has none, so {', '.join(options)} cannot be set")
    return _load(target, task, task_options, device)


def _load(folder: str, task: str, task_options: dict[str, Any], device: str) -> tuple[Task, Engine, str]:
    """The task, with the vocabulary of the model if it has that option, and the engine over a checkpoint."""
    from ngram_copy.engines.neural import NeuralEngine, require_torch
    from ngram_copy.suite import SuiteError, make_task, signature_of
    from ngram_copy.tasks import TASKS, VocabularySpec

    with user_errors(ValueError, OSError):
        require_torch("a checkpoint")
        from ngram_copy.models.checkpoint import load_model
        from ngram_copy.models.machine import find_device

        model = load_model(folder).to(find_device(device))
    special = VocabularySpec(0).total
    fits = task in TASKS and "vocab_size" in signature_of(TASKS[task])
    defaults = {"vocab_size": model.config.vocab_size - special} if fits else {}
    with user_errors(SuiteError, ValueError):
        made = make_task(task, {**defaults, **task_options}, "probe")
        engine = NeuralEngine(made.vocab, model)
    return made, engine, Path(folder).resolve().name


# --- What is printed ------------------------------------------------------------------------------------


def _show_teleports(result: Mapping[str, Any], screen: Console) -> None:
    from ngram_copy.probes.teleport import DESIGNS, ONCE, THRICE, least_length, reading

    where = f"{result['task']['name']}, L = {result['length']}, {result['strings']} strings of each n, seed"
    screen.print(f"[bold]Teleports[/bold]  {plain(where)} {result['seed']}\n")
    plain_strings = result["plain"]
    screen.print(
        f"Plain copies, whole: {plain_strings['count']} of {result['strings']} ({_interval(plain_strings)}).\n"
    )
    columns = ("n", *ONCE)
    shown = table("n", "there", "95%", *ONCE[1:], right=columns)
    for one in result["teleports"]:
        said = one["once"]["said"]
        counts = [str(said[name]["count"]) for name in ONCE]
        shown.add_row(str(one["n"]), counts[0], _interval(said["there"]), *counts[1:])
    screen.print("The n-gram occurs once in the string. There: what follows it; offset: the token of the old place;")
    screen.print("resumed: as if nothing was forced.")
    screen.print(shown)
    thrice = [one for one in result["teleports"] if one["ahead"]]
    if thrice:
        screen.print(
            "\nIt occurs three times, ahead of the copy's place or behind it; the middle one is the longest match."
        )
        names = [f"{design}: {name}" for design in DESIGNS[1:] for name in (*THRICE[:3], "else")]
        shown = table("n", *names, right=("n", *names))
        for one in thrice:
            counts = []
            for design in DESIGNS[1:]:
                said = {name: count["count"] for name, count in one[design]["said"].items()}
                counts += [said.pop(name) for name in THRICE[:3]]
                counts.append(sum(said.values()))
            shown.add_row(str(one["n"]), *map(str, counts))
        screen.print(shown)
    if len(thrice) < len(result["teleports"]):
        n = len(thrice) + 1
        screen.print(f"[dim]Three times: n = {n} needs strings of {least_length(n, 'ahead')} tokens or more.[/dim]")
    screen.print(f"\n[bold]{plain(reading(result))}[/bold]")


def _show_repeats(result: Mapping[str, Any], screen: Console) -> None:
    if not result["repeats"]:
        return
    screen.print("\n[bold]Planted repeats[/bold]  beside an n-gram copier of n tokens; right:\n")
    columns = ("n", "strings", "copier", "after 2nd", "its after 2nd", "pairs", "its n")
    shown = table("n", "successors", *columns[1:], right=columns)
    for one in result["repeats"]:
        who, copier = one["engine"], one["copier"]
        shown.add_row(
            str(one["n"]),
            one["successor"],
            *(str(count) for count in (who["strings"]["count"], copier["strings"]["count"])),
            *(str(count) for count in (who["second"]["count"], copier["second"]["count"], one["pairs"])),
            str(one["copier_n"]),
        )
    screen.print(shown)
    broken = result["breaks_at"]
    said = "at none of these" if broken is None else f"from n = {broken} on"
    if 2 * result["plain"]["count"] < result["strings"]:
        return
    screen.print(f"\n[bold]With different successors, less than half of the strings are right: {said}.[/bold]")


def _show_heads(result: Mapping[str, Any], screen: Console) -> None:
    if result["heads"] is None:
        screen.print(f"\n[bold]Heads[/bold]  left out: {plain(result['heads_left_out'])}.")
        return
    removed = {one["what"]: one["strings"] for one in result["removed"]}
    whole = removed["nothing"]
    screen.print(
        f"\n[bold]Heads[/bold]  where they look while copying, and whole strings without them; with all: "
        f"{whole['count']} of {whole['total']}\n"
    )
    columns = ("mass", "without it", "95%")
    shown = table("head", "kind", "mostly at", *columns, right=columns)
    for head in result["heads"]:
        name = f"{head['layer']}.{head['head']}"
        places = {f"{k} back" if k else "itself": mass for k, mass in enumerate(head["back"])}
        places |= {f"match + {k}" if k else "match": mass for k, mass in enumerate(head["after"])}
        place = max(places, key=lambda key: places[key])
        lost = removed[name]
        shown.add_row(name, head["kind"], place, f"{places[place]:.2f}", str(lost["count"]), _interval(lost))
    screen.print(shown)
    for what, lost in removed.items():
        if what.startswith("all "):
            screen.print(f"Without {what}: {lost['count']} of {lost['total']} ({_interval(lost)})")


def _interval(count: Mapping[str, Any]) -> str:
    """In shares: every row of a probe has one total."""
    return f"{count['low']:.3f} … {count['high']:.3f}"
