"""Checks of the arguments of recurrences, and what all of them share: dtypes, lengths, padding, resets."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

LOW_PRECISION = (torch.float16, torch.bfloat16)
_REAL = (*LOW_PRECISION, torch.float32, torch.float64)
_COMPLEX = (torch.complex64, torch.complex128)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

P = ParamSpec("P")
Pair = TypeVar("Pair")
Lengths = Tensor | Sequence[int] | None


def to_real(dtype: torch.dtype) -> torch.dtype:
    """Give float32 or float64, in the precision of a dtype (``dtype.to_real()`` cannot be compiled)."""
    return torch.float64 if dtype in {torch.float64, torch.complex128} else torch.float32


def to_complex(dtype: torch.dtype) -> torch.dtype:
    """Give complex64 or complex128, in the precision of a dtype."""
    return torch.complex128 if dtype in {torch.float64, torch.complex128} else torch.complex64


def without_autocast(function: Callable[P, Pair]) -> Callable[P, Pair]:
    """Let a function see no autocast: it would take sums and states to bfloat16."""

    @functools.wraps(function)
    def exact(*args: P.args, **kwargs: P.kwargs) -> Pair:
        first = args[0] if args else next(iter(kwargs.values()), None)
        kind = "cpu" if not isinstance(first, Tensor) or first.is_cpu else first.device.type
        if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
            return function(*args, **kwargs)
        with torch.autocast(kind, enabled=False):
            return function(*args, **kwargs)

    return exact


class Checker:
    """Holds arguments against each other: the first that names a dimension fixes its size, the first tensor the device.

    Examples
    --------
    >>> check = Checker()
    >>> check.real("u", torch.zeros(2, 8, 5), "batch d_model seq_len")
    >>> check.real("A", torch.zeros(9, 4), "d_model d_state")
    Traceback (most recent call last):
    ...
    ValueError: A must have the shape (d_model=8, d_state), not (9, 4)
    """

    def __init__(self, **sizes: int) -> None:
        self.sizes: dict[str, int] = sizes
        self.device: torch.device | None = None
        self.double = False

    def real(self, name: str, value: Tensor, dims: str) -> None:
        """Check a tensor of float16, bfloat16, float32 or float64."""
        self._tensor(name, value, dims, _REAL, "float16, bfloat16, float32 or float64")

    def complex(self, name: str, value: Tensor, dims: str) -> None:
        """Check a tensor of complex64 or complex128."""
        self._tensor(name, value, dims, _COMPLEX, "complex64 or complex128")

    def number(self, name: str, value: Tensor, dims: str) -> None:
        """Check a real or complex tensor."""
        self._tensor(name, value, dims, _REAL + _COMPLEX, "a floating or a complex type")

    def optional(self, name: str, value: Tensor | None, dims: str) -> None:
        """Check a real tensor, or None."""
        if value is not None:
            self.real(name, value, dims)

    def grouped(self, name: str, value: Tensor, dims: str) -> Tensor:
        """Check a tensor that may have ``n_groups`` after ``batch``, and return it with them."""
        batch, rest = dims.split(maxsplit=1)
        if isinstance(value, Tensor) and value.dim() == len(dims.split()):
            value = value[:, None]
        self.real(name, value, f"{batch} n_groups {rest}")
        return value

    def state(self, name: str, value: Tensor | None, dims: str) -> Tensor:
        """Check a state and return it in the dtype of the sums; zeros for None."""
        state = self.given_state(name, value, dims)
        if state is None:
            return torch.zeros([self.sizes[dim] for dim in dims.split()], dtype=self.dtype, device=self.device)
        return state

    def given_state(self, name: str, value: Tensor | None, dims: str) -> Tensor | None:
        """Check a state, as :meth:`state`, and leave None: the core knows it, and torch's zeros wake its threads."""
        if value is None:
            return None
        self.real(name, value, dims)
        return value.to(self.dtype)

    def complex_state(self, name: str, value: Tensor | None, dims: str) -> Tensor:
        """Check a complex state, as :meth:`state`."""
        if value is None:
            sizes = [self.sizes[dim] for dim in dims.split()]
            return torch.zeros(sizes, dtype=to_complex(self.dtype), device=self.device)
        self.complex(name, value, dims)
        return value.to(to_complex(self.dtype))

    def heads(self, q: Tensor, k: Tensor, v: Tensor, dims: str) -> None:
        """Check q, k (…, n_heads, head_k) and v (…, n_heads, head_v), whose heads may be a multiple."""
        self.real("q", q, f"{dims} n_heads head_k")
        self.real("k", k, f"{dims} n_heads head_k")
        self.real("v", v, f"{dims} v_heads head_v")
        self.multiple("v", "v_heads", "n_heads")

    def cast(self, *tensors: Tensor | None) -> list[Tensor | None]:
        """Tensors in the precision of the sums."""
        wide = to_complex(self.dtype)
        return [None if one is None else one.to(wide if one.is_complex() else self.dtype) for one in tensors]

    def _tensor(self, name: str, value: Tensor, dims: str, allowed: tuple[torch.dtype, ...], kinds: str) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, not {type(value).__name__}")
        if value.dtype not in allowed:
            raise TypeError(f"{name} must be of {kinds}, not of {value.dtype}")
        self.on_device(name, value)
        self.double = self.double or value.dtype in {torch.float64, torch.complex128}
        self.shape(name, value, dims)

    def on_device(self, name: str, value: Tensor) -> None:
        """Check that a tensor is where the first one is."""
        if self.device is None:
            self.device = value.device
        elif value.device != self.device:
            raise ValueError(f"{name} must be on {self.device}, where the first argument is, not on {value.device}")

    def shape(self, name: str, value: Tensor, dims: str) -> None:
        """Check a shape such as ``"batch seq_len"``; new names take the size that is there."""
        names, found, known = dims.split(), tuple(value.shape), self.sizes
        if len(names) != len(found) or any(
            known.get(dim, size) != size for dim, size in zip(names, found, strict=True)
        ):
            wanted = ", ".join(f"{dim}={known[dim]}" if dim in known else dim for dim in names)
            raise ValueError(f"{name} must have the shape ({wanted}), not {found}")
        known.update(zip(names, found, strict=True))

    def multiple(self, name: str, whole: str, part: str) -> int:
        """Return how often the size ``part`` goes into ``whole``; refuse a rest."""
        if self.sizes[part] == 0 or self.sizes[whole] % self.sizes[part]:
            raise ValueError(
                f"{name}: {whole}={self.sizes[whole]} must be a multiple of {part}={self.sizes[part]}",
            )
        return self.sizes[whole] // self.sizes[part]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the state and of all sums: float64 where an argument has it, else float32."""
        return torch.float64 if self.double else torch.float32


