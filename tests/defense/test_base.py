"""One training step of every defense: what the embedder sees, what it keeps, and what comes out."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.fx import Proxy
from torch.nn.functional import normalize

from holdfast.core.objectives import Objective
from holdfast.core.pgd import PGD
from holdfast.core.samplers import SAMPLERS, EmbeddedBatch
from holdfast.core.steps import L2, LInf
from holdfast.core.triplets import ANCHOR, Triplets, hardness
from holdfast.defense.base import (
    AdversarialTriplets,
    Collapse,
    Defense,
    Goal,
    Learning,
    Perturbing,
    Plain,
    ReachHardness,
    Shift,
    ShiftedBatch,
    Step,
    independent,
)
from holdfast.defense.destinations import Constant, Sampled
from holdfast.defense.recipes import RECIPES, Recipe, parse_recipe
from holdfast.util.errors import HoldfastError
from tests.oracles import steps as oracles

EPS, STEPS = 8 / 255, 3
STRONG = PGD(LInf(EPS), 4 / 255, STEPS)
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2])
TESTED = [*RECIPES, "est-r-ics", "minmax-r-ics"]


@dataclass(frozen=True)
class Pass:
    """One forward pass: its images, and how the embedder stood."""

    images: Tensor
    training: bool
    learning: bool


@dataclass
class Record:
    passes: list[Pass] = field(default_factory=list)
    fail_at: int | None = None

    def __deepcopy__(self, memo: object) -> "Record":
        return self


class Net(nn.Module):
    """Convolutions with BatchNorm to the unit sphere; it records what passes through it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(1, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 2), nn.BatchNorm2d(6), nn.ReLU()
        )
        self.head = nn.Linear(24, 8)
        self.record = Record()

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Proxy):
            return normalize(self.head(self.body(x).flatten(1)), dim=1)
        learning = any(p.requires_grad for p in self.parameters())
        self.record.passes.append(Pass(x.detach().clone(), self.training, learning))
        if len(self.record.passes) == self.record.fail_at:
            raise KeyboardInterrupt
        return normalize(self.head(self.body(x).flatten(1)), dim=1)


class Recording:
    """A sampler that keeps what it was given and what it drew."""

    def __init__(self, strategy: str) -> None:
        self.sampler = SAMPLERS[strategy]
        self.batches: list[EmbeddedBatch] = []
        self.triplets: list[Triplets] = []

    def __call__(self, batch: EmbeddedBatch, generator: Generator | None = None) -> Triplets:
        self.batches.append(batch)
        self.triplets.append(self.sampler(batch, generator))
        return self.triplets[-1]


@pytest.fixture
def images() -> Tensor:
    return (torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 1.4 - 0.2).clamp(0, 1)


@pytest.fixture
def alike() -> Tensor:
    """Images of a class that lie so near each other that a perturbed anchor can leave its class."""
    generator = torch.Generator().manual_seed(2)
    classes = torch.rand(3, 1, 8, 8, generator=generator, dtype=torch.float64)
    return (classes[LABELS] + 0.1 * torch.rand(12, 1, 8, 8, generator=generator, dtype=torch.float64)).clamp(0, 1)


def run(defense: Defense, net: nn.Module, images: Tensor, seed: int = 0) -> Step:
    if defense.original is None:
        defense.begin(net, images)
        if isinstance(net, Net):
            net.record.passes.clear()
    step: Step = defense(net, images, LABELS, generator=torch.Generator().manual_seed(seed))
    return step


def kept(defense: Perturbing) -> list[Tensor]:
    """What the defense's descent gives from now on."""
    pgd, found = defense.pgd, []

    def keep(*args: Any, **options: Any) -> Tensor:
        found.append(pgd(*args, **options))
        return found[-1]

    defense.pgd = keep  # type: ignore[assignment]
    return found


