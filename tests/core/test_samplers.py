"""Every draw of the seven samplers is allowed by the table of strategies, and drawn with the stated weight."""

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from torch.nn.functional import normalize

from holdfast.core.samplers import SAMPLERS, EmbeddedBatch, Sampler, semihard
from holdfast.util.errors import HoldfastError
from tests.oracles import steps as oracles

STRATEGIES = list(SAMPLERS)
DRAWS = 4000


def embedded(count: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1)


def at(*distances: float, dim: int = 2) -> Tensor:
    """The anchor, then one point on the unit sphere per distance from it."""
    d = torch.tensor((0.0, *distances), dtype=torch.float64)
    angle = 2 * (d / 2).asin()
    z = torch.zeros(len(d), dim, dtype=torch.float64)
    z[:, 0], z[:, 1] = angle.cos(), angle.sin()
    return z


def allowed(strategy: str, z: Tensor, labels: Sequence[int], anchor: int, mate: int) -> oracles.Candidates:
    return oracles.candidates(strategy, z.tolist(), labels, anchor, mate)


def check_draws(strategy: str, z: Tensor, labels: Sequence[int], anchors: list[int], mates: list[int]) -> None:
    batch = EmbeddedBatch.of(z, torch.tensor(labels), torch.tensor(anchors))
    triplets = SAMPLERS[strategy](batch, torch.Generator().manual_seed(0))
    assert triplets.anchor.tolist() == anchors
    drawn = zip(anchors, mates, triplets.positive.tolist(), triplets.negative.tolist(), strict=True)
    for anchor, mate, positive, negative in drawn:
        may = allowed(strategy, z, labels, anchor, mate)
        assert positive in may.positives
        assert negative in may.negatives


def check_weights(strategy: str, z: Tensor, labels: Sequence[int], anchor: int = 0, mate: int = 1) -> None:
    """Many draws for one anchor fall on each allowed pair, and on no other, as often as the weights say."""
    may = allowed(strategy, z, labels, anchor, mate)
    batch = EmbeddedBatch.of(z, torch.tensor(labels), torch.full((DRAWS,), anchor))
    triplets = SAMPLERS[strategy](batch, torch.Generator().manual_seed(3))
    drawn = list(zip(triplets.positive.tolist(), triplets.negative.tolist(), strict=True))
    weight = {(p, n): wp * wn for p, wp in may.positives.items() for n, wn in may.negatives.items()}
    assert set(drawn) <= set(weight)
    total = sum(weight.values())
    expected = [DRAWS * w / total for w in weight.values()]
    assert min(expected) > 5, "too few draws expected for the statistic to mean anything"
    assert chisquare([drawn.count(pair) for pair in weight], expected).pvalue > 1e-3


@st.composite
def pair_batches(draw: st.DrawFn) -> tuple[Tensor, list[int]]:
    """Pairs of 2 to 4 classes, some classes more than once; points of a small lattice make ties."""
    classes = [0, 1, *draw(st.lists(st.integers(0, 3), max_size=12))]
    labels = [label for label in classes for _ in range(2)]
    dim, seed = draw(st.integers(2, 6)), draw(st.integers(0, 10_000))
    if draw(st.booleans()):
        return embedded(len(labels), dim, seed), labels
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (len(labels), dim), generator=generator).double(), labels


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=40)
@given(pair_batches())
def test_every_draw_is_allowed(strategy: str, case: tuple[Tensor, list[int]]) -> None:
    z, labels = case
    if len(labels) > 25:  # beyond that distances come through a matrix product, which blurs ties
        z = embedded(len(labels), z.shape[1], seed=len(labels))
    anchors = list(range(0, len(labels), 2))
    check_draws(strategy, z, labels, anchors, [anchor + 1 for anchor in anchors])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_batches_of_k_per_class(strategy: str) -> None:
    labels = [label for label in range(4) for _ in range(5)]
    anchors = list(range(0, 20, 5))
    check_draws(strategy, embedded(20, 6, seed=2), labels, anchors, [anchor + 1 for anchor in anchors])


@pytest.mark.parametrize("strategy", ["R", "M", "H", "D"])
def test_the_positive_is_the_other_image_of_the_pair(strategy: str) -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 0, 0])
    triplets = SAMPLERS[strategy](EmbeddedBatch.of(embedded(8, 4, seed=1), labels), torch.Generator().manual_seed(0))
    assert triplets.anchor.tolist() == [0, 2, 4, 6]
    assert triplets.positive.tolist() == [1, 3, 5, 7]


def test_the_anchor_is_its_own_positive_at_times_where_no_other_is_farther_than_the_nearest_negative() -> None:
    labels, many = torch.tensor([0, 0, 1, 1]), torch.zeros(400, dtype=torch.long)
    for distances, positives in [((0.6, 0.9, 1.2), {0, 1}), ((0.9, 0.6, 1.2), {1})]:
        batch = EmbeddedBatch.of(at(*distances), labels, many)
        assert set(SAMPLERS["A"](batch, torch.Generator().manual_seed(0)).positive.tolist()) == positives
        assert set(SAMPLERS["S"](batch, torch.Generator().manual_seed(0)).positive.tolist()) == {1}


def test_the_easy_positive_is_the_nearest_of_the_class_and_the_negative_the_nearest_of_another() -> None:
    batch = EmbeddedBatch.of(at(0.9, 0.6, 0.8, 0.7, 1.2), torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0]))
    triplets = SAMPLERS["E"](batch, None)
    assert (triplets.positive.item(), triplets.negative.item()) == (2, 4)


