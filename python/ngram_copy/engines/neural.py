"""The engine over the models of ``ngram_copy.models``.

Importing this does not import torch; making an engine does.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy.engines.base import Engine, Prediction, rows_by
from ngram_copy.ngram import StateError
from ngram_copy.tasks.base import Batch, VocabularySpec

if TYPE_CHECKING:
    from ngram_copy.models import LanguageModel, State
    from ngram_copy.models.state import Codec

_CHUNK_TOKENS = 2**15
_CHUNK_SCORES = 2**23  # of one head, in all rows of a chunk


class NeuralEngine(Engine):
    """A ``LanguageModel`` as it is: greedy, with probabilities.

    The state at the cut is the model's state *before* ``<copy>``, the last token of every prompt: that token is known,
    and reading it again gives the first prediction. So all that is emitted comes from the state alone.

    Parameters
    ----------
    vocab : VocabularySpec
    model : LanguageModel
        Of ``vocab.total`` tokens.

    Raises
    ------
    ValueError
        If the model has another vocabulary.
    """

    name: ClassVar[str] = "neural"
    summary: ClassVar[str] = "a model of ngram_copy.models"
    one_thread: ClassVar[bool] = True

    def __init__(self, vocab: VocabularySpec, model: LanguageModel) -> None:
        if model.config.vocab_size != vocab.total:
            raise ValueError(f"the model has {model.config.vocab_size} tokens, and the task {vocab.total}")
        self.vocab = vocab
        self.model = model
        self._codec: Codec | None = None

    def predict(self, batch: Batch, *, threads: int = 1) -> Prediction:
        """Answer a batch teacher-forced; ``threads`` is torch's own setting, as floats depend on it."""
        import torch

        answers = batch.answers()
        shape = answers.shape
        tokens = np.full(shape, -1, dtype=np.int64)
        log2_q = np.zeros(shape)
        for rows, cut in self._chunks(batch):
            sequences = self._tensor(batch.tokens[rows])
            with torch.inference_mode():
                _, state = self.model.prefill(sequences[:, : cut - 1], last=0)
                if self._codec is not None:
                    state = self._codec(state)
                logits, _ = self.model.prefill(sequences[:, cut - 1 : -1], state)
                # Column c predicts the token at cut + c.
                best = logits.argmax(-1)
                log_q = logits.float().log_softmax(-1).gather(2, sequences[:, cut:, None])[..., 0]
            columns = (batch.answer[rows] - cut)[:, None] + np.arange(shape[1])
            inside = answers[rows] >= 0
            columns = np.minimum(columns, best.shape[1] - 1)
            tokens[rows] = np.where(inside, np.take_along_axis(best.cpu().numpy(), columns, axis=1), -1)
            chosen = np.take_along_axis(log_q.cpu().numpy().astype(np.float64), columns, axis=1)
            log2_q[rows] = np.where(inside, chosen / np.log(2), 0.0)
        return Prediction(tokens, log2_q=log2_q)

    def cut(self, prompts: Sequence[NDArray[np.uint32]]) -> list[bytes]:
        from ngram_copy.models.state import state_to_bytes

        states = (self._read([prompt]) for prompt in prompts)
        return [state_to_bytes(state if self._codec is None else self._codec(state)) for state in states]

    def resume(
        self, states: Sequence[bytes], max_new_tokens: int, queries: Sequence[NDArray[np.uint32]] | None = None
    ) -> list[NDArray[np.int64]]:
        import torch

        from ngram_copy.models.state import StateBytesError, state_from_bytes

        try:
            read = [state_from_bytes(data, self.model) for data in states]
        except StateBytesError as error:
            raise StateError(str(error)) from error
        queries = [np.empty(0, np.uint32)] * len(states) if queries is None else queries
        out: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(states)
        alike: dict[tuple[int, int], list[int]] = {}
        for index, (state, query) in enumerate(zip(read, queries, strict=True)):
            alike.setdefault((state.position, len(query)), []).append(index)
        for rows in alike.values():
            with torch.inference_mode():
                emitted = self._emit([read[row] for row in rows], [queries[row] for row in rows], max_new_tokens)
            for row, tokens in zip(rows, emitted, strict=True):
                out[row] = tokens
        return out

    def state_bits(self, prompts: Sequence[NDArray[np.uint32]]) -> NDArray[np.float64]:
        bits = 8 * self.model.embedding.weight.element_size() if self._codec is None else self._codec.bits
        return np.array([float(bits * self.model.state_size(len(prompt) - 1)) for prompt in prompts])

    def quantised(self, bits: int, prompts: Sequence[NDArray[np.uint32]]) -> NeuralEngine:
        """The same model with its state rounded once, at the cut, to ``bits`` bits a number.

        Parameters
        ----------
        bits : int
            1 … 16.
        prompts : sequence of ndarray
            Of one length, from the split "fit": the codec is fitted on their states.
        """
        from ngram_copy.models.state import Codec

        other = NeuralEngine(self.vocab, self.model)
        other._codec = Codec(self.model, bits, self._read(prompts))
        return other

    # --- inside ---

    def _tensor(self, tokens: NDArray[Any]) -> Any:
        import torch

        return torch.from_numpy(tokens.astype(np.int64)).to(self.model.device)

    def _read(self, prompts: Sequence[NDArray[np.uint32]]) -> State:
        """The state after prompts of one length, ``<copy>`` left out, before any rounding."""
        import torch

        for prompt in prompts:
            if not len(prompt) or prompt[-1] != self.vocab.copy:
                raise ValueError("a prompt must end with <copy>")
        with torch.inference_mode():
            return self.model.prefill(self._tensor(np.stack(prompts)[:, :-1]), last=0)[1]

    def _emit(
        self, states: Sequence[State], queries: Sequence[NDArray[np.uint32]], max_new_tokens: int
    ) -> list[NDArray[np.int64]]:
        """Read ``<copy>`` and the queries, then emit until the ends; all states of one position."""
        import torch

        from ngram_copy.models import State

        first = np.array([[self.vocab.copy, *query] for query in queries])
        logits, state = self.model.prefill(self._tensor(first), State.stack(states))
        last = logits[:, -1]
        emitted: list[torch.Tensor] = []
        ended = torch.zeros(len(states), dtype=torch.bool, device=self.model.device)
        while len(emitted) < max_new_tokens:
            emitted.append(last.argmax(-1))
            ended = ended | (emitted[-1] == self.vocab.eos)
            if bool(ended.all()):
                break
            last, state = self.model.step(emitted[-1], state)
        if not emitted:
            return [np.empty(0, np.int64)] * len(states)
        rows = torch.stack(emitted, 1).cpu().numpy()
        ends = np.where((rows == self.vocab.eos).any(1), (rows == self.vocab.eos).argmax(1) + 1, rows.shape[1])
        return [row[:end] for row, end in zip(rows, ends, strict=True)]

    def _chunks(self, batch: Batch) -> Iterator[tuple[NDArray[np.intp], int]]:
        """Rows of one cut, so many that they fit: a number that depends on the length alone."""
        seq_len = batch.tokens.shape[1]
        size = max(1, min(_CHUNK_TOKENS // seq_len, _CHUNK_SCORES // seq_len**2))
        for rows, cut in rows_by(batch.cut):
            for start in range(0, len(rows), size):
                yield rows[start : start + size], cut


def require_torch(what: str) -> None:
    """Refuse where the extra is missing.

    Raises
    ------
    ValueError
        One line that says what to install.
    """
    for name in ("torch", "safetensors"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"{what} needs {name}: pip install 'ngram-copy[torch]'")
