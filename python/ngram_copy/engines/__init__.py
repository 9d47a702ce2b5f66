"""Engines: what answers batches; ``ENGINES`` holds them by name."""

from ngram_copy.engines.base import Engine, Prediction
from ngram_copy.engines.constructed import ConstructedEngine
from ngram_copy.engines.delay_line import DelayLineEngine
from ngram_copy.engines.huggingface import HuggingFaceEngine
from ngram_copy.engines.own import FileEngine
from ngram_copy.engines.symbolic import BoundedEngine, NgramEngine, PrefixEngine
from ngram_copy.engines.trained import TrainedEngine

ENGINES: dict[str, type[Engine]] = {
    engine.name: engine
    for engine in (
        NgramEngine,
        BoundedEngine,
        PrefixEngine,
        ConstructedEngine,
        DelayLineEngine,
        TrainedEngine,
        FileEngine,
        HuggingFaceEngine,
    )
}
"""All engines by name; a new one is a file and a line here."""

__all__ = ["ENGINES", "Engine", "Prediction"]
