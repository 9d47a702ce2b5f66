"""What holds for every model: one interface, causality, the size of its state, seeds, devices, bad options."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from models_cases import MODELS, ON_DEVICE, VOCAB

from ngram_copy.models import MIXERS, LanguageModel, LayerConfig, ModelConfig, State

BATCH, SEQ_LEN, PAD = 3, 21, 0
every = pytest.mark.parametrize("name", MODELS)
every_mixer = pytest.mark.parametrize("mixer", MIXERS)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def made(name, dtype=torch.float64, seed=0):
    """A model whose weights are all away from 0 and 1: a norm that is left out, or a bias, would be seen."""
    torch.manual_seed(seed)
    model = LanguageModel(MODELS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.to(dtype)


def tokens(*shape, seed=1):
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def states_close(found, expected, tolerance=1e-9):
    assert found.position == expected.position
    for one, other in zip(found.layers, expected.layers, strict=True):
        assert list(one) == list(other)
        for name in one:
            close(one[name], other[name], tolerance)


def mapped(state, function):
    layers = [{name: function(x) for name, x in layer.items()} for layer in state.layers]
    return State(state.position, layers)


# --- forward, prefill and step --------------------------------------------------------------------------


@every
@torch.no_grad()
def test_forward_is_prefill_and_steps(name):
    model, x = made(name), tokens(BATCH, SEQ_LEN)
    logits, state = model.prefill(x)
    assert logits.shape == (BATCH, SEQ_LEN, VOCAB)
    assert torch.equal(model(x), logits)

    @settings(max_examples=4)
    @given(st.lists(st.integers(0, SEQ_LEN), max_size=3).map(sorted), st.integers(0, SEQ_LEN))
    def any_cuts(cuts, steps_from):
        cuts = [cut for cut in cuts if cut <= steps_from] + [steps_from]
        found, at, position = [], None, 0
        for cut in cuts:
            part, at = model.prefill(x[:, position:cut], at)
            found.append(part)
            position = cut
        for t in range(steps_from, SEQ_LEN):
            one, at = model.step(x[:, t], at)
            found.append(one[:, None])
        close(torch.cat(found, dim=1), logits)
        states_close(at, state)

    any_cuts()


@every
@torch.no_grad()
def test_steps_from_nothing_in_float32(name):
    model, x = made(name, torch.float32), tokens(BATCH, SEQ_LEN)
    logits, state = model.prefill(x)
    at, found = model.initial_state(BATCH), []
    for t in range(SEQ_LEN):
        one, at = model.step(x[:, t], at)
        found.append(one)
    scale = float(logits.abs().max())
    close(torch.stack(found, dim=1) / scale, logits / scale, 1e-5)
    assert at.position == state.position == SEQ_LEN


@every
@torch.no_grad()
def test_no_tokens_and_one(name):
    model, x = made(name), tokens(BATCH, 4)
    nothing, state = model.prefill(x[:, :0])
    assert nothing.shape == (BATCH, 0, VOCAB)
    states_close(state, model.initial_state(BATCH))
    close(model(x[:, :1]), model(x)[:, :1])
    logits, _ = model.step(x[:, 0], state)
    close(logits, model(x)[:, 0])


@every
@torch.no_grad()
def test_a_state_stays_as_it_is(name):
    model, x = made(name), tokens(BATCH, 9)
    _, state = model.prefill(x)
    copy = mapped(state, torch.clone)
    first, after = model.prefill(x, state)
    kept = mapped(after, torch.clone)
    model.step(x[:, 0], state)
    states_close(state, copy, 0)
    again, _ = model.prefill(x, state)
    assert torch.equal(first, again)
    states_close(after, kept, 0)


@every
@torch.no_grad()
def test_rows_do_not_meet(name):
    model, x = made(name), tokens(BATCH, SEQ_LEN)
    logits, state = model.prefill(x)
    alone, own = model.prefill(x[1:2])
    close(logits[1:2], alone)
    states_close(mapped(state, lambda x: x[1:2]), own)
    close(model.step(x[:, 0], state)[0][1:2], model.step(x[1:2, 0], own)[0])


# --- Causality ------------------------------------------------------------------------------------------


@every
@torch.no_grad()
def test_a_later_token_never_changes_an_earlier_logit(name):
    model, x = made(name), tokens(BATCH, SEQ_LEN)
    logits = model(x)
    for cut in (1, 8, SEQ_LEN - 1):
        changed = torch.cat([x[:, :cut], (x[:, cut:] + 1) % VOCAB], dim=1)
        found = model(changed)
        close(found[:, :cut], logits[:, :cut], 1e-12)
        assert not torch.allclose(found[:, cut:], logits[:, cut:])


@every
@torch.no_grad()
def test_padding_on_the_right_changes_nothing_before_it(name):
    model, x = made(name), tokens(BATCH, SEQ_LEN)
    padded = torch.cat([x, torch.full((BATCH, 17), PAD)], dim=1)
    close(model(padded)[:, :SEQ_LEN], model(x), 1e-12)


@every
def test_earlier_tokens_have_gradients_and_later_ones_none(name):
    """The same through gradients: of the logits at t, by the embeddings."""
    model, x = made(name), tokens(1, 9)
    embedded = model.embedding(x).detach().requires_grad_()
    model.embedding.register_forward_hook(lambda *_: embedded)
    model(x)[0, 5].sum().backward()
    size = embedded.grad[0].norm(dim=-1)
    assert (size[6:] == 0).all()
    assert size[5] > 0


# --- The state ------------------------------------------------------------------------------------------


@every
@torch.no_grad()
def test_state_size_is_what_the_tensors_hold(name):
    model, x = made(name), tokens(BATCH, 40)
    for length in (0, 1, 2, 3, 5, 40):
        _, state = model.prefill(x[:, :length])
        layers = [sum(one[0].numel() for one in layer.values()) for layer in state.layers]
        assert layers == [mixer.state_size(length) for mixer in model.mixers()]
        assert model.state_size(length) == sum(layers)
    state = model.initial_state(BATCH)
    for t in range(4):
        _, state = model.step(x[:, t], state)
        assert sum(one[0].numel() for layer in state.layers for one in layer.values()) == model.state_size(t + 1)


@every
def test_only_a_cache_of_keys_grows(name):
    for mixer in made(name).mixers():
        if not mixer.grows:
            assert mixer.state_size(0) == mixer.state_size(1) == mixer.state_size(1000) > 0
        assert mixer.state_size(1000) >= mixer.state_size(999)


def test_windows_bound_the_cache():
    for name, limit in (("sliding", 2), ("grouped", 3), ("narrow", 0)):
        model = made(name)
        assert model.state_size(10**6) == model.state_size(limit)
    assert made("rope").state_size(10**6) == 10**6 * made("rope").state_size(1)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@torch.no_grad()
def test_dtypes_stay(name, dtype):
    """Logits have the model's, and a state has the same after no token, many, and one more."""
    model, x = made(name, dtype), tokens(BATCH, 5)
    expected = [{part: one.dtype for part, one in layer.items()} for layer in model.initial_state(BATCH).layers]
    logits, state = model.prefill(x)
    assert logits.dtype == dtype
    assert [{part: one.dtype for part, one in layer.items()} for layer in state.layers] == expected
    logits, state = model.step(x[:, 0], state)
    assert logits.dtype == dtype
    assert [{part: one.dtype for part, one in layer.items()} for layer in state.layers] == expected


