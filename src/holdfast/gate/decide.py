"""The verdict on every rule, and on all of them: pass, fail, or the queries cannot tell."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from math import ceil

from holdfast.evaluation.result import SAMPLE, Result
from holdfast.gate.paired import Drop, drop_between, resampled
from holdfast.gate.rules import UNATTACKED, MaxDrop, Rule
from holdfast.gate.values import values_of
from holdfast.report.groups import disagreements
from holdfast.report.html.entries import DOUBTS
from holdfast.util.errors import HoldfastError

RULED_OUT = 5.0
"""Points of 100: a drop of so much must not pass unnoticed."""
NEVER = (*DOUBTS, "not converged")
"""What keeps any score of a result from passing."""
UNATTACKABLE = ("unchecked", "too few queries")
"""What keeps scores under attack from passing."""
ROUNDING = 1e-9


class Verdict(Enum):
    """What is known of a rule; the value is the exit status of the command."""

    PASS = 0
    FAIL = 1
    CANNOT_TELL = 2

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Judged:
    """A rule with its verdict, and why where that is no pass.

    before, after: the score in the baseline and now, None where it is not known. low, high: the ends of the 95 %
    interval, of the difference after − before for a rule about a drop, else of the score.
    """

    rule: Rule
    verdict: Verdict
    why: str = ""
    before: float | None = None
    after: float | None = None
    low: float | None = None
    high: float | None = None
    drop: Drop | None = None


@dataclass(frozen=True)
class Decision:
    """All rules judged, one at least."""

    judged: tuple[Judged, ...]

    @property
    def verdict(self) -> Verdict:
        """A fail if one rule fails, else that one cannot tell if one cannot, else a pass."""
        found = {one.verdict for one in self.judged}
        return next(one for one in (Verdict.FAIL, Verdict.CANNOT_TELL, Verdict.PASS) if one in found)


def decide(new: Result, baseline: Result | None, rules: Sequence[Rule], ruled_out: float = RULED_OUT) -> Decision:
    """Judge a result by rules, each :class:`.MaxDrop` against a baseline.

    ruled_out: a rule passes only if the score is not worse than it allows, and the interval rules out a drop of so many
    points of 100, or of what the rule allows where that is more.

    Raises HoldfastError where there is no rule, or no baseline for one.
    """
    if not rules:
        raise HoldfastError('there is no rule: give --max-drop "robust R@1=2" or --min "robust R@1=30"')
    apart = [] if baseline is None else disagreements(new, baseline)
    judged = []
    for rule in rules:
        if isinstance(rule, MaxDrop) and baseline is None:
            raise HoldfastError(f"--max-drop {rule.score}={rule.number:g} needs --baseline, the result of before")
        try:
            if isinstance(rule, MaxDrop) and baseline is not None:
                if apart:
                    raise HoldfastError(f"the results do not compare: {'; '.join(apart)}")
                found = _doubted(judge_drop(rule, new, baseline, ruled_out), new, baseline)
            else:
                found = _doubted(judge_level(rule, new, ruled_out), new, None)
        except HoldfastError as error:
            found = Judged(rule, Verdict.CANNOT_TELL, str(error))
        judged.append(found)
    return Decision(tuple(judged))


def judge_drop(rule: MaxDrop, new: Result, baseline: Result, ruled_out: float) -> Judged:
    """Whether a score drops further than allowed.

    Fail: the drop seen is beyond what is allowed, and it is not chance (:attr:`.Drop.shown`). Pass: it is not beyond,
    and the interval rules out ``ruled_out``. Otherwise the queries cannot tell.
    """
    old, now = values_of(baseline, rule.score), values_of(new, rule.score)
    drop = drop_between(old, now, rule.lower)
    verdict, why = verdict_of(drop, rule.number, ruled_out)
    sign = 1.0 if rule.lower else -1.0
    low, high = sorted((sign * drop.low, sign * drop.high))
    before, after = (sum(float(each.values.mean()) for each in one.values()) for one in (old, now))
    return Judged(rule, verdict, why, before, after, low, high, drop)


def verdict_of(drop: Drop, allowed: float, ruled_out: float) -> tuple[Verdict, str]:
    """What a drop means for a rule that allows one of ``allowed``, and why that is no pass."""
    beyond, most = drop.seen > allowed + ROUNDING, max(allowed, ruled_out * drop.scale / 100)
    if beyond and drop.shown:
        return Verdict.FAIL, f"worse on {drop.worse} queries, better on {drop.better}: not chance"
    if beyond:
        return Verdict.CANNOT_TELL, f"worse on {drop.worse} queries, better on {drop.better}: it may be chance"
    if drop.high > most:
        return Verdict.CANNOT_TELL, f"a drop of {most:g} is not ruled out{_enough(drop, most)}"
    return Verdict.PASS, ""


def judge_level(rule: Rule, new: Result, ruled_out: float) -> Judged:
    """Whether a score is as high as it has to be.

    Fail: its whole 95 % interval is below. Pass: it is not below, and the interval rules out that it is below by
    ``ruled_out`` points of 100.
    """
    bounds, value = new.interval(rule.score), new.number(rule.score)
    if bounds is None or value is None:
        found = values_of(new, rule.score)
        value = sum(float(each.values.mean()) for each in found.values())
        ends = {name: (each.low, each.high) for name, each in found.items()}
        bounds = resampled({name: each.values for name, each in found.items()}, ends)
    low, high = bounds
    verdict, why = Verdict.PASS, ""
    if value < rule.number - ROUNDING:
        verdict = Verdict.FAIL if high < rule.number else Verdict.CANNOT_TELL
        why = "" if verdict == Verdict.FAIL else "it is below, which may be chance"
    elif low < rule.number - ruled_out:
        verdict, why = Verdict.CANNOT_TELL, f"{rule.number - ruled_out:g} is not ruled out: attack more queries"
    return Judged(rule, verdict, why, None, value, low, high)


def _enough(drop: Drop, most: float) -> str:
    """How many queries might do, for an interval that narrows with the root of their number."""
    if drop.seen >= most - ROUNDING:
        return ""
    return f": about {ceil(drop.queries * ((drop.high - drop.seen) / (most - drop.seen)) ** 2):,} queries might"


def _doubted(judged: Judged, new: Result, baseline: Result | None) -> Judged:
    """What speaks against a result makes its scores too high: of the new one a fail stands, of the baseline not."""
    ours = doubts_of(new, judged.rule)
    theirs = [] if baseline is None else doubts_of(baseline, judged.rule)
    if not theirs and not (ours and judged.verdict == Verdict.PASS):
        return judged
    said = [
        f"{name} is {', '.join(found)}" for name, found in (("the result", ours), ("the baseline", theirs)) if found
    ]
    return replace(judged, verdict=Verdict.CANNOT_TELL, why="; ".join(said))


def doubts_of(result: Result, rule: Rule) -> list[str]:
    """The parts of a verdict that keep a rule from passing."""
    attacked = rule.score not in (*UNATTACKED, SAMPLE)
    against = (*NEVER, *(UNATTACKABLE if attacked else ()))
    return [part for part in result.verdict.split(", ") if part in against]
