"""Attacks carried out on many images: batch by batch, recorded, and resumable."""

import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Generator, Tensor

from holdfast.attacks import RankingAttack, System
from holdfast.attacks.base import Attacked, Surrogate, attack_images, name_of
from holdfast.core.gallery import Queries
from holdfast.core.pgd import PGD
from holdfast.data import Pixels
from holdfast.evaluation.records import DIGITS, Record, Records
from holdfast.evaluation.settings import AttackSettings
from holdfast.models.wrapped import WrappedModel
from holdfast.util import distributed
from holdfast.util.errors import HoldfastError, foreign, printable
from holdfast.util.progress import Progress

T = TypeVar("T")

REHEARSED = 3
"""Steps that are timed before an evaluation begins."""


@dataclass(frozen=True, eq=False)
class Target:
    """A model, the system it makes of a test set, and the images of that.

    ranks: how many processes under torchrun attack together, each a share of every batch.
    """

    model: WrappedModel
    system: System
    pixels: Pixels
    ranks: int = 1

    def shared(self, count: int, work: Callable[[slice], T]) -> list[T]:
        """What ``work`` makes of each rank's share of ``count`` images, in order; see :func:`.collect`."""
        if self.ranks == 1:
            return [work(slice(0, count))]
        return distributed.collect(lambda: work(distributed.portion(count)))

    def surrogate(self, attack: RankingAttack, rows: Tensor) -> Surrogate:
        """What a transfer attack on the images at ``rows`` sees of this model."""
        return self.model, self.system, self.system.perturbed(attack).take(rows)


@contextmanager
def narrowed(target: Target, count: int) -> Iterator[Target]:
    """The target of ``count`` images: where these are few, it takes no more at once than the next power of two.

    A block is always full, and to fill it up costs as much as to attack. Results differ by rounding from those of
    other widths, so ``count`` must not depend on how an attack is divided into batches, or where it was killed.
    """
    width = target.model.width
    target.model.width = min(width, 1 << max(0, count - 1).bit_length())
    try:
        yield replace(target, system=replace(target.system, width=target.model.width))
    finally:
        target.model.width = width


def reading(values: Mapping[str, Tensor], i: int) -> dict[str, float]:
    """The readings of one image of a batch, as records have them."""
    return {name: round(float(column[i]), DIGITS) for name, column in values.items()}


def attack_batch(
    attack: RankingAttack,
    target: Target,
    rows: Tensor,
    pgd: PGD,
    *,
    generators: list[Generator],
    surrogate: Target | None = None,
    initial: Tensor | None = None,
    scale: Tensor | None = None,
) -> Attacked:
    """Attack the images at ``rows`` (B,) of the side the attack perturbs, from ``initial`` ones at a ``scale`` of their
    own where these are given; see :func:`.attack_images`.

    With a surrogate the descent sees only that model (a transfer attack); what is chosen and read is the target's. With
    several ranks each attacks its share, and all have the whole.
    """
    if target.ranks > 1:
        alone = partial(attack_batch, attack, replace(target, ranks=1), pgd=pgd, surrogate=surrogate)
        columns = {"rows": rows, "generators": generators, "initial": initial, "scale": scale}
        return _together(attack, target, surrogate, alone, columns)
    perturbed = target.system.perturbed(attack).take(rows)
    images, readable = target.pixels.read(perturbed.ids.cpu())
    if not readable.all():
        raise HoldfastError(f"{target.pixels.table.name_of(int(perturbed.ids[~readable][0]))} can no longer be read")
    images = images.to(perturbed.embeddings.device)
    pgd = replace(pgd, eight_bits=target.model.eight_bits)
    with _told(attack, target, perturbed), seeded(target, surrogate, generators):
        chosen = attack.choose(perturbed, target.system, generators)
        other = None if surrogate is None else surrogate.surrogate(attack, rows)
        return attack_images(
            attack,
            target.model,
            target.system,
            perturbed,
            images,
            chosen=chosen,
            pgd=pgd,
            generators=generators,
            surrogate=other,
            initial=initial,
            scale=scale,
        )