@every
def test_states_carry_gradients(name):
    """Truncated backpropagation is a choice of the caller: what was read before has gradients through the state."""
    model, x = made(name), tokens(BATCH, 12)
    model(x)[:, 6:].square().sum().backward()
    expected = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    model.zero_grad()
    _, state = model.prefill(x[:, :6])
    logits, _ = model.prefill(x[:, 6:], state)
    logits.square().sum().backward()
    for key, parameter in model.named_parameters():
        close(parameter.grad, expected[key], 1e-8)


# --- Weights and devices --------------------------------------------------------------------------------


@every
def test_a_seed_is_a_model(name):
    def weights(seed):
        torch.manual_seed(seed)
        return LanguageModel(MODELS[name]).state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every
def test_first_weights_are_sane(name):
    """Logits of an untrained model are neither huge nor all the same, and gradients reach every weight."""
    torch.manual_seed(0)
    model, x = LanguageModel(MODELS[name]), tokens(8, 30)
    logits = model(x)
    assert 0.05 < float(logits.detach().std()) < 10
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), x[:, 1:].flatten()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        nothing_to_choose = name == "narrow" and ("query" in key or "key" in key)  # a head that sees one token
        assert (parameter.grad != 0).any() or nothing_to_choose, key


@pytest.mark.parametrize("mixer", ["mamba", "mamba2"])
def test_step_sizes_are_log_uniform_at_first(mixer):
    torch.manual_seed(0)
    one = MIXERS[mixer](1024, dt_min=0.01, dt_max=0.2, **({"head_dim": 1, "d_state": 1} if mixer == "mamba2" else {}))
    bias = one.dt_proj.bias if mixer == "mamba" else one.dt_bias
    dt = torch.nn.functional.softplus(bias.detach()).log()
    low, high = torch.tensor([0.01, 0.2]).log()
    assert float(dt.min()) >= low - 1e-4
    assert float(dt.max()) <= high + 1e-4
    share = (dt - low) / (high - low)
    for q in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert float(share.quantile(q)) == pytest.approx(q, abs=0.03)
    rates = one.A_log.detach().exp()
    if mixer == "mamba":
        close(rates, torch.arange(1.0, 17).expand_as(rates), 1e-5)
    else:
        assert 1 <= float(rates.min()) < 1.1
        assert 15.9 < float(rates.max()) <= 16


