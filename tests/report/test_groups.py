"""Results taken together over seeds, and put beside the published rows with the differences."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from holdfast.report import BESIDE_PUBLISHED, Group, beside_published, find, grouped, one_beside_published, published
from holdfast.report.published import BENIGN, SCORES
from tests.helpers.result_files import CONTENT, write

T_975 = {1: 12.7062, 2: 4.30265}
"""The 97.5 % points of Student's t with 1 and 2 degrees of freedom, from a printed table."""
SETTINGS = {"recipe": "act-r", "pgd.steps": 8, "pgd.step": 3 / 255, "optim.epochs": 2}


def trained(folder: Path, seed: int, *, training: dict[str, Any] | None = None, **changes: Any) -> Path:
    """The result of a run of a sweep, beside those of its other seeds; ``training`` changes its settings."""
    settings = {**SETTINGS, **(training or {}), "seed": seed}
    cost = {"steps": 900, "passes": 1e6 * (1 + seed), "seconds": 100.0 * (1 + seed)}
    model = {"training_steps": 8, "weights": "last", "seed": seed, "training": {"settings": settings, **cost}}
    model |= changes.pop("model", {})
    return write(
        folder / f"{len(list(folder.glob('*.json')))}.json",
        **{"name": f"act-r,pgd.steps=8,seed={seed}", "protocol": "cvpr22", "model": model, **changes},
    )


def groups(*paths: Path) -> list[Group]:
    return grouped(find(paths))


def sizes(*paths: Path) -> list[int]:
    return [len(group.members) for group in groups(*paths)]


def column(score: float, width: float = 1.0) -> dict[str, float]:
    return {"value": score, "low": score - width, "high": score + width}


def named(results: list[Path]) -> tuple[list[str], list[dict[str, str]]]:
    header, rows = beside_published(find(results))
    table = [dict(zip(header, row, strict=True)) for row in rows]
    return [row["name"] for row in table], table


# ---- groups ---------------------------------------------------------------------------------------------------------


def test_the_mean_over_seeds_and_its_interval(tmp_path: Path) -> None:
    values = (20.0, 23.0, 26.0)
    paths = [trained(tmp_path, seed, ERS=column(value), benign={"R@1": 80 + seed}) for seed, value in enumerate(values)]
    (group,) = groups(*paths)
    assert group.name == "act-r,pgd.steps=8"
    assert (group.number("ERS"), group.number("R@1"), group.number("passes")) == (23.0, 81.0, 2e6)
    half = T_975[2] * 3 / math.sqrt(3)
    assert group.interval("ERS") == pytest.approx((23 - half, 23 + half), abs=1e-3)
    half = T_975[2] * 1 / math.sqrt(3)
    assert group.interval("R@1") == pytest.approx((81 - half, 81 + half), abs=1e-3)
    (pair,) = groups(*paths[:2])
    half = T_975[1] * math.sqrt(4.5) / math.sqrt(2)
    assert pair.interval("ERS") == pytest.approx((21.5 - half, 21.5 + half), abs=1e-3)


def test_a_single_seed_keeps_its_own_bounds_and_name(tmp_path: Path) -> None:
    (group,) = groups(trained(tmp_path, 4))
    assert group.name == "act-r,pgd.steps=8,seed=4"
    assert group.interval("ERS") == (62.5, 64.1)
    assert group.interval("R@1") is None


@pytest.mark.parametrize(
    "other",
    [
        {"training": {"pgd.step": 12 / 255}},
        {"training": {"optim.epochs": 3}},
        {"settings": {"max_queries": 512}},
        {"settings": {"eps": 8 / 255}},
        {"settings": {"steps": 8}},
        {"settings": {"seed": 1}},
        {"settings": {"precision": "bfloat16"}},
        {"protocol": "strict"},
        {"protocol_version": 2},
        {"data": {"name": "cub"}},
        {"data": {"hash": "00000000"}},
        {"model": {"recipe": "act-s"}},
        {"model": {"backbone": "resnet18"}},
        {"model": {"weights": "best"}},
        {"model": {"surrogate": "1a2b3c4d"}},
    ],
    ids=str,
)
def test_what_differs_in_more_than_the_seed_stays_apart(tmp_path: Path, other: dict[str, Any]) -> None:
    paths = [trained(tmp_path, 0), trained(tmp_path, 1), trained(tmp_path, 2, **other)]
    assert sizes(*paths) == [2, 1]


