"""Models of transformers' Mamba and Mamba-2 as models of ours, with the same weights and the same logits.

transformers is not imported: the functions take its models. What its configuration can say and ours cannot (another
activation than SiLU; limits of Δ) is refused.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from ngram_copy.models.base import LanguageModel, LayerConfig, ModelConfig

_NAMES = {
    r"^backbone\.embeddings\.": "embedding.",
    r"^backbone\.layers\.": "blocks.",
    r"^backbone\.norm_f\.": "norm.",
    r"^lm_head\.": "head.",
}
"""Theirs → ours. Inside a mixer the names are the same."""


def from_mamba(model: Any) -> LanguageModel:
    """A ``MambaForCausalLM`` as ours.

    Parameters
    ----------
    model : transformers.MambaForCausalLM

    Returns
    -------
    LanguageModel
        On its device and in its dtype; the weights are copies.

    Raises
    ------
    ValueError
        If ours cannot say what its configuration says.
    """
    return _converted(model, "mamba", {"dt_rank": int(model.config.time_step_rank)})


def from_mamba2(model: Any) -> LanguageModel:
    """A ``Mamba2ForCausalLM`` as ours.

    Parameters
    ----------
    model : transformers.Mamba2ForCausalLM

    Returns
    -------
    LanguageModel
        On its device and in its dtype; the weights are copies.

    Raises
    ------
    ValueError
        If ours cannot say what its configuration says.
    """
    config = model.config
    if tuple(config.time_step_limit) != (0.0, float("inf")):
        raise ValueError(f"time_step_limit must be (0, inf), not {tuple(config.time_step_limit)}")
    options = {"head_dim": config.head_dim, "n_groups": config.n_groups, "norm_eps": config.layer_norm_epsilon}
    return _converted(model, "mamba2", options)


def _converted(model: Any, mixer: str, options: dict[str, Any]) -> LanguageModel:
    config = model.config
    if config.hidden_act != "silu":
        raise ValueError(f"hidden_act must be 'silu', not {config.hidden_act!r}")
    options |= {
        "d_state": config.state_size,
        "d_conv": config.conv_kernel,
        "expand": config.expand,
        "bias": config.use_bias,
        "conv_bias": config.use_conv_bias,
    }
    made = LanguageModel(
        ModelConfig(
            vocab_size=config.vocab_size,
            d_model=config.hidden_size,
            layers=[LayerConfig(mixer, options) for _ in range(config.num_hidden_layers)],
            norm_eps=config.layer_norm_epsilon,
            tied=config.tie_word_embeddings,
        )
    )
    made.to(model.device, model.dtype)
    made.load_state_dict(dict(_renamed(name, weight) for name, weight in model.state_dict().items()))
    return made.train(model.training)


def _renamed(name: str, weight: Tensor) -> tuple[str, Tensor]:
    for theirs, ours in _NAMES.items():
        name = re.sub(theirs, ours, name)
    return name, weight[:, 0] if name.endswith("conv1d.weight") else weight  # theirs is (channels, 1, kernel)
