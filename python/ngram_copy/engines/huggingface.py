"""Causal language models of transformers, by folder or by their id on the Hugging Face Hub.

A model takes tasks in one of two ways:

- *ids*: the task's tokens are fed as they are, as token ids 0 … total - 1. For models without a tokenizer, such as
  those trained on ``ngram_copy``'s tokens or with random weights.
- *text*: a ``TextTask`` renders its examples, the tokenizer reads them, and the text that comes is scored by the task.
  For pretrained models. What is kept at the cut is then what the model keeps after the whole rendered text, the query
  included: an upper limit of the state at the cut.

The state is the model's cache as it lives: keys and values of all layers, or states of convolutions and recurrences.
Rows are never padded: padding on the left changes a recurrent state (transformers #31540). After a state, tokens are
read one at a time: a recurrent layer of transformers that reads several begins anew.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy.engines.base import Prediction
from ngram_copy.engines.foreign import (
    ForeignEngine,
    ModelError,
    call,
    check_forward,
    check_shape,
    checked_logits,
    close,
    fill,
    from_bytes,
    logits_of,
    one_line,
    tensor_bits,
    to_bytes,
    tree_of,
    weights_hash,
)
from ngram_copy.engines.neural import require_torch
from ngram_copy.tasks.base import Batch, VocabularySpec

if TYPE_CHECKING:
    from torch import Tensor, nn

DTYPES = ("float32", "bfloat16", "float16")
WAYS = ("auto", "ids", "text")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")

_CACHES = ("cache", "past_key_values", "cache_params", "state")  # newest name first


class HuggingFaceEngine(ForeignEngine):
    """A causal language model of transformers; see the top of this file.

    Parameters
    ----------
    vocab : VocabularySpec
    path : str
        A folder that ``save_pretrained`` wrote, or an id on the Hub. Weights must be safetensors.
    tokens : {"auto", "ids", "text"}
        How tasks are taken; ``"auto"`` is text where there is a tokenizer.
    dtype : {"float32", "bfloat16", "float16"}
        Of weights, and so of the state.
    device : str
        ``"auto"`` is a GPU where there is one.

    Raises
    ------
    ModelError
        If transformers is missing, there is no such model, it cannot be read, its weights are incomplete, it is not
        causal, or its vocabulary is too small; one line.
    """

    name: ClassVar[str] = "huggingface"
    summary: ClassVar[str] = "a causal language model of transformers, by folder or id"

    def __init__(
        self,
        vocab: VocabularySpec,
        *,
        path: str,
        tokens: str = "auto",
        dtype: str = "float32",
        device: str = "auto",
    ) -> None:
        for option, value, known in (("tokens", tokens, WAYS), ("dtype", dtype, DTYPES)):
            if value not in known:
                raise ModelError(f"{path}: unknown {option} {value!r}; there are: {', '.join(known)}")
        self.vocab = vocab
        self.source = path
        self._loaded = _load(path, _files(path), dtype, device)
        self.device = self._loaded.device
        if tokens == "text" and self._loaded.tokenizer is None:
            raise ModelError(f"{path}: there is no tokenizer, so it cannot read text: leave tokens = 'text' out")
        self._text = self._loaded.tokenizer is not None and tokens != "ids"
        if not self.reads_text:
            self._check_size()
        if self._loaded.tried < vocab.total:
            size = min(vocab.size, self._loaded.size - 4) if self.reads_text else vocab.size
            check_forward(self._all_logits, VocabularySpec(max(size, 1)), path, self.device)
            self._loaded.tried = vocab.total
        self._measured = self._loaded.measured

    @property
    def module(self) -> nn.Module:
        model: nn.Module = self._loaded.model
        return model

    @property
    def weights(self) -> str:
        """Hash of the weights."""
        return self._loaded.weights

    @property
    def reads_text(self) -> bool:
        """Whether it takes text: then ``answer_texts`` answers, and not ``predict``."""
        return self._text

    def provenance(self) -> dict[str, Any]:
        return {
            "model": type(self._loaded.model).__name__,
            "parameters": sum(parameter.numel() for parameter in self._loaded.model.parameters()),
            "weights": self.weights,
            "reads": "text" if self.reads_text else "ids",
            "transformers": _transformers().__version__,
        }

    # --- Token ids ------------------------------------------------------------------------------------------

    def predict(self, batch: Batch, *, threads: int = 1) -> Prediction:
        self._need_ids()
        return super().predict(batch, threads=threads)

    def cut(self, prompts: Sequence[NDArray[np.uint32]]) -> list[bytes]:
        self._need_ids()
        self._check_state()
        return super().cut(prompts)

    def resume(
        self, states: Sequence[bytes], max_new_tokens: int, queries: Sequence[NDArray[np.uint32]] | None = None
    ) -> list[NDArray[np.int64]]:
        self._need_ids()
        return super().resume(states, max_new_tokens, queries)

    def state_bits(self, prompts: Sequence[NDArray[np.uint32]]) -> NDArray[np.float64]:
        """8 × the bytes of the live cache at the cut, measured at each length."""
        self._need_ids()
        self._check_state()
        return super().state_bits(prompts)

    def _need_ids(self) -> None:
        if self.reads_text:
            raise ModelError(
                f"{self.source}: a model with a tokenizer takes tasks of text alone; tokens = 'ids' feeds it the "
                "task's tokens as they are"
            )

    def _check_size(self) -> None:
        if self._loaded.size < self.vocab.total:
            raise ModelError(
                f"{self.source}: its vocabulary of {self._loaded.size} tokens is too small: the task has "
                f"{self.vocab.total}, {self.vocab.size} of data and {self.vocab.total - self.vocab.size} special ones"
            )

    # --- Text -----------------------------------------------------------------------------------------------

    def answer_texts(self, prompts: Sequence[str], characters: Sequence[int]) -> list[str]:
        """Go on with texts, greedily.

        Parameters
        ----------
        prompts : sequence of str
            As ``TextTask.render_text`` makes them.
        characters : sequence of int
            For each: enough is said when the text has so many characters, white space before it left out.

        Returns
        -------
        list of str
            What came, up to the model's own end; for ``TextTask.score_text``.
        """
        import torch

        answers = []
        for prompt, enough in zip(prompts, characters, strict=True):
            with torch.inference_mode():
                *before, last = self._encode(prompt)
                state = self._read(self._row(before), None)[1] if before else None
                answers.append(self._say(*self._read(self._row([last]), state), enough))
        return answers

    def cut_texts(self, prompts: Sequence[str]) -> list[bytes]:
        """The state before the last token of each text, and that token, as bytes."""
        self._check_state()
        return [self._cut(self._encode(prompt)) for prompt in prompts]

    def resume_texts(self, states: Sequence[bytes], characters: Sequence[int]) -> list[str]:
        """Go on from ``cut_texts`` as ``answer_texts`` does.

        Raises
        ------
        ngram_copy.StateError
            If a state is damaged or of another model.
        """
        import torch

        answers = []
        for state, enough in zip(states, characters, strict=True):
            with torch.inference_mode():
                answers.append(self._say(*self._open(state, []), enough))
        return answers

    def text_state_bits(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """8 × the bytes of the live cache after each text; its last token, which is read again, counts as well."""
        self._check_state()
        return np.array([float(self._bits(len(self._encode(prompt)))) for prompt in prompts])

    def _encode(self, text: str) -> list[int]:
        """Token ids of a text; at least one."""
        if not self.reads_text:
            raise ModelError(f"{self.source}: the model takes token ids, not text")
        ids: list[int] = self._loaded.tokenizer(text)["input_ids"]
        ends = self._loaded.ends
        while ids and ids[-1] in ends:  # some tokenizers close what they read
            ids = ids[:-1]
        if not ids:
            raise ModelError(f"{self.source}: its tokenizer finds no token in {text[:40]!r}")
        if max(ids) >= self._loaded.size:
            raise ModelError(
                f"{self.source}: its tokenizer gives the token {max(ids)}, and the model has {self._loaded.size}"
            )
        return ids

    def _say(self, logits: Tensor, state: Any, enough: int) -> str:
        """Emit tokens until their text has ``enough`` characters, or an end."""
        tokens: list[int] = []
        text = ""
        # A token has a byte at least, and a character four at most.
        while len(tokens) < 4 * enough + 16:
            logits = checked_logits(logits[..., : len(self._loaded.tokenizer)], f"{self.source}: an answer's tokens")
            token = int(logits.argmax(-1))
            if token in self._loaded.ends:
                break
            tokens.append(token)
            text = self._loaded.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            said = text.lstrip()
            # The last character may be cut: up to three bytes of it, each shown as one sign.
            if len(said.rstrip("\ufffd")) >= enough or len(said) >= enough + 4:
                break
            logits, state = self._read(self._row([token]), state)
        return text

    # --- Parts ----------------------------------------------------------------------------------------------

    def _call(self, tokens: Tensor, **named: Any) -> Any:
        hint = getattr(self._loaded.model.config, "max_position_embeddings", None)
        hint = f" (its config says max_position_embeddings = {hint})" if hint and tokens.shape[1] > hint else ""
        with _quiet(_transformers()):
            return call(self._loaded.model, f"{self.source}{hint}", tokens, **named)

    def _all_logits(self, tokens: Tensor) -> Tensor:
        return logits_of(self._call(tokens, use_cache=False), self.source)

    def _logits(self, tokens: Tensor, last: int) -> Tensor:
        keep = {"logits_to_keep": last} if "logits_to_keep" in self._loaded.arguments else {}
        logits = logits_of(self._call(tokens, use_cache=False, **keep), self.source)[:, -last:]
        check_shape(logits, tokens[:, -last:], self.vocab, self.source)
        return logits

    def _read(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        name = self._loaded.cache
        if name is None:
            raise ModelError(f"{self.source}: {self._kind} takes no cache, so its state cannot be measured")
        pieces = [tokens] if state is None else [token[:, None] for token in tokens.unbind(1)]
        output: Any = None
        for piece in pieces:
            given = {} if state is None else {name: state}
            output = self._call(piece, use_cache=True, **given)
            state = _cache_of(output)
            if state is None:
                raise ModelError(f"{self.source}: {self._kind} gives no cache, so its state cannot be measured")
        return logits_of(output, self.source)[:, -1], state

    def _restore(self, tree: Any) -> Any:
        return fill(self._read(self._row([0]), None)[1], tree)

    @property
    def _kind(self) -> str:
        return type(self._loaded.model).__name__

    def _check_state(self) -> None:
        """Hold a cache that went through bytes against the whole sequence.

        Raises
        ------
        ModelError
            If the cache holds no tensors, or cannot be built again from them.
        """
        import torch

        if self._loaded.rebuilds:
            return
        generator = torch.Generator().manual_seed(2)
        tokens = torch.randint(min(self._loaded.size, 256), (1, 7), generator=generator).to(self.device)
        with torch.inference_mode():
            expected = self._all_logits(tokens)
            state = self._read(tokens[:, :4], None)[1]
            failure = "what comes next differs"
            try:
                parts = tree_of(state)
                if not tensor_bits(parts):
                    raise ModelError(f"{self.source}: the cache of {self._kind} holds no tensors to measure")
                state = self._restore(from_bytes(to_bytes(parts, {}), {}, self.device))
                for position in range(4, 7):
                    logits, state = self._read(tokens[:, position : position + 1], state)
                    self._loaded.rebuilds = close(logits, expected[:, position])
                    if not self._loaded.rebuilds:
                        break
            except ModelError:
                raise
            except Exception as error:
                failure = one_line(error)
        if not self._loaded.rebuilds:
            raise ModelError(
                f"{self.source}: the cache of {self._kind} cannot be built again from its tensors ({failure}), so its "
                "state cannot be cut"
            )


# --- Loading --------------------------------------------------------------------------------------------


@dataclass
class _Loaded:
    """A model in memory, and what was found out about it."""

    model: Any
    tokenizer: Any
    device: Any
    size: int
    cache: str | None
    arguments: frozenset[str]
    ends: frozenset[int]
    weights: str
    measured: dict[int, int] = field(default_factory=dict)
    tried: int = 0
    rebuilds: bool = False


def _transformers() -> Any:
    return importlib.import_module("transformers")


@functools.lru_cache(maxsize=1)
def _load(path: str, _files: tuple[str, ...], dtype: str, device: str) -> _Loaded:
    """Load a model; the last one is kept, while its files are the same."""
    if importlib.util.find_spec("transformers") is None:
        raise ModelError(f"{path}: Hugging Face models need transformers: pip install 'ngram-copy[torch,hf]'")
    require_torch(f"the model {path}")
    import torch

    from ngram_copy.models.machine import find_device

    transformers = _transformers()
    folder = _folder(path)
    where: dict[str, Any] = {"local_files_only": folder is not None, "trust_remote_code": False}
    name = path if folder is None else str(folder)
    target = find_device(device)
    with _quiet(transformers):
        try:
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                name, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True, **where
            )
        except Exception as error:
            raise ModelError(_why_not(path, folder, error)) from error
        tokenizer = _tokenizer(transformers, path, name, folder, where)
    missing = sorted(info.get("missing_keys") or ()) + sorted(map(str, info.get("mismatched_keys") or ()))
    if missing:
        raise ModelError(f"{path}: {len(missing)} weights are missing or of another shape, such as {missing[0]}")
    try:
        model = model.to(target).eval()
    except Exception as error:
        raise ModelError(f"{path}: the model cannot be moved to {target}: {one_line(error)}") from error
    arguments = frozenset(inspect.signature(model.forward).parameters)
    return _Loaded(
        model=model,
        tokenizer=tokenizer,
        device=target,
        size=_size(model, path),
        cache=next((one for one in _CACHES if one in arguments), None),
        arguments=arguments,
        ends=_ends(model, tokenizer),
        weights=weights_hash(model),
    )


def _files(path: str) -> tuple[str, ...]:
    """What tells whether a folder is as it was."""
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        return ()
    stats = [(file, file.stat()) for file in sorted(folder.iterdir())]
    return tuple(f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats)


def _folder(path: str) -> Path | None:
    """The folder that a path names; None for what can only be an id on the Hub."""
    found = Path(path).expanduser()
    if found.is_dir():
        return found
    if found.exists():
        raise ModelError(f"{path}: not a folder: a model is a folder with config.json and model.safetensors")
    if path.startswith((".", "/", "~")) or path.count("/") > 1 or "\\" in path or not path:
        raise ModelError(f"{path}: no such folder")
    return None


def _why_not(path: str, folder: Path | None, error: Exception) -> str:
    """One line that says why a model was not loaded."""
    reason = one_line(error)
    if folder is not None:
        if not (folder / "config.json").is_file():
            return f"{path}: the folder has no config.json, so it holds no model of transformers"
        if not list(folder.glob("*.safetensors")):
            return f"{path}: the folder holds no *.safetensors (weights in pickle files are not read)"
        return f"{path}: the model cannot be loaded: {reason}"
    text = " ".join(str(error).split())
    if "connect" in text or "offline" in text.lower():
        return f"{path}: no such folder here, and the Hugging Face Hub cannot be reached"
    if "not a valid model identifier" in text or "404" in text:
        return f"{path}: no such folder here, and no such model on the Hugging Face Hub"
    return f"{path}: no such folder here, and the Hugging Face Hub says: {reason}"


def _tokenizer(transformers: Any, path: str, name: str, folder: Path | None, where: dict[str, Any]) -> Any:
    """The tokenizer, or None where there is none: transformers makes one up for some folders without."""
    if folder is not None:
        there = any((folder / file).is_file() for file in TOKENIZER_FILES)
    else:
        silent = dict.fromkeys(
            ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors"), False
        )
        find = transformers.utils.cached_file
        there = any(find(name, file, **silent) is not None for file in TOKENIZER_FILES)
    if not there:
        return None
    try:
        return transformers.AutoTokenizer.from_pretrained(name, **where)
    except Exception as error:
        raise ModelError(f"{path}: its tokenizer cannot be loaded: {one_line(error)}") from error


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a text."""
    found: set[int] = set()
    for one in (getattr(model, "generation_config", None), model.config, tokenizer):
        value = getattr(one, "eos_token_id", None)
        found |= set(value) if isinstance(value, list | tuple) else set() if value is None else {int(value)}
    return frozenset(found)


def _size(model: Any, path: str) -> int:
    """Tokens that the model both reads and emits."""
    weights = [getattr(one, "weight", None) for one in (model.get_input_embeddings(), model.get_output_embeddings())]
    sizes = [int(weight.shape[0]) for weight in weights if weight is not None]
    if not sizes:
        raise ModelError(f"{path}: {type(model).__name__} has no embeddings of tokens")
    return min(sizes)


def _cache_of(output: Any) -> Any:
    return next((found for name in _CACHES if (found := getattr(output, name, None)) is not None), None)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No progress bars and no remarks (such as that a kernel is missing); what matters is checked."""
    logging = transformers.utils.logging
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
