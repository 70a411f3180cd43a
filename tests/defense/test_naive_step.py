"""The library's training step does exactly what the naive one does, on networks in the middle of their training."""

import copy
import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from benchmarks.naive_step import (
    NaiveEmbedder,
    embed_groups,
    hardness,
    raise_hardness,
    softhard,
    softhard_candidates,
)
from benchmarks.passes import Pass, recorded, replay
from benchmarks.step import Work, midway, settings
from holdfast.core.samplers import EmbeddedBatch
from holdfast.core.samplers import softhard as library_softhard
from holdfast.training.build import pgd_of

C2F2, RESNET = "c2f2", "resnet18"


@cache
def work(backbone: str) -> Work:
    """The ResNet gets grain on its images: on an even background many units tie, and rounding picks the largest."""
    changes: dict[str, Any]
    if backbone == C2F2:
        changes = {"batch.pairs": 32, "pgd.eps": 0.2, "pgd.step": 0.05, "pgd.steps": 8}
        return midway(settings(8, None, changes), warmup=0, after=40)
    changes = {"model.backbone": RESNET, "recipe": "hm-s-0.05-ics", "batch.pairs": 8, "pgd.steps": 5}
    one = midway(settings(16, None, {**changes, "pgd.step": 0.3 / 255}), warmup=10, after=2)
    grain = torch.rand(one.images.shape, generator=Generator().manual_seed(0))
    return replace(one, images=0.1 + 0.75 * one.images + 0.05 * grain)


def destination_of(logs: dict[str, Tensor]) -> float:
    return float(logs["destination_hardness"])


def reached_by(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return hardness(embed_groups(network, images))


@pytest.mark.parametrize("backbone", [C2F2, RESNET])
def test_the_step_is_the_naive_one(backbone: str) -> None:
    """In float64, for in float32 another rounding switches units on or off that stand at zero."""
    one = work(backbone)
    one = replace(one, embedder=copy.deepcopy(one.embedder).double(), images=one.images.double())
    step, triplets, perturbed = one.watched()
    twin = NaiveEmbedder(one.embedder)
    naive = one.naive(twin, destination_of(step.logs), triplets)

    assert 0.1 < step.logs["moved"] < 0.9
    assert step.logs["structure_loss"] > 0 or backbone == RESNET
    torch.testing.assert_close(perturbed, naive.images, rtol=0, atol=1e-12)
    torch.testing.assert_close(reached_by(twin.eval(), perturbed), naive.hardness, rtol=0, atol=1e-12)
    assert step.loss.item() == pytest.approx(naive.loss.item(), abs=1e-12)
    for mine, other in zip(one.embedder.parameters(), twin.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert (mine.grad - other.grad).norm() <= 1e-9 * other.grad.norm()


def test_both_mine_the_same_softhard_triplets() -> None:
    """300 draws for each anchor find all there is to draw, and nothing else."""
    one = work(C2F2)
    with torch.no_grad():
        z = one.embedder.eval()(one.images[:24])
    labels, anchors = one.labels[:24], one.anchors[:12]
    batch, generators = EmbeddedBatch.of(z, labels, anchors), Generator().manual_seed(0)
    sets = [[set(side.tolist()) for side in softhard_candidates(z, labels, anchor)] for anchor in anchors.tolist()]
    library = [library_softhard(batch, generators) for _ in range(300)]
    assert drawn([torch.stack([t.positive, t.negative], dim=1) for t in library]) == sets
    naive = [softhard(z, labels, anchors, generators) for _ in range(300)]
    assert drawn([t[:, 1:] for t in naive]) == sets
    assert all(torch.equal(t[:, 0], anchors) for t in naive)
    others = (labels[anchors, None] != labels).sum(1).tolist()
    assert any(len(negatives) < other for (_, negatives), other in zip(sets, others, strict=True))


def drawn(generators: list[Tensor]) -> list[list[set[int]]]:
    """What was drawn per anchor, of positives and of negatives."""
    return [[set(column.tolist()) for column in each.unbind(1)] for each in torch.stack(generators, dim=1)]


def test_the_naive_descent_may_stop_once_all_have_arrived() -> None:
    one = work(C2F2)
    twin, images = NaiveEmbedder(one.embedder).eval(), one.images.view(-1, 2, *one.images.shape[1:])
    triplets = torch.cat([images, images.roll(5, 0)[:, :1]], dim=1)
    near = float(reached_by(twin, triplets).min()) + 0.4
    descents = []
    for early_stop in (False, True):
        with recorded() as passes:
            descents.append(raise_hardness(twin, triplets, near, pgd_of(one.config), early_stop))
        descents.append(torch.tensor(len(passes)))
    whole, all_passes, stopped, fewer = descents
    assert (reached_by(twin, stopped) >= near).all()
    assert torch.equal(whole, stopped)
    assert 2 < fewer < all_passes == 8


def test_passes_are_recorded_as_they_were_made() -> None:
    """A pass that finds all triplets finished goes forward only, though it could have gone backward."""
    one = work(C2F2)
    one.step()
    with recorded() as passes:
        step = one.step()
    assert sum(each.images for each in passes) == step.logs["passes"]
    assert passes[0] == Pass(len(one.images), "training")
    assert re.fullmatch("tp+f?t+", "".join(each.kind[0] for each in passes))
    pixels = one.images.clone().requires_grad_()
    with recorded() as passes, one.embedder.frozen():
        one.embedder(pixels)
        one.embedder(pixels).sum().backward()
    assert [each.kind for each in passes] == ["forward", "pixels"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_replay_makes_the_same_passes(dtype: torch.dtype) -> None:
    one, wanted = work(C2F2), [Pass(4, "forward"), Pass(3, "pixels"), Pass(2, "pixels"), Pass(3, "training")]
    before = copy.deepcopy(one.embedder.state_dict())
    again = replay(wanted, one.embedder, dtype)
    with recorded() as passes:
        again()
    assert passes == wanted
    assert all(torch.equal(value, before[name]) for name, value in one.embedder.state_dict().items())
