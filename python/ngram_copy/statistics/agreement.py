"""The constructed transformer against the n-gram copier, position by position and string by string."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy import sample
from ngram_copy.engines.base import Engine
from ngram_copy.statistics.base import Axis, Row, Statistic
from ngram_copy.tasks.base import Batch, DataHash, Task, VocabularySpec

if TYPE_CHECKING:
    import torch

    from ngram_copy.models import LanguageModel

GROUP = 32
"""Strings that share a length."""

SWAPPED = 4
"""One group in so many is answered with its halves swapped too."""

_COST = 500  # of a token in the transformer, in tokens that are copied symbolically


class Agreement(Statistic):
    """Teacher-forced predictions of the constructed transformer, held against the rule of the n-gram copier.

    Lengths are drawn log-uniformly up to the row's length, ``GROUP`` strings at a time. Each string is fed
    after ``<copy>``, as a copy is; one in ``SWAPPED`` also with its two halves swapped there, so that what is looked up
    stands elsewhere than in a copy.

    Parameters
    ----------
    value : {"bits", "one-hot"}
        What the second layer copies of a token.
    dtype : str
        Of torch, in which the transformer runs.
    """

    name: ClassVar[str] = "agreement"
    summary: ClassVar[str] = "whether the constructed transformer is the n-gram copier"
    axes: ClassVar[tuple[Axis, ...]] = ("n", "lengths")
    one_thread: ClassVar[bool] = True

    def __init__(self, *, value: str = "bits", dtype: str = "float32") -> None:
        if value not in {"bits", "one-hot"}:
            raise ValueError(f"value must be bits or one-hot, not {value!r}")
        self.value = value
        self.dtype = dtype

    def check(self, row: Row) -> None:
        """Refuse tasks that do not copy, and lengths that they cannot make."""
        _, length = _n_and_length(row)
        check_copies(row.task, length, row.seed)

    def work(self, row: Row) -> float:
        # The mean of log-uniform lengths up to L is about L / ln L.
        length = row.length or 1
        return _COST * row.examples * length / max(1.0, float(np.log(length)))

    def measure(self, row: Row, *, threads: int, answered: Callable[[int], None]) -> dict[str, Any]:
        """Count positions and strings.

        Returns
        -------
        dict
            ``positions`` that are determined (see ``successors``), ``disagreements`` among them, and how many more are
            ``undetermined``; strings under the rule that a copy with its end succeeds exactly when no n-gram of it
            repeats, those with a repeat and those against the rule; strings ``shorter`` than n; of ``swapped``
            halves the strings, determined positions and disagreements; the transformer's sizes.
        """
        from ngram_copy.engines.neural import NeuralEngine, require_torch

        n, length = _n_and_length(row)
        require_torch("the constructed transformer")
        model = transformer(n, row.task.vocab.size, length, value=self.value, dtype=self.dtype)
        engine = NeuralEngine(row.task.vocab, model)
        data = DataHash()
        counts: Counter[str] = Counter()
        swapped: Counter[str] = Counter()
        for group, batch in enumerate(random_lengths(row, threads)):
            data.update(batch)
            counts += compare(engine, batch, n)
            if group % SWAPPED == 0:
                swapped += compare(engine, with_halves_swapped(batch), n)
            answered(len(batch))
        return {
            "data_hash": data.hexdigest(),
            "strings": counts["strings"],
            "shorter_strings": counts["shorter"],
            "positions": counts["determined"],
            "undetermined": counts["undetermined"],
            "disagreements": counts["disagreements"],
            "rule_strings": counts["strings"],
            "repeat_strings": counts["repeats"],
            "rule_disagreements": counts["against_rule"],
            "swapped": {
                "strings": swapped["strings"],
                "positions": swapped["determined"],
                "disagreements": swapped["disagreements"],
            },
            "transformer": sizes(n, model),
        }


def transformer(
    n: int, vocab_size: int, max_len: int, *, value: str = "bits", dtype: str = "float32", force: bool = False
) -> LanguageModel:
    """The constructed transformer in a dtype of torch that is named.

    Raises
    ------
    ValueError
        If torch has no such dtype, or the construction refuses its arguments.
    """
    from ngram_copy.models.construct import copy_transformer

    return copy_transformer(n, vocab_size, max_len, value=value, dtype=named_dtype(dtype), force=force)


def named_dtype(name: str) -> torch.dtype:
    """The floating-point dtype of torch of this name.

    Raises
    ------
    ValueError
        If there is none.
    """
    import torch

    kind = getattr(torch, name, None)
    if not (isinstance(kind, torch.dtype) and kind.is_floating_point):
        raise ValueError(f"dtype must be a floating-point dtype of torch, such as float32 or bfloat16, not {name!r}")
    return kind


def sizes(n: int, model: LanguageModel) -> dict[str, int]:
    """JSON values: ``n``, ``heads`` in all, ``d_model``, ``parameters``."""
    heads = sum(layer.options["n_heads"] for layer in model.config.layers)
    return {"n": n, "heads": heads, "d_model": model.config.d_model, "parameters": model.parameter_count()}


# --- The rule -------------------------------------------------------------------------------------------


def compare(engine: Engine, batch: Batch, n: int) -> Counter[str]:
    """Hold an engine's teacher-forced predictions against the rule of the n-gram copier.

    Parameters
    ----------
    engine : Engine
    batch : Batch
        Strings of one length and what is fed after ``<copy>``, as long as they are.
    n : int

    Returns
    -------
    Counter
        ``strings``, ``shorter`` (of fewer than n tokens), ``determined`` and ``undetermined`` positions,
        ``disagreements`` at determined ones; strings with ``repeats`` of an n-gram, and those ``against_rule``: fed
        with themselves they are predicted whole although an n-gram repeats, or not although none does.
    """
    length = (batch.tokens.shape[1] - 3) // 2
    predicted = engine.predict(batch).tokens
    expected = successors(batch.tokens[:, :-1], n, engine.vocab)[:, length + 1 :]
    determined = expected >= 0
    right = (predicted == batch.answers()).all(axis=1)
    repeats = has_repeat(batch.tokens[:, 1 : length + 1], n)
    return Counter(
        strings=len(batch),
        shorter=len(batch) * (length < n),
        determined=int(determined.sum()),
        undetermined=int((~determined).sum()),
        disagreements=int((determined & (predicted != expected)).sum()),
        repeats=int(repeats.sum()),
        against_rule=int((right == repeats).sum()),
    )


def successors(contexts: NDArray[np.uint32], n: int, vocab: VocabularySpec) -> NDArray[np.int64]:
    """What the n-gram copier must say after each position, where it is determined; -1 elsewhere.

    The n-gram at a position is its last n tokens, all at and before the nearest boundary (``<bos>``, ``<copy>``)
    counting as one boundary. A position is determined if the same n-gram stands at some earlier position of the
    context, generated tokens included, and if one token has followed it always; ``<copy>`` is followed as the end.

    Parameters
    ----------
    contexts : ndarray of uint32, shape (batch, length)
        Each begins with its only ``<bos>``.
    n : int
    vocab : VocabularySpec

    Returns
    -------
    ndarray of int64, shape (batch, length)
    """
    grams = _gram_ids(contexts, n, vocab)
    following = np.roll(contexts, -1, axis=1).astype(np.int64)  # of the last position: not looked at
    following[following == vocab.copy] = vocab.eos
    # Occurrences of an n-gram come together in their order; each is compared with the first of them.
    order = np.argsort(grams, axis=1, kind="stable")
    ordered, following = (np.take_along_axis(x, order, axis=1) for x in (grams, following))
    place = np.broadcast_to(np.arange(contexts.shape[1]), contexts.shape)
    begins = np.ones(contexts.shape, dtype=bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.maximum.accumulate(np.where(begins, place, 0), axis=1)
    said = np.take_along_axis(following, first, axis=1)
    others = following != said
    before = np.cumsum(others, axis=1) - others
    agreed = (place > first) & (before == np.take_along_axis(before, first, axis=1))
    out = np.empty(contexts.shape, dtype=np.int64)
    np.put_along_axis(out, order, np.where(agreed, said, -1), axis=1)
    return out


def has_repeat(strings: NDArray[np.uint32], n: int) -> NDArray[np.bool_]:
    """Whether some n-gram of each string stands in it twice, shape (batch,)."""
    if strings.shape[1] <= n:
        return np.zeros(len(strings), dtype=bool)
    spec = VocabularySpec(int(strings.max()) + 1)
    grams = np.sort(_gram_ids(strings, n, spec)[:, n - 1 :], axis=1)
    repeated: NDArray[np.bool_] = (grams[:, 1:] == grams[:, :-1]).any(axis=1)
    return repeated


def _gram_ids(tokens: NDArray[np.uint32], n: int, vocab: VocabularySpec) -> NDArray[np.int64]:
    """A number for the n-gram at each position, equal for equal ones; before a row's first token are boundaries."""
    boundary = np.isin(tokens, vocab.boundaries)
    ids = np.where(boundary, 0, tokens.astype(np.int64) + 1)
    place = np.arange(tokens.shape[1])
    # Tokens after the nearest boundary; what is before them is the number 0, whatever it is.
    since = place - np.maximum.accumulate(np.where(boundary, place, -1), axis=1)
    count, known = vocab.size + 1, 1
    while known < n:
        # Two windows of known tokens, which may overlap, tell what stands in both.
        shift = min(known, n - known)
        if count * count >= 2**63:
            distinct, places = np.unique(ids, return_inverse=True)
            # 0 must stay apart from all that holds a token.
            ids, count = places.reshape(ids.shape) + int(distinct[0] != 0), len(distinct) + 1
        earlier = np.zeros_like(ids)
        earlier[:, shift:] = np.where(since[:, shift:] >= shift, ids[:, :-shift], 0)
        ids, count, known = ids * count + earlier, count * count, known + shift
    return ids


