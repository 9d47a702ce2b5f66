"""The options of classes, checked as a suite's tables give them, and the texts of what is wrong with them."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ngram_copy.tasks.base import Task


class SuiteError(ValueError):
    """A suite that cannot run; the text is one line that says where and why."""


def options_of(task: Task) -> dict[str, Any]:
    """All options of a task, defaults included, as JSON values."""
    fields = dataclasses.fields(typing.cast(Any, task))
    options: dict[str, Any] = json.loads(
        json.dumps({field.name: getattr(task, field.name) for field in fields if field.init})
    )
    return options


def signature_of(cls: type[Any]) -> dict[str, inspect.Parameter]:
    """The options of a task's or an engine's class: its keyword arguments."""
    parameters = inspect.signature(cls).parameters
    return {name: parameter for name, parameter in parameters.items() if name != "vocab"}


def check_options(cls: type[Any], options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of a class with its defaults filled in, each checked against its annotation.

    Raises
    ------
    SuiteError
        If an option is unknown, missing or of another type.
    """
    parameters = signature_of(cls)
    require_known(options, parameters, where, f"option of {getattr(cls, 'name', cls.__name__)}")
    hints = _hints(cls)
    checked = {}
    for name, parameter in parameters.items():
        if name not in options:
            if parameter.default is inspect.Parameter.empty:
                raise SuiteError(f"{where}: the option {name} is missing")
            checked[name] = parameter.default
            continue
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(hints.get(name, Any))
            checked[name] = adapter.validate_json(json.dumps(options[name]), strict=True)
        except TypeError as error:  # a TOML date
            raise SuiteError(f"{where}.{name}: {options[name]} is not a number, string, list or truth value") from error
        except ValidationError as error:
            problem = pydantic_text(error.errors()[0]["msg"])
            raise SuiteError(f"{where}.{name}: {options[name]!r} {problem}") from error
    return checked


def _hints(cls: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(cls if dataclasses.is_dataclass(cls) else cls.__init__)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` where a name is near, and the list of all names that there are."""
    names = [str(one) for one in known]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{hint} (known: {', '.join(names) or 'none'})" if near else f"{hint} known: {', '.join(names) or 'none'}"


def require_known(names: Iterable[str], known: Iterable[str], where: str, what: str) -> None:
    """Refuse names that are not known; ``what`` says of what kind they are.

    Raises
    ------
    SuiteError
        If one is not a string, or unknown.
    """
    known = list(known)
    for name in names:
        if not isinstance(name, str):
            raise SuiteError(f"{where}: a name in quotes is needed, not {name!r}")
        if name not in known:
            raise SuiteError(f"{where}: unknown {what} {name!r}{did_you_mean(name, known)}")


def pydantic_text(message: str) -> str:
    """What pydantic says of a value, as the end of a sentence that begins with it."""
    return message.removeprefix("Input ").replace("should ", "must ")


def one_line(error: Exception) -> str:
    """The text of an error, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
