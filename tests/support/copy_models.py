"""Attention models with weights set by hand, whose way to copy is known."""

import math

import torch

from ngram_copy.models import LanguageModel, LayerConfig, ModelConfig
from ngram_copy.tasks import VocabularySpec

SHARP = 100.0


def _model(vocab, length, layers):
    """Width: the token, its position, then a block for each layer to write tokens into."""
    places = 2 * length + 3
    width = vocab.total * (1 + len(layers)) + places
    config = ModelConfig(vocab.total, width, layers, norm="none", max_positions=places)
    model = LanguageModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embedding.weight[:, : vocab.total] = torch.eye(vocab.total)
        model.positions.weight[:, vocab.total : vocab.total + places] = torch.eye(places)
        model.head.weight[:, -vocab.total :] = torch.eye(vocab.total)
    return model


def _write(mixer, vocab, head, block, swapped):
    """A head reads tokens, one of them as another, and writes them into a block."""
    columns = mixer.output_columns(head)
    values = torch.eye(vocab.total)
    seen, said = swapped
    values[seen, seen], values[said, seen] = 0, 1
    mixer.value.weight[columns, : vocab.total] = values
    mixer.out.weight[block : block + vocab.total, columns] = torch.eye(vocab.total)


def by_position(vocab: VocabularySpec, length: int) -> LanguageModel:
    """Head 0.1 looks where the next token must stand, whatever was copied; head 0.0 sees 3 tokens and adds nothing."""
    places = 2 * length + 3
    options = {
        "n_heads": 2,
        "head_dim": places,
        "value_dim": vocab.total,
        "positions": "hard-alibi",
        "windows": [3, 0],
    }
    model = _model(vocab, length, [LayerConfig("attention", options)])
    mixer = model.blocks[0].mixer
    with torch.no_grad():
        start = mixer.order.index(1) * places
        for position in range(length + 1, places):
            mixer.query.weight[start + position - length, vocab.total + position] = SHARP * math.sqrt(places)
        mixer.key.weight[start : start + places, vocab.total : vocab.total + places] = torch.eye(places)
        _write(mixer, vocab, 1, vocab.total + places, (vocab.copy, vocab.eos))
    return model


def by_match(vocab: VocabularySpec, length: int) -> LanguageModel:
    """Head 0.0 looks one token back; head 1.0 looks after tokens like its own."""
    places, total = 2 * length + 3, vocab.total
    first = {"n_heads": 1, "head_dim": places, "value_dim": total, "positions": "none"}
    second = {"n_heads": 1, "head_dim": total, "value_dim": total, "positions": "none"}
    model = _model(vocab, length, [LayerConfig("attention", first), LayerConfig("attention", second)])
    lower, upper = (block.mixer for block in model.blocks)
    before = total + places  # the block of the token before
    with torch.no_grad():
        for position in range(1, places):
            lower.query.weight[position - 1, total + position] = SHARP * math.sqrt(places)
        lower.key.weight[:, total:before] = torch.eye(places)
        _write(lower, vocab, 0, before, (vocab.bos, vocab.copy))
        upper.query.weight[:, :total] = SHARP * math.sqrt(total) * torch.eye(total)
        upper.key.weight[:, before : before + total] = torch.eye(total)
        _write(upper, vocab, 0, before + total, (vocab.copy, vocab.eos))
    return model
