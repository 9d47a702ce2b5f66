"""Weights of transformers' GPT-NeoX, Qwen3-Next and Kimi-Linear in our models: the same outputs to 1e-5."""

import inspect

import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from peers import transformers_module

from ngram_copy.models import LanguageModel
from ngram_copy.models.convert import fill, from_gpt_neox, gated_delta_from_qwen3_next
from ngram_copy.models.gated_delta import GatedDelta

BATCH, SEQ_LEN, CUT = 2, 70, 41
pytestmark = pytest.mark.filterwarnings("ignore")  # of the peer's imports


@pytest.fixture(autouse=True)
def _one_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def randomise(module):
    """Weights that leave nothing at its initial 0 or 1, and logits of a size that shows differences."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            spread = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.3
            parameter.copy_(spread * torch.randn(parameter.shape) + ("norm" in name and "weight" in name))
    return module.eval()


def agree(found, expected):
    assert found.shape == expected.shape
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


@torch.no_grad()
def in_two_parts(run, step, x, state):
    """Outputs of a prefill of CUT tokens, and of single steps from there."""
    first, state = run(x[:, :CUT], state)
    outputs = [first]
    for t in range(CUT, x.shape[1]):
        y, state = step(x[:, t], state)
        outputs.append(y[:, None])
    return torch.cat(outputs, dim=1)


# --- GPT-NeoX -------------------------------------------------------------------------------------------

GPT_NEOX = {
    "plain": {},
    "sequential": {"use_parallel_residual": False},
    "no biases": {"attention_bias": False},
    "tied": {"tie_word_embeddings": True},
    "all rotated": {"rotary_pct": 1.0, "rotary_emb_base": 500.0},
    "half rotated": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "none rotated": {"rotary_pct": 0.0},
    "gelu_fast": {"hidden_act": "gelu_fast", "layer_norm_eps": 1e-3},
    "gelu_new": {"hidden_act": "gelu_new"},
    "relu": {"hidden_act": "relu", "use_parallel_residual": False, "tie_word_embeddings": True},
    "silu": {"hidden_act": "silu", "hidden_dropout": 0.1},
}


def gpt_neox(**options):
    module = transformers_module("gpt_neox")
    config = module.GPTNeoXConfig(
        **{
            "vocab_size": 31,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 40,
            "max_position_embeddings": 128,
            "bos_token_id": 0,
            "eos_token_id": 1,
            **options,
        }
    )
    return randomise(module.GPTNeoXForCausalLM(config))


@pytest.mark.parametrize("options", GPT_NEOX.values(), ids=GPT_NEOX)
def test_gpt_neox(options):
    theirs = gpt_neox(**options)
    ours = from_gpt_neox(theirs)
    tokens = torch.randint(31, (BATCH, SEQ_LEN))
    with torch.no_grad():
        expected = theirs(tokens).logits
        agree(ours(tokens), expected)
    agree(in_two_parts(ours.prefill, ours.step, tokens, None), expected)
    assert ours.parameter_count() == sum(parameter.numel() for parameter in theirs.parameters())


def test_a_converted_gpt_neox_is_a_model_of_its_own():
    theirs = gpt_neox(tie_word_embeddings=True).double()
    numbers = torch.get_rng_state()
    ours = from_gpt_neox(theirs)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert ours.head.weight is ours.embedding.weight
    memory = {parameter.data_ptr() for parameter in theirs.parameters()}
    for parameter in ours.parameters():
        assert parameter.dtype == torch.float64
        assert parameter.requires_grad
        assert parameter.data_ptr() not in memory
    again = LanguageModel(type(ours.config).from_json(ours.config.to_json())).double()
    again.load_state_dict(ours.state_dict())
    tokens = torch.randint(31, (BATCH, 9))
    assert torch.equal(again(tokens), ours(tokens))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"hidden_act": "quick_gelu"}, "hidden_act must be one of gelu.*, not 'quick_gelu'"),
        ({"rotary_pct": 5 / 16}, "partial_rotary_factor must rotate an even number of coordinates, not 5 of 16"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "rope_type must be 'default', not 'linear'",
        ),
    ],
)
def test_what_a_gpt_neox_may_not_have(options, text):
    with pytest.raises(ValueError, match=text):
        from_gpt_neox(gpt_neox(**options))


def test_another_model_than_gpt_neox():
    with pytest.raises(TypeError, match="hf_model must be a GPTNeoXForCausalLM, not GPTNeoXModel"):
        from_gpt_neox(gpt_neox().gpt_neox)
    with pytest.raises(TypeError, match="hf_model must be a GPTNeoXForCausalLM, not Linear"):
        from_gpt_neox(torch.nn.Linear(2, 2))


# --- Delta rules ----------------------------------------------------------------------------------------

QWEN3_NEXT = {
    "shared heads": {},
    "own heads": {"linear_num_value_heads": 2},
    "long keys": {"linear_key_head_dim": 16, "linear_conv_kernel_dim": 2, "rms_norm_eps": 1e-3},
}


def own_torch_code(module, monkeypatch):
    """Where fla-core is installed, functions of these names are doors to its kernels: open them."""
    for name, function in vars(module).copy().items():
        if inspect.isfunction(function) and hasattr(function, "__wrapped__"):
            monkeypatch.setattr(module, name, inspect.unwrap(function))


def qwen3_next_layer(monkeypatch, **options):
    module = transformers_module("qwen3_next")
    own_torch_code(module, monkeypatch)
    config = module.Qwen3NextConfig(
        **{
            "hidden_size": 24,
            "num_hidden_layers": 1,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 6,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 12,
            "layer_types": ["linear_attention"],
            **options,
        }
    )
    return randomise(module.Qwen3NextGatedDeltaNet(config, 0)), config


def hold_against(theirs, config, ours):
    """Whole sequences, and a prefill with steps after it: theirs keep their state in a cache."""
    from transformers import DynamicCache

    x = torch.randn(BATCH, SEQ_LEN, config.hidden_size)
    with torch.no_grad():
        expected = theirs(x)
        agree(ours(x, ours.initial_state(BATCH), 0)[0], expected)
        cache = DynamicCache(config=config)
        first = theirs(x[:, :CUT], cache=cache)
        rest = [theirs(x[:, t : t + 1], cache=cache) for t in range(CUT, SEQ_LEN)]
    found = in_two_parts(
        lambda x, state: ours(x, state, 0), lambda x, state: ours.step(x, state, 0), x, ours.initial_state(BATCH)
    )
    agree(found, expected)
    agree(found, torch.cat([first, *rest], dim=1))


@pytest.mark.parametrize("options", QWEN3_NEXT.values(), ids=QWEN3_NEXT)
def test_gated_delta_of_qwen3_next(options, monkeypatch):
    theirs, config = qwen3_next_layer(monkeypatch, **options)
    ours = gated_delta_from_qwen3_next(theirs)
    hold_against(theirs, config, ours)
    assert sum(one.numel() for one in ours.parameters()) == sum(one.numel() for one in theirs.parameters())


def test_what_is_no_gated_delta_of_qwen3_next(monkeypatch):
    with pytest.raises(TypeError, match="hf_layer must be a Qwen3NextGatedDeltaNet, not Linear"):
        gated_delta_from_qwen3_next(torch.nn.Linear(2, 2))
    theirs, _ = qwen3_next_layer(monkeypatch, hidden_act="gelu")
    with pytest.raises(ValueError, match="activation must be 'silu', not 'gelu'"):
        gated_delta_from_qwen3_next(theirs)


def test_a_convolution_with_a_bias(monkeypatch):
    theirs, config = qwen3_next_layer(monkeypatch)
    theirs.conv1d.bias = torch.nn.Parameter(torch.randn(theirs.conv_dim))
    hold_against(theirs, config, gated_delta_from_qwen3_next(theirs))


def test_kimi_delta_attention_of_kimi_linear(monkeypatch):
    """There is no conversion of it; its weights are put where ours stand."""
    module = transformers_module("kimi_linear")
    own_torch_code(module, monkeypatch)
    config = module.KimiLinearConfig(
        hidden_size=20, num_hidden_layers=1, linear_num_heads=3, linear_head_dim=8, layer_types=["linear_attention"]
    )
    theirs = randomise(module.KimiLinearDeltaAttention(config, 0))
    weights = {
        "qkv.weight": torch.cat([theirs.q_proj.weight, theirs.k_proj.weight, theirs.v_proj.weight]),
        "conv.weight": theirs.conv1d.weight[:, 0],
        "beta.weight": theirs.b_proj.weight,
        "decay.0.weight": theirs.forget_gate.f_a_proj.weight,
        "decay.1.weight": theirs.forget_gate.f_b_proj.weight,
        "A_log": theirs.forget_gate.A_log.flatten(),
        "dt_bias": theirs.forget_gate.dt_bias,
        "output_gate.0.weight": theirs.g_a_proj.weight,
        "output_gate.1.weight": theirs.g_b_proj.weight,
        "norm.weight": theirs.o_norm.weight,
        "out.weight": theirs.o_proj.weight,
    }
    with torch.device("meta"):
        ours = GatedDelta(20, n_heads=3, head_dim=8, gate="channel", norm_eps=config.rms_norm_eps)
    hold_against(theirs, config, fill(ours, weights))
