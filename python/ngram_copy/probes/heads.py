"""Where the heads of attention look while a string is copied, and what each is needed for.

While ``<bos> x_1 … x_L <copy> x_1 … x_{t-1} ?`` asks for x_t, the *match* is x_{t-1} in the prompt, and the token after
it is the one that a copier wants. In a plain copy it lies L tokens back, so a head that counts scores there as well as
one that matches; teleports tell the two apart. A head may also look some tokens beyond, where lower layers have
carried x_t. Removing a head (zeros in the output projection) shows whether the copy needs it.

Importing this needs the extra ``torch``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ngram_copy.engines.base import Engine
from ngram_copy.models import LanguageModel
from ngram_copy.models.attention import Attention
from ngram_copy.probes.teleport import copied_strings, interval
from ngram_copy.score import exact_match
from ngram_copy.tasks.base import Task

BACK = 8
"""The farthest place behind the query that is scored by itself."""

AFTER = 5
"""The farthest place after the match that is."""

KINDS = ("self", "back", "match", "near", "other")
"""What a head does with at least half of its mass.

- self: its own token;
- back: 1 … ``BACK`` tokens back;
- match: the token after the match;
- near: the match itself, or 2 … ``AFTER`` tokens after it;
- other: none of these.
"""

_SCORES = 2**24  # numbers in the attention matrices of one layer and chunk


@dataclass(frozen=True)
class HeadScore:
    """Where a head looks: mean attention mass over the positions that ask for x_2 … x_L.

    Attributes
    ----------
    layer, head : int
        From 0, in the order of the model's config.
    back : tuple of float
        On the token k back, k = 0 … ``BACK``; 0 is the query's own.
    after : tuple of float
        On the token k after the match, k = 0 … ``AFTER``; 0 is the match itself.
    """

    layer: int
    head: int
    back: tuple[float, ...]
    after: tuple[float, ...]

    @property
    def match(self) -> float:
        """Mass on the token after the match."""
        return self.after[1]

    @property
    def kind(self) -> str:
        """Of ``KINDS``."""
        near = sum(self.after) - self.match
        shares = {"self": self.back[0], "back": sum(self.back[1:]), "match": self.match, "near": near}
        best = max(shares, key=lambda kind: shares[kind])
        return best if shares[best] >= 0.5 else "other"

    @property
    def name(self) -> str:
        """``layer.head``."""
        return f"{self.layer}.{self.head}"

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**self.__dict__, "back": list(self.back), "after": list(self.after), "kind": self.kind}


@dataclass(frozen=True)
class Removal:
    """Whole copies without some heads.

    Attributes
    ----------
    what : str
        ``nothing``, ``layer.head``, or ``all KIND``.
    heads : tuple of (layer, head)
    correct, total : int
        Strings copied exactly.
    """

    what: str
    heads: tuple[tuple[int, int], ...]
    correct: int
    total: int

    def to_json(self) -> dict[str, Any]:
        """JSON values, with a 95% Wilson interval."""
        counts = {**interval(self.correct, self.total), "total": self.total}
        return {"what": self.what, "heads": [list(head) for head in self.heads], "strings": counts}


def attention_layers(model: LanguageModel) -> dict[int, Attention]:
    """The layers of a model whose mixer is attention, by their place."""
    mixers = [getattr(block, "mixer", None) for block in model.blocks]
    return {layer: mixer for layer, mixer in enumerate(mixers) if isinstance(mixer, Attention)}


def attention_weights(model: LanguageModel, tokens: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Where each head looks while a model reads tokens.

    Parameters
    ----------
    model : LanguageModel
    tokens : integer tensor (batch, seq_len)

    Yields
    ------
    layer : int
    weights : tensor (batch, n_heads, seq_len, seq_len)
        Heads in the order of the config; rows sum to 1.
    """
    layers, seen = attention_layers(model), {}

    def keep(layer: int) -> Any:
        def hook(_: object, arguments: tuple[Any, ...]) -> None:
            seen[layer] = arguments

        return hook

    hooks = [mixer.register_forward_pre_hook(keep(layer)) for layer, mixer in layers.items()]
    try:
        with torch.inference_mode():
            model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    for layer, mixer in layers.items():
        with torch.inference_mode():
            weights = mixer.weights(*seen[layer])
        yield layer, weights


