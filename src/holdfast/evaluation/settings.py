"""How far an evaluation pushes, and on how much: checked before anything is computed."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import count
from math import floor, log2
from typing import Annotated, Any
from uuid import uuid4

import numpy as np
from pydantic import Field, StrictBool, StrictStr
from typing_extensions import TypedDict

from holdfast.attacks import CA, QA, SPQA, Order, RankingAttack
from holdfast.attacks.base import name_of
from holdfast.core.fused import PRECISIONS
from holdfast.core.gradients import NES, WHITE_BOX, Gradient, Square
from holdfast.core.pgd import CONSTANT, DECAYING, PGD, Adaptive, Schedule, crossing
from holdfast.core.steps import BALLS
from holdfast.evaluation.protocols import BUDGETS, COLUMNS, PROTOCOLS, Protocol
from holdfast.util.errors import HoldfastError, pick
from holdfast.util.validate import Amount, Count, OneOf, Positive, Whole, fit

GRADIENTS: dict[str, Gradient] = {"white-box": WHITE_BOX, "nes": NES(), "square": Square()}
OF_ATTACKS = {"eps", "step", "steps", "norm", "gradient", "restarts", "cascade", "query_budget"}
"""What says nothing where nothing is attacked."""

QUERY_BUDGET = 300
"""Model queries that each attack on a black box may make per image, where nothing else is asked for."""
AROUND = 2
"""Queries beside those of the steps: where the descent starts, and what is read in the end."""


class _Given(TypedDict, total=False):
    attacks: Any
    eps: Amount
    step: Amount
    steps: Whole
    norm: Annotated[str, OneOf(BALLS)]
    gradient: Annotated[str, OneOf(GRADIENTS)]
    query_budget: Count
    precision: Annotated[str, OneOf(PRECISIONS)]
    restarts: Whole
    max_queries: Count
    seed: Whole
    cascade: StrictBool
    minimal_eps: StrictBool
    index: StrictStr
    sigma: Positive
    draws: Count
    alpha: Annotated[Positive, Field(lt=1)]


@dataclass(frozen=True)
class AttackSettings:
    """All that the records of an evaluation depend on, beside the model and the data.

    eps, step: in units of the pixel range [0, 1] (of the Euclidean norm, for ``norm="l2"``). query_budget: model
    queries that each attack on a black box may make per image, which decides its steps; None: the steps were given, or
    it is no black box. precision: of the network, ``float32`` or ``bfloat16``. restarts: further descents from random
    points of the ball. max_queries: images attacked, drawn by the seed; None: all. attacks: by name, ``qa+:5`` for five
    targets. objects: those that are not of the protocol, by name. cascade: whether robust R@1 is measured; by default
    where the protocol has it and no attack is named. minimal_eps: whether each query's smallest ε is searched for, up
    to ``eps``. index: that the gallery is searched by, as :func:`.build_index` has it; None: every vector is compared.
    sigma: of the noise, in units of the pixel range, that the search is smoothed with to be certified;
    None: nothing is certified. draws: noisy copies of a query that its certificate is made from. alpha: the probability
    that one is wrong.
    """

    protocol: str
    attacks: tuple[str, ...]
    eps: float
    step: float
    steps: int
    norm: str = "linf"
    gradient: str = "white-box"
    query_budget: int | None = None
    precision: str = "float32"
    restarts: int = 0
    max_queries: int | None = None
    seed: int = 0
    cascade: bool = False
    minimal_eps: bool = False
    index: str | None = None
    sigma: float | None = None
    draws: int = 1000
    alpha: float = 0.001
    objects: Mapping[str, RankingAttack] = field(default_factory=dict)

    @property
    def rules(self) -> Protocol:
        return PROTOCOLS[self.protocol]

    def attack(self, name: str) -> RankingAttack:
        """An attack of the protocol, or one given as an object, by name."""
        return self.objects[name] if name in self.objects else attack_named(name, self.rules.attacks)

    def plain(self) -> dict[str, Any]:
        """The settings as plain data, attacks by name."""
        given = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "objects"}
        absent = [name for name in ("cascade", "minimal_eps") if not given[name]]
        absent += ["sigma", "draws", "alpha"] if self.sigma is None else []
        absent += [name for name in ("query_budget", "index") if given[name] is None]
        for name in absent:  # results of before there were these have the same hash
            del given[name]
        return given | {"attacks": list(self.attacks)}

    def pgd(self) -> PGD:
        return PGD(
            BALLS[self.norm](self.eps),
            self.step,
            self.steps,
            gradient=GRADIENTS[self.gradient],
            schedule=self._schedule,
            best=self.rules.best,
            restarts=self.restarts,
        )

    @property
    def _schedule(self) -> Schedule:
        """Square needs steps of one size; what NES finds is too noisy to see whether a step pays."""
        return {"square": CONSTANT, "nes": DECAYING}.get(self.gradient, self.rules.schedule)

    @property
    def as_published(self) -> bool:
        """Whether the descent is the paper's, with its step and steps."""
        return not self.rules.best and (self.step, self.steps) in {(step, steps) for _, step, steps in BUDGETS.values()}

    @property
    def black_box(self) -> bool:
        """Whether the attacks only query the model, without gradients."""
        return self.gradient != "white-box"

    @property
    def attacking(self) -> bool:
        """Whether anything is attacked at all."""
        return bool(self.attacks) or self.cascade

    def require_no_index(self) -> None:
        """Raise HoldfastError where an index was asked for that nothing goes through."""
        if self.index is not None:
            raise HoldfastError(f"index {self.index} goes with evaluate: every vector is compared here")

    def hash(self, *others: Mapping[str, Any]) -> str:
        """Eight hex digits that stand for the budget, the protocol's version, and what else is given."""
        objects = [_identity(self.objects[name]) for name in self.attacks if name in self.objects]
        content = [self.plain(), self.rules.version, *others, *objects]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def resolve_settings(
    family: str | None, protocol: str = "strict", black_box: bool = False, **given: Any
) -> AttackSettings:
    """The budget for a data set of a ``family``, ``"28"`` or ``"224"``: the paper's where nothing else is given.

    Where no family is known (None), attacks need ``eps``. ``eps`` and ``step`` may be text: ``8/255``. black_box: the
    model has no gradients, so that attacks are by Square unless ``gradient`` says otherwise.

    Raises HoldfastError for what is not allowed, naming what is.
    """
    rules = pick("protocol", protocol, PROTOCOLS)
    given = {key: value.item() if isinstance(value, np.generic) else value for key, value in given.items()}
    given = {**fit(_Given, {key: value for key, value in given.items() if value is not None})}
    if rules.cascade and not rules.attacks and (extra := {"step", "steps", "restarts"} & given.keys()):
        raise HoldfastError(f"protocol {protocol!r} has no {min(extra)} to choose; give eps or norm")
    idle = OF_ATTACKS if "sigma" in given else OF_ATTACKS | {"max_queries"}
    if not (rules.attacks or rules.cascade) and (extra := idle & given.keys()):
        raise HoldfastError(f"protocol {protocol!r} attacks nothing: {min(extra)} goes with protocol 'strict'")
    if rules.cascade and not rules.attacks and given.get("cascade") is False:
        raise HoldfastError(f"protocol {protocol!r} is robust R@1 alone: without it (quick) nothing is measured")
    if black_box and given.get("attacks", rules.attacks or rules.cascade):
        given.setdefault("gradient", "square")
    eps, step, steps = BUDGETS[family or "28"]
    norm, gradient = given.get("norm", "linf"), given.get("gradient", "white-box")
    steps = _within_budget(given, gradient) or steps
    if norm != "linf" and "eps" not in given:
        raise HoldfastError(f"the paper has no radius for norm {norm!r}: give eps, in units of the Euclidean norm")
    if family is None and "eps" not in given and given.get("attacks", rules.attacks or rules.cascade):
        raise HoldfastError(
            "nothing says how far these images may be changed: give eps, such as 8/255 for photos and 77/255 for small "
            "drawings, in units of the pixel range [0, 1]"
        )
    eps, steps = given.setdefault("eps", eps), given.setdefault("steps", steps)
    if norm != "linf" or gradient == "nes":
        step = crossing(eps, steps)
    adaptive = gradient == "white-box" and isinstance(rules.schedule, Adaptive)
    given.setdefault("step", eps if adaptive else 2 * eps if gradient == "square" else step)
    given.setdefault("cascade", rules.cascade and "attacks" not in given)
    columns = tuple(dict.fromkeys(column.attack for column in COLUMNS if column.attack in rules.attacks))
    attacks, objects = _attacks(given.pop("attacks", columns), rules)
    settings = AttackSettings(protocol=protocol, attacks=attacks, objects=objects, **given)
    _check(settings)
    return settings


