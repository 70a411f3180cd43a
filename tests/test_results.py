"""Evaluation of a run folder, against the same numbers found by hand."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast.config import resolve
from holdfast.data import Pixels, load
from holdfast.embedder import Embedder, EmbedderConfig
from holdfast.errors import HoldfastError
from holdfast.evaluation import embed_test
from holdfast.gauges import gauges
from holdfast.results import evaluate_run
from holdfast.retrieval import evaluate, same_set
from holdfast.train import train

NAMES = ["R@1", "R@2", "R@4", "R@8", "mAP", "mAP@R", "R-Precision", "NMI"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on digits; as best weights lie others nearby."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    settings = {"recipe": "none-r", "model.dim": 16, "batch.pairs": 250, "optim.epochs": 2, "validation.attacked": 0}
    train(resolve(settings), folder, quiet=True)
    other = Embedder.from_pretrained(folder)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    other.save_pretrained(folder / "best")
    return folder


def by_hand(folder: Path) -> dict[str, float]:
    table = load("digits").test()
    assert isinstance(table.images, np.ndarray)
    images = torch.from_numpy(table.images)[:, None].float() / 255
    with torch.no_grad():
        z = Embedder.from_pretrained(folder).eval()(images)
    return evaluate(*same_set(z, torch.from_numpy(table.labels))) | gauges(z)


@pytest.mark.parametrize("best", [False, True])
def test_scores_are_those_of_the_test_set(best: bool, trained: Path) -> None:
    scores = evaluate_run(trained, best=best, quiet=True)
    expected = by_hand(trained / "best" if best else trained)
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, rel=1e-4)
    assert list(scores)[: len(NAMES)] == NAMES
    assert 0 < float(scores["NMI"]) <= 100
    assert scores["collapsed"] is False

    file = json.loads((trained / ("evaluation-best.json" if best else "evaluation.json")).read_text())
    assert file["scores"] == scores
    assert file["weights"] == ("best" if best else "last")
    assert (file["recipe"], file["data"]) == ("none-r", "digits")
    assert file["environment"]["libraries"]["torch"] == torch.__version__
    numbers = [value for name, value in file["scores"].items() if name != "collapsed"]
    assert all(isinstance(value, (int, float)) for value in numbers)
    assert all(type(file["scores"][name]) is int for name in ("queries", "queries_without_match", "unreadable"))
    assert file["scores"]["queries"] == 797


def test_best_and_last_differ(trained: Path) -> None:
    """So that the test above can tell them apart."""
    assert by_hand(trained)["R@1"] != pytest.approx(by_hand(trained / "best")["R@1"], rel=1e-4)


def test_a_second_evaluation_finds_the_same(trained: Path) -> None:
    assert evaluate_run(trained, quiet=True) == evaluate_run(trained, quiet=True)


def test_a_folder_is_evaluated_from_inside(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    evaluate_run(".", quiet=True)
    assert json.loads((trained / "evaluation.json").read_text())["weights"] == "last"


def without(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("config.yaml"), r"is no run folder: it has no config\.yaml"),
        (without("model.safetensors"), r"no weights at .*model\.safetensors: it does not exist"),
        (without("config.json"), r"holds no saved embedder: config\.json"),
        (cut, r"model\.safetensors cannot be read as weights"),
    ],
)
def test_what_is_no_run_is_refused(damage: Any, message: str, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    damage(folder)
    with pytest.raises(HoldfastError, match=message):
        evaluate_run(folder, quiet=True)


def test_batchnorm_is_in_evaluation_mode_and_left_as_it_was() -> None:
    torch.manual_seed(0)
    embedder = Embedder(EmbedderConfig("resnet18", dim=4, channels=1, size=8))
    state = {name: tensor.clone() for name, tensor in embedder.state_dict().items()}
    table = load("digits")
    pixels = Pixels(table.select(np.arange(len(table)) >= 1780), 8, channels=1)
    told: list[tuple[int, int]] = []
    embedded = embed_test(embedder, pixels, torch.device("cpu"), lambda done, total: told.append((done, total)))
    assert embedder.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in embedder.state_dict().items())
    assert told == [(17, 17)]
    with torch.no_grad():
        expected = embedder.eval()(pixels.read(embedded.ids)[0])
    torch.testing.assert_close(embedded.z, expected)


def test_a_nan_embedding_names_its_image() -> None:
    embedder = Embedder(EmbedderConfig("c2f2", dim=4, channels=1, size=8))
    with torch.no_grad():
        next(embedder.parameters()).fill_(float("nan"))
    pixels = Pixels(load("digits").test(), 8, channels=1)
    with pytest.raises(HoldfastError, match=r"NaN or infinite embeddings; first for digits test\[0\]"):
        embed_test(embedder, pixels, torch.device("cpu"))


def photos(root: Path) -> Path:
    pixels = np.random.default_rng(0)
    for name in "abcd":
        (root / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(pixels.integers(0, 256, (10, 10, 3), np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def on_photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on a folder of images, and the folder."""
    place = tmp_path_factory.mktemp("photos")
    root = photos(place / "here")
    small = {"data.name": "folder", "data.root": str(root), "data.size": 8, "model.backbone": "c2f2", "model.dim": 4}
    quick = {"recipe": "none-r", "batch.pairs": 8, "steps": 1, "validation.attacked": 2}
    train(resolve(small, quick), place / "run", quiet=True)
    return place / "run", root


def test_unreadable_images_are_left_out_and_counted(on_photos: tuple[Path, Path], tmp_path: Path) -> None:
    run, root = on_photos
    whole = evaluate_run(run, quiet=True)
    assert (whole["queries"], whole["unreadable"]) == (8, 0)
    moved = tmp_path / "there"
    shutil.copytree(root, moved)
    (moved / "c" / "2.png").write_bytes(b"no image")
    scores = evaluate_run(run, root=moved, quiet=True)
    assert (scores["queries"], scores["unreadable"]) == (7, 1)


def test_a_test_set_without_a_readable_image_is_named(on_photos: tuple[Path, Path], tmp_path: Path) -> None:
    run, root = on_photos
    moved = tmp_path / "there"
    shutil.copytree(root, moved)
    for path in [*moved.glob("c/*.png"), *moved.glob("d/*.png")]:
        path.write_bytes(b"no image")
    with pytest.raises(HoldfastError, match=r"none of the 8 test images can be read.*c/0\.png"):
        evaluate_run(run, root=moved, quiet=True)


def test_a_collapsed_embedder_is_called_so(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    embedder = Embedder.from_pretrained(folder)
    with torch.no_grad():
        last = [*embedder.parameters()]
        last[-2].zero_()
        last[-1].fill_(1.0)
    embedder.save_pretrained(folder)
    scores = evaluate_run(folder, quiet=True)
    assert scores["collapsed"] is True
    assert scores["mean_cosine"] == pytest.approx(1.0)
    assert float(scores["R@1"]) < 15
