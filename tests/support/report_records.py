"""Records as a run would write them, made by the theory's formulas and a seeded generator (no core needed)."""

import hashlib
import math

import numpy as np

ENVIRONMENT = {"version": "0.1.0", "python": "3.13.1", "platform": "Linux x86_64", "cpu": "some CPU", "threads": 2}
EXAMPLES = 1000


def wilson(correct, total):
    z = 1.959963984540054
    p, scale = correct / total, 1 + z * z / total
    middle = (p + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return {"low": max(0.0, middle - half), "high": min(1.0, middle + half)}


def counted(correct, total):
    return {"correct": int(correct), "total": int(total), **wilson(correct, total)}


def case_id(*parts):
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def accuracy(task, engine, label, length, rng, *, p_string, p_token, state_bits, entropy, share, diagnostics=None):
    strings = rng.binomial(EXAMPLES, p_string)
    total = EXAMPLES * (length + 1)
    tokens = max(strings * (length + 1), rng.binomial(total, p_token))
    recalled = None
    if entropy is not None:
        mean, half = entropy * share, 0.02 * entropy * (1 - share) + 0.2
        recalled = {"mean": mean, "sd": half * 16, "total": EXAMPLES, "low": mean - half, "high": mean + half}
    return {
        "schema": "ngram-copy/1",
        "case_id": case_id(task, engine, length),
        "kind": "accuracy",
        "case": {
            "suite": "symbolic", "task": task, "engine": engine, "length": length, "seed": 0,
            "examples": EXAMPLES, "label": label,
        },
        "result": {
            "data_hash": "sha256:" + hashlib.sha256(repr((task, length)).encode()).hexdigest(),
            "provenance": {},
            "strings": counted(strings, EXAMPLES),
            "tokens": counted(tokens, total),
            "free_checked": {"strings": 16, "disagreements": 0},
            "bits_recalled": recalled,
            "state_bits": state_bits,
            "state_bytes": math.ceil(state_bits / 8) + 24,
            "h_min": entropy,
            "string_bound": None if entropy is None else 2.0 ** min(0.0, state_bits - entropy),
            "token_bound": None,
            "diagnostics": diagnostics or {},
        },
        "environment": {**ENVIRONMENT, "seconds": 0.25, "time": "2026-01-01T00:00:00Z"},
        "artifacts": {},
    }  # fmt: skip


def copies(task, length, bits_a_token, known, effective, rng):
    """Every symbolic engine on one task; ``effective`` is the number of kinds of tokens that repeats go by."""
    entropy = length * bits_a_token if known else None
    vocab = task.get("vocab_size", 256)
    for n in (2, 3, 4, 6):
        repeat = 1 - math.exp(-math.comb(max(length - n + 1, 0), 2) * effective**-n)
        yield accuracy(
            task, {"name": "ngram", "n": n, "policy": "first", "on_miss": "stop", "include_generated": True},
            f"ngram-{n}", length, rng, p_string=1 - repeat, p_token=1 - repeat / 2,
            state_bits=length * math.log2(vocab), entropy=entropy, share=1 - repeat / 2,
            diagnostics={
                "rule_strings": EXAMPLES, "repeat_strings": round(repeat * EXAMPLES), "rule_disagreements": 0
            },
        )  # fmt: skip
    for slots in (64, 256, 1024):
        insertions = length + 1
        occupied = slots * (1 - (1 - 1 / slots) ** insertions)
        kept = occupied / insertions
        yield accuracy(
            task, {"name": "bounded", "n": 4, "slots": slots, "key_bits": 8, "eviction": "keep_first"},
            f"bounded-{slots}", length, rng, p_string=kept**insertions, p_token=kept, state_bits=slots * 14.0,
            entropy=entropy, share=max(0.0, kept - 0.05) * 0.9 - 0.02,
            diagnostics={
                "slots": slots * EXAMPLES, "occupied": round(occupied * EXAMPLES),
                "insertions": insertions * EXAMPLES, "collisions": round((insertions - occupied) * EXAMPLES),
            },
        )  # fmt: skip
    for kept in (8, 20):
        state = kept * math.log2(vocab)
        bound = 1.0 if length <= kept else 2.0 ** min(0.0, state - length * bits_a_token)
        right = min(1.0, kept / length)
        yield accuracy(
            task, {"name": "prefix", "kept": kept, "groups": 1, "state_bits": None}, f"prefix-{kept}", length, rng,
            p_string=bound, p_token=right + (1 - right) / vocab, state_bits=state, entropy=entropy, share=right,
        )  # fmt: skip


def repeat_statistic(task, n, length, effective, vocab, rng):
    union = math.comb(max(length - n + 1, 0), 2) * vocab**-n
    windows = rng.binomial(EXAMPLES, 1 - math.exp(-math.comb(max(length - n + 1, 0), 2) * effective**-n))
    return {
        "schema": "ngram-copy/1",
        "case_id": case_id("repeats", task, n, length),
        "kind": "statistic",
        "case": {
            "suite": "symbolic", "statistic": "repeats", "task": task, "n": n, "length": length, "seed": 0,
            "examples": EXAMPLES, "label": "text",
        },
        "result": {
            "data_hash": "sha256:" + hashlib.sha256(repr((task, length)).encode()).hexdigest(),
            "provenance": {},
            "windows": {"repeating": int(windows), "total": EXAMPLES},
            "p": {"value": windows / EXAMPLES, **wilson(windows, EXAMPLES)},
            "formula": {"union": union, "exact": 1 - math.exp(-union) if task["name"] == "copy" else None},
            "distinct": 1000,
        },
        "environment": {**ENVIRONMENT, "seconds": 0.1, "time": "2026-01-01T00:00:01Z"},
        "artifacts": {},
    }  # fmt: skip


def make():
    """A run of the symbolic suite in small."""
    rng = np.random.default_rng(0)
    text = {"name": "text_copy", "path": None, "unit": "bytes"}
    tasks = [
        ({"name": "copy", "vocab_size": 2, "source": "uniform"}, 1.0, True, 2.0),
        ({"name": "copy", "vocab_size": 26, "source": "uniform"}, math.log2(26), True, 26.0),
        ({"name": "copy", "vocab_size": 26, "source": "zipf"}, 1.94, True, 12.0),
        ({"name": "duplicate_ngram", "vocab_size": 26, "n": 3, "repeats": 1, "successor": "same"}, 4.7, False, 20.0),
        (text, 8.0, False, 5.0),
    ]
    records = [
        record
        for task, bits, known, effective in tasks
        for length in (10, 20, 50, 100, 300)
        for record in copies(task, length, bits, known, effective, rng)
    ]
    uniform = tasks[1][0]
    for n in (2, 3, 4, 6):
        for length in (30, 100, 300, 1000, 3000):
            records.append(repeat_statistic(uniform, n, length, 26.0, 26, rng))
            records.append(repeat_statistic(text, n, length, 7.0, 256, rng))
    return records


# --- learned models -------------------------------------------------------------------------------------

COPY = {"name": "copy", "vocab_size": 26, "source": "uniform"}
LENGTHS = (4, 8, 16, 32, 64, 128, 256)


def trained(mixer, lengths, n_parameters, **options):
    model = {"mixer": mixer, "n_layers": 2, "d_model": 64, mixer: options}
    return {
        "name": "trained",
        "model": model,
        "training": {"task": COPY, "lengths": list(lengths), "steps": 1500, "lr": [0.004, 0.008]},
    }, n_parameters


# Label → engine, its parameters; where half of the strings fail; its state: values (of a token, where it grows) and
# bits a value that keep what it recalls; examples to solve, by seed.
MODELS = {
    "hard-alibi": (*trained("attention", (1, 32), 102_592, n_heads=12, windows=[1, 2, 3, 4, 5, 6], positions="alibi"),
                   [110, 150, 90], 768, 5, [17_000, 15_500, 24_000]),
    "rope": (*trained("attention", (1, 32), 102_592, n_heads=12, positions="rope"), [44, 41, 46], 768, 6,
             [41_000, None, 37_000]),
    "mamba": (*trained("mamba", (1, 32), 98_816, d_state=16), [26, 9, 30], 4864, 8, [None, None, None]),
    "gru": (*trained("gru", (1, 32), 99_000), [6, 5, 6], 256, 8, [None, None, None]),
    "gru-short": (*trained("gru", (1, 6), 99_000), [9, 8, 10], 32, 2, [90_000, 81_000, None]),
}  # fmt: skip


def learned_cell(label, length, seed, rng):
    """Strings by a logistic law, bits recalled that grow to what the state holds at most."""
    engine, _, halves, values, bits, _ = MODELS[label]
    p = 1 / (1 + (length / halves[seed]) ** 8)
    entropy = length * math.log2(26)
    grows = "attention" in engine["model"]["mixer"]
    values = values * (2 * length if grows else 1)
    state_bits = 32.0 * values
    mean = entropy * (p + (1 - p) * 0.4) if grows else min(entropy * (0.98 * p + 0.3 * (1 - p)), 0.85 * values * bits)
    if label == "gru-short" and length > 8:
        mean = 0.9 * values * bits
    made = accuracy(
        COPY, engine, label, length, rng, p_string=p, p_token=p + (1 - p) * 0.3, state_bits=state_bits,
        entropy=entropy, share=mean / entropy,
    )  # fmt: skip
    case, result = made["case"], made["result"]
    case.update(suite="quick", seed=seed, examples=200, trained_by=case_id("training", label, seed))
    made["case_id"] = case_id(COPY, engine, length, seed)
    result["data_hash"] = "sha256:" + hashlib.sha256(repr((COPY, length, seed)).encode()).hexdigest()
    result["strings"] = counted(rng.binomial(200, p), 200)
    recalled = {**result["bits_recalled"], "low": mean - 0.8, "high": mean + 0.8, "total": 200, "p_value": 1.0}
    result["bits_recalled"] = recalled
    result["quantised"] = []
    for bits_per_value in (1, 2, 3, 4, 5, 6, 8):
        lost = 1.0 if bits_per_value >= bits else 0.98 * bits_per_value / bits
        result["quantised"].append({
            "bits_per_value": bits_per_value,
            "state_bits": float(values * bits_per_value),
            "strings": counted(round(result["strings"]["correct"] * lost**4), 200),
            "bits_recalled": {key: recalled[key] * (lost if key in {"mean", "low", "high"} else 1) for key in recalled},
        })  # fmt: skip
    failed = round(16 * (1 - p))
    kinds = {"jump": 0.5, "skip": 0.3, "other": 0.2} if grows else {"other": 0.8, "stop": 0.2}
    result["errors"] = {"checked": 16} | {
        name: count for name, share in kinds.items() if (count := round(failed * share))
    }
    return made


def learned_training(label, seed, rng):
    """Loss and exact match that turn where the model solved its task."""
    engine, parameters, *_, solved = MODELS[label]
    lengths, examples_to_solve = engine["training"]["lengths"], solved[seed]
    steps, examples = 1500, 96_000
    turn = examples_to_solve or (3e5 if label != "rope" else 1.2e5)
    losses, evaluations = [], []
    for step in range(1, steps + 1, 5):
        seen = step * examples / steps
        losses.append([step, float(3.3 / (1 + (seen / turn) ** 3) * math.exp(0.05 * rng.normal()) + 2e-3)])
    for step in range(100, steps + 1, 100):
        seen = step * examples // steps
        p = 0.99 / (1 + (0.7 * turn / seen) ** 8)
        evaluations.append([step, seen, int(rng.binomial(256, p)), 256])
    return {
        "schema": "ngram-copy/1",
        "case_id": case_id("training", label, seed),
        "kind": "training",
        "case": {"suite": "quick", "engine": engine, "seed": seed, "task": COPY, "label": label},
        "result": {
            "data_hash": "sha256:" + hashlib.sha256(repr(("train", label, seed)).encode()).hexdigest(),
            "lr": 0.008,
            "grid": [{"lr": lr, "correct": 20, "total": 256, "loss": 1.5} for lr in (0.004, 0.008)],
            "steps": steps, "examples": examples, "tokens": 3_000_000, "parameters": parameters,
            "losses": losses, "evaluations": evaluations, "examples_to_solve": examples_to_solve,
            "weights_hash": "sha256:" + hashlib.sha256(repr((label, seed)).encode()).hexdigest(),
            "train_lengths": lengths,
        },
        "environment": {**ENVIRONMENT, "threads": 1, "torch": "2.11.0", "device": "cpu", "seconds": 58.0,
                        "time": "2026-01-01T00:00:02Z"},
        "artifacts": {},
    }  # fmt: skip


def make_learned():
    """Five learned engines of three seeds each, and their training."""
    rng = np.random.default_rng(1)
    seeds = range(3)
    trainings = [learned_training(label, seed, rng) for label in MODELS for seed in seeds]
    cells = [learned_cell(label, length, seed, rng) for label in MODELS for seed in seeds for length in LENGTHS]
    return trainings + cells


VERDICTS = {
    "above_bound": {"cells": 150, "p_value": 0.41, "per_engine": {"ngram-3": 1.0, "prefix-8": 0.41}},
    "bits_above_state": {"cells": 150, "p_value": 1.0},
    "prefix_fits": {
        "cells": 1, "min_p": 0.7,
        "rows": [{"case_id": "0" * 16, "label": "prefix-20", "k": 60, "N": 1000, "bound": 0.0625, "p": 0.7}],
    },
    "copier_rule": {"strings": 100000, "disagreements": 0},
}  # fmt: skip

# --- the theory's statistics ----------------------------------------------------------------------------


def statistic(name, task, result, *, engine=None, **axes):
    """A statistic record of the suite theory; ``axes`` are n, length, options."""
    identity = (name, task, engine, axes)
    return {
        "schema": "ngram-copy/1",
        "case_id": case_id(*identity),
        "kind": "statistic",
        "case": {
            "suite": "theory", "statistic": name, "task": task, **({"engine": engine} if engine else {}), **axes,
            "seed": 0, "examples": EXAMPLES, "label": engine["name"] if engine else "strings",
        },
        "result": {"data_hash": "sha256:" + hashlib.sha256(repr(identity).encode()).hexdigest(), **result},
        "environment": {**ENVIRONMENT, "seconds": 0.5, "time": "2026-01-01T00:00:03Z"},
        "artifacts": {},
    }  # fmt: skip


def uniform(vocab_size):
    return {"name": "copy", "vocab_size": vocab_size, "source": "uniform"}


def asymptotic(n, vocab_size, error):
    """L at which the n-gram copier fails with this probability, by the formula."""
    return math.sqrt(-2 * math.log(1 - error) * vocab_size**n / (1 - 1 / vocab_size)) + n


def half_length(task, n, half, one_percent, *, formula=None, exact=None, rng):
    def measured(length):
        value = round(n + (length - n) * math.exp(0.008 * rng.normal()))
        return {"value": value, "low": math.floor(0.985 * value), "high": math.ceil(1.015 * value)}

    vocab = task.get("vocab_size", 256)
    m = max(2, math.ceil(math.log2(vocab)))
    parameters = 4 * n * n * (m + 1) ** 2 + 2 * vocab * (2 * n + 1) * (m + 1)
    itself = None
    if half <= 2000:
        itself = {"length": round(half), "strings": 64, **counted(rng.binomial(64, 0.5), 64)}
        del itself["total"]
    return statistic("half-length", task, {
        "samples": 400,
        "half": measured(half),
        "one_percent": measured(one_percent),
        "formula": formula,
        "exact": exact,
        "transformer": itself,
        "heads": n + 1,
        "parameters": parameters,
        "cut_bits": 32.0 * half * (m + 1) * (2 * n + 1),
    }, n=n, options={"transformer_up_to": 2000})  # fmt: skip


def make_theory(trained=True):
    """A run of the suite theory in small: four statistics, the frontier, and trained parts."""
    rng = np.random.default_rng(2)
    records = []
    for vocab, most in ((2, 24), (4, 12), (26, 6), (64, 5)):
        for n in range(2 if vocab == 2 else 1, most + 1, 2 if vocab == 2 else 1):
            half, rare = (asymptotic(n, vocab, error) for error in (0.5, 0.01))
            small = vocab**n < 1000
            exact = {"half": round(half), "one_percent": round(rare)} if small else None
            made = half_length(uniform(vocab), n, half, rare, rng=rng,
                               formula={"half": half, "one_percent": rare}, exact=exact)  # fmt: skip
            if small:  # equal to the exact count
                made["result"]["half"] = {"value": round(half), "low": round(half) - 1, "high": round(half) + 1}
            records.append(made)
    text = {"name": "text_copy", "path": None, "unit": "bytes"}
    records += [half_length(text, n, 8 * 2.2**n, 2.0**n + n, formula=None, exact=None, rng=rng) for n in (2, 4, 6, 8)]
    for vocab in (2, 26, 64):
        for n in (1, 4, 12):
            for value in ("bits", "one-hot"):
                records.append(statistic("agreement", uniform(vocab), {
                    "strings": 1000, "shorter_strings": 10 * n, "positions": 80_000,
                    "swapped": {"positions": 70_000, "disagreements": 0},
                    "disagreements": 0, "undetermined": 4000 if n > 1 else 70_000,
                    "rule_strings": 1000, "repeat_strings": 300, "rule_disagreements": 0,
                    "transformer": {"n": n, "heads": [n, 1], "d_model": 7 * n, "parameters": 900 * n},
                }, n=n, length=512, options={"dtype": "float32", "value": value}))  # fmt: skip
    engines = {
        "prefix": ({"name": "prefix", "kept": 8, "groups": 1, "state_bits": None}, lambda length: min(2**length, 256)),
        "bounded": ({"name": "bounded", "n": 3, "slots": 4, "key_bits": 2, "eviction": "overwrite"},
                    lambda length: 2 ** (length // 2)),
        "ngram": ({"name": "ngram", "n": 3}, lambda length: round(2**length * max(0.0, 1 - length / 16))),
    }  # fmt: skip
    for engine, copied in engines.values():
        rows = [
            {"length": length, "strings": 2**length, "states": min(2**length, 256) if engine["name"] == "prefix"
             else 2**length, "copied": copied(length), "free": copied(length), "state_bits": 8.0}
            for length in range(1, 11)
        ]  # fmt: skip
        shares = [row["copied"] / row["states"] for row in rows]
        records.append(statistic("census", uniform(2), {
            "rows": rows, "largest_share": max(shares), "at": rows[shares.index(max(shares))]["length"],
        }, engine=engine, length=10))  # fmt: skip
    for dtype, first, limit in (("float32", None, None), ("bfloat16", 360, 72), ("float16", 408, 72)):
        rows = [{"n": n, "product": 6 * n, "positions": 5000, "disagreements": 3 if first == 6 * n else 0}
                for n in range(4, 72, 4) if first is None or 6 * n <= first]  # fmt: skip
        records.append(statistic("precision", uniform(64), {
            "dtype": dtype, "rows": rows, "first_failure": first, "limit": limit,
        }, length=300, options={"dtype": dtype}))  # fmt: skip
    return records + list(frontier(rng)) + (list(trained_parts(rng)) if trained else [])


def frontier(rng, vocab=2, length=64):
    """Machines of all kinds on the same strings; each recalls a share of its state."""
    task, entropy = uniform(vocab), length * math.log2(vocab)

    def cell(engine, label, state, share):
        recalled = share * min(state, entropy)
        made = accuracy(task, engine, label, length, rng, p_string=2.0 ** min(0, recalled - entropy), p_token=0.75,
                        state_bits=float(state), entropy=entropy, share=recalled / entropy)  # fmt: skip
        made["case"]["suite"] = "theory"
        made["case_id"] = case_id("frontier", label, length)
        half = 0.02 * recalled
        made["result"]["bits_recalled"].update(low=recalled - half, high=min(recalled + half, state))
        return made

    for kept in (4, 16, 32, 48, 64):
        engine = {"name": "prefix", "kept": kept, "groups": 1, "state_bits": None}
        yield cell(engine, f"prefix-{kept}", kept, 0.995)
    for slots in (8, 32, 128):
        for key_bits in (0, 8):
            for eviction in ("keep_first", "overwrite"):
                engine = {"name": "bounded", "n": 6, "slots": slots, "key_bits": key_bits, "eviction": eviction}
                yield cell(
                    engine, f"bounded-{slots}-{key_bits}-{eviction}", slots * (3 + key_bits), 0.02 * key_bits + 0.1
                )
    for bits in (1, 2, 3):
        yield cell({"name": "delay-line", "length": length, "bits": bits}, f"delay-line-{bits}", 66 * bits, 0.3 * bits)


def trained_parts(rng):
    """Learned b-bit machines, and transformers by their heads."""
    for b in (16, 32, 64):
        engine = {
            "name": "trained", "model": {"bottleneck": b, "d_model": 64},
            "training": {"task": uniform(2), "lengths": [64, 64], "steps": 100, "lr": [0.004]},
        }  # fmt: skip
        made = accuracy(uniform(2), engine, f"bottleneck-{b}-d2", 64, rng, p_string=0.0, p_token=0.6,
                        state_bits=float(b), entropy=64.0, share=0.8 * b / 64)  # fmt: skip
        made["result"]["bits_recalled"].update(low=0.78 * b, high=0.82 * b)
        yield made
    for heads in range(1, 7):
        for seed in (0, 1):
            layers = [{"mixer": "attention", "attention": {"n_heads": heads}},
                      {"mixer": "attention", "attention": {"n_heads": 1}}]  # fmt: skip
            engine = {
                "name": "trained", "model": {"layers": layers, "d_model": 64},
                "training": {"task": uniform(2), "lengths": [1, 32], "steps": 100, "lr": [0.004]},
            }  # fmt: skip
            for length in (4, 8, 16, 32):
                p = 0.9 if length <= 4 * heads - seed else 0.1
                made = accuracy(uniform(2), engine, f"heads-{heads}-d2", length, rng, p_string=p, p_token=p,
                                state_bits=4096.0, entropy=float(length), share=p)  # fmt: skip
                made["case"]["seed"] = seed
                made["case_id"] = case_id("heads", heads, length, seed)
                yield made
