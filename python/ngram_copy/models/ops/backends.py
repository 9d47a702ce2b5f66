"""Which implementation runs a function, and why."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import torch
from torch import Tensor

from ngram_copy.models.ops import rust
from ngram_copy.models.ops.arguments import Steps

BACKENDS = ("auto", "rust", "torch", "fla", "mamba_ssm")


class Resolution(NamedTuple):
    """The backend that runs a function, and why it and no other."""

    backend: str
    reason: str


class Request(NamedTuple):
    """What a call asks of a backend."""

    device: torch.device
    dtype: torch.dtype
    initial_state: bool = False
    resets: bool = False
    gradients: bool = False
    transformed: bool = False


class External(NamedTuple):
    """What a package from elsewhere, for GPUs, offers for a function."""

    package: str
    function: str
    initial_state: bool = True
    gradients: bool = True
    low_precision_only: bool = False


_DISTRIBUTIONS = {"fla": "fla-core", "mamba_ssm": "mamba-ssm"}

INSTALLED = {package: importlib.util.find_spec(package) is not None for package in _DISTRIBUTIONS}
"""Looked up once: a compiled function cannot look."""

EXTERNAL = {
    "selective_scan": External("mamba_ssm", "selective_scan_fn", initial_state=False),
    "selective_state_update": External("mamba_ssm", "selective_state_update", gradients=False),
    "mamba2_scan": External("mamba_ssm", "mamba_chunk_scan_combined"),
    "mamba2_state_update": External("mamba_ssm", "selective_state_update", gradients=False),
    "linear_attention": External("fla", "chunk_linear_attn"),
    "linear_attention_step": External("fla", "fused_recurrent_linear_attn"),
    "retention": External("fla", "chunk_retention"),
    "retention_step": External("fla", "fused_recurrent_retention"),
    "gated_linear_attention": External("fla", "chunk_gla"),
    "gated_linear_attention_step": External("fla", "fused_recurrent_gla"),
    "delta_rule": External("fla", "chunk_delta_rule", low_precision_only=True),
    "delta_rule_step": External("fla", "fused_recurrent_delta_rule"),
    "gated_delta_rule": External("fla", "chunk_gated_delta_rule"),
    "gated_delta_rule_step": External("fla", "fused_recurrent_gated_delta_rule", gradients=False),
    "kimi_delta_attention": External("fla", "chunk_kda"),
    "kimi_delta_attention_step": External("fla", "fused_recurrent_kda", gradients=False),
}
"""Functions of fla-core 0.6 and mamba-ssm 2; none of these calls has ever run on a GPU here."""

FUNCTIONS = {
    *EXTERNAL,
    *"s4d_scan s4d_state_update linear_scan linear_step lru_scan lru_step rg_lru rg_lru_step".split(),
    *"causal_conv1d causal_conv1d_update".split(),
}


def resolve_backend(
    function: str,
    *where: Tensor | torch.device | torch.dtype | str,
    backend: str = "auto",
    initial_state: bool = False,
    resets: bool = False,
    gradients: bool | None = None,
) -> Resolution:
    """Say which backend would run a function, and why.

    Parameters
    ----------
    function : str
        Its name, such as ``"selective_scan"``.
    *where : tensors, or a device and a dtype
        What it is to run on; float32 on the CPU where nothing is said.
    backend : {"auto", "rust", "torch", "fla", "mamba_ssm"}
        ``"auto"``: Rust on the CPU; on CUDA mamba-ssm or fla-core where they are installed and take the arguments;
        torch elsewhere. Any other is taken as it is, or refused.
    initial_state, resets : bool
        Whether the call has them.
    gradients : bool, optional
        Whether it needs gradients; by default what the tensors say.

    Returns
    -------
    Resolution
        The backend and a sentence. Under torch.func (but for vmap) and forward-mode differentiation only torch will do.

    Raises
    ------
    ValueError
        If there is no such function, device or backend, or if the backend named cannot run it.
    """
    if function not in FUNCTIONS:
        raise ValueError(f"function must be one of {', '.join(sorted(FUNCTIONS))}, not {function!r}")
    tensors = [item for item in where if isinstance(item, Tensor)]
    devices = [tensor.device for tensor in tensors]
    devices += [_device(item) for item in where if isinstance(item, str | torch.device)]
    dtypes = [tensor.dtype for tensor in tensors] + [item for item in where if isinstance(item, torch.dtype)]
    if gradients is None:
        gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    device = devices[0] if devices else torch.device("cpu")
    dtype = dtypes[0] if dtypes else torch.float32
    return resolve(function, Request(device, dtype, initial_state, resets, gradients, rust.transformed()), backend)


def _device(name: str | torch.device) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        hint = f"; the backend is backend={name!r}" if name in BACKENDS else ""
        raise ValueError(f"no device is called {name!r}{hint}") from error


def resolve(function: str, request: Request, backend: str) -> Resolution:
    """Resolve a checked request; see :func:`resolve_backend`."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
    if backend == "auto":
        return _automatic(function, request)
    if backend != "torch":
        obstacle = _rust_obstacle(function, request) if backend == "rust" else _obstacle(function, request, backend)
        if obstacle is not None:
            raise ValueError(f"backend={backend!r} cannot run {function}: {obstacle}")
    return Resolution(backend, "asked for")


