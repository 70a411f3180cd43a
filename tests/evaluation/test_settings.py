"""Settings of an evaluation: the paper's by default, and what is refused before anything is computed."""

from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from holdfast.attacks import CA, QA, SPQA, Order
from holdfast.core.pgd import CONSTANT, DECAYING, Adaptive
from holdfast.core.steps import L2, LInf
from holdfast.evaluation.protocols import CVPR22, STRICT
from holdfast.evaluation.settings import (
    GRADIENTS,
    QUERY_BUDGET,
    AttackSettings,
    parse_radii,
    parse_radius,
    resolve_settings,
)
from holdfast.util.errors import HoldfastError
from tests.helpers.tiny import NINE


@pytest.mark.parametrize(("family", "eps"), [("28", 77 / 255), ("224", 8 / 255)])
@pytest.mark.parametrize("protocol", ["strict", "cvpr22"])
def test_the_papers_settings_are_the_defaults(protocol: str, family: str, eps: float) -> None:
    found = resolve_settings(family, protocol)
    worst = protocol == "strict"
    assert found == AttackSettings(protocol, NINE, eps, eps if worst else 3 / 255, 32, cascade=worst)
    assert (found.norm, found.gradient, found.max_queries) == ("linf", "white-box", None)
    assert (found.restarts, found.seed) == (0, 0)


def test_where_nothing_says_how_far_eps_must_be_given() -> None:
    with pytest.raises(HoldfastError, match="nothing says how far these images may be changed: give eps"):
        resolve_settings(None)
    assert resolve_settings(None, "benign").attacks == ()
    found = resolve_settings(None, eps=0.1)
    assert (found.eps, found.step, found.steps) == (0.1, 0.1, 32)
    with pytest.raises(HoldfastError, match="give eps"):
        resolve_settings(None, "worst")


def test_benign_attacks_nothing() -> None:
    assert resolve_settings("28", "benign").attacks == ()
    assert resolve_settings("28", "strict", attacks=()).attacks == ()


def test_what_is_given_counts_and_none_is_the_default() -> None:
    given: dict[str, Any] = {"eps": 0.1, "step": 0.01, "steps": 3, "restarts": 2, "max_queries": 7, "seed": 5}
    assert resolve_settings("28", attacks="es", **given) == AttackSettings("strict", ("es",), **given)
    nothing: dict[str, Any] = dict.fromkeys(given)
    assert resolve_settings("28", **nothing) == resolve_settings("28")


def test_descents() -> None:
    strict, faithful = resolve_settings("28").pgd(), resolve_settings("28", "cvpr22").pgd()
    assert (strict.ball, strict.step, strict.steps, strict.start) == (LInf(77 / 255), 77 / 255, 32, 0)
    assert (strict.best, strict.schedule, faithful.best, faithful.schedule) == (True, Adaptive(), False, CONSTANT)
    assert resolve_settings("28", restarts=3).pgd().restarts == 3
    nes, square = (resolve_settings("28", eps=0.1, gradient=name).pgd() for name in ("nes", "square"))
    assert (nes.gradient, nes.step, nes.schedule) == (GRADIENTS["nes"], 0.25 / 5, DECAYING)
    assert (square.gradient, square.step, square.schedule) == (GRADIENTS["square"], 0.2, CONSTANT)
    assert resolve_settings("28", gradient="square", step=0.01).pgd().step == 0.01


@pytest.mark.parametrize(
    ("given", "steps", "budget"),
    [
        ({}, 298, QUERY_BUDGET),
        ({"gradient": "nes"}, 5, QUERY_BUDGET),
        ({"query_budget": 3}, 1, 3),
        ({"query_budget": 53, "gradient": "nes"}, 1, 53),
        ({"query_budget": 1000, "gradient": "nes"}, 19, 1000),
        ({"steps": 7}, 7, None),
    ],
)
def test_a_query_budget_sets_the_steps_of_a_black_box(given: dict[str, Any], steps: int, budget: int | None) -> None:
    found = resolve_settings("28", black_box=True, **given)
    assert (found.steps, found.query_budget, found.black_box) == (steps, budget, True)
    assert found.pgd().gradient == GRADIENTS[given.get("gradient", "square")]


