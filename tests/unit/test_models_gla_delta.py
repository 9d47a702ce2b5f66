"""GLA and GatedDelta: every option against the equations at the top of their files, states, initial weights, errors."""

import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ngram_copy.models import MIXERS, LanguageModel, LayerConfig, ModelConfig
from ngram_copy.models.gated_delta import GatedDelta
from ngram_copy.models.gla import GLA

D_MODEL, BATCH, SEQ_LEN = 12, 2, 70  # longer than a chunk of the torch backend

GLA_OPTIONS = {
    "plain": {},
    "sizes": {"head_dim": 5, "value_dim": 7, "gate_rank": 3, "gate_normalizer": 4.0},
    "conv": {"conv_size": 4, "conv_bias": True, "value_dim": 5},
    "one tap": {"conv_size": 1},
    "retnet": {"gate": "fixed", "head_dim": 6, "rope_base": 10_000.0},
    "fixed": {"gate": "fixed"},
    "linear": {"gate": "none"},
    "katharopoulos": {
        "gate": "none",
        "feature_map": "elu",
        "normalise": True,
        "output_norm": False,
        "output_gate": False,
    },
    "normalised gates": {"feature_map": "relu", "normalise": True, "conv_size": 3},
    "no norm": {"output_norm": False, "feature_map": "silu"},
    "no output gate": {"output_gate": False, "norm_eps": 1e-2},
    "torch": {"backend": "torch", "conv_size": 4},
}
DELTA_OPTIONS = {
    "plain": {},
    "shared heads": {"n_value_heads": 8, "head_dim": 5, "value_dim": 3},
    "kda": {"gate": "channel"},
    "kda, shared heads": {"gate": "channel", "n_value_heads": 8, "head_dim": 5, "value_dim": 3, "output_gate": "silu"},
    "deltanet": {"gate": "none"},
    "deltanet, gated output": {"gate": "none", "output_gate": "silu", "n_value_heads": 8},
    "no conv": {"conv_size": 0},
    "conv": {"conv_size": 2, "conv_bias": True, "output_gate": "none", "norm_eps": 1e-2},
    "negative": {"negative_eigenvalues": True, "output_gate": "sigmoid"},
    "torch": {"backend": "torch"},
    "rust": {"backend": "rust", "gate": "channel"},
}
CASES = [
    *(pytest.param(GLA, options, id=f"gla-{name}") for name, options in GLA_OPTIONS.items()),
    *(pytest.param(GatedDelta, options, id=f"delta-{name}") for name, options in DELTA_OPTIONS.items()),
]
every = pytest.mark.parametrize(("kind", "options"), CASES)


@pytest.fixture(autouse=True)
def _one_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def made(kind, options, dtype=torch.float64):
    """A mixer whose weights are all away from 0 and 1."""
    mixer = kind(D_MODEL, **options)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return mixer.to(dtype)


def inputs(seq_len=SEQ_LEN, dtype=torch.float64):
    return torch.randn(BATCH, seq_len, D_MODEL, dtype=dtype)


def close(found, expected, tolerance=1e-10):
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def all_close(found, expected):
    assert list(found) == list(expected)
    for name, value in found.items():
        close(value, expected[name])


# --- The equations, token by token ----------------------------------------------------------------------


def convolved(mixer, x):
    """q, k and v, (batch, seq_len, channels)."""
    x = x @ mixer.qkv.weight.T
    if mixer.conv is not None:
        kernel = mixer.conv.weight.shape[1]
        padded = functional.pad(x, (0, 0, kernel - 1, 0))
        y = sum(mixer.conv.weight[:, j] * padded[:, j : j + x.shape[1]] for j in range(kernel))
        x = functional.silu(y if mixer.conv.bias is None else y + mixer.conv.bias)
    elif isinstance(mixer, GatedDelta):
        x = functional.silu(x)
    return x.split(mixer.widths, dim=-1)


def through(maps, x):
    for one in maps if isinstance(maps, torch.nn.Sequential) else [maps]:
        x = x @ one.weight.T + (0 if one.bias is None else one.bias)
    return x


