"""``holdfast embed`` and ``holdfast search`` as they are typed: what they print, and one line for what cannot work."""

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from holdfast import Index, Pixels
from holdfast.data.table import Table
from holdfast.runs.config import resolve_config
from holdfast.runs.folder import Run
from tests.conftest import Call, Refuse
from tests.helpers import tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``photos/`` of four classes, a saved embedder ``model/``, another one ``other/``, and a run folder ``run/``."""
    place = tmp_path_factory.mktemp("search")
    tiny.photos(place / "photos", "abcd", each=4)
    for name, seed in (("model", 0), ("other", 1), ("run", 0)):
        tiny.embedder(seed, channels=3).save_pretrained(place / name)
    config = resolve_config({"data.name": "folder", "data.size": 8, "data.resize": 10, "model.backbone": "c2f2"})
    Run(place / "run").config_file.write_text(config.to_yaml())
    shutil.copytree(place / "model", place / "run/best")
    return place


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working copy of it, with an index."""
    shutil.copytree(place, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def indexed(here: Path, call: Call) -> Path:
    assert call("embed", "photos", "--model", "model")[0] == 0
    return here


def table_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_embed_says_what_it_made_and_what_comes_next(here: Path, call: Call) -> None:
    status, out, err = call("embed", "photos", "--model", "model", "--out", "out/x.npz")
    assert (status, err) == (0, "")
    assert "16 images in out/x.npz; now: holdfast search --index out/x.npz --query IMAGE" in out
    index = Index.load("out/x.npz")
    assert len(index) == 16
    facts = {"spec": str(here / "model"), "weights": None, "root": str(here / "photos"), "size": 8, "channels": 3}
    assert facts.items() <= index.about.items()


def test_embed_names_what_cannot_be_read(here: Path, call: Call) -> None:
    for i in range(22):
        (here / f"photos/a/x{i}\n.jpg").write_bytes(b"hello")
    status, out, err = call("embed", "photos", "--model", "model")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    first = lines.index("left out, because they cannot be read (22):")
    assert lines[first + 1].startswith("  a/x0\\n.jpg: the file is no image of the kinds PNG, ")
    assert lines[first + 21] == "  and 2 more, which the index names"
    assert len(Index.load("embeddings.npz").about["broken"]) == 22


@pytest.mark.parametrize("model", ["run", "run/best"])
def test_a_run_shows_images_as_its_training_did(here: Path, call: Call, model: str) -> None:
    assert call("embed", "photos", "--model", model)[0] == 0
    view = Index.load("embeddings.npz").preprocessing
    assert (view.size, view.resize, view.channels) == (8, 10, 3)


def test_all_formats_and_backends_say_the_same(indexed: Path, call: Call) -> None:
    pytest.importorskip("faiss")

    def found(*arguments: str) -> str:
        command = ("search", "--index", "embeddings.npz", "--query", "photos/c/2.png", "photos/d", "-k", "4")
        status, out, err = call(*command, *arguments)
        assert (status, err) == (0, "")
        return out

    records = json.loads(found("--format", "json"))
    assert len(records) == 5 * 4
    assert [record["rank"] for record in records] == [1, 2, 3, 4] * 5
    assert [{key: str(value) for key, value in record.items()} for record in records] == table_of(
        found("--format", "csv")
    )
    lines = [line.split("\t") for line in found("--format", "lines").splitlines()]
    assert lines == [
        [*map(str, (r["query"], r["rank"], f"{r['distance']:.4f}", r["label"], r["path"]))] for r in records
    ]
    assert found() == found("--format", "lines"), "where there is no terminal"
    shown = found("--format", "table")
    assert all(f"{record['distance']:.4f}" in shown and record["path"] in shown for record in records)
    assert json.loads(found("--format", "json", "--backend", "faiss")) == records


def test_a_name_that_would_break_a_line_does_not(indexed: Path, call: Call) -> None:
    shutil.copy("photos/a/0.png", "new\nline.png")
    query = ("search", "--index", "embeddings.npz", "-k", "1", "--query", "new\nline.png")
    assert call(*query)[1].startswith("new\\nline.png\t1\t0.0000\ta\t")
    assert table_of(call(*query, "--format", "csv")[1])[0]["query"] == "new\nline.png"
    assert json.loads(call(*query, "--format", "json")[1])[0]["query"] == "new\nline.png"


def test_readable_queries_are_answered_and_the_others_named(indexed: Path, call: Call, refused: Refuse) -> None:
    Path("photos/a/9.png").write_bytes(b"")
    status, out, err = call("search", "--index", "embeddings.npz", "--query", "photos/a", "-k", "1")
    assert status == 2
    assert [line.split("\t")[0] for line in out.splitlines()] == [f"photos/a/{i}.png" for i in range(4)]
    assert err.startswith("holdfast: 1 of 5 queries cannot be read: photos/a/9.png (the file is empty)")
    assert err.count("\n") == 1
    assert "1 of 1 query" in refused("search", "--index", "embeddings.npz", "--query", "photos/a/9.png")


def test_bad_queries_of_any_kind_do_not_stop_the_others(indexed: Path, call: Call, refused: Refuse) -> None:
    Path("empty").mkdir()
    Path("bad.csv").write_text("file\nx.png\n")
    Path("some.csv").write_text("path\nphotos/b/0.png\nphotos/b/77.png\n")
    os.mkfifo("pipe.png")
    bad = ["photos/a/0.pngg", "empty", "bad.csv", "pipe.png", "none.csv"]
    search = ("search", "--index", "embeddings.npz", "-k", "1", "--query")
    status, out, err = call(*search, bad[0], "photos/c/2.png", *bad[1:], "some.csv")
    assert status == 2
    assert [line.split("\t")[0] for line in out.splitlines()] == ["photos/c/2.png", "photos/b/0.png"]
    assert err.startswith(
        "holdfast: 6 of 8 queries cannot be read: photos/a/0.pngg (there is no such file; did you mean "
    )
    assert err.count("\n") == 1
    for name in bad:
        assert name in refused(*search, name)


def test_an_image_is_an_image_whatever_its_name(indexed: Path, call: Call, refused: Refuse) -> None:
    shutil.copy("photos/c/2.png", "picture.csv")
    assert call("search", "--index", "embeddings.npz", "--query", "picture.csv", "-k", "1")[1].endswith("\tc/2.png\n")
    lists = ("--queries", "photos/c/2.png", "--gallery", "photos/c/2.png")
    said = "photos/c/2.png is an image (expected a CSV with the columns path,label)"
    assert said in refused("evaluate", "model", *lists)


def test_embed_says_what_it_left_out(here: Path, call: Call) -> None:
    for name in ("a/0.heic", "b/1.heic"):
        (here / "photos" / name).touch()
    status, out, _ = call("embed", "photos", "--model", "model")
    assert status == 0
    assert "left out: 2 files with the ending .heic, which is not read, the first is a/0.heic\n" in out


def test_a_moved_model_is_named_anew(indexed: Path, call: Call, refused: Refuse) -> None:
    Path("model").rename("moved")
    query = ("search", "--index", "embeddings.npz", "--query", "photos/a/0.png", "-k", "1")
    assert "say with --model where it is now" in refused(*query)
    assert call(*query, "--model", "moved")[1].startswith("photos/a/0.png\t1\t0.0000")
    assert "the index was made by another model" in refused(*query, "--model", "other")


def test_a_search_works_from_another_folder(indexed: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(indexed / "photos")
    assert call("search", "--index", "../embeddings.npz", "--query", "a/0.png", "-k", "1")[0] == 0


def test_an_index_that_names_no_model_asks_for_one(here: Path, call: Call, refused: Refuse) -> None:
    images = np.stack([np.asarray(Image.open(f"photos/a/{i}.png")) for i in range(2)])
    table = Table.build("mine", images, [0, 0], ["test"] * 2)
    Index.build(tiny.embedder(channels=3), Pixels(table, 8), "x.npz", quiet=True)
    assert "does not say which model made it" in refused("search", "--index", "x.npz", "--query", "photos/a/0.png")
    out = call("search", "--index", "x.npz", "--query", "photos/a/1.png", "--model", "model", "-k", "1")[1]
    assert out == "photos/a/1.png\t1\t0.0000\t0\tmine test[1]\n"


def test_a_picture_shows_each_query_beside_its_results(indexed: Path, call: Call) -> None:
    shutil.rmtree("photos/d")
    command = ("search", "--index", "embeddings.npz", "--query", "photos/a", "-k", "16", "--out", "pictures/x.png")
    assert call(*command)[0] == 0
    picture = Image.open("pictures/x.png").convert("RGB")
    assert picture.size == (17 * 136 + 8, 4 * 172 + 8)
    shown = np.asarray(picture)
    first = np.asarray(Image.open("photos/a/0.png").resize((128, 128), Image.Resampling.BILINEAR))
    for left in (8, 8 + 136):
        assert np.array_equal(shown[8 : 8 + 128, left : left + 128], first)
    black = [left for left in range(8, picture.width, 136) if not shown[8 : 8 + 128, left : left + 128].any()]
    assert len(black) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed", "photoz", "--model", "model"], "photoz does not exist; did you mean photos?"),
        (["embed", "photos", "--model", "model", "--out", "notes.txt/x.npz"], "Not a directory"),
        (["search", "--index", "embeddings.npz", "--query", "photos/a/0.png", "-k", "0"], "k is at least 1"),
        (["search", "--index", "embeddings.npz", "--query", "photos/a/0.png", "--format", "xml"], "unknown format"),
    ],
)
def test_what_cannot_work_is_one_line(indexed: Path, refused: Refuse, arguments: list[Any], message: str) -> None:
    Path("notes.txt").write_text("hello")
    before = tiny.snapshot(indexed)
    assert message in refused(*arguments)
    assert tiny.snapshot(indexed) == before


def test_a_query_that_is_asked_twice_is_answered_twice(indexed: Path, call: Call) -> None:
    Path("q.csv").write_text("path\nphotos/a/0.png\nphotos/a/0.png\nphotos/b/0.png\n")
    command = ("search", "--index", "embeddings.npz", "--query", "q.csv", "-k", "2", "--out", "x.png")
    assert len(call(*command)[1].splitlines()) == 6
    assert Image.open("x.png").size == (3 * 136 + 8, 3 * 172 + 8)
    assert call(*command, "--format", "table")[1].count("rank") == 3


def test_a_huge_picture_is_refused_after_the_answers(indexed: Path, call: Call) -> None:
    Path("q.csv").write_text("path\n" + "photos/a/0.png\n" * 70)
    status, out, err = call("search", "--index", "embeddings.npz", "--query", "q.csv", "-k", "16", "--out", "x.png")
    assert (status, len(out.splitlines())) == (2, 70 * 16)
    assert "tiles is too large" in err
