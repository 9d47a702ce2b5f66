"""Your own model: any ``nn.Module`` from token ids to logits, with or without a step.

What the module must do, ``batch`` first::

    logits = module(tokens)                  (batch, seq_len) → (batch, seq_len, vocab_size)

and, where it has a state of its own (else the prompt itself is its state)::

    logits, state = module.prefill(tokens)   (batch, seq_len) → (batch, seq_len, vocab_size), state
    logits, state = module.step(tokens, state)       (batch,) → (batch, vocab_size), state

``state`` is all that it keeps: tensors and numbers in lists, tuples, dicts and dataclasses.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ngram_copy.engines.foreign import (
    ForeignEngine,
    ModelError,
    call,
    check_forward,
    check_shape,
    close,
    fill,
    from_bytes,
    logits_of,
    one_line,
    to_bytes,
    tree_of,
    weights_hash,
)
from ngram_copy.engines.neural import require_torch
from ngram_copy.tasks.base import VocabularySpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    Builder = Callable[[int], nn.Module]


class ModuleEngine(ForeignEngine):
    """An engine over an ``nn.Module``; see the top of this file.

    The module is put into eval mode and tried on a few tokens at once.

    Parameters
    ----------
    vocab : VocabularySpec
    module : nn.Module
    source : str
        Names it in messages.

    Raises
    ------
    ModelError
        If it is no module; if its logits have another shape, hold NaN, or do not cover the task's tokens; if a later
        token or another row changes logits; or if ``prefill`` and ``step`` do not agree with ``forward``.
    """

    name: ClassVar[str] = "module"
    summary: ClassVar[str] = "a model of your own, from a Python file"

    def __init__(self, vocab: VocabularySpec, module: nn.Module, *, source: str = "module") -> None:
        self.vocab = vocab
        self.source = source
        self._module = checked_module(module, source).eval()
        self.device = _device_of(module)
        self._measured = {}
        check_forward(self._forward, vocab, source, self.device)
        if self.steps:
            self._check_steps()

    @property
    def module(self) -> nn.Module:
        return self._module

    @property
    def steps(self) -> bool:
        """Whether the module has a state of its own: a ``prefill`` and a ``step``."""
        return all(callable(getattr(self._module, name, None)) for name in ("prefill", "step"))

    def provenance(self) -> dict[str, Any]:
        return {
            "module": type(self._module).__name__,
            "parameters": sum(parameter.numel() for parameter in self._module.parameters()),
            "weights": self.weights,
            "state": "its own" if self.steps else "the prompt",
        }

    def state_bits(self, prompts: Sequence[NDArray[np.uint32]]) -> NDArray[np.float64]:
        """Of a state of its own, 8 × the bytes of its tensors; else L·log2 D, as the prompt must be kept."""
        if self.steps:
            return super().state_bits(prompts)
        counts = np.array([np.count_nonzero(prompt < self.vocab.size) for prompt in prompts], dtype=np.float64)
        return counts * float(np.log2(self.vocab.size))

    # --- Parts ----------------------------------------------------------------------------------------------

    def _forward(self, tokens: Tensor) -> Tensor:
        return logits_of(call(self._module, self.source, tokens), self.source)

    def _logits(self, tokens: Tensor, last: int) -> Tensor:
        logits = self._forward(tokens)
        check_shape(logits, tokens, self.vocab, self.source)
        return logits[:, -last:]

    def _read(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        import torch

        if not self.steps:
            whole = tokens if state is None else torch.cat([state, tokens], dim=1)
            return self._logits(whole, 1)[:, 0], whole
        if state is None:
            logits, state = self._prefill(tokens)
            return logits[:, -1], state
        for token in tokens.unbind(1):
            logits, state = self._step(token, state)
        return logits, state

    def _prefill(self, tokens: Tensor) -> tuple[Tensor, Any]:
        where = f"{self.source}: prefill"
        logits, state = _pair(call(self._prefill_of, where, tokens), where)
        logits = logits_of(logits, where)
        check_shape(logits, tokens, self.vocab, where)
        return logits, state

    def _step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        where = f"{self.source}: step"
        logits, state = _pair(call(self._step_of, where, tokens, state), where)
        logits = logits_of(logits, where)
        if logits.ndim != 2 or len(logits) != len(tokens) or logits.shape[1] < self.vocab.total:
            raise ModelError(
                f"{where}: token ids of shape {tuple(tokens.shape)} must give logits of shape ({len(tokens)}, "
                f"{self.vocab.total}), not {tuple(logits.shape)}"
            )
        return logits, state

    @property
    def _prefill_of(self) -> Callable[..., Any]:
        return self._module.prefill  # type: ignore[return-value]  # told by steps

    @property
    def _step_of(self) -> Callable[..., Any]:
        return self._module.step  # type: ignore[return-value]

    def _restore(self, tree: Any) -> Any:
        if not self.steps:
            return tree
        return fill(self._prefill(self._row([0]))[1], tree)

    def _check_steps(self) -> None:
        """Hold prefill, a state that went through bytes, and step against forward.

        Other tokens are read in between: what the module keeps in itself, apart from the state, is found out.
        """
        import torch

        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(self.vocab.total, (1, 7), generator=generator).to(self.device)
        with torch.inference_mode():
            expected = self._forward(tokens)
            logits, state = self._prefill(tokens[:, :4])
            if not close(logits, expected[:, :4]):
                raise ModelError(f"{self.source}: prefill gives other logits than forward")
            try:
                parts = from_bytes(to_bytes(tree_of(state), {}), {}, self.device)
                self._prefill((tokens + 1) % self.vocab.total)
                state = self._restore(parts)
            except ModelError:
                raise
            except Exception as error:
                raise ModelError(f"{self.source}: the state cannot be written and read: {one_line(error)}") from error
            for position in range(4, 7):
                logits, state = self._step(tokens[:, position], state)
                if not close(logits, expected[:, position]):
                    raise ModelError(
                        f"{self.source}: step gives other logits than forward at position {position}, after a state "
                        "that was written and read: the state must be all that the model keeps"
                    )


class FileEngine(ModuleEngine):
    """A model that a function in a Python file builds.

    Parameters
    ----------
    vocab : VocabularySpec
    build : str
        ``FILE.py:FUNCTION``; the function takes the vocabulary's size and returns an ``nn.Module``.
    seed : int
        Of torch while it is built: random weights are the same each time.
    device : str
        ``"auto"`` is a GPU where there is one.

    Raises
    ------
    ModelError
        If the file or the function fails, or what it builds is not such a model.
    """

    def __init__(self, vocab: VocabularySpec, *, build: str, seed: int = 0, device: str = "auto") -> None:
        self._file = content_hash(build)
        made = _built(build, str(_split(build)[0].resolve()), self._file, vocab, seed, device)
        self.__dict__.update(made.__dict__)

    def provenance(self) -> dict[str, Any]:
        return {**super().provenance(), "file": self._file}


@functools.lru_cache(maxsize=2)
def _built(build: str, _path: str, _content: str, vocab: VocabularySpec, seed: int, device: str) -> ModuleEngine:
    """The module of a file, as the file is now, tried already."""
    require_torch(f"the model {build}")
    import torch

    from ngram_copy.models.machine import find_device

    where = find_device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = load_builder(build)(vocab.total)
    try:
        module = module.to(where)
    except Exception as error:
        raise ModelError(f"{build}: the model cannot be moved to {where}: {one_line(error)}") from error
    made = ModuleEngine(vocab, module, source=build)
    made.weights = weights_hash(module)  # once, for all engines that share it
    return made


def load_builder(spec: str) -> Builder:
    """Import a file and return the function in it that builds a model.

    Parameters
    ----------
    spec : str
        ``FILE.py:FUNCTION``. The file's folder can be imported from, as if Python had been started with it.

    Returns
    -------
    callable
        From the vocabulary's size to an ``nn.Module``; raises ModelError.

    Raises
    ------
    ModelError
        If there is no such file or function, or the file fails; one line.
    """
    path, name = _split(spec)
    require_torch(f"the model {spec}")
    unique = f"_ngram_copy_own_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    module = types.ModuleType(unique)
    module.__file__ = str(path)
    sys.modules[unique] = module  # dataclasses look their module up
    with _user_code(spec, path, "the file cannot be imported"):
        # Compiled here, as a cached compilation may be older than a file that was changed within a second.
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    function = getattr(module, name, None)
    if not callable(function):
        known = sorted(
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == unique and not key.startswith("_")
        )
        what = f"no function {name!r}" if function is None else f"{name!r} is not a function"
        raise ModelError(f"{spec}: {what} in {path.name}; it has: {', '.join(known) or 'none'}")

    def build(vocab_size: int) -> nn.Module:
        with _user_code(spec, path, f"{name}({vocab_size}) failed"):
            found = function(vocab_size)
        return checked_module(found, spec)

    return build


def checked_module(module: Any, source: str) -> nn.Module:
    """Refuse what is not a module.

    Raises
    ------
    ModelError
        Naming its type.
    """
    from torch import nn

    if not isinstance(module, nn.Module):
        hint = " (the class, not a model of it)" if isinstance(module, type) else ""
        kind = module.__name__ if isinstance(module, type) else type(module).__name__
        raise ModelError(f"{source}: the model must be a torch.nn.Module, not {kind}{hint}")
    return module


def _split(spec: str) -> tuple[Path, str]:
    """File and function of ``FILE.py:FUNCTION``."""
    text, separator, name = spec.rpartition(":")
    if not separator or not name.isidentifier() or not text.endswith(".py"):
        raise ModelError(f"{spec}: a model of your own is named FILE.py:FUNCTION, such as my_model.py:build")
    path = Path(text).expanduser()
    if not path.is_file():
        raise ModelError(f"{spec}: no such file: {path}")
    return path, name


def content_hash(spec: str) -> str:
    """``sha256:`` and the hash of the file that ``FILE.py:FUNCTION`` names.

    Raises
    ------
    ModelError
        If it cannot be read.
    """
    path, _ = _split(spec)
    try:
        return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    except OSError as error:
        raise ModelError(f"{spec}: cannot read {path}: {error.strerror or error}") from error


@contextmanager
def _user_code(spec: str, path: Path, failure: str) -> Iterator[None]:
    """Let the file's neighbours be imported; what it raises becomes one line with its line number."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
        line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else (lines or [None])[-1]
        place = f" (line {line})" if line else ""
        raise ModelError(f"{spec}: {failure}: {one_line(error)}{place}") from error
    finally:
        with suppress(ValueError):
            sys.path.remove(folder)


def _device_of(module: nn.Module) -> Any:
    import itertools

    import torch

    first = next(itertools.chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def _pair(output: Any, where: str) -> tuple[Any, Any]:
    if not isinstance(output, tuple | list) or len(output) != 2:
        raise ModelError(f"{where}: must return (logits, state), not {type(output).__name__}")
    return output[0], output[1]
