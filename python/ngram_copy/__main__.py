"""The command ``ngram-copy``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_EXTRA = {"typer", "rich", "pydantic", "altair", "vl_convert", "click"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 fine, 1 a threshold missed, 2 bad input, 130 Ctrl-C."""
    try:
        from ngram_copy.cli import invoke

        return invoke(arguments)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _EXTRA:
            raise
        print("ngram-copy needs its command-line extra: pip install 'ngram-copy[bench]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
