"""Recurrences against the functions of transformers and the naive modules of fla-core: 1e-5 relative in float32."""

import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from peers import fla_naive, transformers_function, transformers_module

from ngram_copy.models import ops
from ngram_copy.models.ops import rust

BATCH, SEQ_LEN = 2, 128
pytestmark = pytest.mark.filterwarnings("ignore")  # of the peers' imports


@pytest.fixture(params=["torch", "rust"])
def backend(request):
    return request.param


@pytest.fixture
def generator():
    torch.set_num_threads(1)
    return torch.Generator().manual_seed(0)


def run(function, *args, backend, **kwargs):
    return getattr(ops, function)(*args, backend=backend if rust.has(function) else "torch", **kwargs)


def agree(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert float((one - other).norm() / other.norm()) < 1e-5
        assert float((one - other).abs().max() / other.abs().max()) < 1e-5


@pytest.fixture
def mamba(generator):
    d_model, d_state = 8, 4

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    u, delta, z = (randn(BATCH, d_model, SEQ_LEN) for _ in range(3))
    B, C = (randn(BATCH, d_state, SEQ_LEN) for _ in range(2))
    A = -torch.rand(d_model, d_state, generator=generator) - 0.5
    return {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": randn(d_model), "z": z, "delta_bias": randn(d_model)}


def test_selective_scan_of_transformers(mamba, backend):
    theirs = transformers_function("mamba", "mamba_selective_scan")
    u, delta, A, B, C, D, z, bias = mamba.values()
    expected = theirs(u, delta, A, B, C, D, z, bias, True, return_last_state=True)
    agree(run("selective_scan", u, delta, A, B, C, D, z, bias, True, backend=backend), expected)


def test_selective_state_update_of_transformers(mamba, backend, generator):
    theirs = transformers_function("mamba", "mamba_selective_state_update")
    u, delta, A, B, C, D, z, bias = mamba.values()
    state = torch.randn(BATCH, *A.shape, generator=generator)
    at = [one[..., 5] for one in (u, delta)], [one[..., 5] for one in (B, C)]
    written = state.clone()
    expected = theirs(written, *at[0], A, *at[1], D, bias, True, z[..., 5])
    found = run("selective_state_update", state, *at[0], A, *at[1], D, z[..., 5], bias, True, backend=backend)
    agree(found, (expected, written))


def test_mamba2_of_transformers(backend, generator):
    theirs = transformers_function("mamba2", "mamba2_chunk_scan")
    heads, width, groups, d_state = 4, 8, 2, 6
    x = torch.randn(BATCH, SEQ_LEN, heads, width, generator=generator)
    dt = torch.randn(BATCH, SEQ_LEN, heads, generator=generator)
    B, C = (torch.randn(BATCH, SEQ_LEN, groups, d_state, generator=generator) for _ in range(2))
    A, D, bias = -torch.rand(heads, generator=generator), torch.ones(heads), torch.randn(heads, generator=generator)
    state = torch.randn(BATCH, heads, width, d_state, generator=generator)
    options = {"D": D, "dt_bias": bias, "dt_softplus": True}
    expected = theirs(x, dt, A, B, C, 32, initial_states=state, return_final_states=True, **options)
    agree(run("mamba2_scan", x, dt, A, B, C, initial_state=state, backend=backend, **options), expected)


@pytest.fixture
def heads(generator):
    q, k, v = (torch.randn(BATCH, SEQ_LEN, 3, 16, generator=generator) for _ in range(3))
    g = -torch.rand(BATCH, SEQ_LEN, 3, 16, generator=generator)
    beta = torch.rand(BATCH, SEQ_LEN, 3, generator=generator)
    state = torch.randn(BATCH, 3, 16, 16, generator=generator)
    return q, ops.l2_normalise(k), v, g, beta, state


@pytest.mark.parametrize("form", ["recurrent", "chunk"])
def test_gated_delta_rule_of_transformers(form, heads, backend):
    theirs = transformers_function("qwen3_next", f"torch_{form}_gated_delta_rule")
    q, k, v, g, beta, state = heads
    options = {"initial_state": state, "output_final_state": True, "use_qk_l2norm_in_kernel": True}
    expected = theirs(q, k, v, g=g[..., 0], beta=beta, **options)
    given = (ops.l2_normalise(q), ops.l2_normalise(k), v, g[..., 0], beta)
    agree(run("gated_delta_rule", *given, initial_state=state, backend=backend), expected)


def test_gla_of_fla(heads, backend):
    q, k, v, g, _, state = heads
    expected = fla_naive("gla").naive_recurrent_gla(q, k, v, g, state, True)
    agree(run("gated_linear_attention", q, k, v, g, initial_state=state, backend=backend), expected)


def test_simple_gla_of_fla(heads, backend):
    q, k, v, g, _, state = heads
    expected = fla_naive("simple_gla").naive_recurrent_simple_gla(
        q, k, v, g[..., 0], initial_state=state, output_final_state=True
    )
    agree(run("gated_linear_attention", q, k, v, g[..., 0], initial_state=state, backend=backend), expected)


def test_retention_of_fla(heads, backend):
    q, k, v, *_ = heads
    expected = fla_naive("retention").naive_retention(*(one.transpose(1, 2) for one in (q, k, v))).transpose(1, 2)
    agree(run("retention", q, k, v, backend=backend)[:1], (expected,))


def test_delta_rule_of_fla(heads, backend):
    q, k, v, _, beta, state = heads
    transposed = [one.transpose(1, 2) for one in (q, k, v, beta)]
    o, last = fla_naive("delta_rule").delta_rule_recurrence(*transposed, state, True)
    agree(run("delta_rule", q, k, v, beta, initial_state=state, backend=backend), (o.transpose(1, 2), last))


def test_gated_delta_rule_of_fla(heads, backend):
    q, k, v, g, beta, state = heads
    theirs = fla_naive("gated_delta_rule")
    found = run("gated_delta_rule", q, k, v, g[..., 0], beta, initial_state=state, backend=backend)
    options = {"initial_state": state, "output_final_state": True}
    agree(found, theirs.naive_recurrent_gated_delta_rule(q, k, v, beta, g[..., 0], **options))
    agree(found, theirs.naive_chunk_gated_delta_rule(q, k, v, g[..., 0], beta, **options))


def test_kimi_delta_attention_of_fla(heads, backend):
    q, k, v, g, beta, state = heads
    theirs = fla_naive("kda")
    found = run("kimi_delta_attention", q, k, v, g, beta, initial_state=state, backend=backend)
    options = {"initial_state": state, "output_final_state": True}
    agree(found, theirs.naive_recurrent_kda(q, k, v, g, beta, **options))
    agree(found, theirs.naive_chunk_kda(q, k, v, g, beta, **options))


def test_rg_lru_of_transformers(backend, generator):
    """recurrent_gemma's layer, whose gates are computed from its input: here they are read off it."""
    module = transformers_module("recurrent_gemma")
    config = module.RecurrentGemmaConfig(hidden_size=16, num_attention_heads=2, lru_width=16)
    layer = module.RecurrentGemmaRglru(config)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        x = torch.randn(BATCH, SEQ_LEN, 16, generator=generator)
        positions = torch.arange(SEQ_LEN).expand(BATCH, -1)
        expected = layer(x, positions)
        by_head = x.reshape(-1, 2, 8).permute(1, 0, 2)

        def gate(weight, bias):
            y = torch.baddbmm(bias[:, None], by_head, weight)
            return y.permute(1, 0, 2).reshape(x.shape).sigmoid()

        gate_i = gate(layer.input_gate_weight, layer.input_gate_bias)
        gate_r = gate(layer.recurrent_gate_weight, layer.recurrent_gate_bias)
    resets = positions == 0
    h, _ = run("rg_lru", x, gate_r, gate_i, layer.recurrent_param.detach(), resets=resets, backend=backend)
    agree((h,), (expected,))
