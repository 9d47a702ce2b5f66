"""``run`` and ``report``: from a suite to records, and from records to a report."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ngram_copy.cli.console import UserError, complain, plain, plural, print_json, stderr, stdout, user_errors

if TYPE_CHECKING:
    from rich.console import Console

    from ngram_copy.results import Record
    from ngram_copy.suite import Case


def run(
    suite: Annotated[str, typer.Argument(help="A shipped suite (see `ngram-copy list`) or the path of a .toml file.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the records and the report.", show_default="results/SUITE")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Of a suite that comes in sizes: cpu (minutes on 2 cores), paper (a GPU).")
    ] = None,
    trained: Annotated[
        bool,
        typer.Option(
            "--trained", help="With the part of a suite that trains models for long, where it has one (theory)."
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where a run stopped: a torn last line is repaired, what is done kept."),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Only cases whose name task/engine/length/seed, or one part of it, matches; may be given again.",
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="First compare some examples of each case with the task's oracle.")
    ] = False,
    threads: Annotated[
        int,
        typer.Option(
            min=1,
            max=1024,
            help="Threads, and models trained beside each other; they change the time, not the results.",
        ),
    ] = 1,
    device: Annotated[
        str,
        typer.Option(help="Where the models that it trains run: auto (a GPU where there is one), cpu, cuda, cuda:1, …"),
    ] = "auto",
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="In place of the suite's seeds.", show_default=False)
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="A model of your own beside the suite's engines: FILE.py:FUNCTION, trained as the suite's own are if "
            "it trains any, or hf:PATH, a causal model of transformers. May be given again.",
        ),
    ] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Measure each --model as it is, untrained.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON lines, and nothing else.")] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write records only.")] = False,
) -> None:
    """Run the cases of a suite; write records and a report.

    Each record is on the disk before the next case begins, a line in
    OUT/records.jsonl: a run that was stopped goes on with --resume.

    [bold]Examples[/bold]

      ngram-copy run symbolic --out results/mine

      ngram-copy run symbolic --out results/mine --resume --threads 4

      ngram-copy run my_suite.toml --only 'letters/*' --only prefix --verify

      ngram-copy run smoke --json | jq .result.strings

      ngram-copy run copy --size cpu --threads 2 --model my_model.py:build
    """
    from ngram_copy import run as runner
    from ngram_copy.engines.neural import require_torch
    from ngram_copy.results import RECORDS, ResultsError, canonical_json
    from ngram_copy.suite import SuiteError, load

    screen = stderr()
    unfit: list[str] = []
    with user_errors(SuiteError, OSError, MemoryError):
        loaded = load(_in_size(suite, size, "trained" if trained else None))
        if model:
            loaded = loaded.with_models(model, pretrained=pretrained)
        every = loaded.cases(seed, unfit)
    for reason in unfit:
        screen.print(plain(f"left out: {reason}"), soft_wrap=True)
    chosen = _choose(every, only or [])
    out = out or Path("results") / loaded.name
    with user_errors(SuiteError, ResultsError, OSError):
        if not resume:
            runner.refuse_records(out, every)
        for case in chosen:
            case.check()
    if device != "auto" or any(case.learned for case in chosen):
        with user_errors(ValueError):
            require_torch(f"--device {device}")
            from ngram_copy.models.machine import find_device

            find_device(device)
    if verify:
        with user_errors(runner.VerificationError):
            count = sum(1 for _ in runner.verify(chosen))
        screen.print(f"{plural(count, 'set')} of examples (task, length, seed) agree with the oracle.")
    done: list[Record] = []
    todo = list(chosen)
    failed: list[Record] = []
    try:
        with user_errors(ResultsError, OSError):
            done, writer = runner.open_results(out, loaded, every, resume=resume)
        finished = {record["case_id"] for record in done}
        todo = [case for case in chosen if case.case_id not in finished]
        if done:
            screen.print(f"{plural(len(done), 'case')} done before, {len(todo):,} to go.")
        if as_json:
            for record in done:
                print(canonical_json(record))
        todo = _with_trainings(todo, out, finished)
        with writer, Display(screen, todo, quiet=as_json) as display, user_errors(OSError):
            steps = runner.run_cases(
                todo, writer, threads=threads, device=device, recorded=finished, on_progress=display.advance
            )
            for record in steps:
                if record["kind"] == "error":
                    failed.append(record)
                    display.note(f"{_name(record, todo)}: {record['result']['error']}: {record['result']['message']}")
                if as_json:
                    print(canonical_json(record))
    except KeyboardInterrupt:
        path = out / RECORDS
        made = max(0, path.read_bytes().count(b"\n") - len(done)) if path.exists() else 0
        again = _again(
            suite,
            size=size,
            trained=trained,
            out=out,
            model=model,
            pretrained=pretrained,
            seed=seed,
            only=only,
            threads=None if threads == 1 else threads,
            device=None if device == "auto" else device,
            no_report=no_report,
        )
        screen.print(
            f"Stopped after {made:,} of {plural(len(todo), 'case')}; what is done is in {plain(out)}. Go on with:\n"
            f"  {plain(again)}"
        )
        raise typer.Exit(130) from None
    holds = no_report or _report(out, out, quiet=as_json)
    if not as_json:
        stdout().print(f"records: {plain(out / RECORDS)}", soft_wrap=True)
    if failed:
        screen.print(
            f"{plural(len(failed), 'case')} of {len(todo):,} failed (kind error in the records); "
            f"--resume tries {'it' if len(failed) == 1 else 'them'} again."
        )
    if failed or not holds:
        raise typer.Exit(1)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder (or a records file).")],
    out: Annotated[Path | None, typer.Option(help="Folder for the report.", show_default="DIR")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the paths as JSON, and nothing else.")] = False,
) -> None:
    """Write the report of a run: a table, Markdown, one HTML page, charts.

    [bold]Examples[/bold]

      ngram-copy report results/mine

      ngram-copy report results/mine --out /tmp/report
    """
    if not _report(folder, out or (folder if folder.is_dir() else folder.parent), quiet=as_json, as_json=as_json):
        raise typer.Exit(1)


def _report(folder: Path, out: Path, *, quiet: bool, as_json: bool = False) -> bool:
    """Write a report and show its table; whether all that the theory says of the records holds."""
    from ngram_copy import report as reporting
    from ngram_copy import score
    from ngram_copy.report.verdict import judge
    from ngram_copy.results import ResultsError, read

    with user_errors(ResultsError):
        records = read(folder)
    verdicts = score.verdicts(records)
    with user_errors(OSError, ValueError, ImportError):
        paths = reporting.write(records, out, verdicts=verdicts)
    if as_json:
        print_json({name: str(path) for name, path in paths.items()})
    if not quiet:
        screen = stdout()
        screen.print(reporting.table(records, verdicts=verdicts))
        charts = [path for name, path in paths.items() if name.startswith("charts/")]
        for name, path in paths.items():
            if path not in charts:
                screen.print(f"{name}: {plain(path)}", soft_wrap=True)
        if charts:
            screen.print(f"{plural(len(charts), 'chart')}: {plain(charts[0].parent)}", soft_wrap=True)
    refuted = [verdict for verdict in judge(verdicts) if verdict.holds is False]
    for verdict in refuted:
        complain(f"the records refute the theory: {verdict.claim} {verdict.evidence}")
    return not refuted


def _in_size(suite: str, *parts: str | None) -> str:
    """The name of a suite in a size, or with its trained part.

    Raises
    ------
    UserError
        If it does not come so.
    """
    from ngram_copy.suite import shipped

    name = suite
    for part in filter(None, parts):
        others = sorted(known.removesuffix(f"-{part}") for known in shipped() if known.endswith(f"-{part}"))
        name = f"{name}-{part}"
        if name not in shipped():
            if part == "trained":
                raise UserError(f"the suite {suite} has no trained part; those that do: {', '.join(others) or 'none'}")
            prefix = f"{suite}-"
            sizes = {known.removeprefix(prefix) for known in shipped() if known.startswith(prefix)} - {"trained"}
            hint = f"its own: {', '.join(sorted(sizes))}" if sizes else f"suites that do: {', '.join(others) or 'none'}"
            raise UserError(f"the suite {suite} does not come in the size {part}; {hint}")
    return name


def _choose(cases: Sequence[Case], globs: Sequence[str]) -> list[Case]:
    """Cases whose name, or a part of it, matches one of the globs; all without globs."""
    for glob in globs:
        if not any(_matches(case, glob) for case in cases):
            raise UserError(f"--only {glob}: no case matches; they are named such as {cases[0].name}")
    return [case for case in cases if not globs or any(_matches(case, glob) for glob in globs)]


def _with_trainings(cases: Sequence[Case], out: Path, finished: set[str]) -> list[Case]:
    """Cases, and before them the trainings that they need and that were not chosen or whose checkpoint is gone."""
    from ngram_copy.run import CHECKPOINTS

    chosen = {case.case_id for case in cases}
    needed = {case.trained_by.case_id: case.trained_by for case in cases if case.trained_by is not None}
    missing = [
        training
        for case_id, training in needed.items()
        if case_id not in chosen and not (case_id in finished and (out / CHECKPOINTS / case_id).is_dir())
    ]
    return [*missing, *cases]


def _matches(case: Case, glob: str) -> bool:
    return any(fnmatchcase(name, glob) for name in (case.name, *case.name.split("/")))


def _name(record: Record, cases: Sequence[Case]) -> str:
    return next(case.name for case in cases if case.case_id == record["case_id"])


def _again(suite: str, **options: object) -> str:
    """The command that continues a run; options that are None, False or empty were not given."""
    words = ["ngram-copy", "run", suite]
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        for one in value if isinstance(value, list) else [value]:
            if one is True:
                words.append(flag)
            elif one is not None and one is not False:
                words += [flag, str(one)]
    return shlex.join([*words, "--resume"])


class Display:
    """Bars of the whole and of each training, with the time left, on a terminal; a line for each tenth elsewhere."""

    def __init__(self, screen: Console, cases: Sequence[Case], *, quiet: bool) -> None:
        from rich.progress import (
            BarColumn,
            Progress,
            TaskID,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        from ngram_copy.run import work

        self._screen = screen
        self._work = {case.case_id: work(case) for case in cases}
        self._total = sum(self._work.values())
        self._done = 0.0
        self._lines = not (quiet or screen.is_terminal)
        self._began = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=screen,
            transient=True,
            disable=not screen.is_terminal,
        )
        self._whole = self._bar.add_task("", total=self._total)
        self._trainings: dict[str, TaskID] = {}

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, case: Case, share: float, text: str) -> None:
        """A share of a case was done."""
        step = share * self._work[case.case_id]
        self._bar.advance(self._whole, step)
        if case.kind == "training":
            if case.case_id not in self._trainings:
                self._trainings[case.case_id] = self._bar.add_task(case.name, total=1.0)
            bar = self._trainings[case.case_id]
            self._bar.update(bar, advance=share, description=f"{case.name} {text}")
            if self._bar.tasks[self._bar.task_ids.index(bar)].finished:
                self._bar.update(bar, visible=False)
        else:
            self._bar.update(self._whole, description=case.name)
        before, self._done = self._done, self._done + step
        tenth = int(10 * self._done / self._total)
        if self._lines and int(10 * before / self._total) < tenth < 10:
            seconds = time.monotonic() - self._began
            self._screen.print(f"{tenth}0% after {seconds:.0f} s: {plain(f'{case.name} {text}'.strip())}")

    def note(self, text: str) -> None:
        self._screen.print(plain(" ".join(text.split())))