@pytest.mark.parametrize("setting", ["recipe", "model.backbone"])
def test_objects_of_somebody_s_own_are_not_taken_for_the_same(tmp_path: Path, setting: str) -> None:
    assert sizes(*(trained(tmp_path, seed, training={setting: "custom"}) for seed in (0, 1, 2))) == [1, 1, 1]


def test_groups_stand_where_their_first_member_stood(tmp_path: Path) -> None:
    order = [(0, 8), (0, 32), (1, 8), (1, 32), (2, 8)]
    found = groups(*(trained(tmp_path, seed, training={"pgd.steps": steps}) for seed, steps in order))
    seeds = [[member.content["model"]["seed"] for member in group.members] for group in found]
    assert seeds == [[0, 1, 2], [0, 1]]


def test_a_seed_counts_once(tmp_path: Path) -> None:
    paths = [trained(tmp_path, seed) for seed in (0, 1, 0, 2, 1)]
    found = groups(*paths)
    assert [[member.path for member in group.members] for group in found] == [
        [paths[0], paths[1], paths[3]],
        [paths[2], paths[4]],
    ]


def test_results_without_their_training_stay_alone(tmp_path: Path) -> None:
    older = [write(tmp_path / f"{name}.json", name=name) for name in ("a,seed=0", "a,seed=1")]
    found = groups(*older, trained(tmp_path, 0))
    assert [group.name for group in found] == ["a,seed=0", "a,seed=1", "act-r,pgd.steps=8,seed=0"]


def test_a_mean_needs_every_member(tmp_path: Path) -> None:
    paths = [trained(tmp_path, 0), trained(tmp_path, 1, columns={"TMA": {"value": None}}, ERS=None)]
    (group,) = groups(*paths)
    for name in ("TMA", "ERS"):
        assert (group.number(name), group.interval(name)) == (None, None)
    assert group.number("ES:D") == 6.0


def test_the_verdict_of_a_group(tmp_path: Path) -> None:
    paths = [trained(tmp_path, seed, collapsed=seed == 1) for seed in range(3)]
    (group,) = groups(*paths)
    assert group.verdict == "ok ×2, COLLAPSED ×1"
    (group,) = groups(paths[0], paths[2])
    assert group.verdict == "ok"


# ---- beside the published rows --------------------------------------------------------------------------------------


def test_groups_beside_published_rows(tmp_path: Path) -> None:
    paths = [
        trained(tmp_path, seed, ERS=column(value), columns={"ES:R": column(48.5 + seed)})
        for seed, value in enumerate((24.0, 25.0, 26.0))
    ]
    names, (ours, theirs, gap, *others) = named(paths)
    assert names == [
        *("act-r,pgd.steps=8", "ACT[R], C2F2, η=32", "ours, η=8 - published, η=32"),
        *("N/A[R], C2F2", "EST[R], C2F2, η=32"),
    ]
    half = T_975[2] / math.sqrt(3)
    assert (ours["seeds"], ours["ERS"], ours["R@1"]) == ("3", f"25.0 ±{half:.1f}", "78.6 ±0.0")
    assert (ours["passes"], ours["seconds"], ours["verdict"]) == ("2M", "200", "ok")
    assert ours["source"] == f"{paths[0]} and 2 more"
    assert (theirs["protocol"], theirs["data"], theirs["ε"], theirs["steps"]) == (
        *("published", "Fashion-MNIST", "77/255", "32"),
    )
    assert (theirs["ERS"], theirs["robust R@1"], theirs["passes"], theirs["seeds"]) == ("63.3", "", "", "")
    assert theirs["source"].startswith("robrank repository")
    assert gap["ERS"] == f"-38.3 ±{half:.1f}*"
    assert gap["ES:R"] == f"+1.0 ±{half:.1f}"
    assert (gap["protocol"], gap["robust R@1"], gap["verdict"]) == ("", "", "")
    assert all(row["source"] for row in others)


