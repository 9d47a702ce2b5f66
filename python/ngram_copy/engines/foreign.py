"""What engines over torch models that are not ours share: predictions, greedy answers, and states as bytes.

A state is whatever a model keeps between two tokens: tensors, numbers and strings in lists, tuples, dicts and objects.
``tree_of`` takes it apart, ``fill`` puts the parts into another state of the same model; the bytes between them are
safetensors. torch is imported when it is needed.
"""

from __future__ import annotations

import copy
import hashlib
import json
import struct
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ngram_copy.engines.base import Engine, Prediction
from ngram_copy.ngram import StateError
from ngram_copy.tasks.base import Batch, VocabularySpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    Call = Callable[[Tensor], Tensor]

LEAST_LOG2 = -1074.0
"""log2 of the smallest positive float64: what a token of probability 0 is given, so that no mean is infinite."""

_LOGITS = 2**24  # numbers in the logits of one pass, at most, where there are several rows
_FORMAT = 1


class ModelError(ValueError):
    """A model that cannot be used; the text is one line that names it and says why."""


class ForeignEngine(Engine):
    """An engine over a causal torch model.

    Subclasses say how token ids become logits, and what the state is. The cut is made before the last token of a
    prompt, which is read again after it: so the state holds no logits, and a prompt's last token (``<copy>``, in all
    tasks) is known. Rows of one length are answered together, and never padded.

    Attributes
    ----------
    source : str
        Names the model in messages.
    device : torch.device
        Where token ids go.
    """

    source: str
    device: Any

    # --- What a subclass says -------------------------------------------------------------------------------

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The model, in eval mode."""

    @abstractmethod
    def _logits(self, tokens: Tensor, last: int) -> Tensor:
        """Logits at the last positions: (batch, seq_len) → (batch, last, vocab_size)."""

    @abstractmethod
    def _read(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read tokens (1, n), n >= 1, after a state (None: after nothing); logits (1, vocab_size) of the last one."""

    @abstractmethod
    def _restore(self, tree: Any) -> Any:
        """Undo ``tree_of`` in another process."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What determines the answers beside the options: JSON values, such as the hash of the weights."""

    # --- Engine ---------------------------------------------------------------------------------------------

    @cached_property
    def weights(self) -> str:
        """Hash of the weights."""
        return weights_hash(self.module)

    def predict(self, batch: Batch, *, threads: int = 1) -> Prediction:
        """Answer a batch teacher-forced, among the task's tokens alone; ``threads`` is torch's own setting.

        Probabilities are those of a softmax over the task's tokens, in float64; none is below 2^-1074.

        Raises
        ------
        ModelError
            If the model fails, or a logit is NaN or infinite.
        """
        import torch

        answers = batch.answers()
        tokens, log2_q = np.full(answers.shape, -1, dtype=np.int64), np.zeros(answers.shape)
        for rows, length, answer in _rows_of_one_shape(batch, self.vocab.total):
            with torch.inference_mode():
                values = torch.from_numpy(batch.tokens[rows, :length].astype(np.int64)).to(self.device)
                logits = self._checked(self._logits(values[:, :-1], length - answer), values.shape)
                log2 = logits.log_softmax(-1).gather(-1, values[:, answer:, None])[..., 0] / np.log(2)
            tokens[rows, : length - answer] = logits.argmax(-1).cpu().numpy()
            log2_q[rows, : length - answer] = log2.clamp_min(LEAST_LOG2).cpu().numpy()
        scored = answers >= 0
        return Prediction(np.where(scored, tokens, -1), log2_q=np.where(scored, log2_q, 0.0))

    def cut(self, prompts: Sequence[NDArray[np.uint32]]) -> list[bytes]:
        return [self._cut(prompt.astype(np.int64).tolist()) for prompt in prompts]

    def resume(
        self, states: Sequence[bytes], max_new_tokens: int, queries: Sequence[NDArray[np.uint32]] | None = None
    ) -> list[NDArray[np.int64]]:
        asked = [[]] * len(states) if queries is None else [query.astype(np.int64).tolist() for query in queries]
        return [
            np.array(self._answer(state, query, max_new_tokens), dtype=np.int64)
            for state, query in zip(states, asked, strict=True)
        ]

    def state_bits(self, prompts: Sequence[NDArray[np.uint32]]) -> NDArray[np.float64]:
        """8 × the bytes of the tensors that the model keeps at the cut, measured on a prompt of each length."""
        last = float(np.log2(self.vocab.size))  # of a data token, which the tasks' prompts do not end in
        return np.array(
            [self._bits(len(prompt) - 1) + (last if prompt[-1] < self.vocab.size else 0.0) for prompt in prompts]
        )

    # --- Parts ----------------------------------------------------------------------------------------------

    def _bits(self, length: int) -> int:
        """Bits of the state after ``length`` tokens."""
        import torch

        if length not in self._measured:
            with torch.inference_mode():
                state = self._read(self._row([0] * length), None)[1] if length else None
                self._measured[length] = tensor_bits(tree_of(state))
        return self._measured[length]

    @cached_property
    def _measured(self) -> dict[int, int]:
        return {}

    def _cut(self, prompt: list[int]) -> bytes:
        """The state before the last token of a prompt, and that token, as bytes."""
        import torch

        if not prompt:
            raise ValueError("a prompt needs at least one token")
        state = None
        with torch.inference_mode():
            if len(prompt) > 1:
                state = self._read(self._row(prompt[:-1]), None)[1]
            return to_bytes({"state": tree_of(state), "last": prompt[-1]}, self._identity())

    def _open(self, state: bytes, query: Sequence[int]) -> tuple[Tensor, Any]:
        """Logits after the prompt of a state and a query."""
        found = from_bytes(state, self._identity(), self.device)
        try:
            before, last = found["state"], int(found["last"])
            restored = None if before is None else self._restore(before)
        except (TypeError, KeyError, AttributeError, IndexError) as error:
            raise StateError(f"a state of {self.source} does not fit the model: {error}") from error
        return self._read(self._row([last, *query]), restored)

    def _answer(self, state: bytes, query: Sequence[int], max_new_tokens: int) -> list[int]:
        import torch

        answer: list[int] = []
        with torch.inference_mode():
            logits, after = self._open(state, query)
            while len(answer) < max_new_tokens:
                answer.append(int(self._checked(logits, logits.shape).argmax(-1)))
                if answer[-1] == self.vocab.eos or len(answer) == max_new_tokens:
                    break
                logits, after = self._read(self._row(answer[-1:]), after)
        return answer

    def _row(self, tokens: Sequence[int]) -> Tensor:
        import torch

        return torch.tensor([list(tokens)], dtype=torch.int64, device=self.device)

    def _checked(self, logits: Tensor, shape: Sequence[int]) -> Tensor:
        """The task's logits in float64; ``shape`` of the tokens is for the message."""
        return checked_logits(logits[..., : self.vocab.total], f"{self.source}: token ids of shape {tuple(shape)}")

    def _identity(self) -> dict[str, Any]:
        """What a state must share with the engine that goes on from it."""
        return {"engine": self.name, "tokens": self.vocab.total, "weights": self.weights}


