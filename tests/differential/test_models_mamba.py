"""Mamba and Mamba-2 of transformers, tiny and random, with their weights in our models: the same logits to 1e-5."""

import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from ngram_copy.models.convert_mamba import from_mamba, from_mamba2

BATCH, SEQ_LEN, VOCAB = 2, 41, 19
pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers' imports

MAMBA = {
    "plain": {},
    "untied": {"tie_word_embeddings": False, "state_size": 5, "num_hidden_layers": 3},
    "biases": {"use_bias": True, "use_conv_bias": True, "time_step_rank": 3, "expand": 3},
    "no-biases": {"use_conv_bias": False, "conv_kernel": 2, "layer_norm_epsilon": 1e-3},
}
MAMBA2 = {
    "plain": {},
    "groups": {"n_groups": 4, "state_size": 6},
    "biases": {"use_bias": True, "n_groups": 2, "tie_word_embeddings": True, "num_hidden_layers": 3},
    "no-biases": {"use_conv_bias": False, "conv_kernel": 2, "layer_norm_epsilon": 1e-3},
    "wide-heads": {"num_heads": 2, "head_dim": 16, "chunk_size": 16},
}


def randomised(model):
    """All parameters moved, so that none is at a value, such as 0 or 1, under which a mistake is unseen."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model.eval()


@pytest.fixture(
    params=[*((f"mamba-{name}", MAMBA[name]) for name in MAMBA), *((f"mamba2-{n}", MAMBA2[n]) for n in MAMBA2)],
    ids=lambda param: param[0],
)
def pair(request):
    """A model of transformers, and ours with its weights."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    name, options = request.param
    common = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2}
    if name.startswith("mamba2"):
        common |= {"num_heads": 4, "head_dim": 8, "n_groups": 1, "state_size": 8, "chunk_size": 8}
        theirs = transformers.Mamba2ForCausalLM(transformers.Mamba2Config(**common | options))
        return randomised(theirs), from_mamba2(theirs)
    theirs = transformers.MambaForCausalLM(transformers.MambaConfig(**common | options))
    return randomised(theirs), from_mamba(theirs)


@pytest.fixture
def tokens():
    return torch.randint(VOCAB, (BATCH, SEQ_LEN), generator=torch.Generator().manual_seed(2))


def agree(found, expected):
    assert found.shape == expected.shape
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_forward(pair, tokens):
    theirs, ours = pair
    with torch.no_grad():
        agree(ours(tokens), theirs(tokens, use_cache=False).logits)
        agree(ours(tokens[:, :1]), theirs(tokens[:, :1], use_cache=False).logits)


def test_prefill_and_steps(pair, tokens):
    theirs, ours = pair
    cut = 23
    with torch.no_grad():
        expected = theirs(tokens[:, :cut], use_cache=True)
        found, state = ours.prefill(tokens[:, :cut])
        agree(found, expected.logits)
        for t in range(cut, SEQ_LEN):
            expected = theirs(tokens[:, t : t + 1], cache=expected.cache, use_cache=True)
            logits, state = ours.step(tokens[:, t], state)
            agree(logits, expected.logits[:, 0])


def test_float64(pair, tokens):
    theirs, ours = pair
    ours = ours.double()
    with torch.no_grad():
        agree(ours(tokens).float(), theirs(tokens, use_cache=False).logits)
        logits, state = ours.prefill(tokens)
    assert logits.dtype == torch.float64
    assert {x.dtype for layer in state.layers for x in layer.values()} == {torch.float64}


def test_what_ours_cannot_say_is_refused():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 1}
    with pytest.raises(ValueError, match="hidden_act must be 'silu', not 'gelu'"):
        from_mamba(transformers.MambaForCausalLM(transformers.MambaConfig(**config, hidden_act="gelu")))
    config |= {"num_heads": 4, "head_dim": 8, "n_groups": 1}
    model = transformers.Mamba2ForCausalLM(transformers.Mamba2Config(**config, time_step_limit=(0.0, 0.5)))
    with pytest.raises(ValueError, match=r"time_step_limit must be \(0, inf\), not \(0.0, 0.5\)"):
        from_mamba2(model)
