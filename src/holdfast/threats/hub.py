"""Poisoning a gallery with hubs: how many queries they take, beside the best natural item, and what a detector sees."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import StrictFloat
from torch import Generator, Tensor
from typing_extensions import TypedDict

from holdfast.attacks import System
from holdfast.attacks.base import Attacked
from holdfast.attacks.hub import HITS, Hub, first_items
from holdfast.core.gallery import Gallery
from holdfast.data import Pixels
from holdfast.data.decode import decode
from holdfast.data.pixels import from_image
from holdfast.evaluation.evaluate import Data
from holdfast.evaluation.records import Records
from holdfast.evaluation.result import Result
from holdfast.evaluation.runner import Runner, Target, attack_batch, narrowed
from holdfast.evaluation.saving import save
from holdfast.evaluation.settings import AttackSettings, resolve_settings
from holdfast.models.adapters.base import OpenedModel
from holdfast.threats.base import Model, examine
from holdfast.util.errors import HoldfastError, pick
from holdfast.util.lock import working_in
from holdfast.util.text import counted
from holdfast.util.validate import Count, Measured, Whole, check, fit

THREAT = "hub"
"""The protocol of these results, and the key of what they hold."""
FLAGGED = 3.5
"""The robust z-score from which a count is called an outlier (Iglewicz & Hoaglin, 1993)."""
DEPTH = HITS[-1]
"""How far down a list a detector counts."""


class _Numbers(TypedDict):
    poisons: Count
    made_on: Count
    read_on: Count | None


class _Seen(TypedDict):
    hits: dict[str, Measured]
    recall: Measured
    z: list[StrictFloat]
    natural_z: Measured
    natural_flagged: Whole


class Hubs(TypedDict):
    """What a result of ``holdfast attack --attack hub`` holds under :data:`THREAT`; shares are in percent.

    ``poisoned`` has for 1 to all poisons what ``clean`` has for none: ``hits`` by place, ``recall`` (R@1 of the
    queries), and of the robust z-scores of weighted reverse-neighbour counts those of the poisons, the highest natural
    one, and how many natural items are :data:`FLAGGED`. ``natural`` are the best hit rates of a natural item.
    """

    made_on: Whole
    read_on: Whole
    poisons: list[Whole]
    natural: dict[str, Measured]
    clean: _Seen
    poisoned: list[_Seen]


def attack_hub(
    model: Model,
    data: Data | None,
    folder: str | Path,
    *,
    poisons: int = 1,
    made_on: int = 100,
    query_class: str | None = None,
    device: torch.device | str | None = None,
    quiet: bool = False,
    max_queries: int | None = None,
    **settings: Any,
) -> Result:
    """Perturb gallery images into hubs, one after the other, save them, and measure what they do together.

    Args:
        model: what :func:`.open_model` takes.
        data: a test set, as for :func:`.evaluate`.
        folder: for the images, as :func:`.save` writes them, and for ``result.json``.
        poisons: how many images, drawn by the seed. Each attacks the gallery with those before it in it.
        made_on: how many queries they are made on, at most half of all.
        query_class: queries of this class alone; poisons are of others.
        device: by default the GPU where there is one.
        max_queries: how many other queries they are read on; by default all.
        settings: of :class:`.AttackSettings`: eps, step, steps, norm, gradient, query_budget, precision, restarts,
            seed.

    Returns a result whose ``content["hub"]`` is a :class:`Hubs`. Raises HoldfastError for what cannot be attacked.
    """
    numbers = fit(_Numbers, {"poisons": poisons, "made_on": made_on, "read_on": max_queries})

    def resolve(opened: OpenedModel, pixels: Pixels) -> AttackSettings:
        table, wanted = pixels.table, None
        if query_class is not None:
            wanted = pick("class", query_class, {name: i for i, name in enumerate(table.classes)})
        hub = Hub(made_on, numbers["read_on"], settings.get("seed") or 0, query_class=wanted)
        resolved = resolve_settings(table.family, black_box=opened.black_box, attacks=(hub,), **settings)
        if not resolved.eps:
            raise HoldfastError("eps is above 0, or the images written would be those that were read")
        free = int((table.is_gallery & (table.labels != (-1 if wanted is None else wanted))).sum())
        if poisons > free - DEPTH:
            most = max(0, free - DEPTH)
            images = counted(free, "image")
            raise HoldfastError(f"poisons is at most {most} in a gallery with {images} to perturb, not {poisons}")
        return resolved

    with examine(model, data, resolve, device=device, quiet=quiet) as it, working_in(folder):
        attack, system = it.resolved.attack(THREAT), it.target.system
        assert isinstance(attack, Hub)
        rows = _drawn(system.gallery, poisons, attack)
        identity = it.identity({THREAT: poisons})
        runner = Poisoner(THREAT, attack, it.resolved.pgd(), rows, it.resolved.seed, 1, folder=Path(folder))
        runner.rehearse(it.target)
        save(runner, it.target, Path(folder), identity, quiet)
        ids = system.gallery.ids[rows]
        found = _measured(system, attack, ids, saved(it.target, Path(folder), ids))
        cost = Records(Path(folder)).cost()
        return it.result(Path(folder), THREAT, identity, found, attacked=found["read_on"], cost=cost)


def hubs_of(result: Result) -> Hubs | None:
    """What a result says of hubs; None of another result, and HoldfastError of a damaged one."""
    found: Hubs | None = result.content.get(THREAT)
    if found is not None:
        check(Hubs, found, f"{result.path}: {THREAT}")
    return found


@dataclass(frozen=True, kw_only=True)
class Poisoner(Runner):
    """Perturbs images one at a time, each in the gallery with the saved ones before it in place. folder: of these."""

    folder: Path

    def carry_out(self, target: Target, rows: Tensor, surrogate: Target | None = None) -> Attacked:
        place = self.images.tolist().index(int(rows))
        before = target.system.gallery.ids[self.images[:place]]
        z = saved(target, self.folder, before)
        assert isinstance(self.attack, Hub)
        attack = replace(self.attack, beside=tuple(before.tolist()))
        with narrowed(target, 1):
            return attack_batch(
                attack,
                replace(target, system=poisoned(target.system, before, z)),
                rows,
                self.pgd,
                generators=self.generators(target, rows),
                surrogate=surrogate,
            )


def saved(target: Target, folder: Path, ids: Tensor) -> Tensor:
    """The embeddings (n, D) of the saved images of these ids (n,), as another program would read them."""
    images = [from_image(decode(folder / f"{i}.png")[0], target.pixels.channels) for i in ids.tolist()]
    gallery = target.system.gallery.embeddings
    if not images:
        return gallery[:0]
    with torch.no_grad():
        return target.model(torch.stack(images).to(gallery.device)).to(gallery)


def poisoned(system: System, ids: Tensor, z: Tensor) -> System:
    """The system with gallery items of these ids (n,) embedded as ``z`` (n, D)."""
    gallery = system.gallery
    embeddings, order = gallery.embeddings.clone(), gallery.ids.argsort()
    embeddings[order[torch.searchsorted(gallery.ids[order], ids)]] = z
    return System(system.queries, Gallery(embeddings, gallery.labels, gallery.ids), system.width)


def robust_z(counts: Tensor) -> Tensor:
    """How far each of ``counts`` (N,) is from their median, in robust standard deviations.

    These are 1.4826 times the median absolute deviation; where that is 0, 1.2533 times the mean one (Iglewicz &
    Hoaglin, 1993); where that is 0 too, all are 0.
    """
    away = counts.double() - counts.double().quantile(0.5)
    size = away.abs()
    scale = 1.4826 * size.quantile(0.5) or 1.2533 * size.mean()
    return away / scale if scale > 0 else away


def reverse_neighbours(ids: Tensor, gallery: Tensor) -> Tensor:
    """How often each item of ``gallery`` (N,) is in lists of ids (Q, k), ``(N,)``; place r weighs 1 / log2(r + 1)."""
    order = gallery.argsort()
    places = order[torch.searchsorted(gallery[order], ids)]
    weights = 1 / torch.arange(2, ids.shape[1] + 2, dtype=torch.float64, device=ids.device).log2()
    counts = weights.new_zeros(len(gallery))
    return counts.index_add_(0, places.flatten(), weights.expand(len(ids), -1).flatten())


def _drawn(gallery: Gallery, poisons: int, attack: Hub) -> Tensor:
    """Rows of the gallery images to perturb, (n,), drawn by the seed."""
    labels = gallery.labels.cpu()
    rows = torch.arange(len(labels)) if attack.query_class is None else (labels != attack.query_class).nonzero()[:, 0]
    order = torch.randperm(len(rows), generator=Generator().manual_seed(attack.seed + 1))
    return rows[order[:poisons]].to(gallery.ids.device)


def _measured(system: System, attack: Hub, ids: Tensor, z: Tensor) -> dict[str, Any]:
    made, rows = attack.drawn(system.queries)[0], held_out(system, attack, ids)
    lists = [first_items(system, rows, DEPTH)[1]]
    for count in range(1, len(ids) + 1):
        lists.append(first_items(poisoned(system, ids[:count], z[:count]), rows, DEPTH)[1])
    return {
        "made_on": len(made),
        "read_on": len(rows),
        "poisons": ids.tolist(),
        "natural": natural_hits(lists[0]),
        "clean": seen(lists[0], ids[:0], system, rows),
        "poisoned": [seen(one, ids[:count], system, rows) for count, one in enumerate(lists) if count],
    }


def held_out(system: System, attack: Hub, ids: Tensor) -> Tensor:
    """The rows (n,) of the queries that hubs of these ids are read on, without the hubs themselves."""
    rows = attack.drawn(system.queries)[1]
    rows = rows[~torch.isin(system.queries.ids[rows], ids)]
    if not len(rows):
        raise HoldfastError("the queries that hubs could be read on are the poisons themselves: take fewer poisons")
    return rows


def natural_hits(lists: Tensor) -> dict[str, float]:
    """Of lists (Q, k) of gallery ids, in percent, how many the best item is in, by place."""
    found = {}
    for k in HITS:
        _, times = torch.unique(lists[:, :k], return_counts=True)
        found[f"hit@{k}"] = 100 * int(times.max()) / len(lists)
    return found


def seen(lists: Tensor, poisons: Tensor, system: System, rows: Tensor) -> dict[str, Any]:
    """What the lists (Q, k) of gallery ids of the queries at ``rows`` have of the ``poisons`` (n,), and what a detector
    sees of them: ``hits``, ``recall``, ``z`` and so on, as :class:`Hubs` has them."""
    gallery, hits = system.gallery, torch.isin(lists, poisons)
    order = gallery.ids.argsort()
    first = gallery.labels[order[torch.searchsorted(gallery.ids[order], lists[:, 0].contiguous())]]
    scores, mine = robust_z(reverse_neighbours(lists, gallery.ids)), torch.isin(gallery.ids, poisons)
    return {
        "hits": {f"hit@{k}": 100 * float(hits[:, :k].any(1).double().mean()) for k in HITS},
        "recall": 100 * float((first == system.queries.labels[rows]).double().mean()),
        "z": [float(scores[gallery.ids == one]) for one in poisons],
        "natural_z": float(scores[~mine].max()),
        "natural_flagged": int((scores[~mine] > FLAGGED).sum()),
    }