def _together(
    attack: RankingAttack,
    target: Target,
    surrogate: Target | None,
    alone: Callable[..., Attacked],
    columns: Mapping[str, Any],
) -> Attacked:
    """What ``alone`` makes of each rank's share of ``columns``, which have an entry for each image, put together."""
    models, rows = _models(target, surrogate), columns["rows"]

    def work(place: slice) -> tuple[dict[str, Any], dict[str, int]]:
        before, found = _passes(models), {}
        if len(rows[place]):
            made = alone(**{name: None if one is None else one[place] for name, one in columns.items()})
            found = {name: _on_cpu(getattr(made, name)) for name in ATTACKED}
        return found, {name: count - before[name] for name, count in _passes(models).items()}

    parts = target.shared(len(rows), work)
    for i, (_, passes) in enumerate(parts):
        for name, count in passes.items():
            if i != distributed.rank():
                setattr(models[0], name, getattr(models[0], name) + count)
    whole = {name: _joined([part[name] for part, _ in parts if part], rows.device) for name in ATTACKED}
    perturbed = target.system.perturbed(attack).take(rows)
    return Attacked(**whole, outcome=attack.plan(perturbed, target.system, whole["chosen"]).outcome)


ATTACKED = ("clean", "images", "chosen", "before", "after")


def _on_cpu(columns: Any) -> Any:
    """A tensor, or those of a dictionary, on the CPU."""
    return {name: one.cpu() for name, one in columns.items()} if isinstance(columns, dict) else columns.cpu()


def _joined(parts: list[Any], device: torch.device) -> Any:
    """Tensors, or those of dictionaries, one after another."""
    if isinstance(parts[0], dict):
        return {name: _joined([part[name] for part in parts], device) for name in parts[0]}
    return torch.cat(parts).to(device)


@contextmanager
def seeded(target: Target, surrogate: Target | None, generators: list[Generator]) -> Iterator[None]:
    """What models draw for a batch follows from its first generator."""
    with ExitStack() as drawing:
        for one in (target, surrogate):
            if one is not None:
                drawing.enter_context(one.model.seeded(generators[0].initial_seed()))
        yield


@contextmanager
def _told(attack: RankingAttack, target: Target, perturbed: Queries) -> Iterator[None]:
    """What goes wrong inside becomes a HoldfastError that names the images, and says what to do."""
    first, last = (printable(target.pixels.table.name_of(int(perturbed.ids[i]))) for i in (0, -1))
    place = f"attack {name_of(attack)!r} fails on the images from {first} to {last}"
    with foreign(place, "what was finished before is kept: mend the model or the attack, and repeat the call"):
        try:
            yield
        except FloatingPointError as error:
            raise HoldfastError(
                f"the model gives NaN or infinite embeddings for perturbed images, one of those from {first} to "
                f"{last}: it must be finite for all pixels in [0, 1]"
            ) from error


@dataclass(frozen=True)
class Runner:
    """Which attack, on how many images at once, with what descent.

    images: rows to attack, (n,), of the side the attack perturbs. seed: of all that is random.
    """

    name: str
    attack: RankingAttack
    pgd: PGD
    images: Tensor
    seed: int = 0
    batch: int = 128

    def run(
        self, target: Target, records: Records, progress: Progress, surrogate: Target | None = None
    ) -> Iterator[tuple[Tensor, Attacked]]:
        """Attack what has no record yet; yields the rows of each batch and what became of it, and then records it."""
        records.check(self.name, target.system.perturbed(self.attack).ids[self.images].tolist())
        done = len(records.of(self.name))
        models = _models(target, surrogate)
        for first in range(done, len(self.images), self.batch):
            rows = self.images[first : first + self.batch]
            began, before = time.monotonic(), _passes(models)
            attacked = self.carry_out(target, rows, surrogate)
            cost: dict[str, float] = {name: count - before[name] for name, count in _passes(models).items()}
            cost["seconds"] = time.monotonic() - began
            yield rows, attacked
            records.add(self.name, self.records(target, rows, attacked), cost)
            progress.advance(self.name, by=len(rows))

    def carry_out(self, target: Target, rows: Tensor, surrogate: Target | None = None) -> Attacked:
        """Attack the images at ``rows`` (B,) as one batch."""
        return attack_batch(
            self.attack, target, rows, self.pgd, generators=self.generators(target, rows), surrogate=surrogate
        )

    def rehearse(self, target: Target) -> None:
        """Choose for the first image, and read off it as it is.

        Raises HoldfastError where the attack finds too little to choose from, or gives other readings than it says.
        """
        rows = self.images[:1]
        perturbed = target.system.perturbed(self.attack).take(rows)
        with torch.no_grad(), _told(self.attack, target, perturbed):
            chosen = self.attack.choose(perturbed, target.system, self.generators(target, rows))
            found = self.attack.plan(perturbed, target.system, chosen).outcome(perturbed.embeddings)
        if found.keys() != set(self.attack.readings):
            said, given = (", ".join(names) or "nothing" for names in (self.attack.readings, found))
            raise HoldfastError(f"attack {self.name!r} says that it reads {said}, and gives {given}")

    def seconds_per_step(self, target: Target, surrogate: Target | None = None) -> float:
        """How long a step takes for an image, restarts included; timed on the first batch, after a step to warm up."""
        rows, seconds, target = self.images[: self.batch], 0.0, replace(target, ranks=1)
        for steps in (1, REHEARSED):
            pgd, began = replace(self.pgd, steps=steps), time.monotonic()
            attack_batch(self.attack, target, rows, pgd, generators=self.generators(target, rows), surrogate=surrogate)
            seconds = time.monotonic() - began
        return seconds / (REHEARSED * len(rows))

    def generators(self, target: Target, rows: Tensor) -> list[Generator]:
        """A generator per image; see :func:`generators_of`."""
        return generators_of(self.name, self.seed, target.system.perturbed(self.attack).ids[rows].tolist())

    def records(self, target: Target, rows: Tensor, attacked: Attacked) -> list[Record]:
        """One record per image of a batch."""
        ids = target.system.perturbed(self.attack).ids[rows]
        aim = target.system.targets(self.attack)
        moved = self.pgd.ball.norm(attacked.images - attacked.clean)
        return [
            {
                "id": int(ids[i]),
                "chosen": aim.ids[attacked.chosen[i]].tolist(),
                "before": reading(attacked.before, i),
                "after": reading(attacked.after, i),
                "moved": round(float(moved[i]), DIGITS),
            }
            for i in range(len(rows))
        ]


