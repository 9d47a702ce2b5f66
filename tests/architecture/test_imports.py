"""Who may import whom: DESIGN's table, held against the code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ngram_copy

PACKAGE = Path(ngram_copy.__file__).parent

# room → rooms of the package that it may import; what is deferred into functions counts too.
MAY_IMPORT = {
    "__init__": {"ngram", "sample", "ssm", "theory"},
    "__main__": {"cli"},
    "_arguments": set(),
    "_educational": set(),
    "theory": set(),
    "ngram": {"_rust", "_arguments"},
    "sample": {"_rust", "_arguments"},
    "tasks": {"sample", "ngram", "theory"},
    "score": {"theory", "tasks", "engines"},
    "ssm": {"_rust", "_arguments", "ngram"},
    "models": {"ssm", "theory"},
    "engines": {"ngram", "tasks", "models"},
    "train": {"tasks", "models", "engines", "score", "sample"},
    "statistics": {"tasks", "engines", "ngram", "sample", "theory", "models", "score"},
    # train and models: to check what a file asks for
    "suite": {"tasks", "engines", "statistics", "results", "train", "models"},
    "results": set(),
    "run": {"suite", "tasks", "engines", "score", "results", "theory", "train", "models", "workers"},
    "workers": {"suite", "results", "models"},
    "report": {"results", "score", "theory"},
    # models: to see into heads; report: what its charts are made of.
    "probes": {"tasks", "engines", "score", "sample", "models", "report"},
    "cli": {"suite", "run", "results", "report", "tasks", "engines", "score", "theory", "ngram"}
    | {"probes", "models", "train", "statistics"},
}

# For types alone (under TYPE_CHECKING) or the base contracts; written out so that nothing more slips in.
ONLY_BASE = {("score", "tasks"), ("score", "engines"), ("engines", "tasks")}


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[tuple[str, str]]:
    """(room, full name) of everything that a module imports from the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ngram_copy":
            parts = node.module.split(".")[1:]
            if parts:
                found.add((parts[0], ".".join(parts)))
            else:
                found |= {(alias.name, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".")[1:] for alias in node.names if alias.name.split(".")[0] == "ngram_copy"]
            found |= {(name[0], ".".join(name)) for name in names if name}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_follow_the_table(path):
    here = room(path)
    for there, name in imported(path):
        if there in {here, "__version__", "_arguments"}:
            continue
        assert there in MAY_IMPORT[here], f"{here} may not import {name}"
        if (here, there) in ONLY_BASE:
            assert name == f"{there}.base", f"{here} may import {there}.base alone, not {name}"


def test_every_room_is_in_the_table():
    assert {room(path) for path in modules()} <= set(MAY_IMPORT)


def test_only_the_faces_import_the_core():
    importers = {room(path) for path in modules() if any(there == "_rust" for there, _ in imported(path))}
    assert importers <= {"ngram", "sample", "ssm", "__init__"}


def test_importing_the_package_is_light():
    heavy = "torch typer rich pydantic altair vl_convert scipy transformers".split()
    code = f"import sys, ngram_copy; print(sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
