from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn.functional import normalize

from holdfast.core import batching as blocks
from holdfast.core.gallery import Gallery, Queries
from holdfast.metrics import retrieval
from holdfast.metrics.retrieval import _queries_per_block, _ranks, _ranks_on_cpu, per_query, retrieval_metrics
from holdfast.util.errors import HoldfastError
from tests.helpers.tiny import same_set
from tests.oracles.retrieval import of_query, of_untied_query

KS = (1, 2, 3, 8)


def embedded(items: int, classes: int, dimensions: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (items,), generator=generator) * 7 - 3
    return torch.randn(items, dimensions, generator=generator), labels


def distances_without_own(queries: Queries, gallery: Gallery, query: int) -> tuple[np.ndarray, np.ndarray]:
    others = (gallery.ids != queries.ids[query]).numpy()
    points = gallery.embeddings.double().numpy()
    distances = np.sqrt(((points - queries.embeddings[query].double().numpy()) ** 2).sum(1))
    matches = (gallery.labels == queries.labels[query]).numpy()
    return distances[others], matches[others]


def separate_sets() -> tuple[Queries, Gallery]:
    """Half of the queries are in the gallery, in another order; some classes are in only one of the two."""
    embeddings, labels = embedded(90, 12)
    own = torch.randperm(90, generator=torch.Generator().manual_seed(1))
    asked, kept = own[:40], own[20:]
    return (
        Queries(embeddings[asked], labels[asked], asked),
        Gallery(embeddings[kept], labels[kept], kept),
    )


@pytest.mark.parametrize("sets", [same_set(*embedded(80, 5)), same_set(*embedded(40, 25)), separate_sets()])
def test_equals_the_slow_twin_without_ties(sets: tuple[Queries, Gallery]) -> None:
    queries, gallery = sets
    scores = per_query(queries, gallery, KS)
    for query in range(len(queries.ids)):
        distances, matches = distances_without_own(queries, gallery, query)
        got = {name: values[query].item() for name, values in scores.items()}
        if matches.any():
            assert got == pytest.approx(of_untied_query(distances, matches, KS), abs=1e-9)
        else:
            assert all(np.isnan(value) for value in got.values())


@settings(max_examples=80)
@given(data=st.data())
def test_ties_count_as_the_mean_over_all_orders(data: st.DataObject) -> None:
    """Coarse integers tie often, and their distances are exact."""
    items, dimensions = data.draw(st.integers(2, 6)), data.draw(st.integers(1, 3))
    grid = st.lists(st.integers(-1, 2), min_size=dimensions, max_size=dimensions)
    embeddings = torch.tensor(data.draw(st.lists(grid, min_size=items, max_size=items))).float()
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=items, max_size=items)))
    ids = torch.tensor(data.draw(st.permutations(range(items))))
    start = data.draw(st.integers(0, 1))
    queries = Queries(embeddings[:4], labels[:4], ids[:4])
    gallery = Gallery(embeddings[start:], labels[start:], ids[start:])
    scores = per_query(queries, gallery, KS, block=data.draw(st.integers(1, 5)))
    for query in range(len(queries.ids)):
        distances, matches = distances_without_own(queries, gallery, query)
        got = {name: values[query].item() for name, values in scores.items()}
        if matches.any():
            assert got == pytest.approx(of_query(distances.tolist(), matches.tolist(), KS), abs=1e-12)
        else:
            assert all(np.isnan(value) for value in got.values())


def test_evaluate_is_the_mean_over_queries_with_a_match_in_percent() -> None:
    queries, gallery = separate_sets()
    single = per_query(queries, gallery)
    left_out = int(single["mAP"].isnan().sum())
    assert 0 < left_out < len(queries.ids)
    means = retrieval_metrics(queries, gallery)
    for name, values in single.items():
        assert means.pop(name) == pytest.approx(100 * values.nanmean().item())
    assert means == {"queries": len(queries.ids) - left_out, "queries_without_match": left_out}


def test_equals_pytorch_metric_learning() -> None:
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    names = {"precision_at_1": "R@1", "r_precision": "R-Precision", "mean_average_precision_at_r": "mAP@R"}
    calculator = AccuracyCalculator(
        include=tuple(names),
        k="max_bin_count",
        device=torch.device("cpu"),
        knn_func=CustomKNN(LpDistance(normalize_embeddings=False)),
    )
    embeddings, labels = embedded(150, 9)
    found, sought = embedded(70, 9, seed=1)
    theirs = calculator.get_accuracy(embeddings, labels)
    ours = retrieval_metrics(*same_set(embeddings, labels))
    theirs_apart = calculator.get_accuracy(found, sought, embeddings, labels)
    asked = Queries(found, sought, torch.arange(1000, 1070))
    ours_apart = retrieval_metrics(asked, Gallery(embeddings, labels, torch.arange(150)))
    for theirs_name, name in names.items():
        assert ours[name] == pytest.approx(100 * theirs[theirs_name], abs=1e-6)
        assert ours_apart[name] == pytest.approx(100 * theirs_apart[theirs_name], abs=1e-6)