@pytest.mark.parametrize(
    ("protocol", "given", "gradient"),
    [
        ("benign", {}, "white-box"),
        ("worst", {}, "square"),
        ("strict", {"attacks": ("es",)}, "square"),
        ("strict", {"gradient": "white-box"}, "white-box"),
    ],
)
def test_a_black_box_is_attacked_by_square(protocol: str, given: dict[str, Any], gradient: str) -> None:
    assert resolve_settings("28", protocol, black_box=True, **given).gradient == gradient


def test_euclidean_steps_lead_across_the_ball() -> None:
    found = resolve_settings("28", "cvpr22", norm="l2", eps=2, steps=10).pgd()
    assert (found.ball, found.step) == (L2(2), 0.5)
    assert resolve_settings("28", norm="l2", eps=2, steps=10).pgd().step == 2
    assert resolve_settings("28", norm="l2", eps=2, steps=10, step=0.1).pgd().step == 0.1
    assert resolve_settings("28", norm="l2", eps=2, steps=10, gradient="square").pgd().step == 4


@pytest.mark.parametrize("eps", [1, 1.0, "1", "255/255", np.float32(1), np.int64(1), Fraction(2, 2)])
def test_numbers_of_any_kind_are_the_same_budget(eps: Any) -> None:
    found = resolve_settings("28", eps=eps, steps=np.int64(4), seed=np.uint8(3))
    assert found == resolve_settings("28", eps=1.0, steps=4, seed=3)
    assert (type(found.eps), type(found.steps), type(found.seed)) == (float, int, int)
    assert found.hash() == resolve_settings("28", eps=1.0, steps=4, seed=3).hash()


def test_names_in_any_case_and_twice_are_the_same_budget() -> None:
    assert resolve_settings("28", attacks=["ES", "QA+:5", "es"]).attacks == ("es", "qa+:5")


def test_attacks_with_several_targets() -> None:
    found = resolve_settings("28", attacks=("ca-:2", "qa+:3", "spqa-:4", "oa:6"))
    candidate, query, preserving, order = (found.attack(name) for name in found.attacks)
    assert isinstance(candidate, CA)
    assert isinstance(query, QA)
    assert isinstance(preserving, SPQA)
    assert isinstance(order, Order)
    assert (candidate.width, query.targets, preserving.targets, order.count) == (2, 3, 4, 6)
    assert found.attack("qa+") is STRICT.attacks["qa+"]
    assert resolve_settings("28", "cvpr22").attack("gtm") is CVPR22.attacks["gtm"]


def test_every_field_is_in_the_hash() -> None:
    base = resolve_settings("28", sigma=0.1)
    other: dict[str, Any] = {
        "protocol": "cvpr22",
        "attacks": ("es",),
        "eps": 0.5,
        "step": 0.5,
        "steps": 31,
        "norm": "l2",
        "gradient": "nes",
        "query_budget": 50,
        "precision": "bfloat16",
        "restarts": 1,
        "max_queries": 10,
        "seed": 1,
        "cascade": False,
        "minimal_eps": True,
        "index": "SQ8",
        "sigma": 0.25,
        "draws": 100,
        "alpha": 0.01,
    }
    assert [*other, "objects"] == [field.name for field in fields(AttackSettings)]
    hashes = {replace(base, **{name: value}).hash() for name, value in other.items()}
    hashes |= {base.hash(), base.hash({"model": "a"}), base.hash({"model": "b"}), base.hash({"model": "a"}, {"x": 1})}
    assert len(hashes) == len(other) + 4
    assert base.hash({"model": "a"}) == resolve_settings("28", sigma=0.1).hash({"model": "a"})
    assert all(len(one) == 8 for one in hashes)


