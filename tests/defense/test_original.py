"""What compares with the original: FARE and the constraint against their naive twins, and what they promise."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from holdfast.core.pgd import PGD
from holdfast.core.steps import LInf
from holdfast.data import load_dataset
from holdfast.defense.base import Defense
from holdfast.defense.original import RATE, STEPS, Constraint, Original
from holdfast.defense.recipes import LossConfig, parse_recipe
from holdfast.util.errors import HoldfastError
from tests.oracles import steps as oracles

EPS, STEP, RHO = 0.1, 0.04, 0.05


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.layers(x), dim=1)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 1, 8, 8, dtype=torch.float64, generator=Generator().manual_seed(1))


def pgd() -> PGD:
    return PGD(LInf(EPS), STEP, 4)


def learnt(net: nn.Module, seed: int = 3) -> nn.Module:
    """The network somewhere else, in evaluation mode."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=Generator().manual_seed(seed)), alpha=0.05)
    return net.eval()


def gradients(loss: Tensor, net: nn.Module) -> Tensor:
    return torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(net.parameters()))])


@pytest.mark.parametrize("name", ["fare", "lore"])
def test_a_step_is_its_naive_twin(name: str, images: Tensor) -> None:
    net = Net().double()
    original, defense = copy.deepcopy(net).eval(), parse_recipe(name).build(pgd(), LossConfig(rho=RHO))
    defense.begin(net, images)
    learnt(net)
    step = defense(net, images, generator=Generator().manual_seed(5))

    noise = torch.rand(6, 1, 8, 8, generator=Generator().manual_seed(5)).double()
    starts = (images + EPS * (2 * noise - 1)).clamp(0, 1)
    expected = oracles.fare(net, original, images, starts, eps=EPS, step=STEP, steps=4)
    assert step.logs["distance_shifted"].item() == pytest.approx(expected.item(), abs=1e-12)
    if name == "lore":
        weights = [float(torch.tensor(2.0, dtype=torch.float64).log())] * 6  # softplus(0)
        expected = expected + oracles.lagrangian(net, original, images, weights, RHO)
    assert step.loss.item() == pytest.approx(expected.item(), abs=1e-12)
    torch.testing.assert_close(gradients(step.loss, net), gradients(expected, net), rtol=0, atol=1e-12)


def test_a_constrained_step_is_that_of_its_recipe_and_the_term(images: Tensor) -> None:
    labels, net = torch.tensor([0, 0, 1, 1, 2, 2]), Net().double()
    original = copy.deepcopy(net).eval()
    held, free = (parse_recipe(name).build(pgd(), LossConfig(rho=RHO)) for name in ("hm-lore", "hm-s-lga"))
    held.begin(net, images)
    learnt(net)
    steps = [defense(net, images, labels, generator=Generator().manual_seed(5)) for defense in (held, free)]
    term = oracles.lagrangian(net, original, images, [float(torch.tensor(2.0).double().log())] * 6, RHO)
    assert term.abs() > 1e-4
    torch.testing.assert_close(steps[0].loss, steps[1].loss + term, rtol=0, atol=1e-12)
    expected = gradients(steps[1].loss, net) + gradients(term, net)
    torch.testing.assert_close(gradients(steps[0].loss, net), expected, rtol=0, atol=1e-12)
    assert steps[0].logs["passes"] == steps[1].logs["passes"] + 12
    assert steps[0].logs["triplet_loss"] == steps[1].logs["triplet_loss"]


def test_the_multipliers_climb_after_every_five_steps_and_only_there() -> None:
    constraint, generator = Constraint(RHO), Generator().manual_seed(0)
    origins, z = (F.normalize(torch.randn(4, 8, generator=generator), dim=1) for _ in range(2))
    constraint.begin(origins)
    for call in range(2 * STEPS + 1):
        before = copy.deepcopy(constraint.network)
        term, logs = constraint(z, origins)
        after = [one.detach() for one in constraint.network.parameters()]
        if call and call % STEPS == 0:
            total = torch.zeros(())
            for origin, vector in zip(origins, z, strict=True):
                excess = sum((float(a) - float(b)) ** 2 for a, b in zip(vector, origin, strict=True)) / RHO - 1
                total = total + excess * F.softplus(before(origin[None])[0, 0]) / 4
            climb = torch.autograd.grad(total, list(before.parameters()))
            expected = [old.detach() + RATE * one for old, one in zip(before.parameters(), climb, strict=True)]
            assert any(not torch.equal(a, b) for a, b in zip(after, before.parameters(), strict=True))
        else:
            expected = [one.detach() for one in before.parameters()]
        torch.testing.assert_close(after, expected)
        weights = F.softplus(constraint.network(origins))[:, 0]
        assert logs["multiplier"].item() == pytest.approx(weights.mean().item())
        assert term.item() == pytest.approx((weights * ((z - origins).square().sum(1) - RHO)).mean().item(), rel=1e-5)
    assert not term.requires_grad, "the multipliers are no parameters of the loss"


def test_lore_stays_where_it_is_told_and_fare_does_not() -> None:
    """A small network on digits: within ρ of the original on average, where FARE has gone farther."""
    table = load_dataset("digits").train()
    pixels = torch.as_tensor(table.images).float()[:, None] / 255
    found = {}
    for name in ("fare", "lore"):
        net, rho = Net().eval(), 0.01
        original = copy.deepcopy(net)
        defense = parse_recipe(name).build(PGD(LInf(0.2), 0.1, 3), LossConfig(rho=rho))
        defense.begin(net, pixels[:2])
        optimizer, generator = torch.optim.Adam(net.parameters(), lr=2e-3), Generator().manual_seed(0)
        for _ in range(200):
            step = defense(net, pixels[torch.randperm(len(pixels), generator=generator)[:24]], generator=generator)
            optimizer.zero_grad()
            step.loss.backward()
            optimizer.step()
        with torch.no_grad():
            found[name] = float((net(pixels) - original(pixels)).square().sum(1).mean())
    assert found["lore"] <= 1.2 * rho
    assert found["fare"] > 2 * rho


def test_the_original_never_changes(images: Tensor) -> None:
    net = Net().double().train()
    original = Original(net)
    before = original(images)
    original.train()
    learnt(net)
    assert torch.equal(original(images), before)
    assert not original(images).requires_grad
    assert not any(module.training for module in original.network.modules())
    assert not any(parameter.requires_grad for parameter in original.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda defense, images: defense(Net(), images), r"call begin\(embedder, images\)"),
        (lambda defense, images: parse_recipe("hm-s-lga").build(pgd())(Net(), images), r"needs the labels"),
    ],
)
def test_what_is_missing_is_said(call: Callable[[Defense, Tensor], object], message: str, images: Tensor) -> None:
    with pytest.raises(HoldfastError, match=message):
        call(parse_recipe("lore").build(pgd()), images.float())


def test_other_defenses_keep_no_copy(images: Tensor) -> None:
    defense = parse_recipe("hm-s-lga-ics").build(pgd())
    defense.begin(Net(), images)
    assert defense.original is None