def test_map_equals_scikit_learn() -> None:
    queries, gallery = same_set(*embedded(100, 4))
    expected = []
    for query in range(100):
        distances, matches = distances_without_own(queries, gallery, query)
        expected.append(average_precision_score(matches, -distances))
    assert retrieval_metrics(queries, gallery)["mAP"] == pytest.approx(100 * np.mean(expected), abs=1e-9)


@pytest.mark.parametrize("values", ["equal", "zero", "nearly equal"])
def test_a_collapsed_embedder_scores_at_chance(values: str) -> None:
    items, classes = 400, 8
    embeddings = normalize(torch.ones(items, 16), dim=1) * (values != "zero")
    if values == "nearly equal":
        embeddings = embeddings + 1e-7 * torch.randn(items, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(items) // (items // classes)
    scores = retrieval_metrics(*same_set(embeddings, labels))
    chance = 100 * (items // classes - 1) / (items - 1)
    tolerance = 4.0 if values == "nearly equal" else 1e-9
    assert scores["R@1"] == pytest.approx(chance, abs=tolerance)
    assert scores["R-Precision"] == pytest.approx(chance, abs=tolerance)
    assert chance < scores["mAP"] < chance + 4


def test_own_entry_is_left_out_by_id_among_duplicates() -> None:
    """Items 0 to 2 coincide; 1 is of another class, so dropping 'the nearest' would sometimes drop it."""
    embeddings = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.1]])
    labels = torch.tensor([0, 1, 0, 1, 2])
    recall = per_query(*same_set(embeddings, labels))["R@1"]
    assert recall.tolist()[:4] == pytest.approx([0.5, 0.0, 0.5, 0.0])
    assert recall[4].isnan()
    away = Queries(embeddings[:1], labels[:1], torch.tensor([99]))
    assert per_query(away, same_set(embeddings, labels)[1])["R@1"].item() == pytest.approx(2 / 3)


def test_block_size_and_gallery_order_change_nothing() -> None:
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(7, (120,), generator=generator)
    for embeddings in (
        torch.randint(-2, 3, (120, 3), generator=generator).float(),
        torch.randn(120, 16, generator=generator),
    ):
        queries, gallery = same_set(embeddings, labels)
        whole = retrieval_metrics(queries, gallery)
        order = torch.randperm(120, generator=generator)
        shuffled = Gallery(embeddings[order], labels[order], order)
        for block in (1, 7, 64, 120, 1000):
            assert retrieval_metrics(queries, gallery, block=block) == pytest.approx(whole, abs=1e-9)
            assert retrieval_metrics(queries, shuffled, block=block) == pytest.approx(whole, abs=1e-9)


def test_embeddings_close_together_are_told_apart() -> None:
    """Cosines of 0.9999 and more: without a shift, float32 products round the differences away."""
    embeddings, labels = embedded(200, 5, dimensions=32)
    crowded = (5 * torch.ones(32) + 1e-4 * embeddings).float()
    exact = retrieval_metrics(*same_set(crowded.double(), labels))
    assert retrieval_metrics(*same_set(crowded, labels)) == pytest.approx(exact, abs=1e-6)


