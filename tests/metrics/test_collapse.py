import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from holdfast.metrics.collapse import collapsed, gauges
from holdfast.util.errors import HoldfastError
from tests.oracles import retrieval as slow


def classes(count: int, spread: float, offset: float = 0.0, items: int = 600) -> Tensor:
    """Unit embeddings around ``count`` class directions, all pulled towards one direction by ``offset``."""
    generator = torch.Generator().manual_seed(count)
    centres = normalize(torch.randn(count, 64, generator=generator), dim=1)
    noise = spread / 8 * torch.randn(items, 64, generator=generator)
    return normalize(centres[torch.arange(items) % count] + noise + offset * torch.eye(64)[0], dim=1)


@settings(max_examples=30)
@given(items=st.integers(2, 12), dimensions=st.integers(1, 6), seed=st.integers(0, 1000))
def test_equal_the_slow_twin(items: int, dimensions: int, seed: int) -> None:
    embeddings = np.random.default_rng(seed).standard_normal((items, dimensions)) + 0.3
    assert gauges(torch.from_numpy(embeddings)) == pytest.approx(slow.gauges(embeddings), abs=1e-6)


def test_more_items_than_one_block() -> None:
    embeddings = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0)).double()
    unit = normalize(embeddings, dim=1)
    cosines = unit @ unit.T
    measured = gauges(embeddings)
    assert measured["mean_cosine"] == pytest.approx((cosines.sum() - 5000).item() / (5000 * 4999))
    assert measured["effective_rank"] == pytest.approx(3, abs=0.01)


def test_known_ranks() -> None:
    assert gauges(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))["effective_rank"] == pytest.approx(1)
    cross = torch.cat([torch.eye(4), -torch.eye(4)])
    assert gauges(cross) == pytest.approx({"mean_cosine": -1 / 7, "effective_rank": 4.0})


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -3.7e4])
def test_identical_embeddings_are_collapsed(value: float) -> None:
    measured = gauges(torch.full((5000, 32), value))
    assert measured["effective_rank"] == 0
    assert measured["mean_cosine"] == pytest.approx(float(value != 0))
    assert collapsed(measured)
    assert collapsed(measured, classes=2)


@pytest.mark.parametrize("noise", [1e-8, 1e-4, 0.02])
def test_almost_identical_embeddings_are_collapsed(noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = normalize(torch.eye(64)[0] + noise / 8 * torch.randn(500, 64, generator=generator), dim=1)
    measured = gauges(embeddings)
    assert all(math.isfinite(value) for value in measured.values())
    assert collapsed(measured)


def test_embeddings_on_one_line_are_collapsed_unless_there_are_two_classes() -> None:
    measured = gauges(classes(2, spread=0.05))
    assert measured["mean_cosine"] < 0.9
    assert measured["effective_rank"] < 1.5
    assert collapsed(measured)
    assert not collapsed(measured, classes=2)


@pytest.mark.parametrize("count", [3, 10, 100])
@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0])
def test_a_healthy_model_is_not_collapsed(count: int, spread: float) -> None:
    measured = gauges(classes(count, spread))
    assert not collapsed(measured)
    assert not collapsed(measured, count)


@pytest.mark.parametrize(("offset", "cosine"), [(5.0, 0.965), (20.0, 0.9975)])
def test_a_narrow_cone_that_still_retrieves_is_not_collapsed(offset: float, cosine: float) -> None:
    """Mean cosines as of a strongly hardened model and of an untrained deep one."""
    measured = gauges(classes(10, spread=0.3, offset=offset))
    assert measured["mean_cosine"] == pytest.approx(cosine, abs=0.01 * (1 - cosine) + 0.005)
    assert not collapsed(measured)


def test_unusable_input_is_refused() -> None:
    with pytest.raises(HoldfastError, match="at least 2"):
        gauges(torch.ones(1, 4))
    with pytest.raises(HoldfastError, match="no finite norm"):
        gauges(torch.tensor([[1.0, torch.inf], [0.0, 1.0]]))
