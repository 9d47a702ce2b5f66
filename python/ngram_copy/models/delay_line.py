"""A state space model that copies by construction: a delay line, whose modes are roots of unity.

Nothing is learned. With a state h of P/2 complex modes a channel,

    h_k ← λ_k h_k + u          λ_k = exp(πi (2k + 1) / P),  k = 0 … P/2 - 1
    2 Re Σ_k λ_k^{-L} h_k / P

is the input of L steps before: an input s steps old contributes Σ λ_k^{s - L} / P over all odd 2P-th roots of unity
(the conjugates are the other half), which is 1 at s = L, -1 at s = L ± P, and 0 at all other s up to then. P is the
even one of L + 1 and L + 2, and the state P real numbers a channel. (The P-th roots of unity would do as well, but two
of them are real, and half of each of these modes would be kept for nothing.)

A token is the m = ⌈log2 D⌉ bits of its number, each ±1, one a channel. Reading ``<copy>`` after ``<bos> x_1 … x_L``
brings x_1 out; each token that is fed back brings out the next, and what is fed back comes out too late to matter.
After the last, ``<copy>`` itself comes out: its mark, 3 in each channel, is no nearer to a token than tokens are to one
another, and means the end. All other special tokens are 0.

A copy is a matter of memory alone, so the state can be rounded at the cut: the fewest bits of a number that still copy
are how well this machine uses its state.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ngram_copy.models.base import LanguageModel, LayerConfig, ModelConfig, State
from ngram_copy.models.parts import require_at_least, require_memory
from ngram_copy.models.s4d import S4D
from ngram_copy.models.state import Codec

MARK = 3.0
"""What ``<copy>`` writes into each channel."""
SHARPEST = 40.0
"""Largest inverse variance of the noise that the head counts with: even at D = 2 a token of an exact state has a
probability above 1 - 1e-6."""
_NEVER = -1e4
"""Logit of what is never emitted."""
_FITTED = 1024
"""Strings that a codec is fitted on."""
_ROUNDS = 20
"""Of Lloyd's algorithm: the numbers of the state are sums of many, so bell-shaped."""


@dataclass(frozen=True)
class CopySSM:
    """A delay line, and what rounds its state at the cut.

    Attributes
    ----------
    model : LanguageModel
        Of D + 4 tokens: D data tokens, then bos, copy, eos and pad.
    codec : Codec or None
        None: the state stays as it is.
    """

    model: LanguageModel
    codec: Codec | None = None

    def rounded(self, bits: int, state: State) -> CopySSM:
        """The same model with a state of ``bits`` bits a number, and a head that knows of the noise which that makes.

        Parameters
        ----------
        bits : int
            1 … 16.
        state : State
            Before ``<copy>``, after other strings than those that will be copied; a row for each.
        """
        codec = Codec(self.model, bits, state, rounds=_ROUNDS)
        (before,), (after,) = ([layer["modes"] for layer in one.layers] for one in (state, codec(state)))
        # What comes out at P successive steps is an orthogonal map of the state times √(2 / P): so is the noise.
        noise = float((after - before).square().mean()) * 2 / _mixer(self.model).d_state
        return CopySSM(_with_head(self.model, 1 / max(noise, 1 / SHARPEST)), codec)

    def copies(self, strings: Tensor) -> Tensor:
        """Which strings (batch, length) come out exactly, their ends too; bool (batch).

        Each is read teacher-forced: the greedy model emits all of a string exactly when it predicts each token of it.
        """
        size = self.model.config.vocab_size - 4
        bos, mark, eos = (torch.full((len(strings), 1), size + place) for place in range(3))
        with torch.inference_mode():
            _, state = self.model.prefill(torch.cat([bos, strings], 1))
            logits, _ = self.model.prefill(
                torch.cat([mark, strings], 1), state if self.codec is None else self.codec(state)
            )
        right: Tensor = (logits.argmax(-1) == torch.cat([strings, eos], 1)).all(1)
        return right


def copy_ssm(length: int, vocab_size: int, bits: int | None = None) -> CopySSM:
    """Make the delay line that copies strings of one length.

    Parameters
    ----------
    length : int
        L, of every string.
    vocab_size : int
        D, the number of data tokens.
    bits : int, optional
        Of each number of the state at the cut, 1 … 16, by a codec that is fitted on random strings; by default the
        state stays in float32.

    Returns
    -------
    CopySSM

    Raises
    ------
    ValueError
        If the length is not positive, there are fewer than two tokens, bits is out of range, or there is not so much
        memory.
    """
    require_at_least(1, length=length)
    require_at_least(2, vocab_size=vocab_size)
    channels = (vocab_size - 1).bit_length()
    period = length + 1 + (length + 1) % 2
    layer = LayerConfig("s4d", {"d_state": period, "output": "linear"})
    config = ModelConfig(vocab_size + 4, channels, [layer], norm="none", head_bias=True)
    _check_memory(length, vocab_size, config, bits)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # all weights are set below
        model = LanguageModel(config).eval()
    model.to_empty(device="cpu")
    with torch.no_grad():
        _set_mixer(_mixer(model), length)
        model.embedding.weight.zero_()
        model.embedding.weight[:vocab_size] = _bits_of(torch.arange(vocab_size), channels)
        model.embedding.weight[vocab_size + 1] = MARK
    exact = CopySSM(_with_head(model, SHARPEST))
    return exact if bits is None else exact.rounded(bits, _fit_states(exact.model, length))