def test_what_belongs_to_a_certificate_changes_no_hash_without_one() -> None:
    base = resolve_settings("28")
    assert base.hash() == resolve_settings("28", draws=100, alpha=0.01).hash()
    assert not {"sigma", "draws", "alpha"} & base.plain().keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "strickt"}, r"unknown protocol 'strickt'; did you mean 'strict'\? \(allowed: strict, cvpr22"),
        ({"attacks": ("es", "tmaa")}, r"unknown attack 'tmaa'; did you mean 'tma'\?"),
        ({"objects": {}}, "unknown setting 'objects'"),
        ({"attacks": "spqa+", "protocol": "cvpr22"}, r"unknown attack 'spqa\+'; did you mean 'qa\+'\?"),
        ({"attacks": "qa+:"}, r"after the colon comes how many targets, as in qa\+:5"),
        ({"attacks": "qa+:0"}, "after the colon"),
        ({"attacks": "tma:2"}, "tma has one target only"),
        ({"attacks": ("qa+", "qa+:1")}, r"attacks 'qa\+' and 'qa\+:1' both give QA\+: leave one out"),
        ({"attacks": "oa:1"}, "an order takes at least 2 items, not 1"),
        ({"protocol": "benign", "attacks": "es"}, "protocol 'benign' has no attacks to name.*use protocol 'strict'"),
        ({"stepz": 3}, r"unknown setting 'stepz'; did you mean 'step'\?"),
        ({"norm": "l3"}, r"unknown value of norm 'l3'; did you mean 'l2'\?"),
        ({"gradient": "ness"}, r"unknown value of gradient 'ness'; did you mean 'nes'\?"),
        ({"precision": "bf16"}, r"unknown value of precision 'bf16'; did you mean 'bfloat16'\?"),
        ({"norm": "l2"}, "give eps, in units of the Euclidean norm"),
        ({"eps": -0.1}, "eps is at least 0, not -0.1"),
        ({"eps": 1.01}, r"eps is in units of the pixel range \[0, 1\], as 8/255, not 1.01"),
        ({"eps": float("nan")}, "eps takes a finite number"),
        ({"eps": float("inf"), "norm": "l2"}, "eps takes a finite number"),
        ({"eps": "8/256/", "norm": "l2"}, "eps takes a finite number or a fraction such as 8/255, not '8/256/'"),
        ({"eps": True}, "eps takes a finite number"),
        ({"step": -1}, "step is at least 0"),
        ({"steps": 2.5}, "steps takes a whole number, not 2.5"),
        ({"steps": -1}, "steps is at least 0"),
        ({"steps": "3", "norm": "l2", "eps": 1}, "steps takes a whole number"),
        ({"restarts": -1}, "restarts is at least 0"),
        ({"max_queries": 0}, "max_queries is at least 1, not 0"),
        ({"seed": -1}, "seed is at least 0"),
        ({"steps": 0}, "steps is at least 1 where eps is not 0"),
        ({"step": 0}, "step is above 0 where eps is not 0"),
        ({"protocol": "worst", "cascade": False}, "protocol 'worst' is robust R@1 alone"),
        ({"protocol": "benign", "eps": "1/255"}, "protocol 'benign' attacks nothing: eps goes with protocol 'strict'"),
        ({"protocol": "benign", "query_budget": 5}, "attacks nothing: query_budget goes with protocol 'strict'"),
        ({"gradient": "nes", "query_budget": 40, "restarts": 2}, "query_budget is at least"),
        ({"protocol": "benign", "cascade": False}, "protocol 'benign' attacks nothing: cascade"),
        ({"protocol": "benign", "max_queries": 3}, "protocol 'benign' attacks nothing: max_queries"),
        ({"protocol": "benign", "max_queries": 3, "sigma": 0.1, "eps": 1}, "attacks nothing: eps"),
        ({"protocol": "worst", "step": 0.1}, "protocol 'worst' has no step to choose"),
        ({"protocol": "worst", "attacks": "es"}, "'worst' has no attacks to name"),
        ({"protocol": "cvpr22", "restarts": 2}, "'cvpr22' has neither restarts nor black-box gradients.*'strict'"),
        ({"protocol": "cvpr22", "gradient": "nes"}, "'cvpr22' has neither"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(HoldfastError, match=message) as caught:
        resolve_settings("28", **settings)
    assert "\n" not in str(caught.value)


def test_radii_as_text() -> None:
    assert parse_radius("8/255") == 8 / 255
    assert parse_radius(" 0.03 ") == 0.03
    assert parse_radius("2.5/255") == 2.5 / 255
    assert parse_radii("0,1,2,16/255") == [0, 1 / 255, 2 / 255, 16 / 255]
    assert parse_radii("1/255, 0.03") == [1 / 255, 0.03]
    assert parse_radii("0.5,1/4") == [0.125, 0.25]
    assert parse_radii("0.5") == [0.5]
    for text in ("", "8/", "eight", "1/0", "1e999"):
        with pytest.raises(HoldfastError, match=f"it holds '{text}', not a finite number or a fraction such as 8/255"):
            parse_radius(text)
    with pytest.raises(HoldfastError, match="a finite number or a fraction"):
        parse_radii("1,,2/255")