def normed(x, weight, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def finished(mixer, o, x, activation):
    """From o (batch, seq_len, heads, value_dim)."""
    if mixer.norm is not None:
        o = normed(o, mixer.norm.weight, mixer.norm.eps)
    o = o.reshape(*x.shape[:2], -1)
    if mixer.output_gate is not None:
        o = o * activation(through(mixer.output_gate, x))
    return o @ mixer.out.weight.T


def rotated(x, base):
    """RoPE by complex numbers; x is (batch, seq_len, heads, head_dim)."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1])[:, None] * base ** (-torch.arange(half) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat([turned.real, turned.imag], dim=-1)


FEATURES = {"none": lambda x: x, "elu": lambda x: functional.elu(x) + 1, "relu": torch.relu, "silu": functional.silu}


def gla(mixer, options, x):
    heads = mixer.n_heads
    q, k, v = (one.reshape(*x.shape[:2], heads, -1) for one in convolved(mixer, x))
    feature = FEATURES[options.get("feature_map", "none")]
    q, k = feature(q), feature(k)
    if "rope_base" in options:
        q, k = rotated(q, options["rope_base"]), rotated(k, options["rope_base"])
    gate = options.get("gate", "channel")
    if gate == "channel":
        root = 1 / options.get("gate_normalizer", 16.0)
        alpha = through(mixer.gate_logits, x).sigmoid().pow(root).reshape(k.shape)
    else:
        by_head = 1 - 2.0 ** (-5 - torch.arange(heads)) if gate == "fixed" else torch.ones(heads)
        alpha = by_head[:, None].expand_as(k)
    S, z, outputs = 0, 0, []
    for t in range(x.shape[1]):
        S = alpha[:, t, :, :, None] * S + k[:, t, :, :, None] * v[:, t, :, None, :]
        z = alpha[:, t] * z + k[:, t]
        o = torch.einsum("bhkv,bhk->bhv", S, q[:, t])
        if options.get("normalise", False):
            o = o / ((z * q[:, t]).sum(-1, keepdim=True) + 1e-6)
        else:
            o = o / mixer.head_dim**0.5
        outputs.append(o)
    return finished(mixer, torch.stack(outputs, dim=1), x, functional.silu)


def delta(mixer, options, x):
    ratio = mixer.n_value_heads // mixer.n_heads
    q, k, v = convolved(mixer, x)
    q, k = (one.reshape(*x.shape[:2], mixer.n_heads, -1).repeat_interleave(ratio, dim=2) for one in (q, k))
    q, k = (one / (one.square().sum(-1, keepdim=True) + 1e-6).sqrt() for one in (q, k))
    v = v.reshape(*x.shape[:2], mixer.n_value_heads, -1)
    beta = through(mixer.beta, x).sigmoid() * (2 if options.get("negative_eigenvalues") else 1)
    gate = options.get("gate", "head")
    alpha = torch.ones_like(k)
    if gate != "none":
        dt = functional.softplus(through(mixer.decay, x) + mixer.dt_bias).reshape(*x.shape[:2], mixer.n_value_heads, -1)
        alpha = (-mixer.A_log.exp()[:, None] * dt).exp().expand_as(k)
    S, outputs = torch.zeros(BATCH, mixer.n_value_heads, mixer.head_dim, mixer.value_dim, dtype=x.dtype), []
    for t in range(x.shape[1]):
        S = alpha[:, t, :, :, None] * S
        held = torch.einsum("bhkv,bhk->bhv", S, k[:, t])
        S = S + k[:, t, :, :, None] * (beta[:, t, :, None] * (v[:, t] - held))[:, :, None]
        outputs.append(torch.einsum("bhkv,bhk->bhv", S, q[:, t]) / mixer.head_dim**0.5)
    default = {"head": "silu", "channel": "sigmoid", "none": "none"}[gate]
    activation = {"silu": functional.silu, "sigmoid": torch.sigmoid, "none": None}[options.get("output_gate", default)]
    assert (activation is None) == (mixer.output_gate is None)
    return finished(mixer, torch.stack(outputs, dim=1), x, activation)


@every
def test_the_equations(kind, options):
    mixer, x = made(kind, options), inputs()
    expected = (gla if kind is GLA else delta)(mixer, options, x)
    # RoPE's angles are float32 in ours.
    close(mixer(x, mixer.initial_state(BATCH), 0)[0], expected, 1e-5 if "rope_base" in options else 1e-9)


# --- States ---------------------------------------------------------------------------------------------


@every
@torch.no_grad()
def test_parts_and_steps_make_a_whole(kind, options):
    mixer, x = made(kind, options), inputs()
    whole, last = mixer(x, mixer.initial_state(BATCH), 0)
    before = mixer.initial_state(BATCH)
    kept = {name: value.clone() for name, value in before.items()}
    first, middle = mixer(x[:, :40], before, 0)
    all_close(before, kept)
    second, end = mixer(x[:, 40:], middle, 40)
    close(torch.cat([first, second], dim=1), whole)
    all_close(end, last)
    state, outputs = middle, []
    for t in range(40, SEQ_LEN):
        y, state = mixer.step(x[:, t], state, t)
        outputs.append(y)
    close(torch.stack(outputs, dim=1), whole[:, 40:])
    all_close(state, last)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(CASES), st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(0, 99))
@torch.no_grad()
def test_any_cut(case, lengths, seed):
    torch.manual_seed(seed)
    kind, options = case.values
    mixer, x = made(kind, options), inputs(sum(lengths))
    whole, last = mixer(x, mixer.initial_state(BATCH), 0)
    state, position, outputs = mixer.initial_state(BATCH), 0, []
    for length in lengths:
        y, state = mixer(x[:, position : position + length], state, position)
        position += length
        outputs.append(y)
    close(torch.cat(outputs, dim=1), whole)
    all_close(state, last)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@torch.no_grad()
def test_a_state_has_the_size_of_its_formula_and_keeps_its_dtypes(kind, options, dtype):
    mixer = made(kind, options, dtype)
    state = mixer.initial_state(BATCH)
    kinds = {name: (value.shape, value.dtype) for name, value in state.items()}
    assert kinds["memory"][1] == (torch.float64 if dtype == torch.float64 else torch.float32)
    x = inputs(7, dtype)
    y, after = mixer(x, state, 0)
    one, last = mixer.step(x[:, 0], after, 7)
    assert (y.shape, y.dtype, one.shape, one.dtype) == (x.shape, dtype, x[:, 0].shape, dtype)
    for number, each in enumerate([state, after, last]):
        assert {name: (value.shape, value.dtype) for name, value in each.items()} == kinds
        assert sum(value[0].numel() for value in each.values()) == mixer.state_size(number)
        assert all(len(value) == BATCH for value in each.values())


@every
def test_gradients_reach_every_weight_and_no_later_token(kind, options):
    mixer, x = made(kind, options), inputs(9).requires_grad_()
    y, state = mixer(x, mixer.initial_state(BATCH), 0)
    (gradient,) = torch.autograd.grad(y[:, 4].square().sum(), x, retain_graph=True)
    assert bool(gradient[:, 5:].eq(0).all())
    assert bool(gradient[:, :5].ne(0).any(-1).all())
    (y.square().sum() + state["memory"].sum()).backward()
    for name, parameter in mixer.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.ne(0).any()), name


@every
def test_bfloat16_autocast_runs(kind, options):
    mixer, x = made(kind, options, torch.float32), inputs(9, torch.float32)
    expected, _ = mixer(x, mixer.initial_state(BATCH), 0)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = mixer(x, mixer.initial_state(BATCH), 0)
        mixer.step(x[:, 0], state, 9)
        y.float().square().sum().backward()
    assert float((y - expected).detach().norm() / expected.detach().norm()) < 0.05


# --- Initial weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gate", "least", "steps"), [("head", 0.0, 64), ("channel", 1.0, 64 * 4)])
def test_initial_rates(gate, least, steps):
    mixer = GatedDelta(32, n_heads=64, head_dim=4, gate=gate)
    rates, dt = mixer.A_log.detach().exp(), functional.softplus(mixer.dt_bias.detach())
    assert rates.shape == (64,)
    assert dt.shape == (steps,)
    assert least < float(rates.min()) < least + 2
    assert 14 < float(rates.max()) < 16.001
    assert 0.00099 < float(dt.min()) < 0.0015
    assert 0.07 < float(dt.max()) < 0.10001
    assert abs(float(dt.log10().mean()) + 2) < 0.25  # log-uniform around 0.01


def test_an_initial_gate_of_gla_keeps_most():
    mixer = GLA(32)
    gate = mixer._log_gate(torch.randn(100, 32)).exp().detach()
    assert gate.shape == (100, 4, 8)
    assert 0 < float(gate.min()) < float(gate.max()) < 1
    assert float(gate.mean()) > 0.93


# --- Options --------------------------------------------------------------------------------------------

REFUSED = [
    (GLA, {"n_heads": 0}, "n_heads must be at least 1, not 0"),
    (GLA, {"n_heads": 5}, "n_heads = 5 does not divide d_model = 12: give head_dim"),
    (GLA, {"head_dim": 0}, "head_dim must be at least 1, not 0"),
    (GLA, {"value_dim": -1}, "value_dim must be at least 1, not -1"),
    (GLA, {"gate": "head"}, "gate must be one of channel, fixed, none, not 'head'"),
    (GLA, {"gate_rank": 0}, "gate_rank must be at least 1, not 0"),
    (GLA, {"gate_normalizer": 0.0}, "gate_normalizer must be above 0, not 0.0"),
    (GLA, {"feature_map": "exp"}, "feature_map must be one of none, elu, relu, silu, not 'exp'"),
    (GLA, {"normalise": True}, "normalise needs a feature_map that is elu or relu, not 'none'"),
    (GLA, {"normalise": True, "feature_map": "elu", "rope_base": 10.0}, "normalise needs keys that are not rotated"),
    (GLA, {"rope_base": 10.0}, "RoPE rotates pairs: head_dim must be even, not 3"),
    (GLA, {"rope_base": 0.5}, r"rope_base must be 0 \(no rotation\) or above 1, not 0.5"),
    (GLA, {"conv_size": -1}, "conv_size must be at least 0, not -1"),
    (GLA, {"backend": "mamba_ssm"}, "backend must be one of auto, rust, torch, fla, not 'mamba_ssm'"),
    (GatedDelta, {"n_heads": 0}, "n_heads must be at least 1, not 0"),
    (GatedDelta, {"n_heads": 5}, "n_heads = 5 does not divide d_model = 12: give head_dim"),
    (GatedDelta, {"value_dim": 0}, "value_dim must be at least 1, not 0"),
    (GatedDelta, {"n_value_heads": 6}, "n_value_heads = 6 is not a multiple of n_heads = 4"),
    (GatedDelta, {"n_value_heads": 0}, "n_value_heads must be at least 1, not 0"),
    (GatedDelta, {"gate": "fixed"}, "gate must be one of head, channel, none, not 'fixed'"),
    (GatedDelta, {"output_gate": "relu"}, "output_gate must be one of silu, sigmoid, none, not 'relu'"),
    (GatedDelta, {"conv_size": -1}, "conv_size must be at least 0, not -1"),
    (GatedDelta, {"backend": "cuda"}, "backend must be one of auto, rust, torch, fla, not 'cuda'"),
]


@pytest.mark.parametrize(("kind", "options", "text"), REFUSED)
def test_what_is_refused(kind, options, text):
    with pytest.raises(ValueError, match=text):
        kind(D_MODEL, **options)


@every
@torch.no_grad()
def test_in_a_model(kind, options):
    assert MIXERS[kind.name] is kind
    config = ModelConfig(9, D_MODEL, (LayerConfig(kind.name, options, 16), LayerConfig("attention", {"n_heads": 2})))
    model = LanguageModel(ModelConfig.from_json(config.to_json())).double()
    tokens = torch.randint(9, (BATCH, 12))
    logits, state = model.prefill(tokens[:, :5])
    found = [logits]
    for t in range(5, 12):
        logits, state = model.step(tokens[:, t], state)
        found.append(logits[:, None])
    close(torch.cat(found, dim=1), model(tokens))
    assert sum(value[0].numel() for layer in state.layers for value in layer.values()) == model.state_size(12)
