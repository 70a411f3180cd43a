"""Destinations against their formulas, and the training state they carry."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import normalize

from holdfast.core.samplers import SAMPLERS, EmbeddedBatch
from holdfast.defense.destinations import Boosted, Constant, Destination, Gradual, Sampled
from tests.oracles import steps as oracles

GAMMA = 0.2
LOSSES = [0.0, 0.03, 0.1, 0.2, 0.7]


@pytest.fixture
def batch() -> EmbeddedBatch:
    z = normalize(torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1)
    return EmbeddedBatch.of(z, torch.tensor([0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]))


def values(destination: Destination, batch: EmbeddedBatch) -> list[float]:
    got: list[float] = destination(batch, torch.Generator().manual_seed(0)).tolist()
    assert len(got) == len(batch.anchors)
    return got


def test_constant(batch: EmbeddedBatch) -> None:
    destination = Constant(-0.1)
    destination.observe(torch.tensor(0.0))
    assert values(destination, batch) == pytest.approx([-0.1] * 6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("power", "formula"),
    [
        pytest.param(1.0, lambda left: -GAMMA * left, id="g_LGA"),
        pytest.param(2.0, lambda left: -GAMMA * left * left, id="g_2"),
        pytest.param(0.5, lambda left: -GAMMA * left**0.5, id="g_1/2"),
    ],
)
@pytest.mark.parametrize("ceiling", [GAMMA, 2.2])
def test_gradual(
    batch: EmbeddedBatch, power: float, formula: Callable[[float], float], loss: float, ceiling: float
) -> None:
    destination = Gradual(GAMMA, ceiling, power)
    assert values(destination, batch) == pytest.approx([formula(oracles.left(2.0, ceiling))] * 6)
    destination.observe(torch.tensor(loss))
    assert values(destination, batch) == pytest.approx([formula(oracles.left(loss, ceiling))] * 6)


@pytest.mark.parametrize("strategy", list(SAMPLERS))
def test_sampled_is_the_hardness_of_a_benign_triplet_of_the_same_anchor(batch: EmbeddedBatch, strategy: str) -> None:
    z, labels = batch.embeddings.tolist(), batch.labels.tolist()
    got = values(Sampled(SAMPLERS[strategy]), batch)
    for anchor, value in zip(batch.anchors.tolist(), got, strict=True):
        may = oracles.candidates(strategy, z, labels, anchor, anchor + 1)
        hardness = [oracles.hardness(z[anchor], z[p], z[n]) for p in may.positives for n in may.negatives]
        assert min(abs(value - h) for h in hardness) < 1e-12


@pytest.mark.parametrize("loss", LOSSES)
def test_boosted_raises_the_benign_destination_as_the_loss_falls(batch: EmbeddedBatch, loss: float) -> None:
    benign = values(Sampled(SAMPLERS["M"]), batch)
    destination = Boosted(Sampled(SAMPLERS["M"]), GAMMA, 0.1)
    assert values(destination, batch) == pytest.approx(benign)
    destination.observe(torch.tensor(loss))
    boost = 0.1 * (1 - oracles.left(loss, GAMMA))
    assert values(destination, batch) == pytest.approx([h + boost for h in benign])


@pytest.mark.parametrize("make", [lambda: Gradual(GAMMA, GAMMA), lambda: Boosted(Sampled(SAMPLERS["H"]), GAMMA)])
def test_the_last_loss_is_saved_and_restored(batch: EmbeddedBatch, make: Callable[[], Destination]) -> None:
    used, fresh = make(), make()
    loss = torch.tensor(0.05, requires_grad=True)
    used.observe(loss)
    assert values(used, batch) != pytest.approx(values(fresh, batch))
    fresh.load_state_dict(used.state_dict())
    assert values(used, batch) == values(fresh, batch)
    assert not used(batch, None).requires_grad


@pytest.mark.parametrize(
    "destination", [Constant(0.0), Gradual(GAMMA, GAMMA), Boosted(Constant(0.0), GAMMA)], ids=lambda d: type(d).__name__
)
def test_destinations_lie_on_the_device_of_the_batch(destination: Destination) -> None:
    elsewhere = EmbeddedBatch(torch.empty(4, 3, device="meta"), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2]))
    assert destination(elsewhere, None).device.type == "meta"
