"""Go on from the states of all models in a process that never saw the prompts.

    python resume_models.py FOLDER

FOLDER holds a file of state bytes for each model; the answers are printed as JSON.
"""

import json
import sys
from pathlib import Path

import torch
from models_cases import MODELS, VOCAB

from ngram_copy.engines.neural import NeuralEngine
from ngram_copy.models import LanguageModel
from ngram_copy.tasks import VocabularySpec


def engine(name):
    """The model of a name; its weights are those of the seed 0."""
    torch.manual_seed(0)
    return NeuralEngine(VocabularySpec(VOCAB - 4), LanguageModel(MODELS[name]).eval())


if __name__ == "__main__":
    torch.set_num_threads(1)
    states = {path.name: path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())}
    print(json.dumps({name: engine(name).resume([state], 12)[0].tolist() for name, state in states.items()}))
