"""Checkpoints: a model's weights and all that is needed to use it or to train it on, without pickle.

A folder holds ``model.safetensors``. Its header carries a JSON text: the ``ModelConfig`` (null for a module of one's
own) and what the writer wants to keep beside it (``extra``); further tensors, such as an optimiser's, stand under
names with a ``/``, which no part of a module has. So a checkpoint is one file, and one ``os.replace`` changes from the
old one to the new: a kill at any moment leaves one of both, whole. ``config.json`` repeats the config for people and
for other programs; it is never of another model than the weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ngram_copy.models.base import LanguageModel, ModelConfig

WEIGHTS = "model.safetensors"
"""Weights, config and extra."""

CONFIG = "config.json"
"""The config again, to be read by people."""

_FORMAT = "ngram-copy checkpoint 1"
_KEY = "ngram_copy"  # of the header: one key, as the order of several is not fixed


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the text is one line with the file and the reason."""


def save_model(
    folder: str | Path, model: nn.Module, extra: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
) -> None:
    """Write a checkpoint in place of the folder's last one, if there is one.

    Parameters
    ----------
    folder : str or Path
        Made if missing.
    model : module
        A ``LanguageModel``, or any module, whose ``state_dict`` is kept without a config. A tensor that has several
        names (a tied head) is stored once, under the first.
    extra : dict
        JSON values to keep with it; see ``read_extra``.
    tensors : dict of str to tensor, optional
        To keep with it; names have a ``/``. See ``read_tensors``.

    Raises
    ------
    ValueError
        If something is not JSON, not a tensor, or a name is not allowed.
    OSError
        If it cannot be written; the last checkpoint stays.
    """
    folder = Path(folder)
    config = model.config.to_json() if isinstance(model, LanguageModel) else None
    about = _json({"format": _FORMAT, "config": config, "extra": dict(extra)})
    stored = {name: x.detach().cpu().contiguous() for name, x in {**named_tensors(model), **_further(tensors)}.items()}
    content = save(stored, {_KEY: about})
    folder.mkdir(parents=True, exist_ok=True)
    readable = _readable(config)
    beside = folder / CONFIG
    if not (beside.exists() and beside.read_bytes() == readable):
        beside.unlink(missing_ok=True)  # no moment in which it is of another model than the weights
    _write(folder / WEIGHTS, content)
    if readable and not beside.exists():
        _write(beside, readable)


def load_model(folder: str | Path) -> LanguageModel:
    """The model of a checkpoint, on the CPU, in eval mode and in the dtype in which it was saved.

    Raises
    ------
    CheckpointError
        If there is none, it is truncated or malformed, or it holds another model than it says.
    """
    path, about, loaded = _read(folder)
    if about["config"] is None:
        raise CheckpointError(f"{path} holds the weights of a module of one's own: make it, and use load_weights")
    try:
        with torch.random.fork_rng(devices=[]):
            model = LanguageModel(ModelConfig.from_json(about["config"]))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} holds a model that cannot be made: {error}") from error
    kinds = {x.dtype for x in loaded.values() if x.dtype.is_floating_point}
    if len(kinds) == 1:
        model.to(kinds.pop())
    _copy(path, loaded, model)
    return model.eval()


def load_weights(folder: str | Path, model: nn.Module) -> None:
    """Set the weights of a module to those of a checkpoint.

    Raises
    ------
    CheckpointError
        As ``load_model``; the module stays as it was.
    """
    path, _, loaded = _read(folder)
    _copy(path, loaded, model)


def read_extra(folder: str | Path) -> dict[str, Any]:
    """What ``save_model`` was given as ``extra``.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or it is truncated or malformed.
    """
    _, about = _open(Path(folder))
    extra: dict[str, Any] = about["extra"]
    return extra


def read_tensors(folder: str | Path) -> dict[str, Tensor]:
    """What ``save_model`` was given as ``tensors``, on the CPU.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, or it is truncated or malformed.
    """
    _, _, tensors = _read(folder, further=True)
    return tensors


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module's ``state_dict``, each once: one that has several names stands under the first.

    Raises
    ------
    ValueError
        If something in it is not a tensor, or a name has a ``/``.
    """
    seen = set()
    named = {}
    for name, x in model.state_dict().items():
        if not isinstance(x, Tensor):
            raise ValueError(f"{name} of the module's state is a {type(x).__name__}, not a tensor")
        if "/" in name:
            raise ValueError(f"names of a module's parts must not have a '/': {name}")
        place = (x.device, x.data_ptr(), x.dtype, x.shape, x.stride())
        if x.numel() == 0 or place not in seen:
            seen.add(place)
            named[name] = x
    return named


def weights_hash(model: nn.Module) -> str:
    """``sha256:`` and 64 hexadecimal digits, of the names, dtypes, shapes and bytes of a module's tensors.

    Little-endian bytes; the same on every device, and for a model that was saved and loaded.
    """
    sha = hashlib.sha256()
    for name, x in sorted(named_tensors(model).items()):
        sha.update(f"{name} {x.dtype} {list(x.shape)}\n".encode())
        sha.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{sha.hexdigest()}"


# --- Inside ---------------------------------------------------------------------------------------------


def _further(tensors: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
    for name in tensors or {}:
        if "/" not in name:
            raise ValueError(f"names of further tensors must have a '/', not {name!r}")
    return tensors or {}


def _json(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a checkpoint keeps JSON values: {error}") from error


def _readable(config: Mapping[str, Any] | None) -> bytes:
    if config is None:
        return b""
    return (json.dumps({"format": _FORMAT, "model": config}, indent=2, sort_keys=True) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    """Put a file in place of another, whole or not at all."""
    beside = path.with_name(path.name + ".partial")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error
    with contextlib.suppress(OSError):  # some systems cannot open folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _open(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file and its JSON."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        about: dict[str, Any] = json.loads(metadata.get(_KEY, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or no checkpoint: {error}") from error
    if about.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version: {about.get('format')!r}, not {_FORMAT!r}")
    beside = folder / CONFIG
    if beside.is_file() and beside.read_bytes() != _readable(about["config"]):
        raise CheckpointError(f"{beside} is of another model than {path}: remove it, or find the weights that fit it")
    return path, about


def _read(folder: str | Path, *, further: bool = False) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
    """The file, its JSON, and its weights or its further tensors."""
    path, about = _open(Path(folder))
    with safe_open(path, framework="pt") as file:
        return path, about, {name: file.get_tensor(name) for name in file.keys() if ("/" in name) == further}  # noqa: SIM118


def _copy(path: Path, loaded: Mapping[str, Tensor], model: nn.Module) -> None:
    expected = named_tensors(model)
    for name in (*expected, *loaded):
        if name not in loaded or name not in expected:
            where = "lacks" if name not in loaded else "has"
            raise CheckpointError(f"{path} is of another model: it {where} {name}")
        found, wanted = loaded[name], expected[name]
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            raise CheckpointError(
                f"{path} is of another model: {name} is {_shape(found)} there and {_shape(wanted)} here"
            )
    with torch.no_grad():
        for name, x in expected.items():
            x.copy_(loaded[name])


def _shape(x: Tensor) -> str:
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"
