"""Run the commands of README and docs as a reader would, one folder for each page.

Blocks fenced as ``sh`` and ``python`` are run, in order, in one scratch folder a page; a block fenced as
``toml FILE`` or ``python FILE`` is written to that file first. Blocks of any other language are not run. Lines
that set the project up (``make``, ``git clone``, ``cd``, ``pip``) are run by CI itself and passed over here.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "METHODOLOGY.md", *sorted((ROOT / "docs").glob("*.md"))]
SET_UP = ("make", "git", "cd", "pip", "cargo")

_FENCE = re.compile(r"^```(\w+)(?: +(\S+))? *\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it stands for, its text, its line in the page."""

    language: str
    file: str | None
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page that are run or written."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(match[1], match[2], match[3], text.count("\n", 0, match.start()) + 1)
        for match in _FENCE.finditer(text)
        if match[1] in {"sh", "python"} or match[2]
    ]


def commands(block: Block) -> list[str]:
    """The lines of a shell block that are run; a line that ends in a backslash goes on."""
    lines = [line.split("  #")[0].strip() for line in block.text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#") and shlex.split(line)[0] not in SET_UP]


def run_page(page: Path) -> list[str]:
    """Run a page; the failures, each in a line or two."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    failures = []
    with tempfile.TemporaryDirectory() as scratch:

        def run(command: list[str], block: Block, shown: str) -> None:
            done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                failures.append(f"{page.name}:{block.line}: {shown}\n{(done.stdout + done.stderr)[-2000:]}")

        for block in blocks(page):
            if block.file:
                (Path(scratch) / block.file).write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                run([sys.executable, "-W", "error", "-c", block.text], block, "python block")
            else:
                for command in commands(block):
                    run(["bash", "-c", command], block, command)
    return failures


def main() -> int:
    """Run all pages and say what failed."""
    failed = 0
    for page in PAGES:
        found = run_page(page)
        failed += len(found)
        count = sum(len(commands(b)) if b.language == "sh" else b.file is None for b in blocks(page))
        print(f"{page.relative_to(ROOT)}: {count} commands and examples, {len(found)} failed")
        for failure in found:
            print(failure, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
