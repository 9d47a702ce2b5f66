"""Sequence models in torch: one skeleton, one file a mixer; importing this needs the extra ``torch``."""

from ngram_copy.models.attention import Attention
from ngram_copy.models.base import LanguageModel, LayerConfig, Mixer, ModelConfig, State
from ngram_copy.models.gated_delta import GatedDelta
from ngram_copy.models.gla import GLA
from ngram_copy.models.mamba import Mamba
from ngram_copy.models.mamba2 import Mamba2
from ngram_copy.models.rnn import GRU, LSTM
from ngram_copy.models.s4d import S4D

MIXERS: dict[str, type[Mixer]] = {
    mixer.name: mixer for mixer in (Attention, Mamba, Mamba2, S4D, LSTM, GRU, GLA, GatedDelta)
}
"""All mixers by name; a new one is a file and a line here."""

__all__ = ["MIXERS", "LanguageModel", "LayerConfig", "Mixer", "ModelConfig", "State"]
