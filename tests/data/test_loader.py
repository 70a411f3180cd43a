"""The loader: order, resume, ranks, augmentation, broken images."""

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from holdfast.data import Batch, Loader, PairBatches, Pixels, Table, stream
from holdfast.util.errors import HoldfastError
from tests.helpers.waiting import GUARD


def table_of(sizes: list[int], side: int = 6) -> Table:
    """Grey images of noise; the first pixel of image i has the value i."""
    n = sum(sizes)
    images = np.random.default_rng(0).integers(0, 256, (n, side, side), dtype=np.uint8)
    images[:, 0, 0] = np.arange(n)
    return Table.build("toy", images, np.repeat(np.arange(len(sizes)), sizes), ["train"] * n)


def files_of(folder: Path, sizes: list[int], broken: tuple[int, ...] = ()) -> Table:
    n = sum(sizes)
    paths = tuple(folder / f"{i}.png" for i in range(n))
    for i, path in enumerate(paths):
        if i in broken:
            path.write_bytes(b"")
        else:
            Image.fromarray(np.full((4, 4), i + 1, np.uint8)).save(path)
    return Table.build("toy", paths, np.repeat(np.arange(len(sizes)), sizes), ["train"] * n)


def loader_of(
    table: Table, pairs: int = 4, *, size: int = 4, rank: int = 0, world: int = 1, per_class: int = 2, **more: bool
) -> Loader:
    side = table.images.shape[1] if isinstance(table.images, np.ndarray) else size
    pixels = Pixels(table, size, side, channels=1)
    return Loader(pixels, PairBatches(table.labels, pairs, per_class, seed=5, rank=rank, world=world), seed=7, **more)


def same(one: Batch, other: Batch) -> bool:
    fields = ("images", "labels", "anchors", "indices")
    return one.step == other.step and all(torch.equal(getattr(one, f), getattr(other, f)) for f in fields)


def test_batches_hold_what_their_indices_say() -> None:
    table = table_of([5, 5, 5])
    loader = loader_of(table, size=6)
    batches = list(loader.epoch(0))
    assert [batch.step for batch in batches] == list(range(len(loader))) == [0, 1, 2, 3]
    for batch, chosen in zip(batches, loader.batches.epoch(0), strict=True):
        assert torch.equal(batch.indices, chosen.indices)
        assert torch.equal((batch.images[:, 0, 0, 0] * 255).round().long(), batch.indices)
        assert torch.equal(batch.labels, torch.from_numpy(table.labels)[batch.indices])
        assert torch.equal(batch.anchors, chosen.anchors)
        assert batch.names()[1] == f"toy train[{int(batch.indices[1])}]"


def test_augmentation_is_seeded_by_epoch_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of([6, 6, 6])
    first, again = list(loader_of(table, augment=True).epoch(3)), list(loader_of(table, augment=True).epoch(3))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    plain = list(loader_of(table).epoch(3))
    assert not any(torch.equal(a.images, b.images) for a, b in zip(first, plain, strict=True))

    loader = loader_of(table, augment=True)
    chosen = loader.batches.epoch(0)[0]
    monkeypatch.setattr(loader.batches, "epoch", lambda _: [chosen] * len(loader))
    images = [batch.images for e in range(2) for batch in loader.epoch(e)]
    assert not any(torch.equal(images[i], images[j]) for i in range(10) for j in range(i))


def test_a_resumed_epoch_is_the_rest_of_the_uninterrupted_one() -> None:
    table = table_of([6, 6, 6])
    whole = list(loader_of(table, augment=True).epoch(1))
    for start in range(len(whole) + 1):
        rest = list(loader_of(table, augment=True).epoch(1, start_step=start))
        assert all(same(a, b) for a, b in zip(rest, whole[start:], strict=True))
    with pytest.raises(HoldfastError, match="step 6 is not in an epoch of 5 steps"):
        next(loader_of(table).epoch(0, start_step=6))


def test_the_ranks_together_read_the_single_process_batch() -> None:
    table = table_of([8, 8, 8, 8])
    single = list(loader_of(table, 8, augment=True).epoch(0))
    ranks = [list(loader_of(table, 8, rank=r, world=2, augment=True).epoch(0)) for r in range(2)]
    for step, whole in enumerate(single):
        parts = [batches[step] for batches in ranks]
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)


def test_the_labels_must_be_of_the_same_table() -> None:
    table = table_of([4, 4])
    with pytest.raises(HoldfastError, match="7 labels in the batches but 8 images"):
        Loader(Pixels(table, 6, channels=1), PairBatches(table.labels[1:], 4))