def test_precision_follows_the_input_but_is_never_below_float32() -> None:
    embeddings, labels = embedded(150, 6, dimensions=32)
    embeddings.requires_grad_()
    single = retrieval_metrics(*same_set(embeddings, labels))
    assert retrieval_metrics(*same_set(embeddings.double(), labels)) == pytest.approx(single, abs=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert retrieval_metrics(*same_set(embeddings, labels)) == single
    half = embeddings.bfloat16()
    assert retrieval_metrics(*same_set(half, labels)) == retrieval_metrics(*same_set(half.float(), labels))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    items=st.integers(1, 60),
    positives=st.integers(1, 30),
    coarse=st.booleans(),
    bins=st.sampled_from([1, 5, 4096]),
    huge=st.booleans(),
)
def test_all_ways_to_rank_agree(  # noqa: PLR0917
    seed: int, items: int, positives: int, coarse: bool, bins: int, huge: bool
) -> None:
    """One full sort, as on an accelerator, and the rows one by one, as on a CPU, where few positives are compared with
    all items and more are found in bins; unused places hold infinity. Some differences are too large for their type."""
    rng = np.random.default_rng(seed)
    distances = rng.integers(0, 6, (5, items)) if coarse else rng.standard_normal((5, items))
    table = torch.from_numpy((distances * (1e38 if huge else 1)).clip(-3e38, 3e38).astype(np.float32))
    positives = min(positives, items)
    relevant = torch.from_numpy(rng.integers(1, positives + 1, 5))
    wanted = table[:, :positives].clone()
    wanted[torch.arange(positives) >= relevant[:, None]] = torch.inf
    with patch.object(retrieval, "BINS", bins):
        sides = zip(_ranks(table, wanted, relevant), _ranks_on_cpu(table, wanted, relevant), strict=True)
    for (sorting, rows), below in zip(sides, (np.less, np.less_equal), strict=True):
        assert sorting.equal(rows)
        for row, count in enumerate(relevant.tolist()):
            targets = np.sort(wanted[row, :count].numpy())
            assert sorting[row, :count].tolist() == [below(table[row].numpy(), each).sum() for each in targets]
            assert sorting[row, count:].eq(items).all()


def test_blocks_fit_the_workspace() -> None:
    for bytes_per_row in (1, 4 * 60502, 10**7):
        rows = blocks.rows_per_block(bytes_per_row)
        assert rows * bytes_per_row <= blocks.WORKSPACE < (rows + 1) * bytes_per_row
    assert blocks.rows_per_block(10**12) == 1
    stanford = _queries_per_block(60502, 12, 4)
    assert 64 <= stanford <= blocks.WORKSPACE / (4 * 60502)
    assert 1 <= _queries_per_block(10**6, 10**6, 8) * 8 * 10**6 <= blocks.WORKSPACE


def test_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 x 40,000 distances are 160 MB; in small blocks the peak stays far below."""
    monkeypatch.setattr(blocks, "WORKSPACE", 8 * 2**20)
    embeddings, labels = embedded(40_000, 8000, dimensions=8)
    queries = Queries(embeddings[:1000], labels[:1000], torch.arange(1000))
    gallery = same_set(embeddings, labels)[1]
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system cannot reset a process's peak memory")
    before = peak_memory("VmRSS")
    retrieval_metrics(queries, gallery)
    assert peak_memory("VmHWM") - before < 60e6


def peak_memory(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])


def broken(**changes: Tensor) -> Queries:
    fields = {"embeddings": torch.randn(4, 3), "labels": torch.tensor([0, 0, 1, 1]), "ids": torch.arange(4)}
    return Queries(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.tensor([0, 1])}, "labels must hold one integer for each of the 4"),
        ({"ids": torch.rand(4)}, "ids must hold one integer"),
        ({"embeddings": torch.full((4, 3), torch.nan)}, "4 of 4 embeddings have no finite norm"),
        ({"embeddings": torch.randn(4, 5)}, "queries have 5 dimensions, the gallery 3"),
        ({"embeddings": torch.randint(3, (4, 3))}, "floating-point matrix"),
        ({"labels": torch.tensor([0, 0, 1, 0])}, "query 3 has id 3"),
        ({"labels": torch.full((4,), 5), "ids": torch.arange(4) + 10}, "nothing to retrieve"),
    ],
)
def test_unusable_input_is_refused(changes: dict[str, Tensor], message: str) -> None:
    good = broken()
    gallery = Gallery(good.embeddings, good.labels, good.ids)
    with pytest.raises(HoldfastError, match=message):
        retrieval_metrics(broken(**changes), gallery)


def test_unusable_settings_are_refused() -> None:
    queries, gallery = same_set(*embedded(10, 2))
    with pytest.raises(HoldfastError, match="K of Recall@K"):
        retrieval_metrics(queries, gallery, ks=(0, 1))
    with pytest.raises(HoldfastError, match="block"):
        retrieval_metrics(queries, gallery, block=0)
    with pytest.raises(HoldfastError, match="occurs twice"):
        Gallery(gallery.embeddings, gallery.labels, gallery.ids // 2)


def test_a_k_beyond_the_gallery_is_allowed() -> None:
    embeddings, labels = embedded(6, 2)
    assert per_query(*same_set(embeddings, labels), ks=(50,))["R@50"].nan_to_num(1.0).eq(1).all()
