"""What an answer is worth: exact match, bits recalled, classes of errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ngram_copy.engines.base import Prediction


Tokens = NDArray[np.int64]


class Match(NamedTuple):
    """What was right.

    Attributes
    ----------
    strings : ndarray of bool, shape (batch,)
        Whether the whole answer was.
    tokens : ndarray of int64, shape (batch,)
        How many tokens of it were.
    """

    strings: NDArray[np.bool_]
    tokens: Tokens


def exact_match(tokens: Tokens, answers: Tokens) -> Match:
    """Compare teacher-forced predictions with answers.

    Parameters
    ----------
    tokens : ndarray of int64, shape (batch, answer_len)
        Predictions, -1: none. What stands beyond an answer's end does not count.
    answers : ndarray of int64, shape (batch, answer_len)
        Filled with -1 on the right. An empty answer is right.

    Raises
    ------
    ValueError
        If the shapes differ or have not two dimensions.
    """
    _same_shape(tokens, answers)
    used = answers >= 0
    right = tokens == answers
    return Match((right | ~used).all(axis=1), (right & used).sum(axis=1))


def _same_shape(values: NDArray[Any], answers: Tokens) -> None:
    if values.shape != answers.shape or answers.ndim != 2:
        raise ValueError(
            f"tokens, log2_p and answers must be of one shape (batch, answer_len), not {values.shape}, {answers.shape}"
        )


@dataclass(frozen=True)
class Smoothing:
    """Probabilities for engines that emit hard tokens.

    Where an engine emits the token ŷ at position t of the answer, ``q(y) = (1 - ε_t)·[y = ŷ] + ε_t·p(y | past)``: it is
    believed but for a share ε_t, which falls back on the source, as all does where it emits none. So silence recalls
    nothing, and a slip costs log2 1/ε_t bits.

    Fitted on other strings than those scored, this is a predictor in its own right: given the state, its probabilities
    sum to 1, so that E[B] <= b holds for it, the p-values of ``bits_recalled_p_value`` are valid, and the mean of B
    estimates its E[B] without bias. As an estimate of what the state holds it errs downwards: an ε_t fitted on N
    strings costs about 1/(2N·ln 2) bits a position, and one ε_t covers strings in which the engine is certain and
    others in which it guesses. Fitted on the strings scored it would err upwards by about the same: do not.

    Attributes
    ----------
    error : ndarray of float64, shape (answer_len,)
        ε_t.
    pooled : float
        ε over all positions: used where the strings of the fit had no prediction, or no such position.
    """

    error: NDArray[np.float64]
    pooled: float

    @classmethod
    def fit(cls, tokens: Tokens, answers: Tokens, log2_p: NDArray[np.float64]) -> Smoothing:
        """Fit ``ε_t = (errors + 1/2)/(predictions + 1)/(1 - p̄_t)``, at most 1, at each position.

        p̄_t is the mean probability of the tokens there: what a guess would hit anyway.

        Parameters
        ----------
        tokens, answers : ndarray of int64, shape (strings, answer_len)
            Predictions (-1: none) and answers (filled with -1) of strings that will not be scored: the split "fit".
        log2_p : ndarray of float64, shape (strings, answer_len)
            Of the answers' tokens under their source.

        Raises
        ------
        ValueError
            If the shapes differ.
        """
        _same_shape(tokens, answers)
        _same_shape(log2_p, answers)
        predicted = (tokens >= 0) & (answers >= 0)
        predictions = predicted.sum(axis=0)
        errors = (predicted & (tokens != answers)).sum(axis=0)
        chance = np.where(predicted, np.exp2(log2_p), 0.0).sum(axis=0)
        pooled = float(_error(errors.sum(), predictions.sum(), chance.sum()))
        return cls(np.where(predictions > 0, _error(errors, predictions, chance), pooled), pooled)

    def bits(self, tokens: Tokens, answers: Tokens, log2_p: NDArray[np.float64]) -> NDArray[np.float64]:
        """``log2 q - log2 p`` of each true token, 0 beyond an answer's end: shape (batch, answer_len).

        Raises
        ------
        ValueError
            If the shapes differ.
        """
        _same_shape(tokens, answers)
        _same_shape(log2_p, answers)
        length = answers.shape[1]
        error = np.full(length, self.pooled)
        error[: len(self.error)] = self.error[:length]
        right = np.log2((1 - error) * np.exp2(-log2_p) + error)
        bits = np.where(tokens == answers, right, np.log2(error))
        return np.where((tokens >= 0) & (answers >= 0), bits, 0.0)


def _error(errors: Any, predictions: Any, chance: Any) -> NDArray[np.float64]:
    """ε from counts of errors and predictions and the summed probability of the tokens that were to be predicted."""
    missed = np.maximum(predictions - chance, 0.5) / np.maximum(predictions, 1)
    error: NDArray[np.float64] = np.minimum((errors + 0.5) / (predictions + 1) / missed, 1.0)
    return error


def bits_recalled(
    prediction: Prediction, answers: Tokens, log2_p: NDArray[np.float64], smoothing: Smoothing | None = None
) -> NDArray[np.float64]:
    """Bits of each answer that the engine recalled: ``B = log2 q(answer | state) - log2 p(answer)``.

    Parameters
    ----------
    prediction : Prediction
        Its ``log2_q`` are used where it has them, else its tokens, smoothed.
    answers : ndarray of int64, shape (batch, answer_len)
        Filled with -1 on the right.
    log2_p : ndarray of float64, shape (batch, answer_len)
        Of the answers' tokens under their source.
    smoothing : Smoothing, optional
        Fitted on other strings; not needed where the engine gives probabilities.

    Returns
    -------
    ndarray of float64, shape (batch,)
        Bits; at most b on average (``theory.bits_recalled_bound``), below 0 where the engine misleads.

    Raises
    ------
    ValueError
        If hard tokens come without a smoothing, or shapes differ.
    """
    _same_shape(log2_p, answers)
    if prediction.log2_q is not None:
        _same_shape(prediction.tokens, answers)
        bits = np.where(answers >= 0, prediction.log2_q - log2_p, 0.0)
    elif smoothing is not None:
        bits = smoothing.bits(prediction.tokens, answers, log2_p)
    else:
        raise ValueError("the engine emits hard tokens: bits recalled need a smoothing, fitted on other strings")
    total: NDArray[np.float64] = bits.sum(axis=1)
    return total


ErrorClass = Literal["correct", "jump", "stop", "skip", "none", "other"]


def classify_error(answer: Sequence[int], emitted: Sequence[int], n: int, *, end: int | None = None) -> ErrorClass:
    """Say how a free copy went wrong, at its first wrong token.

    Parameters
    ----------
    answer : sequence of int
        The string to copy, with its end token if that is to be emitted.
    emitted : sequence of int
        What came instead; -1: no prediction.
    n : int
        Length of the n-grams by which the engine looks up, >= 1.
    end : int, optional
        The end token.

    Returns
    -------
    str
        ``correct``; ``jump``: it went on from another occurrence of the n tokens before; ``stop``: it emitted the end
        too early; ``skip``: it left tokens out and went on with the next n or more; ``none``: it had no prediction;
        ``other``. The first that applies.

    Raises
    ------
    ValueError
        If n < 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    x, y = list(answer), list(emitted)
    if x == y:
        return "correct"
    t = next((i for i, (a, b) in enumerate(zip(x, y, strict=False)) if a != b), min(len(x), len(y)))
    if t == len(y) or y[t] == -1:
        return "none"
    if t == len(x):
        return "other"
    if t >= n and any(x[j - n : j] == x[t - n : t] and x[j] == y[t] for j in range(n, len(x)) if j != t):
        return "jump"
    if y[t] == end:
        return "stop"
    if len(y) >= t + n and any(y[t : t + n] == x[j : j + n] for j in range(t + 1, len(x))):
        return "skip"
    return "other"
