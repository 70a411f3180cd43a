"""Adversarial images as files: what any program finds in them is what the manifest says."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from holdfast.core.batching import WIDTH
from holdfast.core.pgd import rounded
from holdfast.core.steps import L2, LInf
from holdfast.data import Pixels, held_out
from holdfast.evaluation.saving import attack
from holdfast.util.errors import HoldfastError
from tests.helpers.tiny import counted, digits, embedder, pair, photos, rows, snapshot

EMBEDDER = embedder()
QUICK: dict[str, Any] = {"steps": 6, "max_queries": 12, "quiet": True, "device": "cpu"}


def read(path: Path) -> npt.NDArray[np.int64]:
    with Image.open(path) as image:
        return np.asarray(image).astype(np.int64)


# --- rounding


@pytest.mark.parametrize("ball", [LInf(8 / 255), LInf(5.6 / 255), LInf(0.4 / 255), L2(0.5), L2(0.03), LInf(0), LInf(1)])
def test_rounded_images_are_on_the_grid_and_in_the_ball(ball: LInf | L2) -> None:
    generators = torch.Generator().manual_seed(0)
    clean = torch.randint(256, (64, 3, 5, 5), generator=generators) / 255
    scale = 1.0 if ball.eps == 1 else 3 * ball.eps
    noise = ball.project(scale * torch.randn(clean.shape, generator=generators))
    images = (clean + noise).clamp(0, 1)
    found = rounded(images, clean, ball)
    assert torch.equal(found, (255 * found).round().to(torch.uint8).float() / 255)
    assert (found - images).abs().max() <= 1.001 / 255
    moved = (found - clean).double().flatten(1)
    size = moved.abs().amax(1) if isinstance(ball, LInf) else moved.norm(dim=1)
    assert size.max() <= ball.eps + 1e-6
    if ball.eps > 1 / 255:
        assert size.max() > 0.8 * min(ball.eps, 1)


def test_pixels_go_to_the_nearest_value_where_the_ball_allows_it() -> None:
    clean = torch.full((1, 1, 1, 4), 100 / 255)
    images = clean + torch.tensor([4.6, -4.6, 0.4, 8.0]) / 255
    assert (255 * rounded(images, clean, LInf(8 / 255))).round().flatten().tolist() == [105, 95, 100, 108]
    assert (255 * rounded(images, clean, LInf(4.7 / 255))).round().flatten().tolist()[:3] == [104, 96, 100]


# --- files


def saved(name: str, folder: Path, **settings: Any) -> list[dict[str, Any]]:
    return attack(EMBEDDER, digits(), name, folder, **{**QUICK, **settings})


def mean(entries: list[dict[str, Any]], when: str, reading: str) -> float:
    return float(np.mean([entry[when][reading] for entry in entries]))


def test_a_manifest_says_what_was_made_of_which_image(tmp_path: Path) -> None:
    entries = saved("qa-", tmp_path)
    images, labels = pair()
    assert entries == rows(tmp_path / "manifest.jsonl")
    assert len(entries) == 12
    for entry in entries:
        i = int(Path(entry["file"]).stem)
        assert (entry["clean"], entry["source"], entry["label"]) == (
            f"{i}-clean.png",
            f"digits test[{i}]",
            str(labels[i]),
        )
        assert len(entry["chosen"]) == 1
        assert entry["chosen"][0] != entry["source"]
        assert [list(entry[when]) for when in ("before", "after", "saved")] == [["QA-"]] * 3
        assert np.array_equal(read(tmp_path / entry["clean"]), images[i])
        assert read(tmp_path / entry["file"]).shape == (8, 8)
    record = rows(tmp_path / "records" / "qa-.jsonl")
    assert [(one["before"], one["after"]) for one in record] == [(entry["before"], entry["after"]) for entry in entries]
    assert mean(entries, "saved", "QA-") > mean(entries, "before", "QA-") + 10


@pytest.mark.parametrize("eps", [77 / 255, 5.6 / 255, 0.02])
def test_saved_pixels_stay_within_the_radius(eps: float, tmp_path: Path) -> None:
    entries = saved("es", tmp_path, eps=eps, step=eps / 2)
    moved = [np.abs(read(tmp_path / entry["file"]) - read(tmp_path / entry["clean"])).max() for entry in entries]
    assert max(moved) == int(eps * 255 + 1e-6)


@pytest.mark.parametrize(
    ("name", "reading", "bound"), [("es", "ES:D", 0.005), ("qa+", "QA+", 2.0), ("ca-", "CA-", 2.0)]
)
@pytest.mark.parametrize("settings", [{}, {"eps": 0.021}, {"norm": "l2", "eps": 0.8}], ids=["grid", "off", "l2"])
def test_rounding_costs_little(name: str, reading: str, bound: float, settings: Any, tmp_path: Path) -> None:
    entries = saved(name, tmp_path, **settings)
    assert max(abs(entry["after"][reading] - entry["saved"][reading]) for entry in entries) < 5 * bound
    assert abs(mean(entries, "after", reading) - mean(entries, "saved", reading)) < bound
    assert mean(entries, "before", reading) != mean(entries, "saved", reading)


def test_colour_images(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    entries = attack(embedder(channels=3), Pixels(held_out("folder", root), 8), "es", tmp_path / "adv", **QUICK)
    assert len(entries) == 12
    for entry in entries:
        assert np.array_equal(read(tmp_path / "adv" / entry["clean"]), read(Path(entry["source"])))
        assert read(tmp_path / "adv" / entry["file"]).shape == (8, 8, 3)
        assert entry["label"] == Path(entry["source"]).parent.name
        assert entry["saved"]["ES:D"] > 0.01 + entry["before"]["ES:D"]


def vectors(images: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.float64]:
    with torch.no_grad():
        found: npt.NDArray[np.float64] = (
            EMBEDDER(torch.from_numpy(np.stack(images)[:, None] / 255).float()).double().numpy()
        )
    return found


def away(items: npt.NDArray[np.float64], point: npt.NDArray[np.float64], *own: int) -> npt.NDArray[np.float64]:
    """Distances to a point; the items that do not count are infinitely far."""
    distances: npt.NDArray[np.float64] = np.linalg.norm(items - point, axis=1)
    distances[list(own)] = np.inf
    return distances


def test_whoever_opens_the_files_finds_what_the_manifest_says(tmp_path: Path) -> None:
    """From the PNGs and the gallery's pixels alone, ranked in other words."""
    images, labels = pair()
    items, readings = vectors(list(images.astype(np.int64))), set[float]()
    settings: dict[str, dict[str, Any]] = {"qa+": {"eps": 0.021}, "ca-": {}, "es": {"norm": "l2", "eps": 0.8}}
    for name, given in settings.items():
        for entry in saved(name, tmp_path / name, **given):
            i, z = int(Path(entry["file"]).stem), vectors([read(tmp_path / name / entry["file"])])[0]
            chosen = [int(source.partition("[")[2][:-1]) for source in entry["chosen"]]
            if name == "es":
                right = labels[away(items, z, i).argmin()] == labels[i]
                expected = {"ES:D": np.linalg.norm(z - items[i]), "ES:R": 100 * right}
            elif name == "qa+":
                distances = away(items, z, i)
                expected = {"QA+": 100 * int((distances < distances[chosen]).sum()) / len(items)}
            else:
                there = np.linalg.norm(z - items[chosen[0]])
                expected = {"CA-": 100 * int((away(items, items[chosen[0]], i, chosen[0]) < there).sum()) / len(items)}
            assert entry["saved"] == pytest.approx(expected, abs=2e-6)
            readings |= set(entry["saved"].values())
    assert len(readings) > 20


