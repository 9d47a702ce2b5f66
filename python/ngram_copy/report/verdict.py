"""What the exact tests over all cells say, as lines for every form of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

THRESHOLD = 1e-6
"""p-value below which a claim is taken as refuted."""


@dataclass(frozen=True)
class Verdict:
    """A claim of the theory against the data.

    Attributes
    ----------
    holds : bool or None
        None where no record tests it.
    """

    claim: str
    holds: bool | None
    evidence: str

    @property
    def word(self) -> str:
        """``holds``, ``fails`` or ``not tested``."""
        return "not tested" if self.holds is None else "holds" if self.holds else "FAILS"


def judge(verdicts: Mapping[str, Any] | None) -> list[Verdict]:
    """Read the dict of ``ngram_copy.score.verdicts``.

    Parameters
    ----------
    verdicts : mapping or None
        ``above_bound`` {cells, p_value, per_engine}, ``bits_above_state`` {cells, quantised, p_value},
        ``prefix_fits`` {cells, min_p, rows} and ``copier_rule`` {strings, disagreements}; None: nothing was tested.
    """
    verdicts = verdicts or {}
    return [
        _above(verdicts.get("above_bound") or {}),
        _bits(verdicts.get("bits_above_state") or {}),
        _rule(verdicts.get("copier_rule") or {}),
        _prefix(verdicts.get("prefix_fits") or {}),
    ]


def _above(found: Mapping[str, Any]) -> Verdict:
    claim = "No engine is above its bound."
    if not found.get("cells") or found.get("p_value") is None:
        return Verdict(claim, None, "no cell has a bound below 1")
    p = float(found["p_value"])
    engines = found.get("per_engine") or {}
    least = (
        f"; least for {min(engines, key=engines.__getitem__)}, corrected for {len(engines)} engines" if engines else ""
    )
    test = "exact one-sided tests of each engine over all its cells"
    text = f"{_cells(found)} with a bound below 1, {test}: p = {p:.3g}{least}"
    return Verdict(claim, p > THRESHOLD, text)


def _bits(found: Mapping[str, Any]) -> Verdict:
    claim = "No engine recalls more bits than its state holds."
    if not found.get("cells") or found.get("p_value") is None:
        return Verdict(claim, None, "no cell has a known source")
    p = float(found["p_value"])
    states = int(found.get("quantised") or 0)
    also = f" and {states:,} quantised state{'' if states == 1 else 's'} of learned models" if states else ""
    text = f"{_cells(found)} with a known source{also}, an exact test of each, corrected for their number: p = {p:.3g}"
    return Verdict(claim, p > THRESHOLD, text)


def _rule(found: Mapping[str, Any]) -> Verdict:
    claim = "The exact copier succeeds exactly where no n-gram repeats."
    if not found.get("strings"):
        return Verdict(claim, None, "no copy task was answered by the engine 'ngram'")
    wrong = int(found["disagreements"])
    return Verdict(claim, wrong == 0, f"{wrong:,} disagreements in {int(found['strings']):,} strings")


def _prefix(found: Mapping[str, Any]) -> Verdict:
    claim = "The prefix machine reaches its bound."
    if not found.get("cells"):
        return Verdict(claim, None, "no cell of the engine 'prefix' has a bound between 0.05 and 0.95")
    p = float(found["min_p"])
    worst = min(found.get("rows") or [], key=lambda row: float(row["p"]), default=None)
    detail = (
        "" if worst is None else f" ({worst['label']}: {worst['k']}/{worst['N']} at a bound of {worst['bound']:.3g})"
    )
    text = f"{_cells(found)} with a bound in [0.05, 0.95], exact two-sided tests: least p = {p:.3g}{detail}"
    return Verdict(claim, p > THRESHOLD, text)


def _cells(found: Mapping[str, Any]) -> str:
    return f"{found['cells']} cell{'' if found['cells'] == 1 else 's'}"
