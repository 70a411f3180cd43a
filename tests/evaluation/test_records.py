"""Records of an evaluation: what a kill may leave on disk, and what is made of it."""

import json
from pathlib import Path

import pytest

from holdfast.evaluation.records import Record, Records
from holdfast.util.errors import HoldfastError
from tests.helpers.tiny import rows, snapshot


def batch(first: int, count: int = 2) -> list[Record]:
    seen = {"chosen": [], "before": {"ES:D": 0.0}, "after": {"ES:D": 0.25}, "moved": 0.0}
    return [{"id": i, **seen} for i in range(first, first + count)]


def cost(forward: int = 64) -> dict[str, float]:
    return {"forward": forward, "backward": 32, "asked": 7, "seconds": 0.5}


def filled(folder: Path | None) -> Records:
    found = Records(folder)
    found.add("es", batch(0), cost())
    found.add("es", batch(2), cost())
    found.add("qa+:5", batch(7, 1), cost(32))
    return found


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_is_added_is_there(on_disk: bool, tmp_path: Path) -> None:
    found = filled(tmp_path if on_disk else None)
    assert found.of("es") == batch(0, 4)
    assert found.of("qa+:5") == batch(7, 1)
    assert found.of("tma") == []
    assert found.cost() == {"forward": 160, "backward": 96, "asked": 21, "seconds": 1.5}
    assert Records(None).cost() == {"forward": 0, "backward": 0, "asked": 0, "seconds": 0}


def test_files_are_lines_of_json(tmp_path: Path) -> None:
    filled(tmp_path)
    assert sorted(snapshot(tmp_path)) == ["costs.jsonl", "records/es.jsonl", "records/qa+_5.jsonl"]
    assert rows(tmp_path / "records" / "es.jsonl") == batch(0, 4)
    assert rows(tmp_path / "costs.jsonl")[2] == {"attack": "qa+:5", "images": 1, **cost(32)}


def test_another_process_finds_them_and_changes_nothing(tmp_path: Path) -> None:
    before = filled(tmp_path)
    files = snapshot(tmp_path)
    after = Records(tmp_path)
    assert (after.kept, after.costs) == (before.kept, before.costs)
    assert snapshot(tmp_path) == files


@pytest.mark.parametrize("kept", [0, 1, 2])
@pytest.mark.parametrize("cut", [0, 1, 20])
def test_batches_without_their_costs_do_not_count(kept: int, cut: int, tmp_path: Path) -> None:
    """Killed after ``kept`` batches and a piece of the next line of costs."""
    filled(tmp_path)
    file = tmp_path / "costs.jsonl"
    written = file.read_text().splitlines(keepends=True)
    file.write_text("".join(written[:kept]) + written[kept][:cut])
    found = Records(tmp_path)
    assert found.of("es") == batch(0, 2 * min(kept, 2))
    assert found.of("qa+:5") == []
    assert len(found.costs) == kept
    assert file.read_text() == "".join(written[:kept])
    assert rows(tmp_path / "records" / "es.jsonl") == batch(0, 2 * min(kept, 2))
    assert (tmp_path / "records" / "qa+_5.jsonl").read_text() == ""
    found.add("es", batch(9), cost())
    assert Records(tmp_path).of("es") == [*batch(0, 2 * min(kept, 2)), *batch(9)]


NEXT = json.dumps(batch(4, 1)[0]) + "\n"


@pytest.mark.parametrize("more", [NEXT[:20], NEXT + NEXT[:5], NEXT])
def test_records_after_the_last_finished_batch_are_dropped(more: str, tmp_path: Path) -> None:
    filled(tmp_path)
    file = tmp_path / "records" / "es.jsonl"
    whole = file.read_text()
    file.write_text(whole + more)
    assert Records(tmp_path).of("es") == batch(0, 4)
    assert file.read_text() == whole


@pytest.mark.parametrize("damage", ["missing line", "missing file"])
def test_fewer_records_than_counted_are_an_error_that_says_what_to_do(damage: str, tmp_path: Path) -> None:
    filled(tmp_path)
    file = tmp_path / "records" / "es.jsonl"
    if damage == "missing file":
        file.unlink()
    else:
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:3]))
    left = snapshot(tmp_path)
    with pytest.raises(HoldfastError, match=r"es\.jsonl holds [03] records, but .*costs\.jsonl counts 4; remove"):
        Records(tmp_path)
    assert snapshot(tmp_path) == left
