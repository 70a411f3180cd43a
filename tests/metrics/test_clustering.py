import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from holdfast.core import batching as blocks
from holdfast.metrics import clustering
from holdfast.metrics.clustering import kmeans, nmi
from holdfast.util.errors import HoldfastError


def blobs(classes: int, each: int, spread: float = 0.01, dimensions: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(classes).repeat(each)
    centres = torch.randn(classes, dimensions, generator=generator)
    return centres[labels] + spread * torch.randn(len(labels), dimensions, generator=generator), labels


def objective(points: Tensor, cluster: Tensor) -> float:
    groups = [points[cluster == index] for index in torch.unique(cluster)]
    return sum((group - group.mean(0)).square().sum().item() for group in groups)


@pytest.mark.parametrize(("classes", "each"), [(2, 40), (10, 30), (300, 4)])
def test_separated_classes_have_an_nmi_of_100(classes: int, each: int) -> None:
    """300 classes are more than the seeding rounds: several centres are drawn per round."""
    embeddings, labels = blobs(classes, each)
    expected = 100.0 if classes <= clustering.SEEDING_ROUNDS else 99.0
    assert nmi(embeddings, labels * 5 - 7) >= expected - 1e-6


def test_random_labels_have_an_nmi_near_0() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings, labels = torch.randn(3000, 16, generator=generator), torch.randint(5, (3000,), generator=generator)
    assert 0 <= nmi(embeddings, labels) < 1


def test_a_collapsed_embedder_has_an_nmi_of_0() -> None:
    assert nmi(torch.full((60, 4), 0.3), torch.arange(60) % 6) == pytest.approx(0, abs=1e-9)


def test_nmi_is_scikit_learns_of_these_clusters() -> None:
    embeddings, labels = blobs(12, 20, spread=0.8)
    expected = normalized_mutual_info_score(labels, kmeans(embeddings, 7, seed=4))
    assert nmi(embeddings, labels, clusters=7, seed=4) == pytest.approx(100 * expected)


def test_a_seed_fixes_the_clusters() -> None:
    points, _ = blobs(20, 30, spread=1.0)
    first = kmeans(points, 20, seed=1)
    torch.manual_seed(99)
    assert kmeans(points, 20, seed=1).equal(first)
    assert not kmeans(points, 20, seed=2).equal(first)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points, _ = blobs(15, 20, spread=0.5)
    whole = kmeans(points, 15)
    monkeypatch.setattr(blocks, "WORKSPACE", 8 * 15 * 17)
    assert kmeans(points, 15).equal(whole)


def test_it_ends_where_each_point_is_nearest_to_its_own_mean() -> None:
    points, _ = blobs(6, 50, spread=0.6)
    cluster = kmeans(points, 6, iterations=1000)
    means = torch.stack([points[cluster == index].mean(0) for index in range(6)])
    for point, own in zip(points, cluster, strict=True):
        distances = [(point - mean).square().sum().item() for mean in means]
        assert distances[own] <= min(distances) + 1e-5


def test_as_good_as_scikit_learn() -> None:
    points, _ = blobs(40, 25, spread=0.5)
    theirs = [KMeans(40, n_init=1, max_iter=20, random_state=seed).fit(points.numpy()).inertia_ for seed in range(5)]
    ours = [objective(points, kmeans(points, 40, seed)) for seed in range(5)]
    assert min(ours) < 1.1 * min(theirs)


def test_empty_clusters_restart_at_far_points(monkeypatch: pytest.MonkeyPatch) -> None:
    points, _ = blobs(5, 20)
    monkeypatch.setattr(
        clustering, "_seeds", lambda points, norms, clusters, seed: torch.zeros(clusters, dtype=torch.int64)
    )
    assert len(torch.unique(kmeans(points, 5))) == 5


def test_as_many_clusters_as_points() -> None:
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    assert kmeans(points, 30).sort().values.equal(torch.arange(30))
    doubled = kmeans(points.repeat(2, 1), 60)
    assert doubled.min() >= 0
    assert doubled.max() < 60
    assert doubled[:30].equal(doubled[30:])


@pytest.mark.parametrize("clusters", [0, 31])
def test_impossible_numbers_of_clusters_are_refused(clusters: int) -> None:
    with pytest.raises(HoldfastError, match="allowed: 1 to 30"):
        kmeans(torch.randn(30, 4), clusters)


def test_labels_must_fit_the_embeddings() -> None:
    with pytest.raises(HoldfastError, match="need as many labels"):
        nmi(torch.randn(30, 4), torch.zeros(29, dtype=torch.int64))
