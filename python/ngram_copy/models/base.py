"""The skeleton of every model: embedding, blocks of norm → mixer → residual, an optional MLP, a head.

    h = embedding[tokens] (+ position[0 … seq_len - 1])     (batch, seq_len, d_model)
    h = h + mixer(norm(h))                                  in each block
    h = h + mlp(norm(h))                                    where the block has an MLP
    logits = head(norm(h))                                  (batch, seq_len, vocab_size)

A *mixer* is what moves information between positions; it is all that differs between a transformer and a state space
model here. What a mixer keeps of the past is its *state*: a dict of tensors whose first dimension is the batch.

Glossary: ``batch``, ``seq_len``; ``d_model`` the width; ``n_heads``, ``head_dim``; ``d_state`` the width of a
recurrent state; ``position`` the number of tokens before (known from lengths, so not a part of the state's bits).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

LayerState = dict[str, Tensor]
"""What one mixer keeps of the past."""


@dataclass
class State:
    """What a model keeps of the past.

    Attributes
    ----------
    position : int
        Tokens that were read; the same for all rows.
    layers : list of dict of str to tensor (batch, …)
        One for each block.
    """

    position: int
    layers: list[LayerState]

    @classmethod
    def stack(cls, states: Sequence[State]) -> State:
        """The rows of several states of one position under one another."""
        layers = [
            {name: torch.cat([state.layers[index][name] for state in states]) for name in layer}
            for index, layer in enumerate(states[0].layers)
        ]
        return cls(states[0].position, layers)


class Mixer(nn.Module, ABC):
    """What moves information between positions; made as ``MIXERS[name](d_model, **options)``."""

    name: ClassVar[str]
    summary: ClassVar[str]
    letter: ClassVar[str]
    """Of pattern strings such as ``"MMMA"``."""
    grows: ClassVar[bool] = False
    """Whether the state grows with the length: tensors (batch, n_heads, length, width)."""

    @abstractmethod
    def initial_state(self, batch: int) -> LayerState:
        """The state before the first token, on the mixer's device and in its dtype."""

    @abstractmethod
    def forward(self, x: Tensor, state: LayerState, position: int) -> tuple[Tensor, LayerState]:
        """Go on from a state.

        Parameters
        ----------
        x : tensor (batch, seq_len, d_model)
        state : dict of str to tensor
            Stays as it is.
        position : int
            Tokens before ``x``.

        Returns
        -------
        y : tensor (batch, seq_len, d_model)
        state : dict of str to tensor
            After the last token.
        """

    def forward_last(self, x: Tensor, state: LayerState, position: int, last: int) -> tuple[Tensor, LayerState]:
        """``forward``, but with the last outputs alone: (batch, last, d_model). Overridden where that is cheaper."""
        y, state = self(x, state, position)
        return y[:, y.shape[1] - last :], state

    def step(self, x: Tensor, state: LayerState, position: int) -> tuple[Tensor, LayerState]:
        """Go on by one token: ``x`` and ``y`` are (batch, d_model)."""
        y, state = self(x[:, None], state, position)
        return y[:, 0], state

    @abstractmethod
    def state_size(self, length: int) -> int:
        """Numbers in the state of one row after ``length`` tokens; the docstring of an override has the formula."""


# --- Parts of a block -----------------------------------------------------------------------------------