@pytest.mark.parametrize(
    "name", ["act-r", "rest-r", "hm-r-m", "hm-s-lga-ics", "hm-s-0", "minmax-r-ics", "hmq-e-lga-ics"]
)
def test_clean_images_go_through_once_where_each_is_embedded_by_itself(
    name: str, alike: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same loss, same gradients, fewer passes for those recipes that learn from clean images."""
    steps, gradients = [], []
    for alone in (True, False):
        net = Net().double().eval()
        monkeypatch.setattr("holdfast.defense.base.independent", lambda module, alone=alone: alone)
        steps.append(run(parse_recipe(name).build(PGD(LInf(0.05), 0.02, STEPS)), net, alike))
        backward(steps[-1])
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    torch.testing.assert_close(steps[0].loss, steps[1].loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)
    assert gradients[0].abs().max() > 1e-6
    saved = steps[1].logs["passes"] - steps[0].logs["passes"]
    assert saved > 0 if name.endswith("ics") else saved == 0


@pytest.mark.parametrize(
    ("change", "alone"),
    [
        (lambda net: net.eval(), True),
        (lambda net: net, False),
        (lambda net: net.body.eval(), True),
        (lambda net: (net.eval(), setattr(net.body[1], "running_mean", None)), False),
        (lambda net: (net.eval(), net.body.append(nn.Dropout(0.5))), False),
        (lambda net: (net.eval(), net.body.append(nn.Dropout(0.0))), True),
    ],
    ids=["evaluation", "training", "frozen", "no statistics", "dropout", "no dropout"],
)
def test_independence(change: Callable[[Net], object], alone: bool) -> None:
    net = Net()
    change(net)
    assert independent(net) == alone


def backward(step: Step) -> None:
    step.loss.backward()  # type: ignore[no-untyped-call]


def keys_of(recipe: Recipe) -> set[str]:
    keys = {"loss", "passes"} | ({"triplet_loss", "hardness"} if recipe.labels else {"distance_shifted"})
    keys |= {"distance", "multiplier"} if recipe.constrained else set()
    keys |= {"source_hardness"} if recipe.perturbs and recipe.labels else set()
    keys |= {"moved"} if recipe.method in ("act", "rest", "hm", "hmq", "minmax") else set()
    keys |= {"destination_hardness"} if recipe.method in ("hm", "hmq", "minmax") else set()
    return keys | ({"structure_loss"} if recipe.structure else set())


def passes_of_copy(recipe: Recipe) -> slice:
    """Where the two passes lie that try the network's copy: first, or where labels are not needed, second."""
    return slice(0, 0) if not recipe.perturbs else slice(0, 2) if recipe.labels else slice(1, 3)


@pytest.mark.parametrize("name", TESTED)
def test_one_step_of_every_recipe(name: str, images: Tensor) -> None:
    recipe, net, before = parse_recipe(name), Net(), images.clone()
    twin = copy.deepcopy(net)
    step = run(recipe.build(STRONG), net, images)
    passes = list(net.record.passes)
    del passes[passes_of_copy(recipe)]

    assert step.loss.isfinite()
    backward(step)
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)
    assert step.loss.item() == 0 or any(g.any() for g in gradients)

    assert torch.equal(images, before)
    for each in passes:
        assert each.images.min() >= 0
        assert each.images.max() <= 1
        nearest = (each.images[:, None] - images).flatten(2).abs().amax(dim=2).amin(dim=1)
        assert nearest.max() <= EPS + 1e-6
        assert each.training == each.learning, "perturbing passes run in evaluation mode with fixed parameters"
    if recipe.perturbs:
        assert any(not each.training for each in passes)

    # BatchNorm learned from the training passes and from nothing else.
    for each in passes:
        if each.training:
            twin(each.images)
    buffers = dict(net.named_buffers())
    assert all(torch.equal(buffers[k], v) for k, v in twin.named_buffers())

    assert set(step.logs) == keys_of(recipe)
    assert all(value.ndim == 0 and value.isfinite() and not value.requires_grad for value in step.logs.values())
    assert step.logs["passes"] == sum(len(each.images) for each in passes)
    assert step.logs["loss"] == step.loss


