"""What is measured, as data: the ten scores, the score made of them, the protocols, and the stages of robust R@1."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf

from holdfast.attacks import ATTACKS, CA, QA, TMA, RankingAttack
from holdfast.attacks.base import nearest_percent_after_the_first, no_entries
from holdfast.attacks.misrank import ODDS, Misrank
from holdfast.attacks.shift import ESBeforeLastStep
from holdfast.attacks.top1 import GTM, LTM, place_among_others
from holdfast.core.gradients import NES, WHITE_BOX, Gradient, Square
from holdfast.core.objectives import farthest_other_within_nearest_match
from holdfast.core.pgd import CONSTANT, Adam, Adaptive, Schedule
from holdfast.util.errors import HoldfastError


@dataclass(frozen=True)
class Column:
    """One of the ten scores: the mean of the reading of its name, and what it adds to the ERS, in [0, 100].

    goal: the reading that the attacker wants; None: the mean distance of the query to images of other classes.
    """

    name: str
    attack: str
    to_score: Callable[[float], float]
    goal: float | None = 0.0


COLUMNS: tuple[Column, ...] = (
    Column("CA+", "ca+", lambda v: 2 * v),
    Column("CA-", "ca-", lambda v: 100 - v, 100.0),
    Column("QA+", "qa+", lambda v: 2 * v),
    Column("QA-", "qa-", lambda v: 100 - v, 100.0),
    Column("TMA", "tma", lambda v: 100 * (1 - v), 1.0),
    Column("ES:D", "es", lambda v: 50 * (2 - v), None),
    Column("ES:R", "es", lambda v: v),
    Column("LTM", "ltm", lambda v: v),
    Column("GTM", "gtm", lambda v: v),
    Column("GTT", "gtt", lambda v: v),
)
"""The ten scores of Zhou et al., arXiv 2106.03614; a reading has the name of its column."""

TOP1 = ("ES:R", "LTM", "GTM")
"""The scores that are an R@1."""


def ers(values: Mapping[str, float]) -> float:
    """Empirical Robustness Score of the ten scores by name, in [0, 100], higher is better (arXiv 2106.03614)."""
    missing = [column.name for column in COLUMNS if column.name not in values]
    if missing:
        raise HoldfastError(f"the ERS is made of ten scores; missing: {', '.join(missing)}")
    return sum(column.to_score(values[column.name]) for column in COLUMNS) / len(COLUMNS)


@dataclass(frozen=True)
class Protocol:
    """How an evaluation is carried out.

    attacks: by name. best: keep each image's best iterate, not the last. schedule: of PGD's steps. batch: images whose
    mean is taken first, by the family of the data, the score being the mean of these means; None: of all at once.
    cascade: robust R@1 is measured too; see :data:`CASCADE`.
    """

    name: str
    version: int
    summary: str
    attacks: Mapping[str, RankingAttack]
    best: bool = False
    schedule: Schedule = CONSTANT
    batch: Mapping[str, int] | None = None
    cascade: bool = False


ADAPTIVE, ADAM = Adaptive(), Adam()

BUDGETS: dict[str, tuple[float, float, int]] = {"28": (77 / 255, 3 / 255, 32), "224": (8 / 255, 3 / 255, 32)}
"""eps, the step of ``cvpr22``, and steps, by the family of the data set."""

STRICT = Protocol(
    "strict",
    6,
    "every attack's intent carried out, and robust R@1; the default",
    ATTACKS,
    best=True,
    schedule=ADAPTIVE,
    cascade=True,
)

CVPR22 = Protocol(
    "cvpr22",
    2,
    "what the authors' released evaluator computes, to stand beside published numbers",
    {
        "ca+": CA("+", excluded=no_entries),
        "ca-": CA("-", excluded=no_entries, pool=nearest_percent_after_the_first),
        "qa+": QA("+", excluded=no_entries),
        "qa-": QA("-", excluded=no_entries, pool=nearest_percent_after_the_first),
        "tma": TMA(excluded=no_entries),
        "es": ESBeforeLastStep(),
        "ltm": LTM(farthest_other_within_nearest_match, floor=0.0),
        "gtm": GTM(place_among_others),
        "gtt": ATTACKS["gtt"],
    },
    batch={"28": 128, "224": 112},
)

WORST = Protocol("worst", 5, "robust R@1 alone: the share of queries that no attack breaks", {}, True, cascade=True)

BENIGN = Protocol("benign", 1, "no attack: retrieval metrics, NMI and collapse gauges only", {})

PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (STRICT, CVPR22, WORST, BENIGN)}
"""By name: ``strict``, ``cvpr22``, ``worst`` and ``benign``."""


@dataclass(frozen=True)
class Stage:
    """One attack of the cascade on robust R@1, tried on the queries that all stages before have left.

    steps, restarts: of the descent, or of Square or NES where no query budget sets them. first: its first step in units
    of ε. schedule: of its steps. lasting: a longer attack, which tells if the cascade has converged, is made of it.
    within: tried only on queries whose margin some stage has brought so low, in % as :class:`.Misrank` reads it.
    """

    name: str
    attack: Misrank
    steps: int = 100
    restarts: int = 0
    first: float = 2.0
    schedule: Schedule = ADAPTIVE
    gradient: Gradient = WHITE_BOX
    lasting: bool = False
    within: float = inf


FINE, COARSE = 0.06, 0.5
"""First steps of Adam in units of ε: one that stays near the image, one that crosses the ball."""

CASCADE: tuple[Stage, ...] = (
    Stage("margin", Misrank()),
    Stage("odds", ODDS),
    Stage("adam-1", Misrank(odds=1), 200, first=FINE, schedule=ADAM, lasting=True),
    *(Stage(f"adam-{odds:g}", Misrank(odds=odds), 200, first=FINE, schedule=ADAM) for odds in (0.3, 0.1, 3)),
    Stage("adam-near", Misrank(odds=1, start=0.2), 200, first=FINE, schedule=ADAM),
    Stage("adam-far", Misrank(odds=1, start=1.0), 400, first=2 * FINE, schedule=ADAM),
    Stage("adam-coarse", Misrank(odds=1), 800, first=COARSE, schedule=ADAM),
    Stage("adam-margin", Misrank(), 800, first=COARSE, schedule=ADAM),
    *(Stage(f"toward-{i + 1}", Misrank(toward=i), 50) for i in range(9)),
    Stage("adam-margin-far", Misrank(start=1.0), 400, first=COARSE, schedule=ADAM),
    Stage("closest-margin", Misrank(start=1.0), restarts=19, within=5.0),
    Stage("closest-odds", replace(ODDS, start=1.0), restarts=19, within=5.0),
    Stage("square", Misrank(), 250, gradient=Square(), lasting=True),
)
"""The stages of robust R@1, in order; see docs/concepts/cascade.md."""

BLACK_BOX: tuple[Stage, ...] = (
    Stage("square", Misrank(), 250, gradient=Square()),
    Stage("nes", Misrank(), 5, gradient=NES()),
)
"""The stages of robust R@1 where there are no gradients."""

TRIALS: tuple[Stage, ...] = (
    Stage("margin", Misrank(), 50),
    Stage("odds", ODDS, 50),
    Stage("adam-1", Misrank(odds=1), 100, first=FINE, schedule=ADAM),
)
"""What a query meets at each radius of the search for its minimal ε, from its last adversarial image."""
