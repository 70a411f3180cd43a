"""Results found on disk, tables made of them, and the published rows beside."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.report import (
    BESIDE_PUBLISHED,
    STYLES,
    beside_published,
    csv_text,
    find,
    json_text,
    markdown,
    one_beside_published,
    published,
    table,
)
from holdfast.report.published import PUBLISHED, SCORES
from holdfast.report.tables import format_interval
from holdfast.util.errors import HoldfastError
from tests.helpers.result_files import CONTENT, write


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
        ({"format": None}, "format is missing"),
        ({"format": "holdfast-evaluation-2"}, "unknown value of format 'holdfast-evaluation-2'; did you mean"),
        ({"collapsed": None}, "collapsed is missing"),
        ({"name": 3}, "name takes text, not 3"),
        ({"data": {"name": None}}, r"data\.name takes text, not None"),
        ({"trusted": "yes"}, "trusted takes true or false or null, not 'yes'"),
        ({"benign": {"R@1": "87"}}, r"benign\.R@1 takes a finite number or null, not '87'"),
        ({"columns": {"QA+": 3.0}}, r"columns\.QA\+ takes a mapping or null, not 3\.0"),
        ({"columns": {"QA+": {"value": [1]}}}, r"columns\.QA\+\.value takes a finite number or null, not \[1\]"),
        ({"model": {"training": {"settings": "x"}}}, r"model\.training\.settings takes a mapping or null, not 'x'"),
    ],
)
def test_a_foreign_file_is_named_with_the_reason(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "result.json", **changes)
    with pytest.raises(HoldfastError, match=rf"{path} is no result of 'holdfast evaluate': {message}"):
        find([tmp_path])


# ---- the table ------------------------------------------------------------------------------------------------------


def test_a_row_of_the_table(tmp_path: Path) -> None:
    assert cells(tmp_path / "result.json") == {
        **{"name": "fashion-act", "protocol": "strict", "data": "fashion-mnist", "ε": "77/255", "steps": "32"},
        **{"R@1": "78.6", "R@2": "87.0", "mAP": "68.8", "NMI": "67.2"},
        **{"CA+": "1.0", "CA-": "2.0", "QA+": "3.0", "QA-": "4.0", "TMA": "5.000", "ES:D": "6.000", "ES:R": "7.0"},
        **{"LTM": "8.0", "GTM": "9.0", "GTT": "10.0", "ERS": "63.3 ±0.8", "RRS": ""},
        **{"robust R@1": "12.0", "least R@1": "", "passes": "", "seconds": "", "verdict": "ok"},
    }


def test_neighbours_that_differ_in_radius_only_stand_by_rising_radius(tmp_path: Path) -> None:
    names = [("a", 8), ("a", 2), ("b", 4), ("a", 1), ("b", 2), ("b", 1)]
    files = [
        write(tmp_path / f"{i}.json", name=name, settings={"eps": eps / 255}) for i, (name, eps) in enumerate(names)
    ]
    files.append(write(tmp_path / "weak.json", name="b", settings={"eps": 0.5 / 255, "steps": 2}))
    header, rows = table(find(files))
    shown = [(row[0], row[header.index("ε")]) for row in rows]
    assert shown == [
        *[("a", "2/255"), ("a", "8/255"), ("b", "4/255"), ("a", "1/255")],
        *[("b", "1/255"), ("b", "2/255"), ("b", "0.5/255")],
    ]


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
    assert empty == {"ε", "steps", "ERS", "RRS", "robust R@1", "least R@1", "passes", "seconds", *SCORES} - {"QA+"}
    assert row["QA+"] == "3.5"
    assert row["verdict"] == "unchecked"
    (read,) = list(csv.DictReader(io.StringIO(csv_text(find([path])))))
    assert (read["QA+"], read["QA+ low"], read["TMA"], read["ERS"]) == ("3.5", "", "", "")
    assert json.loads(json_text(find([path])))[0]["columns"]["TMA"]["value"] is None


def test_the_verdict_stands_in_every_table(tmp_path: Path) -> None:
    results = find([write(tmp_path / "result.json", collapsed=True, trusted=False)])
    for header, rows in (table(results), beside_published(results), one_beside_published(results[0])):
        assert rows[0][header.index("verdict")] == "COLLAPSED, UNTRUSTED"
    assert next(csv.DictReader(io.StringIO(csv_text(results))))["verdict"] == "COLLAPSED, UNTRUSTED"


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


def test_a_weaker_attack_is_named_beside_the_protocol(tmp_path: Path) -> None:
    changes = {"settings": {"gradient": "square", "precision": "bfloat16"}, "model": {"surrogate": "1a2b3c4d"}}
    assert cells(tmp_path / "result.json", **changes)["protocol"] == "strict, square, bfloat16, transfer"
    usual = {"settings": {"gradient": "white-box"}, "model": {"surrogate": None}}
    assert cells(tmp_path / "result.json", **usual)["protocol"] == "strict"


@pytest.mark.parametrize(
    ("passes", "shown"),
    [
        (0, "0"),
        (945.4, "945"),
        (999.6, "1k"),
        (23_456.0, "23.5k"),
        (999_499, "999k"),
        (999_600, "1M"),
        (1_234_567, "1.23M"),
    ],
)
def test_what_the_training_cost(tmp_path: Path, passes: float, shown: str) -> None:
    training = {"settings": {}, "steps": 3, "passes": passes, "seconds": 548.6}
    row = cells(tmp_path / "result.json", model={"training": training})
    assert (row["passes"], row["seconds"]) == (shown, "549")
    (read,) = csv.DictReader(io.StringIO(csv_text(find([tmp_path]))))
    assert (float(read["passes"]), read["seconds"]) == (passes, "548.6")


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (50.0, 40.0, 60.0, " ±10.0"),
        (50.0, 40.0, 60.15, " ±10.1"),
        (50.0, 40.0, 60.25, " (40.0 to 60.2)"),
        (0.0, 0.0, 10.9, " (0.0 to 10.9)"),
        (100.0, 89.1, 100.0, " (89.1 to 100.0)"),
    ],
)
def test_an_interval_that_is_not_symmetric_has_both_its_ends(value: float, low: float, high: float, shown: str) -> None:
    assert format_interval("LTM", value, low, high) == shown


def certificate(*values: float) -> dict[str, Any]:
    radii = [
        {"radius": r, "linf": r / 28, "value": v, "low": v - 2.0, "high": v + 3.0, "attacked": None}
        for r, v in zip((0.0, 0.25), values, strict=True)
    ]
    return {"sigma": 0.25, "draws": 100, "largest": 0.4, "abstained": 0, "queries": 12, "radii": radii}


def minimal(median: float | None) -> dict[str, Any]:
    return {"queries": 4, "beyond": 1, "quartiles": [0.0, median, None], "curve": [], "each": []}


def test_what_only_some_results_have_has_columns_where_one_has_it(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"certified": certificate(60.0, 20.0), "minimal eps": minimal(4 / 255)},
        {"minimal eps": minimal(None)},
        {
            "data": {"attacked": 32},
            "benign": {"queries": 800},
            "sample R@1": {"value": 96.9, "kept": 31, "queries": 32},
        },
    ]
    results = find([write(tmp_path / f"{i}.json", **one) for i, one in enumerate(changes)])
    header, rows = table(results)
    extra = ["sample R@1", "certified R@1 at 0", "certified R@1 at 0.25", "median minimal ε"]
    assert [name for name in header if name in extra] == extra
    assert [[row[header.index(name)] for name in extra] for row in rows] == [
        ["", "60.0", "20.0", "4/255"],
        ["", "", "", "> 77/255"],
        ["96.9, 31 of 32", "", "", ""],
    ]
    lines = list(csv.DictReader(io.StringIO(csv_text(results))))
    assert [lines[0][f"certified R@1 at 0.25{end}"] for end in ("", " low", " high")] == ["20.0", "18.0", "23.0"]
    assert [line["median minimal ε"] for line in lines] == [f"{4 / 255}", "inf", ""]
    header, rows = beside_published(results)
    ours = [row for row in rows if row[header.index("protocol")] == "strict"]
    assert [row[header.index("certified R@1 at 0.25")] for row in ours] == ["20.0 (18.0 to 23.0)", "", ""]
    assert "Infinity" not in BESIDE_PUBLISHED["json"](results)
    assert not {*extra} & {*table(results[:0])[0]}


def test_r_at_1_of_the_sample_is_known_from_the_cascade(tmp_path: Path) -> None:
    stages = [{"name": "margin", "tried": 30, "broke": 30, "passes": 9}]
    robust = {"kept": 0, "queries": 32, "stages": stages}
    known = {"data": {"attacked": 32}, "benign": {"queries": 800}, "robust R@1": robust}
    (older,) = find([write(tmp_path / "a.json", **known)])
    assert (older.number("sample R@1"), older.counts("sample R@1")) == (93.75, (30, 32))
    assert older.extras == ["sample R@1"]
    (whole,) = find([write(tmp_path / "b.json", **{**known, "benign": {"queries": 32}})])
    assert whole.extras == []


def test_markdown_survives_any_name(tmp_path: Path) -> None:
    results = find([write(tmp_path / "result.json", name="a|b\\|c\nd\r\n e")])
    header, rows = table(results)
    lines = markdown(header, rows).splitlines()
    assert len(lines) == 2 + 1
    assert lines[2].startswith("| a\\|b\\\\\\|c d e | strict | fashion-mnist | 77/255 | 32 | 78.6 |")
    assert {line.replace("\\\\", "").replace("\\|", "").count("|") for line in lines} == {len(header) + 1}


def test_csv_has_the_bounds_and_whole_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "result.json", name='a,\n"b"')
    (ours,) = csv.DictReader(io.StringIO(csv_text(find([path]))))
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
    assert "R@1 low" not in ours


def test_json_is_all_there_is(tmp_path: Path) -> None:
    path = write(tmp_path / "result.json", extra="kept")
    (ours,) = json.loads(json_text(find([path])))
    assert ours == {**CONTENT, "extra": "kept", "file": str(path)}


# ---- published rows -------------------------------------------------------------------------------------------------


def test_the_published_rows() -> None:
    assert [len(published(name)) for name in ("cub", "CARS", "Sop", "fashion-mnist", "mnist", "folder")] == [
        *(62, 9, 11, 3),
        *(0, 0),
    ]
    plain, est, act = published("Fashion-MNIST")
    assert (plain["defense"], plain["eta"], act["defense"], act["eta"]) == ("N/A[R]", None, "ACT[R]", 32)
    assert [est[name] for name in PUBLISHED] == [
        *(76.6, 86.0, 59.2, 61.0),
        *(14.9, 36.1, 20.9, 48.6, 0.966, 0.288, 62.0, 28.0, 20.8, 0.0, 38.7),
    ]
    assert act["eps"] == 77 / 255
    assert published("cub")[0]["eps"] == 8 / 255
    assert "robrank" in act["source"]


def test_published_rows_may_be_changed_by_their_reader() -> None:
    for row in published("cub"):
        row["ERS"] = -1.0
        row["training"]["loss.margin"] = 1.0
    assert published("cub")[0]["ERS"] == 3.8
    assert not any("loss.margin" in row["training"] for row in published("cub"))


def test_what_a_published_row_was_trained_with() -> None:
    rows = [row for name in ("cub", "cars", "sop", "fashion-mnist") for row in published(name)]
    assert {row["defense"]: (row["recipe"], row["training"]) for row in rows if row["training"]} == {
        "HM[S,g_B(M)] (xi=0.1)": ("HM[S,g_B(M)]", {"loss.boost": 0.1}),
        "HM[S,g_LGA] (u=2.2)": ("HM[S,g_LGA]", {"loss.ceiling": 2.2}),
        "HM[S,g_LGA]&ICS (lambda=0.5)": ("HM[S,g_LGA]&ICS", {"loss.structure": 0.5}),
        "HM[S,g_LGA]&ICS(lambda=1.0)": ("HM[S,g_LGA]&ICS", {"loss.structure": 1.0}),
    }
    others = {row["defense"]: row["recipe"] for row in rows if row["recipe"] != row["defense"] and not row["training"]}
    assert others == {f"HM[{x},{x}]": f"N/A[{x}]" for x in "MSDH"}


def test_reading_results_does_not_import_torch(tmp_path: Path) -> None:
    write(tmp_path / "result.json")
    code = (
        "import sys; from holdfast.report import *; results = find(sys.argv[1:]); "
        "markdown(*table(results)), csv_text(results), json_text(results); "
        "sys.exit(bool({'torch', 'scipy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0


def test_some_columns_of_the_markdown_table_can_be_chosen(tmp_path: Path) -> None:
    results = find([write(tmp_path / "result.json")])
    assert STYLES["markdown"](results, columns=["ERS", "R@1"]) == (
        "| name | ERS | R@1 |\n| --- | --- | --- |\n| fashion-act | 63.3 ±0.8 | 78.6 |\n"
    )
    for writing in (STYLES["markdown"], BESIDE_PUBLISHED["markdown"]):
        with pytest.raises(HoldfastError, match=r"unknown column 'R1'; did you mean 'R@1'\?"):
            writing(results, columns=["R1"])
