"""The calls of a model that work makes: watched on a few images, timed, and scaled to many."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from statistics import median
from time import perf_counter
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from holdfast.attacks.base import APPROACH
from holdfast.core.gradients import WHITE_BOX
from holdfast.core.pgd import PGD
from holdfast.evaluation.estimate.memory import peak
from holdfast.evaluation.runner import Target
from holdfast.models.wrapped import WrappedModel

T = TypeVar("T")


class Call(NamedTuple):
    """share: of the images worked on, in (0, 1], those that the model is given. slope: a gradient is wanted of them."""

    share: float
    slope: bool


class Watched(WrappedModel):
    """A copy of a model that notes its calls: when they begin, of how many images, and whether a gradient is wanted."""

    def __init__(self, model: WrappedModel, calls: list[tuple[float, int, bool]]) -> None:
        vars(self).update(vars(model))
        self.calls = calls

    def __call__(self, images: Tensor) -> Tensor:
        began = perf_counter()
        z = super().__call__(images)
        self.calls.append((began, len(images), z.requires_grad))
        return z


@dataclass(frozen=True)
class Pace:
    """Seconds of a call for a block of ``width`` images, by whether a gradient is wanted; and of a batch, ``beside``
    its calls. memory: bytes in use at the most."""

    width: int
    block: Mapping[bool, float]
    beside: float
    memory: int | None


@dataclass(frozen=True)
class Cost:
    """passes: images through the network, forward and backward, those that fill up a block included."""

    passes: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.passes + other.passes, self.seconds + other.seconds)


def mean(costs: Sequence[Cost]) -> Cost:
    """Of several costs, as likely each."""
    total = sum(costs, Cost())
    return Cost(round(total.passes / len(costs)), total.seconds / len(costs))


def watch(
    target: Target, images: int, work: Callable[[Target, Target | None], T], surrogate: Target | None = None
) -> tuple[list[Call], Pace, T]:
    """The calls that ``work`` on so many images makes, how fast they are, and what it returns."""
    calls: list[tuple[float, int, bool]] = []
    seen, other = (one and replace(one, model=Watched(one.model, calls)) for one in (target, surrogate))
    assert seen is not None
    device = target.system.gallery.embeddings.device
    with peak(device) as used:
        began = perf_counter()
        made = work(seen, other)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        ended = perf_counter()
    width, took = seen.model.width, dict[bool, list[float]]()
    blocks = [ceil(count / width) for _, count, _ in calls]
    starts = [*(start for start, *_ in calls), ended]
    for (start, after), number, (_, _, slope) in zip(pairwise(starts), blocks, calls, strict=True):
        took.setdefault(slope, []).append((after - start) / number)
    block = {slope: median(values) for slope, values in took.items()}
    beside = ended - began - sum(number * block[slope] for number, (_, _, slope) in zip(blocks, calls, strict=True))
    pace = Pace(width, block, max(0.0, beside), used.bytes)
    return [Call(count / images, slope) for _, count, slope in calls], pace, made


def cost(calls: Sequence[Call], images: int, batch: int, pace: Pace) -> Cost:
    """What such calls cost for so many images, in batches, at a pace."""
    whole, rest = divmod(images, batch)
    total = Cost()
    for size, times in ((batch, whole), (rest, 1)):
        if not (size and times and calls):
            continue
        blocks = {
            slope: sum(ceil(size * one.share / pace.width) for one in calls if one.slope is slope)
            for slope in (False, True)
        }
        passes = sum(count * pace.width * (1 + slope) for slope, count in blocks.items())
        slowest = max(pace.block.values(), default=0.0)
        seconds = pace.beside + sum(count * pace.block.get(slope, slowest) for slope, count in blocks.items())
        total += Cost(times * passes, times * seconds)
    return total


def most_calls(pgd: PGD, approach: bool = False) -> list[Call]:
    """The calls of an attack in which no image is finished before the last step."""
    white, each = pgd.gradient == WHITE_BOX, getattr(pgd.gradient, "queries", 1)
    descents = 1 + pgd.restarts + approach
    steps = pgd.steps * each * (1 + pgd.restarts) + APPROACH * approach
    last = descents * (white and (pgd.best or pgd.restarts > 0))
    return [Call(1.0, white)] * (steps * pgd.draws) + [Call(1.0, False)] * (last * pgd.draws + 1)


def stretched(calls: Sequence[Call], tried: PGD, asked: PGD, approach: bool = False) -> list[Call]:
    """The calls of an attack of the descent ``asked``, from those of one with fewer steps: the images that are not
    finished by its last step never are."""
    tried_most, most = most_calls(tried, approach), most_calls(asked, approach)
    *steps, final = calls
    if len(steps) < len(tried_most) - 1:
        return list(calls)
    last = Call(steps[-1].share, most[0].slope)
    return [*steps, *[last] * (len(most) - len(tried_most)), final]
