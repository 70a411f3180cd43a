"""Results found on disk, tables made of them, and the published rows beside."""

import copy
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import HoldfastError
from holdfast.recipes import RECIPES
from holdfast.report import compare, csv_text, find, json_text, markdown, published, table
from holdfast.report.figures import FIGURES, SCORES

CONTENT: dict[str, Any] = {
    "format": "holdfast-evaluation-1",
    "name": "fashion-act",
    "model": {"recipe": "act-r", "backbone": "c2f2", "dim": 512},
    "data": {"name": "fashion-mnist", "queries": 10000},
    "protocol": "strict",
    "protocol_version": 1,
    "settings": {"eps": 0.30196, "step": 0.0117, "steps": 32, "norm": "linf"},
    "hash": "1a2b3c4d",
    "benign": {"R@1": 78.64, "R@2": 87.0, "R@4": 91.0, "mAP": 68.8, "NMI": 67.25},
    "collapsed": False,
    "columns": {
        name: {"value": float(i), "low": i - 0.5, "high": i + 0.25, "unit": "%", "queries": 1000}
        for i, name in enumerate(SCORES, start=1)
    },
    "ERS": {"value": 63.31, "low": 62.5, "high": 64.1},
    "robust R@1": {"value": 12.04, "low": 11.0, "high": 13.0},
    "checks": [],
    "trusted": True,
}


def write(path: Path, **changes: Any) -> Path:
    """A result file; a change of None takes the key out, one that is a dict is merged into it."""
    content = copy.deepcopy(CONTENT)
    for key, value in changes.items():
        if isinstance(value, dict):
            content[key] = {**content.get(key, {}), **value}
        elif value is None:
            content.pop(key)
        else:
            content[key] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def cells(path: Path, **changes: Any) -> dict[str, str]:
    header, rows = table(find([write(path, **changes)]))
    return dict(zip(header, rows[0], strict=True))


# ---- finding --------------------------------------------------------------------------------------------------------


def test_results_are_found_below_folders_and_once(tmp_path: Path) -> None:
    deep = write(tmp_path / "runs" / "b" / "evaluations" / "strict-1a" / "result.json")
    flat = write(tmp_path / "runs" / "a" / "result.json")
    named = write(tmp_path / "kept.json")
    write(tmp_path / "runs" / "b" / "evaluations" / "strict-1a" / "x" / "result.json")
    write(tmp_path / "runs" / "b" / "evaluations" / "strict-1a" / "x" / "y" / "result.json")
    write(tmp_path / "runs" / "b" / "evaluations" / "strict-1a" / "other.json")
    (tmp_path / "runs" / "c").mkdir()
    found = [result.path for result in find([tmp_path / "runs", str(named), flat, tmp_path / "runs" / "b"])]
    assert found[:2] == [flat, deep]
    assert named in found
    assert len(found) == len(set(found)) == 5
    assert len(find([tmp_path / "runs"])) == 3


def test_nothing_found_says_how_to_make_one(tmp_path: Path) -> None:
    for paths in ([], [tmp_path]):
        with pytest.raises(HoldfastError, match=r"make one with: holdfast evaluate RUN --protocol strict"):
            find(paths)
    (tmp_path / "runs").mkdir()
    with pytest.raises(HoldfastError, match=r"no file or folder .*rums; did you mean .*runs\?"):
        find([tmp_path / "rums"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": None}, "it has no 'format'"),
        ({"format": "holdfast-evaluation-2"}, "its format is 'holdfast-evaluation-2', and this version reads"),
        ({"benign": None}, "it has no 'benign'"),
        ({"collapsed": None}, "it has no 'collapsed'"),
        ({"name": 3}, "'name' is no str: 3"),
        ({"data": {"name": None}}, "its data set has no name"),
        ({"trusted": "yes"}, "'trusted' is neither true, false nor null: 'yes'"),
        ({"benign": {"R@1": "87"}}, "R@1 is no number: '87'"),
        ({"settings": {"eps": True}}, "eps is no number: True"),
        ({"columns": {"QA+": 3.0}}, r"QA\+ is no value with its bounds: 3\.0"),
        ({"columns": {"QA+": {"value": [1]}}}, r"QA\+ value is no number: \[1\]"),
        ({"ERS": {"low": "3"}}, "ERS low is no number: '3'"),
    ],
)
def test_a_foreign_file_is_named_with_the_reason(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "result.json", **changes)
    with pytest.raises(HoldfastError, match=rf"{path} is no result of 'holdfast evaluate': {message}"):
        find([tmp_path])


