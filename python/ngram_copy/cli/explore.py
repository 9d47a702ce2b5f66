"""``list``, ``show-example`` and ``theory``: what there is, what it looks like, what the formulas say."""

from __future__ import annotations

import inspect
import math
import re
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ngram_copy.cli.console import UserError, plain, print_json, stdout, table, user_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ngram_copy.tasks.base import Batch, Task

_SHOWN_TOKENS = 120


def list_all(
    models: Annotated[
        bool, typer.Option("--models", help="Also what models and trainings can be made of (loads torch: seconds).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")] = False,
) -> None:
    """List suites, tasks, engines and statistics, with their options, defaults and choices.

    [bold]Examples[/bold]

      ngram-copy list

      ngram-copy list --models

      ngram-copy list --json | jq '.tasks | keys'
    """
    from ngram_copy.engines import ENGINES
    from ngram_copy.statistics import STATISTICS
    from ngram_copy.suite import shipped
    from ngram_copy.tasks import TASKS

    suites = shipped()
    classes: dict[str, dict[str, Any]] = {
        "tasks": dict(TASKS),
        "engines": dict(ENGINES),
        "statistics": dict(STATISTICS),
    }
    sections = {title: {name: _listed(cls) for name, cls in found.items()} for title, found in classes.items()}
    if models:
        sections |= _of_models()
    if as_json:
        described = {title: {name: one._asdict() for name, one in found.items()} for title, found in sections.items()}
        print_json({"suites": suites, **described})
        return
    screen = stdout()
    screen.print("[bold]Suites[/bold]  (ngram-copy run SUITE)")
    for name, description in suites.items():
        screen.print(f"  [cyan]{plain(name)}[/cyan]  {plain(description)}")
    for title, found in sections.items():
        screen.print(f"\n[bold]{title.capitalize()}[/bold]")
        for name, one in found.items():
            screen.print(f"  [cyan]{plain(name)}[/cyan]  {plain(one.summary)}")
            options = ", ".join(
                f"{option}={_toml(value)}"
                + "".join(f"|{_toml(other)}" for other in one.choices.get(option, ()) if other != value)
                for option, value in one.options.items()
            )
            screen.print(f"      [dim]{plain(options) or 'no options'}[/dim]")
    screen.print("\nA suite is a small TOML file: docs/suites.md tells how to write one.")


class _Listed(NamedTuple):
    """What a suite's table can be made of."""

    summary: str
    options: dict[str, Any]
    """With defaults."""
    choices: dict[str, list[str]]
    """Of those options that have a list of values."""


def _listed(cls: type[Any], *given: str) -> _Listed:
    """What a class says of itself, its choices as its docstring has them: ``source : {"uniform", "zipf"}``.

    ``given`` are options that are not a table's to give.
    """
    from ngram_copy.suite import signature_of

    text = inspect.getdoc(cls) or ""
    listed = re.findall(r"^(\w+) : .*?\{(.+?)\}", text, re.MULTILINE)
    options = {
        name: None if parameter.default is inspect.Parameter.empty else parameter.default
        for name, parameter in signature_of(cls).items()
        if name not in given
    }
    choices = {option: re.findall(r'"([^"]+)"', values) for option, values in listed if option in options}
    return _Listed(getattr(cls, "summary", text.partition("\n")[0]), options, choices)


def _of_models() -> dict[str, dict[str, _Listed]]:
    with user_errors(ModuleNotFoundError):
        from ngram_copy.models import MIXERS, ModelConfig
        from ngram_copy.models.base import ACTIVATIONS
        from ngram_copy.models.presets import PRESETS, SHAPE
        from ngram_copy.train import Training
    config = _listed(ModelConfig, "vocab_size", "layers")
    names = {"preset": list(PRESETS), "mixer": list(MIXERS), "activation": list(ACTIVATIONS)}
    model = _Listed(
        "a [models.…] table; beside it, a table for each mixer's options",
        {"preset": None, **dict.fromkeys(SHAPE), "layers": None, **config.options},
        {**config.choices, **names},
    )
    training = _listed(Training)._replace(
        summary="a [training.…] table, with the task, and the validation task if another"
    )
    mixers = {name: _listed(mixer, "d_model") for name, mixer in MIXERS.items()}
    lettered = {
        name: one._replace(summary=f"{one.summary}; {MIXERS[name].letter} in a pattern") for name, one in mixers.items()
    }
    return {"tables": {"models": model, "training": training}, "mixers": lettered}