def _rows_of_one_shape(batch: Batch, width: int) -> Iterator[tuple[NDArray[np.intp], int, int]]:
    """Rows of one length and one beginning of the answer, few enough for one pass: (rows, length, answer)."""
    for length, answer in np.unique(np.stack([batch.lengths, batch.answer], axis=1), axis=0).tolist():
        rows = np.flatnonzero((batch.lengths == length) & (batch.answer == answer))
        if length == answer:
            continue
        if answer < 1:
            raise ValueError("an answer needs a token before it")
        size = max(1, _LOGITS // (length * width))
        for start in range(0, len(rows), size):
            yield rows[start : start + size], length, answer


def weights_hash(module: nn.Module) -> str:
    """``sha256:`` and the hash of all weights and buffers."""
    import torch

    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, torch.Tensor):  # and no extra state
            values = tensor.detach().cpu().contiguous()
            sha.update(f"{name}\0{values.dtype}\0{list(values.shape)}\0".encode())
            sha.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{sha.hexdigest()}"


def one_line(error: BaseException) -> str:
    """What an exception says, in one line of at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= 300 else f"{text[:299]}…"


# --- Checks of a model ----------------------------------------------------------------------------------


def logits_of(output: Any, source: str) -> Tensor:
    """The logits in what a model returned: a tensor, the first of a tuple, or ``.logits``.

    Raises
    ------
    ModelError
        If there are none.
    """
    import torch

    found = output
    if not isinstance(output, torch.Tensor):
        found = output["logits"] if isinstance(output, dict) and "logits" in output else None
        found = getattr(output, "logits", None) if found is None else found
        found = output[0] if found is None and isinstance(output, tuple | list) and output else found
    if not isinstance(found, torch.Tensor):
        raise ModelError(f"{source}: the model must return a tensor of logits, not {type(output).__name__}")
    if not found.is_floating_point():
        raise ModelError(f"{source}: logits must be floating-point numbers, not {found.dtype}")
    return found


def checked_logits(logits: Tensor, where: str) -> Tensor:
    """Logits in float64.

    Raises
    ------
    ModelError
        If one is NaN or +inf, or all of a row are -inf.
    """
    import torch

    values = logits.double()
    for name, wrong in (("NaN", torch.isnan(values)), ("+inf", values == torch.inf)):
        if wrong.any():
            raise ModelError(f"{where}: {int(wrong.sum())} of {wrong.numel()} logits are {name}")
    if (values.max(-1).values == -torch.inf).any():
        raise ModelError(f"{where}: all logits of a position are -inf")
    return values


def check_shape(logits: Tensor, tokens: Tensor, vocab: VocabularySpec, source: str) -> None:
    """Hold the shape of logits against token ids (batch, seq_len).

    Raises
    ------
    ModelError
        If logits have another shape or too small a vocabulary.
    """
    found, given = tuple(logits.shape), tuple(tokens.shape)
    if logits.ndim != 3 or found[:2] != given:
        raise ModelError(
            f"{source}: token ids of shape {given} must give logits of shape ({given[0]}, {given[1]}, {vocab.total}), "
            f"not {found}"
        )
    if found[2] < vocab.total:
        raise ModelError(
            f"{source}: logits of {found[2]} tokens are too few: the task has {vocab.total}, {vocab.size} of data and "
            f"{vocab.total - vocab.size} special ones"
        )


def check_forward(forward: Call, vocab: VocabularySpec, source: str, device: Any) -> None:
    """Try a model on a few tokens: shapes, numbers, rows and causality.

    Parameters
    ----------
    forward : callable
        From token ids (batch, seq_len) to logits (batch, seq_len, vocab_size); may raise ModelError.
    vocab : VocabularySpec
    source : str
        Names the model in messages.
    device : torch.device

    Raises
    ------
    ModelError
        Naming what is wrong.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab.total, (2, 8), generator=generator).to(device)
    later, above = tokens.clone(), tokens.clone()
    later[:, 5:] = (later[:, 5:] + 1) % vocab.total
    above[0] = (above[0] + 1) % vocab.total
    with torch.inference_mode():
        logits = forward(tokens)
        check_shape(logits, tokens, vocab, source)
        checked_logits(logits[..., : vocab.total], f"{source}: token ids of shape {tuple(tokens.shape)}")
        if not close(forward(tokens), logits, same_pass=True):
            raise ModelError(f"{source}: the same token ids give other logits the second time (dropout in eval mode?)")
        if not close(forward(later)[:, :5], logits[:, :5], same_pass=True):
            raise ModelError(f"{source}: a later token changes earlier logits: the model must be causal")
        alone = forward(tokens[:1])
        if not (close(forward(above)[1], logits[1], same_pass=True) and close(alone[0], logits[0])):
            raise ModelError(
                f"{source}: one row of a batch changes another's logits (is the batch the first dimension?)"
            )


