"""Tables in narrow places: ERS, robust R@1 and the verdict stay in sight, in the terminal and on the page."""

from pathlib import Path

import pytest
from rich.cells import cell_len

from holdfast.cli import display
from holdfast.evaluation.result import Result, read
from holdfast.report.tables import table
from holdfast.report.widths import IN_SIGHT, fit, foremost
from tests.conftest import Call
from tests.helpers import result_files

NAMES = [f"hm-s-lga-ics,pgd.steps={steps},model.backbone=resnet18,seed={seed}" for steps in (8, 32) for seed in (0, 1)]


def results(folder: Path) -> list[Result]:
    """Four evaluations of runs with long names, one of them with a long verdict."""
    made = [
        result_files.write(folder / str(i) / "result.json", name=name, **{"robust R@1": {"kept": 120, "queries": 1000}})
        for i, name in enumerate(NAMES[:3])
    ]
    long = {"collapsed": True, "trusted": False, "data": {"attacked": 3}}
    return [read(path) for path in (*made, result_files.write(folder / "3" / "result.json", name=NAMES[3], **long))]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_table_fits_and_says_what_it_leaves_out(
    width: int, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    results(tmp_path)
    monkeypatch.setattr(display, "room", lambda: width)
    _, out, _ = call("report", tmp_path)
    *lines, note = out.rstrip().splitlines()
    assert max(map(cell_len, lines)) <= width
    text = " ".join(lines)
    left_out = note.removeprefix("left out, for want of room: ").split(", ")
    header = table(results(tmp_path))[0]
    assert set(left_out) <= set(header) - {"name", *IN_SIGHT}
    words = {word for name in set(header) - set(left_out) for word in name.split()}
    assert words | {"63.3", "12.0,", "ok", "COLLAPSED,", "UNTRUSTED,"} <= set(text.split())


def test_a_wider_table_leaves_out_less_and_enough_room_nothing(tmp_path: Path, call: Call) -> None:
    header, rows = table(results(tmp_path))
    dropped = [set(fit(header, rows, width)[2]) for width in (60, 80, 120, 400)]
    assert dropped[0] > dropped[1] > dropped[2] > dropped[3] == set()
    assert fit(header, rows, 400) == (header, rows, [])
    assert call("report", tmp_path)[1].startswith("| name | protocol |"), "a file or a pipe gets all of it, in Markdown"


def test_a_column_that_is_the_same_everywhere_goes_before_one_that_tells_rows_apart() -> None:
    header, rows = ["name", "R@1", "protocol"], [["one", "80.0", "strict"], ["two", "80.0", "cvpr22"]]
    assert fit(header, rows, 24)[2] == ["R@1"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_shortened_names_stay_apart(width: int, tmp_path: Path) -> None:
    header, rows = table(results(tmp_path))
    assert len({row[0] for row in fit(header, rows, width)[1]}) == len(NAMES)


def test_the_columns_in_sight_come_first_on_the_page() -> None:
    header = ["name", "data", "R@1", "ERS", "robust R@1", "verdict", "source"]
    assert [header[i] for i in foremost(header)] == ["name", "verdict", "robust R@1", "ERS", "data", "R@1", "source"]