def _toml(value: object) -> str:
    """A value as a suite file writes it; ``none`` stands for an option that is left out."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def show_example(
    task: Annotated[str, typer.Argument(help="A task, see `ngram-copy list`.")],
    length: Annotated[int, typer.Option("--length", "-L", min=1, help="Tokens (or lines) to remember.")] = 20,
    index: Annotated[int, typer.Option("--index", "-i", min=0, help="Which example.")] = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1)] = 0,
    split: Annotated[str, typer.Option(help="train, validation, test or fit.")] = "test",
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", metavar="KEY=VALUE", help="An option of the task.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")] = False,
) -> None:
    """Show one example of a task: prompt, query, answer, and its probability.

    [bold]Examples[/bold]

      ngram-copy show-example copy --length 10

      ngram-copy show-example copy -L 10 --option vocab_size=4 --option source=zipf

      ngram-copy show-example phone_book --length 3 --index 7
    """
    from ngram_copy.suite import SuiteError, make_task
    from ngram_copy.tasks import SPLITS

    if split not in SPLITS:
        raise UserError(f"--split {split}: there are {', '.join(SPLITS)}")
    with user_errors(SuiteError):
        made = make_task(task, key_values(option or []), "show-example")
    with user_errors(ValueError, MemoryError):
        batch = made.batch(length, seed=seed, split=split, start=index, count=1)
    if as_json:
        print_json(_example(made, batch))
        return
    screen = stdout()
    cut, end = int(batch.cut[0]), int(batch.lengths[0])
    row = batch.tokens[0]
    arguments = ", ".join(f"{name}={_toml(value)}" for name, value in _example(made, batch)["options"].items())
    screen.print(f"[bold]{plain(made.name)}[/bold] {plain(arguments)}")
    screen.print(f"length {length}, seed {seed}, split {split}, example {index}: {end} tokens, cut at {cut}")
    screen.print(f"\n[bold]prompt[/bold]  {plain(_render(made, row[:cut]))}")
    if len(query := batch.queries()[0]):
        screen.print(f"[bold]query[/bold]   {plain(_render(made, query))}")
    answers = batch.answers()[0]
    screen.print(f"[bold]answer[/bold]  [green]{plain(_render(made, answers[answers >= 0]))}[/green]")
    if batch.log2_p is None:
        screen.print("\nlog2 p  unknown: no bound is shown for this task")
    else:
        bits = "unknown" if batch.h_min is None else f"{batch.h_min:.2f} bits"
        screen.print(f"\nlog2 p  {batch.log2_p[0].sum():.2f}   H_min  {bits}")


def key_values(pairs: Sequence[str], flag: str = "--option") -> dict[str, Any]:
    """``key=value`` pairs given after a flag; values as in TOML, or text where they are none."""
    import tomllib

    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"{flag} {pair}: write KEY=VALUE, such as vocab_size=26")
        try:
            options[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            options[key] = value
    return options


def _example(task: Task, batch: Batch) -> dict[str, Any]:
    from ngram_copy.suite import options_of

    end = int(batch.lengths[0])
    return {
        "task": task.name,
        "options": options_of(task),
        "tokens": batch.tokens[0, :end].tolist(),
        "cut": int(batch.cut[0]),
        "answer": int(batch.answer[0]),
        "log2_p": None if batch.log2_p is None else float(batch.log2_p[0].sum()),
        "h_min": batch.h_min,
    }


def _render(task: Task, tokens: Any) -> str:
    """Tokens for reading: text where the task has it, letters where 26 do, else numbers."""
    from ngram_copy.tasks import BLANK, TextTask

    vocab = task.vocab
    special = {vocab.bos: "<bos>", vocab.copy: "<copy>", vocab.eos: "<eos>", vocab.pad: "<pad>", BLANK: "?"}
    if isinstance(task, TextTask):
        pieces, start = [], 0
        for place, token in enumerate([*tokens.tolist(), vocab.pad]):
            if token in special:
                pieces += [task.decode(tokens[start:place]), "" if place == len(tokens) else special[token]]
                start = place + 1
        return "".join(pieces)
    names = [special.get(token) or (chr(97 + token) if vocab.size <= 26 else str(token)) for token in tokens.tolist()]
    if len(names) > _SHOWN_TOKENS:
        half = _SHOWN_TOKENS // 2
        names = [*names[:half], f"… {len(names) - 2 * half} more …", *names[-half:]]
    return " ".join(names)


def theory(
    vocab: Annotated[int, typer.Option("--vocab", "-D", min=2, max=2**63 - 1, help="D, the number of symbols.")] = 26,
    state_bits: Annotated[
        float | None, typer.Option(min=0, help="b, bits of a fixed state.", show_default=False)
    ] = None,
    length: Annotated[
        int | None,
        typer.Option("--length", "-L", min=1, max=2**63 - 1, help="L, length of the string.", show_default=False),
    ] = None,
    error: Annotated[float, typer.Option(help="Error that is allowed, of whole strings: at least 0, below 1.")] = 0.5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")] = False,
) -> None:
    """Say what a fixed state can copy and what the n-gram algorithm needs.

    By the formulas for uniform random strings.

    [bold]Examples[/bold]

      ngram-copy theory --state-bits 65536 --vocab 26

      ngram-copy theory --length 1000 --vocab 26 --error 0.01

      ngram-copy theory --length 300 --state-bits 1024
    """
    if state_bits is None and length is None:
        raise UserError("give --state-bits (how long a string can it copy?), --length (what does it need?), or both")
    if not 0 <= error < 1:
        raise UserError(f"error must be in [0, 1), not {error}")
    with user_errors(ValueError):
        lines = [
            *(_of_state(state_bits, vocab, error) if state_bits is not None else []),
            *(_of_length(length, vocab, error) if length is not None else []),
            *(_of_both(state_bits, length, vocab) if state_bits is not None and length is not None else []),
        ]
    if as_json:
        print_json({name: value for name, value, _ in lines})
        return
    shown = table("", "value", "formula", right=["value"])
    for name, value, formula in lines:
        read = _enough(value) if name == "state_bits_required" else _number(value)
        shown.add_row(plain(name.replace("_", " ")), read, f"[dim]{plain(formula)}[/dim]")
    screen = stdout()
    screen.print(f"Uniform random strings over D = {vocab} symbols, error of whole strings at most {error:g}:\n")
    screen.print(shown)


_Line = tuple[str, float, str]


def _of_state(state_bits: float, vocab: int, error: float) -> list[_Line]:
    from ngram_copy import theory as formulas

    longest = formulas.max_copy_length(state_bits, vocab, error)
    return [("longest_string", longest, "largest L with 2^(b - L log2 D) >= 1 - error: no model of b bits goes on")]


def _of_length(length: int, vocab: int, error: float) -> list[_Line]:
    from ngram_copy import theory as formulas

    n = formulas.required_n(length, vocab, error)
    sizes = formulas.construction_sizes(n, vocab)
    return [
        ("state_bits_required", formulas.required_state_bits(length, vocab, error), "L log2 D + log2(1 - error)"),
        ("n", n, "smallest n with C(L - n + 1, 2) D^-n <= error: n-grams that hardly repeat"),
        ("p_ngram_at_most", formulas.p_ngram_union_bound(length, n, vocab), "C(L - n + 1, 2) D^-n"),
        ("heads", sum(sizes.heads), "n in the first layer and 1 in the second of a constructed transformer"),
        ("width", sizes.d_model, "(m + 1)(2n + 1) + m + 2 with m = max(2, ceil(log2 D)): numbers for each token"),
        ("parameters", sizes.parameters, "all of its weights; `ngram-copy construct save` writes them"),
    ]


def _of_both(state_bits: float, length: int, vocab: int) -> list[_Line]:
    from ngram_copy import theory as formulas

    best = formulas.copy_accuracy_bound(state_bits=state_bits, seq_len=length, vocab_size=vocab)
    return [("whole_strings_at_most", best, "min(1, 2^(b - L log2 D))")]


def _enough(bits: float) -> str:
    """Bits for reading, never rounded down: fewer would not do."""
    return f"{math.ceil(100 * bits) / 100:,.2f}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}" if value >= 100 else f"{value:.4g}"