def close(found: Tensor, expected: Tensor, *, same_pass: bool = False) -> bool:
    """Whether two ways to the same logits agree but for rounding.

    Parameters
    ----------
    found, expected : tensor
    same_pass : bool
        Both come from passes of the same kind, whose rounding is alike: what differs more is no rounding.
    """
    import torch

    finite = torch.isfinite(expected)
    if found.shape != expected.shape or not torch.equal(torch.isfinite(found), finite):
        return False
    exact = expected.dtype in {torch.float32, torch.float64}
    share = (1e-5 if exact else 1e-2) if same_pass else (1e-4 if exact else 5e-2)
    found, expected = found[finite].double(), expected[finite].double()
    if not found.numel():
        return True
    return float((found - expected).abs().max()) <= share * float(expected.abs().max()) + 1e-9


def call(function: Callable[..., Any], source: str, *arguments: Any, **named: Any) -> Any:
    """Call a model; whatever it raises becomes one line with the shape of its token ids.

    Raises
    ------
    ModelError
        Instead of any exception.
    """
    import torch

    try:
        return function(*arguments, **named)
    except ModelError:
        raise
    except Exception as error:
        shape = tuple(arguments[0].shape)
        memory = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
        text = "out of memory; try shorter lengths or a smaller model" if memory else one_line(error)
        raise ModelError(f"{source}: the model failed on token ids of shape {shape}: {text}") from error


