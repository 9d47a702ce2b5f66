"""S4D: the convolution that it is, its first weights, what it refuses."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from ngram_copy.models.s4d import S4D

D_MODEL = 6


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def kernel(mixer, length):
    """The paper's: K_l = 2 Re Σ_n C_n B_n (exp(ΔA_n) - 1)/A_n · exp(ΔA_n)^l, (d_model, length)."""
    weights = {name: weight.detach().double().numpy() for name, weight in mixer.named_parameters()}
    A = -np.exp(weights["A_log"]) + 1j * weights["A_imag"]
    B, C = ((weights[name] @ [1, 1j]) for name in "BC")
    step = np.exp(weights["log_dt"])[:, None] * A
    terms = C * B * (np.exp(step) - 1) / A
    return 2 * np.einsum("dn,dnl->dl", terms, np.exp(step[..., None] * np.arange(length))).real


@pytest.mark.parametrize("output", ["glu", "linear"])
@pytest.mark.parametrize("backend", ["rust", "torch"])
@torch.no_grad()
def test_it_is_the_papers_convolution(output, backend):
    torch.manual_seed(0)
    mixer = S4D(D_MODEL, d_state=10, dt_min=0.05, dt_max=0.5, output=output, backend=backend).double()
    for weight in mixer.parameters():
        weight.add_(torch.randn_like(weight), alpha=0.1)
    x = torch.randn(3, 40, D_MODEL, dtype=torch.float64)
    found, _ = mixer(x, mixer.initial_state(3), 0)
    responses = kernel(mixer, 40)
    y = np.stack([[np.convolve(row[:, d], responses[d])[:40] for d in range(D_MODEL)] for row in x.numpy()])
    y = torch.from_numpy(y).mT + mixer.D * x
    projected = mixer.out_proj(torch.nn.functional.gelu(y) if output == "glu" else y)
    if output == "glu":
        value, gate = projected.chunk(2, dim=-1)
        projected = value * gate.sigmoid()
    torch.testing.assert_close(found, projected, rtol=1e-9, atol=1e-9)


def test_first_weights_are_those_of_s4d_lin():
    torch.manual_seed(0)
    mixer = S4D(1000, d_state=8, dt_min=0.01, dt_max=0.2)
    assert torch.equal(mixer.A_log.exp(), torch.full((1000, 4), 0.5))
    torch.testing.assert_close(mixer.A_imag[7], math.pi * torch.arange(4.0))
    assert torch.equal(mixer.B[..., 0], torch.ones(1000, 4))
    assert not mixer.B[..., 1].any()
    assert float(mixer.C.detach().square().sum(-1).mean()) == pytest.approx(1, abs=0.1)
    share = (mixer.log_dt.detach() - math.log(0.01)) / math.log(20)
    assert float(share.min()) >= -1e-6
    assert float(share.max()) <= 1 + 1e-6
    for q in (0.1, 0.5, 0.9):
        assert float(share.quantile(q)) == pytest.approx(q, abs=0.05)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"d_state": 0}, "d_state must be at least 1, not 0"),
        ({"d_state": 7}, "d_state must be even, two numbers for each mode, not 7"),
        ({"dt_min": 0.2}, "0 < dt_min <= dt_max is needed, not 0.2 and 0.1"),
        ({"output": "gelu"}, "output must be one of glu, linear, not 'gelu'"),
        ({"backend": "fla"}, "backend must be one of auto, rust, torch, not 'fla'"),
    ],
)
def test_what_is_refused(options, text):
    with pytest.raises(ValueError, match=text):
        S4D(D_MODEL, **options)