def fewest_bits(length: int, vocab_size: int, strings: int = 1000, seed: int = 1) -> int | None:
    """Search the fewest bits of a number of the state at which all of many random strings are copied exactly.

    Parameters
    ----------
    length, vocab_size : int
        As ``copy_ssm``.
    strings : int
    seed : int
        Of the strings; the codecs are fitted on those of seed 0.

    Returns
    -------
    int or None
        1 … 16; None: even 16 are too few.

    Raises
    ------
    ValueError
        As ``copy_ssm``.
    """
    require_at_least(1, strings=strings)
    exact = copy_ssm(length, vocab_size)
    fitted = _fit_states(exact.model, length)
    tested = random_strings(strings, length, vocab_size, seed=seed)
    return next((bits for bits in range(1, 17) if bool(exact.rounded(bits, fitted).copies(tested).all())), None)


def random_strings(count: int, length: int, vocab_size: int, *, seed: int) -> Tensor:
    """Uniform strings of data tokens, (count, length)."""
    return torch.randint(vocab_size, (count, length), generator=torch.Generator().manual_seed(seed))


def read(model: LanguageModel, strings: Tensor) -> State:
    """The state after ``<bos>`` and each string (batch, length)."""
    bos = torch.full((len(strings), 1), model.config.vocab_size - 4)
    with torch.inference_mode():
        return model.prefill(torch.cat([bos, strings], 1))[1]


def _fit_states(model: LanguageModel, length: int) -> State:
    """What a codec is fitted on."""
    return read(model, random_strings(_FITTED, length, model.config.vocab_size - 4, seed=0))


def _check_memory(length: int, vocab_size: int, config: ModelConfig, bits: int | None) -> None:
    """Two copies of the weights, in float32; and the states of all strings that a codec is fitted on, five times."""
    state = config.d_model * config.layers[0].options["d_state"]
    weights = 3 * state + (2 * config.vocab_size + config.d_model) * config.d_model
    states = 0 if bits is None else 5 * _FITTED * state
    require_memory(4 * (2 * weights + states), f"a delay line of length = {length} and vocab_size = {vocab_size}")


# --- Weights --------------------------------------------------------------------------------------------


def _bits_of(tokens: Tensor, channels: int) -> Tensor:
    """(…, channels) of ±1."""
    return 2.0 * (tokens[..., None] >> torch.arange(channels) & 1) - 1


def _mixer(model: LanguageModel) -> S4D:
    (mixer,) = model.mixers()
    assert isinstance(mixer, S4D)
    return mixer


def _set_mixer(mixer: S4D, length: int) -> None:
    """The output of each channel is its input of ``length`` steps before, less the present one."""
    period = mixer.d_state
    mixer.A_log.fill_(-math.inf)  # nothing is forgotten
    mixer.A_imag.copy_(math.pi / period * (2 * torch.arange(period // 2) + 1.0))
    mixer.log_dt.zero_()
    # From the rates as they were rounded, so that no error of a phase adds up over the steps of a delay.
    rates = 1j * mixer.A_imag.double()
    mixer.B.copy_(torch.view_as_real(rates / torch.expm1(rates)))  # undoes the zero-order hold
    mixer.C.copy_(torch.view_as_real((-length * rates).exp() / period))
    mixer.D.fill_(-1)  # takes back what the residual adds: what the head sees is the delayed input alone
    mixer.out_proj.weight.copy_(torch.eye(mixer.d_model))


def _with_head(model: LanguageModel, sharpness: float) -> LanguageModel:
    """The same model with a head that is Bayes' rule: a channel holds what came out and noise of variance 1/sharpness.

    The logit of a token that is written as v is the log-density of what came out, o, where v came in, less what is the
    same for all: sharpness · (v · o - |v|²/2).
    """
    other = copy.deepcopy(model)
    size = model.config.vocab_size - 4
    said = [*range(size), size + 2]  # eos where the mark of <copy> comes out
    with torch.no_grad():
        written = other.embedding.weight[[*range(size), size + 1]]
        other.head.weight.zero_()
        other.head.bias.fill_(_NEVER)
        other.head.weight[said] = sharpness * written
        other.head.bias[said] = -sharpness / 2 * written.square().sum(-1)
    return other
