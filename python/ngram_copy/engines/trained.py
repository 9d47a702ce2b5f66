"""The engine of a model that the run trains.

Importing this does not import torch; making an engine does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy.engines.base import Engine, Prediction
from ngram_copy.engines.bottleneck import BottleneckEngine
from ngram_copy.engines.neural import NeuralEngine, require_torch
from ngram_copy.engines.own import ModuleEngine, load_builder
from ngram_copy.tasks.base import Batch, VocabularySpec

if TYPE_CHECKING:
    from torch import nn

    from ngram_copy.models import ModelConfig


class TrainedEngine(Engine):
    """A model that the run trains, then measures.

    Parameters
    ----------
    model : dict
        Its shape: what ``ngram_copy.models.presets.model_config`` takes; ``bottleneck`` and the other options of a
        ``ngram_copy.models.bottleneck.BottleneckConfig``; or ``build`` alone, the ``FILE.py:FUNCTION`` that builds a
        module of your own.
    training : dict
        What ``ngram_copy.train.Training`` takes, and ``task``: the name and the options of the task it learns from.
    """

    name: ClassVar[str] = "trained"
    summary: ClassVar[str] = "a model that is trained by the run"

    def __init__(self, vocab: VocabularySpec, *, model: Mapping[str, Any], training: Mapping[str, Any]) -> None:
        require_torch("a trained engine")
        self.vocab = vocab
        self.training = training
        self._source = str(model.get("build", "model"))
        self.shape: ModelConfig | Callable[[int], nn.Module] = shape_of(model, vocab)
        self._inner: Engine | None = None

    def prepare(self, folder: Path, seed: int, device: str = "cpu") -> None:
        """Take what a training left.

        Parameters
        ----------
        folder : Path
            Its checkpoint.
        seed : int
            Of the training: what a module of one's own draws beside its weights is drawn again.
        device : str
            Of torch.

        Raises
        ------
        ngram_copy.models.checkpoint.CheckpointError
            If there is none, it is damaged or another model's, or the training has not ended.
        """
        import torch

        from ngram_copy.models import ModelConfig
        from ngram_copy.models.checkpoint import CheckpointError, load_model, load_weights, read_extra

        if "result" not in read_extra(folder):
            raise CheckpointError(f"{folder} holds a training that has not ended")
        if not isinstance(self.shape, ModelConfig):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                module = self.shape(self.vocab.total)
            load_weights(folder, module)
            self._inner = self._over(module.to(device))
            return
        loaded = load_model(folder)
        if loaded.config.to_json() != self.shape.to_json():
            raise CheckpointError(f"{folder} holds another model than the one that is asked for")
        self._inner = NeuralEngine(self.vocab, loaded.to(device).eval())

    @property
    def inner(self) -> Engine:
        """The engine that answers: of the weights that were loaded; before, of a model that knows its sizes alone."""
        import torch

        from ngram_copy.models import LanguageModel, ModelConfig

        if self._inner is None:
            if isinstance(self.shape, ModelConfig):
                with torch.device("meta"):
                    self._inner = NeuralEngine(self.vocab, LanguageModel(self.shape))
            else:
                self._inner = self._over(self.shape(self.vocab.total))
        return self._inner

    def _over(self, module: nn.Module) -> ModuleEngine:
        """The engine over a module that is no ``LanguageModel``."""
        from ngram_copy.models.bottleneck import Bottleneck

        kind = BottleneckEngine if isinstance(module, Bottleneck) else ModuleEngine
        return kind(self.vocab, module, source=self._source)

    def predict(self, batch: Batch, *, threads: int = 1) -> Prediction:
        return self.inner.predict(batch, threads=threads)

    def cut(self, prompts: Sequence[NDArray[np.uint32]]) -> list[bytes]:
        return self.inner.cut(prompts)

    def resume(
        self, states: Sequence[bytes], max_new_tokens: int, queries: Sequence[NDArray[np.uint32]] | None = None
    ) -> list[NDArray[np.int64]]:
        return self.inner.resume(states, max_new_tokens, queries)

    def state_bits(self, prompts: Sequence[NDArray[np.uint32]]) -> NDArray[np.float64]:
        return self.inner.state_bits(prompts)

    def quantised(self, bits: int, prompts: Sequence[NDArray[np.uint32]]) -> Engine | None:
        return self.inner.quantised(bits, prompts)


def shape_of(model: Mapping[str, Any], vocab: VocabularySpec) -> ModelConfig | Callable[[int], nn.Module]:
    """What a model's table means: a config, or the function (a ``BottleneckConfig`` is one) that builds a module.

    Raises
    ------
    ValueError
        If an option is unknown, a size is not allowed, or there is no such function.
    """
    from ngram_copy.models.bottleneck import BottleneckConfig
    from ngram_copy.models.presets import model_config

    if "bottleneck" in model:
        return BottleneckConfig.from_table(model)
    if "build" not in model:
        return model_config(vocab.total, model)
    if len(model) > 1:
        raise ValueError(f"build says all of a model: {', '.join(model)} cannot stand together")
    return load_builder(model["build"])
