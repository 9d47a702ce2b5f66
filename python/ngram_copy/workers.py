"""Models in processes of their own: a training first, then what measures it.

One thread a process is safest for models this small (two busy processes of two threads each are many times slower), so
cells run beside each other instead. A worker ends when the run does, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

from ngram_copy.results import Record
from ngram_copy.suite import Case

Work = Callable[..., Record]
"""``run_case``."""

OnProgress = Callable[[Case, float, str], None]


def run(
    cases: Sequence[Case], processes: int, work: Work, checkpoints: Path, device: str, on_progress: OnProgress
) -> Iterator[Record]:
    """Run trainings, the cases that measure them, and others beside them; records come as they are made.

    Parameters
    ----------
    cases : sequence of Case
        A case whose training is here waits for it; what another run trained is not waited for.
    processes : int
        At a time; with one, all runs in this process.
    work : callable
        ``work(case, threads=1, checkpoints=…, device=…, on_progress=…)``; a function that another process can import.
    checkpoints : Path
    device : str
    on_progress : callable

    Yields
    ------
    dict
        Records. A case whose training failed fails as well, by its own attempt to load it.
    """
    options = {"threads": 1, "checkpoints": checkpoints, "device": device}
    if processes <= 1:
        from ngram_copy.models.machine import torch_threads

        for case in sorted(cases, key=lambda case: case.trained_by is not None):
            with torch_threads(1):
                record = work(case, **options, on_progress=on_progress)
            yield record
        return
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    stop = context.Event()
    by_id = {case.case_id: case for case in cases}
    listener = threading.Thread(target=_listen, args=(queue, by_id, on_progress), daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(queue, stop))
    try:
        running: dict[Future[Record], Case] = {}

        def submit(case: Case) -> None:
            running[pool.submit(_work, work, case, options)] = case

        later: dict[str, list[Case]] = {case.case_id: [] for case in cases if case.kind == "training"}
        for case in cases:
            waits_for = None if case.trained_by is None else later.get(case.trained_by.case_id)
            if waits_for is None:
                submit(case)
            else:
                waits_for.append(case)
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                case = running.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool as error:
                    raise OSError(
                        "a process that ran a model was killed, perhaps for want of memory: try fewer --threads; "
                        "--resume goes on where it stopped"
                    ) from error
                for dependent in later.pop(case.case_id, []):
                    submit(dependent)
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        queue.put(None)
        listener.join()


def _listen(queue: Any, cases: dict[str, Case], on_progress: OnProgress) -> None:
    while (message := queue.get()) is not None:
        case_id, share, text = message
        on_progress(cases[case_id], share, text)


# --- In a worker ----------------------------------------------------------------------------------------

_queue: Any = None
_stop: Any = None


def _begin(queue: Any, stop: Any) -> None:
    global _queue, _stop
    _queue, _stop = queue, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run itself says when to stop
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """A run that was killed leaves no worker behind."""
    wait_for([sentinel])
    os._exit(1)


def _work(work: Work, case: Case, options: dict[str, Any]) -> Record:
    from ngram_copy.models.machine import torch_threads

    with torch_threads(1):  # torch's floats depend on how many there are
        return work(case, **options, on_progress=_report)


def _report(case: Case, share: float, text: str) -> None:
    if _stop.is_set():
        raise KeyboardInterrupt
    _queue.put((case.case_id, share, text))
