"""Settings of all tests: 1,000 cases for each property, counted and printed."""

import functools

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ngram-copy",
    max_examples=1000,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ngram-copy")

CASES = pytest.StashKey[dict]()


def pytest_configure(config):
    config.stash[CASES] = {}


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Count how often Hypothesis calls the body of a property."""
    handle = getattr(pyfuncitem.obj, "hypothesis", None)
    if handle is None:
        return (yield)
    body, counts = handle.inner_test, pyfuncitem.config.stash[CASES]

    @functools.wraps(body)
    def counted(*args, **kwargs):
        counts[pyfuncitem.nodeid] = counts.get(pyfuncitem.nodeid, 0) + 1
        return body(*args, **kwargs)

    handle.inner_test = counted
    try:
        return (yield)
    finally:
        handle.inner_test = body


def pytest_terminal_summary(terminalreporter, config):
    counts = config.stash[CASES]
    if counts:
        terminalreporter.section("cases for each property")
        for name, count in counts.items():
            terminalreporter.write_line(f"{count:6d}  {name}")
