"""Evaluation of models by one word, against the same numbers found by hand."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from holdfast.data import Pixels, load_dataset
from holdfast.evaluation.evaluate import evaluate
from holdfast.metrics.collapse import gauges
from holdfast.metrics.retrieval import retrieval_metrics
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.models.embedding import embed_dataset
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.report import find
from holdfast.runs.config import resolve_config
from holdfast.runs.folder import Run
from holdfast.training.loop import train
from holdfast.util.errors import HoldfastError
from tests.helpers import tiny
from tests.helpers.tiny import digits, photos, same_set, snapshot

QUICK: dict[str, Any] = {**tiny.QUICK, "attacks": ("es", "ltm"), "steps": 3, "step": 0.1, "max_queries": 20}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch on digits; as best weights lie others nearby."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    settings = {"recipe": "none-r", "model.dim": 16, "batch.pairs": 250, "optim.epochs": 1, "validation.attacked": 0}
    settings |= {"validation.share": 0}
    train(resolve_config(settings), folder, quiet=True)
    other = Embedder.from_pretrained(folder)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    other.save_pretrained(folder / "best")
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that was not evaluated."""
    return shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("evaluations"))


def by_hand(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    table = load_dataset("digits").test()
    assert isinstance(table.images, np.ndarray)
    images = torch.from_numpy(table.images)[:, None].float() / 255
    with torch.no_grad():
        z = Embedder.from_pretrained(folder)(images)
    return retrieval_metrics(*same_set(z, torch.from_numpy(table.labels))), gauges(z)


@pytest.mark.parametrize("best", [False, True])
def test_a_run_is_evaluated_on_its_test_set_into_its_folder(best: bool, trained: Path) -> None:
    result = evaluate(open_model(trained, best=best), **QUICK)
    assert result.path is not None
    assert result.path.parent.parent == trained / "evaluations"
    assert result.path.parent.name == f"strict-{result.content['hash']}"
    assert json.loads(result.path.read_text()) == result.content
    scores, measured = by_hand(trained / "best" if best else trained)
    for name, value in scores.items():
        assert result.content["benign"][name] == pytest.approx(value, rel=1e-4)
    assert result.content["gauges"] == pytest.approx(measured, rel=1e-4)
    assert result.content["collapsed"] is False
    assert 0 < result.content["benign"]["NMI"] <= 100
    counts = ("queries", "queries_without_match", "unreadable")
    assert [result.content["benign"][name] for name in counts] == [797, 0, 0]
    assert all(type(result.content["benign"][name]) is int for name in counts)
    assert result.name == ("digits/best" if best else "digits")
    about = {"recipe": "none-r", "weights": "best" if best else "last", "backbone": "c2f2", "dim": 16}
    assert result.content["model"].items() >= about.items()
    assert result.content["data"].items() >= {"name": "digits", "gallery": 797, "attacked": 20, "size": 8}.items()
    assert torch.__version__.startswith(result.content["environment"]["libraries"]["torch"])
    for name in ("ES:R", "LTM"):
        attacked = result.number(name)
        assert attacked is not None
        assert 0 <= attacked < scores["R@1"]


def test_best_and_last_and_protocols_lie_beside_each_other(copied: Path) -> None:
    assert by_hand(copied)[0]["R@1"] != pytest.approx(by_hand(copied / "best")[0]["R@1"], rel=1e-4)
    results = [evaluate(open_model(copied, best=best), **QUICK) for best in (False, True)]
    results.append(evaluate(copied, None, "cvpr22", **QUICK))
    results.append(evaluate(copied, None, "benign", quiet=True, device="cpu"))
    assert len({result.path for result in results}) == 4
    assert {result.path for result in find([copied])} == {result.path for result in results}
    assert [result.content["protocol"] for result in results] == ["strict", "strict", "cvpr22", "benign"]


def test_a_run_further_trained_is_evaluated_anew(copied: Path) -> None:
    """Never the result of the weights that lay there before."""
    first = evaluate(copied, **QUICK)
    for name in ("model.safetensors", "config.json"):
        shutil.copy(copied / "best" / name, copied / name)
    second = evaluate(copied, **QUICK)
    assert second.path != first.path
    assert second.content["benign"]["R@1"] == pytest.approx(by_hand(copied)[0]["R@1"], rel=1e-4)


def test_results_go_where_they_are_wanted(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(trained)
    result = evaluate(trained, folder=tmp_path / "out", name="mine", seed=1, **QUICK)
    assert result.path is not None
    assert result.path.parent.parent == tmp_path / "out"
    assert result.name == "mine"
    assert evaluate(trained, digits(), seed=1, **QUICK).path is None
    assert snapshot(trained) == before
    monkeypatch.chdir(trained)
    inside = evaluate(".", **QUICK)
    assert inside.path is not None
    assert inside.path.resolve().is_relative_to(trained / "evaluations")
    assert inside.name == "digits"


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("config.yaml", "needs a test set: --data NAME --root FOLDER"),
        ("model.safetensors", r"no weights at .*model\.safetensors: there is no such file"),
        ("config.json", "holds no saved embedder: cannot read"),
    ],
)
def test_what_is_no_run_is_refused(absent: str, message: str, copied: Path) -> None:
    (copied / absent).unlink()
    before = snapshot(copied)
    with pytest.raises(HoldfastError, match=message):
        evaluate(copied, **QUICK)
    assert snapshot(copied) == before


