"""The threats of the explorer: a patch on one query, and a hub."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast.attacks.base import APPROACH
from holdfast.attacks.hub import Hub
from holdfast.attacks.shared import Patch
from holdfast.core.steps import LInf
from holdfast.explorer.attacking.course import Outcome
from holdfast.explorer.attacking.offers import OFFERS, attack, settled
from holdfast.explorer.attacking.query import clean
from holdfast.explorer.attacking.ranking import FIRST, ranked
from holdfast.explorer.jobs import Cancelled
from holdfast.explorer.scene import Query, Scene, open_scene
from holdfast.threats.hub import attack_hub
from holdfast.threats.shared import ROUNDS, laid
from holdfast.util.errors import HoldfastError

STEPS = 5


def quiet(progress: Any) -> None:
    pass


def attacked(scene: Scene, query: Query, name: str, tell: Any = quiet, **given: Any) -> Outcome:
    return attack(scene, query, settled(name, "28", {"steps": STEPS, **given}), tell)


def pixels(content: bytes) -> torch.Tensor:
    """A file as (1, 1, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(Image.open(BytesIO(content))))[None, None] / 255


def seventh(scene: Scene) -> Query:
    return scene.ask(list(scene.rows)[7])


# --- a patch


def test_a_patch_is_painted_on_the_query_and_what_is_found_is_read_off_the_file(scene: Scene) -> None:
    query = seventh(scene)
    outcome = attacked(scene, query, "patch", seed=3)
    original = pixels(outcome.files["clean"])
    side = Patch().canvas_side(8)
    for i, (model, found) in enumerate(zip(scene.models, outcome.report["models"], strict=True)):
        file, patch = (pixels(outcome.files[f"{i}-{name}"]) for name in ("adversarial", "patch"))
        assert patch.shape == (1, 1, side, side)
        assert 0 < int((file != original).sum()) <= (side + 2) ** 2 < 64
        again = laid(Patch(), patch[0], model.target, query.seen_by(i), query.image, ball=LInf(1.0), seed=3)
        assert torch.equal(file, again.images)
        with torch.no_grad():
            after = ranked(model, query.seen_by(i), model.target.model(file))
        ids = model.target.system.gallery.ids
        assert [one["id"] for one in found["after"]["list"]] == ids[after.order[:FIRST]].tolist()
        assert found["before"]["found"] == clean(scene, query)[i]["found"]
        assert found["readings"] == [
            {"name": "R@1", **{when: 100.0 * found[when]["found"][0] for when in ("before", "after")}}
        ]
        assert len(found["trace"]) == ROUNDS * STEPS
    assert outcome.files["0-patch"] != outcome.files["1-patch"]


def test_a_patch_of_half_the_image_makes_queries_wrong(scene: Scene) -> None:
    """Of the queries that are right without: the least that can be asked of a descent."""
    large = replace(settled("patch", "28", {"steps": STEPS}), objects={"patch": Patch(area=0.5)})
    right = [row for row in scene.rows if clean(scene, scene.ask(row))[0]["found"][0]][:3]
    firsts = [attack(scene, scene.ask(row), large, quiet).report["models"][0]["after"]["found"][0] for row in right]
    assert sum(firsts) < len(firsts) == 3


def test_a_patch_says_how_far_it_is_and_stops_where_it_is_told_to(scene: Scene) -> None:
    told: list[dict[str, Any]] = []
    attacked(scene, seventh(scene), "patch", told.append)
    assert [one["step"] for one in told] == [*range(1, ROUNDS * STEPS + 1)] * 2
    assert {one["steps"] for one in told} == {ROUNDS * STEPS}

    def stop(progress: dict[str, Any]) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        attacked(scene, seventh(scene), "patch", stop)


@pytest.mark.parametrize("name", ["eps", "step"])
def test_a_patch_takes_no_radius(name: str) -> None:
    with pytest.raises(HoldfastError, match=f"^attack patch takes no {name}; it takes steps, seed$"):
        settled("patch", "28", {name: 0.1})


