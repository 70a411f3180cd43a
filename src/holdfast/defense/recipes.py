"""Training methods by name: ``hm-s-lga-ics`` or, in the paper's notation, ``HM[S,g_LGA]&ICS``."""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial

from holdfast.core.objectives import HARDEST
from holdfast.core.pgd import PGD
from holdfast.core.samplers import SAMPLERS, Sampler, semihard
from holdfast.defense import base
from holdfast.defense.base import Defense
from holdfast.defense.destinations import Boosted, Constant, Destination, Gradual, Sampled
from holdfast.defense.fare import Fare
from holdfast.defense.original import Constraint
from holdfast.defense.query import PerturbedQueries
from holdfast.util.errors import HoldfastError, unknown
from holdfast.util.imports import CUSTOM
from holdfast.util.validate import Amount, Positive

METHODS = {
    "none": "N/A",
    "est": "EST",
    "act": "ACT",
    "rest": "REST",
    "minmax": "MinMax",
    "hm": "HM",
    "hmq": "HMQ",
    "fare": "FARE",
}
RAISING = ("hm", "hmq")
"""Those that raise triplets to a destination."""
SOURCES = {
    "R": "random",
    "M": "semihard",
    "S": "softhard",
    "D": "distance-weighted",
    "H": "hardest",
    "E": "easy-positive",
    "A": "softhard-or-anchor",
}
GRADUAL = {"g_LGA": 1.0, "g_2": 2.0, "g_1/2": 0.5}
CONSTANTS = {"0": 0.0, "-gamma/2": -0.5, "-gamma": -1.0}
SHORT = {"g_LGA": "lga", "g_2": "g2", "g_1/2": "ghalf", "-gamma/2": "halfgamma", "-gamma": "gamma"} | {
    f"g_B({name})": f"b{name.lower()}" for name in SOURCES
}
DESTINATIONS = (*SOURCES, *GRADUAL, *(f"g_B({name})" for name in SOURCES), *CONSTANTS)

REFERENCES = {
    "none": "Schroff et al., CVPR 2015 (triplet loss)",
    "est": "Zhou et al., ECCV 2020",
    "act": "Zhou et al., arXiv 2106.03614",
    "rest": "Zhou et al., arXiv 2106.03614",
    "minmax": "Madry et al., ICLR 2018",
    "hm": "Zhou & Patel, CVPR 2022",
    "hmq": "Zhou & Patel, CVPR 2022 (HM), each query perturbed alone",
    "fare": "Schlarmann et al., ICML 2024",
}
ADDED = {"E": "; Xuan et al., WACV 2020 (easy positives)", "A": "; robrank (its softhard)"}
"""By sampler."""
CONSTRAINT = "Poppi et al. 2025 (LORE)"


@dataclass(frozen=True)
class LossConfig:
    """The numbers of a recipe that are not in its name.

    margin: of the triplet loss (gamma). structure: weight of the intra-class term (lambda), used where the recipe
    asks for it. boost: the most a boosted destination is raised (xi). ceiling: the loss at which a gradual
    adversary begins to grow (u), the margin where it is None. rho: the squared distance from the original that a
    constrained recipe allows a clean embedding (ρ).
    """

    margin: Amount = 0.2
    structure: Amount = 0.5
    boost: Amount = 0.1
    ceiling: Positive | None = None
    rho: Positive = 0.1


