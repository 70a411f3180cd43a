"""What the page asks for, and what nobody else may."""

# ruff: noqa: E402 (what may be absent is looked for first)

import json
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import count
from threading import Event
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from tests.helpers.explorer_runs import finish, run_folder
from tests.helpers.waiting import GUARD

for module in ("starlette", "uvicorn"):
    pytest.importorskip(module, reason="the explorer needs the extra serve")
pytest.importorskip("httpx2", reason="the tests of the explorer's server need httpx2")

from starlette.testclient import TestClient

from holdfast.data.pixels import to_image
from holdfast.explorer import uploads
from holdfast.explorer.jobs import Job, Jobs
from holdfast.explorer.scene import Scene, open_scene
from holdfast.explorer.server import PAGE, STATIC, application

HOST = "http://127.0.0.1:8777"
ONE, TWO = ({"X-Holdfast-Client": name * 10, "Origin": HOST} for name in "ab")
Ended = Callable[[str], Any]
LONG = {"attack": "es", "eps": 70, "steps": 1000}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    root = tmp_path_factory.mktemp("runs")
    folders = [str(run_folder(root / name, seed)) for seed, name in enumerate(("one", "other"))]
    with open_scene(folders, images=100, device="cpu", quiet=True) as scene:
        yield scene


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    jobs = Jobs()
    yield jobs
    jobs.close()


@pytest.fixture
def site(scene: Scene, jobs: Jobs) -> TestClient:
    return TestClient(application(scene, jobs), base_url=HOST, raise_server_exceptions=False)


def first(scene: Scene) -> str:
    return str(next(iter(scene.rows)))


def begin(site: TestClient, headers: dict[str, str] = ONE, **asked: Any) -> Any:
    return site.post("/api/attacks", headers=headers, json={"query": "0", "attack": "es", **asked})


def look(site: TestClient, job: str) -> Any:
    return site.get(f"/api/jobs/{job}").json()


@pytest.fixture
def ended(site: TestClient, jobs: Jobs) -> Ended:
    """How a job ended."""

    def wait(job: str) -> Any:
        finish(jobs)
        return look(site, job)

    return wait


@pytest.fixture
def held(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Event, Event]]:
    """An attack sets the first event at its sixth pass, and gets no further until the second is set."""
    there, go, wrapped, passes = Event(), Event(), scene.models[0].target.model, count()
    network = wrapped.network

    def slowly(images: Tensor) -> Any:
        if next(passes) == 5:
            there.set()
            assert go.wait(GUARD)
        return network(images)

    monkeypatch.setattr(wrapped, "network", slowly)
    yield there, go
    go.set()


def png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


# --- the page and the gallery


def test_the_page_and_all_its_files_are_served(site: TestClient) -> None:
    page = site.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    for file in STATIC.iterdir():
        assert site.get(f"/static/{file.name}").content == file.read_bytes()
    assert site.get("/static/../server.py").status_code == site.get("/static/none.js").status_code == 404


def test_the_page_needs_nothing_from_elsewhere_and_no_inline_code() -> None:
    text = (STATIC / "index.html").read_text()
    assert "<style" not in text
    assert "style=" not in text
    assert " on" not in text.replace(" one", "").replace(" on ", "")
    assert text.count("<script") == text.count('src="static/app.js"></script>') == 1
    for file in STATIC.iterdir():
        links = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in links
        assert "https://" not in links
        assert "innerHTML" not in links


def test_the_scene_is_described(site: TestClient, scene: Scene) -> None:
    found = site.get("/api/scene").json()
    assert (found["data"], found["size"], found["queries"], found["gallery"]) == ("digits", 8, 100, 100)
    assert [model["name"] for model in found["models"]] == ["one", "other"]
    assert found["defaults"] == pytest.approx({"eps": 77, "step": 77, "steps": 32, "seed": 0})
    assert found["attacks"][0]["readings"][0].keys() == {"words", "unit"}


def test_the_gallery_comes_in_pages(site: TestClient, scene: Scene) -> None:
    pages = [site.get("/api/images", params={"page": page}).json() for page in range(4)]
    ids = [image["id"] for page in pages for image in page["images"]]
    assert ids == list(scene.rows)
    assert [len(page["images"]) for page in pages] == [PAGE, PAGE, 100 - 2 * PAGE, 0]
    assert {page["pages"] for page in pages} == {3}
    found = site.get("/api/images", params={"search": "7"}).json()
    assert found["total"] == len(scene.search("7")) > 0
    for page in ("-1", "x", "1e3", "9" * 20, "٣"):
        assert site.get("/api/images", params={"page": page}).status_code == 400


