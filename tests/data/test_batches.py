"""Batches of pairs: who is drawn, how the ranks share, and what cannot be drawn."""

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.data import Indices, PairBatches
from holdfast.util.errors import HoldfastError

Labels = npt.NDArray[np.int64]
SIZES = st.lists(st.integers(1, 9), min_size=2, max_size=9)


def labels_of(sizes: list[int], seed: int = 0) -> Labels:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


def check_batch(batch: Indices, labels: Labels, per_class: int) -> None:
    groups = batch.indices.view(-1, per_class)
    assert batch.anchors.tolist() == list(range(0, len(batch.indices), per_class))
    for group in groups.tolist():
        assert len(set(group)) == per_class
        assert len(set(labels[group].tolist())) == 1
    assert len(set(labels[batch.indices.numpy()].tolist())) >= 2


@settings(max_examples=150)
@given(
    sizes=SIZES,
    share=st.integers(2, 5),
    world=st.integers(1, 3),
    per_class=st.integers(2, 4),
    seed=st.integers(0, 5),
    e=st.integers(0, 5),
)
def test_an_epoch(*, sizes: list[int], share: int, world: int, per_class: int, seed: int, e: int) -> None:
    labels = labels_of(sizes)
    able = [n for n in sizes if n >= per_class]
    full, rest = divmod(sum(able), share * world)
    shares = world * (full + (rest // world >= 2))
    if len(able) < 2 or not shares or sum(able) - max(able) < shares:
        with pytest.raises(HoldfastError):
            PairBatches(labels, share * world, per_class, world=world)
        return
    ranks = [PairBatches(labels, share * world, per_class, seed=seed, rank=r, world=world) for r in range(world)]
    shared = [list(batches.epoch(e)) for batches in ranks]
    assert all(len(batches) == len(ranks[0]) for batches in shared)
    anchors: Counter[int] = Counter()
    for step in range(len(ranks[0])):
        offset = 0
        for batches in shared:
            batch = batches[step]
            check_batch(batch, labels, per_class)
            assert batch.offset == offset
            offset += len(batch.indices)
            anchors.update(batch.indices[batch.anchors].tolist())
        assert all(batches[step].total == offset for batches in shared)
        assert len({len(batches[step].indices) for batches in shared}) == 1
    able_images = {i for i in range(len(labels)) if sizes[labels[i]] >= per_class}
    assert set(anchors) <= able_images
    assert max(anchors.values()) == 1
    assert len(able_images) - len(anchors) < max(2 * world, 1)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("classes", [6, 8, 9])
@pytest.mark.parametrize("per_class", [2, 3])
def test_the_ranks_together_are_the_single_process_batch(classes: int, world: int, per_class: int) -> None:
    labels = labels_of([6] * classes)
    for seed in range(5):
        single = PairBatches(labels, 18, per_class, seed=seed).epoch(2)
        ranks = [PairBatches(labels, 18, per_class, seed=seed, rank=r, world=world) for r in range(world)]
        for whole, *parts in zip(single, *(batches.epoch(2) for batches in ranks), strict=True):
            assert torch.equal(torch.cat([part.indices for part in parts]), whole.indices)
            shifted = [part.anchors + part.offset for part in parts]
            assert torch.equal(torch.cat(shifted), whole.anchors)


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    labels = labels_of([6] * 8)

    def flat(batches: PairBatches, e: int) -> list[int]:
        return torch.cat([batch.indices for batch in batches.epoch(e)]).tolist()

    one, other = PairBatches(labels, 8, seed=1), PairBatches(labels, 8, seed=1)
    for e in range(3):
        flat(other, e)
    assert flat(one, 3) == flat(other, 3)
    assert flat(one, 3) != flat(one, 4)
    assert flat(one, 3) != flat(PairBatches(labels, 8, seed=2), 3)
    assert flat(one, 0) == flat(PairBatches(torch.from_numpy(labels), 8, seed=1), 0)


@pytest.mark.parametrize("per_class", [2, 3, 4])
def test_partners_are_uniform(per_class: int) -> None:
    labels = np.repeat(np.arange(2), [5, 7]).astype(np.int64)
    batches = PairBatches(labels, 6, per_class)
    seen: Counter[tuple[int, int]] = Counter()
    epochs = 1500
    for e in range(epochs):
        for batch in batches.epoch(e):
            for anchor, *others in batch.indices.view(-1, per_class).tolist():
                seen.update((anchor, other) for other in others)
    for anchor in range(12):
        size = 5 if anchor < 5 else 7
        chance = (per_class - 1) / (size - 1)
        for other in range(12):
            expected = epochs * chance if labels[other] == labels[anchor] and other != anchor else 0
            assert abs(seen[anchor, other] - expected) <= 5 * (epochs * chance * (1 - chance)) ** 0.5


def test_the_last_batch_is_kept_trimmed_or_dropped() -> None:
    labels = labels_of([8] * 4)
    assert [len(b.indices) for b in PairBatches(labels, 10).epoch(0)] == [20, 20, 20, 4]
    assert [len(b.indices) for b in PairBatches(labels[:31], 10).epoch(0)] == [20, 20, 20]
    assert [len(b.indices) for b in PairBatches(labels, 9).epoch(0)] == [18, 18, 18, 10]
    assert [b.total for b in PairBatches(labels, 18, rank=1, world=3).epoch(0)] == [36, 24]
    assert [len(b.indices) for b in PairBatches(labels, 100).epoch(0)] == [64]


def test_every_share_holds_two_classes_even_when_one_dominates() -> None:
    labels = np.asarray([0] * 24 + [1] * 8, np.int64)
    repaired = 0
    for e in range(50):
        for rank in range(2):
            for batch in PairBatches(labels, 8, rank=rank, world=2).epoch(e):
                check_batch(batch, labels, 2)
                repaired += int((batch.indices[batch.anchors] >= 24).sum() == 1)
    assert repaired > 0
    with pytest.raises(HoldfastError, match=r"one class has 25 of 32 training images: shares of 4 pairs cannot all"):
        PairBatches(np.asarray([0] * 25 + [1] * 7, np.int64), 8, world=2)


def test_single_images_are_left_out_and_counted() -> None:
    labels = np.asarray([0, 0, 1, 2, 2, 2, 3], np.int64)
    batches = PairBatches(labels, 4)
    assert batches.left_out == 2
    assert batches.describe() == (
        "5 images, 1 batch of 4 pairs per epoch; left out, for fewer than 2 images: 2 of 4 classes (2 images)"
    )
    assert not {2, 6} & set(batches.epoch(0)[0].indices.tolist())
    threes = PairBatches(np.repeat(np.arange(4), [3, 3, 2, 1]), 4, per_class=3)
    assert threes.left_out == 2
    assert "left out, for fewer than 3 images: 2 of 4 classes (3 images)" in threes.describe()
    assert "left out" not in PairBatches(labels_of([4, 4]), 4).describe()


@pytest.mark.parametrize(
    ("sizes", "settings", "message"),
    [
        ([5, 5], {"pairs": 5, "world": 2}, "5 pairs cannot be shared equally by 2 processes"),
        ([5, 5], {"pairs": 2, "world": 2}, "a share of fewer than 2 pairs"),
        ([5, 5], {"pairs": 1}, "a share of fewer than 2 pairs"),
        ([5, 5], {"pairs": 0}, "a share of fewer than 2 pairs"),
        ([5, 5], {"pairs": 4, "per_class": 1}, "per_class is 1"),
        ([5, 5], {"pairs": 4, "seed": -1}, "seed is -1"),
        ([5, 5], {"pairs": 4, "rank": 2, "world": 2}, "rank 2 is not one of 2 processes"),
        ([9], {"pairs": 4}, "with 2 images or more: 1 of 1 class; training needs two such classes"),
        ([9, 1], {"pairs": 4}, "with 2 images or more: 1 of 2 classes"),
        ([2, 2], {"pairs": 9, "world": 3}, "4 images cannot give each of 3 processes 2 pairs"),
    ],
)
def test_what_cannot_be_drawn(sizes: list[int], settings: dict[str, int], message: str) -> None:
    with pytest.raises(HoldfastError, match=message):
        PairBatches(labels_of(sizes), **settings)