@pytest.mark.parametrize("name", ["none-r", "est-r", "rest-r", "act-r", "hm-s-lga-ics"])
def test_a_seeded_generator_repeats_the_step(name: str, images: Tensor) -> None:
    losses = []
    for seed in (0, 0, 1):
        net = Net()
        step = run(parse_recipe(name).build(STRONG), net, images, seed)
        backward(step)
        losses.append([step.loss.item(), *(p.grad.sum().item() for p in net.parameters() if p.grad is not None)])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.parametrize("fail_at", [None, 1, 3])
@pytest.mark.parametrize("name", ["est-r", "act-r", "hm-s-lga-ics"])
def test_modes_and_parameters_are_restored(name: str, fail_at: int | None, images: Tensor) -> None:
    net = Net()
    net.body[1].eval()
    net.body[3].weight.requires_grad_(False)
    net.record.fail_at = fail_at
    modes = [m.training for m in net.modules()]
    learning = [p.requires_grad for p in net.parameters()]
    defense = parse_recipe(name).build(STRONG)
    if fail_at is None:
        run(defense, net, images)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(defense, net, images)
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == learning
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("name", ["act-r", "rest-r"])
def test_act_and_rest_leave_the_anchor_clean(name: str, images: Tensor) -> None:
    net = Net()
    run(parse_recipe(name).build(STRONG), net, images)
    perturbed, anchors = (each.images for each in net.record.passes if each.training)
    assert torch.equal(anchors, images[::2])
    assert len(perturbed) == 12
    assert not (perturbed[:, None] == images).flatten(2).all(dim=2).any(), "every positive and negative moved"


def test_act_pulls_positive_and_negative_together(images: Tensor) -> None:
    net, source = Net(), Recording("R")
    run(AdversarialTriplets(source, Learning(), STRONG, Collapse()), net, images)
    (perturbed, _), (triplets,) = [each.images for each in net.record.passes if each.training], source.triplets
    net.eval()
    with torch.no_grad():
        p, n = net(perturbed).view(6, 2, -1).unbind(1)
        z = triplets.take(net(images))
    assert ((p - n).norm(dim=1) < (z[:, 1] - z[:, 2]).norm(dim=1)).all()


def test_est_draws_its_triplets_on_the_shifted_images(images: Tensor) -> None:
    net, source = Net(), Recording("H")
    twin = copy.deepcopy(net)
    step = run(parse_recipe("est-r").build(STRONG), Net(), images)
    assert step.logs["passes"] == 12 * (STEPS + 2)
    defense = parse_recipe("est-r").build(STRONG)
    defense.source = source
    step = run(defense, net, images)
    (shifted,) = (each.images for each in net.record.passes if each.training)
    z = twin(shifted)
    torch.testing.assert_close(source.batches[0].embeddings, z.detach())
    expected = oracles.triplet_loss(source.triplets[0].take(z).tolist(), 0.2)
    assert step.loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "defense",
    [
        ShiftedBatch(SAMPLERS["R"], Learning(), STRONG),
        AdversarialTriplets(SAMPLERS["R"], Learning(), STRONG, Shift()),
    ],
    ids=["est", "rest"],
)
def test_a_shift_made_by_hand_moves_its_images(defense: Defense, images: Tensor) -> None:
    """Where it starts a shift has no gradient: from there it would train undefended, and say nothing."""
    net = Net()
    run(defense, net, images)
    moved = next(each.images for each in net.record.passes if each.training)
    assert not (moved[:, None] == images).flatten(2).all(dim=2).any()


def test_min_max_is_hm_with_destination_two(images: Tensor) -> None:
    steps = [run(parse_recipe(name).build(STRONG), Net(), images) for name in ("minmax-r", "hm-r-2")]
    assert steps[0].logs == steps[1].logs
    assert steps[0].logs["passes"] == 12 + 18 * STEPS + 18
    assert steps[0].logs["destination_hardness"] == 2


