"""The engine of the transformer whose weights are set by formula.

Importing this does not import torch; making an engine does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy.engines.base import Prediction
from ngram_copy.engines.neural import NeuralEngine, require_torch
from ngram_copy.tasks.base import Batch, VocabularySpec

DTYPES = ("float32", "float64", "float16", "bfloat16")


class ConstructedEngine(NeuralEngine):
    """``ngram_copy.models.construct.copy_transformer`` of a task's vocabulary; its options determine it.

    Parameters
    ----------
    vocab : VocabularySpec
    n : int
        Length of the n-grams, and heads of its first layer.
    max_len : int
        Longest string; longer prompts are refused.
    value : {"bits", "one-hot"}
        What is averaged over several matches.
    dtype : {"float32", "float64", "float16", "bfloat16"}
    force : bool
        Whether a dtype is allowed beyond its limit.

    Raises
    ------
    ValueError
        If torch is missing, an option is not allowed, or there is not so much memory.
    """

    name: ClassVar[str] = "constructed"
    summary: ClassVar[str] = "transformer of two layers that is the n-gram copier, by formula"

    def __init__(
        self,
        vocab: VocabularySpec,
        *,
        n: int = 4,
        max_len: int = 512,
        value: str = "bits",
        dtype: str = "float32",
        force: bool = False,
    ) -> None:
        require_torch("a constructed engine")
        import torch

        from ngram_copy.models.construct import copy_transformer

        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
        model = copy_transformer(n, vocab.size, max_len, value=value, dtype=getattr(torch, dtype), force=force)
        super().__init__(vocab, model)
        self.max_len = max_len

    def predict(self, batch: Batch, *, threads: int = 1) -> Prediction:
        self._check(batch.prompts())
        return super().predict(batch, threads=threads)

    def cut(self, prompts: Sequence[NDArray[np.uint32]]) -> list[bytes]:
        self._check(prompts)
        return super().cut(prompts)

    def _check(self, prompts: Sequence[NDArray[np.uint32]]) -> None:
        longest = max((len(prompt) for prompt in prompts), default=0) - 2  # <bos> and <copy> do not count
        if longest > self.max_len:
            raise ValueError(f"this engine was made for strings of up to {self.max_len} tokens, not {longest}: max_len")
