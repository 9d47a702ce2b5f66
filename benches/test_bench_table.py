"""The verified index of 10M Zipf tokens (D = 32,000), n = 4, beside dictionaries and a sort of hashes.

The hashes that are sorted are made before, outside the time. The dictionaries run without the garbage collector, in C
alone (no bytecode for each n-gram): from the last n-gram to the first, so that the first position stays.
"""

import gc
import json
import subprocess
import sys

import numpy as np
import pytest

import ngram_copy as nc

TOKENS, N = 10_000_000, 4
LINUX = sys.platform == "linux"

PEAK = """
import json, re, sys
from pathlib import Path
import numpy as np
import ngram_copy as nc
nc.NgramTable(np.zeros(100, np.uint32), 4)
x = np.load(sys.argv[1])
status = lambda key: 1024 * int(re.search(rf"{key}:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
before = status("VmRSS")
table = nc.NgramTable(x, 4)
print(json.dumps({"peak_mb": (status("VmHWM") - before) / 1e6, "held_mb": table.nbytes / 1e6, "distinct": len(table)}))
"""


@pytest.fixture(scope="module")
def zipf():
    return nc.sample.zipf(0, 0, 0, 1, TOKENS, 32_000)[0]


@pytest.fixture(autouse=True)
def group(benchmark):
    benchmark.group = "index of 10M Zipf tokens, D = 32,000, n = 4"
    benchmark.extra_info["tokens"] = TOKENS


@pytest.mark.parametrize("policy", ["first", "last", "most_frequent", "positions"])
def test_table(benchmark, zipf, policy, tmp_path):
    if policy == "first":
        # The peak above the tokens is that of a fresh process; the copy of the tokens that the table owns is in it.
        # It is not that of getrusage, which a process inherits from the one that started it.
        np.save(tmp_path / "x.npy", zipf)
        command = [sys.executable, "-c", PEAK, str(tmp_path / "x.npy")]
        benchmark.extra_info |= json.loads(subprocess.check_output(command, text=True)) if LINUX else {}
    benchmark.pedantic(nc.NgramTable, (zipf, N), {"policy": policy}, rounds=7, warmup_rounds=1)


def test_lookups(benchmark, zipf):
    """All n-grams again, in random order."""
    table = nc.NgramTable(zipf, N)
    windows = np.lib.stride_tricks.sliding_window_view(zipf, N)
    ngrams = windows[np.random.default_rng(0).permutation(len(windows))[: TOKENS // 5]]
    benchmark.group = "look up 2M n-grams of 10M, n = 4"
    benchmark.extra_info["tokens"] = len(ngrams)
    benchmark.pedantic(table.next_tokens, (ngrams,), rounds=5, warmup_rounds=1)


def test_sort(benchmark, zipf):
    hashes = nc.hash_ngrams(zipf, N)
    benchmark.extra_info["peer"] = "NumPy argsort of the hashes (unverified)"
    benchmark.pedantic(np.argsort, (hashes,), rounds=3)


def dictionary(benchmark, keys):
    def build():
        gc.disable()
        try:
            return dict(zip(keys(), range(TOKENS - N, -1, -1), strict=True))
        finally:
            gc.enable()

    benchmark.pedantic(build, rounds=3)


def test_dict_of_tuples(benchmark, zipf):
    benchmark.extra_info["peer"] = "dict of tuples"
    tokens = zipf.tolist()[::-1]
    dictionary(benchmark, lambda: zip(tokens[3:], tokens[2:-1], tokens[1:-2], tokens[:-3], strict=True))


def test_dict_of_packed_ints(benchmark, zipf):
    """Four tokens in 60 bits of one integer, packed by NumPy outside the time: for small vocabularies and n only."""
    benchmark.extra_info["peer"] = "dict of n-grams packed into ints"
    x = zipf.astype(np.int64)
    packed = (x[3:] | x[2:-1] << 15 | x[1:-2] << 30 | x[:-3] << 45)[::-1].tolist()
    dictionary(benchmark, lambda: packed)
