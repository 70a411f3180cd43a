"""Names of training methods: the house's and the paper's."""

import csv
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast import report
from holdfast.core.pgd import PGD
from holdfast.core.samplers import EmbeddedBatch
from holdfast.core.steps import LInf
from holdfast.defense.base import AdversarialTriplets, Plain, ReachHardness, ShiftedBatch
from holdfast.defense.destinations import Boosted, Constant, Gradual, Sampled
from holdfast.defense.fare import Fare
from holdfast.defense.recipes import (
    DESTINATIONS,
    METHODS,
    RAISING,
    RECIPES,
    REFERENCES,
    SOURCES,
    LossConfig,
    Recipe,
    parse_recipe,
)
from holdfast.util.errors import HoldfastError

PUBLISHED = Path(report.__file__).with_name("published.csv")
PLAIN_PGD = PGD(LInf(8 / 255), 1 / 255, 8)
EVERY = [
    *(Recipe(method, source) for method in METHODS if method not in (*RAISING, "fare") for source in SOURCES),
    *(Recipe("hm", source, destination) for source in SOURCES for destination in (*DESTINATIONS, "-0.1", "2")),
    *(Recipe("hmq", "E", destination, structure) for destination in DESTINATIONS for structure in (True, False)),
    *(Recipe("hm", "S", destination, structure=True) for destination in DESTINATIONS),
    *(Recipe(method, "R", structure=True) for method in ("est", "minmax")),
    *(Recipe(method, "R", constrained=True) for method in METHODS if method not in (*RAISING, "fare")),
    *(Recipe("hm", "S", destination, structure, True) for destination in DESTINATIONS for structure in (True, False)),
    *(Recipe("fare", None, constrained=constrained) for constrained in (True, False)),
]


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_names_and_notations_round_trip(recipe: Recipe) -> None:
    assert parse_recipe(recipe.name) == recipe
    assert parse_recipe(recipe.notation) == recipe


def test_names_are_unique_and_described() -> None:
    assert len({recipe.name for recipe in EVERY}) == len(EVERY)
    assert all(recipe.name == name for name, recipe in RECIPES.items())
    assert len({recipe.summary for recipe in EVERY}) == len(EVERY)
    assert set(REFERENCES) == set(METHODS)


def test_a_recipe_names_whoever_published_its_parts() -> None:
    assert parse_recipe("hm-s-lga").reference == "Zhou & Patel, CVPR 2022"
    assert all(name in parse_recipe("hm-e-lga-ics-lore").reference for name in ("Patel", "Xuan", "Poppi"))


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("HM[S,g_LGA]&ICS", "hm-s-lga-ics"),
        (" hm [ s , G_lga ] & ics ", "hm-s-lga-ics"),
        ("HM-S-LGA-ICS", "hm-s-lga-ics"),
        ("hm[s,lga]", "hm-s-lga"),
        ("HM[S,g_1/2]", "hm-s-ghalf"),
        ("hm-s-g_b(m)", "hm-s-bm"),
        ("HM[S, -gamma/2]", "hm-s-halfgamma"),
        ("HM[R,-0.05]", "hm-r--0.05"),
        ("HM[S,0.0]", "hm-s-0"),
        ("N/A[R]", "none-r"),
        ("none[r]", "none-r"),
        ("MinMax[R]", "minmax-r"),
        ("FARE", "fare"),
        ("Lore", "lore"),
        ("HM[S,g_LGA]&LORE", "hm-lore"),
        ("hm-s-lga-lore", "hm-lore"),
        ("HM[S, g_LGA] & ICS & lore", "hm-s-lga-ics-lore"),
        ("hm-r--0.05-lore", "hm-r--0.05-lore"),
    ],
)
def test_spellings(spelling: str, name: str) -> None:
    assert parse_recipe(spelling).name == name


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("hn-s-lga", r"method 'hn'; did you mean 'hm'"),
        ("hm-x-lga", r"sampler 'x' \(allowed: R, M, S, D, H, E, A\)"),
        ("hm-s-lgaa", r"destination 'lgaa'; did you mean 'lga'"),
        ("HM[S,g_LGB]", r"destination 'g_LGB'; did you mean 'g_LGA'"),
        ("hms-lga-ics", r"'hms-lga-ics'.*did you mean hm-s-lga-ics"),
        ("min-max-r", r"did you mean minmax-r"),
        ("hm-s", r"needs a destination"),
        ("hmq-e-ics", r"HMQ needs a destination, as in hm-s-lga"),
        ("hm-s-ics", r"needs a destination"),
        ("act-r-m", r"ACT takes no destination"),
        ("hm-s-3", r"destination 3.*\[-2, 2\]"),
        ("hm-s-nan", r"destination nan.*\[-2, 2\]"),
        ("", r"write it like"),
        ("faer", r"did you mean fare"),
        ("lor", r"did you mean lore"),
        ("hm-lor", r"did you mean hm-lore"),
        ("fare-r", r"FARE draws no triplets; write fare, or lore"),
        ("hm-s-lore", r"needs a destination"),
        ("act-r-ics-lore", r"needs a perturbed anchor"),
    ],
)
def test_errors_name_the_nearest(spelling: str, message: str) -> None:
    with pytest.raises(HoldfastError, match=message):
        parse_recipe(spelling)