def head_scores(model: LanguageModel, task: Task, length: int, *, strings: int = 200, seed: int = 0) -> list[HeadScore]:
    """Score every head of attention by where it looks in copies, teacher-forced.

    Parameters
    ----------
    model : LanguageModel
        Of ``task.vocab.total`` tokens.
    task : Task
        Of the copy kind.
    length : int
        L, at least 2.
    strings : int
        From the split "test".
    seed : int

    Returns
    -------
    list of HeadScore
        By layer, then by head; empty where the model has no attention.

    Raises
    ------
    ValueError
        If the task is not of the copy kind or the strings are too short.
    """
    if length < 2:
        raise ValueError(f"length must be at least 2 to score heads, not {length}")
    layers = attention_layers(model)
    heads = max((mixer.n_heads for mixer in layers.values()), default=1)
    size = max(1, min(strings, 256, _SCORES // (heads * (2 * length + 2) ** 2)))
    total: dict[int, Any] = {}
    for batch in task.batches(length, seed=seed, split="test", examples=strings, batch=size):
        copied_strings(task, batch)
        tokens = torch.from_numpy(batch.tokens[:, :-1].astype(np.int64)).to(model.device)
        # Queries that ask for x_2 … x_L: the tokens x_1 … x_{L-1} of the answer.
        query = torch.arange(length + 2, 2 * length + 1, device=model.device)
        places = [query - back for back in range(BACK + 1)] + [query - length - 1 + after for after in range(AFTER + 1)]
        keys = torch.stack(places, dim=1)
        # Places before the first token and after the query have no mass.
        inside = (keys >= 0) & (keys <= query[:, None])
        keys = torch.minimum(keys.clamp(min=0), query[:, None])
        for layer, weights in attention_weights(model, tokens):
            found = weights[:, :, query].gather(3, keys.expand(*weights.shape[:2], -1, -1))
            total[layer] = total.get(layer, 0) + (found * inside).double().sum(dim=(0, 2)).cpu()
    scores = []
    for layer, masses in total.items():
        for head, mass in enumerate((masses / (strings * (length - 1))).tolist()):
            scores.append(HeadScore(layer, head, tuple(mass[: BACK + 1]), tuple(mass[BACK + 1 :])))
    return scores


@contextmanager
def without_heads(model: LanguageModel, heads: Iterable[tuple[int, int]]) -> Iterator[None]:
    """Inside, heads add nothing: their columns of the output projection are 0; afterwards they are as before.

    Parameters
    ----------
    model : LanguageModel
    heads : iterable of (layer, head)
        As in the model's config, from 0.

    Raises
    ------
    ValueError
        If there is no such head.
    """
    layers = attention_layers(model)
    chosen = list(dict.fromkeys(heads))
    for layer, head in chosen:
        if layer not in layers or not 0 <= head < layers[layer].n_heads:
            raise ValueError(f"the model has no head {layer}.{head}")
    kept = {layer: layers[layer].out.weight.detach().clone() for layer, _ in chosen}
    try:
        with torch.no_grad():
            for layer, head in chosen:
                layers[layer].out.weight[:, layers[layer].output_columns(head)] = 0
        yield
    finally:
        with torch.no_grad():
            for layer, weight in kept.items():
                layers[layer].out.weight.copy_(weight)


def removals(
    engine: Engine,
    model: LanguageModel,
    scores: Sequence[HeadScore],
    task: Task,
    length: int,
    *,
    strings: int = 200,
    seed: int = 0,
) -> list[Removal]:
    """Copy whole strings without each head, and without all heads of a kind.

    Parameters
    ----------
    engine : Engine
        Over ``model``: what is changed there must show in its answers.
    model : LanguageModel
    scores : sequence of HeadScore
    task : Task
    length, strings, seed : int
        As in ``head_scores``.

    Returns
    -------
    list of Removal
        Nothing removed, each kind that there is, each head.
    """
    kinds = {kind: [score for score in scores if score.kind == kind] for kind in KINDS}
    wanted = [("nothing", []), *((f"all {kind}", found) for kind, found in kinds.items() if found)]
    wanted += [(score.name, [score]) for score in scores]
    batches = list(task.batches(length, seed=seed, split="test", examples=strings, batch=256))
    found = []
    for what, removed in wanted:
        heads = tuple((score.layer, score.head) for score in removed)
        with without_heads(model, heads):
            correct = sum(int(exact_match(engine.predict(b).tokens, b.answers()).strings.sum()) for b in batches)
        found.append(Removal(what, heads, correct, strings))
    return found
