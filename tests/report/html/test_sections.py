"""Training curves and ranked lists, of runs."""

import csv
import json
import shutil
from pathlib import Path
from statistics import fmean

import pytest
import torch

from holdfast.models.embedder import Embedder
from holdfast.report import find
from holdfast.report.html.sections.training import MAX_POINTS, downsampled
from holdfast.util.errors import HoldfastError
from tests.helpers.html_page import page_of, paths


def test_thinning_keeps_means_ends_and_extremes() -> None:
    points = [(float(i), ((7919 * i) % 1000) / 1000) for i in range(12_345)]
    points[6789] = (6789.0, 50.0)
    points[4321] = (4321.0, -50.0)
    curve = downsampled(points)
    assert len(curve) == MAX_POINTS
    assert max(point.high or 0 for point in curve) == 50.0
    assert min(point.low or 0 for point in curve) == -50.0
    size = len(points) / MAX_POINTS
    first = [y for _, y in points[: round(size)]]
    assert curve[0].y == pytest.approx(fmean(first))
    assert (curve[0].low, curve[0].high) == (min(first), max(first))
    assert downsampled(points[:3]) == downsampled(points[:3], 1000)
    assert [(point.x, point.y) for point in downsampled(points[:3])] == points[:3]


def test_long_training_is_downsampled(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "none-r", tmp_path / "run")
    lines = [
        json.dumps({"step": i, "epoch": 1, "loss": 1 / i, "passes": 2.0, "seconds": 0.1}) for i in range(1, 20_001)
    ]
    (tmp_path / "run" / "steps.jsonl").write_text("\n".join(lines) + "\n")
    page = page_of(tmp_path)
    assert "20,000 steps, 40,000 image passes, 2,000 seconds" in page.text
    assert max(len(path) for path in paths(page)) < 5_000
    with (runs / "none-r" / "epochs.csv").open(newline="") as file:
        *_, row = csv.DictReader(file)
    assert any(f"to {float(row['R@1']):.3g}; attacked" in title for title in page.inside("title"))


def test_pictures_show_what_the_library_finds(runs: Path) -> None:
    from holdfast.report.html.checkpoints import checkpoints
    from holdfast.report.html.sections.rankings import CLEAN, retrieve

    (checkpoint,) = checkpoints(find([runs / "none-r"]))
    found = retrieve(checkpoint, 3, None, {"eps": 0.2, "step": 0.1, "steps": 2, "norm": "linf"})
    gallery, queries = found.target.system.gallery, found.queries
    embed = Embedder.from_pretrained(runs / "none-r")
    for name, images in found.images.items():
        assert (images - found.images[CLEAN]).abs().max() <= 0.2 + 1e-6
        with torch.no_grad():
            distances = torch.cdist(embed(images), gallery.embeddings)
        distances[queries.ids[:, None] == gallery.ids] = torch.inf
        expected = distances.gather(1, found.rows[name])
        assert torch.allclose(expected, distances.sort(dim=1).values[:, :5], atol=1e-3)
    assert not torch.equal(found.images["es"], found.images[CLEAN])


def test_pictures_stop_where_the_page_would_grow_too_large(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.report.html.sections.rankings.MAX_CHARACTERS", 10_000)
    page = page_of(runs / "none-r", pictures=6)
    left = [int(text.split()[0]) for text in page.inside("p") if "left out, to keep the page small" in text]
    assert left and 0 < left[0] < 6  # noqa: PT018
    assert len(page.of("img")) == (6 - left[0]) * 20


def test_a_missing_data_folder_is_said_once_for_all_runs(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise HoldfastError("/gone does not exist")

    monkeypatch.setattr("holdfast.report.html.sections.rankings.retrieve", missing)
    page = page_of(runs, pictures=2)
    assert page.text.count("/gone does not exist") == 1
    assert page.text.count(": no ranked lists; ") == 1