@pytest.mark.parametrize(
    ("validation", "verdict"),
    [({"validation.on_test": True}, "unchecked, CHOSEN ON TEST"), ({"validation.share": 0.2}, "unchecked")],
)
def test_a_bare_copy_of_best_says_what_it_was_chosen_on(
    validation: dict[str, Any], verdict: str, tmp_path: Path
) -> None:
    settings = {"data.name": "digits", "model.dim": 16, "batch.pairs": 24, "steps": 1, "recipe": "none-r"}
    config = resolve_config({**settings, "validation.every": 1, "validation.attacked": 8, **validation})
    train(config, tmp_path / "run", device="cpu", quiet=True)
    copy = shutil.copytree(tmp_path / "run" / "best", tmp_path / "copy")
    pixels = load_test_set(open_model(tmp_path / "run"))
    for place in (tmp_path / "run" / "best", copy):
        result = evaluate(place, pixels, "benign", device="cpu", quiet=True)
        assert (result.verdict, result.content["model"]["weights"]) == (verdict, "best")
    elsewhere = (pixels.table.images[:40], pixels.table.labels[:40])
    assert evaluate(copy, elsewhere, "benign", device="cpu", quiet=True).verdict == "unchecked"


def test_batchnorm_is_in_evaluation_mode_and_left_as_it_was() -> None:
    torch.manual_seed(0)
    embedder = Embedder(EmbedderConfig("resnet18", dim=4, channels=1, size=8))
    state = {name: tensor.clone() for name, tensor in embedder.state_dict().items()}
    table = load_dataset("digits")
    pixels = Pixels(table.select(np.arange(len(table)) >= 1780), 8, channels=1)
    told: list[tuple[int, int]] = []
    embedded = embed_dataset(embedder, pixels, torch.device("cpu"), lambda done, total: told.append((done, total)))
    assert embedder.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in embedder.state_dict().items())
    assert told == [(17, 17)]
    with torch.no_grad():
        expected = embedder.eval()(pixels.read(embedded.ids)[0])
    torch.testing.assert_close(embedded.z, expected)


# --- runs on a folder of images


