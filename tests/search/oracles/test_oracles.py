"""Searches by one word: the same ids as an exact search, and one line for whatever is no search."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast.models.adapters import http
from holdfast.models.open import open_model
from holdfast.search.oracles import open_search
from holdfast.util.errors import HoldfastError
from tests.helpers.endpoint import Reply, SearchServer, ids, serving_search
from tests.helpers.tiny import digits, embedder

MODEL = embedder()
PIXELS = digits(40)


def images() -> Tensor:
    return PIXELS.read(torch.arange(40))[0]


def items() -> Tensor:
    with torch.no_grad():
        return MODEL(images())


def exact(rows: Tensor, k: int) -> list[list[str]]:
    near = torch.cdist(items()[rows].double(), items().double()).argsort(dim=1, stable=True)[:, :k]
    return [[str(one) for one in row] for row in near.tolist()]


def found(word: str, rows: Tensor, k: int, model: Any = MODEL) -> list[list[str]]:
    opened = None if model is None else open_model(model)
    with open_search(word, opened, PIXELS, device=torch.device("cpu"), width=16) as search:
        return [[*one] for one in search(images()[rows], k)]


# ---- faiss ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatL2(16)
    index.add(items().numpy())
    faiss.write_index(index, str(tmp_path / "items.faiss"))
    return tmp_path / "items.faiss"


def test_a_faiss_file_answers_as_an_exact_search(file: Path) -> None:
    rows = torch.tensor([3, 0, 17])
    assert found(f"faiss:{file}", rows, 5) == exact(rows, 5)
    assert [len(one) for one in found(f"faiss:{file}", rows, 100)] == [40] * 3


def test_ids_of_a_faiss_file_are_its_own(tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexIDMap(faiss.IndexFlatL2(16))
    index.add_with_ids(items().numpy(), 7 * torch.arange(40).numpy())
    faiss.write_index(index, str(tmp_path / "items.faiss"))
    rows = torch.tensor([3, 17])
    expected = [[str(7 * int(one)) for one in row] for row in exact(rows, 4)]
    assert found(f"faiss:{tmp_path / 'items.faiss'}", rows, 4) == expected


def test_what_is_no_faiss_file(file: Path, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")

    def refused(content: bytes, message: str) -> None:
        (tmp_path / "bad.faiss").write_bytes(content)
        with pytest.raises(HoldfastError, match=message) as stop:
            found(f"faiss:{tmp_path / 'bad.faiss'}", torch.arange(1), 1)
        assert ".cpp" not in str(stop.value)

    for content in (b"", b"hello world", file.read_bytes()[:60]):
        refused(content, "is no faiss index of floating-point vectors, or damaged")
    faiss.write_index_binary(faiss.IndexBinaryFlat(16), str(tmp_path / "binary.faiss"))
    refused((tmp_path / "binary.faiss").read_bytes(), "is no faiss index of floating-point vectors")
    faiss.write_index(faiss.IndexFlatL2(16), str(tmp_path / "none.faiss"))
    refused((tmp_path / "none.faiss").read_bytes(), "holds no vectors")
    other = faiss.IndexFlatL2(3)
    other.add(torch.ones(2, 3).numpy())
    faiss.write_index(other, str(tmp_path / "other.faiss"))
    refused((tmp_path / "other.faiss").read_bytes(), "vectors have 16 dimensions, those of .* 3")
    with pytest.raises(HoldfastError, match=r"there is no file .*item\.faiss; did you mean .*items\.faiss"):
        found(f"faiss:{tmp_path / 'item.faiss'}", torch.arange(1), 1)


# ---- Qdrant ---------------------------------------------------------------------------------------------------------


def test_a_qdrant_collection_answers_as_an_exact_search(tmp_path: Path) -> None:
    module = pytest.importorskip("qdrant_client")
    client = module.QdrantClient(path=str(tmp_path / "shop"))
    euclid = module.models.VectorParams(size=16, distance=module.models.Distance.EUCLID)
    client.create_collection("goods", vectors_config=euclid)
    points = [module.models.PointStruct(id=100 + i, vector=z) for i, z in enumerate(items().tolist())]
    client.upsert("goods", points=points)
    client.create_collection("several", vectors_config={"a": euclid, "b": euclid})
    client.close()
    rows = torch.tensor([3, 0])
    expected = [[str(100 + int(one)) for one in row] for row in exact(rows, 4)]
    assert found(f"qdrant:{tmp_path}/shop:goods", rows, 4) == expected
    for word, message in {
        f"{tmp_path}/shop:good": "unknown collection .*'good'; did you mean 'goods'",
        f"{tmp_path}/shop:several": "has several vectors for a point",
        f"{tmp_path}/shops:goods": "there is no such folder; did you mean .*/shop",
        f"{tmp_path}:goods": "there is no meta.json in it",
        f"{tmp_path}": "names no collection: give qdrant:FOLDER:COLLECTION",
    }.items():
        with pytest.raises(HoldfastError, match=message):
            found(f"qdrant:{word}", rows, 1)


# ---- an address ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SearchServer]:
    monkeypatch.setattr(http, "WAITS", (0.0, 0.0))
    with serving_search(MODEL, items()) as one:
        yield one


def test_an_address_answers_as_an_exact_search(server: SearchServer) -> None:
    rows = torch.tensor([3, 0, 17])
    assert found(f"{server.address}/search", rows, 5, None) == exact(rows, 5)
    server.most = 2
    server.replies = [(503, {}, b"busy"), None]
    assert found(f"{server.address}/search", rows, 5, None) == exact(rows, 5)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (ids([["a"]]), "does not answer with ids: there are 1 for 2 images"),
        (ids([["a"], [1.5]]), "does not answer with ids: ids.1.0"),
        (ids([["a"], [None]]), "does not answer with ids: ids.1.0"),
        (ids("ab"), "ids takes a list, not 'ab'"),
        ((200, {}, b'{"found": []}'), "ids is missing"),
        ((200, {}, b"<html>"), "is not JSON"),
        ((404, {}, b"no such page"), r"refuses the images \(status 404: no such page\)"),
    ],
)
def test_what_is_no_answer(server: SearchServer, reply: Reply, message: str) -> None:
    server.replies = [reply]
    with pytest.raises(HoldfastError, match=message):
        found(f"{server.address}/search", torch.arange(2), 5, None)


def test_ids_are_text_or_whole_numbers(server: SearchServer) -> None:
    server.replies = [ids([["a17", 3], []])]
    assert found(f"{server.address}/search", torch.arange(2), 5, None) == [["a17", "3"], []]


# ---- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "model", "message"),
    [
        ("fais:x", MODEL, "'fais:x' names no search; did you mean faiss:x"),
        ("items.faiss", MODEL, "names no search .allowed: faiss:FILE"),
        ("faiss:", MODEL, "names no search"),
        ("", MODEL, "names no search"),
        ("faiss:x", None, "searches with vectors: name the model"),
        ("http://127.0.0.1:1/x", MODEL, "is given images, not vectors: leave out the model"),
        ("http://", None, "is no address"),
    ],
)
def test_what_is_no_search(word: str, model: Any, message: str) -> None:
    with pytest.raises(HoldfastError, match=message):
        found(word, torch.arange(1), 1, model)