# --- Strings --------------------------------------------------------------------------------------------


def random_lengths(row: Row, threads: int) -> Iterator[Batch]:
    """A row's strings, ``GROUP`` at a time of one length: log-uniform from the task's least to the row's."""
    _, most = _n_and_length(row)
    least = _least_length(row.task, most, row.seed)
    groups = -(-row.examples // GROUP)
    stream = row.task.stream(most, "test", "lengths")
    drawn = sample.integers(row.seed, stream, 0, groups, 0, 2**32, threads=threads) / 2**32
    lengths = np.minimum((least * ((most + 1) / least) ** drawn).astype(int), most)
    for group, length in enumerate(lengths.tolist()):
        start = group * GROUP
        count = min(GROUP, row.examples - start)
        yield row.task.batch(length, seed=row.seed, split="test", start=start, count=count, threads=threads)


def _n_and_length(row: Row) -> tuple[int, int]:
    if row.n is None or row.length is None:
        raise ValueError("agreement is of an n and a length")
    return row.n, row.length


def _least_length(task: Task, most: int, seed: int) -> int:
    """The shortest string that a task makes: it makes all longer ones too."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        try:
            task.batch(middle, seed=seed, split="test", start=0, count=1)
        except ValueError:
            low = middle + 1
        else:
            high = middle
    return low


def check_copies(task: Task, length: int, seed: int) -> None:
    """Refuse a task whose answer is not the string itself and its end.

    Raises
    ------
    ValueError
        Naming the task; or the task's own, if it cannot make strings of this length.
    """
    batch = task.batch(length, seed=seed, split="test", start=0, count=1)
    text = batch.tokens[0, 1 : batch.cut[0] - 1]
    if batch.scored is not None or batch.answers()[0].tolist() != [*text.tolist(), task.vocab.eos]:
        raise ValueError(f"the task {task.name} does not copy: its answer is not the string and its end")


def with_halves_swapped(batch: Batch) -> Batch:
    """The same strings, fed after ``<copy>`` with their second half first."""
    length = (batch.tokens.shape[1] - 3) // 2
    tokens = batch.tokens.copy()
    tokens[:, length + 2 : -1] = np.roll(tokens[:, 1 : length + 1], length // 2, axis=1)
    return replace(batch, tokens=tokens)
