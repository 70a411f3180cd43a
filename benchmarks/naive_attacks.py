"""The nine attacks of protocol ``strict`` as one writes them without a thought of speed: image by image, by autograd.

They give what the library gives for the same choices, so the tests have them for an oracle and the benchmarks for a
measure. The formulas are those of Zhou et al. (ECCV 2020, arXiv 2106.03614), Tolias et al. (ICCV 2019) and Wang et al.
(CVPR 2020), where ``z`` is the embedding of the perturbed image, ``c`` and ``q`` what was chosen, ``x`` any item.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cosine_similarity

from holdfast.attacks import System
from holdfast.core.gallery import Gallery, Queries
from holdfast.core.gradients import random_like


def d(a: Tensor, b: Tensor) -> Tensor:
    """The Euclidean distance, (..., D), (D,) -> (...)."""
    distance: Tensor = (a - b).norm(dim=-1)
    return distance


@dataclass(frozen=True, eq=False)
class Case:
    """One image under attack.

    id: of the image. label: its class. clean: its embedding before the attack (D,). chosen: the row of the gallery (of
    the queries, where a candidate is attacked) that the attack is about; None where it is about none.
    """

    id: int
    label: int
    clean: Tensor
    chosen: int | None
    system: System

    @property
    def gallery(self) -> Gallery:
        return self.system.gallery

    @property
    def others(self) -> Tensor:
        """Which items are not the image itself, (N,) bool."""
        return self.gallery.ids != self.id

    @property
    def target(self) -> Tensor:
        """The embedding of the chosen item, (D,)."""
        assert self.chosen is not None
        return self.gallery.embeddings[self.chosen]

    @property
    def query(self) -> Tensor:
        """The embedding of the chosen query, (D,)."""
        assert self.chosen is not None
        return self.system.queries.embeddings[self.chosen]

    @property
    def others_for_query(self) -> Tensor:
        """Which items are neither the image itself nor the chosen query, (N,) bool."""
        assert self.chosen is not None
        return self.others & (self.gallery.ids != self.system.queries.ids[self.chosen])

    def distances(self, z: Tensor) -> Tensor:
        """``d(z, x)`` to every item, (N,)."""
        return d(self.gallery.embeddings, z)


def cases(perturbed: Queries, chosen: Tensor, system: System) -> list[Case]:
    """The images one by one; ``chosen`` (B, 1) or (B, 0)."""
    columns = zip(perturbed.ids.tolist(), perturbed.labels.tolist(), perturbed.embeddings, chosen.tolist(), strict=True)
    return [Case(i, label, clean, rows[0] if rows else None, system) for i, label, clean, rows in columns]


# ---- what each attack minimises -------------------------------------------------------------------------------------


def candidate_up(z: Tensor, case: Case) -> Tensor:
    """CA+: ``mean_x max(0, d(q, z) - d(q, x))``."""
    items = case.distances(case.query)[case.others_for_query]
    return (d(case.query, z) - items).relu().sum() / len(case.gallery.ids)


def candidate_down(z: Tensor, case: Case) -> Tensor:
    """CA-: ``mean_x max(0, d(q, x) - d(q, z))``."""
    items = case.distances(case.query)[case.others_for_query]
    return (items - d(case.query, z)).relu().sum() / len(case.gallery.ids)


def query_up(z: Tensor, case: Case) -> Tensor:
    """QA+: ``mean_x max(0, d(z, c) - d(z, x))``."""
    items = case.distances(z)
    return (items[case.chosen] - items[case.others]).relu().sum() / len(items)


def query_down(z: Tensor, case: Case) -> Tensor:
    """QA- and GTT: ``mean_x max(0, d(z, x) - d(z, c))``."""
    items = case.distances(z)
    return (items[case.others] - items[case.chosen]).relu().sum() / len(items)


def unlike(z: Tensor, case: Case) -> Tensor:
    """TMA: ``1 - cos(z, c)``."""
    return 1 - cosine_similarity(z, case.target, dim=0)


def away(z: Tensor, case: Case) -> Tensor:
    """ES: minus the distance moved."""
    return -d(z, case.clean)


def misrank(z: Tensor, case: Case) -> Tensor:
    """LTM: the nearest unmatched distance minus the nearest matched one."""
    items = case.distances(z)
    matched = case.gallery.labels == case.label
    return items[~matched].min() - items[matched & case.others].min()


def toward(z: Tensor, case: Case) -> Tensor:
    """GTM: ``d(z, c)``."""
    return d(z, case.target)


# ---- what is read off afterwards ------------------------------------------------------------------------------------


def place(items: Tensor, there: Tensor) -> float:
    """How many distances are smaller than ``there``, equal ones counting one half."""
    return int((items < there).sum()) + 0.5 * int((items == there).sum())


def candidate_rank(z: Tensor, case: Case) -> float:
    """The rank of the image for the chosen query, in % of the gallery."""
    items = case.distances(case.query)[case.others_for_query]
    return 100 * place(items, d(case.query, z)) / len(case.gallery.ids)


def target_place(z: Tensor, case: Case) -> float:
    """How many items stand before the chosen one."""
    items, others = case.distances(z), case.others
    others[case.chosen] = False
    return place(items[others], items[case.chosen])


def query_rank(z: Tensor, case: Case) -> float:
    """The rank of the chosen item, in % of the gallery."""
    return 100 * target_place(z, case) / len(case.gallery.ids)


def kept_on_top(z: Tensor, case: Case) -> float:
    """100 while the chosen item is among the first four."""
    return 100 * min(1.0, max(0.0, 4 - target_place(z, case)))


def cosine(z: Tensor, case: Case) -> float:
    """``cos(z, c)``."""
    return float(cosine_similarity(z, case.target, dim=0))


def moved(z: Tensor, case: Case) -> float:
    """The distance to where the embedding was."""
    return float(d(z, case.clean))


def first_result(z: Tensor, case: Case) -> float:
    """R@1 in %: the share of matches among the nearest items."""
    items, labels = case.distances(z)[case.others], case.gallery.labels[case.others]
    return 100 * float((labels[items == items.min()] == case.label).double().mean())


Objective = Callable[[Tensor, Case], Tensor]
Reading = Callable[[Tensor, Case], float]

ATTACKS: dict[str, tuple[Objective, dict[str, Reading]]] = {
    "ca+": (candidate_up, {"CA+": candidate_rank}),
    "ca-": (candidate_down, {"CA-": candidate_rank}),
    "qa+": (query_up, {"QA+": query_rank}),
    "qa-": (query_down, {"QA-": query_rank}),
    "tma": (unlike, {"TMA": cosine}),
    "es": (away, {"ES:D": moved, "ES:R": first_result}),
    "ltm": (misrank, {"LTM": first_result}),
    "gtm": (toward, {"GTM": first_result}),
    "gtt": (query_down, {"GTT": kept_on_top}),
}
"""What is minimised, and what is read off, by the name of the attack."""


# ---- the descent ----------------------------------------------------------------------------------------------------


def descend(
    model: nn.Module,
    images: Tensor,
    start: Tensor,
    objective: Objective,
    of: Sequence[Case],
    *,
    eps: float,
    step: float,
    steps: int,
) -> Tensor:
    """Auto-PGD (Croce & Hein, ICML 2020) within ``eps`` of ``images`` (B, C, H, W) and within [0, 1], image by image.

    Returns of each the iterate with the lowest objective.

    Like the authors' code it lets the model's parameters have their gradients too, where these are required.
    """

    def inside(x: Tensor, image: Tensor) -> Tensor:
        return (image + (x - image).clamp(-eps, eps)).clamp(0, 1)

    count = len(images)
    current, previous, best, way = start.clone(), start.clone(), start.clone(), torch.zeros_like(start)
    lowest = torch.full((count,), torch.inf, device=images.device)
    sizes, falls, halved = [step] * count, [0] * count, [True] * count
    last, before = [-math.inf] * count, [math.inf] * count
    span = max(1, int(0.22 * steps))
    mark = span
    for i in range(steps):
        pixels = current.clone().requires_grad_()
        values = torch.stack([objective(z, case) for z, case in zip(model(pixels), of, strict=True)])
        model.zero_grad()
        values.sum().backward()  # type: ignore[no-untyped-call]
        assert pixels.grad is not None
        sign = pixels.grad.sign()
        for k, value in enumerate(values.tolist()):
            falls[k] += value < last[k]
            last[k] = value
            if values[k] < lowest[k]:
                best[k], way[k], lowest[k] = current[k], sign[k], values[k].detach()
            if i == mark:
                stuck = falls[k] < 0.75 * span or (not halved[k] and float(lowest[k]) >= before[k])
                if stuck:
                    sizes[k] /= 2
                    current[k], sign[k], previous[k] = best[k], way[k], best[k]
                halved[k], before[k], falls[k] = stuck, float(lowest[k]), 0
            reached = inside(current[k] - sizes[k] * sign[k], images[k])
            if i:
                move = 0.75 * (reached - current[k]) + 0.25 * (current[k] - previous[k])
                reached = inside(current[k] + move, images[k])
            previous[k], current[k] = current[k].clone(), reached
        if i == mark:
            span = max(span - max(1, int(0.03 * steps)), 1, int(0.06 * steps))
            mark += span
    with torch.no_grad():
        values = torch.stack([objective(z, case) for z, case in zip(model(current), of, strict=True)])
    best[values < lowest] = current[values < lowest]
    return best


def near(images: Tensor, radius: float, generators: Sequence[Generator]) -> Tensor:
    """A random start: every pixel up to ``radius`` away, by one generator per image."""
    return (images + radius * (2 * random_like(torch.rand, images, generators) - 1)).clamp(0, 1)


def attack(
    name: str,
    model: nn.Module,
    images: Tensor,
    start: Tensor,
    of: Sequence[Case],
    *,
    eps: float,
    step: float,
    steps: int,
) -> tuple[Tensor, dict[str, list[float]]]:
    """Attack images (B, C, H, W) in [0, 1] by name, beginning at ``start``; the images, and the readings of each."""
    objective, readings = ATTACKS[name]
    adversarial = descend(model, images, start, objective, of, eps=eps, step=step, steps=steps)
    with torch.no_grad():
        reached = model(adversarial)
        found = {
            column: [read(z, case) for z, case in zip(reached, of, strict=True)] for column, read in readings.items()
        }
    return adversarial, found


def ers(scores: Mapping[str, float]) -> float:
    """Empirical Robustness Score of the ten scores (Zhou et al., arXiv 2106.03614)."""
    ranks = 2 * scores["CA+"] + (100 - scores["CA-"]) + 2 * scores["QA+"] + (100 - scores["QA-"])
    shifts = 100 * (1 - scores["TMA"]) + 50 * (2 - scores["ES:D"])
    firsts = scores["ES:R"] + scores["LTM"] + scores["GTM"] + scores["GTT"]
    return (ranks + shifts + firsts) / 10