# --- States as bytes ------------------------------------------------------------------------------------

_SKIPPED = object()


def tree_of(value: Any, _above: tuple[int, ...] = ()) -> Any:
    """Take a state apart: objects become dicts of their attributes; what is no state (devices, configs) is marked.

    Parameters
    ----------
    value : object
        Tensors, None, numbers and strings, in lists, tuples, dicts (keys str or int) and objects.

    Returns
    -------
    object
        The same without objects; ``fill`` undoes it.

    Raises
    ------
    TypeError
        If something is none of these.
    """
    import torch

    if value is None or isinstance(value, bool | int | float | str | torch.Tensor):
        return value
    if id(value) in _above:
        return _SKIPPED
    above = (*_above, id(value))
    if isinstance(value, list):
        return [tree_of(one, above) for one in value]
    if isinstance(value, tuple):
        return tuple(tree_of(one, above) for one in value)
    if isinstance(value, dict):
        return {key: tree_of(one, above) for key, one in value.items()}
    if isinstance(value, torch.device | torch.dtype) or callable(value) or hasattr(value, "to_dict"):
        return _SKIPPED
    if not hasattr(value, "__dict__"):
        raise TypeError(f"a state must hold tensors, numbers and strings, not {type(value).__name__}")
    return {name: tree_of(one, above) for name, one in vars(value).items()}


def fill(template: Any, tree: Any) -> Any:
    """A state like ``template`` that holds the parts of a tree; the template stays as it is.

    Raises
    ------
    TypeError, KeyError, IndexError, AttributeError
        If a part has no place.
    """
    import torch

    if tree is _SKIPPED:
        return template
    if isinstance(tree, list | tuple):
        places = [*template, *[None] * len(tree)] if isinstance(template, list | tuple) else [None] * len(tree)
        parts = [fill(place, one) for place, one in zip(places, tree, strict=False)]
        if isinstance(template, tuple):
            return template._make(parts) if hasattr(template, "_make") else tuple(parts)
        return type(tree)(parts)
    if not isinstance(tree, dict):
        return tree
    if template is None or isinstance(template, dict):
        return {key: fill((template or {}).get(key), one) for key, one in tree.items()}
    if isinstance(template, bool | int | float | str | torch.Tensor | list | tuple):
        raise TypeError(f"parts {', '.join(map(str, tree))} in place of a {type(template).__name__}")
    filled = copy.copy(template)
    for name, one in tree.items():
        object.__setattr__(filled, name, fill(getattr(template, name, None), one))
    return filled


