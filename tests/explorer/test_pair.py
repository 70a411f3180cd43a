"""Two images and a verifier in the explorer: what ``verify`` finds of the same pair, and what is refused."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast.explorer.attacking.course import Outcome
from holdfast.explorer.attacking.offers import attack, settled
from holdfast.explorer.attacking.pair import verifier_of
from holdfast.explorer.jobs import Jobs
from holdfast.explorer.scene import Query, Scene, open_scene
from holdfast.threats.pairs import NEEDED
from holdfast.threats.verification import verify
from holdfast.util.errors import HoldfastError
from tests.helpers.explorer_runs import finish, run_folder
from tests.helpers.tiny import rows

IMAGES = 120
GIVEN: dict[str, Any] = {"eps": 0.3, "step": 0.1, "steps": 5, "seed": 2}


def attacked(scene: Scene, query: Query, name: str, template: Query | None = None) -> Outcome:
    return attack(scene, query, settled(name, "28", GIVEN, template), lambda progress: None)


def pixels(content: bytes) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(BytesIO(content))))[None, None] / 255


def of_class(scene: Scene, name: str) -> list[Query]:
    return [scene.ask(row) for row in scene.rows if scene.class_of(row) == name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(run_folder(tmp_path_factory.mktemp("runs") / "one"))


@pytest.fixture(scope="module")
def scene(folder: str) -> Iterator[Scene]:
    with open_scene([folder], images=IMAGES, device="cpu", quiet=True) as scene:
        yield scene


def test_a_pair_is_that_of_the_command(scene: Scene, folder: str, tmp_path: Path) -> None:
    result = verify(folder, scene.pixels, folder=tmp_path, max_queries=2, device="cpu", quiet=True, **GIVEN)
    found = result.content["verification"]
    assert result.path is not None
    for name, words in (("dodging", "dodging"), ("impersonation-nearest", "impersonation")):
        for record in rows(result.path.parent / "records" / f"{name}.jsonl"):
            report = attacked(scene, scene.ask(record["id"]), words).report
            (model,) = report["models"]
            assert [report["template"]["id"]] == record["chosen"]
            for when in ("before", "after"):
                (distance,) = record[when].values()
                rounding = 0.03 if when == "after" else 1e-4  # the page rounds images to 8 bits
                reached, accepted = (one[when] for one in model["readings"])
                assert reached == pytest.approx(distance, abs=rounding)
                assert accepted == 100.0 * (reached < found["threshold"])
            told = model["verifier"]
            assert (told["threshold"], told["far"]) == (pytest.approx(found["threshold"]), found["far"])
            assert (told["genuine"], told["impostors"]) == (found["genuine"], found["impostors"])


@pytest.mark.parametrize("name", ["dodging", "impersonation"])
def test_any_two_images_are_compared_and_read_off_the_file(name: str, scene: Scene) -> None:
    query = of_class(scene, "3")[0]
    stored = of_class(scene, "3" if name == "dodging" else "8")[1]
    uploaded = scene.ask_with(0.9 * stored.image)[0]
    for template in (stored, Query(uploaded.image, stored.label, uploaded.id + 1, uploaded.embeddings)):
        outcome = attacked(scene, query, name, template)
        (model,), network = outcome.report["models"], scene.models[0].target.model
        with torch.no_grad():
            there, clean, after = (
                network(pixels(outcome.files[f"{one}"])) for one in ("0-template", "clean", "0-adversarial")
            )
        before, moved = (float((one - there).norm()) for one in (clean, after))
        assert model["readings"][0] == {
            "name": "distance",
            "before": pytest.approx(before, abs=0.02 if template is not stored else 1e-4),  # its file has 8 bits
            "after": pytest.approx(moved, abs=0.02 if template is not stored else 1e-4),
        }
        assert (moved > before) == (name == "dodging")
        assert model["trace"][0] == pytest.approx(before, abs=0.2)
        assert 0 < model["largest"] <= 255 * 0.3
        assert outcome.report["template"]["name"] == (
            "uploaded" if template is not stored else scene.name_of(stored.id)
        )


@pytest.mark.parametrize("images", [20, 40, IMAGES])
def test_the_rate_is_one_that_the_gallery_can_show(images: int, folder: str) -> None:
    with open_scene([folder], images=images, device="cpu", quiet=True) as scene:
        system = scene.models[0].target.system
        found = verifier_of(system, 0)
        z, labels = system.gallery.embeddings, system.gallery.labels
        away = [float((z[i] - z[j]).norm()) for i in range(images) for j in range(i) if labels[i] != labels[j]]
        assert found["impostors"] == len(away)
        assert found["far"] == max(0.01, found["least"])
        assert found["least"] == pytest.approx(NEEDED / len(away), abs=1e-6)
        accepted = sum(one < found["threshold"] - 1e-5 for one in away)
        assert accepted == int(found["far"] * len(away) + 1e-9) >= NEEDED


def test_too_few_pairs_for_any_rate_are_refused(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    few = torch.ones(3), torch.ones(10)
    monkeypatch.setattr("holdfast.explorer.attacking.pair.clean_distances", lambda *_: few)
    with pytest.raises(HoldfastError, match=r"^far 0.01 of 10 impostor pairs .*: no rate is possible$"):
        attacked(scene, scene.ask(next(iter(scene.rows))), "impersonation")


def test_what_is_no_pair_is_refused(scene: Scene) -> None:
    three, eight = of_class(scene, "3"), of_class(scene, "8")
    for name, template, said in (
        ("dodging", eight[0], "dodging is of two images of one class, and these are of 3 and 8: take impersonation"),
        ("impersonation", three[1], "impersonation is of two classes, and both images are of 3: take dodging"),
        ("dodging", three[0], "an image is not compared with itself"),
    ):
        with pytest.raises(HoldfastError, match=f"^{said}"):
            attacked(scene, three[0], name, template)
    with pytest.raises(HoldfastError, match=r"^attack es takes no template; it takes eps, step, steps, seed$"):
        settled("es", "28", GIVEN, three[0])


def test_a_class_of_one_image_has_none_to_dodge(folder: str) -> None:
    with open_scene([folder], images=12, device="cpu", quiet=True) as few:
        classes = [few.class_of(row) for row in few.rows]
        alone = next(row for row in few.rows if classes.count(few.class_of(row)) == 1)
        with pytest.raises(HoldfastError, match=r"no other image of class \d to dodge$"):
            attacked(few, few.ask(alone), "dodging")


def test_two_uploads_are_compared(scene: Scene) -> None:
    for module in ("starlette", "httpx2"):
        pytest.importorskip(module, reason=f"the tests of the explorer's server need {module}")
    from starlette.testclient import TestClient

    from holdfast.explorer.server import application

    host, jobs = "http://127.0.0.1:8777", Jobs()
    headers = {"X-Holdfast-Client": "a" * 10, "Origin": host}
    site = TestClient(application(scene, jobs), base_url=host)
    files = [site.get(f"/images/{of_class(scene, name)[0].id}.png").content for name in ("3", "8")]
    one, two = (site.post("/api/uploads", headers=headers, content=file).json()["key"] for file in files)
    asked = {"query": one, "template": two, "attack": "impersonation", "steps": 2}
    job = site.post("/api/attacks", headers=headers, json=asked).json()
    finish(jobs)
    found = site.get(f"/api/jobs/{job['id']}").json()
    assert found["state"] == "done", found["message"]
    assert found["result"]["template"]["name"] == "uploaded"
    assert site.get(f"/results/{job['id']}/0-template.png").content == files[1]
    for template, said in (("99999", "image 99999 is no query"), ("upload-none", "no longer kept"), (3, "template")):
        answer = site.post("/api/attacks", headers=headers, json={**asked, "template": template})
        assert answer.status_code == 400
        assert said in answer.json()["error"]
    jobs.close()
