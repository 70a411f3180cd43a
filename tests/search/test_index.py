"""Indexes: built of any model, searched exactly, and the same again from their file."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

import holdfast
from holdfast import HoldfastError, Index
from holdfast.core.distance import pairs
from holdfast.data import Pixels, Table
from holdfast.search.blocks import references
from holdfast.search.nearest import BACKENDS
from tests.helpers import tiny
from tests.oracles import steps as oracles

grids = st.integers(-2, 2).map(float)
quick = settings(max_examples=40)


@pytest.fixture(scope="module")
def index() -> Index:
    return Index.build(tiny.embedder(), tiny.digits(60), quiet=True)


def same(one: Index, other: Index) -> bool:
    tensors = torch.equal(one.embeddings, other.embeddings) and torch.equal(one.references, other.references)
    return tensors and (one.paths, one.labels, one.about) == (other.paths, other.labels, other.about)


# -- the nearest, exactly ---------------------------------------------------------------------------------------------


@st.composite
def vectors(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Items and queries on a coarse grid, where many distances are equal, and a k."""
    dim, count, asked = draw(st.integers(1, 4)), draw(st.integers(1, 12)), draw(st.integers(1, 5))
    rows = st.lists(grids, min_size=dim, max_size=dim)
    items = draw(st.lists(rows, min_size=count, max_size=count))
    queries = draw(st.lists(rows, min_size=asked, max_size=asked))
    return torch.tensor(items), torch.tensor(queries), draw(st.integers(1, count))


@quick
@given(vectors())
def test_the_nearest_are_those_of_the_twin_ties_by_row(drawn: tuple[Tensor, Tensor, int]) -> None:
    items, queries, k = drawn
    distances, rows = BACKENDS["torch"](items, queries, k)
    expected = [oracles.nearest(query, items.tolist(), k) for query in queries.tolist()]
    assert rows.tolist() == expected
    torch.testing.assert_close(distances, pairs(queries[:, None], items[rows]), rtol=0, atol=1e-6)


@quick
@given(vectors())
def test_faiss_finds_items_at_the_same_distances(drawn: tuple[Tensor, Tensor, int]) -> None:
    pytest.importorskip("faiss")
    items, queries, k = drawn
    distances, rows = BACKENDS["faiss"](items, queries, k)
    assert torch.equal(distances, BACKENDS["torch"](items, queries, k)[0])
    assert torch.equal(distances, BACKENDS["torch"](items, queries, len(items))[0][:, :k])
    torch.testing.assert_close(pairs(queries[:, None], items[rows]), distances, rtol=0, atol=1e-6)
    for found, near in zip(rows.tolist(), distances.tolist(), strict=True):
        assert len(set(found)) == k
        assert list(zip(near, found, strict=True)) == sorted(zip(near, found, strict=True))