def test_on_a_fake_device():
    """Forward, backward, AdamW and reading on find no tensor of the CPU, in a process of its own."""
    script = Path(__file__).parent.parent / "support" / "models_on_fake_device.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == [*ON_DEVICE, "found"], done.stdout + done.stderr[-2000:]


@every
@torch.no_grad()
def test_a_step_says_what_a_prefill_of_one_says_under_autocast(name):
    model, x = made(name, torch.float32), tokens(BATCH, 6)
    with torch.autocast("cpu", torch.bfloat16):
        logits, state = model.prefill(x[:, :5])
        one, _ = model.step(x[:, 5], state)
        expected = model(x)[:, 5]
    assert torch.isfinite(logits).all()
    scale = float(expected.abs().max())
    close(one.float() / scale, expected.float() / scale, 0.05)


# --- Bad input ------------------------------------------------------------------------------------------


def config(mixer, d_model=16, max_positions=0, **options):
    return ModelConfig(VOCAB, d_model, [LayerConfig(mixer, options)], max_positions=max_positions)


BAD = {
    "mixer": (config("mumba"), "unknown mixer 'mumba'; there are: attention, mamba, "),
    "heads": (config("attention", n_heads=3), "n_heads = 3 does not divide d_model = 16: give head_dim"),
    "no-heads": (config("attention", n_heads=0), "n_heads must be at least 1, not 0"),
    "kv-heads": (config("attention", n_kv_heads=3), "n_kv_heads = 3 does not divide n_heads = 4"),
    "rope": (config("attention", head_dim=3), "RoPE rotates pairs: rope_dim must be even and in 2 … 3, not 3"),
    "rope-wide": (config("attention", rope_dim=6), "rope_dim must be even and in 2 … 4, not 6"),
    "positions": (config("attention", positions="abs"), "positions must be one of none, rope, alibi, hard-alibi, not"),
    "windows": (config("attention", windows=[1, 2]), "windows must be 4 numbers, one a head, 0 or more; not [1, 2]"),
    "log-scale": (config("attention", log_scale=0.5), "log_scale must be 0 (none) or above 1, not 0.5"),
    "d_state": (config("mamba", d_state=0), "d_state must be at least 1, not 0"),
    "dt": (config("mamba", dt_min=0.2), "0 < dt_min <= dt_max and 0 < dt_init_floor are needed, not 0.2, 0.1"),
    "backend": (config("mamba", backend="fla"), "backend must be one of auto, rust, torch, mamba_ssm, not 'fla'"),
    "head_dim": (config("mamba2"), "head_dim = 64 does not divide expand · d_model = 32"),
    "groups": (config("mamba2", head_dim=8, n_groups=3), "n_groups = 3 does not divide the number of heads, 4"),
    "range": (config("mamba2", head_dim=8, A_init_range=[3, 2]), "A_init_range must be two positive numbers, the"),
    "d_hidden": (config("gru", d_hidden=0), "d_hidden must be at least 1, not 0"),
}


@pytest.mark.parametrize(("bad", "text"), BAD.values(), ids=BAD)
def test_bad_options_are_refused_in_one_line(bad, text):
    with pytest.raises(ValueError) as error:  # noqa: PT011  # its text is compared below
        LanguageModel(bad)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


@every_mixer
def test_an_unknown_option_is_named(mixer):
    with pytest.raises(ValueError, match=f"mixer {mixer}: .*d_sate"):
        LanguageModel(config(mixer, d_sate=3))


def test_a_sequence_beyond_the_learned_positions():
    model = made("learned")
    text = "the table of learned positions ends at 64: a sequence of 65 tokens is too long"
    with pytest.raises(ValueError, match=text):
        model(tokens(1, 65))
    _, state = model.prefill(tokens(1, 64))
    with pytest.raises(ValueError, match=text):
        model.step(tokens(1), state)


@pytest.mark.parametrize("mixer", ["mamba", "mamba2"])
def test_backends_that_are_not_here_say_so(mixer):
    """A backend that is asked for by name and cannot run is an error of the first call, never another backend."""
    torch.manual_seed(0)
    model = LanguageModel(config(mixer, backend="mamba_ssm", **({"head_dim": 8} if mixer == "mamba2" else {})))
    with pytest.raises(ValueError, match=r"backend='mamba_ssm' cannot run .*: it runs on CUDA, not on cpu"):
        model(tokens(1, 3))


@every
@torch.no_grad()
def test_the_last_logits_are_those_of_all(name):
    model, x = made(name), tokens(BATCH, SEQ_LEN)
    logits, state = model.prefill(x)
    _, at = model.prefill(x[:, :5])
    for last in (0, 1, SEQ_LEN - 5):
        part, after = model.prefill(x[:, 5:], at, last=last)
        close(part, logits[:, SEQ_LEN - last :])
        states_close(after, state)
        close(model(x, last=last), logits[:, SEQ_LEN - last :])
    with pytest.raises(ValueError, match=f"last must be 0 … {SEQ_LEN}"):
        model(x, last=SEQ_LEN + 1)