def tensor_bits(tree: Any) -> int:
    """8 × the bytes of all tensors of a tree; scalars are sizes and positions, known from lengths, and do not count."""
    import torch

    if isinstance(tree, torch.Tensor):
        return 8 * tree.numel() * tree.element_size() if tree.ndim else 0
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return sum(tensor_bits(one) for one in parts)


def to_bytes(tree: Any, identity: dict[str, Any]) -> bytes:
    """A tree as safetensors bytes, with what is not a tensor, the identity and a hash in the header.

    Raises
    ------
    TypeError
        If a key is neither a string nor an integer.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    about = json.dumps({"format": _FORMAT, "of": identity, "tree": _skeleton(tree, tensors)}, sort_keys=True)
    data = _split(save(tensors))[1]
    # One key, as the order of several is not fixed: equal states are equal bytes, so that they can be counted.
    return save(tensors, {"ngram_copy": f"{_sha256(about, data)} {about}"})


def from_bytes(state: bytes, identity: dict[str, Any], device: Any) -> Any:
    """Undo ``to_bytes``.

    Raises
    ------
    ngram_copy.StateError
        If the bytes are damaged, or of another format or identity.
    """
    from safetensors.torch import load

    try:
        header, data = _split(state)
        digest, _, about = header["__metadata__"]["ngram_copy"].partition(" ")
        intact = digest == _sha256(about, data)
        content = json.loads(about)
        of, version = content["of"], content["format"]
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise StateError("a state is damaged, or not of this kind of engine") from error
    if not intact:
        raise StateError("a state is damaged: its hash is another one")
    if version != _FORMAT:
        raise StateError(f"a state is of format {version}, not {_FORMAT}")
    for name, value in identity.items():
        if of.get(name) != value:
            raise StateError(f"a state is of another engine: its {name} is {of.get(name)}, not {value}")
    try:
        tensors = load(state)
        return _grown(content["tree"], tensors, device)
    except Exception as error:  # safetensors has an exception of its own for each version
        raise StateError(f"a state is damaged: {one_line(error)}") from error


def _split(state: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of safetensors bytes."""
    (size,) = struct.unpack_from("<Q", state)
    if size > len(state) - 8:
        raise ValueError("truncated")
    return json.loads(state[8 : 8 + size]), state[8 + size :]


def _sha256(about: str, data: bytes) -> str:
    return hashlib.sha256(about.encode() + b"\0" + data).hexdigest()


def _skeleton(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON of a tree: ``[kind, content]``; tensors are put aside."""
    import torch

    if tree is _SKIPPED:
        return ["skipped"]
    if isinstance(tree, torch.Tensor):
        name = f"{len(tensors):06d}"
        tensors[name] = tree.detach().cpu().contiguous().clone()
        return ["tensor", name, str(tree.dtype), list(tree.shape)]
    if isinstance(tree, dict):
        for key in tree:
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise TypeError(f"the keys of a state must be strings or integers, not {key!r}")
        return ["dict", [[key, _skeleton(one, tensors)] for key, one in tree.items()]]
    if isinstance(tree, list | tuple):
        return ["tuple" if isinstance(tree, tuple) else "list", [_skeleton(one, tensors) for one in tree]]
    return ["value", tree]


def _grown(skeleton: Any, tensors: dict[str, Tensor], device: Any) -> Any:
    """Undo ``_skeleton``."""
    kind, *content = skeleton
    if kind == "skipped":
        return _SKIPPED
    if kind == "tensor":
        name, dtype, shape = content
        tensor = tensors[name]
        if str(tensor.dtype) != dtype or list(tensor.shape) != shape:
            raise ValueError(f"a tensor of {dtype} and shape {shape} is {tensor.dtype} and {list(tensor.shape)}")
        return tensor.to(device)
    if kind == "dict":
        return {key: _grown(one, tensors, device) for key, one in content[0]}
    if kind in {"list", "tuple"}:
        parts = [_grown(one, tensors, device) for one in content[0]]
        return parts if kind == "list" else tuple(parts)
    return content[0]