def test_triplets_beyond_their_destination_train_on_the_clean_images(images: Tensor) -> None:
    net, source = Net(), Recording("R")
    step = run(AdversarialTriplets(source, Learning(), STRONG, ReachHardness(Constant(-2.0))), net, images)
    (trained,) = (each.images for each in net.record.passes if each.training)
    assert torch.equal(trained.view(6, 3, 1, 8, 8), source.triplets[0].take(images))
    assert step.logs["moved"] == 0
    assert step.logs["passes"] == 12 + 18


def test_the_sampled_destination_shares_the_anchor(images: Tensor) -> None:
    source, other = Recording("S"), Recording("M")
    run(AdversarialTriplets(source, Learning(), STRONG, ReachHardness(Sampled(other))), Net(), images)
    assert torch.equal(source.triplets[0].anchor, other.triplets[0].anchor)
    assert source.batches[0] is other.batches[0]
    assert not source.batches[0].embeddings.requires_grad


@pytest.mark.parametrize("name", ["hm-s-lga-ics", "est-r-ics"])
def test_the_structure_term_equals_its_twin(name: str, alike: Tensor) -> None:
    """With BatchNorm fixed, an anchor and a positive embed alike in whichever pass."""
    images, net, source = alike, Net().double().eval(), Recording("S")
    defense = parse_recipe(name).build(PGD(LInf(0.2), 0.1, STEPS))
    defense.source = source
    perturbed = kept(defense)
    step = run(defense, net, images)
    (triplets,) = source.triplets
    with torch.no_grad():
        benign, adversarial = triplets.take(net(images)), net(perturbed[0].flatten(0, 1))
    shifted = adversarial[triplets.anchor] if name == "est-r-ics" else adversarial.view(6, 3, -1)[:, ANCHOR]
    term = oracles.intra_class_structure(benign[:, 0].tolist(), shifted.tolist(), benign[:, 1].tolist())
    assert term > 0
    assert step.logs["structure_loss"].item() == pytest.approx(term, abs=1e-6)
    assert step.loss.item() == pytest.approx(step.logs["triplet_loss"].item() + 0.5 * term, abs=1e-6)


def test_an_anchor_that_is_its_own_positive_is_held_where_it_is(alike: Tensor) -> None:
    """Its distance to itself has a gradient of zero, and the intra-class term is the distance that it moves."""
    net, source = Net().double().eval(), Recording("R")
    itself = source.sampler
    source.sampler = lambda batch, generator: replace(itself(batch, generator), positive=batch.anchors)
    defense = AdversarialTriplets(source, Learning(structure=0.5), STRONG, ReachHardness(Constant(0.5)))
    perturbed = kept(defense)
    step = run(defense, net, alike)
    step.loss.backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in net.parameters())
    (triplets,) = source.triplets
    with torch.no_grad():
        moved = (net(perturbed[0][:, ANCHOR]) - net(alike[triplets.anchor])).norm(dim=1)
    assert step.logs["structure_loss"].item() == pytest.approx(moved.mean().item(), abs=1e-12)
    assert moved.min() > 0


def test_perturbed_triplets_are_no_easier_than_their_source(images: Tensor) -> None:
    net, source = Net().eval(), Recording("S")
    defense = AdversarialTriplets(source, Learning(), STRONG, ReachHardness(Sampled(SAMPLERS["M"])))
    perturbed = kept(defense)
    for seed in range(8):
        run(defense, net, images, seed)
    with torch.no_grad():
        before = torch.cat([hardness(triplets.take(net(images))) for triplets in source.triplets])
        after = hardness(net(torch.cat(perturbed).flatten(0, 1)).view(len(before), 3, -1))
    assert (after >= before - 1e-6).all()
    assert (after > before + 1e-3).any()


