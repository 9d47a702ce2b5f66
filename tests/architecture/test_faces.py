"""NumPy's faces and torch's ops are one interface: names, arguments, defaults, and what is returned in which order."""

import inspect
import re

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from ngram_copy import ssm
from ngram_copy.models import ops

ONLY_NUMPY = {"zero_order_hold"}
ONLY_TORCH = {"Resolution", "resolve_backend"}
OWN_ARGUMENTS = {"threads", "backend"}


def arguments(function):
    """(name, default, kind) of all arguments but those that only one face has."""
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.default, p.kind) for p in parameters if p.name not in OWN_ARGUMENTS]


def returned(function):
    """Names of what the docstring says is returned, in order; none where it is one thing without a name."""
    section = re.search(r"^Returns\n-+\n(.*?)(?:\n\n|\Z)", inspect.getdoc(function), re.DOTALL | re.MULTILINE)
    return [name for names in re.findall(r"^(\w[\w, ]*) :", section[1], re.MULTILINE) for name in names.split(", ")]


def test_both_have_the_same_functions():
    assert set(ssm.__all__) - ONLY_NUMPY == set(ops.__all__) - ONLY_TORCH


@pytest.mark.parametrize("name", sorted(set(ssm.__all__) - ONLY_NUMPY))
def test_a_function_is_the_same_in_both(name):
    numpy, torch = getattr(ssm, name), getattr(ops, name)
    assert arguments(numpy) == arguments(torch)
    assert returned(numpy) == returned(torch)
    assert len(returned(numpy)) == (0 if name == "l2_normalise" else 2)
