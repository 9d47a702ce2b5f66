"""Times the recurrences beside their peers, on one and on two threads; prints ratios and keeps a record.

    python benches/ssm.py --records results

Each measurement is a process of its own, bound to as many cores as it has threads, and all of a case take turns, round
after round, so that a machine that slows down slows all of them. It warms up on a short sequence (which also loads and
compiles what there is to), then on the whole one, then repeats it. Peak memory is that of one call above what the
process held before, its inputs included. On the first run of a case, outputs are held against ours.

The whole takes about half an hour on two cores. The record is written after each case.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.metadata
import json
import multiprocessing
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cpuinfo
import numpy as np

from report import record_name
from ssm_peers import INPUTS, JAX, OPTIONS, TORCH, Function, jax_scan

OURS = "ngram-copy"
FORWARD, BOTH, STEP = "forward", "forward + backward", "step"
SELECTIVE = {"batch": 4, "d_model": 512, "d_state": 16}
HEADS = {"batch": 4, "n_heads": 4, "head_k": 64, "head_v": 64, "seq_len": 1024}
MAMBA2 = {"batch": 4, "n_heads": 8, "head_dim": 64, "d_state": 64, "seq_len": 1024}
S4D = {"batch": 4, "d_model": 512, "n_modes": 32, "seq_len": 1024}
LRU = {"batch": 4, "d_model": 512, "d_state": 512, "seq_len": 1024}
WIDE = {"batch": 4, "width": 1024, "seq_len": 1024}
CONVOLUTION = {"batch": 4, "channels": 1024, "kernel_size": 4, "seq_len": 1024}
LOOP, PARALLEL, CONVOLVED, TRANSFORMERS, FLA = (name for name in TORCH if name != OURS)
BUDGET, REPEATS = 2.0, 15
"""Seconds that the repeats of one process may take, and how many there are at most."""
PRELOADED = ["torch", "torch._dynamo", "ngram_copy.models.ops"]
"""What takes long to import: once, by the process of which the others are copies."""
EXP_NUMBERS = 2048
"""Numbers of which rust/core/benches/math.rs computes the exponentials in one call."""
VERSIONS = ("torch", "jax", "transformers", "fla-core", "numpy")


@dataclass(frozen=True)
class Case:
    """One recurrence at one size, and who computes it."""

    recurrence: str
    work: str
    shape: dict[str, int]
    peers: tuple[str, ...]

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.shape.items())
        return f"{self.recurrence}, {self.work}: {sizes}"


CASES = [
    Case("selective_scan", FORWARD, SELECTIVE | {"seq_len": 256}, (JAX, PARALLEL, LOOP, TRANSFORMERS)),
    Case("selective_scan", FORWARD, SELECTIVE | {"seq_len": 1024}, (JAX, PARALLEL, LOOP, TRANSFORMERS)),
    Case("selective_scan", FORWARD, SELECTIVE | {"seq_len": 4096}, (JAX,)),
    Case("selective_scan", FORWARD, SELECTIVE | {"seq_len": 16384}, ()),
    Case("selective_scan", BOTH, SELECTIVE | {"seq_len": 256}, (JAX, PARALLEL, LOOP)),
    Case("selective_scan", BOTH, SELECTIVE | {"seq_len": 1024}, (JAX, PARALLEL, LOOP)),
    Case("selective_scan", BOTH, SELECTIVE | {"seq_len": 4096}, (JAX,)),
    Case("selective_scan", BOTH, SELECTIVE | {"seq_len": 16384}, ()),
    Case("mamba2_scan", FORWARD, MAMBA2, (TRANSFORMERS,)),
    Case("mamba2_scan", BOTH, MAMBA2, (TRANSFORMERS,)),
    Case("gated_linear_attention", FORWARD, HEADS, (JAX, FLA)),
    Case("gated_linear_attention", BOTH, HEADS, (JAX, FLA)),
    Case("delta_rule", FORWARD, HEADS, (FLA,)),
    Case("delta_rule", BOTH, HEADS, (FLA,)),
    Case("gated_delta_rule", FORWARD, HEADS, (TRANSFORMERS, JAX, FLA)),
    Case("gated_delta_rule", BOTH, HEADS, (TRANSFORMERS, JAX, FLA)),
    Case("kimi_delta_attention", FORWARD, HEADS, (FLA,)),
    Case("kimi_delta_attention", BOTH, HEADS, (FLA,)),
    Case("linear_attention", FORWARD, HEADS, (FLA,)),
    Case("linear_attention", BOTH, HEADS, (FLA,)),
    Case("retention", FORWARD, HEADS, (FLA,)),
    Case("retention", BOTH, HEADS, (FLA,)),
    Case("s4d_scan", FORWARD, S4D, (CONVOLVED,)),
    Case("s4d_scan", BOTH, S4D, (CONVOLVED,)),
    Case("lru_scan", FORWARD, LRU, (JAX,)),
    Case("lru_scan", BOTH, LRU, (JAX,)),
    Case("rg_lru", FORWARD, WIDE, (JAX,)),
    Case("rg_lru", BOTH, WIDE, (JAX,)),
    Case("linear_scan", FORWARD, WIDE, (JAX,)),
    Case("linear_scan", BOTH, WIDE, (JAX,)),
    Case("causal_conv1d", FORWARD, CONVOLUTION, (CONVOLVED,)),
    Case("causal_conv1d", BOTH, CONVOLUTION, (CONVOLVED,)),
    Case("mamba_step", STEP, SELECTIVE | {"kernel_size": 4}, (TRANSFORMERS,)),
    Case("mamba_step", STEP, {"batch": 1, "d_model": 1536, "d_state": 16, "kernel_size": 4}, (TRANSFORMERS,)),
]


# --- One measurement, in a process of its own -------------------------------------------------------------


def arrays(case: Case, seed: int = 0) -> list[np.ndarray]:
    """Draw the inputs of a case, float32 or complex64."""
    rng, shape = np.random.default_rng(seed), case.shape
    batch, seq_len = shape["batch"], shape.get("seq_len", 0)
    if case.recurrence in ("selective_scan", "mamba_step"):
        width, state = shape["d_model"], shape["d_state"]
        A, D = -np.exp(rng.uniform(0, 2.7, (width, state))), rng.normal(size=width)
        if case.work == STEP:
            taps = shape["kernel_size"]
            conv_state, weight = rng.normal(size=(batch, width, taps - 1)), rng.normal(size=(width, taps)) / taps
            B, C = rng.normal(size=(2, batch, state))
            x, dt, z = rng.normal(size=(3, batch, width))
            drawn = [conv_state, rng.normal(size=(batch, width, state)), x, weight, D / 2, dt - 2, A, B, C, D, z]
        else:
            u, delta = rng.normal(size=(2, batch, width, seq_len))
            drawn = [u, delta - 2, A, *rng.normal(size=(2, batch, state, seq_len)), D]
    elif case.recurrence == "mamba2_scan":
        heads, state = shape["n_heads"], shape["d_state"]
        x, dt = rng.normal(size=(batch, seq_len, heads, shape["head_dim"])), rng.normal(size=(batch, seq_len, heads))
        B, C = rng.normal(size=(2, batch, seq_len, 1, state))
        drawn = [x, dt - 2, -np.exp(rng.uniform(0, 2.7, heads)), B, C, rng.normal(size=heads)]
    elif case.recurrence == "s4d_scan":
        width, modes = shape["d_model"], shape["n_modes"]
        A = np.broadcast_to(-0.5 + 1j * np.pi * np.arange(modes), (width, modes))  # S4D-Lin
        B, C = np.ones((width, modes)) + 0j, rng.normal(size=(width, modes)) + 1j * rng.normal(size=(width, modes))
        u = rng.normal(size=(batch, width, seq_len))
        drawn = [u, A, rng.uniform(np.log(1e-3), np.log(1e-1), width), B, C, rng.normal(size=width)]
    elif case.recurrence == "lru_scan":
        width, state = shape["d_model"], shape["d_state"]
        radius, angle = rng.uniform(0.9, 0.999, state), rng.uniform(0, np.pi / 10, state)
        B = (rng.normal(size=(state, width)) + 1j * rng.normal(size=(state, width))) / np.sqrt(2 * width)
        C = (rng.normal(size=(width, state)) + 1j * rng.normal(size=(width, state))) / np.sqrt(state)
        u = rng.normal(size=(batch, seq_len, width))
        drawn = [u, np.log(-np.log(radius)), np.log(angle), B, C, rng.normal(size=width)]
    elif case.recurrence == "rg_lru":
        x, r, i = rng.normal(size=(3, batch, seq_len, shape["width"]))
        radius = rng.uniform(0.9, 0.999, shape["width"])
        drawn = [x, 1 / (1 + np.exp(-r)), 1 / (1 + np.exp(-i)), np.log(np.expm1(-np.log(radius) / 8))]
    elif case.recurrence == "linear_scan":
        x = rng.normal(size=(batch, seq_len, shape["width"]))
        drawn = [rng.uniform(0.9, 1, x.shape), x]
    elif case.recurrence == "causal_conv1d":
        channels, taps = shape["channels"], shape["kernel_size"]
        x = rng.normal(size=(batch, channels, seq_len))
        drawn = [x, rng.normal(size=(channels, taps)) / taps, rng.normal(size=channels)]
    else:
        heads, head_k = shape["n_heads"], shape["head_k"]
        q, k = rng.normal(size=(2, batch, seq_len, heads, head_k))
        k /= np.linalg.norm(k, axis=-1, keepdims=True)
        v = rng.normal(size=(batch, seq_len, heads, shape["head_v"]))
        by_channel = dict.fromkeys(("gated_linear_attention", "kimi_delta_attention"), (head_k,))
        gates = (by_channel | {"gated_delta_rule": ()}).get(case.recurrence)
        g = [] if gates is None else [np.log1p(-0.1 * rng.random((batch, seq_len, heads, *gates)))]
        beta = [rng.random((batch, seq_len, heads))] if "delta" in case.recurrence else []
        drawn = [q, k, v, *g, *beta]
    return [x.astype(np.complex64 if np.iscomplexobj(x) else np.float32) for x in drawn]


def torch_call(function: Function, case: Case, given: list[np.ndarray]) -> Callable[[], Any]:
    """Make the call that is timed; it gives the output, or the gradients."""
    import torch

    tensors = [torch.from_numpy(x.copy()) for x in given]
    if case.work != BOTH:

        def forward() -> Any:
            with torch.no_grad():
                return function(*tensors)

        return forward
    upstream = torch.ones_like(function(*tensors))
    leaves = [x.requires_grad_() for x in tensors]
    return lambda: torch.autograd.grad(function(*leaves), leaves, upstream)


def jax_call(case: Case, given: list[np.ndarray]) -> Callable[[], Any]:
    """Make the same of JAX, compiled."""
    import jax

    function, inputs = jax_scan(case.recurrence), [jax.device_put(x) for x in given]
    if case.work == BOTH:
        upstream = jax.numpy.ones_like(jax.jit(function)(*inputs))

        def gradients(*inputs: Any) -> Any:
            return [x.conj() for x in jax.vjp(function, *inputs)[1](upstream)]  # as torch has complex ones

        compiled = jax.jit(gradients)
    else:
        compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*inputs))


def memory(field: str) -> int | None:
    """Read a field of this process's status, in bytes; None where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def forget_peak() -> None:
    """Let the peak of this process's memory begin anew (Linux), without what the allocator keeps for later."""
    if os.path.exists("/proc/self/clear_refs"):
        gc.collect()
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
            trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def measure(case: Case, by: str, threads: int) -> dict[str, Any]:
    """Time one way of one case in this process."""
    make: Callable[[list[np.ndarray], Case], Callable[[], Any]]
    if by == JAX:

        def make(given: list[np.ndarray], case: Case) -> Callable[[], Any]:
            return jax_call(case, given)
    else:
        import torch

        torch.set_num_threads(threads)
        function = TORCH[by](case.recurrence)

        def make(given: list[np.ndarray], case: Case) -> Callable[[], Any]:
            return torch_call(function, case, given)

    if "seq_len" in case.shape:
        short = Case(case.recurrence, case.work, case.shape | {"seq_len": 64, "batch": 1}, ())
        make(arrays(short), short)()
    call = make(arrays(case), case)
    forget_peak()
    before = memory("VmRSS")
    result = call()
    peak = memory("VmHWM")
    outputs = result if isinstance(result, (tuple, list)) else [result]
    sums = [float(np.abs(np.asarray(x)).sum(dtype=np.float64)) for x in outputs]
    del result, outputs
    seconds: list[float] = []
    inner = 200 if case.work == STEP else 1
    while len(seconds) < REPEATS and (sum(seconds) * inner < BUDGET or len(seconds) < 2):
        start = time.perf_counter()
        for _ in range(inner):
            call()
        seconds.append((time.perf_counter() - start) / inner)
    return {
        "seconds": seconds,
        "peak_bytes": None if before is None or peak is None else max(0, peak - before),
        "sums": sums,
    }


