"""Whether scores can be trusted: the strongest attack on a few queries, beside stronger, weaker and repeated ones."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from holdfast.core.gradients import NES
from holdfast.core.pgd import PGD
from holdfast.core.steps import BALLS
from holdfast.evaluation.checks.probe import CHANGE, SQUARE_STEPS, Probe, attackable, probe_steps
from holdfast.evaluation.runner import Target
from holdfast.evaluation.settings import AROUND, AttackSettings
from holdfast.evaluation.words import CHECK_WORDS
from holdfast.util.progress import Progress
from holdfast.util.text import counted

RISE, CHANCE = 0.3, 0.01
"""R@1 rises if by more points than this, and so clearly as chance alone brings about less often than this."""

DEFEATED = 5.0
"""R@1 in percent that counts as about 0."""

BEHIND = 5.0
"""Points of R@1 that the attacks asked for may leave more than the probe does."""

OUTSIDE = 1e-6
"""How far rounding may carry a pixel out of its bounds."""

DRIFT = 0.05
"""How far a reading may differ in a second run where kernels add up in any order, as on a GPU, or elsewhere."""

CHECK_STEPS = 75
"""About how many steps of a descent all checks together take for a query."""

DRAWING = "the model draws random numbers: robust R@1 takes many draws, but another draw would give other scores"

Verdict = tuple[bool | None, str]


@dataclass(frozen=True)
class Check:
    """A check by its name in result files, whether it passed (None: it could not be made), and what was seen."""

    name: str
    passed: bool | None
    detail: str


def check(
    target: Target, resolved: AttackSettings, rows: Tensor, progress: Progress, surrogate: Target | None = None
) -> list[Check]:
    """Try :data:`CHECKS` on the queries at ``rows`` (n,), in the budget's ball; last come the subject's faults.

    The probe is LTM, an attack on R@1, with exact gradients, or with Square where the model has none. surrogate: what
    the attacks asked for see in place of the model.
    Progress advances once for each of :data:`CHECKS`.
    """
    probe = Probe(target, resolved, attackable(target, rows), surrogate)
    found = []
    for key, make in CHECKS.items():
        name = CHECK_WORDS[key].name
        verdict = make(probe) if len(probe.rows) else (None, "no query tried has both a match and a non-match to find")
        found.append(Check(name, *verdict))
        progress.advance(name)
    name = CHECK_WORDS["preprocessing"].name
    faults = [Check(name, False, fault) for fault in target.model.faults]
    if not (target.model.visible or target.model.differentiable):
        return [*found, Check(name, None, "what the layers of a black box are given is not visible")]
    return found + (faults or [Check(name, True, "no normalisation or division too many was found")])


def zero_changes_nothing(probe: Probe) -> Verdict:
    """An attack that may change nothing leaves the benign numbers exactly as they are."""
    if probe.target.model.random:
        return None, DRAWING
    runs = [probe.attack(name, probe.descent(0.0, 1)) for name in ("es", "ltm")]
    slack = 0 if probe.target.model.exact else DRIFT
    changed = torch.stack([_differs(run.before, run.after, slack) for run in runs]).any(0)
    if not changed.any():
        same = "as" if slack else "exactly as"
        return True, f"attacked with ε = 0, {counted(len(changed), 'query')} scored {same} without attack"
    return False, (
        f"attacked with ε = 0, {int(changed.sum())} of {counted(len(changed), 'query')} do not score as without "
        "attack: the model does not embed an image twice in the same way, and no score can be repeated exactly"
    )


def stronger_is_stronger(probe: Probe) -> Verdict:
    """R@1 does not clearly rise with the radius, with steps, or with a restart."""
    eps = probe.resolved.eps
    radii = sorted({eps / 4, eps / 2, eps, max(eps, min(2 * eps, probe.limit))})
    runs = {radius: probe.attack("ltm", probe.descent(radius, probe.steps)) for radius in radii}
    ladder = [runs[eps].before["LTM"], *(run.after["LTM"] for run in runs.values())]
    ends = (runs[eps].after["LTM"], probe.strong.after["LTM"])
    seen = f"R@1 was {_mean(ladder[0])} without attack"
    seen += "".join(f", {_mean(left)} at ε = {radius:.3g}" for radius, left in zip(radii, ladder[1:], strict=True))
    seen += f", {_mean(ends[1])} at ε = {eps:.3g} with twice the steps and a restart"
    if not any(rises(*pair) for pair in [*pairwise(ladder), ends]):
        return True, f"no stronger attack left a clearly higher R@1: {seen}"
    return False, f"a stronger attack left a clearly higher R@1: {seen}; {probe.meaning}"


def the_limit_defeats(probe: Probe) -> Verdict:
    """Queries that may be changed at will find nothing of their class."""
    if probe.collapsed:
        return None, "the model is collapsed, so that there is nothing left to defeat"
    left = probe.attack("ltm", probe.descent(probe.limit, 2 * probe.steps)).after["LTM"]
    seen = f"changing the images at will (ε = {probe.limit:.3g}) left an R@1 of {_mean(left)}"
    if left.mean() <= DEFEATED:
        return True, seen
    if not probe.differentiable:
        return None, f"{seen}, but without gradients the attack may have been too weak to tell"
    return False, f"{seen}, where an attack that works leaves about 0; {probe.meaning}"


def weaker_is_weaker(probe: Probe) -> Verdict:
    """Neither attacks without gradients nor random noise do clearly better than the probe."""
    eps, ball = probe.resolved.eps, BALLS[probe.resolved.norm](probe.resolved.eps)
    rivals = {"random noise": PGD(ball, 0, 0, start=eps, best=True, restarts=3, draws=probe.draws)}
    if probe.differentiable:
        rivals["Square"] = probe.square(eps, probe.steps)
        rivals["NES"] = PGD(ball, eps, 2, gradient=NES(pairs=4), best=True, draws=probe.draws)
    clean, left = probe.objective("ltm", probe.queries.embeddings), probe.strong.after["LTM"]
    gain = clean - probe.ltm(probe.strong.images)
    beaten = False
    seen = f"R@1 was {_mean(left)} under the attack {'with' if probe.differentiable else 'without'} gradients"
    for name, pgd in rivals.items():
        rival = probe.attack("ltm", pgd)
        ahead = int((clean - probe.ltm(rival.images) > 1.1 * gain + 1e-4).sum())
        beaten |= rises(rival.after["LTM"], left) or ahead > len(gain) / 2
        seen += (
            f", {_mean(rival.after['LTM'])} under {name} (clearly ahead on {ahead} of {counted(len(gain), 'query')})"
        )
    if not beaten:
        return True, f"no weaker attack did clearly better: {seen}"
    return False, f"a weaker attack did clearly better: {seen}; {probe.meaning}"


def asked_is_strong(probe: Probe) -> Verdict:
    """The attacks asked for do about as much to R@1 as the probe does on the same queries."""
    resolved = probe.resolved
    if not resolved.eps:
        return False, "the radius is 0: nothing was attacked"
    if not resolved.attacks:
        return None, "no attack was asked for beside robust R@1"
    if resolved.gradient == "white-box" and not probe.differentiable and not probe.surrogate:
        return None, probe.obstacle
    if resolved.step * resolved.steps < resolved.eps:
        steps = f"{counted(resolved.steps, 'step')} of {resolved.step:.3g}"
        return False, f"{steps} cannot lead across the radius {resolved.eps:.3g}"
    asked = probe.attack("ltm", resolved.pgd(), surrogate=probe.surrogate).after["LTM"]
    left = probe.strong.after["LTM"]
    seen = f"R@1 was {_mean(asked)} under the attack asked for, and {_mean(left)} under the check's"
    if asked.mean() - left.mean() <= BEHIND:
        return True, seen
    kept = f"the scores are upper bounds, kept as protocol {resolved.protocol} was published"
    return (None, f"{seen}: {kept}") if resolved.as_published else (False, f"{seen}: the scores overstate robustness")


def gradients_exist(probe: Probe) -> Verdict:
    """Every query has a direction to be attacked in."""
    if probe.obstacle:
        return None, probe.obstacle
    zero = {name: int((~(slope.flatten(1).abs().amax(1) > 0)).sum()) for name, slope in probe.slopes.items()}
    if not any(zero.values()):
        return True, f"the gradient for the pixels is zero for none of {counted(len(probe.rows), 'query')}"
    seen = (
        f"the gradient for the pixels is zero for {zero['es']} (ES) and {zero['ltm']} (LTM) of "
        f"{counted(len(probe.rows), 'query')}"
    )
    return False, f"{seen}, as where pixels are rounded, so that no attack can start; {probe.meaning}"


def gradients_are_true(probe: Probe) -> Verdict:
    """Small steps along the gradient move the embedding as it says.

    Read along the direction in which the objective pulls the embedding, not from the objective: its nearest items
    change along the way, and that is no fault of the gradient.
    """
    if probe.obstacle:
        return None, probe.obstacle
    slope = probe.slopes["ltm"]
    direction = BALLS[probe.resolved.norm](probe.radius).direction(slope)
    stride = (CHANGE / (slope * direction).flatten(1).sum(1)).clamp(max=probe.stride).view(-1, 1, 1, 1)
    up, down = (probe.near + sign * stride * direction for sign in (0.5, -0.5))
    moved = ((probe.embed(up) - probe.embed(down)) * probe.pull).sum(1)
    ratio = moved / ((up - down) * slope).flatten(1).sum(1)
    true = int(((ratio >= 0.5) & (ratio <= 2)).sum())
    seen = (
        f"small steps moved the embedding as its gradient says, within a factor of 2, for {true} of "
        f"{counted(len(ratio), 'query')}"
    )
    if true >= 0.9 * len(ratio):
        return True, seen
    return False, f"{seen} only, so that following it leads astray; {probe.meaning}"


def repeats(probe: Probe) -> Verdict:
    """A second run in batches of other sizes gives the same numbers."""
    if probe.target.model.random:
        return None, DRAWING
    pgd, count = probe.descent(probe.resolved.eps, 3), len(probe.rows)
    once = probe.attack("es", pgd).after
    cut = math.ceil(5 * count / 8)
    again = [probe.attack("es", pgd, part).after for part in (slice(cut), slice(cut, None)) if len(probe.rows[part])]
    twice = torch.cat([after["ES:D"] for after in again])
    exact = twice.device.type == "cpu" and probe.target.model.exact
    differs = (once["ES:D"] - twice).abs() > (0 if exact else DRIFT)
    if not differs.any():
        same = "identical numbers" if exact else f"numbers that differ by at most {DRIFT:g}"
        return True, f"a second run, in other batches, gave {same} for {counted(count, 'query')}"
    return False, (
        f"a second run, in other batches, gave other numbers for {int(differs.sum())} of {counted(count, 'query')}: "
        "the model draws random numbers, or an image's embedding depends on the images beside it"
    )


def within_bounds(probe: Probe) -> Verdict:
    """Perturbed pixels stay within ε and [0, 1], in all attacks so far."""
    worst, tried = max(probe.outside), f"in {counted(len(probe.outside), 'attack')}, perturbed pixels"
    if worst <= OUTSIDE:
        return True, f"{tried} stayed within ε and [0, 1]"
    return False, f"{tried} went beyond ε or [0, 1] by up to {worst:.1g}: the attacks took more than they may"


def rises(before: Tensor, after: Tensor) -> bool:
    """Whether paired scores (n,) in percent rise by more than :data:`RISE`, and than chance, by an exact sign test."""
    up, down = int((after > before).sum()), int((after < before).sum())
    tail = sum(math.comb(up + down, k) for k in range(up, up + down + 1)) / 2 ** (up + down)
    return (after - before).mean().item() > RISE and tail < CHANCE


CHECKS: dict[str, Callable[[Probe], Verdict]] = {
    "zero-eps": zero_changes_nothing,
    "stronger": stronger_is_stronger,
    "unlimited": the_limit_defeats,
    "weaker": weaker_is_weaker,
    "asked": asked_is_strong,
    "zero-gradients": gradients_exist,
    "true-gradients": gradients_are_true,
    "repeat": repeats,
    "bounds": within_bounds,
}
"""By id, in the order they are made; the preprocessing is checked before."""


def most_asked(resolved: AttackSettings) -> int:
    """Of a model without gradients, how many model queries all checks make at the most for each query image."""
    steps, again = probe_steps(resolved), len(("stronger", "weaker"))
    descents = [(1, 0)] * 2 + [(steps, 0)] * 4 + [(2 * steps, 1), (2 * steps, 0)] + [(3, 0)] * 2
    probes = sum((1 + restarts) * (SQUARE_STEPS * length + AROUND) for length, restarts in descents)
    noise = 4 * AROUND
    return probes + noise + again + (resolved.query_budget or 0) * bool(resolved.attacks)


def _differs(one: dict[str, Tensor], other: dict[str, Tensor], slack: float) -> Tensor:
    """Which queries (n,) have a reading that is not the same, by more than some slack."""
    return torch.stack([~((values - other[name]).abs() <= slack) for name, values in one.items()]).any(0)


def _mean(percent: Tensor) -> str:
    return f"{percent.mean().item():.1f}"