@pytest.fixture(scope="module")
def on_photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on a folder of images, and the folder."""
    place = tmp_path_factory.mktemp("photos")
    root = photos(place / "here", each=4)
    small = {"data.name": "folder", "data.root": str(root), "data.size": 8, "model.backbone": "c2f2", "model.dim": 4}
    quick = {"recipe": "none-r", "batch.pairs": 8, "steps": 1, "validation.attacked": 2}
    train(resolve_config(small, quick), place / "run", quiet=True)
    return place / "run", root


def test_the_folder_of_a_run_may_have_moved(on_photos: tuple[Path, Path], tmp_path: Path) -> None:
    run, root = on_photos
    whole = evaluate(run, **QUICK).content
    assert (whole["benign"]["queries"], whole["benign"]["unreadable"], whole["data"]["attacked"]) == (8, 0, 8)
    moved = shutil.copytree(root, tmp_path / "there")
    again = evaluate(run, load_test_set(open_model(run), root=moved), **QUICK).content
    assert {**again, "cost": whole["cost"]} == whole


# --- models by name

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(192, 5)

    def forward(self, images):
        return self.layer(images.flatten(1))

def build():
    torch.manual_seed(0)
    return Net()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model in a file, photos, and lists of queries and gallery."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outside_net.py").write_text(MODEL)
    photos(tmp_path / "photos", each=4)
    for name, numbers in {"q": (0,), "g": (1, 2, 3)}.items():
        lines = [f"photos/{c}/{i}.png,{c}" for c in "abcd" for i in numbers]
        (tmp_path / f"{name}.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    return tmp_path


def test_a_model_in_a_file_on_a_folder(place: Path) -> None:
    weights = place / "w.pth"
    torch.manual_seed(1)
    torch.save({"layer.weight": torch.randn(5, 192), "layer.bias": torch.zeros(5)}, weights)
    model = open_model("outside_net.py:build", size=8)
    images = load_test_set(model, data="folder", root=place / "photos")
    result = evaluate(model, images, **QUICK)
    assert result.name == "outside_net.py-build"
    assert result.path is None
    about = {"recipe": None, "backbone": "outside_net.py:build", "weights": None, "dim": 5}
    assert result.content["model"].items() >= about.items()
    assert "holdfast normalised them" in result.content["model"]["remarks"][-1]
    other = evaluate(open_model("outside_net.py:build", weights=weights), images, **QUICK)
    assert other.content["hash"] != result.content["hash"]
    assert other.content["model"]["weights"] == "w.pth"
    assert other.content["benign"] != result.content["benign"]


def test_a_model_that_was_mended_is_evaluated_anew(place: Path) -> None:
    """The same weights, but the pixels are no longer divided by 255."""
    images = load_test_set(open_model("outside_net.py:build", size=8), data="folder", root=place / "photos")
    (place / "outside_net.py").write_text(MODEL.replace("images.flatten(1)", "(images / 255).flatten(1)"))
    bad = evaluate("outside_net.py:build", images, folder=place, **QUICK)
    assert "UNTRUSTED" in bad.verdict
    (place / "outside_net.py").write_text(MODEL)
    good = evaluate("outside_net.py:build", images, folder=place, **QUICK)
    assert good.path != bad.path
    assert good.verdict == "unchecked, too few queries"


def test_attacks_may_come_from_a_run_or_a_model(trained: Path, place: Path) -> None:
    spec = place / "outside_net.py"
    spec.write_text(MODEL.replace("192", "64"))
    for source in (str(trained / "best"), str(trained), f"{spec}:build"):
        moved = evaluate(trained, digits(), surrogate=source, **QUICK).content
        white = evaluate(trained, digits(), **QUICK).content
        ahead = moved["columns"]["LTM"]["value"] - white["columns"]["LTM"]["value"]
        assert ahead == 0 if source == str(trained) else ahead >= 0
        assert (moved["model"]["surrogate"] == moved["model"]["hash"]) == (source == str(trained))


@pytest.mark.parametrize(
    ("word", "opening", "images", "message"),
    [
        ("run", {"size": 8}, {}, "--size goes with other models; the run .* has its own"),
        ("run", {"resize": 8}, {}, "--resize goes with other models"),
        ("run", {"channels": 1}, {}, "--channels goes with other models"),
        ("outside_net:Net", {"best": True}, {"data": "digits"}, "only a run has best weights"),
        ("outside_net:Net", {}, {}, "needs a test set: --data NAME --root FOLDER, or --queries"),
        ("outside_net:Net", {}, {"queries": "q.csv"}, "--queries and --gallery go together"),
        ("outside_net:Net", {}, {"queries": "q.csv", "gallery": "g.csv", "root": "photos"}, "--root does not go with"),
        ("outside_net:Net", {}, {"queries": "q.csv", "gallery": "g.csv", "data": "digits"}, "--data does not go with"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(  # noqa: PLR0917
    word: str, opening: dict[str, Any], images: dict[str, Any], message: str, trained: Path, place: Path
) -> None:
    lists = {key: Path(value) if key in ("queries", "gallery") else value for key, value in images.items()}
    with pytest.raises(HoldfastError, match=message) as caught:
        load_test_set(open_model(trained if word == "run" else word, **opening), **lists)
    assert "\n" not in str(caught.value)


def test_a_model_is_shown_images_its_own_way_whatever_the_data(trained: Path, place: Path) -> None:
    """A grey embedder of 8 pixels, saved or in its run, on a folder of colour photos."""
    Embedder.from_pretrained(trained).save_pretrained(place / "saved")
    for word in (trained, "saved"):
        images = load_test_set(open_model(word), data="folder", root=place / "photos")
        assert (images.size, images.channels, images.table.family) == (8, 1, "224")
        assert evaluate(word, images, **QUICK).content["settings"]["eps"] == 8 / 255


def test_arrays_do_not_say_how_far_they_may_be_changed(trained: Path) -> None:
    with pytest.raises(HoldfastError, match="give eps"):
        evaluate(trained, tiny.pair(), **QUICK)
    assert evaluate(trained, tiny.pair(), eps=0.1, **QUICK).content["settings"]["eps"] == 0.1
    assert evaluate(trained, tiny.pair(), "benign", quiet=True, device="cpu").verdict == "unchecked"


def test_a_result_says_how_the_model_was_trained_and_what_that_cost(trained: Path, copied: Path) -> None:
    model = evaluate(copied, None, "benign", quiet=True, device="cpu").content["model"]
    lines = Run(trained).steps()
    assert len(lines) == 4
    assert model["seed"] == 0
    training = model["training"]
    assert training.keys() == {"settings", "steps", "passes", "seconds"}
    assert training["steps"] == 4
    assert training["passes"] == 4 * 500, "the images of 250 pairs in each step"
    assert training["seconds"] == pytest.approx(sum(line["seconds"] for line in lines))
    given = {"recipe": "none-r", "seed": 0, "steps": None, "data.name": "digits", "batch.pairs": 250, "model.dim": 16}
    assert training["settings"].items() >= given.items()
    foreign = {"data.root", "data.cache", "data.workers", "tracker", "save_minutes", "stop_on_collapse"}
    assert not foreign & training["settings"].keys()
