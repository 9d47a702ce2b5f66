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

CASES = "cases"  # kept among what a report says of its test, which pytest-xdist brings from the worker that ran it


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Count how often Hypothesis calls the body of a property."""
    handle = getattr(pyfuncitem.obj, "hypothesis", None)
    if handle is None:
        return (yield)
    body, count = handle.inner_test, 0

    @functools.wraps(body)
    def counted(*args, **kwargs):
        nonlocal count
        count += 1
        return body(*args, **kwargs)

    handle.inner_test = counted
    try:
        return (yield)
    finally:
        handle.inner_test = body
        pyfuncitem.user_properties.append((CASES, count))


def pytest_terminal_summary(terminalreporter):
    reports = [r for rs in terminalreporter.stats.values() for r in rs if getattr(r, "when", None) == "call"]
    counts = {report.nodeid: count for report in reports for key, count in report.user_properties if key == CASES}
    if counts:
        terminalreporter.section("cases for each property")
        for name, count in sorted(counts.items()):  # in one order, whichever worker was first
            terminalreporter.write_line(f"{count:6d}  {name}")
