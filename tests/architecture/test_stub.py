"""The type stub of the Rust module is held against the module."""

import subprocess
import sys


def test_the_stub_fits_the_module():
    command = [sys.executable, "-m", "mypy.stubtest", "ngram_copy._rust"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