# --- a hub


def test_a_hub_is_that_of_the_command(scene: Scene, folders: list[str], tmp_path: Path) -> None:
    given: dict[str, Any] = {"eps": 0.3, "step": 0.1, "steps": STEPS, "seed": 2}
    wanted = attack_hub(folders[0], scene.pixels, tmp_path, device="cpu", quiet=True, **given).content["hub"]
    outcome = attacked(scene, scene.ask(wanted["poisons"][0]), "hub", **given)
    found = outcome.report["models"][0]
    after, clean = ({one["name"]: one[when] for one in found["readings"]} for when in ("after", "before"))
    poisoned = wanted["poisoned"][0]
    assert after == {**poisoned["hits"], "z": poisoned["z"][0], "R@1": poisoned["recall"]}
    assert (clean["R@1"], found["natural"]["hit@10"]) == (wanted["clean"]["recall"], wanted["natural"]["hit@10"])
    assert (found["made_on"], found["read_on"]) == (wanted["made_on"], wanted["read_on"])
    assert outcome.files["0-adversarial"] == (tmp_path / f"{wanted['poisons'][0]}.png").read_bytes()


@pytest.mark.parametrize("uploaded", [False, True])
def test_whoever_reads_a_hubs_file_finds_its_hits(uploaded: bool, scene: Scene) -> None:
    query = seventh(scene)
    if uploaded:
        query = scene.ask_with(0.5 * query.image)[0]
    told: list[dict[str, Any]] = []
    outcome = attacked(scene, query, "hub", told.append, eps=1.0)
    for i, model in enumerate(scene.models):
        found, queries, gallery = outcome.report["models"][i], model.target.system.queries, model.target.system.gallery
        with torch.no_grad():
            z = model.target.model(pixels(outcome.files[f"{i}-adversarial"]))
        rows = [j for j in Hub().drawn(queries)[1].tolist() if int(queries.ids[j]) != query.id]
        first, tenth = [], 0
        for j in rows:
            near = sorted(
                (float((queries.embeddings[j] - (z[0] if int(k) == query.id else item)).norm()), int(k))
                for item, k in [*zip(gallery.embeddings, gallery.ids, strict=True), *([(z[0], query.id)] * uploaded)]
                if int(k) != int(queries.ids[j])
            )
            first += [int(queries.ids[j])] * (near[0][1] == query.id)
            tenth += query.id in [k for _, k in near[:10]]
        after = {one["name"]: one["after"] for one in found["readings"]}
        assert after["hit@1"] == pytest.approx(100 * len(first) / len(rows))
        assert after["hit@10"] == pytest.approx(100 * tenth / len(rows))
        assert [one["id"] for one in found["won"]] == first[:10]
        assert found["read_on"] == len(rows)
        assert after["hit@10"] > found["readings"][1]["before"]
    assert [one["model"] for one in told] == sorted(one["model"] for one in told)
    assert told[-1]["step"] == told[-1]["steps"] == APPROACH + STEPS
    assert all(0 <= value <= 100 for trace in told[-1]["traces"] for value in trace)


def test_a_gallery_that_is_too_small_has_no_hub(folders: list[str]) -> None:
    with (
        open_scene(folders[:1], images=9, device="cpu", quiet=True) as scene,
        pytest.raises(HoldfastError, match=r"^a hub needs a gallery of at least 12 images, not 9$"),
    ):
        attacked(scene, scene.ask(next(iter(scene.rows))), "hub")
    with open_scene(folders[:1], images=12, device="cpu", quiet=True) as scene:
        assert attacked(scene, scene.ask(next(iter(scene.rows))), "hub").report["models"][0]["made_on"] == 6


# --- all of them


def test_what_is_offered_has_words_for_its_readings() -> None:
    for name, offer in OFFERS.items():
        kind = settled(name, "28", {}).attack(name)
        beside = {"ranking": 0, "hub": 2, "pair": 1}[offer.shows]  # z-score and R@1; the decision
        assert len(offer.words.readings) == len(kind.readings) + beside