@dataclass(frozen=True)
class Recipe:
    """A training method as a value: ``method`` and ``source``, None for FARE, ``destination`` for HM and HMQ,
    ``structure`` for ICS, ``constrained`` for LORE."""

    method: str
    source: str | None
    destination: str | None = None
    structure: bool = False
    constrained: bool = False

    @property
    def notation(self) -> str:
        """The paper's name, such as ``HM[S,g_LGA]&ICS``."""
        if self.source is None:
            return "LORE" if self.constrained else METHODS[self.method]
        inside = self.source if self.destination is None else f"{self.source},{self.destination}"
        return f"{METHODS[self.method]}[{inside}]" + "&ICS" * self.structure + "&LORE" * self.constrained

    @property
    def name(self) -> str:
        """The short name, such as ``hm-s-lga-ics``."""
        for name, recipe in NAMED.items():
            if recipe == self:
                return name
        parts = [self.method, (self.source or "").lower()]
        if self.destination is not None:
            parts.append(SHORT.get(self.destination, self.destination.lower()))
        return "-".join(parts) + "-ics" * self.structure + "-lore" * self.constrained

    @property
    def summary(self) -> str:
        """One line in plain words."""
        return (
            self._method
            + ", with intra-class structure" * self.structure
            + ", clean embeddings held near the original's" * self.constrained
        )

    @property
    def _method(self) -> str:
        if self.source is None:
            return "no labels: perturbed images embedded where the original embeds the clean ones"
        triplets = f"{SOURCES[self.source]} triplets"
        return {
            "none": f"plain training on {triplets}, no defense",
            "est": f"every image shifted by itself, then {triplets}",
            "act": f"{triplets}; positive and negative pulled together, anchor clean",
            "rest": f"{triplets}; positive and negative shifted, anchor clean",
            "minmax": f"{triplets} made as hard as they get",
            "hmq": f"every image perturbed alone, until its {SOURCES[self.source]} triplet has "
            + _describe(self.destination),
        }.get(self.method, f"{triplets} raised to {_describe(self.destination)}")

    @property
    def reference(self) -> str:
        """Where it was published."""
        return REFERENCES[self.method] + ADDED.get(self.source or "", "") + f"; {CONSTRAINT}" * self.constrained

    @property
    def perturbs(self) -> bool:
        """Whether the method attacks its own training images."""
        return self.method != "none"

    @property
    def labels(self) -> bool:
        """Whether it learns from the labels of the images."""
        return self.source is not None

    @property
    def keeps_original(self) -> bool:
        """Whether it compares with the network that training starts from."""
        return self.constrained or not self.labels

    def build(self, pgd: PGD, loss: LossConfig = LossConfig()) -> Defense:
        """The defense, ready to be called. ``pgd`` is not used by a recipe that perturbs nothing.

        One that :attr:`keeps_original` is told of the embedder by :meth:`.Defense.begin` first.
        """
        defense = Fare(pgd) if self.source is None else self._on_triplets(self.source, pgd, loss)
        if self.constrained:
            defense.constraint = Constraint(loss.rho)
        return defense

    def _on_triplets(self, strategy: str, pgd: PGD, loss: LossConfig) -> Defense:
        samplers: dict[str, Sampler] = SAMPLERS | {"M": partial(semihard, margin=loss.margin)}
        source = samplers[strategy]
        learning = base.Learning(loss.margin, loss.structure if self.structure else 0.0)
        if self.method == "none":
            return base.Plain(source, learning)
        if self.method == "est":
            return base.ShiftedBatch(source, learning, pgd)
        hardest = base.ReachHardness(Constant(HARDEST))
        goal = {"rest": base.Shift(), "act": base.Collapse(), "minmax": hardest}.get(self.method)
        if goal is None:
            assert self.destination is not None
            destination = _destination(self.destination, samplers, loss)
            if self.method == "hmq":
                return PerturbedQueries(source, learning, pgd, destination)
            goal = base.ReachHardness(destination)
        return base.AdversarialTriplets(source, learning, pgd, goal)


