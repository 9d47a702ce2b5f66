"""A small training that can be killed: ``python train_killed.py FOLDER [STEPS]`` prints its steps, then JSON."""

import json
import sys
from dataclasses import replace

from ngram_copy.models import LayerConfig, ModelConfig
from ngram_copy.tasks.copy import Copy
from ngram_copy.train import Training, train

TASK = Copy(vocab_size=6)
OPTIONS = {"n_heads": 4, "head_dim": 4, "positions": "hard-alibi", "windows": [1, 2, 3, 0], "log_scale": 9.0}
CONFIG = ModelConfig(vocab_size=TASK.vocab.total, d_model=16, layers=[LayerConfig("attention", OPTIONS)] * 2)
TRAINING = Training(
    steps=40, tokens_per_step=128, lengths=(1, 8), cap_start=2, cap_share=0.5, warmup=5, eval_every=10, eval_examples=8
)


def run(folder, training=TRAINING, **options):
    return train(CONFIG, training, TASK, seed=5, folder=folder, device="cpu", **options)


def main():
    folder, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else TRAINING.steps
    training = replace(TRAINING, steps=steps)
    result = run(folder, training, checkpoint_seconds=0, on_progress=lambda now: print(now.step, flush=True))
    print(json.dumps(result.to_json()))


if __name__ == "__main__":
    main()