@pytest.mark.parametrize("text", ["", "{", "\xff", "[" * 100_000])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(HoldfastError, match=rf"cannot read {path}"):
        find([path])


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"scores": {}}'])
def test_json_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(HoldfastError, match="it has no 'format'"):
        find([tmp_path])


# ---- the table ------------------------------------------------------------------------------------------------------


def test_a_row_of_the_table(tmp_path: Path) -> None:
    assert cells(tmp_path / "result.json") == {
        **{"name": "fashion-act", "protocol": "strict", "data": "fashion-mnist", "ε": "77/255", "steps": "32"},
        **{"R@1": "78.6", "R@2": "87.0", "mAP": "68.8", "NMI": "67.2"},
        **{"CA+": "1.0", "CA-": "2.0", "QA+": "3.0", "QA-": "4.0", "TMA": "5.000", "ES:D": "6.000", "ES:R": "7.0"},
        **{"LTM": "8.0", "GTM": "9.0", "GTT": "10.0", "ERS": "63.3 ±0.8", "robust R@1": "12.0", "verdict": "ok"},
    }


def test_what_was_not_measured_is_empty(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", **{"ERS": None, "robust R@1": None, "trusted": None})
    content = json.loads(path.read_text())
    content["columns"] = {"TMA": {"value": float("nan"), "low": None}, "QA+": {"value": 3.5}}
    content["settings"] = {}
    content["ERS"] = None
    path.write_text(json.dumps(content))
    header, rows = table(find([path]))
    row = dict(zip(header, rows[0], strict=True))
    empty = {name for name, text in row.items() if text == ""}
    assert empty == {"ε", "steps", "ERS", "robust R@1", *SCORES} - {"QA+"}
    assert row["QA+"] == "3.5"
    assert row["verdict"] == "unchecked"
    (read,) = list(csv.DictReader(io.StringIO(csv_text(find([path])))))
    assert (read["QA+"], read["QA+ low"], read["TMA"], read["ERS"]) == ("3.5", "", "", "")
    assert json.loads(json_text(find([path])))[0]["columns"]["TMA"]["value"] is None


@pytest.mark.parametrize(
    ("collapsed", "trusted", "verdict"),
    [
        (False, True, "ok"),
        (False, False, "UNTRUSTED"),
        (False, None, "unchecked"),
        (True, True, "COLLAPSED"),
        (True, False, "COLLAPSED, UNTRUSTED"),
        (True, None, "COLLAPSED, unchecked"),
    ],
)
def test_the_verdict_stands_in_every_table(tmp_path: Path, collapsed: bool, trusted: bool | None, verdict: str) -> None:
    results = find([write(tmp_path / "result.json", collapsed=collapsed, trusted=trusted)])
    for header, rows in (table(results), table(results, published("cub")), compare(results[0])):
        assert rows[0][header.index("verdict")] == verdict
    assert next(csv.DictReader(io.StringIO(csv_text(results))))["verdict"] == verdict


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"eps": 0}, "0/255"),
        ({"eps": 8 / 255}, "8/255"),
        ({"eps": 0.5 / 255}, "0.5/255"),
        ({"eps": 1.0}, "255/255"),
        ({"eps": 0.5, "norm": "l2"}, "0.5 (l2)"),
    ],
)
def test_the_radius(tmp_path: Path, settings: dict[str, Any], shown: str) -> None:
    assert cells(tmp_path / "result.json", settings=settings)["ε"] == shown


