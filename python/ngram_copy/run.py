"""Run cases: draw the examples, let the engine answer, score, and append a record for each.

What a record's ``result`` says depends on the case alone: not on batch sizes, threads, or on how often the run
was stopped and continued.
"""

from __future__ import annotations

import math
import os
import platform
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ngram_copy import score, theory, workers
from ngram_copy.engines.base import Engine
from ngram_copy.engines.huggingface import HuggingFaceEngine
from ngram_copy.engines.trained import TrainedEngine
from ngram_copy.results import RECORDS, SCHEMA, Record, ResultsError, Writer, read, repair
from ngram_copy.suite import Case, Suite, first_example
from ngram_copy.tasks.base import Batch, DataHash, TextTask

if TYPE_CHECKING:
    from ngram_copy.train import Progress

CHECKPOINTS = "checkpoints"
"""The folder, in a results folder, that holds what was trained: a folder for each training, named by its case."""

FIT_EXAMPLES = 1000
"""Strings of the split ``fit`` that smoothing is fitted on, at most."""

SAMPLE = 16
"""Strings whose state is serialised and that are generated freely as well."""

QUANTISED_BITS = (1, 2, 3, 4, 6, 8)
"""Bits that each number of a state is rounded to, where a state is made of numbers."""

QUANTISED_TOKENS = 2**14
"""Tokens of the strings that are answered from rounded states, at most (but no fewer than ``SAMPLE`` strings)."""

CLASSED = 32
"""Strings that a learned engine answers freely and whose errors are classed, at most."""

CLASSED_NGRAM = 2
"""Length of the n-gram by which an error is said to have jumped to another occurrence."""

VERIFIED = 16
"""Examples of each task, length and seed that ``verify`` compares with the oracle."""

_BATCH_TOKENS = 2**20

Answered = Callable[[int], None]
"""Called with the number of strings that were just answered."""

OnProgress = Callable[[Case, float, str], None]
"""Called with a case, how much of it was just done (all of it adds up to 1), and how it goes: text, often empty."""


class VerificationError(ValueError):
    """A task's data differs from its oracle; the text names the case and the example."""


# --- A whole suite --------------------------------------------------------------------------------------


