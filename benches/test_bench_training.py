"""A step of training on one thread: the tiny models beside torch's own layer, and beside a scan in a Python loop.

The peers have the same shapes, the same batch, the same optimiser and the same loss (on the answer alone: nobody
computes logits before it); a step is forward, backward, clip and AdamW.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from ngram_copy.models import LanguageModel, ModelConfig  # noqa: E402
from ngram_copy.models.base import LayerConfig  # noqa: E402
from ngram_copy.models.presets import model_config  # noqa: E402
from ngram_copy.tasks.copy import Copy  # noqa: E402

D, HEADS, LENGTH, ROWS = 64, 4, 32, 31
WINDOWS = [2, 4, 0, 0]
TASK = Copy()


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tokens(benchmark):
    """About 2,048 tokens: the batch of the shipped recipes at L = 32."""
    batch = TASK.batch(LENGTH, seed=0, split="train", start=0, count=ROWS)
    benchmark.extra_info["tokens"] = batch.tokens.size
    return torch.from_numpy(batch.tokens.astype(np.int64))


def step_of(model, tokens):
    """A function that trains by one step."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0)

    def step():
        logits = model(tokens[:, :-1], last=LENGTH + 1)
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, LENGTH + 2 :].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    return step


class Encoder(nn.Module):
    """Torch's ``nn.TransformerEncoderLayer`` with the Hard-ALiBi mask, between an embedding and a head."""

    def __init__(self, vocab_size):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, D)
        options = {"dim_feedforward": 4 * D, "dropout": 0.0, "batch_first": True, "norm_first": True}
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(D, HEADS, **options) for _ in range(2))
        self.norm = nn.LayerNorm(D)
        self.head = nn.Linear(D, vocab_size, bias=False)
        size = 2 * LENGTH + 2
        back = torch.arange(size)[:, None] - torch.arange(size)
        seen = torch.stack([(back >= 0) & (back < (window or size)) for window in WINDOWS])
        mask = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
        self.register_buffer("mask", mask.repeat(ROWS, 1, 1))

    def forward(self, tokens, last):
        h = self.embedding(tokens)
        for layer in self.layers:
            h = layer(h, src_mask=self.mask)
        return self.head(self.norm(h[:, -last:]))


def test_hard_alibi_step(benchmark, tokens):
    benchmark.group = "a training step, 2 layers, d_model 64, 4 heads, MLP 256, Hard-ALiBi, one thread"
    options = {"n_heads": HEADS, "positions": "hard-alibi", "windows": WINDOWS, "qkv_bias": True, "out_bias": True}
    layers = [LayerConfig("attention", options, mlp=4 * D)] * 2
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(TASK.vocab.total, D, layers, norm="layer", mlp_bias=True, activation="relu"))
    benchmark.pedantic(step_of(model, tokens), rounds=40, warmup_rounds=5)


def test_hard_alibi_step_torch(benchmark, tokens):
    benchmark.group = "a training step, 2 layers, d_model 64, 4 heads, MLP 256, Hard-ALiBi, one thread"
    benchmark.extra_info |= {"peer": "nn.TransformerEncoderLayer, the same mask", "of": "hard_alibi_step"}
    torch.manual_seed(0)
    benchmark.pedantic(step_of(Encoder(TASK.vocab.total), tokens), rounds=40, warmup_rounds=5)


def mamba():
    torch.manual_seed(0)
    return LanguageModel(model_config(TASK.vocab.total, {"preset": "tiny", "mixer": "mamba"}))


def test_mamba_step(benchmark, tokens):
    benchmark.group = "a training step of the tiny Mamba, one thread"
    benchmark.pedantic(step_of(mamba(), tokens), rounds=20, warmup_rounds=2)


def test_mamba_step_loop(benchmark, tokens, monkeypatch):
    """The same model, its scan a loop over time in Python."""
    benchmark.group = "a training step of the tiny Mamba, one thread"
    benchmark.extra_info |= {"peer": "the same, its scan a loop in Python", "of": "mamba_step"}
    monkeypatch.setattr("ngram_copy.models.ops.selective_scan", loop)
    benchmark.pedantic(step_of(mamba(), tokens), rounds=5, warmup_rounds=1)


def loop(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, *, initial_state=None, backend=""):
    """Mamba's ``selective_scan_ref`` as it stands there: everything for all times at once, then a loop."""
    delta = delta if delta_bias is None else delta + delta_bias[:, None]
    delta = functional.softplus(delta) if delta_softplus else delta
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    written = torch.einsum("bdl,bnl,bdl->bdln", delta, B, u)
    state = torch.zeros(u.shape[0], *A.shape) if initial_state is None else initial_state
    outputs = []
    for t in range(u.shape[2]):
        state = decay[:, :, t] * state + written[:, :, t]
        outputs.append(torch.einsum("bdn,bn->bd", state, C[:, :, t]))
    y = torch.stack(outputs, dim=2)
    y = y if D is None else y + u * D[:, None]
    return y if z is None else y * functional.silu(z), state