@pytest.mark.parametrize("count", [1, 19, 40])
def test_the_backends_agree_where_nothing_ties(count: int) -> None:
    pytest.importorskip("faiss")
    generators = torch.Generator().manual_seed(0)
    items, queries = (normalize(torch.randn(n, 32, generator=generators), dim=1) for n in (3000, count))
    one, other = (BACKENDS[name](items, queries, 20) for name in ("torch", "faiss"))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend that is installed."""
    if request.param == "faiss":
        pytest.importorskip("faiss")
    return str(request.param)


def test_few_queries_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    generators = torch.Generator().manual_seed(0)
    items, queries = torch.randn(200, 8, generator=generators), torch.randn(23, 8, generator=generators)
    distances, rows = BACKENDS[backend](items, queries, 7)
    monkeypatch.setattr("holdfast.core.batching.WORKSPACE", 1)
    again = BACKENDS[backend](items, queries, 7)
    assert torch.equal(again[0], distances)
    assert torch.equal(again[1], rows)


# -- an index ---------------------------------------------------------------------------------------------------------


def test_an_index_holds_what_the_model_makes_of_the_images(index: Index) -> None:
    model, pixels = tiny.embedder(), tiny.digits(60)
    images, _ = pixels.read(torch.arange(60))
    with torch.no_grad():
        torch.testing.assert_close(index.embeddings, model(images), rtol=0, atol=1e-5)
    assert index.paths[:2] == ("digits test[0]", "digits test[1]")
    assert index.labels == tuple(pixels.table.classes[label] for label in pixels.table.labels)
    assert len(index) == 60
    facts = {"size": 8, "resize": 8, "channels": 1, "dim": 16, "precision": "float32", "root": None, "broken": []}
    assert facts.items() <= index.about.items()
    assert index.about["holdfast"] == holdfast.__version__


def test_an_image_finds_itself_first_and_then_what_is_near(index: Index) -> None:
    distances, rows = index.search(index.embeddings[:9], k=5)
    assert rows[:, 0].tolist() == list(range(9))
    assert float(distances[:, 0].max()) < 1e-6
    for query, found in zip(index.embeddings[:9], rows.tolist(), strict=True):
        assert found == oracles.nearest(query.tolist(), index.embeddings.tolist(), 5)


def test_queries_of_any_length_and_precision_find_the_same(index: Index, backend: str) -> None:
    expected = index.search(index.embeddings[:4], backend=backend)[1][:, 0]
    assert torch.equal(index.search(7 * index.embeddings[:4], backend=backend)[1][:, 0], expected)
    for dtype in (torch.float64, torch.bfloat16):
        assert torch.equal(index.search(index.embeddings[:4].to(dtype), backend=backend)[1][:, 0], expected)


def test_the_images_embedded_at_once_matter_to_rounding_only(index: Index) -> None:
    for batch in (1, 7, 512):
        other = Index.build(tiny.embedder(), tiny.digits(60), batch=batch, quiet=True)
        torch.testing.assert_close(other.embeddings, index.embeddings, rtol=0, atol=1e-5)


def test_more_results_than_images_are_all_images(index: Index, backend: str) -> None:
    distances, rows = index.search(index.embeddings[:2], k=1000, backend=backend)
    assert distances.shape == (2, 60)
    assert sorted(rows[0].tolist()) == list(range(60))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k is at least 1"),
        ({"backend": "fais"}, "did you mean 'faiss'"),
        ({"z": torch.ones(2, 3)}, "3 dimensions, the index 16"),
        ({"z": torch.ones(16)}, "non-empty floating-point matrix"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(index: Index, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(HoldfastError, match=message):
        index.search(**{"z": index.embeddings[:2], **arguments})


def test_a_backend_that_is_not_installed_says_what_to_install(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(HoldfastError, match=r"pip install 'holdfast\[faiss\]'"):
        index.search(index.embeddings[:2], backend="faiss")


def test_a_function_is_as_good_as_a_module_and_is_brought_to_unit_length() -> None:
    generators = torch.Generator().manual_seed(0)
    weights = torch.randn(64, 5, generator=generators)
    index = Index.build(lambda x: x.flatten(1) @ weights, tiny.digits(20), quiet=True)
    torch.testing.assert_close(index.embeddings.norm(dim=1), torch.ones(20))


def test_half_precision_finds_nearly_the_same_and_is_known_again(index: Index) -> None:
    half = Index.build(tiny.embedder(), tiny.digits(60), precision="bfloat16", quiet=True)
    assert 0 < float(pairs(half.embeddings, index.embeddings).max()) < 0.05
    z, rows = half.queries(tiny.embedder(), tiny.digits(20))
    assert half.search(z, k=1)[1].flatten().tolist() == rows.tolist() == list(range(20))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 0}, "batch is 1 to 512 images, not 0"),
        ({"precision": "half"}, "unknown precision 'half'"),
        ({"device": "gpu"}, "device 'gpu' cannot be used"),
        ({"embed": lambda x: x}, "floating-point vectors"),
    ],
)
def test_what_cannot_be_embedded_is_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    settings = {"embed": tiny.embedder(), "pixels": tiny.digits(10), "out": tmp_path / "x.npz", "quiet": True}
    with pytest.raises(HoldfastError, match=message):
        Index.build(**{**settings, **arguments})
    assert not list(tmp_path.iterdir())


# -- the model of an index --------------------------------------------------------------------------------------------


def test_reference_images_are_pixels_and_always_the_same() -> None:
    images = references(9, 3)
    assert images.shape == (8, 3, 9, 9)
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    assert torch.equal(images, references(9, 3))


def test_queries_are_embedded_as_the_index_is(index: Index) -> None:
    z, rows = index.queries(tiny.embedder(), index.preprocessing.pixels(tiny.digits(60).table))
    assert rows.tolist() == list(range(60))
    torch.testing.assert_close(z, index.embeddings, rtol=0, atol=1e-5)


def test_another_model_is_refused(index: Index) -> None:
    model = tiny.embedder()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    with pytest.raises(HoldfastError, match=r"made by another model: .* apart"):
        index.queries(model, tiny.digits(20))
    with pytest.raises(HoldfastError, match="3 dimensions, the index was made by one of 16"):
        index.queries(lambda x: x.flatten(1)[:, :3], tiny.digits(20))


def test_a_model_in_training_mode_is_refused_or_put_into_evaluation_mode(index: Index) -> None:
    model = tiny.embedder().train()
    z, _ = index.queries(model, tiny.digits(20))
    torch.testing.assert_close(z, index.embeddings[:20], rtol=0, atol=1e-5)
    assert model.training


# -- the file ---------------------------------------------------------------------------------------------------------


def test_an_index_comes_back_as_it_was(index: Index, tmp_path: Path) -> None:
    index.save(tmp_path / "a.npz")
    back = Index.load(tmp_path / "a.npz")
    assert same(back, index)
    back.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_numpy_alone_reads_the_file(index: Index, tmp_path: Path) -> None:
    index.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as content:
        assert content["embeddings"].dtype == np.float32
        assert content["embeddings"].shape == (60, 16)
        assert content["paths"][1] == "digits test[1]"
        assert content["labels"].shape == (60,)
        assert json.loads(str(content["about"])) == index.about


def test_any_name_comes_back(tmp_path: Path) -> None:
    names = ("line\nbreak", "日本 é", "tab\t", "\udcff", "")
    index = Index(torch.eye(5), names, names, torch.eye(5), Index.build(*small(), quiet=True).about)
    index.save(tmp_path / "a.npz")
    assert Index.load(tmp_path / "a.npz").paths == names


def small() -> tuple[Any, Pixels]:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8), np.uint8)
    nobody = np.zeros(2, np.bool_)
    return tiny.embedder(), Pixels(Table.build("two", images, ["", ""], ["test"] * 2, is_query=nobody), 8, channels=1)


def test_what_is_no_index_is_refused_and_left_as_it_is(index: Index, tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    index.save(file)
    whole = file.read_bytes()
    arrays = dict(np.load(file))
    damaged: dict[str, bytes | dict[str, Any]] = {
        "cut short": whole[: len(whole) // 2],
        "turned over": whole[:200] + bytes(255 - byte for byte in whole[200:400]) + whole[400:],
        "empty": b"",
        "text": b"hello\n",
        "an image": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "other arrays": {"z": np.zeros(3)},
        "pickled": {**arrays, "paths": np.array([None] * 60, object)},
        "too few paths": {**arrays, "paths": arrays["paths"][:-1]},
        "no numbers": {**arrays, "embeddings": arrays["paths"]},
        "not finite": {**arrays, "embeddings": arrays["embeddings"] * np.nan},
        "other dimensions": {**arrays, "references": arrays["references"][:, :3]},
        "no JSON": {**arrays, "about": np.array("{")},
        "a list": {**arrays, "about": np.array("[]")},
        "another format": {**arrays, "about": np.array(json.dumps({**index.about, "format": "x"}))},
        "facts missing": {**arrays, "about": np.array(json.dumps({"format": index.about["format"]}))},
    }
    for kind, content in damaged.items():
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            np.savez(file, **content)
        before = file.read_bytes()
        with pytest.raises(HoldfastError, match=r"a\.npz is no index") as caught:
            Index.load(file)
        assert "HoldfastError" not in str(caught.value)
        with pytest.raises(HoldfastError, match=r"a\.npz is no index"):
            Index.build(*small(), out=file, quiet=True)
        assert file.read_bytes() == before, kind
    with pytest.raises(HoldfastError, match="there is no such file"):
        Index.load(tmp_path / "absent.npz")
    with pytest.raises(HoldfastError, match="it is a folder"):
        Index.load(tmp_path)


def test_arrays_are_known_again_by_their_pixels(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    first = Index.build(tiny.embedder(), tiny.digits(30), file, quiet=True)
    written = file.stat().st_mtime_ns
    assert same(Index.build(tiny.embedder(), tiny.digits(30), file, quiet=True), first)
    assert file.stat().st_mtime_ns == written
    changed = tiny.digits(30)
    changed.table.images[7, 2, 2] ^= 255
    for other in (
        {"embed": tiny.embedder(seed=1), "pixels": tiny.digits(30)},
        {"embed": tiny.embedder(), "pixels": tiny.digits(31)},
        {"embed": tiny.embedder(), "pixels": changed},
        {"embed": tiny.embedder(), "pixels": tiny.digits(30), "precision": "bfloat16"},
    ):
        with pytest.raises(HoldfastError, match="an index of other images, or by another model"):
            Index.build(out=file, quiet=True, **other)
    assert same(Index.load(file), first)
