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

from holdfast.data import load_dataset
from holdfast.runs.config import resolve_config
from holdfast.training.loop import train
from tests.conftest import Call, Refuse

FEW = ("--quick", "--max-queries", "12", "--steps", "2", "--eps", "0.1")
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

net = Net()

def detached(x):
    return net(x).detach()
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
    """A folder per class of digits as PNG files, and lists of queries and gallery."""
    root = tmp_path_factory.mktemp("data") / "photos"
    table = load_dataset("digits").test()
    lines = []
    for i in range(60):
        path = root / str(table.labels[i]) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(table.images[i]).save(path)  # type: ignore[index]
        lines.append(f"{path.relative_to(root)},{table.labels[i]}")
    (root / "q.csv").write_text("\n".join(["path,label", *lines[:20]]) + "\n")
    (root / "g.csv").write_text("\n".join(["path,label", *lines[10:]]) + "\n")
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
    assert (data["queries"], data["gallery"]) == (20, 50)


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


def test_report_of_several_results(call: Call, run: Path, tmp_path: Path) -> None:
    for eps in ("0.05", "0.1"):
        few = ("--quick", "--max-queries", "6", "--steps", "1", "--no-checks", "--eps", eps)
        assert call("evaluate", run, *few, "--out", tmp_path / eps)[0] == 0
    status, out, _ = call("report", tmp_path / "0.05", tmp_path / "0.1")
    assert status == 0
    assert len([line for line in out.splitlines() if line.startswith("| digits")]) == 2
    status, out, _ = call("report", tmp_path, "--format", "csv")
    rows = list(csv.DictReader(StringIO(out)))
    assert [row["name"] for row in rows] == ["digits", "digits"]
    status, out, _ = call("report", tmp_path, "--format", "json")
    assert [one["name"] for one in json.loads(out)] == ["digits", "digits"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--protocol", "stric"], "unknown protocol 'stric'; did you mean 'strict'?"),
        (["--eps", "-1/255"], "eps is at least 0"),
        (["--eps", "8"], "in units of the pixel range [0, 1], as 8/255"),
        (["--eps", "eight"], "eps takes a finite number or a fraction such as 8/255, not 'eight'"),
        (["--max-queries", "0"], "max_queries is at least 1"),
        (["--attack", "qa"], "unknown attack 'qa'; did you mean 'qa-'?"),
        (["--attack", "es:3"], "has one target only"),
        (["--norm", "l1"], "unknown value of norm 'l1'"),
        (["--norm", "l2"], "give eps"),
        (["--gradient", "nse"], "did you mean 'nes'?"),
        (["--precision", "half"], "unknown value of precision 'half' (allowed: float32, bfloat16)"),
        (["--protocol", "cvpr22", "--restarts", "2"], "neither restarts nor black-box"),
        (["--batch-size", "0"], "batch is at least 1"),
        (["--eps", "0.1", "--eps-curve", "0,1/255"], "not both"),
        (["--weights", "w.pth"], "brings its own weights; leave out w.pth"),
        (["--size", "8"], "--size goes with other models; the run"),
        (["--published"], "nothing was published for data set 'digits'"),
        (["--eps-curve", "0,8,300/255"], "in units of the pixel range [0, 1], as 8/255"),
        (["--transfer", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_evaluated(arguments: list[str], told: str, refused: Refuse, run: Path) -> None:
    assert told in refused("evaluate", run, *arguments)


def test_a_model_needs_images(refused: Refuse, models: Path, photos: Path) -> None:
    assert "needs a test set" in refused("evaluate", "models:build")
    assert "go together" in refused("evaluate", "models:build", "--queries", photos / "q.csv")
    unknown = refused("evaluate", "models:biuld", "--data", "folder", "--root", photos, "--size", "8")
    assert "did you mean 'build'?" in unknown
    photos_at = ("--data", "folder", "--root", photos, "--size", "8", "--channels", "1")
    assert "does not reach the pixels" in refused("evaluate", "models:detached", *photos_at)
    assert "the model fails on" in refused("evaluate", "models:build", *photos_at[:4], "--size", "9")


def test_report_without_results(refused: Refuse, tmp_path: Path) -> None:
    assert "holdfast evaluate RUN" in refused("report", tmp_path)
    assert "unknown format 'md'" in refused("report", tmp_path, "--format", "md")
    assert "unknown format 'md'" in refused("report", tmp_path, "--published", "--format", "md")
