"""Weights of transformers' models in ours: the same logits. Their modules are taken as they are.

What they drop out in training ours does not: convert a model to run it or to go on training without dropout.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ngram_copy.models.base import LanguageModel, LayerConfig, ModelConfig
from ngram_copy.models.gated_delta import GatedDelta

Module = TypeVar("Module", bound=nn.Module)

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Activations by their names there → ours."""


def from_gpt_neox(hf_model: Any) -> LanguageModel:
    """A ``transformers.GPTNeoXForCausalLM`` as a model of ours.

    Parameters
    ----------
    hf_model : GPTNeoXForCausalLM

    Returns
    -------
    LanguageModel
        On the same device and of the same dtype; it shares no memory with ``hf_model``.

    Raises
    ------
    TypeError
        If ``hf_model`` is another kind of model.
    ValueError
        If it has something that ours cannot do: another kind of RoPE, an odd number of rotated coordinates, an
        activation that is not in ``ACTIVATIONS``.
    """
    theirs: Any = getattr(hf_model, "config", None)
    if getattr(theirs, "model_type", None) != "gpt_neox" or not hasattr(hf_model, "lm_head"):
        raise TypeError(f"hf_model must be a GPTNeoXForCausalLM, not {type(hf_model).__name__}")
    rope = theirs.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"rope_type must be 'default', not {rope['rope_type']!r}: scaled RoPE is not supported")
    n_heads, d_model = theirs.num_attention_heads, theirs.hidden_size
    head_dim = d_model // n_heads
    rope_dim = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    if rope_dim % 2:
        raise ValueError(
            f"partial_rotary_factor must rotate an even number of coordinates, not {rope_dim} of {head_dim}"
        )
    attention = {
        "n_heads": n_heads,
        "positions": "rope" if rope_dim else "none",
        **({"rope_dim": rope_dim, "rope_base": float(rope["rope_theta"])} if rope_dim else {}),
        "qkv_bias": theirs.attention_bias,
        "out_bias": theirs.attention_bias,
    }
    config = ModelConfig(
        vocab_size=theirs.vocab_size,
        d_model=d_model,
        layers=(LayerConfig("attention", attention, theirs.intermediate_size),) * theirs.num_hidden_layers,
        norm="layer",
        norm_eps=theirs.layer_norm_eps,
        tied=theirs.tie_word_embeddings,
        activation=_activation(theirs.hidden_act),
        mlp_bias=True,
        parallel_residual=theirs.use_parallel_residual,
    )
    body = hf_model.gpt_neox
    parts: dict[str, Any] = {"embedding": body.embed_in, "norm": body.final_layer_norm, "head": hf_model.lm_head}
    weights = {}
    for i, layer in enumerate(body.layers):
        parts[f"blocks.{i}.norm"] = layer.input_layernorm
        parts[f"blocks.{i}.mlp_norm"] = layer.post_attention_layernorm
        parts[f"blocks.{i}.mlp.up"] = layer.mlp.dense_h_to_4h
        parts[f"blocks.{i}.mlp.down"] = layer.mlp.dense_4h_to_h
        parts[f"blocks.{i}.mixer.out"] = layer.attention.dense
        # Rows of the joint map are ordered by head, then query, key and value.
        for name, joint in layer.attention.query_key_value.named_parameters():
            by_head = joint.unflatten(0, (n_heads, 3, head_dim))
            for part, rows in zip(("query", "key", "value"), by_head.unbind(1), strict=True):
                weights[f"blocks.{i}.mixer.{part}.{name}"] = rows.flatten(0, 1)
    for path, part in parts.items():
        weights.update({f"{path}.{name}": weight for name, weight in part.named_parameters()})
    with torch.device("meta"):  # no time for random weights, and none of torch's random numbers are drawn
        model = LanguageModel(config)
    fill(model, weights)
    if config.tied:
        model.head.weight = model.embedding.weight
    return model


def gated_delta_from_qwen3_next(hf_layer: Any) -> GatedDelta:
    """A gated delta layer of ``transformers``' Qwen3-Next as a mixer of ours.

    Parameters
    ----------
    hf_layer : Qwen3NextGatedDeltaNet

    Returns
    -------
    GatedDelta
        On the same device and of the same dtype; it shares no memory with ``hf_layer``.

    Raises
    ------
    TypeError
        If ``hf_layer`` is another kind of module.
    ValueError
        If its convolution has an activation other than SiLU.
    """
    if not all(
        hasattr(hf_layer, name) for name in ("in_proj_qkvz", "in_proj_ba", "conv1d", "A_log", "dt_bias", "norm")
    ):
        raise TypeError(f"hf_layer must be a Qwen3NextGatedDeltaNet, not {type(hf_layer).__name__}")
    if ACTIVATIONS.get(hf_layer.activation) != "silu":
        raise ValueError(f"the convolution's activation must be 'silu', not {hf_layer.activation!r}")
    n_heads, n_value_heads = hf_layer.num_k_heads, hf_layer.num_v_heads
    head_dim, value_dim = hf_layer.head_k_dim, hf_layer.head_v_dim
    ratio = n_value_heads // n_heads
    # Rows of the joint maps are ordered by head of queries and keys: its query, its key, its value heads, their gates.
    joint = hf_layer.in_proj_qkvz.weight.unflatten(0, (n_heads, -1))
    q, k, v, z = (
        rows.flatten(0, 1) for rows in joint.split([head_dim, head_dim, ratio * value_dim, ratio * value_dim], dim=1)
    )
    beta, decay = (
        rows.flatten(0, 1) for rows in hf_layer.in_proj_ba.weight.unflatten(0, (n_heads, -1)).split(ratio, dim=1)
    )
    weights = {
        "qkv.weight": torch.cat([q, k, v]),
        "conv.weight": hf_layer.conv1d.weight[:, 0],
        "beta.weight": beta,
        "decay.weight": decay,
        "A_log": hf_layer.A_log,
        "dt_bias": hf_layer.dt_bias,
        "output_gate.weight": z,
        "norm.weight": hf_layer.norm.weight,
        "out.weight": hf_layer.out_proj.weight,
    }
    bias = hf_layer.conv1d.bias
    if bias is not None:
        weights["conv.bias"] = bias
    with torch.device("meta"):
        layer = GatedDelta(
            hf_layer.hidden_size,
            n_heads=n_heads,
            head_dim=head_dim,
            value_dim=value_dim,
            n_value_heads=n_value_heads,
            conv_size=hf_layer.conv_kernel_size,
            conv_bias=bias is not None,
            norm_eps=hf_layer.layer_norm_epsilon,
        )
    return fill(layer, weights)


def fill(module: Module, weights: dict[str, Tensor]) -> Module:
    """Put copies of weights into a module that was made on the meta device; all of its parameters must be given."""
    copies = {name: weight.detach().clone(memory_format=torch.contiguous_format) for name, weight in weights.items()}
    module.load_state_dict(copies, assign=True)
    return module


def _activation(name: str) -> str:
    if name not in ACTIVATIONS:
        raise ValueError(f"hidden_act must be one of {', '.join(ACTIVATIONS)}, not {name!r}")
    return ACTIVATIONS[name]
