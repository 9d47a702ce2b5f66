"""What the exact tests over all cells say, as lines for every form of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ngram_copy.score import ASYMPTOTIC, LENGTH_SHARE, LENGTH_TOLERANCE

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
        ``agreement``, ``census`` and ``half_length`` are claims of their own where there are such records.
    """
    verdicts = verdicts or {}
    statistics = (
        _agreement(verdicts.get("agreement") or {}),
        _census(verdicts.get("census") or {}),
        _half_length(verdicts.get("half_length") or {}),
    )
    return [
        _above(verdicts.get("above_bound") or {}),
        _bits(verdicts.get("bits_above_state") or {}),
        _rule(verdicts.get("copier_rule") or {}),
        _prefix(verdicts.get("prefix_fits") or {}),
        *(verdict for verdict in statistics if verdict is not None),
    ]


def _above(found: Mapping[str, Any]) -> Verdict:
    claim = "No engine is above its bound."
    if not found.get("cells") or found.get("p_value") is None:
        return Verdict(claim, None, "no cell has a bound below 1")
    p = float(found["p_value"])
    engines = found.get("per_engine") or {}
    least = ""
    if engines:
        corrected = _counted(len(engines), "engine")
        least = f"; least for {min(engines, key=engines.__getitem__)}, corrected for {corrected}"
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
    return _counted(found["cells"], "cell")


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _agreement(found: Mapping[str, Any]) -> Verdict | None:
    if not found:
        return None
    claim = "The constructed transformer is the n-gram copier."
    wrong, against = int(found["disagreements"]), int(found["rule_disagreements"])
    text = (
        f"{wrong:,} disagreements on {int(found['positions']):,} determined positions of {int(found['strings']):,} "
        f"strings; of {int(found['rule_strings']):,} whole copies, {int(found['repeat_strings']):,} of them with a "
        f"repeat, {against:,} against the rule that a copy succeeds exactly where no n-gram repeats"
    )
    return Verdict(claim, wrong == 0 and against == 0, text)


def _census(found: Mapping[str, Any]) -> Verdict | None:
    if not found:
        return None
    claim = "No engine copies more strings than it has states at the cut."
    above, largest = int(found["above"]), found["largest"]
    text = (
        f"{above:,} of {int(found['counts']):,} counts are above, of {int(found['strings']):,} strings in all; "
        f"the largest share of copied strings in states is {float(largest['share']):.4g} ({largest['engine']} at "
        f"L = {largest['length']})"
    )
    return Verdict(claim, above == 0, text)


def _half_length(found: Mapping[str, Any]) -> Verdict | None:
    if not found or not found["points"] + found["small"]:
        return None
    claim = "The longest copy, L½, follows the formula."
    parts = []
    if found["points"]:
        worst = found["worst"]
        parts.append(
            f"{int(found['points']) - int(found['outside'])} of {found['points']} lengths with D^n >= {ASYMPTOTIC:,} "
            f"are within {LENGTH_TOLERANCE:g} token + {LENGTH_SHARE:.0%} of it (furthest off: {worst['label']}, "
            f"{worst['value']:,.0f} for {worst['formula']:,.1f})"
        )
    if found["small"]:
        parts.append(f"{found['equal']} of {found['small']} smaller ones equal exact counts")
    slopes = (
        f"{slope['value']:.3f} ({slope['low']:.3f} to {slope['high']:.3f}) for {slope['expected']:.3f} at D = {d}"
        for d, slope in found["slopes"].items()
    )
    if found["slopes"]:
        parts.append(f"slopes of log2(L½ − n), 95%: {'; '.join(slopes)}")
    return Verdict(claim, not found["outside"] and not found["small_outside"], "; ".join(parts))
