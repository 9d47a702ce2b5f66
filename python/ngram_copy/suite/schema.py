"""What a suite's file may hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ngram_copy.statistics import STATISTICS, Statistic
from ngram_copy.suite.options import did_you_mean, pydantic_text

_Lengths = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
_Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1)]
_Examples = Annotated[int, Field(ge=2, le=10**9)]  # an interval needs two; a result is kept of each
_NAME, _PART = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", r"^[^/\s]+$"
_PATTERNS = {
    _NAME: "must be made of letters, digits, '_', '.' and '-', and begin with one of the first two",
    _PART: "must not be empty, and have no space and no '/'",
}
_Alias = Annotated[str, Field(pattern=_PART)]  # parts of a case's name
_Names = Annotated[list[str], Field(min_length=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Entry(_Table):
    tasks: _Names
    seeds: _Seeds = [0]
    examples: _Examples = 1000


class Cases(_Entry):
    """A ``[[cases]]`` table."""

    engines: _Names
    lengths: _Lengths


class Statistics(_Entry):
    """A ``[[statistics]]`` table."""

    model_config = ConfigDict(extra="allow", strict=True)  # options of the statistic

    statistic: str
    engines: _Names | None = None
    n: Annotated[list[Annotated[int, Field(ge=1, le=2**16)]], Field(min_length=1)] | None = None
    lengths: _Lengths | None = None


class File(_Table):
    """A suite's file, with what it includes."""

    name: Annotated[str, Field(pattern=_NAME)]
    description: str = ""
    include: list[str] = []
    tasks: dict[_Alias, dict[str, Any]] = {}
    models: dict[_Alias, dict[str, Any]] = {}
    training: dict[_Alias, dict[str, Any]] = {}
    engines: dict[_Alias, dict[str, Any]] = {}
    cases: list[Cases] = []
    statistics: list[Statistics] = []


AXES = ("engines", "n", "lengths")
"""What a statistic may be measured for each of."""


def make_statistic(entry: Statistics) -> Statistic:
    """Make the statistic of a checked table."""
    make: Callable[..., Statistic] = STATISTICS[entry.statistic]
    return make(**(entry.model_extra or {}))


def first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """The first of pydantic's findings as one line, with the number of the others."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    if problem["type"] == "extra_forbidden":
        text = f"unknown key{did_you_mean(str(problem['loc'][-1]), _model_at(model, problem['loc'][:-1]).model_fields)}"
    elif problem["type"] == "missing":
        text = "this key is missing"
    elif problem["type"] == "too_short":
        text = "must not be empty"
    elif problem["type"] == "string_pattern_mismatch":
        text = f"{_PATTERNS[problem['ctx']['pattern']]}, not {problem['input']!r}"
    else:
        text = f"{pydantic_text(problem['msg'])}, not {problem['input']!r}"
    others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {text}{others}"


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """The model of the table that a location of a finding leads to: ``("cases", 0)`` → ``Cases``."""
    tables: dict[str, type[BaseModel]] = {"cases": Cases, "statistics": Statistics}
    return tables.get(str(location[0]), model) if location else model