def test_markdown_survives_any_name(tmp_path: Path) -> None:
    results = find([write(tmp_path / "result.json", name="a|b\\|c\nd\r\n e")])
    header, rows = table(results, published("fashion-mnist"))
    lines = markdown(header, rows).splitlines()
    assert len(lines) == 2 + 1 + 3
    assert lines[2].startswith("| a\\|b\\\\\\|c d e | strict | fashion-mnist | 77/255 | 32 | 78.6 |")
    assert {line.replace("\\\\", "").replace("\\|", "").count("|") for line in lines} == {len(header) + 1}


def test_csv_has_the_bounds_and_whole_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "result.json", name='a,\n"b"')
    ours, *theirs = csv.DictReader(io.StringIO(csv_text(find([path]), published("Fashion-MNIST"))))
    assert ours["name"] == 'a,\n"b"'
    assert (ours["R@1"], ours["NMI"]) == ("78.64", "67.25")
    for name in SCORES:
        expected = CONTENT["columns"][name]
        assert [float(ours[f"{name}{bound}"]) for bound in ("", " low", " high")] == [
            expected[key] for key in ("value", "low", "high")
        ]
    assert [ours[f"ERS{bound}"] for bound in ("", " low", " high")] == ["63.31", "62.5", "64.1"]
    assert ours["robust R@1 high"] == "13.0"
    assert ours["source"] == str(path)
    assert {row["protocol"] for row in theirs} == {"published"}
    assert theirs[2]["ERS"] == "63.3"
    assert theirs[2]["CA+ low"] == ""
    assert "R@1 low" not in ours


def test_json_is_all_there_is(tmp_path: Path) -> None:
    path = write(tmp_path / "result.json", extra="kept")
    ours, *theirs = json.loads(json_text(find([path]), published("sop")))
    assert ours == {**CONTENT, "extra": "kept", "file": str(path)}
    assert len(theirs) == len(published("sop"))
    assert all(row["protocol"] == "published" and row["dataset"] == "SOP" for row in theirs)


# ---- published rows -------------------------------------------------------------------------------------------------


def test_the_published_rows() -> None:
    assert [len(published(name)) for name in ("cub", "CARS", "Sop", "fashion-mnist", "mnist", "folder")] == [
        *(63, 9, 11, 3),
        *(0, 0),
    ]
    plain, est, act = published("Fashion-MNIST")
    assert (plain["defense"], plain["eta"], act["defense"], act["eta"]) == ("N/A[R]", None, "ACT[R]", 32)
    assert [est[name] for name in FIGURES] == [
        *(76.6, 86.0, 59.2, 61.0),
        *(14.9, 36.1, 20.9, 48.6, 0.966, 0.288, 62.0, 28.0, 20.8, 0.0, 38.7),
    ]
    assert act["eps"] == 77 / 255
    assert published("cub")[0]["eps"] == 8 / 255
    assert "robrank" in act["source"]


def test_published_rows_may_be_changed_by_their_reader() -> None:
    published("cub")[0]["ERS"] = -1.0
    assert published("cub")[0]["ERS"] == 3.8


def test_published_rows_stand_in_the_table_with_their_source(tmp_path: Path) -> None:
    path = write(tmp_path / "result.json")
    header, rows = table(find([path]), published("fashion-mnist"))
    assert header[-1] == "source"
    assert [len(row) for row in rows] == [len(header)] * 4
    assert rows[0][-1] == str(path)
    act = dict(zip(header, rows[3], strict=True))
    assert (act["name"], act["protocol"], act["data"]) == ("ACT[R], C2F2, η=32", "published", "Fashion-MNIST")
    assert (act["ε"], act["steps"], act["TMA"], act["ERS"]) == ("77/255", "32", "0.259", "63.3")
    assert (act["robust R@1"], act["verdict"]) == ("", "")
    assert act["source"].startswith("robrank repository")