# --- after a kill


def without_times(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name != "costs.jsonl"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder saved in batches of four, in one go, and the calls of the model it took."""
    folder = tmp_path_factory.mktemp("whole")
    embed, calls = counted(EMBEDDER)
    attack(embed, digits(), "es", folder, batch=4, **QUICK)
    return folder, calls[0]


@pytest.mark.parametrize(("share", "cut"), [(0.4, 0), (0.7, 25), (1, 0), (1, 25)])
def test_an_interrupted_call_goes_on(share: float, cut: int, whole: tuple[Path, int], tmp_path: Path) -> None:
    """``cut``: so many bytes of a next line were written when it ended."""
    folder, calls = whole
    embed, _ = counted(EMBEDDER, int(share * calls))
    with pytest.raises(KeyboardInterrupt):
        attack(embed, digits(), "es", tmp_path, batch=4, **QUICK)
    costs = tmp_path / "costs.jsonl"
    finished = costs.read_text().splitlines() if costs.exists() else []
    assert len(finished) == {0.4: 0, 0.7: 1, 1: 2}[share]
    for file in (tmp_path / "manifest.jsonl", tmp_path / "records" / "es.jsonl"):
        with file.open("a") as stream:
            stream.write('{"file": "0.png", "clean": "0-clean.png"}'[:cut])
    entries = attack(EMBEDDER.__call__, digits(), "es", tmp_path, batch=4, **QUICK)
    assert (tmp_path / "costs.jsonl").read_text().splitlines()[: len(finished)] == finished
    assert entries == rows(folder / "manifest.jsonl")
    assert without_times(snapshot(tmp_path)) == without_times(snapshot(folder))


def test_lines_of_a_batch_that_was_not_recorded_are_written_anew(whole: tuple[Path, int], tmp_path: Path) -> None:
    """Killed between the manifest and the records."""
    folder, _ = whole
    for name, content in snapshot(folder).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    costs = (folder / "costs.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "costs.jsonl").write_text("".join(costs[:2]))
    (tmp_path / rows(folder / "manifest.jsonl")[-1]["file"]).unlink()
    attack(EMBEDDER.__call__, digits(), "es", tmp_path, batch=4, **QUICK)
    assert without_times(snapshot(tmp_path)) == without_times(snapshot(folder))


def test_a_finished_call_is_not_repeated(whole: tuple[Path, int]) -> None:
    folder, calls = whole
    before = snapshot(folder)
    embed, again = counted(EMBEDDER)
    assert attack(embed, digits(), "es", folder, batch=4, **QUICK) == rows(folder / "manifest.jsonl")
    assert snapshot(folder) == before
    attacked = sum(cost["forward"] for cost in rows(folder / "costs.jsonl")) // WIDTH
    assert again[0] == calls - attacked - 3  # and no saved image was read again, in any of three batches


@pytest.mark.parametrize(
    ("embed", "name", "settings"),
    [
        (EMBEDDER.__call__, "ltm", {}),
        (EMBEDDER.__call__, "es", {"eps": 0.1}),
        (EMBEDDER.__call__, "es", {"seed": 1}),
        (embedder(1).__call__, "es", {}),
        (EMBEDDER, "es", {}),
    ],
)
def test_the_folder_of_another_attack_is_refused(
    embed: Any, name: str, settings: dict[str, Any], whole: tuple[Path, int]
) -> None:
    folder, _ = whole
    before = snapshot(folder)
    with pytest.raises(HoldfastError, match="holds images of another attack, model or data set; give another folder"):
        attack(embed, digits(), name, folder, batch=4, **{**QUICK, **settings})
    assert snapshot(folder) == before


def test_a_manifest_with_lines_missing_is_refused(whole: tuple[Path, int], tmp_path: Path) -> None:
    folder = tmp_path / "adv"
    shutil.copytree(whole[0], folder)
    (folder / "manifest.jsonl").unlink()
    with pytest.raises(HoldfastError, match=r"manifest\.jsonl has 0 lines for 12 images; remove .* to start over"):
        attack(counted(EMBEDDER)[0], digits(), "es", folder, batch=4, **QUICK)


def test_what_cannot_be_attacked_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match="needs 200 different targets"):
        saved("oa:200", tmp_path / "adv")
    with pytest.raises(HoldfastError, match="eps is above 0"):
        saved("es", tmp_path / "adv", eps=0)
    assert not (tmp_path / "adv").exists()