@pytest.mark.parametrize(
    ("low", "value", "high", "shown"),
    [
        (62.0, 63.0, 64.0, "-0.3 ±1.0"),
        (61.1, 62.2, 63.2, "-1.1 ±1.1*"),
        (61.0, 62.2, 63.28, "-1.1 ±1.1"),
        (63.32, 64.0, 65.0, "+0.7 (+0.0 to +1.7)"),
        (63.28, 64.0, 65.0, "+0.7 (+0.0 to +1.7)"),
        (63.4, 64.0, 65.0, "+0.7 (+0.1 to +1.7)*"),
        (63.31, 64.0, 64.7, "+0.7 ±0.7"),
        (63.31, 63.31, 63.31, "+0.0 ±0.0"),
        (60.0, 60.0, 60.0, "-3.3 ±0.0"),
    ],
)
def test_the_mark_says_that_the_interval_excludes_zero(
    tmp_path: Path, low: float, value: float, high: float, shown: str
) -> None:
    path = trained(tmp_path, 0, ERS={"value": value, "low": low, "high": high})
    assert named([path])[1][2]["ERS"] == shown


def test_a_single_seed_has_no_interval_of_its_benign_metrics(tmp_path: Path) -> None:
    gap = named([trained(tmp_path, 0)])[1][2]
    assert [gap[name] for name in BENIGN] == ["-0.1", "-0.1", "+0.0", "+0.0"]


def test_half_precision_is_named_and_compared(tmp_path: Path) -> None:
    ours, _, gap, *_ = named([trained(tmp_path, 0, settings={"precision": "bfloat16"})])[1]
    assert ours["protocol"] == "cvpr22, bfloat16"
    assert "" not in {gap[name] for name in (*SCORES, "ERS")}


@pytest.mark.parametrize(
    "other",
    [
        {"protocol": "strict"},
        {"settings": {"eps": 8 / 255}},
        {"settings": {"steps": 8}},
        {"settings": {"norm": "l2"}},
        {"settings": {"gradient": "nes"}},
        {"settings": {"eps": None, "steps": None}},
        {"model": {"surrogate": "1a2b3c4d"}},
    ],
    ids=str,
)
def test_numbers_of_another_attack_are_not_subtracted(tmp_path: Path, other: dict[str, Any]) -> None:
    gap = named([trained(tmp_path, 0, **other)])[1][2]
    assert gap["R@1"] == "-0.1"
    assert {gap[name] for name in (*SCORES, "ERS")} == {""}


def test_the_published_row_of_the_same_steps_comes_first(tmp_path: Path) -> None:
    model = {"recipe": "hm-s-lga-ics", "backbone": "resnet18", "training_steps": 8}
    names, rows = named([trained(tmp_path, 0, model=model, data={"name": "cub"})])
    assert names[1:11:2] == [f"HM[S,g_LGA]&ICS, ResNet-18, η={eta}" for eta in (8, 2, 4, 16, 32)]
    assert names[2:11:2] == ["ours - published", *(f"ours, η=8 - published, η={eta}" for eta in (2, 4, 16, 32))]
    assert [row["protocol"] for row in rows[11:]] == ["published"] * 57


def test_the_steps_do_not_matter_to_a_recipe_without_attack(tmp_path: Path) -> None:
    names, _ = named([trained(tmp_path, 0, model={"recipe": "none-r", "training_steps": 8})])
    assert names[1:3] == ["N/A[R], C2F2", "ours - published"]