def steps_within(gradient: Gradient, budget: int) -> int:
    """How many steps a black-box gradient can take with so many model queries per image; 0 where it can take none."""
    each: int = getattr(gradient, "queries", 1)
    return max(0, budget - AROUND) // each


def _within_budget(given: dict[str, Any], gradient: str) -> int | None:
    """The steps that the query budget allows, given or not; None where there is none."""
    if gradient == "white-box":
        if "query_budget" in given:
            raise HoldfastError("a query budget goes with a black box: give gradient 'square' or 'nes' as well")
        return None
    if "steps" in given:
        if "query_budget" in given:
            raise HoldfastError("give steps or query_budget, not both: one decides the other")
        return None
    budget, descents = given.setdefault("query_budget", QUERY_BUDGET), 1 + given.get("restarts", 0)
    if not (steps := steps_within(GRADIENTS[gradient], budget // descents)):
        least = descents * next(n for n in count(1) if steps_within(GRADIENTS[gradient], n))
        raise HoldfastError(f"query_budget is at least {least} for gradient {gradient!r}, not {budget}")
    return steps


def _identity(attack: RankingAttack) -> str:
    """The repr of an attack given as an object, which stands for it; one that holds an address never comes twice."""
    text = repr(attack)
    return f"{text} {uuid4().hex}" if re.search(r" at 0x[0-9a-fA-F]+", text) else text


def _attacks(given: Any, rules: Protocol) -> tuple[tuple[str, ...], dict[str, RankingAttack]]:
    """The names of attacks given by name or as objects, and the objects, but for those that the protocol has itself."""
    found: dict[str, Any] = {}
    for one in (given,) if isinstance(given, str) or not isinstance(given, Iterable) else given:
        name = one.lower() if isinstance(one, str) else name_of(one)
        if not isinstance(one, str):
            name = next((known for known, attack in rules.attacks.items() if attack == one), name)
        if name in found and not (isinstance(one, str) and isinstance(found[name], str)):
            raise HoldfastError(f"two attacks are called {name!r}: give one of them another `name`")
        found[name] = one
    objects = {name: one for name, one in found.items() if not isinstance(one, str) and rules.attacks.get(name) != one}
    for name, one in objects.items():
        if name in rules.attacks:
            raise HoldfastError(f"protocol {rules.name!r} has another attack called {name!r}: give yours a `name`")
        if scores := {column.name for column in COLUMNS} & set(one.readings):
            raise HoldfastError(f"attack {name!r} gives {scores.pop()}, a score of the protocols: rename its reading")
    return tuple(found), objects


def attack_named(name: str, attacks: Mapping[str, RankingAttack]) -> RankingAttack:
    """``qa+``, or ``qa+:5`` for five targets (queries, for a candidate attack; items to order, for ``oa``)."""
    base, colon, number = name.lower().partition(":")
    attack = pick("attack", base, attacks)
    if not colon:
        return attack
    if not number.isdecimal() or int(number) < 1:
        raise HoldfastError(f"attack {name!r}: after the colon comes how many targets, as in {base}:5")
    if isinstance(attack, CA):
        return replace(attack, width=int(number))
    if isinstance(attack, (QA, SPQA)):
        return replace(attack, targets=int(number))
    if isinstance(attack, Order):
        return replace(attack, count=int(number))
    raise HoldfastError(
        f"attack {name!r}: {base} has one target only; those with more: ca+, ca-, qa+, qa-, spqa+, spqa-, oa"
    )


def parse_radius(text: str) -> float:
    """A size in pixel units from ``0.03``, ``8/255`` or ``2.5/255``."""
    return fit(Amount, text, "a radius")


def parse_radii(text: str) -> list[float]:
    """Several radii, from ``0,1,2,4/255`` (one denominator for all) or ``1/255,0.03``."""
    parts = [part.strip() for part in text.split(",")]
    _, slash, denominator = parts[-1].partition("/")
    if slash and not any("/" in part for part in parts[:-1]):
        parts = [*(f"{part}/{denominator}" for part in parts[:-1]), parts[-1]]
    return [parse_radius(part) for part in parts]


def _check(settings: AttackSettings) -> None:
    if settings.norm == "linf" and settings.eps > 1:
        raise HoldfastError(f"eps is in units of the pixel range [0, 1], as 8/255, not {settings.eps!r}")
    if not settings.rules.best and (settings.restarts or settings.gradient != "white-box"):
        raise HoldfastError(
            f"protocol {settings.protocol!r} has neither restarts nor black-box gradients, or its numbers would not "
            "compare; use protocol 'strict'"
        )
    if (fewest := floor(log2(1 / settings.alpha)) + 1) > settings.draws:
        raise HoldfastError(f"draws is at least {fewest} for alpha {settings.alpha:g}, or nothing could be certified")
    if settings.attacks and not settings.rules.attacks:
        raise HoldfastError(f"protocol {settings.protocol!r} has no attacks to name; use protocol 'strict'")
    if settings.index is not None and not settings.rules.best and settings.rules.attacks:
        raise HoldfastError(
            f"protocol {settings.protocol!r} compares every vector: an index goes with 'strict' or 'worst'"
        )
    if settings.index is not None and settings.sigma is not None:
        raise HoldfastError("a certificate is of a search that compares every vector: give sigma or index, not both")
    if settings.minimal_eps and not (settings.cascade and settings.eps):
        raise HoldfastError(
            "the minimal ε is searched for up to the radius of robust R@1, which has to be measured: use protocol "
            "'strict' or 'worst', with eps above 0, all attacks, and not quick"
        )
    if settings.attacks and settings.eps and not (settings.steps and settings.step):
        name = "step is above 0" if settings.steps else "steps is at least 1"
        raise HoldfastError(f"{name} where eps is not 0: nothing would move")
    given: dict[str, str] = {}
    for name in settings.attacks:
        for reading in settings.attack(name).readings:
            if (other := given.setdefault(reading, name)) != name:
                raise HoldfastError(f"attacks {other!r} and {name!r} both give {reading}: leave one out")
