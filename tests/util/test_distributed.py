"""Devices by name, and what ranks share where there is one process."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.util import distributed
from holdfast.util.errors import HoldfastError


def test_the_device_is_the_named_one_or_the_cpu_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.device() == distributed.device("cpu") == torch.device("cpu")
    with pytest.raises(HoldfastError, match="device 'cuda' cannot be used: torch finds no GPU"):
        distributed.device("cuda")


@pytest.mark.parametrize("name", ["banana", "cuda:99"])
def test_a_device_that_is_none_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(HoldfastError, match=f"^device '{name}' cannot be used: .") as caught:
        distributed.device(name)
    assert "\n" not in str(caught.value)


@given(st.integers(0, 50), st.integers(1, 9))
def test_the_shares_are_everything_in_order_and_as_even_as_can_be(count: int, ranks: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "world", lambda: ranks)
        shares = []
        for rank in range(ranks):
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            shares.append(list(range(count))[distributed.portion(count)])
    assert [one for share in shares for one in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_all_work_is_done_here() -> None:
    assert distributed.collect(lambda: 7) == [7]
    assert distributed.by_first(lambda: 7) == 7