@pytest.mark.parametrize(
    ("data", "recipe", "loss", "rows"),
    [
        ("cub", "hm-s-lga-ics", {"loss.structure": 1.0}, ["HM[S,g_LGA]&ICS(lambda=1.0)"]),
        ("cub", "hm-s-lga-ics", {"loss.structure": 0.5, "loss.ceiling": None}, ["HM[S,g_LGA]&ICS"] * 5),
        ("cub", "hm-s-lga-ics", {"loss.margin": 0.3}, []),
        ("cub", "hm-s-lga", {}, ["HM[S,g_LGA]"] * 5),
        ("cub", "hm-s-lga", {"loss.ceiling": 2.2}, ["HM[S,g_LGA] (u=2.2)"]),
        ("cub", "hm-s-bm", {}, ["HM[S,g_B(M)] (xi=0.1)"]),
        ("cub", "hm-s-bm", {"loss.boost": 0.2}, []),
        ("sop", "hm-s-lga-ics", {}, ["HM[S,g_LGA]&ICS"] * 2),
        ("sop", "hm-s-lga-ics", {"loss.structure": 0.05}, ["HM[S,g_LGA]&ICS"] * 2),
        ("sop", "hm-s-lga-ics", {"loss.structure": 0.5}, ["HM[S,g_LGA]&ICS (lambda=0.5)"] * 2),
        ("cub", "none-s", {}, ["HM[S,S]"]),
        ("cub", "none-r", {}, ["N/A[R]"]),
        ("cub", "hm-s-s", {}, []),
    ],
    ids=str,
)
def test_published_rows_of_the_same_loss_and_attack(
    tmp_path: Path, data: str, recipe: str, loss: dict[str, float], rows: list[str]
) -> None:
    model = {"recipe": recipe, "backbone": "resnet18"}
    path = trained(tmp_path, 0, model=model, training={"recipe": recipe, **loss}, data={"name": data})
    ours, *_ = json.loads(BESIDE_PUBLISHED["json"](find([path])))
    assert [row["defense"] for row in ours["published"]] == rows


def test_a_result_without_its_training_had_the_defaults(tmp_path: Path) -> None:
    model = {"recipe": "hm-s-lga", "backbone": "resnet18"}
    path = write(tmp_path / "older.json", model=model, data={"name": "cub"})
    ours, *_ = json.loads(BESIDE_PUBLISHED["json"](find([path])))
    assert [row["defense"] for row in ours["published"]] == ["HM[S,g_LGA]"] * 5


@pytest.mark.parametrize("backbone", ["resnet18", "ResNet-18", "timm:resnet18", "timm:resnet18.a1_in1k"])
def test_the_same_backbone_by_any_name(tmp_path: Path, backbone: str) -> None:
    names, _ = named([trained(tmp_path, 0, model={"backbone": backbone}, data={"name": "sop"})])
    assert sum("ours" in name for name in names) == len([r for r in published("sop") if r["defense"] == "ACT[R]"]) > 0


@pytest.mark.parametrize(
    "model",
    [{"recipe": None}, {"recipe": "no-such-recipe"}, {"backbone": "resnet50"}, {"backbone": None}],
    ids=str,
)
def test_no_differences_to_another_method_or_network(tmp_path: Path, model: dict[str, Any]) -> None:
    names, _ = named([trained(tmp_path, 0, model=model)])
    assert names[1:] == ["N/A[R], C2F2", "EST[R], C2F2, η=32", "ACT[R], C2F2, η=32"]


def test_published_rows_of_every_data_set_stand_at_the_end_once(tmp_path: Path) -> None:
    cub = {"model": {"backbone": "resnet18"}, "data": {"name": "cub"}}
    paths = [trained(tmp_path, 0), trained(tmp_path, 0, protocol="strict"), trained(tmp_path, 0, **cub)]
    _, rows = named([*paths, write(tmp_path / "own.json", data={"name": "folder"})])
    matched = [row["name"] for row in rows if row["data"] == "CUB"]
    assert len(matched) == len(set(matched)) == 62
    assert [row["name"] for row in rows if row["data"] == "Fashion-MNIST"] == [
        *["ACT[R], C2F2, η=32"] * 2,
        *("N/A[R], C2F2", "EST[R], C2F2, η=32"),
    ]
    assert sum(row["data"] == "folder" for row in rows) == 1


# ---- in every format ------------------------------------------------------------------------------------------------


def test_comparison_in_markdown(tmp_path: Path) -> None:
    text = BESIDE_PUBLISHED["markdown"](find([trained(tmp_path, seed, ERS=column(20 + seed)) for seed in (0, 1)]))
    table, legend = text.split("\n\n")
    lines = table.splitlines()
    assert len(lines) == 2 + 3 + 2
    assert lines[2].startswith("| act-r,pgd.steps=8 | 2 | cvpr22 | fashion-mnist | 77/255 | 32 |")
    assert f"| -42.8 ±{T_975[1] / 2:.1f}* |" in lines[4]
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert "±" in legend
    assert "`*`" in legend
    assert "is from a single run and is taken as exact" in legend