def test_a_result_beside_its_published_rows(tmp_path: Path) -> None:
    ((result),) = find([write(tmp_path / "result.json", protocol="cvpr22", columns={"ES:R": {"value": None}})])
    header, rows = compare(result)
    assert [name for name in header if name in FIGURES] == list(FIGURES)
    assert [row[0] for row in rows] == [
        *("fashion-act", "ACT[R], C2F2, η=32", "ours - published"),
        *("N/A[R], C2F2", "EST[R], C2F2, η=32"),
    ]
    difference = dict(zip(header, rows[2], strict=True))
    assert (difference["R@1"], difference["R@2"], difference["mAP"]) == ("-0.1", "-0.1", "+0.0")
    assert (difference["TMA"], difference["ES:D"], difference["ES:R"]) == ("+4.741", "+5.459", "")
    assert difference["ERS"] == "+0.0"
    assert {len(row) for row in rows} == {len(header)}


@pytest.mark.parametrize(
    "other",
    [
        {"protocol": "strict"},
        {"settings": {"eps": 8 / 255}},
        {"settings": {"steps": 8}},
        {"settings": {"norm": "l2"}},
        {"settings": {"gradient": "nes"}},
        {"model": {"surrogate": "1a2b3c4d"}},
    ],
    ids=str,
)
def test_numbers_of_another_attack_are_not_subtracted(tmp_path: Path, other: dict[str, Any]) -> None:
    (result,) = find([write(tmp_path / "result.json", **{"protocol": "cvpr22", **other})])
    header, rows = compare(result)
    difference = dict(zip(header, rows[2], strict=True))
    assert difference["R@1"] == "-0.1"
    assert {difference[name] for name in (*SCORES, "ERS")} == {""}


def test_a_weaker_attack_is_named_beside_the_protocol(tmp_path: Path) -> None:
    changes = {"settings": {"gradient": "square", "precision": "bfloat16"}, "model": {"surrogate": "1a2b3c4d"}}
    assert cells(tmp_path / "result.json", **changes)["protocol"] == "strict, square, bfloat16, transfer"
    usual = {"settings": {"gradient": "white-box"}, "model": {"surrogate": None}}
    assert cells(tmp_path / "result.json", **usual)["protocol"] == "strict"


def test_a_recipe_published_for_several_steps_has_as_many_differences(tmp_path: Path) -> None:
    changes = {"model": {"recipe": "hm-s-lga-ics"}, "data": {"name": "cub"}}
    (result,) = find([write(tmp_path / "result.json", **changes)])
    names = [row[0] for row in compare(result)[1]]
    assert names[1:11:2] == [f"HM[S,g_LGA]&ICS, ResNet-18, η={eta}" for eta in (2, 4, 8, 16, 32)]
    assert names[2:11:2] == ["ours - published"] * 5
    assert "ours - published" not in names[11:]
    assert len(names) == 1 + 63 + 5


@pytest.mark.parametrize("recipe", [None, "no-such-recipe", 3])
def test_without_a_recipe_there_are_no_differences(tmp_path: Path, recipe: object) -> None:
    (result,) = find([write(tmp_path / "result.json", model={"recipe": recipe})])
    assert [row[0] for row in compare(result)[1]][1:] == ["N/A[R], C2F2", "EST[R], C2F2, η=32", "ACT[R], C2F2, η=32"]


def test_a_data_set_without_published_rows_is_compared_with_none(tmp_path: Path) -> None:
    (result,) = find([write(tmp_path / "result.json", data={"name": "folder"})])
    assert len(compare(result)[1]) == 1


def test_most_published_methods_are_recipes_here() -> None:
    notations = {recipe.notation for recipe in RECIPES.values()}
    named = {row["defense"] for name in ("cub", "cars", "sop", "fashion-mnist") for row in published(name)}
    assert sorted(named - notations) == [
        "HM[S,g_B(M)] (xi=0.1)",
        "HM[S,g_LGA] (u=2.2)",
        "HM[S,g_LGA]&ICS (lambda=0.5)",
        "HM[S,g_LGA]&ICS(lambda=1.0)",
        "HM[S,g_LGA]&L_ICS(...;gamma=0.2)",
    ]


def test_reading_results_does_not_import_torch(tmp_path: Path) -> None:
    write(tmp_path / "result.json")
    code = (
        "import sys; from holdfast.report import *; results = find(sys.argv[1:]); "
        "markdown(*table(results, published('cub'))), csv_text(results), json_text(results); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0