class RMSNorm(nn.Module):
    """``x / √(mean(x²) + eps) · weight`` over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
}
"""Of the MLP."""


class MLP(nn.Module):
    """``down(activation(up(x)))``, or ``down(activation(gate(x)) · up(x))`` where gated: d_model → width → d_model."""

    def __init__(self, d_model: int, width: int, *, activation: str, gated: bool, bias: bool) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]()
        self.up = linear(d_model, width, bias)
        self.gate = linear(d_model, width, bias) if gated else None
        self.down = linear(width, d_model, bias, scale=0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        hidden = self.activation(hidden) if self.gate is None else self.activation(self.gate(x)) * hidden
        y: Tensor = self.down(hidden)
        return y


def linear(width_in: int, width_out: int, bias: bool = False, *, scale: float = 1.0) -> nn.Linear:
    """A linear map with weights N(0, scale²/width_in) and bias 0."""
    layer = nn.Linear(width_in, width_out, bias=bias)
    _normal(layer.weight, scale / math.sqrt(width_in))
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def embedding(count: int, width: int) -> nn.Embedding:
    """A table (count, width) of N(0, 0.2²)."""
    table = nn.Embedding(count, width, _weight=torch.empty(count, width))
    _normal(table.weight, 0.2)
    return table


def _normal(weight: Tensor, std: float) -> None:
    """Fill with N(0, std²). The meta device has nothing to fill, and torch would import its compiler for that."""
    if not weight.is_meta:
        nn.init.normal_(weight, std=std)


# --- The model ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerConfig:
    """One block.

    Attributes
    ----------
    mixer : str
        Key of ``MIXERS``.
    options : dict
        Of the mixer.
    mlp : int
        Width of the MLP; 0: none.
    """

    mixer: str
    options: Mapping[str, Any] = field(default_factory=dict)
    mlp: int = 0


@dataclass(frozen=True)
class ModelConfig:
    """All that determines a model's shape; JSON values.

    Attributes
    ----------
    vocab_size, d_model : int
    layers : sequence of LayerConfig
    norm : {"rms", "layer", "none"}
        Before each mixer, each MLP and the head.
    norm_eps : float
    head_bias, tied : bool
        Of the head: whether it has a bias; whether its weight is the embedding's.
    max_positions : int
        Size of a table of learned positions; 0: none.
    activation : str
        Of the MLPs; a key of ``ACTIVATIONS``.
    gated_mlp, mlp_bias : bool
    parallel_residual : bool
        ``h + mixer(norm h) + mlp(norm' h)``, as in GPT-NeoX, not one after the other.
    """

    vocab_size: int
    d_model: int
    layers: Sequence[LayerConfig]
    norm: str = "rms"
    norm_eps: float = 1e-5
    head_bias: bool = False
    tied: bool = False
    max_positions: int = 0
    activation: str = "gelu"
    gated_mlp: bool = False
    mlp_bias: bool = False
    parallel_residual: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.layers:
            raise ValueError("a model needs at least one layer")
        if any(layer.mlp < 0 for layer in self.layers):
            raise ValueError(f"mlp must be 0 (none) or a width, not {min(layer.mlp for layer in self.layers)}")
        choices: dict[str, Sequence[str]] = {"norm": ("rms", "layer", "none"), "activation": tuple(ACTIVATIONS)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")

    def to_json(self) -> dict[str, Any]:
        """JSON values, from which ``from_json`` makes an equal config."""
        layers = [{"mixer": one.mixer, "options": dict(one.options), "mlp": one.mlp} for one in self.layers]
        return {**self.__dict__, "layers": layers}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Undo ``to_json``."""
        return cls(**{**values, "layers": tuple(LayerConfig(**layer) for layer in values["layers"])})

    def resized(self, vocab_size: int) -> ModelConfig:
        """The same model for another vocabulary."""
        return replace(self, vocab_size=vocab_size)


class Block(nn.Module):
    """norm → mixer → residual, then norm → MLP → residual."""

    def __init__(self, config: ModelConfig, layer: LayerConfig) -> None:
        super().__init__()
        from ngram_copy.models import MIXERS

        if layer.mixer not in MIXERS:
            raise ValueError(f"unknown mixer {layer.mixer!r}; there are: {', '.join(MIXERS)}")
        try:
            self.mixer: Mixer = MIXERS[layer.mixer](config.d_model, **layer.options)
        except TypeError as error:
            raise ValueError(f"mixer {layer.mixer}: {error}") from error
        self.norm = _norm(config)
        self.mlp_norm = _norm(config) if layer.mlp else None
        self.mlp = (
            MLP(
                config.d_model,
                layer.mlp,
                activation=config.activation,
                gated=config.gated_mlp,
                bias=config.mlp_bias,
            )
            if layer.mlp
            else None
        )
        self.parallel = config.parallel_residual

    def forward(
        self, h: Tensor, state: LayerState, position: int, last: int | None = None
    ) -> tuple[Tensor, LayerState]:
        if last is None:
            y, state = self.mixer(self.norm(h), state, position)
        else:
            y, state = self.mixer.forward_last(self.norm(h), state, position, last)
            h = h[:, h.shape[1] - last :]
        return self._finish(h, y), state

    def step(self, h: Tensor, state: LayerState, position: int) -> tuple[Tensor, LayerState]:
        """One token: ``h`` is (batch, d_model)."""
        y, state = self.mixer.step(self.norm(h), state, position)
        return self._finish(h, y), state

    def _finish(self, h: Tensor, y: Tensor) -> Tensor:
        mixed = h + y
        if self.mlp is None or self.mlp_norm is None:
            return mixed
        seen: Tensor = self.mlp_norm(h if self.parallel else mixed)
        widened: Tensor = mixed + self.mlp(seen)
        return widened


def _norm(config: ModelConfig) -> nn.Module:
    if config.norm == "none":
        return nn.Identity()
    kind: Callable[..., nn.Module] = RMSNorm if config.norm == "rms" else nn.LayerNorm
    return kind(config.d_model, eps=config.norm_eps)


class LanguageModel(nn.Module):
    """A causal model of token sequences; see the top of this file.

    Parameters
    ----------
    config : ModelConfig

    Raises
    ------
    ValueError
        If a mixer, an option or a size is not allowed; the text names it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = embedding(config.vocab_size, config.d_model)
        self.positions = embedding(config.max_positions, config.d_model) if config.max_positions else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in config.layers)
        self.norm = _norm(config)
        self.head = linear(config.d_model, config.vocab_size, config.head_bias)
        if config.tied:
            self.head.weight = self.embedding.weight

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.embedding.weight.device
        return device

    def parameter_count(self) -> int:
        """Numbers that are learned; a tied weight counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def initial_state(self, batch: int) -> State:
        """The state before the first token."""
        return State(0, [mixer.initial_state(batch) for mixer in self.mixers()])

    def forward(self, tokens: Tensor, last: int | None = None) -> Tensor:
        """Logits of the token after each position.

        Parameters
        ----------
        tokens : integer tensor (batch, seq_len)
        last : int, optional
            Only of so many last positions: what the others need in the last block is not computed.

        Returns
        -------
        tensor (batch, seq_len or last, vocab_size)

        Raises
        ------
        ValueError
            If the sequence is longer than the table of learned positions, or shorter than ``last``.
        """
        return self.prefill(tokens, last=last)[0]

    def prefill(self, tokens: Tensor, state: State | None = None, last: int | None = None) -> tuple[Tensor, State]:
        """Read tokens, and return the state after them.

        Parameters
        ----------
        tokens : integer tensor (batch, seq_len)
        state : State, optional
            To go on from; stays as it is. By default nothing was read before.
        last : int, optional
            As ``forward``.

        Returns
        -------
        logits : tensor (batch, seq_len or last, vocab_size)
        state : State

        Raises
        ------
        ValueError
            As ``forward``.
        """
        state = self.initial_state(len(tokens)) if state is None else state
        if last is not None and not 0 <= last <= tokens.shape[1]:
            raise ValueError(f"last must be 0 … {tokens.shape[1]}, the sequence's length, not {last}")
        h = self._embed(tokens, state.position)
        layers = []
        for index, (block, before) in enumerate(zip(self._blocks(), state.layers, strict=True), 1):
            h, after = block(h, before, state.position, last if index == len(state.layers) else None)
            layers.append(after)
        return self.head(self.norm(h)), State(state.position + tokens.shape[1], layers)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token a row.

        Parameters
        ----------
        tokens : integer tensor (batch,)
        state : State
            Stays as it is.

        Returns
        -------
        logits : tensor (batch, vocab_size)
        state : State
        """
        h = self._embed(tokens[:, None], state.position)[:, 0]
        layers = []
        for block, before in zip(self._blocks(), state.layers, strict=True):
            h, after = block.step(h, before, state.position)
            layers.append(after)
        return self.head(self.norm(h)), State(state.position + 1, layers)

    def state_size(self, length: int) -> int:
        """Numbers in the state of one row after ``length`` tokens: the sum over the mixers."""
        return sum(mixer.state_size(length) for mixer in self.mixers())

    def mixers(self) -> list[Mixer]:
        """The mixer of each block."""
        return [block.mixer for block in self._blocks()]

    def _blocks(self) -> Sequence[Block]:
        return self.blocks  # type: ignore[return-value]  # a ModuleList of them

    def _embed(self, tokens: Tensor, position: int) -> Tensor:
        h: Tensor = self.embedding(tokens)
        if self.positions is None:
            return h
        end = position + tokens.shape[1]
        if end > self.positions.num_embeddings:
            raise ValueError(
                f"the table of learned positions ends at {self.positions.num_embeddings}: a sequence of {end} tokens "
                "is too long"
            )
        return h + self.positions.weight[position:end]