def runners_of(target: Target, resolved: AttackSettings, batch: int) -> list[Runner]:
    """The attacks of a budget, each with the images it is tried on."""
    if len(torch.unique(target.system.gallery.labels)) < 2:
        raise HoldfastError("all gallery images that can be read are of one class: no answer is wrong")
    if resolved.attacking and not len(attacked_rows("query", target, resolved)):
        raise HoldfastError("no readable image has another image of its class to be found: nothing to attack")
    runners = []
    for name in resolved.attacks:
        attack = resolved.attack(name)
        images = attacked_rows(attack.side, target, resolved)
        runners.append(Runner(name, attack, resolved.pgd(), images, resolved.seed, batch))
        runners[-1].rehearse(target)
    return runners


def attacked_rows(side: str, target: Target, resolved: AttackSettings) -> Tensor:
    """The images to attack, (n,) rows in order: those of :func:`matched_rows` of the side that an attack perturbs."""
    sides = target.system.queries, target.system.gallery
    images, others = sides if side == "query" else sides[::-1]
    return matched_rows(images.ids, images.labels, others, target.pixels, resolved)


def matched_rows(ids: Tensor, labels: Tensor, others: Queries, pixels: Pixels, resolved: AttackSettings) -> Tensor:
    """The places (n,), in order, of images (N,) with a match among the ``others``, or of ``max_queries`` of them, drawn
    by their ids.

    A match is another image of the class on the other side, so that where the gallery asks and is asked, the same
    images are attacked on both sides.
    """
    classes = others.labels.bincount(minlength=len(pixels.table.classes))
    rows = (classes[labels] > torch.isin(ids, others.ids)).nonzero().squeeze(1)
    return rows[drawn(ids[rows].cpu(), len(pixels), resolved).to(rows.device)]


def drawn(ids: Tensor, total: int, resolved: AttackSettings) -> Tensor:
    """The places (m,), ascending, of the images that are attacked among those with these ids (n,): all of them, or
    ``max_queries``, drawn by their ids in a test table of ``total`` images."""
    if resolved.max_queries is None or len(ids) <= resolved.max_queries:
        return torch.arange(len(ids))
    keys = torch.rand(total, generator=Generator().manual_seed(resolved.seed))
    return keys[ids].argsort()[: resolved.max_queries].sort().values


def generators_of(name: str, seed: int, ids: list[int]) -> list[Generator]:
    """A generator per image, from the seed, the attack's name and the image's id alone."""
    key = zlib.crc32(name.encode())
    seeds = [np.random.SeedSequence((seed, key, i)).generate_state(1, np.uint64)[0] for i in ids]
    return [Generator().manual_seed(int(one)) for one in seeds]


def _models(target: Target, surrogate: Target | None) -> list[WrappedModel]:
    return [one.model for one in (target, surrogate) if one is not None]


def _passes(models: list[WrappedModel]) -> dict[str, int]:
    """Images passed and asked for so far."""
    return {name: sum(getattr(wrapped, name) for wrapped in models) for name in ("forward", "backward", "asked")}
