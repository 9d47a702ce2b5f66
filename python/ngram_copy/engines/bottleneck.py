"""The engine of a learned b-bit machine (``models/bottleneck.py``): a module whose state at the cut is its bits.

Importing this does not import torch; making an engine does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from ngram_copy.engines.foreign import from_bytes, to_bytes, tree_of
from ngram_copy.engines.own import ModuleEngine

if TYPE_CHECKING:
    from torch import Tensor

    from ngram_copy.models.bottleneck import Bottleneck


class BottleneckEngine(ModuleEngine):
    """A module that keeps b bits behind ``<copy>``.

    The cut is made behind ``<copy>``: before it, the prompt is still being read. Nothing is read again, the first
    answer comes from the bits.
    """

    name: ClassVar[str] = "bottleneck"
    summary: ClassVar[str] = "a trained machine of b bits"

    @property
    def machine(self) -> Bottleneck:
        return cast("Bottleneck", self._module)

    def state_bits(self, prompts: Sequence[NDArray[np.uint32]]) -> NDArray[np.float64]:
        """The bits, b for each prompt.

        Raises
        ------
        ValueError
            If a string is too long for the machine.
        """
        for prompt in prompts:
            self._check(prompt)
        return np.full(len(prompts), float(self.machine.bits))

    # --- Parts ----------------------------------------------------------------------------------------------

    def _check(self, prompt: Sequence[int] | NDArray[np.uint32]) -> None:
        """A string of at most max_len tokens between ``<bos>`` and ``<copy>``."""
        if not len(prompt) or prompt[-1] != self.vocab.copy:
            raise ValueError("a prompt must end with <copy>")
        if len(prompt) - 2 > self.machine.config.max_len:
            raise ValueError(
                f"a string of {len(prompt) - 2} tokens is too long for a machine of max_len = "
                f"{self.machine.config.max_len}"
            )

    def _cut(self, prompt: list[int]) -> bytes:
        import torch

        self._check(prompt)
        with torch.inference_mode():
            state = self._prefill(self._row(prompt))[1]
        return to_bytes({"state": tree_of(state)}, self._identity())

    def _open(self, state: bytes, query: Sequence[int]) -> tuple[Tensor, Any]:
        restored = self._restore(from_bytes(state, self._identity(), self.device)["state"])
        if not query:
            return self.machine.answer(restored), restored
        return self._read(self._row(query), restored)