@pytest.mark.parametrize("name", ["none-r-ics", "act-r-ics", "ACT[S]&ICS", "rest-r-ics", "N/A[R] & ICS"])
def test_structure_needs_a_perturbed_anchor(name: str) -> None:
    with pytest.raises(HoldfastError, match=r"needs a perturbed anchor.*hm, hmq, est and minmax"):
        parse_recipe(name)


def destination_of(defense: nn.Module) -> nn.Module:
    assert isinstance(defense, AdversarialTriplets)
    assert isinstance(defense.goal, ReachHardness)
    return defense.goal.destination


def test_recipes_build_what_they_say() -> None:
    assert isinstance(parse_recipe("none-s").build(PLAIN_PGD), Plain)
    assert isinstance(parse_recipe("est-r").build(PLAIN_PGD), ShiftedBatch)
    plain, built = (
        parse_recipe(name).build(PLAIN_PGD, LossConfig(margin=0.4, structure=0.05, boost=0.3))
        for name in ("hm-s-m", "hm-s-lga-ics")
    )
    assert isinstance(plain, AdversarialTriplets)
    assert plain.learning.structure == 0
    assert isinstance(built, AdversarialTriplets)
    assert built.learning.margin == 0.4
    assert built.learning.structure == 0.05


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_what_a_recipe_needs(recipe: Recipe) -> None:
    defense = recipe.build(PLAIN_PGD, LossConfig(rho=0.07))
    assert isinstance(defense, Fare) is not recipe.labels
    assert (defense.constraint is not None) is recipe.constrained
    assert defense.constraint is None or defense.constraint.rho == 0.07
    assert (defense.keeps_original or defense.constraint is not None) is recipe.keeps_original


@pytest.mark.parametrize(
    ("name", "kind", "attributes"),
    [
        ("hm-s-0", Constant, {"value": 0.0}),
        ("hm-s-halfgamma", Constant, {"value": -0.2}),
        ("hm-s-gamma", Constant, {"value": -0.4}),
        ("hm-s--0.1", Constant, {"value": -0.1}),
        ("minmax-r", Constant, {"value": 2.0}),
        ("hm-s-h", Sampled, {}),
        ("hm-s-lga", Gradual, {"margin": 0.4, "power": 1.0, "left.ceiling": 0.4}),
        ("hm-s-g2", Gradual, {"margin": 0.4, "power": 2.0, "left.ceiling": 0.4}),
        ("hm-s-ghalf", Gradual, {"margin": 0.4, "power": 0.5, "left.ceiling": 0.4}),
        ("hm-s-bm", Boosted, {"boost": 0.3, "left.ceiling": 0.4}),
    ],
)
def test_destinations_by_name(name: str, kind: type, attributes: dict[str, float]) -> None:
    destination = destination_of(parse_recipe(name).build(PLAIN_PGD, LossConfig(margin=0.4, boost=0.3)))
    assert isinstance(destination, kind)
    for path, value in attributes.items():
        part: object = destination
        for attribute in path.split("."):
            part = getattr(part, attribute)
        assert part == pytest.approx(value)


@pytest.mark.parametrize(("margin", "negatives"), [(0.2, {2}), (0.5, {2, 3})])
def test_semihard_triplets_take_the_margin_of_the_recipe(margin: float, negatives: set[int]) -> None:
    """As source and as destination: at distance 0.6, negatives at 0.7 and 0.9."""
    angle = 2 * (torch.tensor([0.0, 0.6, 0.7, 0.9]) / 2).asin()
    z = torch.stack((angle.cos(), angle.sin()), dim=1)
    batch = EmbeddedBatch.of(z, torch.tensor([0, 0, 1, 1]), torch.zeros(200, dtype=torch.long))
    defense = parse_recipe("hm-m-m").build(PLAIN_PGD, LossConfig(margin=margin))
    destination = destination_of(defense)
    assert isinstance(destination, Sampled)
    assert isinstance(defense, AdversarialTriplets)
    for sampler in (defense.source, destination.sampler):
        assert set(sampler(batch, torch.Generator().manual_seed(0)).negative.tolist()) == negatives


def test_the_ceiling_can_be_another_than_the_margin() -> None:
    destination = destination_of(parse_recipe("hm-s-lga").build(PLAIN_PGD, LossConfig(ceiling=2.2)))
    assert isinstance(destination, Gradual)
    assert destination.left.ceiling == 2.2


def test_every_published_defense_has_a_name() -> None:
    with PUBLISHED.open(newline="") as file:
        written = {row["defense"] for row in csv.DictReader(file)}
    names = {re.sub(r"\s*\(\w+=[\d.]+\)$", "", name) for name in written if "L_ICS(" not in name}
    assert len(names) > 20
    assert {parse_recipe(name).notation for name in names} == names
    assert {parse_recipe(name).name for name in names} <= set(RECIPES)