def open_results(out: Path, suite: Suite, cases: Sequence[Case], *, resume: bool) -> tuple[list[Record], Writer]:
    """Make or reopen a results folder: ``records.jsonl`` and a copy of the suite.

    Parameters
    ----------
    out : Path
        The folder.
    suite : Suite
    cases : sequence of Case
        All cases of the suite: records of others do not belong here.
    resume : bool
        Go on where a run stopped.

    Returns
    -------
    done : list of dict
        Complete records that stay; failed ones are dropped and run again.
    writer : Writer

    Raises
    ------
    ResultsError
        If there are records and ``resume`` is false, or they are not of this suite.
    OSError
        If the folder cannot be written.
    """
    path = out / RECORDS
    done: list[Record] = []
    if path.exists() and path.stat().st_size:
        if not resume:
            refuse_records(out, cases)
        done = repair(path)
        known = {case.case_id for case in cases}
        strange = [record for record in done if record["case_id"] not in known]
        if strange:
            raise ResultsError(
                f"{path} holds {len(strange)} records that are not of this suite (such as {strange[0]['case_id']}, "
                f"{strange[0]['case'].get('label', 'without a label')}): choose another --out"
            )
    if out.is_file():
        raise ResultsError(f"{out} is a file, and results need a folder: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / "suite.toml").write_text(suite.text, encoding="utf-8")
    return done, Writer(path)


def refuse_records(out: Path, cases: Sequence[Case]) -> None:
    """Refuse a results folder that holds records.

    Raises
    ------
    ResultsError
        Saying whether to resume.
    """
    path = out / RECORDS
    if path.exists() and path.stat().st_size:
        known = {case.case_id for case in cases}
        if any(record["case_id"] in known for record in read(path)):
            raise ResultsError(f"{path} holds records already: go on with --resume, or choose another --out")
        raise ResultsError(f"{path} holds records of another suite: choose another --out")


def run_cases(
    cases: Sequence[Case],
    writer: Writer,
    *,
    threads: int = 1,
    device: str = "auto",
    recorded: Collection[str] = (),
    on_progress: OnProgress = lambda case, share, text: None,
) -> Iterator[Record]:
    """Run cases; each record is on the disk when it is yielded.

    Where all are symbolic they run one after another, each on all threads. Trainings, and what measures models, run
    each on one thread of a process of its own, ``threads`` at a time, and so do the others beside them; what was
    trained before is not trained again.

    Parameters
    ----------
    cases : sequence of Case
        With each case that measures a training, that training: here, or done before.
    writer : Writer
        Beside its file lie the checkpoints.
    threads : int
        No influence on results.
    device : str
        Where models run: ``"auto"``, ``"cpu"``, ``"cuda"``, …
    recorded : collection of str
        Ids of cases whose records are there: a training that is run again for its checkpoint is not recorded twice.
    on_progress : callable
        Called while a case runs.

    Yields
    ------
    dict
        Records of kind ``accuracy``, ``statistic``, ``training`` or, where a case raised an exception, ``error``.
    """
    checkpoints = writer.path.parent / CHECKPOINTS
    if any(case.apart for case in cases):
        records = workers.run(cases, min(threads, len(cases)), run_case, checkpoints, device, on_progress)
    else:
        records = (run_case(case, threads=threads, on_progress=on_progress) for case in cases)
    for record in records:
        if record["kind"] == "error" or record["case_id"] not in recorded:
            writer.write(record)
            yield record


def run_case(
    case: Case,
    *,
    threads: int = 1,
    checkpoints: Path | None = None,
    device: str = "auto",
    on_progress: OnProgress = lambda case, share, text: None,
) -> Record:
    """Run one case; an exception in it becomes a record of kind ``error``.

    Parameters
    ----------
    case : Case
    threads : int
    checkpoints : Path, optional
        Where trainings are, or will be.
    device : str
    on_progress : callable
    """
    began = time.perf_counter()
    artifacts = {}
    environment = {**_environment(), "threads": threads}
    strings = _strings(case)

    def answered(count: int) -> None:
        on_progress(case, count / strings, "")

    try:
        if case.kind == "training":
            result, used = _train(case, _of(case, checkpoints), device, on_progress)
            environment |= used
        elif case.kind == "accuracy":
            result = _accuracy(case, threads, _engine(case, _of(case.trained_by, checkpoints), device), answered)
        elif case.statistic is not None:
            engine = None if case.engine_name is None else _engine(case, _of(case.trained_by, checkpoints), device)
            result = case.statistic.measure(case.row(engine), threads=threads, answered=answered)
            result["provenance"] = case.provenance
        kind: str = case.kind
    except Exception as error:
        kind = "error"
        result = {"error": type(error).__name__, "message": str(error)}
        artifacts = {"traceback": traceback.format_exc()}
    return {
        "schema": SCHEMA,
        "case_id": case.case_id,
        "kind": kind,
        "case": case.description,
        "result": result,
        "environment": {**environment, **_clock(began)},
        "artifacts": artifacts,
    }


def work(case: Case) -> float:
    """How long a case takes, roughly, in no unit: what progress over several cases is weighed by."""
    if case.kind == "training":
        options = case.engine_options["training"]
        grid = len(options["lr"]) if isinstance(options["lr"], list) else 1
        return float(grid * options["steps"] * options["tokens_per_step"] * 50)
    if case.statistic is not None:
        return case.statistic.work(case.row(None))
    return float(_strings(case) * case.length * (20 if case.apart else 1))


def _strings(case: Case) -> int:
    """Strings that a case answers, the fitted ones included."""
    return case.examples + (min(case.examples, FIT_EXAMPLES) if case.kind == "accuracy" else 0)


def _of(training: Case | None, checkpoints: Path | None) -> Path | None:
    """The folder of a training."""
    return None if training is None or checkpoints is None else checkpoints / training.case_id


def verify(cases: Sequence[Case]) -> Iterator[Case]:
    """Compare the data of each task, length and seed with the task's oracle, on a few examples.

    Yields
    ------
    Case
        Each case whose data was compared and agrees.

    Raises
    ------
    VerificationError
        At the first difference.
    """
    seen = set()
    for case in cases:
        key = (case.task, case.length, case.seed)
        if key in seen or (case.statistic is not None and "lengths" not in case.statistic.axes):
            continue
        seen.add(key)
        batch = case.task.batch(case.length, seed=case.seed, split="test", start=0, count=min(VERIFIED, case.examples))
        answers = batch.answers()
        for index, (prompt, query) in enumerate(zip(batch.prompts(), batch.queries(), strict=True)):
            expected = case.task.oracle(prompt, query)
            found = answers[index][answers[index] >= 0].tolist()
            if expected != found:
                raise VerificationError(
                    f"the case {case.name}, example {index}: the data's answer {_short(found)} is not the oracle's "
                    f"{_short(expected)}"
                )
        yield case


def _short(tokens: list[int]) -> str:
    return str(tokens) if len(tokens) <= 12 else f"[{', '.join(map(str, tokens[:12]))}, … {len(tokens)} in all]"


# --- Training -------------------------------------------------------------------------------------------


def _train(
    case: Case, folder: Path | None, device: str, on_progress: OnProgress
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train, or go on with it; what came of it, and what it ran on."""
    from ngram_copy.train import train

    if folder is None:
        raise ValueError(f"the case {case.name} needs a folder for its checkpoints")
    engine = case.engine()
    if not isinstance(engine, TrainedEngine):
        raise TypeError(f"the case {case.name}: an engine {case.engine_name} is not trained")
    share = 0.0

    def advance(now: Progress) -> None:
        nonlocal share
        on_progress(case, now.step / now.steps - share, _text(now))
        share = now.step / now.steps

    trained = train(
        engine.shape,
        case.training(),
        case.task,
        seed=case.seed,
        folder=folder,
        validation=case.validation,
        on_progress=advance,
        device=device,
    )
    on_progress(case, 1.0 - share, "")  # it was finished before, or solved early
    return trained.to_json(), {"device": trained.device, "torch": metadata.version("torch")}


def _text(now: Progress) -> str:
    exact = "" if now.exact_match is None else f", {now.exact_match:.0%} exact"
    return (
        f"loss {now.loss:.3f}{exact}, {now.examples:,} examples, {now.tokens_per_second:,.0f} tokens/s, "
        f"{now.seconds_left:.0f} s left of this training"
    )


# --- Accuracy -------------------------------------------------------------------------------------------


def _engine(case: Case, trained: Path | None, device: str) -> Engine:
    """The engine of a case, with what was learned."""
    engine = case.engine()
    if isinstance(engine, TrainedEngine):
        from ngram_copy.models.machine import find_device

        if trained is None:
            raise ValueError(f"the case {case.name} needs the folder of its checkpoints")
        engine.prepare(trained, case.seed, str(find_device(device)))
    return engine


def _accuracy(case: Case, threads: int, engine: Engine, answered: Answered) -> dict[str, Any]:
    if isinstance(engine, HuggingFaceEngine) and engine.reads_text:
        return _text_accuracy(case, engine, answered)
    smoothing = _fit(case, engine, threads, answered)
    data = DataHash()
    strings = tokens = all_tokens = 0
    bits: list[NDArray[np.float64]] = []
    state_bits: list[NDArray[np.float64]] = []
    h_min: float | None = None
    diagnostics: dict[str, int] = {}
    for batch in _batches(case, "test", case.examples, threads):
        prediction = engine.predict(batch, threads=threads)
        answers = batch.answers()
        match = score.exact_match(prediction.tokens, answers)
        data.update(batch)
        strings += int(match.strings.sum())
        tokens += int(match.tokens.sum())
        all_tokens += int(np.count_nonzero(answers >= 0))
        if batch.log2_p is not None:
            bits.append(score.bits_recalled(prediction, answers, batch.log2_p, smoothing))
        state_bits.append(engine.state_bits(batch.prompts()))
        h_min = batch.h_min
        for name, count in engine.diagnostics(batch, prediction).items():
            diagnostics[name] = diagnostics.get(name, 0) + int(count)
        answered(len(batch))
    all_state_bits = np.concatenate(state_bits)
    learned = {"quantised": _quantised(case, engine), "errors": _errors(case, engine)} if case.learned else {}
    checked, disagreements, state_bytes = _check_free(case, engine)
    return {
        "data_hash": data.hexdigest(),
        "provenance": case.provenance,
        "strings": _share(strings, case.examples),
        "tokens": _share(tokens, all_tokens),
        "free_checked": {"strings": checked, "disagreements": disagreements},
        "bits_recalled": _bits_recalled(np.concatenate(bits), all_state_bits) if bits else None,
        "state_bits": float(all_state_bits.mean()),
        "state_bytes": state_bytes,
        **_bounds(case, all_state_bits, h_min),
        "diagnostics": diagnostics,
        **learned,
    }


def _text_accuracy(case: Case, engine: HuggingFaceEngine, answered: Answered) -> dict[str, Any]:
    """Whole answers of a model that reads text by a tokenizer of its own: no tokens and no bits are counted."""
    if not isinstance(case.task, TextTask):
        raise TypeError(f"the case {case.name}: the task {case.task.name} has no text")
    answered(min(case.examples, FIT_EXAMPLES))  # nothing is fitted
    data = DataHash()
    right: list[bool] = []
    state_bits: list[NDArray[np.float64]] = []
    disagreements, state_bytes = 0, 0.0
    for batch in _batches(case, "test", case.examples, 1):
        data.update(batch)
        prompts = [case.task.render_text(batch, row) for row in range(len(batch))]
        enough = [len(case.task.answer_text(batch, row)) for row in range(len(batch))]
        for row, prompt in enumerate(prompts):
            text = engine.answer_texts([prompt], [enough[row]])[0]
            right.append(case.task.score_text(batch, row, text))
            answered(1)
        state_bits.append(engine.text_state_bits(prompts))
        if len(right) == len(batch):  # the first batch
            states = engine.cut_texts(prompts[:SAMPLE])
            resumed = engine.resume_texts(states, enough[:SAMPLE])
            free = [case.task.score_text(batch, row, text) for row, text in enumerate(resumed)]
            disagreements = sum(a != b for a, b in zip(free, right, strict=False))
            state_bytes = float(np.mean([len(state) for state in states]))
    all_state_bits = np.concatenate(state_bits)
    return {
        "data_hash": data.hexdigest(),
        "provenance": case.provenance,
        "strings": _share(sum(right), case.examples),
        "tokens": None,
        "free_checked": {"strings": min(SAMPLE, case.examples), "disagreements": disagreements},
        "bits_recalled": None,
        "state_bits": float(all_state_bits.mean()),
        "state_bytes": state_bytes,
        "h_min": None,
        "string_bound": None,
        "token_bound": None,
        "diagnostics": {},
    }


def _quantised(case: Case, engine: Engine) -> list[dict[str, Any]] | None:
    """What is recalled from states that are rounded once, at the cut; None where the source is unknown."""
    seq_len = first_example(case.task, case.length, case.seed).tokens.shape[1]
    count = min(case.examples, max(SAMPLE, QUANTISED_TOKENS // seq_len))
    fit = case.task.batch(case.length, seed=case.seed, split="fit", start=0, count=count)
    batch = case.task.batch(case.length, seed=case.seed, split="test", start=0, count=count)
    if batch.log2_p is None or len({len(prompt) for prompt in fit.prompts()}) > 1:
        return None
    answers = batch.answers()
    rows = []
    for bits in QUANTISED_BITS:
        rounded = engine.quantised(bits, fit.prompts())
        if rounded is None:
            return None
        prediction = rounded.predict(batch)
        state_bits = rounded.state_bits(batch.prompts())
        strings = int(score.exact_match(prediction.tokens, answers).strings.sum())
        recalled = score.bits_recalled(prediction, answers, batch.log2_p)
        rows.append(
            {
                "bits_per_value": bits,
                "state_bits": float(state_bits.mean()),
                "strings": _share(strings, count),
                "bits_recalled": _bits_recalled(recalled, state_bits),
            }
        )
    return rows


def _errors(case: Case, engine: Engine) -> dict[str, int] | None:
    """Classes of the first errors in free answers, over some strings; ``checked`` counts these.

    None where an answer is no string, but single tokens.
    """
    count = min(case.examples, CLASSED)
    batch = case.task.batch(case.length, seed=case.seed, split="test", start=0, count=count)
    if batch.scored is not None:
        return None
    answers = batch.answers()
    counts = {"checked": count}
    for row, free in enumerate(engine.generate(batch, answers.shape[1])):
        answer = answers[row][answers[row] >= 0].tolist()
        kind = score.classify_error(answer, free.tolist(), CLASSED_NGRAM, end=case.task.vocab.eos)
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def _batches(case: Case, split: str, examples: int, threads: int) -> Iterator[Batch]:
    """Examples 0 … examples - 1 in batches of about a million tokens."""
    seq_len = first_example(case.task, case.length, case.seed).tokens.shape[1]
    size = max(1, min(1024, _BATCH_TOKENS // seq_len))
    return case.task.batches(case.length, seed=case.seed, split=split, examples=examples, batch=size, threads=threads)


def _fit(case: Case, engine: Engine, threads: int, answered: Answered) -> score.Smoothing | None:
    """Smoothing of hard tokens, fitted on strings of the same length that are not tested; None where none is used."""
    examples = min(case.examples, FIT_EXAMPLES)
    first = first_example(case.task, case.length, case.seed)
    if first.log2_p is None or engine.predict(first).log2_q is not None:
        answered(examples)
        return None
    predicted, answers, log2_p = [], [], []
    for batch in _batches(case, "fit", examples, threads):
        prediction = engine.predict(batch, threads=threads)
        if batch.log2_p is None:
            raise ValueError(f"the case {case.name}: the source of some strings is known, and of others it is not")
        predicted.append(prediction.tokens)
        answers.append(batch.answers())
        log2_p.append(batch.log2_p)
        answered(len(batch))
    return score.Smoothing.fit(_stack(predicted, -1), _stack(answers, -1), _stack(log2_p, 0))


def _stack(parts: Sequence[NDArray[Any]], fill: int) -> NDArray[Any]:
    """Rows of several widths under one another, filled on the right."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=fill) for part in parts])


def _check_free(case: Case, engine: Engine) -> tuple[int, int, float]:
    """Answer a few strings from their serialised states, and teacher-forced.

    Returns
    -------
    strings, disagreements : int
        Strings tried, and those that are right in one way and wrong in the other: none, for greedy engines.
    state_bytes : float
        Mean size of a serialised state.
    """
    count = min(case.examples, SAMPLE)
    batch = case.task.batch(case.length, seed=case.seed, split="test", start=0, count=count)
    answers = batch.answers()
    forced = score.exact_match(engine.predict(batch).tokens, answers).strings
    states = engine.cut(batch.prompts())
    disagreements = 0
    for row, free in enumerate(engine.answer(states, batch, answers.shape[1])):
        answer = answers[row][answers[row] >= 0]
        disagreements += bool(np.array_equal(free[: len(answer)], answer)) != bool(forced[row])
    return count, disagreements, float(np.mean([len(state) for state in states]))


def _bounds(case: Case, state_bits: NDArray[np.float64], h_min: float | None) -> dict[str, float | None]:
    """The bounds of the case's source: of whole strings, and of tokens where they are uniform."""
    if h_min is None:
        return {"h_min": None, "string_bound": None, "token_bound": None}
    # States of several sizes (lengths are free): the bound holds for each, so its mean holds for all.
    sizes, counts = np.unique(state_bits, return_counts=True)
    of_strings = [theory.string_bound(float(size), h_min) for size in sizes]
    answer = first_example(case.task, case.length, case.seed).answers()[0]
    vocab = case.task.vocab
    answer_len = int(np.count_nonzero((answer >= 0) & (answer < vocab.size)))
    end = int(np.count_nonzero(answer >= vocab.size))
    # No source but the uniform one has the min-entropy K·log2 D.
    uniform = math.isclose(h_min, answer_len * math.log2(vocab.size), rel_tol=1e-9)
    return {
        "h_min": h_min,
        "string_bound": float(np.average(of_strings, weights=counts)),
        "token_bound": theory.token_bound(float(state_bits.mean()), answer_len, vocab.size, known_tokens=end)
        if uniform
        else None,
    }


def _share(correct: int, total: int) -> dict[str, float | int]:
    low, high = score.wilson_interval(correct, total)
    return {"correct": correct, "total": total, "low": low, "high": high}


def _bits_recalled(bits: NDArray[np.float64], state_bits: NDArray[np.float64]) -> dict[str, float | int]:
    low, high = score.mean_interval(bits)
    return {
        "mean": float(bits.mean()),
        "sd": float(bits.std(ddof=1)),
        "total": len(bits),
        "low": low,
        "high": high,
        "p_value": score.bits_recalled_p_value(bits, state_bits),
    }


# --- Environment ----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _environment() -> dict[str, Any]:
    return {
        "version": metadata.version("ngram-copy"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
    }


def _cpu() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _clock(began: float) -> dict[str, Any]:
    return {
        "seconds": round(time.perf_counter() - began, 3),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
