"""Whether scores can be trusted: a healthy model passes every check, and each kind of broken one fails its own."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor
from torch.nn import functional as F

from holdfast.attacks import System
from holdfast.attacks.base import Attacked
from holdfast.core.batching import WIDTH
from holdfast.core.gallery import Gallery, Queries
from holdfast.core.steps import LInf
from holdfast.evaluation import checks
from holdfast.evaluation.checks import CHECKS, Check, check, probe, rises
from holdfast.evaluation.runner import Target, attack_batch
from holdfast.evaluation.settings import resolve_settings
from holdfast.evaluation.words import CHECK_WORDS
from holdfast.models.embedding import embed_dataset
from holdfast.models.wrapped import WrappedModel
from holdfast.util.progress import Progress
from tests.helpers.tiny import digits, embedder, same_set

NAMES = [words.name for words in CHECK_WORDS.values()]
NOTHING, STRONGER, LIMIT, WEAKER, ASKED, EXIST, TRUE, AGAIN, BOUNDS, PREPROCESSING, LONGER = NAMES
PIXELS = digits(150)
CLEAN = PIXELS.read(torch.arange(150))[0]
Embed = Callable[[Tensor], Tensor]
MODEL: Embed = embedder()


class _Surrogate(torch.autograd.Function):
    """``forward`` one way, ``backward`` another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Embed, back: Embed) -> Tensor:
        ctx.back = back
        return there(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.back(gradients[0]), None, None


def surrogate(there: Embed, back: Embed) -> Embed:
    """The model behind a function of the pixels whose gradient is another's."""
    return lambda x: MODEL(_Surrogate.apply(x, there, back))  # type: ignore[no-untyped-call]


def target_of(embed: Embed) -> Target:
    wrapped = WrappedModel(embed)
    wrapped.examine(CLEAN[:8])
    embedded = embed_dataset(wrapped, PIXELS, torch.device("cpu"))
    return Target(wrapped, System(embedded.queries, embedded.gallery), PIXELS)


def found(
    target: Target, rows: Tensor | None = None, surrogate: Target | None = None, **settings: Any
) -> dict[str, Check]:
    resolved = resolve_settings("28", **{"eps": 0.1, "steps": 5} | settings)
    with target.model.frozen(), Progress("checks", len(CHECKS), quiet=True) as progress:
        results = check(target, resolved, torch.arange(3, 67, 2) if rows is None else rows, progress, surrogate)
    assert progress.done == progress.total
    assert all("\n" not in one.detail and one.detail for one in results)
    return {one.name: one for one in results}


def failed(results: dict[str, Check]) -> set[str]:
    return {name for name, one in results.items() if one.passed is False}


def skipped(results: dict[str, Check]) -> set[str]:
    return {name for name, one in results.items() if one.passed is None}


def distance(x: Tensor) -> tuple[Tensor, Tensor]:
    """How far images are from the nearest clean one, and which that is."""
    nearest = (x[:, None] - CLEAN).flatten(2).abs().amax(2).min(1)
    return nearest.values.view(-1, 1, 1, 1), CLEAN[nearest.indices]


def purified_beyond(radius: float) -> Embed:
    def embed(x: Tensor) -> Tensor:
        far, clean = distance(x.detach())
        return MODEL(torch.where(far > radius, clean, x))

    return embed


# --- models that are well


def linear() -> Embed:
    weights = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    return lambda x: F.normalize(x.flatten(1) @ weights, dim=1)


@pytest.mark.parametrize(
    ("embed", "settings"),
    [
        (MODEL, {}),
        (MODEL, {"norm": "l2", "eps": 0.7}),
        (linear(), {"steps": 20}),
        (linear(), {"norm": "l2", "eps": 20.0}),
    ],
)
def test_a_healthy_model_passes(embed: Embed, settings: dict[str, Any]) -> None:
    results = found(target_of(embed), **settings)
    assert [*results, LONGER] == NAMES
    assert all(one.passed for one in results.values()), results


@pytest.mark.parametrize(
    ("settings", "passed"),
    [
        ({"step": 1e-6}, False),
        ({"steps": 1}, False),
        ({"eps": 0.0, "steps": 0}, False),
        ({"gradient": "square"}, False),
        ({"protocol": "cvpr22"}, False),
        ({"attacks": ()}, None),
        ({}, True),
    ],
)
def test_an_attack_weaker_than_the_probe_is_told_apart(settings: dict[str, Any], passed: bool | None) -> None:
    assert found(target_of(MODEL), **settings)[ASKED].passed is passed


def test_an_attack_that_sees_another_model_is_told_apart_where_it_does_less() -> None:
    target = target_of(MODEL)
    assert found(target, surrogate=target) == found(target)
    other = found(target, surrogate=target_of(linear()))
    assert failed(other) == {ASKED}


def test_the_papers_own_attack_may_be_weaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there to be compared with."""
    monkeypatch.setattr(checks, "BEHIND", -1.0)
    assert found(target_of(MODEL), steps=32)[ASKED].passed is False
    kept = found(target_of(MODEL), protocol="cvpr22", steps=32)[ASKED]
    assert kept.passed is None
    assert "kept as protocol cvpr22 was published" in kept.detail


def test_the_figures_are_told_and_are_the_same_again() -> None:
    target = target_of(MODEL)
    before = target.model.forward + target.model.backward
    first = found(target)
    assert target.model.forward + target.model.backward - before < 230 * WIDTH
    assert "0.0 at ε = 0.2, 0.0 at ε = 0.1 with twice the steps" in first[STRONGER].detail
    assert "0.0 under the attack with gradients" in first[WEAKER].detail
    assert "for 32 of 32 queries" in first[TRUE].detail
    assert found(target) == first


@pytest.mark.parametrize("count", [1, 33])
def test_any_number_of_queries(count: int) -> None:
    assert not failed(found(target_of(MODEL), torch.arange(count)))


# --- models that are not


def coarse(x: Tensor) -> Tensor:
    return (x * 4).round() / 4


def dead_at_some(x: Tensor) -> Tensor:
    """No gradient near one image of those attacked."""
    far, clean = distance(x.detach())
    there = (clean == CLEAN[9]).flatten(1).all(1).view(-1, 1, 1, 1)
    return MODEL(torch.where(there & (far < 0.02), x.detach(), x))


def jittered(unless: Callable[[Tensor], Tensor]) -> Embed:
    generator = torch.Generator().manual_seed(0)

    def embed(x: Tensor) -> Tensor:
        noise = torch.randn(len(x), 16, generator=generator)
        return MODEL(x) + 1e-6 * noise.masked_fill(unless(x.detach()).view(-1, 1), 0)

    return embed


SIGNS = torch.randint(0, 2, (8, 8), generator=torch.Generator().manual_seed(0)) * 2 - 1
BROKEN: dict[str, tuple[Callable[[], Embed], set[str]]] = {
    "pixels rounded": (lambda: lambda x: MODEL(coarse(x)), {LIMIT, WEAKER, EXIST, TRUE}),
    "gradient reversed": (lambda: surrogate(torch.clone, torch.neg), {LIMIT, WEAKER, TRUE}),
    "pixels rounded, gradient reversed": (lambda: surrogate(coarse, torch.neg), {LIMIT, WEAKER, EXIST, TRUE}),
    "gradient random": (lambda: surrogate(torch.clone, lambda g: g.abs() * SIGNS), {WEAKER, TRUE}),
    "gradient too long": (lambda: surrogate(torch.clone, lambda g: 3 * g), {TRUE}),
    "ripples on the pixels": (lambda: lambda x: MODEL(x + 0.03 * torch.sin(400 * x)), {STRONGER, WEAKER}),
    "ripples too fine for any step": (lambda: lambda x: MODEL(x + 0.001 * torch.sin(2000 * x)), {TRUE}),
    "far images replaced": (lambda: purified_beyond(0.08), {STRONGER, LIMIT}),
    "very far images replaced": (lambda: purified_beyond(0.22), {LIMIT}),
    "one dead image": (lambda: dead_at_some, {EXIST}),
    "random numbers": (lambda: jittered(lambda x: torch.zeros(len(x), dtype=torch.bool)), {NOTHING, AGAIN}),
    "random numbers off the clean images": (lambda: jittered(lambda x: distance(x)[0] == 0), {AGAIN}),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_model_fails_what_it_should(fault: str) -> None:
    embed, expected = BROKEN[fault]
    results = found(target_of(embed()))
    assert failed(results) - {ASKED} == expected
    assert not skipped(results)
    for name in expected & {STRONGER, LIMIT, WEAKER, EXIST, TRUE}:
        assert results[name].detail.endswith("the gradient is masked: the scores overstate robustness")


def test_only_the_share_of_true_gradients_counts() -> None:
    results = found(target_of(dead_at_some))
    assert "for 31 of 32 queries" in results[TRUE].detail
    assert "zero for 1 (ES) and 1 (LTM) of 32 queries" in results[EXIST].detail


def test_benign_embeddings_of_another_model() -> None:
    target = target_of(MODEL)
    z, labels = target.system.queries.embeddings, target.system.queries.labels
    moved = z + 1e-6 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    results = found(Target(target.model, System(*same_set(moved, labels)), PIXELS))
    assert failed(results) == {NOTHING}
    assert "32 of 32 queries" in results[NOTHING].detail


class Loose(LInf):
    def project(self, r: Tensor) -> Tensor:
        return r.clamp(-1.01 * self.eps, 1.01 * self.eps)


def test_perturbations_larger_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "BALLS", {"linf": Loose})
    assert failed(found(target_of(MODEL))) == {BOUNDS}


@pytest.mark.parametrize("shift", [-1e-4, 1e-4])
def test_pixels_outside_their_range(monkeypatch: pytest.MonkeyPatch, shift: float) -> None:
    def shifted(*given: Any, **named: Any) -> Attacked:
        attacked = attack_batch(*given, **named)
        ends = (attacked.clean == 0) | (attacked.clean == 1)
        attacked.images.add_(shift * (ends & (attacked.images == attacked.clean)))
        return attacked

    monkeypatch.setattr(probe, "attack_batch", shifted)
    results = found(target_of(MODEL))
    assert results[BOUNDS].passed is False
    assert "up to 0.0001" in results[BOUNDS].detail


def test_a_constant_model_is_not_judged_by_its_gradients() -> None:
    results = found(target_of(lambda x: x.flatten(1)[:, :5] * 0 + 1))
    assert skipped(results) == {LIMIT, EXIST, TRUE}
    assert not failed(results)
    assert "collapsed" in results[LIMIT].detail


def test_a_model_without_gradients_is_tried_by_square() -> None:
    with torch.no_grad():
        results = found(target_of(torch.no_grad()(MODEL)))
    assert skipped(results) == {EXIST, TRUE, ASKED}
    assert not failed(results)
    assert "under the attack without gradients" in results[WEAKER].detail


def test_a_model_without_gradients_that_withstands_square_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "DEFEATED", -1.0)
    results = found(target_of(lambda x: MODEL(x).detach()))
    assert skipped(results) == {LIMIT, EXIST, TRUE, ASKED}
    assert not failed(results)


class Elsewhere:
    """A model that rounds differently in other batches, and may say so."""

    def __init__(self, exact: bool) -> None:
        self.exact = exact

    def __call__(self, images: Tensor) -> Tensor:
        return (MODEL(images) + 1e-6 * images.mean()).detach()


@pytest.mark.parametrize("exact", [True, False])
def test_rounding_in_other_batches_is_allowed_where_a_model_says_so(exact: bool) -> None:
    results = found(target_of(Elsewhere(exact)))
    assert failed(results) == ({NOTHING, AGAIN} if exact else set())


def test_what_a_black_box_is_given_is_not_visible() -> None:
    weight = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)).numpy()
    blind = found(target_of(lambda x: torch.from_numpy(x.detach().flatten(1).numpy() @ weight)))
    assert blind[PREPROCESSING].passed is None
    seen = found(target_of(lambda x: MODEL(x).detach()))
    assert seen[PREPROCESSING].passed is True


def test_faults_found_before_are_passed_on() -> None:
    target = target_of(MODEL)
    target.model.faults = ["normalised twice", "divided twice"]
    with Progress("checks", len(CHECKS), quiet=True) as progress:
        results = check(target, resolve_settings("28", eps=0.1, steps=2), torch.arange(8), progress)
    assert results[len(CHECKS) :] == [
        Check(PREPROCESSING, False, "normalised twice"),
        Check(PREPROCESSING, False, "divided twice"),
    ]


def test_queries_that_cannot_be_attacked_are_left_out() -> None:
    target = target_of(MODEL)
    queries, gallery = target.system.queries, target.system.gallery
    kept = gallery.labels != queries.labels[3]
    part = Gallery(gallery.embeddings[kept], gallery.labels[kept], gallery.ids[kept])
    system = System(Queries(queries.embeddings, queries.labels, queries.ids), part)
    results = found(Target(target.model, system, PIXELS), torch.arange(3, 13))
    attacked = int((queries.labels[3:13] != queries.labels[3]).sum())
    assert 0 < attacked < 10
    assert f"of {attacked} queries" in results[EXIST].detail
    nothing = found(Target(target.model, system, PIXELS), torch.tensor([3]))
    assert skipped(nothing) == {*NAMES} - {PREPROCESSING, LONGER}


# --- chance


@pytest.mark.parametrize("up", range(0, 13, 2))
@pytest.mark.parametrize("down", [0, 1, 3])
def test_a_rise_is_one_beyond_chance(up: int, down: int) -> None:
    before, after = torch.zeros(1000), torch.zeros(1000)
    after[:up], before[500 : 500 + down] = 100, 100
    clear = up + down > 0 and binomtest(up, up + down, alternative="greater").pvalue < 0.01
    assert rises(before, after) == (clear and 0.1 * (up - down) > 0.3)


def test_a_small_rise_is_none_however_clear() -> None:
    before = torch.zeros(10_000)
    after = before.clone()
    after[:29] = 100
    assert not rises(before, after)
    after[:31] = 100
    assert rises(before, after)


def test_a_small_rise_is_not_denied() -> None:
    def attack(name: str, pgd: float) -> Any:
        right = 100.0 * (torch.arange(32) < 20 + (pgd > 0.1))
        return SimpleNamespace(before={"LTM": torch.full((32,), 100.0)}, after={"LTM": right})

    strong = attack("ltm", 0.1)
    fake: Any = SimpleNamespace(attack=attack, descent=lambda radius, steps: radius, steps=5, limit=1.0, strong=strong)
    fake.resolved = resolve_settings("28", eps=0.1)
    passed, detail = checks.stronger_is_stronger(fake)
    assert passed
    assert "62.5 at ε = 0.1, 65.6 at ε = 0.2" in detail
    assert detail.startswith("no stronger attack left a clearly higher R@1: ")


def test_bends_of_the_objective_are_no_fault_of_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    target = target_of(MODEL)
    monkeypatch.setattr(probe.Probe, "objective", lambda self, name, z: (1000 * z[:, 0]).sin() / 1000)
    assert TRUE not in failed(found(target))
