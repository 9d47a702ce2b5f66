"""Intervals for display and exact tests: how much a count or a mean can be trusted."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator
from statistics import NormalDist
from typing import NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ngram_copy._arguments import integer, real


class Estimate(NamedTuple):
    """A number with an interval around it."""

    value: float
    low: float
    high: float


def wilson_interval(k: SupportsIndex, n: SupportsIndex, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion: for display, approximate in coverage.

    The two solutions p of ``|k/n - p| = z·sqrt(p(1 - p)/n)`` (Wilson 1927).

    Parameters
    ----------
    k, n : int
        Successes and trials; without trials the interval is (0, 1).
    confidence : float
        Two-sided, in [0, 1).

    Returns
    -------
    tuple of float
        ``(low, high)`` within [0, 1], with low = 0 at k = 0 and high = 1 at k = n exactly.

    Raises
    ------
    ValueError
        If not 0 <= k <= n, or the confidence is outside of [0, 1).
    """
    n = integer("n", n, 0)
    k = integer("k", k, 0)
    if k > n:
        raise ValueError(f"k must be at most n = {n}, not {k}")
    z = NormalDist().inv_cdf((1 + real("confidence", confidence, 0, 1, open_high=True)) / 2)
    if n == 0:
        return 0.0, 1.0
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Student's t interval for a mean: for display, approximate unless the values are normal.

    ``mean ± t·s/√N``; the quantile t of N - 1 degrees of freedom by its expansion about the normal one (Abramowitz and
    Stegun 26.7.5), within 0.2% from 5 values on at 95%.

    Parameters
    ----------
    values : array_like of float, shape (N,)
        Independent, N >= 2, finite.
    confidence : float
        Two-sided, in [0, 1).

    Raises
    ------
    ValueError
        If there are fewer than two values or one is not finite, or the confidence is outside of [0, 1).
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2 or not np.all(np.isfinite(x)):
        raise ValueError(f"values must be one row of at least 2 finite numbers, not {_short(x)}")
    z = NormalDist().inv_cdf((1 + real("confidence", confidence, 0, 1, open_high=True)) / 2)
    v = len(x) - 1
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    t += (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    mean, half = float(x.mean()), t * float(x.std(ddof=1)) / math.sqrt(len(x))
    return mean - half, mean + half


def _short(x: NDArray[np.float64]) -> str:
    return f"{x.tolist()}" if x.size <= 4 else f"an array of shape {x.shape}, minimum {x.min()}, maximum {x.max()}"


def _stirling_error(n: int) -> float:
    """``log(n!) - log(sqrt(2πn)·(n/e)^n)``."""
    if n < 16:
        return math.lgamma(n + 1) - (n + 0.5) * math.log(n) + n - 0.5 * math.log(2 * math.pi)
    s = 1 / (n * n)
    return (1 / 12 - s * (1 / 360 - s * (1 / 1260 - s * (1 / 1680 - s / 1188)))) / n


def _deviance(x: float, mean: float) -> float:
    """``x·log(x/mean) + mean - x``, without cancellation near x = mean."""
    v = (x - mean) / (x + mean)
    if abs(v) >= 0.1:
        return x * math.log(x / mean) + mean - x
    # log(x/mean) = 2·artanh(v)
    total, power, k = (x - mean) * v, 2 * x * v, 1
    while True:
        power *= v * v
        k += 2
        longer = total + power / k
        if longer == total:
            return total
        total = longer


def _log_pmf(k: int, n: int, p: float) -> float:
    """Log of P(Bin(n, p) = k) for 0 < p < 1, by Loader's saddle-point form (2000): full accuracy for any n."""
    if k == 0:
        return n * math.log1p(-p)
    if k == n:
        return n * math.log(p)
    error = _stirling_error(n) - _stirling_error(k) - _stirling_error(n - k)
    deviance = _deviance(k, n * p) + _deviance(n - k, n * (1 - p))
    return error - deviance - 0.5 * math.log(2 * math.pi * k * ((n - k) / n))


def _tail_sum(first: float, ratios: Iterator[float]) -> float:
    """``first·(1 + r_1 + r_1·r_2 + …)`` for falling ratios below 1, until a term no longer counts."""
    total = term = 1.0
    for ratio in ratios:
        term *= ratio
        total += term
        if term < total * 1e-18 * (1 - ratio):
            break
    return first * total


def binomial_tail(k: SupportsIndex, n: SupportsIndex, p: float) -> float:
    """Exact one-sided p-value ``P(X >= k)`` for X ~ Bin(n, p).

    Against "each of n independent strings is right with probability at most p", when k were. Relative accuracy about
    1e-12 for n to 10^6 and beyond.

    Parameters
    ----------
    k : int
        Any; below 1 the tail is 1, above n it is 0.
    n : int
        Trials, >= 0.
    p : float
        In [0, 1].

    Raises
    ------
    ValueError
        If n < 0 or p is outside of [0, 1].
    """
    n = integer("n", n, 0)
    k = operator.index(k)
    p = real("p", p, 0, 1)
    if k <= 0:
        return 1.0
    if k > n or p == 0:
        return 0.0
    if p == 1:
        return 1.0
    odds = p / (1 - p)
    if k > n * p:
        upward = ((n - j) / (j + 1) * odds for j in range(k, n))
        return min(1.0, _tail_sum(math.exp(_log_pmf(k, n, p)), upward))
    downward = (j / (n - j + 1) / odds for j in range(k - 1, 0, -1))
    return max(0.0, 1 - _tail_sum(math.exp(_log_pmf(k - 1, n, p)), downward))


def binomial_test(k: SupportsIndex, n: SupportsIndex, p: float) -> float:
    """Exact two-sided p-value for X ~ Bin(n, p): twice the smaller tail, at most 1.

    ``min(1, 2·min(P(X <= k), P(X >= k)))``: valid, a little conservative.

    Raises
    ------
    ValueError
        If not 0 <= k <= n, or p is outside of [0, 1].
    """
    n = integer("n", n, 0)
    k = integer("k", k, 0)
    if k > n:
        raise ValueError(f"k must be at most n = {n}, not {k}")
    return min(1.0, 2 * binomial_tail(k, n, p), 2 * binomial_tail(n - k, n, 1 - real("p", p, 0, 1)))


def poisson_binomial_tail(cells: Iterable[tuple[int, float]], total: SupportsIndex) -> float:
    """Exact ``P(Σ X_i >= total)`` for independent X_i ~ Bin(n_i, p_i): one test over many cells.

    Where p_i are upper bounds of the true probabilities it is a valid p-value against all the bounds together. Cells
    must not share strings.

    Method: the distribution is tilted, P̃(j) ∝ P(j)·e^(θj), so that its mean is ``total``; its characteristic function
    Π (1 - p̃_i + p̃_i·e^(iω))^n_i is inverted by one FFT on a window of some 40 standard deviations, and the tilt undone:
    relative accuracy about 1e-10, however small the tail.

    Parameters
    ----------
    cells : iterable of (int, float)
        Trials n_i >= 0 and probabilities p_i in [0, 1].
    total : int
        Observed number of successes.

    Raises
    ------
    ValueError
        If some n_i < 0 or p_i is outside of [0, 1].
    """
    trials: dict[float, int] = {}
    for n_i, p_i in cells:
        bound = real("p", p_i, 0, 1)
        trials[bound] = trials.get(bound, 0) + integer("n", n_i, 0)
    k = operator.index(total) - trials.pop(1.0, 0)  # these succeed surely,
    trials.pop(0.0, None)  # these never
    n = np.array(list(trials.values()), dtype=np.float64)
    p = np.array(list(trials), dtype=np.float64)
    if k <= 0:
        return 1.0
    if k > n.sum():
        return 0.0
    if k == n.sum():
        return math.exp(float(n @ np.log(p)))
    logit = np.log(p) - np.log1p(-p)

    def mean(theta: float) -> float:
        return float(n @ _sigmoid(logit + theta))

    theta, high = 0.0, 1.0
    if mean(theta) < k:
        while mean(high) < k:
            theta, high = high, 2 * high
        for _ in range(100):
            middle = (theta + high) / 2
            theta, high = (middle, high) if mean(middle) < k else (theta, middle)
    tilted, failing = _sigmoid(logit + theta), _sigmoid(-logit - theta)
    centre = round(mean(theta))
    width = 2 ** math.ceil(math.log2(40 * math.sqrt(float(n @ (tilted * failing))) + 256))
    omega = 2 * np.pi * np.arange(width // 2 + 1) / width
    log_size, phase = np.zeros_like(omega), -omega * centre
    for m, t, f in zip(n, tilted, failing, strict=True):
        log_size += m / 2 * np.log(np.maximum(1 - 4 * t * f * np.sin(omega / 2) ** 2, 1e-300))
        phase += m * np.arctan2(t * np.sin(omega), f + t * np.cos(omega))
    pmf = np.roll(np.fft.irfft(np.exp(log_size - 1j * phase), width), width // 2)
    above = np.arange(width) + centre - width // 2 - k
    counted = above >= 0
    tail = float(np.maximum(pmf[counted], 0) @ np.exp(-theta * above[counted]))
    log_scale = float(n @ (np.logaddexp(0, logit + theta) - np.logaddexp(0, logit))) - theta * k
    return min(1.0, tail * math.exp(log_scale))


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0, -x))


def bits_recalled_p_value(bits: ArrayLike, state_bits: ArrayLike) -> float:
    """Exact p-value against "the state has at most b bits", from the bits recalled of independent strings.

    For one string, ``E[2^B] = Σ_x q(x | s(x)) <= Σ_s Σ_x q(x | s) <= 2^b``, so e_i = 2^(B_i - b_i) has mean at most 1,
    for any source and any engine, however B is distributed. Of N independent strings both the product of the e_i and
    their mean have mean at most 1, and so has half of each; by Markov ``1/((Π e_i + mean e_i)/2)`` is a p-value. The
    product finds a mean of B above b (the law E[B] <= b broken), the mean a few strings far above.

    It is valid only if log2 p is exact, q was fixed before these strings (a smoothing fitted on others; given the
    state, q sums to at most 1 over the answers), and the strings are independent. Where b differs between strings it
    must not depend on the string but through the state itself, as 2^-b summed over the states is at most 1.

    Parameters
    ----------
    bits : array_like of float, shape (N,)
        B of each string; -inf is allowed.
    state_bits : array_like of float, shape (N,) or ()
        b of each string, >= 0.

    Returns
    -------
    float
        At most 1; 1 without strings.

    Raises
    ------
    ValueError
        If the shapes do not fit, some b is negative, or a number is NaN.
    """
    b = np.asarray(state_bits, dtype=np.float64)
    recalled = np.asarray(bits, dtype=np.float64)
    if recalled.ndim != 1 or b.shape not in {(), recalled.shape}:
        raise ValueError(
            f"bits and state_bits must have shapes (N,) and (N,) or (), not {recalled.shape} and {b.shape}"
        )
    if np.isnan(recalled).any() or not np.all(b >= 0):
        raise ValueError("bits must not be NaN, and state_bits must be at least 0")
    if not len(recalled):
        return 1.0
    log_e = recalled - b
    log_mean = float(np.logaddexp2.reduce(log_e)) - math.log2(len(log_e))
    log_half = float(np.logaddexp2(log_e.sum(), log_mean)) - 1
    return math.pow(2, -max(0.0, log_half))
