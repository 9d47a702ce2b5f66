"""The benchmark of recurrences: peers compute what we compute, and tables say what was measured."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
pytest.importorskip("cpuinfo", reason="pytest-benchmark is not installed")
sys.path.insert(0, str(Path(__file__).parents[2] / "benches"))

import ssm
from ssm_peers import JAX, TORCH

SMALL = {"batch": 2, "d_model": 24, "d_state": 4, "n_heads": 2, "head_k": 8, "head_v": 8, "head_dim": 8, "seq_len": 64}
SMALL |= {"n_modes": 4, "width": 24, "channels": 24}
WAYS = {(case.recurrence, case.work, by): case for case in ssm.CASES for by in case.peers}


def call(case, by, given):
    if by == JAX:
        pytest.importorskip("jax", reason="jax is not installed")
        return ssm.jax_call(case, given)
    return ssm.torch_call(TORCH[by](case.recurrence), case, given)


@pytest.mark.filterwarnings("ignore")  # of the peers' imports
@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_peers_compute_the_same(way):
    recurrence, work, by = way
    shape = {name: SMALL.get(name, size) for name, size in WAYS[way].shape.items()}
    case = ssm.Case(recurrence, work, shape, ())
    given = ssm.arrays(case)
    found, ours = (call(case, who, given)() for who in (by, ssm.OURS))
    pairs = [(found, ours)] if torch.is_tensor(ours) else zip(found, ours, strict=True)
    for of_peer, of_ours in pairs:
        np.testing.assert_allclose(of_peer, of_ours, rtol=1e-4, atol=1e-4 * float(np.abs(of_ours).max()))


def test_the_table_says_how_much_faster_ours_is():
    shape = {"batch": 1, "d_model": 2, "d_state": 2, "seq_len": 4}
    measurements = [
        {"recurrence": "selective_scan", "pass": "forward", "shape": shape, "threads": 1, "by": by}
        | {"seconds": [t, t, 9 * t], "peak_bytes": peak}
        for by, t, peak in [(ssm.OURS, 0.001, 10**6), (JAX, 0.0075, 8 * 10**6)]
    ]
    ours, jax = ssm.table(measurements).splitlines()
    assert "1.000 ms" in ours
    assert "faster" not in ours
    assert "ours is    7.5× faster with 0.125 of the memory" in jax
    (share,) = ssm.shares(measurements, {"exponentials": 32e3, "flops": 1.0, "bytes": 1.0})
    assert share.startswith("   50% (0.5 of 1.0 ms)  selective_scan, forward")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no process to cores")
def test_a_measurement_is_a_process_of_its_own():
    assert ssm.child(1, os.getpid) != os.getpid()
    assert len(ssm.child(1, os.sched_getaffinity, 0)) == 1
    with pytest.raises(SystemExit, match=r"exit.* ended without a result"):
        ssm.child(1, sys.exit, 3)
