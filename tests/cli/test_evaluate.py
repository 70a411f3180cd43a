"""The verbs that attack: evaluate, attack, report; on a tiny run over the bundled digits."""

import csv
import json
import re
import struct
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from holdfast.runs.config import resolve_config
from holdfast.training.loop import train
from tests.conftest import Call, Refuse
from tests.helpers import tiny

FEW = ("--max-queries", "12", "--steps", "2", "--eps", "0.1")
TEN = ("CA+", "CA-", "QA+", "QA-", "TMA", "ES:D", "ES:R", "LTM", "GTM", "GTT")

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 8)

    def forward(self, x):
        return self.layer(x.flatten(1))

def build():
    return Net()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    settings = {"recipe": "none-r", "model.dim": 16, "batch.pairs": 50, "steps": 10, "validation.attacked": 0}
    train(resolve_config(settings), folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per class of PNG files, and lists of queries and gallery."""
    root = tiny.photos(tmp_path_factory.mktemp("data") / "photos")
    for name, numbers in {"q": (0, 1), "g": (1, 2, 3)}.items():
        lines = [f"{c}/{i}.png,{c}" for c in "abcd" for i in numbers]
        (root / f"{name}.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    return root


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with models of the user's own, in the working directory."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "models.py"
    file.write_text(MODEL)
    return file


def result_in(folder: Path) -> dict[str, object]:
    (file,) = folder.glob("**/result.json")
    content: dict[str, object] = json.loads(file.read_text())
    return content


def test_evaluate_prints_what_it_writes(call: Call, run: Path, tmp_path: Path) -> None:
    status, out, err = call("evaluate", run, *FEW, "--out", tmp_path)
    assert (status, err) == (0, "")
    content = result_in(tmp_path)
    columns = content["columns"]
    assert isinstance(columns, dict)
    assert tuple(columns) == TEN
    for name, one in columns.items():
        assert re.search(rf"^ *{re.escape(name)} +{one['value']:.3f} +{one['low']:.3f} to ", out, re.MULTILINE)
    assert isinstance(content["ERS"], dict)
    assert re.search(rf"^ *ERS +{content['ERS']['value']:.3f} ", out, re.MULTILINE)
    assert content["protocol"] == "strict"
    assert isinstance(content["checks"], list)
    assert len(content["checks"]) >= 8
    for check in content["checks"]:
        assert check["name"] in out
    assert re.search(r"^verdict: \w+", out, re.MULTILINE)


def test_a_second_call_finds_the_result(call: Call, run: Path, tmp_path: Path) -> None:
    arguments = ("evaluate", run, *FEW, "--attack", "es", "--no-checks", "--out", tmp_path)
    first, again = call(*arguments), call(*arguments)
    assert "attacking" in first[1]
    assert "attacking" not in again[1]
    assert first[1].splitlines()[-3:] == again[1].splitlines()[-3:]


def test_a_curve_over_radii(call: Call, run: Path, tmp_path: Path) -> None:
    few = ("--max-queries", "12", "--steps", "2", "--no-checks", "--attack", "es", "--out", tmp_path)
    status, out, _ = call("evaluate", run, *few, "--eps-curve", "0,8,51/255")
    assert status == 0
    rows = re.findall(r"^ *(\d+)/255 +([\d.]+) +([\d.]+)", out, re.MULTILINE)
    assert [row[0] for row in rows] == ["0", "8", "51"]
    moved = [float(row[1]) for row in rows]
    assert moved[0] == 0
    assert moved == sorted(moved)
    assert len(list(tmp_path.glob("*/result.json"))) == 3


def test_compare_puts_published_rows_beside(call: Call, tmp_path: Path) -> None:
    root, generator = tmp_path / "data", np.random.default_rng(0)
    root.mkdir()
    for name in ("train", "t10k"):
        images, labels = generator.integers(0, 256, (40, 28, 28), np.uint8), np.arange(40, dtype=np.uint8) % 4
        (root / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 40, 28, 28) + images.tobytes())
        (root / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 40) + labels.tobytes())
    out_folder = tmp_path / "run"
    settings = ("--data", "fashion-mnist", "--root", root, "--recipe", "none-r", "--set", "batch.pairs=4")
    assert call("train", *settings, "--set", "validation.every=0", "--set", "steps=1", "--out", out_folder)[0] == 0
    few = ("--protocol", "cvpr22", "--max-queries", "4", "--steps", "1", "--no-checks")
    status, out, err = call("evaluate", out_folder, *few, "--published")
    assert (status, err) == (0, "")
    assert "N/A[R]" in out
    assert "ours - published" in out
    status, out, err = call("report", out_folder, "--published")
    assert (status, err) == (0, "")
    assert len(re.findall(r"^\| (run|N/A\[R\], C2F2|ours - published) \|", out, re.MULTILINE)) == 3
    status, out, err = call("report", out_folder, "--published", "--format", "csv")
    assert [row["protocol"] for row in csv.DictReader(StringIO(out))] == ["cvpr22", *["published"] * 3]
    status, out, err = call("report", out_folder, "--published", "--format", "json")
    assert [len(one.get("published", [])) for one in json.loads(out)] == [1, 0, 0]


def test_a_model_of_the_users_own(call: Call, photos: Path, models: Path) -> None:
    arguments = ("--data", "folder", "--root", photos, "--size", "8", "--channels", "1", "--no-checks", *FEW)
    status, out, err = call("evaluate", "models:build", *arguments)
    assert (status, err) == (0, "")
    assert "holdfast normalised them" in out
    weights = models.parent / "w.safetensors"
    save_file({"layer.weight": torch.rand(8, 64), "layer.bias": torch.rand(8)}, weights)
    status, out, err = call("evaluate", f"{models}:Net", "--weights", weights, *arguments)
    assert (status, err) == (0, "")


def test_queries_and_gallery_from_lists(call: Call, photos: Path, models: Path) -> None:
    lists = ("--queries", photos / "q.csv", "--gallery", photos / "g.csv", "--size", "8", "--channels", "1")
    status, _, err = call("evaluate", f"{models}:build", *lists, "--no-checks", *FEW, "--eps", "4/255")
    assert (status, err) == (0, "")
    data = result_in(models.parent / "evaluations")["data"]
    assert isinstance(data, dict)
    assert (data["queries"], data["gallery"]) == (8, 12)


def test_attack_writes_images_and_a_manifest(call: Call, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adv"
    status, out, _ = call("attack", run, "--attack", "qa+", "--out", folder, *FEW)
    assert status == 0
    entries = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert len(entries) == 12
    saved = sum(entry["saved"]["QA+"] for entry in entries) / 12
    assert re.search(rf"QA\+ .* {saved:.3f} *$", out, re.MULTILINE)
    for entry in entries:
        with Image.open(folder / entry["file"]) as adversarial, Image.open(folder / entry["clean"]) as clean:
            assert adversarial.size == clean.size == (8, 8)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--eps", "eight"], "a number or a fraction such as 8/255, not 'eight'"),
        (["--norm", "l1"], "unknown norm 'l1'"),
        (["--norm", "l2"], "give eps"),
        (["--gradient", "nse"], "did you mean 'nes'?"),
        (["--precision", "half"], "unknown precision 'half' (allowed: float32, bfloat16)"),
        (["--protocol", "cvpr22", "--restarts", "2"], "neither restarts nor black-box"),
        (["--batch-size", "0"], "batch is at least 1"),
        (["--eps", "0.1", "--eps-curve", "0,1/255"], "not both"),
        (["--weights", "w.pth"], "brings its own weights; leave out w.pth"),
        (["--published"], "nothing was published for data set 'digits'"),
        (["--eps-curve", "0,8,300/255"], "in units of the pixel range [0, 1], as 8/255"),
        (["--transfer", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_evaluated(arguments: list[str], told: str, refused: Refuse, run: Path) -> None:
    assert told in refused("evaluate", run, *arguments)