def test_images_are_those_of_the_test_set(site: TestClient, scene: Scene) -> None:
    row = int(first(scene))
    answer = site.get(f"/images/{row}.png")
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(BytesIO(answer.content))), np.asarray(to_image(scene.read(row)[0])))
    assert site.get("/images/9999.png").json() == {"error": "there is no image 9999"}
    assert site.get(f"/images/{'9' * 30}.png").status_code == 400
    assert site.get("/images/..%2f..%2fetc%2fpasswd.png").status_code == 404


# --- attacks


def test_an_attack_is_followed_to_its_end(site: TestClient, scene: Scene, ended: Ended) -> None:
    begun = begin(site, attack="qa+", eps=60, steps=4, step=20, seed=2)
    assert begun.status_code == 202
    job = ended(begun.json()["id"])
    assert (job["state"], job["message"]) == ("done", "")
    report = job["result"]
    assert {key: report[key] for key in ("attack", "eps", "step", "steps", "seed")} == pytest.approx(
        {"attack": "qa+", "eps": 60, "step": 20, "steps": 4, "seed": 2}
    )
    before = site.get("/api/queries/0").json()["models"]
    assert [one["found"] for one in before] == [one["before"]["found"] for one in report["models"]]
    for name in ("clean", "0-adversarial", "1-adversarial", "0-perturbation", "1-perturbation"):
        answer = site.get(f"/results/{job['id']}/{name}.png")
        assert Image.open(BytesIO(answer.content)).size == (8, 8)
    assert site.get(f"/results/{job['id']}/2-adversarial.png").status_code == 404
    assert site.get("/results/none/clean.png").status_code == 404


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"attack": "ca+"}, "unknown value of attack 'ca+'"),
        ({"query": "99999"}, "image 99999 is no query"),
        ({"query": "-1"}, "image is a whole number"),
        ({"sed": 5}, "unknown setting 'sed'; did you mean 'seed'?"),
        ({"query": "upload-none"}, "no longer kept"),
        ({"eps": 256}, "eps is at most 255, not 256"),
        ({"eps": -1}, "eps is at least 0, not -1"),
        ({"eps": "8/255"}, "eps takes a finite number, not"),
        ({"steps": 1001}, "steps is at most 1000"),
        ({"seed": -3}, "seed is at least 0, not -3"),
    ],
)
def test_what_makes_no_attack_is_refused(asked: dict[str, Any], said: str, site: TestClient) -> None:
    answer = begin(site, **asked)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    "sent", [b"", b"[]", b"{", b"\xff\xfe", b'{"eps": NaN, "query": "0", "attack": "es"}', b"9" * 5000, b"[" * 16_000]
)
def test_what_is_no_request_is_refused(sent: bytes, site: TestClient) -> None:
    assert site.post("/api/attacks", headers=ONE, content=sent).status_code == 400
    assert site.post("/api/attacks", headers=ONE, content=b" " * 2**15).status_code == 413


def test_two_clients_wait_for_each_other_and_cancel_their_own_only(
    site: TestClient, held: tuple[Event, Event], ended: Ended
) -> None:
    there, go = held
    running = begin(site, ONE, **LONG).json()["id"]
    again = begin(site, ONE, **LONG)
    assert again.status_code == 409
    assert "under way" in again.json()["error"]
    waiting = begin(site, TWO, steps=2).json()
    assert (waiting["state"], waiting["position"]) == ("queued", 1)
    assert there.wait(GUARD)
    progress = look(site, running)["progress"]
    assert progress["step"] > 2
    assert progress["model"] == 0
    assert len(progress["traces"][0]) >= progress["step"]
    assert site.post(f"/api/jobs/{running}/cancel", headers=TWO).status_code == 403
    assert site.post(f"/api/jobs/{running}/cancel", headers=ONE).status_code == 200
    go.set()
    assert ended(running)["state"] == "cancelled"
    assert ended(waiting["id"])["state"] == "done"
    assert site.get("/api/jobs/none").status_code == 404


