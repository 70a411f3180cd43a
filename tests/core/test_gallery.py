"""Distances to a gallery that lies in blocks, or on several processes."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from holdfast.core import gallery
from holdfast.core.gallery import Gallery, Items
from holdfast.util import distributed
from tests.helpers.runs import together


def items_of(count: int, *, spread: bool = False) -> Items:
    """Random ones of three numbers, whose ids are no rows."""
    z = torch.randn(count, 3, generator=torch.Generator().manual_seed(count))
    return Items(Gallery(z, torch.arange(count), 100 + torch.arange(count), spread))


def naive(z: Tensor, items: Tensor) -> list[list[float]]:
    return [[float((one.double() - other.double()).norm()) for other in items] for one in z]


@given(count=st.integers(1, 20), block=st.integers(1, 9), images=st.integers(1, 5))
def test_blocks_give_the_distances_and_sums_of_the_whole(count: int, block: int, images: int) -> None:
    items, z = items_of(count), torch.randn(images, 3, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(images, count, generator=torch.Generator().manual_seed(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "BLOCK", block)
        assert len(items.set.columns.blocks) == -(-count // block)
        torch.testing.assert_close(items.distances(z), torch.tensor(naive(z, items.embeddings)), rtol=0, atol=1e-5)
        sums = weights @ (items.embeddings - items.embeddings.median(dim=0).values)
        torch.testing.assert_close(items.sums(weights), sums)


@given(count=st.integers(2, 20), block=st.integers(1, 9))
def test_an_item_that_moves_is_as_far_as_the_gallery_with_it_there_says(count: int, block: int) -> None:
    """Equal to the last bit, ties and all."""
    items = items_of(count)
    ids, there = items.set.ids[[count - 1, 0]], torch.randn(2, 3, generator=torch.Generator().manual_seed(2))
    z = torch.randn(2, 3, generator=torch.Generator().manual_seed(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "BLOCK", block)
        moved = items.moved(ids, there, z)
        for row, place in enumerate((count - 1, 0)):
            embeddings = items.embeddings.clone()
            embeddings[place] = there[row]
            other = Items(Gallery(embeddings, items.labels, items.set.ids))
            other.set.__dict__["columns"] = gallery.Columns.of(torch.split(embeddings, block), items.set.columns.origin)
            assert moved[row] == other.distances(z)[row, place]


def test_processes_that_ask_as_often_as_they_like_get_what_one_has(tmp_path: Path) -> None:
    """Of seven items in blocks of two, by three processes; the first asks nothing, the last twice as often."""

    def work() -> None:
        gallery.BLOCK = 2
        with distributed.process_group(torch.device("cpu")):
            items, whole = items_of(7, spread=True), items_of(7)
            assert isinstance(items.set.columns, gallery.SpreadColumns)

            def ask() -> list[Tensor]:
                found = []
                for i in range(2 * distributed.rank()):
                    z = torch.randn(i + 1, 3, generator=torch.Generator().manual_seed(i))
                    found += [items.distances(z), items.sums(whole.distances(z))]
                    assert found[-2].equal(whole.distances(z))
                    assert found[-1].equal(whole.sums(whole.distances(z)))
                return found

            (tmp_path / str(distributed.rank())).write_text(str([len(one) for one in distributed.collect(ask)]))

    together(work, 3)
    assert {file.read_text() for file in tmp_path.iterdir()} == {"[0, 4, 8]"}