@pytest.mark.parametrize("pgd", [PGD(LInf(EPS), 4 / 255, 2, EPS), PGD(L2(0.5), 0.2, 2), PGD(LInf(EPS), 4 / 255, 0)])
@pytest.mark.parametrize("name", ["est-r", "rest-r", "act-r", "hm-s-lga-ics"])
def test_other_descents(pgd: PGD, name: str, images: Tensor) -> None:
    net = Net()
    assert run(parse_recipe(name).build(pgd), net, images).loss.isfinite()
    norm = 2 if isinstance(pgd.ball, L2) else torch.inf
    for each in net.record.passes:
        nearest = (each.images[:, None] - images).flatten(2).norm(dim=2, p=norm).amin(dim=1)
        assert nearest.max() <= pgd.ball.eps + 1e-5
        assert 0 <= each.images.min() <= each.images.max() <= 1


@pytest.mark.parametrize("name", ["none-r", "est-r", "act-r", "hm-s-lga-ics"])
def test_autocast(name: str, images: Tensor) -> None:
    net = Net()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = run(parse_recipe(name).build(STRONG), net, images)
    backward(step)
    assert step.loss.dtype == torch.float32
    assert step.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_named_anchors(images: Tensor) -> None:
    source = Recording("R")
    Plain(source, Learning())(Net(), images, LABELS, torch.tensor([1, 5]))
    assert source.triplets[0].anchor.tolist() == [1, 5]


@pytest.mark.parametrize("name", ["none-r", "est-r", "hm-s-lga"])
def test_a_batch_that_breaks_the_contract_is_refused(name: str, images: Tensor) -> None:
    net = Net()
    with pytest.raises(HoldfastError, match="second image"):
        parse_recipe(name).build(STRONG)(net, images, torch.arange(12))
    assert all(m.training for m in net.modules())


@pytest.mark.parametrize("goal", [Collapse(), Shift()])
def test_structure_needs_a_perturbed_anchor(goal: Goal) -> None:
    with pytest.raises(HoldfastError, match=r"anchor.*HM"):
        AdversarialTriplets(SAMPLERS["R"], Learning(structure=0.5), STRONG, goal)


def test_structure_needs_a_perturbation() -> None:
    with pytest.raises(HoldfastError, match=r"anchor.*HM"):
        Plain(SAMPLERS["R"], Learning(structure=0.5))


class AnchorOnly(Goal):
    """A goal of somebody else: the anchor alone is perturbed."""

    roles = [ANCHOR]  # noqa: RUF012

    def forward(self, batch: EmbeddedBatch, triplets: Triplets, generator: Generator | None) -> Objective:
        @dataclass(frozen=True)
        class Leave:
            floor: float = -torch.inf

            def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
                return z[:, 0, 0]

        return Leave()


@pytest.mark.parametrize("structure", [0.0, 0.5])
def test_a_goal_with_other_roles(structure: float, images: Tensor) -> None:
    net = Net()
    step = run(AdversarialTriplets(SAMPLERS["R"], Learning(0.2, structure), STRONG, AnchorOnly()), net, images)
    assert step.loss.isfinite()
    adversarial, benign = (each.images for each in net.record.passes if each.training)
    assert len(adversarial) == 6
    assert len(benign) == (18 if structure else 12)


def test_a_defense_can_be_copied_and_pickled_after_a_step(images: Tensor) -> None:
    net, defense = Net(), parse_recipe("hm-r-lga").build(STRONG)
    run(defense, net, images)
    for other in (copy.deepcopy(defense), pickle.loads(pickle.dumps(defense))):
        assert not other.fused_networks
        torch.testing.assert_close(run(other, Net(), images).loss, run(copy.deepcopy(defense), Net(), images).loss)


def test_a_descent_follows_what_the_network_learns_and_another_network(images: Tensor) -> None:
    """The second step on a network, and a step on another one, are those of a new defense."""
    net, defense = Net(), parse_recipe("hm-r-m").build(STRONG)
    backward(run(defense, net, images))
    torch.optim.SGD(net.parameters(), lr=0.5).step()
    twin, other = copy.deepcopy(net), Net()
    torch.nn.init.normal_(other.head.weight)
    for one, like in ((net, twin), (other, copy.deepcopy(other))):
        again = run(parse_recipe("hm-r-m").build(STRONG), like, images)
        assert torch.equal(run(defense, one, images).loss, again.loss)