def test_a_page_that_is_closed_frees_the_queue(site: TestClient, held: tuple[Event, Event], ended: Ended) -> None:
    there, go = held
    running = begin(site, ONE, **LONG).json()["id"]
    waiting = begin(site, TWO, steps=2).json()["id"]
    assert there.wait(GUARD)
    assert site.post("/api/leave", headers=ONE).status_code == 200
    go.set()
    assert ended(waiting)["state"] == "done"
    assert look(site, running).get("state") in ("cancelled", None)


def test_an_attack_that_breaks_is_a_message_and_no_trace(
    site: TestClient, scene: Scene, ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(images: Any) -> Any:
        raise RuntimeError("secret inside\nmore")

    monkeypatch.setattr(scene.models[1].target.model, "network", broken)
    job = ended(begin(site, steps=1).json()["id"])
    assert job["state"] == "failed"
    assert "\n" not in job["message"]
    assert "Traceback" not in job["message"]
    answer = site.post("/api/uploads", headers=ONE, content=png(Image.new("L", (8, 8))))
    assert answer.status_code == 400
    assert "RuntimeError" in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


# --- uploads


def test_an_upload_counts_as_its_nearest_class_unless_told_otherwise(
    site: TestClient, scene: Scene, ended: Ended
) -> None:
    row = list(scene.rows)[5]
    taken = site.post("/api/uploads", headers=ONE, content=png(to_image(scene.read(row)[0]))).json()
    assert taken["nearest"]["id"] == row
    assert (taken["class"], taken["remarks"], taken["pixels"]) == (scene.class_of(row), [], [8, 8])
    key = taken["key"]
    shown = site.get(f"/uploads/{key.removeprefix('upload-')}.png")
    assert np.array_equal(np.asarray(Image.open(BytesIO(shown.content))), np.asarray(to_image(scene.read(row)[0])))
    found = site.get(f"/api/queries/{key}").json()
    assert found["models"][0]["list"][0]["id"] == row
    other = (taken["label"] + 1) % 10
    told = site.get(f"/api/queries/{key}", params={"label": other}).json()
    assert (told["label"], told["class"]) == (other, str(other))
    assert told["models"][0]["found"][0] is False
    job = ended(begin(site, query=key, label=other, steps=2).json()["id"])
    assert (job["state"], job["result"]["label"]) == ("done", other)
    for label in ("77", "x", "-1", "1.0"):
        assert site.get(f"/api/queries/{key}", params={"label": label}).status_code == 400


def test_an_upload_that_is_no_image_or_too_large_is_refused(site: TestClient) -> None:
    answer = site.post("/api/uploads", headers=ONE, content=b"no image")
    assert (answer.status_code, answer.json()["error"][:14]) == (400, "the file is no")
    answer = site.post("/api/uploads", headers=ONE, content=b"x" * (uploads.BYTES + 1))
    assert answer.status_code == 413
    assert "10 MB" in answer.json()["error"]
    assert site.get("/uploads/none.png").status_code == 404


# --- who may


def test_the_site_is_guarded(site: TestClient, scene: Scene) -> None:
    answer = site.get("/api/scene", headers={"Host": "evil.example"})
    assert answer.status_code == 400
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    for path in ("/api/attacks", "/api/uploads", "/api/leave", "/api/jobs/x/cancel"):
        assert site.post(path, headers={**ONE, "Origin": "http://evil.example"}).status_code == 403
    anywhere = TestClient(application(scene, Jobs(), loopback=False), base_url=HOST)
    assert anywhere.get("/api/scene", headers={"Host": "evil.example"}).status_code == 200


@pytest.mark.parametrize("client", ["", "short", "x" * 65])
def test_a_page_must_name_itself(client: str, site: TestClient) -> None:
    assert begin(site, {**ONE, "X-Holdfast-Client": client}).status_code == 400


@given(
    st.dictionaries(
        st.sampled_from(["eps", "steps", "step", "seed", "label", "template"]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
            lambda x: st.lists(x, max_size=2),
            max_leaves=3,
        ),
    )
)
@settings(max_examples=80)
def test_whatever_is_asked_is_answered_or_refused(site: TestClient, asked: dict[str, Any]) -> None:
    """What is taken is not carried out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Jobs, "submit", lambda self, client, work: Job(client, work, 0.0))
        answer = site.post("/api/attacks", headers=ONE, content=json.dumps({"query": "0", "attack": "es"} | asked))
    assert answer.status_code in (202, 400)
