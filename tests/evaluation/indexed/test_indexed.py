"""Evaluation through real faiss indexes, against decoding, searching and attacking without them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast.attacks import CA, System
from holdfast.core.gallery import Gallery
from holdfast.evaluation.evaluate import evaluate, prepared
from holdfast.evaluation.indexed.factory import build_index, check_index
from holdfast.evaluation.indexed.gallery import images_at_once, through
from holdfast.evaluation.records import Records
from holdfast.evaluation.robust.compare import compare
from holdfast.evaluation.runner import runners_of
from holdfast.evaluation.saving import attack
from holdfast.evaluation.settings import resolve_settings
from holdfast.util.errors import HoldfastError
from holdfast.util.progress import Progress
from tests.conftest import Call, Refuse
from tests.helpers.tiny import digits, embedder, rows, same_set
from tests.oracles import indexes as slow
from tests.oracles.attacks import candidate_rank, listed

faiss = pytest.importorskip("faiss")

MODEL = embedder()
PIXELS = digits(80)
with torch.no_grad():
    ITEMS = MODEL(PIXELS.read(torch.arange(80))[0])
LABELS = torch.from_numpy(PIXELS.table.labels)
QUICK: dict[str, Any] = {"eps": 0.1, "max_queries": 10, "checks": False, "quiet": True, "device": "cpu"}


def decoded(word: str) -> Tensor:
    """The items as codes have them, number by number."""
    if word == "SQ8":
        return torch.tensor(slow.scalar_quantised(ITEMS.tolist()))
    index = faiss.index_factory(16, word)
    index.train(ITEMS.numpy())
    shape = index.pq.M, index.pq.ksub, index.pq.dsub
    centroids = faiss.vector_to_array(index.pq.centroids).reshape(shape)
    return torch.tensor(slow.product_quantised(ITEMS.tolist(), centroids.tolist()))


# ---- flat codes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["SQ8", "PQ4x4"])
def test_queries_are_compared_with_decoded_vectors(word: str) -> None:
    index = build_index(word, ITEMS)
    assert index.exhaustive
    assert index.bytes_per_item == {"SQ8": 16, "PQ4x4": 2}[word]
    torch.testing.assert_close(index.items, decoded(word), rtol=0, atol=2e-6)
    torch.testing.assert_close(index.stored(ITEMS), index.items, rtol=0, atol=0)
    near = torch.cdist(ITEMS.double(), index.items.double()).argmin(1)
    assert (index.search(ITEMS, 1)[:, 0] == near).float().mean() > 0.95  # the rest are ties but for rounding


@pytest.mark.parametrize("word", ["SQ8", "PQ4x4"])
def test_an_attack_through_codes_is_one_on_decoded_vectors(word: str, tmp_path: Path) -> None:
    """The same chosen, and the same read, as where the gallery is replaced by hand and no index is there."""
    names = ("qa+", "es", "ltm", "gtt")
    evaluate(MODEL, PIXELS, folder=tmp_path, attacks=names, steps=4, index=word, **QUICK)
    resolved = resolve_settings("28", attacks=names, steps=4, eps=0.1, max_queries=10)
    by_hand = Records(None)
    with prepared(MODEL, PIXELS, resolved, "cpu", quiet=True) as target, Progress("", 1, quiet=True) as progress:
        gallery = Gallery(decoded(word), target.system.gallery.labels, target.system.gallery.ids)
        replaced = replace(target, system=System(target.system.queries, gallery))
        for runner in runners_of(replaced, resolved, 128):
            list(runner.run(replaced, by_hand, progress))
    (folder,) = tmp_path.glob("strict-*")
    for name in names:
        found, expected = rows(folder / "records" / f"{name}.jsonl"), by_hand.of(name)
        assert [one["chosen"] for one in found] == [one["chosen"] for one in expected]
        for when in ("before", "after"):
            for one, other in zip(found, expected, strict=True):
                assert one[when] == pytest.approx(other[when], abs=1e-3)


def test_a_perturbed_candidate_is_encoded_before_it_is_ranked() -> None:
    index = build_index("PQ4x4", ITEMS)
    system = through(index, System(*same_set(ITEMS, LABELS)))
    rows, chosen = torch.arange(6), torch.arange(40, 46)[:, None]
    z = ITEMS[rows] + 0.2 * torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    found = CA("+").plan(system.gallery.take(rows), system, chosen).outcome(z)["CA+"]
    coder = faiss.index_factory(16, "PQ4x4")
    coder.train(ITEMS.numpy())
    codes = faiss.vector_to_array(coder.pq.centroids).reshape(4, 16, 4).tolist()
    stored = slow.product_quantised(z.tolist(), codes)
    for i, there in enumerate(stored):
        query = int(chosen[i])
        expected = candidate_rank(there, [ITEMS[query].tolist()], listed(system.gallery), [{i, query}])
        assert found[i].item() == pytest.approx(expected, abs=1e-6)


# ---- what is not compared with every item ---------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["IVF4,Flat", "IVF4,PQ4x4:nprobe=2", "HNSW4:efSearch=2", "LSH", "PQ4x4,RFlat"])
def test_the_first_result_is_that_of_the_real_index(word: str) -> None:
    index = build_index(word, ITEMS)
    assert not index.exhaustive
    system = through(index, System(*same_set(ITEMS, LABELS)))
    assert system.first is not None
    found = system.first(ITEMS, torch.arange(80))
    for i, near in enumerate(index.search(ITEMS, 2).tolist()):
        assert found[i] == (near[1] if near[0] == i else near[0])


@pytest.mark.parametrize("word", ["IVF4,Flat", "IVF4,PQ4x4", "HNSW8", "Binary:rescore=5"])
def test_a_result_says_what_the_index_misses(word: str, tmp_path: Path) -> None:
    found = evaluate(MODEL, PIXELS, "worst", folder=tmp_path, index=word, **{**QUICK, "max_queries": 4}).content
    index, right, missed = build_index(word, ITEMS), [], []
    for i, near in enumerate(index.search(ITEMS, 2).tolist()):
        first = near[1] if near[0] == i else near[0]
        distances = (index.items.double() - ITEMS[i].double()).norm(dim=1)
        distances[i] = torch.inf
        right.append(first >= 0 and bool(LABELS[first] == LABELS[i]))
        missed.append(first < 0 or bool(distances[first] > distances.min() * 1.0001 + 1e-4))
    about = found["index"]
    assert about["word"] == word
    assert about["R@1"]["kept"] == sum(right)
    assert found["benign"]["R@1"] == about["R@1"]["value"]
    assert about["missed"]["clean"]["kept"] == sum(missed)
    last: dict[int, float] = {}
    for stage in found["robust R@1"]["stages"]:
        for file in tmp_path.glob(f"worst-*/records/worst.{stage['name']}.jsonl"):
            last |= {one["id"]: one["after"]["missed"] for one in rows(file)}
    assert about["missed"]["attacked"]["value"] == pytest.approx(sum(last.values()) / len(last))


def test_binary_codes_count_only_where_both_stages_are_passed() -> None:
    draw = torch.Generator().manual_seed(0)
    items, queries = (torch.randn(count, 12, generator=draw) for count in (60, 20))
    for rescored in (1, 5, 60):
        found = build_index(f"Binary:rescore={rescored}", items).search(queries, 1)[:, 0]
        for query, row in zip(queries.tolist(), found.tolist(), strict=True):
            assert row in slow.two_stages(query, items.tolist(), rescored)


@pytest.mark.parametrize("word", ["HNSW8", "IVF4,PQ4x4", "PQ4x4", "Flat"])
def test_the_same_items_give_the_same_index(word: str) -> None:
    one, other = build_index(word, ITEMS), build_index(word, ITEMS)
    assert torch.equal(one.items, other.items)
    assert torch.equal(one.search(ITEMS, 5), other.search(ITEMS, 5))
    assert (one.items is ITEMS) == (word in ("HNSW8", "Flat"))


def test_parameters_of_the_search_are_set() -> None:
    few, all_lists = (build_index(f"IVF16,Flat:nprobe={n}", ITEMS).search(ITEMS, 5) for n in (1, 16))
    assert torch.equal(all_lists, build_index("Flat", ITEMS).search(ITEMS, 5))
    assert not torch.equal(few, all_lists)


# ---- in an evaluation ------------------------------------------------------------------------------------------------


def test_without_an_index_nothing_changes_but_with_one_the_result_is_another(tmp_path: Path) -> None:
    assert "index" not in resolve_settings("28").plain()
    first = evaluate(MODEL, PIXELS, folder=tmp_path, attacks=("es",), steps=1, index="SQ8", **QUICK)
    assert first.protocol == "strict, SQ8"
    again = evaluate(MODEL, PIXELS, folder=tmp_path, attacks=("es",), steps=1, index="SQ8", **QUICK)
    assert again.content == json.loads(json.dumps(first.content))
    evaluate(MODEL, PIXELS, folder=tmp_path, attacks=("es",), steps=1, **QUICK)
    assert len(list(tmp_path.glob("strict-*"))) == 2


def test_a_gallery_of_millions_is_attacked_by_few_images_at_once() -> None:
    assert images_at_once(128, 60_502) == 128
    assert images_at_once(128, 1_000_000) == 16
    assert images_at_once(128, 10**9) == 1


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("SQ9", "'SQ9' is no index .*could not parse index string SQ9.*; give SQ8, PQ32"),
        ("HNWS32", "'HNWS32' is no index .*; did you mean HNSW"),
        ("PQ32:nprob=4", "'PQ32:nprob=4' is no index .*; did you mean nprobe"),
        ("sq8", "'sq8' is no index .*; did you mean SQ"),
        ("HNSW0", "'HNSW0' is no index: HNSW takes a number of 2 or more"),
        ("HNSW1,Flat", "HNSW takes a number of 2 or more"),
        ("IVF0,Flat", "IVF takes a number of 1 or more"),
        ("", "'' is no index"),
        ("PQ4x4:nprobe=2", "is no index .*could not set parameter nprobe"),
        ("IVF4,Flat:nprobe=x", "is no index .*could not interpret parameters nprobe=x"),
        ("Binary:rescore=0", "Binary takes rescore=N"),
        ("Binary:k=3", "Binary takes rescore=N"),
    ],
)
def test_what_is_no_index(word: str, message: str) -> None:
    with pytest.raises(HoldfastError, match=message) as stop:
        check_index(word)
    assert ".cpp" not in str(stop.value)
    with pytest.raises(HoldfastError, match=message):
        evaluate(lambda images: 1 / 0, PIXELS, index=word, **QUICK)


@pytest.mark.parametrize("word", ["PQ7", "OPQ6_42,IVF16,PQ6x4", "PCA8,Flat", "HNSW32,PQ12", "IVF65536_HNSW32,PQ32"])
def test_what_may_go_with_some_model_is_an_index(word: str) -> None:
    check_index(word)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("PQ3", "index PQ3 does not go with 80 vectors of 16 numbers .*multiple of the number of subquantizers"),
        ("IVF4,Flat:nprobe=0", "index IVF4,Flat:nprobe=0 does not go with 80 vectors of 16 numbers"),
        ("IVF256,Flat", "index IVF256,Flat does not go with 80 vectors of 16 numbers .*training points .80."),
    ],
)
def test_what_does_not_go_with_the_gallery(word: str, message: str) -> None:
    with pytest.raises(HoldfastError, match=message):
        build_index(word, ITEMS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "cvpr22"}, "protocol 'cvpr22' compares every vector"),
        ({"sigma": 0.25}, "give sigma or index, not both"),
        ({"index": 8}, "index takes text, not 8"),
    ],
)
def test_what_has_no_index(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(HoldfastError, match=message):
        resolve_settings("28", **{"index": "SQ8", **settings})


def test_where_every_vector_is_compared_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match="index SQ8 goes with evaluate"):
        attack(MODEL, PIXELS, "es", tmp_path / "adv", index="SQ8", eps=0.1, quiet=True)
    assert not (tmp_path / "adv").exists()
    with pytest.raises(HoldfastError, match="index SQ8 goes with evaluate"):
        compare(MODEL, MODEL, PIXELS, eps=0.1, index="SQ8", quiet=True)


def test_without_faiss_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(HoldfastError, match=r"install.*holdfast\[faiss\]"):
        check_index("SQ8")


def test_the_command_puts_both_side_by_side(call: Call, refused: Refuse, tmp_path: Path) -> None:
    command: list[str | Path] = ["evaluate", "zoo:digits-none-r", "--out", tmp_path / "out", "--index", "IVF8,PQ8x4"]
    assert "give --index or --eps-curve" in refused(*command, "--eps-curve", "0,1/255")
    assert "is no index" in refused(*command[:-1], "IFV8,PQ8x4")
    assert not (tmp_path / "out").exists()
    command += ["--attack", "es", "--steps", "1", "--max-queries", "4", "--no-checks"]
    status, printed, error = call(*command)
    assert (status, error) == (0, "")
    for words in ("with and without the index", "every vector compared", "the nearest item is missed, clean:"):
        assert words in printed
    assert "bytes per item: 5, of a vector 2,048" in printed
