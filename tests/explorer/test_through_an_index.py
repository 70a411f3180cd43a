"""The explorer through an index: read off real faiss searches, beside every vector compared."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from holdfast.explorer.attacking.offers import attack, settled
from holdfast.explorer.attacking.query import clean
from holdfast.explorer.attacking.ranking import FIRST, ranked
from holdfast.explorer.jobs import Jobs
from holdfast.explorer.scene import Query, Scene, open_scene
from holdfast.util.errors import HoldfastError
from tests.conftest import Refuse
from tests.helpers.explorer_runs import run_folder

faiss = pytest.importorskip("faiss", reason="an index needs the extra faiss")

IMAGES = 120
LISTS, CODES = "IVF16,PQ4x4", "SQ4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(run_folder(tmp_path_factory.mktemp("runs") / "one"))


@contextmanager
def opened(folder: str, index: str | None) -> Iterator[Scene]:
    with open_scene([folder], images=IMAGES, index=index, device="cpu", quiet=True) as scene:
        yield scene


def built(word: str, vectors: np.ndarray[Any, Any]) -> Any:
    """The same index without holdfast."""
    index = faiss.index_factory(vectors.shape[1], word)
    index.train(vectors)
    index.add(vectors)
    return index


def attacked(scene: Scene, query: Query, name: str) -> dict[str, Any]:
    resolved = settled(name, "28", {"eps": 0.3, "steps": 6})
    return attack(scene, query, resolved, lambda progress: None).report["models"][0]


def exact_places(vectors: torch.Tensor, z: torch.Tensor, own: int) -> list[int]:
    order = [row for row in torch.cdist(z.double(), vectors.double())[0].argsort().tolist() if row != own]
    return [order.index(row) + 1 if row != own else 0 for row in range(len(vectors))]


@pytest.mark.parametrize("word", [LISTS, CODES])
def test_what_is_found_is_what_the_real_index_answers(word: str, folder: str) -> None:
    with opened(folder, word) as scene:
        model = scene.models[0]
        vectors = model.exact.gallery.embeddings
        real = built(word, vectors.numpy())
        for own, row in list(enumerate(scene.rows))[:12]:
            query = scene.ask(row)
            z = query.embeddings[0]
            wanted = [one for one in real.search(z.numpy(), FIRST + 1)[1][0].tolist() if one not in (-1, own)][:FIRST]
            (found,) = clean(scene, query)
            ids = model.target.system.gallery.ids
            assert [one["id"] for one in found["list"]] == ids[wanted].tolist()
            places = exact_places(vectors, z, own)
            assert [one["exact"] for one in found["list"]] == [places[one] for one in wanted]
            labels = model.exact.gallery.labels
            nearest = sorted(range(IMAGES), key=lambda one: places[one] or IMAGES)[:FIRST]
            assert found["exact"] == [bool(labels[one] == query.label) for one in nearest]


def test_an_attack_sees_decoded_vectors_and_is_read_through_the_index(folder: str) -> None:
    with opened(folder, LISTS) as scene:
        model = scene.models[0]
        vectors = model.exact.gallery.embeddings
        real = built(LISTS, vectors.numpy())
        real.make_direct_map()
        decoded = torch.as_tensor(real.reconstruct_n(0, IMAGES))
        assert torch.equal(model.target.system.items.embeddings, decoded)
        assert not torch.equal(decoded, vectors)
        query = scene.ask(list(scene.rows)[7])
        for name in ("gtm", "ltm", "qa+"):
            found = attacked(scene, query, name)
            after = found["after"]
            if name != "qa+":
                assert found["readings"][0]["after"] == 100.0 * bool(after["found"] and after["found"][0])
            assert all(one["exact"] >= 1 for one in after["list"])
            assert len(found["exact_targets"]) == len(found["targets"])
        ((before, now),), ((clean_place, place),) = found["targets"], found["exact_targets"]
        assert (before, now) <= (FIRST, FIRST)
        assert place < clean_place


def test_flat_codes_are_ranked_whole(folder: str) -> None:
    with opened(folder, CODES) as scene:
        query = scene.ask(list(scene.rows)[7])
        ranking = ranked(scene.models[0], query.seen_by(0), query.embeddings[0])
        assert len(ranking.order) == IMAGES - 1
        assert all(place >= 1 for pair in attacked(scene, query, "qa+")["targets"] for place in pair)


def test_without_an_index_nothing_stands_beside(folder: str) -> None:
    with opened(folder, None) as scene:
        query = scene.ask(list(scene.rows)[7])
        (found,) = clean(scene, query)
        assert found["exact"] is None
        assert {one["exact"] for one in found["list"]} == {None}
        assert attacked(scene, query, "gtm")["exact_targets"] is None


def test_what_a_real_index_does_not_answer_is_not_offered_through_an_index(folder: str) -> None:
    pytest.importorskip("httpx2", reason="the tests of the explorer's server need httpx2")
    from starlette.testclient import TestClient

    from holdfast.explorer.server import application

    for word in (CODES, None):
        with opened(folder, word) as scene:
            about = TestClient(application(scene, Jobs()), base_url="http://127.0.0.1:8777").get("/api/scene").json()
            assert about["index"] == word
            left_out = {"hub", "dodging", "impersonation"} - {one["name"] for one in about["attacks"]}
            assert left_out == (set() if word is None else {"hub", "dodging", "impersonation"})
    with opened(folder, CODES) as scene, pytest.raises(HoldfastError, match=r"^attack hub goes without --index SQ4$"):
        attacked(scene, scene.ask(next(iter(scene.rows))), "hub")


def test_what_is_no_index_or_cannot_be_had_is_refused_in_one_line(
    folder: str, refused: Refuse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "'IFV256,PQ32' is no index" in refused("explore", folder, "--index", "IFV256,PQ32", "--port", "0")
    few = ("explore", folder, "--max-images", "20", "--device", "cpu", "--port", "0", "--index", "IVF256,PQ4x4")
    assert "index IVF256,PQ4x4 does not go with 20 vectors of 16 numbers" in refused(*few).rpartition("holdfast: ")[2]
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert "pip install 'holdfast[faiss]'" in refused("explore", folder, "--index", "SQ8", "--port", "0")
