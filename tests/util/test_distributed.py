"""Devices by name, and what ranks share where there is one process."""

import pytest
import torch

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