def test_the_mate_of_the_last_image_of_a_class_is_its_first() -> None:
    labels = torch.tensor([0, 1, 0, 1, 2, 2])
    batch = EmbeddedBatch.of(embedded(6, 4, seed=1), labels, torch.tensor([0, 1, 2, 3, 5]))
    assert batch.partner.tolist() == [2, 3, 0, 1, 4]


LABELS = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("strategy", "distances"),
    [
        pytest.param("R", (0.6, 0.7, 1.0, 0.5, 0.7, 0.75, 0.9, 1.1, 1.2), id="random"),
        pytest.param("M", (0.6, 0.7, 1.0, 0.5, 0.7, 0.75, 0.79, 0.81, 1.2), id="semihard"),
        pytest.param("M", (0.6, 0.7, 1.0, 0.5, 0.55, 0.6, 0.9, 1.1, 1.2), id="semihard-none"),
        pytest.param("S", (0.6, 0.7, 1.0, 0.65, 0.7, 0.75, 0.9, 1.1, 1.2), id="softhard"),
        pytest.param("S", (0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2), id="softhard-neither"),
        pytest.param("A", (0.6, 0.7, 1.0, 0.65, 0.7, 0.75, 0.9, 1.1, 1.2), id="softhard-or-anchor"),
        pytest.param("A", (0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2), id="softhard-or-anchor-neither"),
        pytest.param("D", (0.6, 0.7, 1.0, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3), id="distance-weighted"),
        pytest.param("D", (0.6, 0.7, 1.0, 0.3, 0.5, 1.0, 1.1, 1.4, 1.7), id="distance-weighted-clipped"),
    ],
)
def test_draws_have_the_stated_weights(strategy: str, distances: tuple[float, ...]) -> None:
    check_weights(strategy, at(*distances, dim=5), LABELS)


def test_weights_of_the_distance_sampler_in_many_dimensions() -> None:
    """At 512 dimensions the nearest negative takes nearly all draws, without overflow."""
    z = at(0.9, 0.6, 0.8, 1.2, dim=512).float()
    batch = EmbeddedBatch.of(z, torch.tensor([0, 0, 1, 1, 1]), torch.zeros(200, dtype=torch.long))
    assert (SAMPLERS["D"](batch, torch.Generator().manual_seed(0)).negative == 2).all()


def test_softhard_positive_falls_back_by_itself() -> None:
    """No positive lies beyond the nearest negative, which ties with the farthest positive: both masks are empty."""
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [2.0, 0.0]], dtype=torch.float64)
    labels = [0, 0, 0, 1, 1]
    may = allowed("S", z, labels, 0, 1)
    assert set(may.positives) == {1, 2}
    assert set(may.negatives) == {3, 4}
    check_weights("S", z, labels)


def test_semihard_takes_its_margin() -> None:
    batch = EmbeddedBatch.of(at(0.6, 0.7, 0.9), torch.tensor([0, 0, 1, 1]), torch.zeros(300, dtype=torch.long))
    wide: Sampler = partial(semihard, margin=0.5)
    assert set(semihard(batch, torch.Generator().manual_seed(0)).negative.tolist()) == {2}
    assert set(wide(batch, torch.Generator().manual_seed(0)).negative.tolist()) == {2, 3}


@pytest.mark.parametrize("strategy", ["R", "M", "S", "D"])
def test_the_generator_decides(strategy: str) -> None:
    labels = torch.arange(4).repeat_interleave(8)
    batch = EmbeddedBatch.of(embedded(32, 3, seed=0), labels)
    first, again, other = (
        SAMPLERS[strategy](batch, torch.Generator().manual_seed(seed)).negative.tolist() for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_anchors_draw_independently() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    batch = EmbeddedBatch.of(embedded(8, 3, seed=0), labels, torch.tensor([0, 0]))
    negatives = [SAMPLERS["R"](batch, torch.Generator().manual_seed(seed)).negative.tolist() for seed in range(600)]
    equal = sum(a == b for a, b in negatives)
    assert 60 < equal < 140  # one in six by chance


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_embeddings_keep_no_graph(strategy: str) -> None:
    z = embedded(8, 3, seed=0).requires_grad_()
    batch = EmbeddedBatch.of(z, torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]))
    assert not batch.embeddings.requires_grad
    assert len(SAMPLERS[strategy](batch, None)) == 4


@pytest.mark.parametrize(
    ("labels", "anchors", "message"),
    [
        ([0, 0, 1, 2], None, r"1 of 2 anchors have no second image.*position 2, label 1"),
        ([0, 0, 1, 1, 2], None, r"position 4, label 2"),
        ([3, 3, 3, 3], None, "one class"),
        ([0, 0, 1], [0], "4 images came with 3 labels"),
        ([0, 0, 1, 1], [], "no anchors"),
    ],
)
def test_unusable_batches_are_refused(labels: list[int], anchors: list[int] | None, message: str) -> None:
    count = 4 if len(labels) == 3 else len(labels)
    named = None if anchors is None else torch.tensor(anchors, dtype=torch.long)
    with pytest.raises(HoldfastError, match=message):
        EmbeddedBatch.of(embedded(count, 3, seed=0), torch.tensor(labels), named)
