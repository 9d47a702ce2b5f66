"""How a model is trained: options, and what follows from them at each step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ngram_copy._arguments import integer, real

SCHEDULES = ("constant", "linear", "cosine")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Training:
    """How a model is trained; JSON values.

    Attributes
    ----------
    steps : int
        Updates.
    tokens_per_step : int
        A step has ``tokens_per_step // seq_len`` examples.
    lengths : sequence of two int
        The least and the greatest L.
    length_power : float
        P(L) ∝ L^length_power, of a step (of an example, where they are packed).
    cap_start : int
        Where the cap on L begins.
    cap_share : float
        The cap grows linearly from ``cap_start`` to the greatest L over this first share of the steps; 0: no cap.
    packing : bool
        Examples of several lengths behind one another in a context, as in Jelassi et al. 2024 (arXiv 2402.01032),
        padded at its end; attention sees across.
    context : int
        Tokens of such a context.
    lr : float or sequence of float
        The greatest rate, or a grid of them: each is trained, and the best by whole strings (then by loss) is kept.
    betas : sequence of two float
        Of AdamW; its eps is 1e-8.
    weight_decay : float
        Of matrices and embeddings: scales and biases are spared.
    clip : float
        The greatest norm of the gradient; 0: none.
    warmup : int
        Steps over which the rate grows to ``lr``.
    schedule : {"constant", "linear", "cosine"}
        How the rate falls to 0 at the end; "constant": it does not.
    decay_share : float
        The last share of the steps, over which it falls.
    accumulation : int
        Parts that a step's examples are split into to save memory; the gradient is the same but for rounding.
    precision : {"float32", "bfloat16"}
        "bfloat16": autocast; weights stay float32.
    threads : int
        Of torch on the CPU. Floats depend on it.
    eval_every : int
        Steps between evaluations; 0: at the end only.
    eval_examples : int
        Strings of an evaluation, of the split "validation" and the greatest L.
    stop_when_solved : bool
        Stop after two evaluations in a row at 95%.
    """

    steps: int = 1000
    tokens_per_step: int = 2048
    lengths: Sequence[int] = (1, 32)
    length_power: float = 0.5
    cap_start: int = 4
    cap_share: float = 0.0
    packing: bool = False
    context: int = 220
    lr: float | Sequence[float] = 8e-3
    betas: Sequence[float] = (0.9, 0.98)
    weight_decay: float = 0.0
    clip: float = 1.0
    warmup: int = 50
    schedule: str = "linear"
    decay_share: float = 0.3
    accumulation: int = 1
    precision: str = "float32"
    threads: int = 1
    eval_every: int = 50
    eval_examples: int = 100
    stop_when_solved: bool = False

    def __post_init__(self) -> None:
        for name, least in (
            ("steps", 1),
            ("tokens_per_step", 1),
            ("cap_start", 1),
            ("context", 1),
            ("warmup", 0),
            ("accumulation", 1),
            ("threads", 1),
            ("eval_every", 0),
            ("eval_examples", 1),
        ):
            self._set(name, integer(name, getattr(self, name), least))
        for name in ("length_power", "weight_decay", "clip"):
            self._set(name, real(name, getattr(self, name), 0, open_high=True))
        for name in ("cap_share", "decay_share"):
            self._set(name, real(name, getattr(self, name), 0, 1))
        for name, known in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        self._set("lengths", tuple(integer("lengths", one, 1) for one in self._pair("lengths")))
        least_length, greatest = self.lengths
        if least_length > greatest:
            raise ValueError(f"lengths must be [least, greatest], not {list(self.lengths)}")
        if self.cap_share and not least_length <= self.cap_start <= greatest:
            raise ValueError(f"cap_start must be within lengths {list(self.lengths)}, not {self.cap_start}")
        self._set("betas", tuple(real("betas", one, 0, 1, open_high=True) for one in self._pair("betas")))
        rates = self.lr if isinstance(self.lr, Sequence) and not isinstance(self.lr, str) else [self.lr]
        self._set("lr", tuple(real("lr", one, 0, open_high=True) for one in rates))
        if not self.grid or len(set(self.grid)) < len(self.grid) or min(self.grid) == 0:
            raise ValueError(f"lr must be a positive number or several different ones, not {list(self.grid)}")
        if self.packing and self.context > self.tokens_per_step:
            raise ValueError(f"context must be at most tokens_per_step = {self.tokens_per_step}, not {self.context}")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _pair(self, name: str) -> Sequence[Any]:
        values = getattr(self, name)
        if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != 2:
            raise ValueError(f"{name} must be two numbers, not {values!r}")
        return values

    @property
    def grid(self) -> tuple[float, ...]:
        """The rates that are tried."""
        rates: tuple[float, ...] = self.lr  # type: ignore[assignment]  # __post_init__ made it one
        return rates

    def to_json(self) -> dict[str, Any]:
        """JSON values, from which ``Training(**values)`` is equal."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def rate(self, step: int) -> float:
        """The share of ``lr`` at a step from 0: min(1, (step + 1)/warmup) · fall(min(1, (steps - step)/decay steps)).

        ``fall(u)`` is 1, u, or (1 - cos πu)/2.
        """
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        falling = self.decay_share * self.steps
        left = min(1.0, (self.steps - step) / falling) if falling else 1.0
        if self.schedule == "constant":
            return warm
        return warm * (left if self.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2)

    def cap(self, step: int) -> int:
        """The greatest L at a step from 0: ⌊cap_start + (greatest - cap_start) · step / (cap_share · steps)⌋."""
        greatest = self.lengths[1]
        growing = self.cap_share * self.steps
        if step >= growing:
            return greatest
        return min(greatest, math.floor(self.cap_start + (greatest - self.cap_start) * step / growing))