class Steps(NamedTuple):
    """The steps that count, and before which of them the state is zero."""

    lengths: Tensor | None
    """(batch,) int64, or None: all steps count."""
    left: bool
    """Padding stands on the left."""
    active: Tensor | None
    """(batch, seq_len) bool, or None: all steps count."""
    resets: Tensor | None
    """(batch, seq_len) bool, or None: nowhere. Never at a step that does not count."""

    @property
    def plain(self) -> bool:
        """No padding and no resets."""
        return self.active is None and self.resets is None


PLAIN = Steps(None, False, None, None)


def steps_of(check: Checker, lengths: Lengths, padding: str, resets: Tensor | None) -> Steps:
    """Check lengths, padding and resets against ``batch`` and ``seq_len``.

    Raises
    ------
    TypeError
        If lengths are no integers or resets no booleans.
    ValueError
        If a shape, a device, a length or ``padding`` is not allowed.
    """
    if padding not in {"right", "left"}:
        raise ValueError(f"padding must be 'right' or 'left', not {padding!r}")
    left = padding == "left"
    if lengths is None and resets is None:
        return PLAIN
    batch, seq_len, device = check.sizes["batch"], check.sizes["seq_len"], check.device
    if resets is not None:
        if not isinstance(resets, Tensor) or resets.dtype != torch.bool:
            found = resets.dtype if isinstance(resets, Tensor) else type(resets).__name__
            raise TypeError(f"resets must be a tensor of bool, not {found}")
        check.on_device("resets", resets)
        check.shape("resets", resets, "batch seq_len")
    if lengths is None:
        return Steps(None, left, None, resets)
    counted = _lengths(lengths, batch, seq_len, device)
    position = torch.arange(seq_len, device=device)
    active = position >= seq_len - counted[:, None] if left else position < counted[:, None]
    return Steps(counted, left, active, None if resets is None else resets & active)


def _lengths(lengths: Tensor | Sequence[int], batch: int, seq_len: int, device: torch.device | None) -> Tensor:
    """Lengths as int64 on the device; a tensor on a GPU is read back once to be checked."""
    if not isinstance(lengths, Tensor):
        lengths = [operator.index(length) for length in lengths]
        bad = [length for length in lengths if not 0 <= length <= seq_len]
        if bad:
            raise ValueError(f"lengths must be 0 to seq_len={seq_len}, not {bad[0]}")
        counted = torch.tensor(lengths, dtype=torch.int64).to(device)
        _one_for_each(counted, batch)
        return counted
    if lengths.dtype not in _INTEGERS:
        raise TypeError(f"lengths must be integers, not {lengths.dtype}")
    _one_for_each(lengths, batch)
    fits = ((lengths >= 0) & (lengths <= seq_len)).all()
    if torch.compiler.is_compiling() or type(lengths) is not Tensor:
        torch._assert_async(fits, f"lengths must be 0 to seq_len={seq_len}")
    elif not fits:
        bad = [length for length in lengths.tolist() if not 0 <= length <= seq_len]
        raise ValueError(f"lengths must be 0 to seq_len={seq_len}, not {bad[0]}")
    return lengths.to(device=device, dtype=torch.int64)


def _one_for_each(lengths: Tensor, batch: int) -> None:
    if tuple(lengths.shape) != (batch,):
        raise ValueError(f"lengths must have the shape (batch={batch},), not {tuple(lengths.shape)}")
