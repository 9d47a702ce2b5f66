"""The command line with one more engine, ``blocking``: it waits until the file named by $GO exists."""

import os
import sys
import time
from pathlib import Path
from typing import ClassVar

from ngram_copy.__main__ import main
from ngram_copy.engines import ENGINES
from ngram_copy.engines.symbolic import NgramEngine


class Blocking(NgramEngine):
    name: ClassVar[str] = "blocking"

    def predict(self, batch, *, threads=1):
        while not Path(os.environ["GO"]).exists():
            time.sleep(0.01)
        return super().predict(batch, threads=threads)


ENGINES["blocking"] = Blocking

if __name__ == "__main__":
    sys.exit(main())