def errors() -> list[dict[str, Any]]:
    """Measure float32 against float64 in our own core: the largest difference over the largest value."""
    import torch

    from ngram_copy.models import ops

    def relative(a: Any, b: Any) -> float:
        return float((a - b).abs().max() / b.abs().max().clamp(min=1e-300))

    found = []
    for case in (case for case in CASES if case.work == BOTH and case.shape["seq_len"] == 1024):
        both = []
        for dtype in (torch.float32, torch.float64):
            drawn = [torch.from_numpy(x) for x in arrays(case)]
            leaves = [x.to(dtype.to_complex() if x.is_complex() else dtype).requires_grad_() for x in drawn]
            given = dict(zip(INPUTS[case.recurrence], leaves, strict=True))
            y, state = getattr(ops, case.recurrence)(**given, **OPTIONS.get(case.recurrence, {}), backend="rust")
            both.append((y.detach(), state.detach(), torch.autograd.grad(y, leaves, torch.ones_like(y))))
        (y, state, of), (y64, state64, of64) = both
        found.append(
            {
                "recurrence": case.recurrence,
                "output": relative(y, y64),
                "last_state": relative(state, state64),
                "gradients": max(relative(a, b) for a, b in zip(of, of64, strict=True)),
            }
        )
    return found


# --- All of them ------------------------------------------------------------------------------------------