def test_one_batch_is_prepared_ahead_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = loader_of(table_of([6, 6, 6]))
    begun: list[int] = []
    second = threading.Event()
    read = loader.pixels.read

    def noted(indices: Tensor, augment: Tensor | None = None) -> tuple[Tensor, Tensor]:
        begun.append(len(begun))
        if len(begun) == 2:
            second.set()
        return read(indices, augment)

    monkeypatch.setattr(loader.pixels, "read", noted)
    epoch: Iterator[Batch] = loader.epoch(0)
    next(epoch)
    assert second.wait(GUARD)
    assert len(begun) == 2
    assert len(list(epoch)) == 4
    assert loader.waited > 0


# ---- broken images --------------------------------------------------------------------------------------------------


def test_a_broken_image_takes_its_pair_along(tmp_path: Path) -> None:
    table = files_of(tmp_path, [4, 4, 4], broken=(1, 6))
    loader = loader_of(table, 6)
    for batch, chosen in zip(loader.epoch(0), loader.batches.epoch(0), strict=True):
        pairs = [pair for pair in chosen.indices.view(-1, 2).tolist() if not {1, 6} & set(pair)]
        assert batch.indices.view(-1, 2).tolist() == pairs
        assert batch.anchors.tolist() == list(range(0, 2 * len(pairs), 2))
        assert torch.equal((batch.images[:, 0, 0, 0] * 255).round().long(), batch.indices + 1)
        assert torch.equal(batch.labels, torch.from_numpy(table.labels)[batch.indices])
        assert [Path(name).stem for name in batch.names()] == [str(i) for i in batch.indices.tolist()]
    assert sorted(loader.pixels.broken) == [1, 6]
    assert loader.skipped == 0


def test_a_broken_image_leaves_its_larger_group(tmp_path: Path) -> None:
    broken = {0, 1, 5}
    loader = loader_of(files_of(tmp_path, [4, 4, 4], broken=tuple(broken)), 12, per_class=3)
    lost_anchor = lost_group = 0
    for e in range(5):
        (batch,), (chosen,) = loader.epoch(e), loader.batches.epoch(e)
        indices: list[int] = []
        anchors: list[int] = []
        for group in chosen.indices.view(-1, 3).tolist():
            left = [i for i in group if i not in broken]
            if len(left) < 2:
                lost_group += 1
                continue
            if group[0] in broken:
                lost_anchor += 1
            else:
                anchors.append(len(indices))
            indices += left
        assert batch.indices.tolist() == indices
        assert batch.anchors.tolist() == anchors
    assert lost_anchor
    assert lost_group


def test_a_batch_left_with_one_class_is_skipped_and_counted(tmp_path: Path) -> None:
    table = files_of(tmp_path, [3, 3], broken=(0, 1))
    loader = loader_of(table, 6)
    assert list(loader.epoch(0)) == []
    assert loader.skipped == 1
    with pytest.raises(HoldfastError, match=r"leave rank 1 with fewer than two classes; .*\.png"):
        list(loader_of(files_of(tmp_path, [3, 3], broken=(0, 1, 2, 3)), 6, rank=1, world=2).epoch(0))


# ---- evaluation -----------------------------------------------------------------------------------------------------


def test_stream_reads_all_in_order_without_the_broken(tmp_path: Path) -> None:
    table = files_of(tmp_path, [5, 5], broken=(1, 4, 5, 6))
    pixels = Pixels(table, 4, channels=1)
    seen: list[tuple[int, int]] = []
    parts = list(stream(pixels, 2, progress=lambda done, total: seen.append((done, total))))
    assert [part.tolist() for part, _ in parts] == [[0], [2, 3], [7], [8, 9]]
    for part, images in parts:
        assert torch.equal((images[:, 0, 0, 0] * 255).round().long(), part + 1)
    assert seen == [(2, 10), (4, 10), (6, 10), (8, 10), (10, 10)]
    some = list(stream(pixels, 3, rows=torch.tensor([9, 0, 8, 2])))
    assert [part.tolist() for part, _ in some] == [[9, 0, 8], [2]]


def test_an_abandoned_epoch_stops_its_thread() -> None:
    loader = loader_of(table_of([6, 6, 6]))
    epoch = loader.epoch(0)
    next(epoch)
    assert any(thread.name.startswith("prefetch") for thread in threading.enumerate())
    del epoch
    gc.collect()
    assert not any(thread.name.startswith("prefetch") for thread in threading.enumerate())
