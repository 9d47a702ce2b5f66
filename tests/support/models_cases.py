"""Models for the tests of all mixers: each one's tiny preset, and shapes that differ from it."""

from __future__ import annotations

from ngram_copy.models import MIXERS, ModelConfig
from ngram_copy.models.presets import model_config

VOCAB = 13


def _one(mixer: str, *, n_layers: int = 2, d_model: int = 16, **more: object) -> ModelConfig:
    """A small model of one mixer; what is no option of a model is the mixer's."""
    shape = {key: more.pop(key) for key in list(more) if key in _SHAPE}
    return model_config(VOCAB, {"mixer": mixer, "n_layers": n_layers, "d_model": d_model, mixer: more, **shape})


_SHAPE = set(ModelConfig.__dataclass_fields__) | {"mlp"}
_LETTERS = "".join(mixer.letter for mixer in MIXERS.values())

MODELS: dict[str, ModelConfig] = {
    **{name: model_config(VOCAB, {"preset": "tiny", "mixer": name}) for name in MIXERS},
    "nope": _one("attention", positions="none"),
    "learned": _one("attention", positions="none", max_positions=64),
    "rope": _one("attention", positions="rope", rope_dim=2, qkv_bias=True, out_bias=True),
    "alibi": _one("attention", positions="alibi"),
    "sliding": _one("attention", positions="rope", windows=3),
    "hard-alibi": _one("attention", positions="hard-alibi", windows=[2, 0, 1, 3], log_scale=4.0),
    "narrow": _one("attention", positions="hard-alibi", windows=1),
    "grouped": _one("attention", n_kv_heads=2, head_dim=6, value_dim=5, windows=4),
    "mamba-bare": _one("mamba", d_conv=1, d_state=3, expand=1, conv_bias=False, backend="torch"),
    "mamba-biases": _one("mamba", bias=True, dt_rank=3, mlp=12),
    "mamba2-groups": _one("mamba2", head_dim=4, n_groups=2, d_state=6, bias=True, mlp=12),
    "mamba2-bare": _one("mamba2", head_dim=8, d_conv=1, d_state=5, rms_norm=False, conv_bias=False, backend="torch"),
    "s4d-linear": _one("s4d", d_state=6, output="linear", backend="torch"),
    "retnet": _one("gla", gate="fixed", rope_base=10_000.0),
    "linear": _one("gla", gate="none", feature_map="elu", normalise=True, output_norm=False),
    "deltanet": _one("gated_delta", gate="none", conv_size=0),
    "kda": _one("gated_delta", gate="channel", n_value_heads=8, value_dim=3),
    "lstm-narrow": _one("lstm", d_hidden=5, mlp=12, norm="layer"),
    "gru-wide": _one("gru", d_hidden=24, norm="none"),
    "parallel": _one("attention", parallel_residual=True, mlp=24, mlp_bias=True, norm="layer", activation="gelu_tanh"),
    "gated-mlp": _one("attention", mlp=[24, 0], gated_mlp=True, activation="silu", tied=True, head_bias=True),
    "hybrid": model_config(VOCAB, {"preset": "tiny", "pattern": _LETTERS}),
}
ON_DEVICE = [
    *MIXERS,
    *"learned rope alibi hard-alibi grouped mamba2-groups s4d-linear retnet linear deltanet kda gated-mlp".split(),
]
"""Those that differ in what they make on a device."""
