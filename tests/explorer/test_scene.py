"""Models side by side: what is found, and that an attack is the one that ``holdfast attack`` makes."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast.attacks import ATTACKS
from holdfast.core.batching import WIDTH
from holdfast.evaluation.saving import attack as save_attack
from holdfast.evaluation.settings import resolve_settings
from holdfast.explorer.attacking.course import Outcome
from holdfast.explorer.attacking.offers import OFFERS, attack, settled
from holdfast.explorer.attacking.pictures import amplified, gain
from holdfast.explorer.attacking.query import clean
from holdfast.explorer.attacking.ranking import FIRST, ranked
from holdfast.explorer.jobs import Cancelled
from holdfast.explorer.scene import Query, Scene, open_scene
from holdfast.util.errors import HoldfastError
from tests.explorer.conftest import IMAGES
from tests.helpers.explorer_runs import run_folder
from tests.helpers.tiny import photos

EPS = 0.3


def quiet(progress: Any) -> None:
    pass


def attacked(scene: Scene, query: Query, name: str, **settings: Any) -> Outcome:
    given = {"eps": EPS, "step": 0.1, "steps": 6, **settings}
    resolved = settled(name, "28", {key: value for key, value in given.items() if key in OFFERS[name].takes})
    return attack(scene, query, resolved, quiet)


def on_photos(folder: Path, root: Path) -> Path:
    """A run on a folder of colour images."""
    settings = {"data.name": "folder", "data.root": str(root), "data.size": 8, "data.resize": 8}
    return run_folder(folder, **settings, **{"model.backbone": "c2f2"})


# --- the models and their test set


def test_a_black_box_is_refused_before_it_is_asked(folders: list[str]) -> None:
    word = "http://127.0.0.1:9/embed"
    with (
        pytest.raises(HoldfastError, match=f"^{word} is a black box, and .* follows gradients; .* evaluate {word}$"),
        open_scene([folders[0], word], data="digits", device="cpu", quiet=True),
    ):
        pass


def test_a_scene_holds_every_model_on_one_test_set(scene: Scene, folders: list[str]) -> None:
    assert [model.name for model in scene.models] == ["one", "other"]
    assert all("none-r" in model.about for model in scene.models)
    assert len(scene.rows) == IMAGES == len(scene.table)
    assert list(scene.labels.values()) == [str(i) for i in range(10)]
    with open_scene(folders[:1] * 2, device="cpu", quiet=True) as whole:
        assert [model.name for model in whole.models] == ["one", "one (2)"]
        assert len(whole.rows) == 797


def test_the_networks_are_fixed_while_the_scene_is_open(scene: Scene) -> None:
    network = scene.models[0].target.model.embed
    assert isinstance(network, torch.nn.Module)
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"images": 1}, "at least 2, not 1"),
        ({"specs": []}, "name at least one model"),
    ],
)
def test_what_cannot_be_shown_is_refused(given: dict[str, Any], said: str, folders: list[str]) -> None:
    with pytest.raises(HoldfastError, match=said), open_scene(**{"specs": folders, **given}):
        pass


def test_models_of_other_images_are_not_put_side_by_side(folders: list[str], tmp_path: Path) -> None:
    other = on_photos(tmp_path / "colour", photos(tmp_path / "photos"))
    said = "one test set: one has digits at 8 pixels, colour has folder at 8"
    with pytest.raises(HoldfastError, match=said), open_scene([*folders, str(other)], device="cpu", quiet=True):
        pass


def test_a_run_whose_weights_are_gone_is_refused_in_one_line(folders: list[str], tmp_path: Path, refused: Any) -> None:
    folder = run_folder(tmp_path / "run")
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in refused("explore", folder, "--port", "0")


def test_images_are_found_by_class_and_number(scene: Scene) -> None:
    rows = list(scene.rows)
    assert scene.search("") == rows
    assert scene.search("no such class") == []
    sevens = [row for row in rows if scene.class_of(row) == "7"]
    assert set(scene.search("7")) >= set(sevens)
    number = int(scene.table.numbers[rows[5]])
    assert scene.search(str(number))[0] == rows[5]
    assert scene.search("٣" * 30) == scene.search("9" * 30) == []


def test_photos_are_found_by_their_files(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    with open_scene([str(on_photos(tmp_path / "run", root))], device="cpu", quiet=True) as scene:
        assert [scene.name_of(row) for row in scene.search("C 3.png")] == ["c/3.png"]
        assert len(scene.search("d")) == 5
        (root / "c" / "3.png").write_bytes(b"")
        with pytest.raises(HoldfastError, match=r"c/3\.png can no longer be read"):
            scene.ask(scene.search("c 3.png")[0])


# --- what is found


def test_a_ranking_is_that_of_the_distances_without_the_own_entry(scene: Scene) -> None:
    row = list(scene.rows)[3]
    query = scene.ask(row)
    for i, model in enumerate(scene.models):
        gallery = model.target.system.gallery
        distances = torch.cdist(query.embeddings[i].double(), gallery.embeddings.double())[0]
        wanted = [j for j in distances.argsort().tolist() if int(gallery.ids[j]) != row]
        found = ranked(model, query.seen_by(i), query.embeddings[i])
        assert found.order.tolist() == wanted
        assert found.places[wanted].tolist() == list(range(1, IMAGES))
        assert int(found.places[scene.rows[row]]) == 0
        assert clean(scene, query)[i]["found"] == [scene.class_of(j) == scene.class_of(row) for j in wanted[:FIRST]]


def test_an_image_that_is_not_in_the_gallery_leaves_nothing_out(scene: Scene) -> None:
    row = list(scene.rows)[3]
    query, nearest = scene.ask_with(scene.read(row))
    assert nearest == row
    assert query.label == int(scene.table.labels[row])
    found = clean(scene, query)[0]["list"]
    assert found[0]["id"] == row
    assert [one["id"] for one in found[1:]] == [one["id"] for one in clean(scene, scene.ask(row))[0]["list"][:-1]]


# --- attacks


ON_QUERIES = {name: OFFERS[name].words for name in ATTACKS if name in OFFERS}


@pytest.mark.parametrize("name", ON_QUERIES)
def test_every_attack_stays_in_the_ball_and_shows_what_it_shows(name: str, scene: Scene) -> None:
    query = scene.ask(list(scene.rows)[7])
    outcome = attacked(scene, query, name)
    report = outcome.report
    assert len(report["targets"]) == len(report["models"][0]["targets"])
    assert bool(report["targets"]) == bool(ON_QUERIES[name].target)
    original = np.asarray(Image.open(BytesIO(outcome.files["clean"]))).astype(int)
    for i, (model, found) in enumerate(zip(scene.models, report["models"], strict=True)):
        file = np.array(Image.open(BytesIO(outcome.files[f"{i}-adversarial"])))
        moved = np.abs(file.astype(int) - original)
        assert 0 < moved.max() == found["largest"] <= int(255 * EPS)
        assert found["mean"] == pytest.approx(moved.mean(), abs=0.01)
        image = torch.from_numpy(file)[None, None] / 255
        with torch.no_grad():
            z = model.target.model(image)
        after = ranked(model, query.seen_by(i), z)
        ids = model.target.system.gallery.ids
        assert [one["id"] for one in found["after"]["list"]] == ids[after.order[:FIRST]].tolist()
        assert found["before"] == clean(scene, query)[i] | {"list": found["before"]["list"]}
        places = {one["id"]: one["other"] for one in found["before"]["list"]}
        assert all(int(after.places[ids.tolist().index(k)]) == place for k, place in places.items())
        assert found["trace"][0] == sum(found["before"]["found"]) or name == "es"
        assert [one["name"] for one in found["readings"]] == list(ATTACKS[name].readings)


def test_an_attack_is_that_of_the_command(folders: list[str], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"eps": EPS, "step": 0.1, "steps": 6, "seed": 3}
    with open_scene(folders[:1], device="cpu", quiet=True) as scene:
        for name in ("es", "qa+", "gtm"):
            given = {"max_queries": 2, "quiet": True, "device": "cpu", **settings}
            for entry in save_attack(folders[0], None, name, tmp_path / name, **given):
                row = int(entry["file"].removesuffix(".png"))
                outcome = attacked(scene, scene.ask(row), name, **settings)
                found = outcome.report["models"][0]["readings"]
                assert {one["name"]: one["after"] for one in found} == pytest.approx(entry["saved"], abs=0.02)
                assert {one["name"]: one["before"] for one in found} == pytest.approx(entry["before"], abs=0.02)
                chosen = [scene.table.name_of(target["id"]) for target in outcome.report["targets"]]
                assert chosen == entry["chosen"]


def test_all_models_are_pushed_toward_the_first_models_choice(scene: Scene, folders: list[str]) -> None:
    row = list(scene.rows)[11]
    both = attacked(scene, scene.ask(row), "gtm").report
    with open_scene(folders[::-1], images=IMAGES, device="cpu", quiet=True) as swapped:
        other = attacked(swapped, swapped.ask(row), "gtm").report
    wrong = [next(one for one in clean_list(scene, row, i) if not one["match"])["id"] for i in (0, 1)]
    assert [report["targets"][0]["id"] for report in (both, other)] == wrong
    assert both["models"][0]["targets"][0] != both["models"][1]["targets"][0]


def clean_list(scene: Scene, row: int, model: int) -> list[dict[str, Any]]:
    query = scene.ask(row)
    found = ranked(scene.models[model], query.seen_by(model), query.embeddings[model])
    ids = scene.models[model].target.system.gallery.ids[found.order]
    return [{"id": int(k), "match": bool(m)} for k, m in zip(ids, found.matching[found.order], strict=True)]


def test_the_default_attack_changes_what_is_found(scene: Scene) -> None:
    query = scene.ask(next(iter(scene.rows)))
    report = attacked(scene, query, "es", steps=20).report["models"][0]
    assert sum(report["after"]["found"]) < sum(report["before"]["found"])
    nothing = attacked(scene, query, "es", eps=0).report["models"][0]
    assert nothing["after"]["found"] == nothing["before"]["found"]
    assert (nothing["largest"], nothing["changed"]) == (0, 0)


def test_progress_is_told_and_an_attack_stops_where_it_is_told_to(scene: Scene) -> None:
    told: list[dict[str, Any]] = []
    resolved = resolve_settings("28", attacks=("es",), eps=EPS, steps=5)
    attack(scene, scene.ask(next(iter(scene.rows))), resolved, told.append)
    assert [one["model"] for one in told] == [0] * 6 + [1] * 6
    assert [one["step"] for one in told] == [1, 2, 3, 4, 5, 5] * 2
    assert [len(one["traces"]) for one in told] == [1] * 6 + [2] * 6

    def stop(progress: dict[str, Any]) -> None:
        if progress["step"] == 3:
            raise Cancelled

    before = scene.models[0].target.model.forward
    with pytest.raises(Cancelled):
        attack(scene, scene.ask(next(iter(scene.rows))), resolved, stop)
    assert scene.models[0].target.model.forward - before == 3


def test_one_image_costs_one_image(scene: Scene) -> None:
    """And not the 64 that a batch is filled up to."""
    assert scene.models[0].target.model.width == 1 < WIDTH


def test_a_class_of_one_image_has_no_right_answer(tmp_path: Path, folders: list[str]) -> None:
    with open_scene(folders[:1], images=12, device="cpu", quiet=True) as scene:
        classes = [scene.class_of(row) for row in scene.rows]
        alone = next(row for row in scene.rows if classes.count(scene.class_of(row)) == 1)
        with pytest.raises(HoldfastError, match="holds no other image of class"):
            attacked(scene, scene.ask(alone), "es")


def test_nan_on_the_way_is_an_error_to_read(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = scene.models[0].target.model
    network = wrapped.network
    monkeypatch.setattr(wrapped, "network", lambda images: network(images) * float("nan"))
    with pytest.raises(HoldfastError, match="one gives NaN or infinite embeddings"):
        attacked(scene, scene.ask(next(iter(scene.rows))), "es")


@pytest.mark.parametrize(("eps", "times"), [(77 / 255, 1.7), (8 / 255, 15.9), (1 / 255, 64), (0, 64), (1, 0.5)])
def test_a_perturbation_is_amplified_as_far_as_it_fits(eps: float, times: float) -> None:
    assert gain(eps) == pytest.approx(times)
    r = eps * torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3)
    low, middle, high = amplified(r, eps).flatten().tolist()
    assert 0 <= low <= middle == 0.5 <= high <= 1
