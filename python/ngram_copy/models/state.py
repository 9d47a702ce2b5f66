"""The state at the cut as bytes, and rounded to few bits.

``state_to_bytes`` and ``state_from_bytes`` keep every bit: safetensors, with the position in the header. ``Codec``
rounds: how many bits of a state are *used* cannot be read off its floats, so a state is rounded ONCE, at the cut, by a
codec fitted on other strings, and what is left is measured.
"""

from __future__ import annotations

import json

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ngram_copy.models.base import LanguageModel, LayerState, State

_FORMAT = "ngram-copy state 2"
_KEY = "ngram_copy"  # of the header: one key, as the order of several is not fixed, and equal states are equal bytes


class StateBytesError(ValueError):
    """Bytes that are not the state of this model; the text is one line."""


def state_to_bytes(state: State) -> bytes:
    """Safetensors bytes of a state of one row: equal for equal states.

    Their header (position, names, shapes) depends on lengths alone.

    Raises
    ------
    ValueError
        If the state has more than one row.
    """
    tensors = {}
    for index, layer in enumerate(state.layers):
        for name, x in layer.items():
            if len(x) != 1:
                raise ValueError(f"the state of one row is needed, not of {len(x)}")
            tensors[f"{index}.{name}"] = x[0].detach().cpu().contiguous()
    return save(tensors, {_KEY: f"{_FORMAT}, {state.position}"})


def state_from_bytes(data: bytes, model: LanguageModel) -> State:
    """Undo ``state_to_bytes`` for a model: a state of one row on its device.

    Raises
    ------
    StateBytesError
        If the bytes are damaged, or the state is another model's.
    """
    try:
        tensors = load(data)
        size = int.from_bytes(data[:8], "little")
        written: str = json.loads(data[8 : 8 + size])["__metadata__"][_KEY]
        form, _, position_text = written.rpartition(", ")
        position = int(position_text)
    except (SafetensorError, ValueError, KeyError) as error:
        raise StateBytesError(f"not a state: {error}") from error
    if form != _FORMAT:
        raise StateBytesError(f"not a state of this version: format {form!r}, not {_FORMAT!r}")
    layers: list[LayerState] = []
    for index, expected in enumerate(model.initial_state(1).layers):
        layer = {}
        for name, x in expected.items():
            found = tensors.pop(f"{index}.{name}", None)
            if found is None or found.dim() + 1 != x.dim() or found.dtype != x.dtype:
                raise StateBytesError(f"the state of another model: layer {index} has no such {name}")
            layer[name] = found[None].to(x.device)
        layers.append(layer)
    state = State(position, layers)
    numbers = sum(x.numel() for layer in layers for x in layer.values())
    if tensors or numbers != model.state_size(position):
        raise StateBytesError(
            f"the state of another model: {numbers} numbers after {position} tokens, not {model.state_size(position)}"
        )
    return state


# --- Rounding -------------------------------------------------------------------------------------------


class Codec:
    """Rounds each number of a state to ``bits`` bits, by levels that were fitted on other states.

    Each coordinate of a state has 2^bits levels of its own: the range of the fitted values is cut into as many equal
    cells, and a level is the mean of the values in its cell (its middle, where there were none). In a cache that grows,
    a coordinate of a head shares its levels over all positions. Equal cells waste bits where few values fall: a round
    of Lloyd's algorithm (1982, "Least squares quantization in PCM") moves their borders to the middles between
    neighbouring levels, and then the levels to the new means.

    Parameters
    ----------
    model : LanguageModel
    bits : int
        Of each number, 1 … 16.
    state : State
        After other strings than those that will be rounded; a row for each.
    rounds : int
        Of Lloyd's algorithm.

    Raises
    ------
    ValueError
        If ``bits`` is out of range or the state has no rows.
    """

    def __init__(self, model: LanguageModel, bits: int, state: State, *, rounds: int = 0) -> None:
        if not 1 <= bits <= 16:
            raise ValueError(f"bits must be in 1 … 16, not {bits}")
        if not all(len(x) for layer in state.layers for x in layer.values()):
            raise ValueError("a codec is fitted on states, and there are none")
        self.bits = bits
        self._layers = [
            {name: _Levels(bits, x, grows=mixer.grows, rounds=rounds) for name, x in layer.items() if x.numel()}
            for mixer, layer in zip(model.mixers(), state.layers, strict=True)
        ]

    def __call__(self, state: State) -> State:
        """The state, each number replaced by the level of its cell."""
        layers = [
            {name: levels[name](x) if x.numel() else x for name, x in layer.items()}
            for levels, layer in zip(self._layers, state.layers, strict=True)
        ]
        return State(state.position, layers)


class _Levels:
    """Levels of one tensor: (batch, …), or (batch, n_heads, length, width) where it grows with the length."""

    def __init__(self, bits: int, values: Tensor, *, grows: bool, rounds: int) -> None:
        self._count = 2**bits
        self._grows = grows
        flat = self._coordinates(values)
        self._low, self._high = flat.amin(0), flat.amax(0)
        self._step = ((self._high - self._low) / self._count).clamp(min=torch.finfo(flat.dtype).tiny)
        self._borders: Tensor | None = None  # (coordinates, cells - 1); None: cells of equal size
        place = torch.arange(self._count, device=flat.device, dtype=flat.dtype) + 0.5
        middles = self._low[:, None] + self._step[:, None] * place
        self._levels = self._means(flat, middles.flatten())
        for _ in range(rounds):
            levels = self._levels.view(middles.shape)
            self._borders = (levels[:, :-1] + levels[:, 1:]) / 2
            self._levels = self._means(flat, self._levels)

    def _means(self, flat: Tensor, empty: Tensor) -> Tensor:
        """Of the values in each cell; where there are none, what ``empty`` says: (coordinates · cells)."""
        index = self._index(flat).flatten()
        counts = torch.zeros_like(empty)
        sums = counts.clone()
        counts.index_add_(0, index, torch.ones_like(flat).flatten())
        sums.index_add_(0, index, flat.flatten())
        levels = torch.where(counts > 0, sums / counts.clamp(min=1), empty).view(len(self._low), self._count)
        return levels.clamp(self._low[:, None], self._high[:, None]).flatten()

    def __call__(self, values: Tensor) -> Tensor:
        rounded: Tensor = self._levels[self._index(self._coordinates(values))]
        if not self._grows:
            return rounded.view(values.shape)
        batch, heads, length, width = values.shape
        return rounded.view(batch, length, heads, width).transpose(1, 2)

    def _coordinates(self, values: Tensor) -> Tensor:
        """(samples, coordinates)."""
        samples = values.transpose(1, 2).flatten(0, 1) if self._grows else values
        return samples.flatten(1)

    def _index(self, flat: Tensor) -> Tensor:
        """Which level of all, of each value."""
        if self._borders is None:
            cell = ((flat - self._low) / self._step).clamp(0, self._count - 1).long()
        else:
            cell = torch.searchsorted(self._borders, flat.T.contiguous()).T
        index: Tensor = cell + torch.arange(flat.shape[1], device=flat.device) * self._count
        return index