def test_comparison_as_csv(tmp_path: Path) -> None:
    paths = [trained(tmp_path, seed, ERS=column(20 + seed)) for seed in (0, 1, 2)]
    strict = trained(tmp_path, 0, protocol="strict")
    text = BESIDE_PUBLISHED["csv"](find([*paths, strict]))
    ours, single, *theirs = csv.DictReader(io.StringIO(text))
    half = T_975[2] / math.sqrt(3)
    assert (ours["name"], ours["seeds"], float(ours["ERS"])) == ("act-r,pgd.steps=8", "3", 21.0)
    assert (float(ours["ERS low"]), float(ours["ERS high"])) == pytest.approx((21 - half, 21 + half), abs=1e-3)
    assert float(ours["R@1 low"]) == pytest.approx(78.64)
    assert (ours["passes"], ours["seconds"]) == ("2000000.0", "200.0")
    assert ours["source"] == "; ".join(map(str, paths))
    assert (single["seeds"], single["ERS high"], single["R@1 low"]) == ("1", "64.1", "")
    assert [row["name"] for row in theirs] == ["ACT[R], C2F2, η=32", "N/A[R], C2F2", "EST[R], C2F2, η=32"]
    assert {row["protocol"] for row in theirs} == {"published"}
    assert (theirs[0]["ERS"], theirs[0]["ERS low"], theirs[0]["steps"]) == ("63.3", "", "32")


def test_comparison_as_json(tmp_path: Path) -> None:
    paths = [trained(tmp_path, seed, ERS=column(20 + seed)) for seed in (0, 1, 2)]
    ours, *others = json.loads(BESIDE_PUBLISHED["json"](find(paths)))
    assert (ours["name"], ours["seeds"], ours["files"]) == ("act-r,pgd.steps=8", 3, list(map(str, paths)))
    assert ours["settings"] == CONTENT["settings"]
    assert (ours["model"]["training_steps"], ours["passes"]) == (8, 2e6)
    half = T_975[2] / math.sqrt(3)
    assert list(ours["measures"]["ERS"].values()) == pytest.approx([21, 21 - half, 21 + half], abs=1e-3)
    (row,) = ours["published"]
    assert (row["defense"], row["eta"], row["ERS"]) == ("ACT[R]", 32, 63.3)
    assert list(row["ours - published"]["ERS"].values()) == pytest.approx([-42.3, -42.3 - half, -42.3 + half], abs=1e-3)
    assert [(one["protocol"], one["defense"]) for one in others] == [("published", "N/A[R]"), ("published", "EST[R]")]


def test_a_result_of_its_own_beside_published_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "result.json", protocol="cvpr22", columns={"ES:R": {"value": None}})
    (result,) = find([path])
    header, rows = one_beside_published(result)
    assert header == ["name", "protocol", "ε", "steps", *BENIGN, *SCORES, "ERS", "verdict", "source"]
    assert [row[0] for row in rows] == [
        *("fashion-act", "ACT[R], C2F2, η=32", "ours - published"),
        *("N/A[R], C2F2", "EST[R], C2F2, η=32"),
    ]
    ours, theirs, gap = (dict(zip(header, row, strict=True)) for row in rows[:3])
    assert (ours["ERS"], ours["source"], theirs["ERS"]) == ("63.3\n±0.8", str(path), "63.3")
    assert (gap["R@1"], gap["mAP"], gap["TMA"], gap["ES:R"]) == ("-0.1", "+0.0", "+4.741\n(+4.241 to +4.991)*", "")
    assert gap["ERS"] == "+0.0\n±0.8"


def test_a_data_set_without_published_rows_is_compared_with_none(tmp_path: Path) -> None:
    (result,) = find([write(tmp_path / "result.json", data={"name": "folder"})])
    assert len(one_beside_published(result)[1]) == 1
