"""The picture of robustness against the cost of training: which points it has, and that it can be drawn."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from xml.etree import ElementTree

import pytest

from examples.costs import _draw_published, draw, gather, main, summary
from holdfast.report import find
from holdfast.util.errors import HoldfastError
from tests.helpers.result_files import write


def run(
    folder: Path, recipe: str = "act-r", steps: int = 8, seed: int = 0, changes: Any = None, **settings: Any
) -> Path:
    """The result of a run; ``settings`` of its training with ``__`` for the dot, ``changes`` of the file."""
    trained = {"seed": seed, "pgd.steps": steps, "pgd.norm": "linf", "pgd.step": 3 / 255, "optim.epochs": 2}
    trained |= {key.replace("__", "."): value for key, value in settings.items()}
    model = {"recipe": recipe, "backbone": "c2f2", "weights": "last", "training_steps": steps, "seed": seed}
    model["training"] = {"settings": trained, "steps": 468, "passes": 5e5 * (seed + 1), "seconds": 100.0 * (seed + 1)}
    model |= (changes := dict(changes or {})).pop("model", {})
    name = ",".join([recipe, str(steps), *(f"{key}={value}" for key, value in trained.items())]).replace("/", "of")
    return write(folder / name / "result.json", **{"name": name, "model": model, **changes})


def labels(folder: Path) -> list[tuple[str, str, int]]:
    return [(point.recipe, point.label, len(point.group.members)) for point in gather(find([folder]), "strict")]


def test_seeds_are_joined_and_steps_are_not(tmp_path: Path) -> None:
    for seed, ers in enumerate((20.0, 24.0, 28.0)):
        run(tmp_path, seed=seed, changes={"ERS": {"value": ers}, "benign": {"R@1": 80.0 + seed}})
    run(tmp_path, steps=32)
    many, one = gather(find([tmp_path]), "strict")
    assert [many.at(cost) for cost in ("nominal", "passes", "seconds")] == pytest.approx([9, 1.0, 200])
    assert [many.at("seconds", member) for member in many.group.members] == [100, 200, 300]
    assert (many.at("ERS"), many.at("R@1")) == (24, 81)
    assert (one.eta, one.at("nominal"), one.step) == (32, 33, many.step)
    rows = [line.split(" | ") for line in summary([many, one]).splitlines()[2:]]
    assert [row[1:7] for row in rows] == [
        ["η=8", "3", "9", "1.00", "200", "24.0"],
        ["η=32", "1", "33", "0.50", "100", "63.3"],
    ]


def test_points_are_labelled_with_what_is_unusual(tmp_path: Path) -> None:
    run(tmp_path, "none-r", 32, pgd__step=12 / 255)
    run(tmp_path, "act-r", 32)
    run(tmp_path, "act-r", 8)
    run(tmp_path, "act-r", 8, pgd__step=12 / 255)
    run(tmp_path, "hm-s-lga", 8, pgd__step=0.5, pgd__norm="l2")
    assert labels(tmp_path) == [
        ("none-r", "", 1),
        ("act-r", "η=8", 1),
        ("act-r", "η=32", 1),
        ("act-r", "η=8, α=12/255", 1),
        ("hm-s-lga", "η=8, α=0.5 (l2)", 1),
    ]
    plain, *_ = gather(find([tmp_path]), "strict")
    assert plain.at("nominal") == 1


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    old = write(tmp_path / "old" / "result.json")
    for protocol in ("strict", "cvpr22"):
        with pytest.raises(HoldfastError, match=f"no result of protocol '{protocol}' has an ERS and says what"):
            gather(find([old]), protocol)
    first, other = run(tmp_path / "a"), run(tmp_path / "c", seed=1, changes={"data": {"name": "cub"}})
    with pytest.raises(HoldfastError, match="on several data sets: cub, fashion-mnist"):
        gather(find([first, other]), "strict")
    with pytest.raises(HoldfastError, match=r"recipe 'hm-d-h' has no colour here \(those that have: none-r, "):
        gather(find([run(tmp_path / "d", "hm-d-h")]), "strict")
    assert len(gather(find([old, first]), "strict")) == 1


@pytest.mark.parametrize(
    "other", [{"ERS": None}, {"settings": {"gradient": "square"}}, {"model": {"surrogate": "1a2b3c4d"}}], ids=str
)
def test_a_second_evaluation_of_some_attacks_or_weaker_ones_is_no_point(tmp_path: Path, other: dict[str, Any]) -> None:
    run(tmp_path / "whole", changes={"settings": {"precision": "bfloat16"}})
    run(tmp_path / "other", changes=other)
    assert labels(tmp_path) == [("act-r", "η=8", 1)]


@pytest.mark.parametrize(
    ("name", "values", "shown"),
    [
        ("eps", (0.25, 0.5), "0.25, 0.5"),
        ("steps", (32, 100), "100, 32"),
        ("norm", ("linf", "l2"), "l2, linf"),
        ("restarts", (0, 2), "0, 2"),
    ],
)
def test_unlike_attacks_are_not_drawn_together(
    tmp_path: Path, name: str, values: tuple[object, object], shown: str
) -> None:
    for i, value in enumerate(values):
        run(tmp_path / f"{i}", seed=i, changes={"settings": {name: value}})
    with pytest.raises(
        HoldfastError, match=f"^the results differ in {name} of the attack: {shown}; give those of one$"
    ):
        gather(find([tmp_path]), "strict")


def test_published_points_are_those_of_the_defaults_and_of_plain_training(tmp_path: Path) -> None:
    for recipe in ("none-s", "hm-s-lga-ics"):
        run(tmp_path, recipe, changes={"data": {"name": "cub"}})
    axes = Mock()
    _draw_published(axes, gather(find([tmp_path]), "strict"), "R@1")
    assert [call.args[0] for call in axes.plot.call_args_list] == [[1], [3, 5, 9, 17, 33]]


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib (the extra 'plot') is not installed")
def test_the_same_results_give_the_same_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for recipe, steps, seed in (("none-r", 8, 0), ("act-r", 8, 0), ("act-r", 8, 1), ("act-r", 32, 0)):
        run(tmp_path / "results", recipe, steps, seed, changes={"protocol": "cvpr22"})
    pictures = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for picture in pictures:
        main([str(tmp_path / "results"), "--protocol", "cvpr22", "--published", "--out", str(picture)])
    texts = [picture.read_bytes() for picture in pictures]
    assert texts[0] == texts[1]
    shown = [node.text for node in ElementTree.fromstring(texts[0]).iter("{http://www.w3.org/2000/svg}text")]
    assert {"fashion-mnist, c2f2, protocol cvpr22", "act-r", "η=32", "published"} <= set(shown)
    assert capsys.readouterr().out.startswith(f"{pictures[0]}\n\n| recipe |")
    with pytest.raises(HoldfastError, match=r"cannot write .*/none/a\.svg"):
        draw(gather(find([tmp_path]), "cvpr22"), tmp_path / "none" / "a.svg")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    points = gather(find([run(tmp_path)]), "strict")
    with pytest.raises(HoldfastError, match=r"pip install 'holdfast\[plot\]'"):
        draw(points, tmp_path / "costs.svg")