def child(threads: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own on so many cores; gives what it returns."""
    context = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
    context.set_forkserver_preload(PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_result, args=(sender, threads, function, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise SystemExit(f"{function.__name__}{arguments} ended without a result") from None
    finally:
        process.join()


def send_result(sender: Connection, threads: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """What a process of its own does."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    warnings.simplefilter("ignore")
    sender.send(function(*arguments))


def run(index: int, threads: list[int], rounds: int) -> list[dict[str, Any]]:
    """Measure all ways of a case in turn; the outputs of each are held against ours."""
    case = CASES[index]
    found = []
    for count in threads:
        kept: dict[str, dict[str, Any]] = {}
        for _ in range(rounds):
            for by in (OURS, *case.peers):
                if rounds > 1 and sum(kept.get(by, {"seconds": []})["seconds"]) > 5 * BUDGET:
                    continue  # what takes so long is timed in one round
                one = child(count, measure, case, by, count)
                entry = kept.setdefault(by, one | {"seconds": []})
                entry["seconds"] = entry["seconds"] + one["seconds"]
                sums = np.asarray(one["sums"])
                if not np.allclose(sums, kept[OURS]["sums"], rtol=1e-3):
                    raise SystemExit(f"{case}: {by} computes something else: {sums} is not {kept[OURS]['sums']}")
        measured = [
            {"recurrence": case.recurrence, "pass": case.work, "shape": case.shape, "threads": count, "by": by}
            | {key: value for key, value in entry.items() if key != "sums"}
            for by, entry in kept.items()
        ]
        print(table(measured), file=sys.stderr)
        found += measured
    return found


def median(measurement: dict[str, Any]) -> float:
    """Give the median time, in seconds."""
    return statistics.median(measurement["seconds"])


def table(measurements: list[dict[str, Any]]) -> str:
    """Make the lines of one case on so many threads: median, spread, memory and how much faster ours is."""
    ours = measurements[0]
    lines = []
    for m in measurements:
        times = sorted(m["seconds"])
        quartiles = (times[len(times) // 4], times[-1 - len(times) // 4])
        spread = (quartiles[1] - quartiles[0]) / 2 / median(m)
        peak = f"{m['peak_bytes'] / 1e6:9.1f} MB" if m["peak_bytes"] is not None else " " * 12
        ratios = f"ours is {median(m) / median(ours):6.1f}× faster" if m is not ours else ""
        if m is not ours and m["peak_bytes"] and ours["peak_bytes"] and m["pass"] != STEP:
            ratios += f" with {ours['peak_bytes'] / m['peak_bytes']:.3f} of the memory"
        threads = f"{m['threads']} thread" + ("s" if m["threads"] > 1 else " ")
        lines.append(f"  {threads}  {m['by']:<20} {median(m) * 1e3:10.3f} ms ±{spread:4.0%} {peak}  {ratios}")
    return "\n".join(lines)


# --- Bounds: what one thread of this machine could do at best ---------------------------------------------


def rates() -> dict[str, float]:
    """Measure what one thread does at best: exponentials (of ``cargo bench``), floating-point operations, bytes."""
    import torch

    torch.set_num_threads(1)
    found: dict[str, float] = {}
    estimates = Path("target/criterion").glob("Exp2/*/new/estimates.json")
    times = [json.loads(path.read_text())["median"]["point_estimate"] for path in estimates if "libm" not in str(path)]
    if times:
        found["exponentials"] = EXP_NUMBERS / (min(times) * 1e-9)

    def best(work: Callable[[], Any]) -> float:
        work()
        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    a = torch.randn(1024, 1024)
    out = torch.empty_like(a)
    found["flops"] = 2 * 1024**3 / best(lambda: torch.mm(a, a, out=out))
    source = np.zeros(1 << 26, np.uint8)
    target = np.ones_like(source)
    found["bytes"] = 2 * source.size / best(lambda: np.copyto(target, source))
    return found


def bound(case: Case, rate: dict[str, float]) -> float | None:
    """Give the seconds that a case takes at least on one thread, where that is known (None where it is not).

    The selective scan: its exponentials, which the backward pass computes again. Forward passes of the matrix families:
    multiply-adds of every number of a state at each step: decay, write and read, and for the delta rule what is erased.
    """
    shape = case.shape
    if case.recurrence == "selective_scan" and "exponentials" in rate:
        numbers = shape["batch"] * shape["d_model"] * shape["d_state"] * shape["seq_len"]
        return numbers * (2 if case.work == BOTH else 1) / rate["exponentials"]
    touches = {"gated_linear_attention": 3, "delta_rule": 3, "gated_delta_rule": 4}.get(case.recurrence)
    if touches and case.work == FORWARD:
        numbers = shape["batch"] * shape["n_heads"] * shape["head_k"] * shape["head_v"] * shape["seq_len"]
        return 2 * touches * numbers / rate["flops"]
    return None


def shares(measurements: list[dict[str, Any]], rate: dict[str, float]) -> list[str]:
    """Say which share of the bound each of our cases reaches on one thread."""
    lines = []
    for m in measurements:
        if m["by"] != OURS or m["threads"] != 1:
            continue
        case = Case(m["recurrence"], m["pass"], m["shape"], ())
        least = bound(case, rate)
        if least is not None:
            lines.append(f"  {least / median(m):4.0%} ({least * 1e3:.1f} of {median(m) * 1e3:.1f} ms)  {case}")
    return lines


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose description has this text")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default: 1 2)")
    parser.add_argument(
        "--rounds", type=int, default=2, help="rounds in which all ways of a case take turns (default: %(default)s)"
    )
    parser.add_argument("--records", type=Path, help="folder in which a record of the run is kept")
    options = parser.parse_args()
    chosen = [index for index, case in enumerate(CASES) if options.only in str(case)]
    if not chosen:
        parser.error(f"no case has {options.only!r} in its description; they are:\n" + "\n".join(map(str, CASES)))
    now, brand = datetime.now(UTC).isoformat(timespec="seconds"), cpuinfo.get_cpu_info()["brand_raw"]
    rate = child(1, rates)
    measurements: list[dict[str, Any]] = []
    record = {
        "schema": 1,
        "datetime": now,
        "cpu": brand,
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "rates": rate,
        "errors": child(1, errors),
        "measurements": measurements,
    }
    start = time.perf_counter()
    for done, index in enumerate(chosen):
        left = f", {(time.perf_counter() - start) / done * (len(chosen) - done) / 60:.0f} min left" if done else ""
        print(f"\n{CASES[index]}  [{done + 1} of {len(chosen)}{left}]", file=sys.stderr)
        measurements += run(index, options.threads, options.rounds)
        if options.records:  # after each case: what was measured is kept whatever comes
            options.records.mkdir(parents=True, exist_ok=True)
            path = options.records / record_name("ssm", now, brand)
            path.with_suffix(".tmp").write_text(json.dumps(record, indent=1) + "\n")
            path.with_suffix(".tmp").replace(path)
    print(
        "\nShare of the bound, one thread: " + ", ".join(f"{value / 1e9:.3g} G{key}/s" for key, value in rate.items())
    )
    print("\n".join(shares(measurements, rate)))
    print("\nLargest difference of float32 from float64, over the largest value:")
    for error in record["errors"]:
        values = ", ".join(f"{name} {value:.1e}" for name, value in error.items() if name != "recurrence")
        print(f"  {error['recurrence']}: {values}")
    if options.records:
        print(f"\nRecord: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