def parse_recipe(name: str) -> Recipe:
    """The recipe of a short name or of the paper's notation; letter case and spaces do not matter.

    Raises HoldfastError naming the part that is not understood, what is allowed there, and the nearest match.
    """
    text = re.sub(r"\s+", "", name)
    if text.lower() == CUSTOM:
        raise HoldfastError(f"recipe {name!r} stands for a Defense object: give it again, holdfast.train(…, defense=…)")
    if text.lower() in NAMED:
        return NAMED[text.lower()]
    written = re.fullmatch(r"(.+?)\[(.+?)(?:,(.+))?\](&ICS)?(&LORE)?", text, re.IGNORECASE)
    short = re.fullmatch(r"([a-z]+)-([a-z])(?:-(?!(?:ics|lore|ics-lore)$)(.+?))?(-ics)?(-lore)?", text, re.IGNORECASE)
    found = written or short
    if not found:
        near = "".join(f"; did you mean {one}?" for one in get_close_matches(name.lower(), RECIPES, n=1))
        raise HoldfastError(f"recipe {name!r} is not understood; write it like hm-s-lga-ics or HM[S,g_LGA]&ICS{near}")
    named, source, destination, structure, constraint = found.groups()
    method = _match("method", named, {m: (m, paper) for m, paper in METHODS.items()})
    if method == "fare":
        raise HoldfastError(
            f"recipe {name!r}: FARE draws no triplets; write fare, or lore for FARE with the constraint"
        )
    recipe = Recipe(
        method,
        _match("sampler", source, {s: (s,) for s in SOURCES}),
        None if destination is None else _match_destination(destination),
        structure is not None,
        constraint is not None,
    )
    if (recipe.method in RAISING) != (recipe.destination is not None):
        need = "needs a destination, as in hm-s-lga" if recipe.method in RAISING else "takes no destination"
        raise HoldfastError(f"recipe {name!r}: {METHODS[recipe.method]} {need}")
    if recipe.structure and recipe.method in ("none", "act", "rest"):
        raise HoldfastError(
            f"recipe {name!r}: intra-class structure needs a perturbed anchor, and {METHODS[recipe.method]} "
            "leaves the anchor clean; it goes with hm, hmq, est and minmax"
        )
    return recipe


def _destination(name: str, samplers: dict[str, Sampler], loss: LossConfig) -> Destination:
    ceiling = loss.margin if loss.ceiling is None else loss.ceiling
    if name in samplers:
        return Sampled(samplers[name])
    if name in GRADUAL:
        return Gradual(loss.margin, ceiling, GRADUAL[name])
    if name in CONSTANTS:
        return Constant(CONSTANTS[name] * loss.margin)
    if boosted := re.fullmatch(r"g_B\((.)\)", name):
        return Boosted(Sampled(samplers[boosted[1]]), ceiling, loss.boost)
    return Constant(float(name))


def _describe(destination: str | None) -> str:
    if destination is None:
        return ""
    if destination in SOURCES:
        return f"the hardness of {SOURCES[destination]} ones"
    if boosted := re.fullmatch(r"g_B\((.)\)", destination):
        return f"the hardness of {SOURCES[boosted[1]]} ones, boosted as the loss falls"
    kinds = {"g_LGA": "a linear", "g_2": "an eager", "g_1/2": "a conservative"}
    return f"{kinds[destination]} gradual hardness" if destination in kinds else f"the hardness {destination}"


def _match(kind: str, given: str, spellings: dict[str, tuple[str, ...]]) -> str:
    for name, ways in spellings.items():
        if given.lower() in {way.lower() for way in ways}:
            return name
    raise unknown(kind, given, dict.fromkeys(way for ways in spellings.values() for way in ways))


def _match_destination(given: str) -> str:
    try:
        value = float(given)
    except ValueError:
        return _match("destination", given, {d: (d, SHORT.get(d, d)) for d in DESTINATIONS})
    if value == 0:
        return "0"
    if not -2 <= value <= 2:
        raise HoldfastError(f"destination {given} is no hardness: it lies in [-2, 2]")
    return f"{value:g}"


NAMED = {
    "fare": Recipe("fare", None),
    "lore": Recipe("fare", None, constrained=True),
    "hm-lore": Recipe("hm", "S", "g_LGA", constrained=True),
}
"""The recipes with a name of their own."""
LISTED = (
    *(f"none-{s}" for s in "rmsdh"),
    *("est-r", "rest-r", "act-r", "act-s", "minmax-r"),
    *(f"hm-{s}-{d}" for s in "rmsdh" for d in "rmsdh"),
    *("hm-s-0", "hm-s-halfgamma", "hm-s-gamma", "hm-s-bm"),
    *("hm-r-lga", "hm-s-lga", "hm-s-g2", "hm-s-ghalf"),
    *("hm-r-m-ics", "hm-s-m-ics", "hm-r-lga-ics", "hm-s-lga-ics", "hm-a-lga-ics", "hm-e-lga-ics", "hmq-e-lga-ics"),
    *NAMED,
)
RECIPES: dict[str, Recipe] = {name: parse_recipe(name) for name in LISTED}
"""The recipes that ``holdfast recipes`` lists, by short name; :func:`parse_recipe` knows every combination."""