def choose(
    function: str, backend: str, tensor: Tensor, initial_state: Tensor | None, steps: Steps, *others: Tensor | None
) -> str:
    """Return the backend of a call: where ``tensor`` is and of its dtype, with gradients if one tensor needs them."""
    needed = torch.is_grad_enabled() and any(
        one is not None and one.requires_grad for one in (tensor, initial_state, *others)
    )
    given = (tensor.device, tensor.dtype, initial_state is not None, steps.resets is not None)
    return resolve(function, Request(*given, needed, rust.transformed()), backend).backend


def _automatic(function: str, request: Request) -> Resolution:
    if request.device.type == "cpu":
        obstacle = _rust_obstacle(function, request)
        if obstacle is None:
            return Resolution("rust", "the CPU's backend")
        return Resolution("torch", f"not Rust: {obstacle}")
    if request.device.type != "cuda":
        return Resolution("torch", f"the only backend on {request.device.type}")
    if function not in EXTERNAL:
        return Resolution("torch", "no other backend has it on a GPU")
    package = EXTERNAL[function].package
    obstacle = _obstacle(function, request, package)
    if obstacle is None:
        return Resolution(package, f"{package} is installed and has {EXTERNAL[function].function}")
    return Resolution("torch", f"not {package}: {obstacle}")


_BACKWARD_ALONE = "it has gradients by autograd alone, none of torch.func or in forward mode"


def _rust_obstacle(function: str, request: Request) -> str | None:
    if request.device.type != "cpu":
        return f"it runs on the CPU, not on {request.device}"
    if request.transformed:
        return _BACKWARD_ALONE
    return None if rust.has(function) else "the core does not have it"


def _obstacle(function: str, request: Request, package: str) -> str | None:
    """Why a package from elsewhere cannot run a call."""
    offer = EXTERNAL.get(function)
    if offer is None or offer.package != package:
        return "it does not have it"
    if request.device.type != "cuda":
        return f"it runs on CUDA, not on {request.device}"
    missing = unavailable(package)
    if missing is not None:
        return missing
    if request.transformed:
        return _BACKWARD_ALONE
    if request.resets:
        return f"{offer.function} has no resets inside a row"
    if request.initial_state and not offer.initial_state:
        return f"{offer.function} takes no initial_state"
    if request.gradients and not offer.gradients:
        return f"{offer.function} gives no gradients"
    if request.dtype == torch.float64:
        return f"{offer.function} does not compute in float64"
    if offer.low_precision_only and request.dtype == torch.float32:
        return f"{offer.function} takes float16 and bfloat16 alone"
    return None


def unavailable(package: str) -> str | None:
    """Why a package cannot be used here, or None."""
    if not INSTALLED[package]:
        return f"{_DISTRIBUTIONS[package]} is not installed"
    return None if torch.cuda.is_available() else "torch sees no GPU"
