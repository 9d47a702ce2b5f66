"""The engine over the state space model that copies by construction.

Importing this does not import torch; making an engine does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy.engines.base import Prediction
from ngram_copy.engines.neural import NeuralEngine, require_torch
from ngram_copy.tasks.base import Batch, VocabularySpec

if TYPE_CHECKING:
    from ngram_copy.models import State
    from ngram_copy.models.delay_line import CopySSM


class DelayLineEngine(NeuralEngine):
    """A delay line of one length; see ``ngram_copy.models.delay_line``.

    Parameters
    ----------
    length : int
        L: of what every prompt holds between ``<bos>`` and ``<copy>``.
    bits : int
        Of each number of the state at the cut, 1 … 16, rounded by a codec that is fitted on random strings; 0: it stays
        in float32.
    """

    name: ClassVar[str] = "delay-line"
    summary: ClassVar[str] = "a state space model with weights by formula that copies one length"
    one_thread: ClassVar[bool] = True

    def __init__(self, vocab: VocabularySpec, *, length: int, bits: int = 0) -> None:
        require_torch("a delay line")
        from ngram_copy.models.delay_line import copy_ssm

        if not 0 <= bits <= 16:
            raise ValueError(f"bits must be 0 (floats) or in 1 … 16, not {bits}")
        made = copy_ssm(length, vocab.size, bits or None)
        super().__init__(vocab, made.model)
        self.length = length
        self._take(made)

    def predict(self, batch: Batch, *, threads: int = 1) -> Prediction:
        self._require_length(np.unique(batch.cut))
        return super().predict(batch, threads=threads)

    def state_bits(self, prompts: Sequence[NDArray[np.uint32]]) -> NDArray[np.float64]:
        self._require_length(map(len, prompts))
        return super().state_bits(prompts)

    def quantised(self, bits: int, prompts: Sequence[NDArray[np.uint32]]) -> DelayLineEngine:
        other = copy.copy(self)
        other._take(self._made.rounded(bits, self._read(prompts)))
        return other

    # --- inside ---

    def _take(self, made: CopySSM) -> None:
        self._made, self.model, self._codec = made, made.model, made.codec

    def _read(self, prompts: Sequence[NDArray[np.uint32]]) -> State:
        self._require_length(map(len, prompts))
        return super()._read(prompts)

    def _require_length(self, cuts: Iterable[int]) -> None:
        """Refuse prompts of another length; each is ``<bos> x_1 … x_L <copy>``."""
        for cut in cuts:
            if cut != self.length + 2:
                raise ValueError(f"a delay line of length {self.length} cannot copy a string of {cut - 2}")
