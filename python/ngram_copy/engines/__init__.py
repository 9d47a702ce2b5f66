"""Engines: what answers batches; ``ENGINES`` holds them by name."""

from ngram_copy.engines.base import Engine, Prediction
from ngram_copy.engines.neural import TrainedEngine
from ngram_copy.engines.symbolic import BoundedEngine, NgramEngine, PrefixEngine

ENGINES: dict[str, type[Engine]] = {
    engine.name: engine for engine in (NgramEngine, BoundedEngine, PrefixEngine, TrainedEngine)
}
"""All engines by name; a new one is a file and a line here."""

__all__ = ["ENGINES", "Engine", "Prediction"]
