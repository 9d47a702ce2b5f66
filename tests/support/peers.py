"""Functions of other packages that tests and benchmarks hold ours against."""

import inspect

import pytest


def transformers_module(model):
    """The module with the layers of a model."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    return __import__(f"transformers.models.{model}.modeling_{model}", fromlist=["x"])


def transformers_function(model, name):
    """Its own torch code: where fla-core is installed, the function of that name is a door to fla's kernels."""
    return inspect.unwrap(getattr(transformers_module(model), name))


def fla_naive(name):
    """A module of fla-core's plain torch code; it imports on a machine that has triton, with or without a GPU."""
    pytest.importorskip("fla", reason="fla-core is not installed")
    return __import__(f"fla.ops.{name}.naive", fromlist=["x"])
