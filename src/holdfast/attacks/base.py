"""What every ranking attack is made of: what to choose, what to minimise, what to read off."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Generator, Tensor

from holdfast.core.batching import WIDTH
from holdfast.core.gallery import Gallery, Items, Queries, nearest, require_finite
from holdfast.core.objectives import Objective
from holdfast.core.pgd import PGD, Embed, rounded
from holdfast.util.errors import HoldfastError, unknown
from holdfast.util.text import counted

Outcome = Callable[[Tensor], dict[str, Tensor]]
"""From embeddings ``(B, D)`` of the perturbed images to readings by name, ``(B,)`` each, in the unit of the column."""

ImageGenerators = Sequence[Generator]
"""One generator for each perturbed image, so that its draws do not depend on the images beside it."""


@dataclass(frozen=True, eq=False)
class Plan:
    """An attack on some images, chosen: PGD minimises the objective; the outcome is read before and after.

    approach: what a first descent of :data:`APPROACH` steps minimises, where the second then starts.
    """

    objective: Objective
    outcome: Outcome
    approach: Objective | None = None


ROUNDING = 1e-4
"""How far apart two computations of one distance may be, of vectors of unit length."""

APPROACH, NUDGE = 50, 0.1
"""Steps of an approach, and the radius of the noise it starts from, as a share of the ball's."""


First = Callable[[Tensor, Tensor], Tensor]
"""From embeddings (B, D) and ids (B,) of queries to the rows (B,) of their first results in the gallery, their own
entries left out; −1 where nothing is found."""


def as_given(z: Tensor) -> Tensor:
    """Embeddings as they are."""
    return z


@dataclass(frozen=True, eq=False)
class System:
    """The retrieval system under attack: who asks, and what is retrieved; both embedded clean, once.

    width: images whose distances are measured at once. Fewer than by default suit who attacks few. first: what an index
    finds that does not compare a query with every item; None: the nearest is found. stored: what becomes of embeddings
    (B, D) of gallery images as they are stored.
    """

    queries: Queries
    gallery: Gallery
    width: int = WIDTH
    first: First | None = None
    stored: Callable[[Tensor], Tensor] = as_given

    def perturbed(self, attack: "RankingAttack") -> Queries:
        """The images that an attack perturbs."""
        return self.queries if attack.side == "query" else self.gallery

    def targets(self, attack: "RankingAttack") -> Queries:
        """The images that an attack chooses among."""
        return self.gallery if attack.side == "query" else self.queries

    @cached_property
    def items(self) -> Items:
        """The gallery."""
        return Items(self.gallery, self.width)

    @cached_property
    def query_items(self) -> Items:
        """The queries."""
        return self.items if self.queries.embeddings is self.gallery.embeddings else Items(self.queries, self.width)

    def laid_out(self) -> "System":
        """This system, its items where distances are measured; all ranks do it together where they are spread."""
        for items in (self.items, self.query_items) if self.gallery.spread else ():
            _ = items.set.columns
        return self


class RankingAttack(Protocol):
    """One attack.

    side: what is perturbed, ``"query"`` or ``"candidate"`` (an image of the gallery).
    readings: what its outcome holds.
    start: radius of the noise the descent starts from, as a share of the ball's.
    """

    @property
    def side(self) -> str: ...

    @property
    def readings(self) -> tuple[str, ...]: ...

    @property
    def start(self) -> float: ...

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        """What the attack is about, once, from the clean ranking: rows of the gallery (of the queries, for a candidate
        attack), ``(B, k)``."""

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        """The objective and the outcome for images whose clean embeddings are ``perturbed.embeddings``."""


PARTS = ("side", "readings", "start", "choose", "plan")
SIDES = ("query", "candidate")
NAME = re.compile(r"[\w+-][\w.+-]*")
"""What an attack may be called: its records are a file of that name."""


def name_of(attack: object) -> str:
    """What an attack given as an object is called: its ``name`` where it has one, else its class's in lower case.

    Raises HoldfastError for what is no :class:`RankingAttack`, and says what it lacks.
    """
    kind = attack.__name__ if isinstance(attack, type) else type(attack).__name__
    if isinstance(attack, type):
        raise HoldfastError(f"attack {kind} is a class: give an object of it, {kind}(…)")
    if lacking := [part for part in PARTS if not hasattr(attack, part)]:
        raise HoldfastError(
            f"attack {kind} lacks {', '.join(lacking)}: an attack is a name, or an object with {', '.join(PARTS)}"
        )
    name, side, readings = getattr(attack, "name", kind.lower()), attack.side, attack.readings  # type: ignore[attr-defined]
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise HoldfastError(f"attack {kind} is called {name!r}: a name has letters, digits, and any of _ + - . only")
    if side not in SIDES:
        raise unknown(f"side of attack {name}", side, SIDES)
    if not isinstance(readings, tuple) or not readings or not all(isinstance(one, str) for one in readings):
        raise HoldfastError(f"the readings of attack {name} are a tuple of names, not {readings!r}")
    return name


Excluded = Callable[[Items, Tensor], Tensor]
"""Which items take no part, for images with these ids: ``(B, N)`` bool."""


def own_entries(items: Items, ids: Tensor) -> Tensor:
    """An image's own entry is left out, by index."""
    return items.own(ids)


def no_entries(items: Items, ids: Tensor) -> Tensor:
    """Every item takes part, an image's own clean copy included."""
    return torch.zeros(len(ids), len(items), dtype=torch.bool, device=ids.device)


def visible_distances(items: Items, perturbed: Queries, excluded: Excluded) -> Tensor:
    """Clean distances ``(B, N)`` of images to the items, infinite for what takes no part."""
    return items.distances(perturbed.embeddings).masked_fill_(excluded(items, perturbed.ids), torch.inf)


Pool = Callable[[Tensor], Tensor]
"""From distances ``(B, N)``, infinite for what is left out, to the rows of the nearest items, ``(B, k)``."""


def nearest_percent(distances: Tensor) -> Tensor:
    """The nearest 1 % of the items, at least one."""
    return nearest(distances, max(1, distances.shape[1] // 100))


def nearest_percent_after_the_first(distances: Tensor) -> Tensor:
    """``int(0.01 N)`` items, at least one, after the single nearest one, which the authors take for the image's own."""
    return nearest(distances, max(1, distances.shape[1] // 100) + 1)[:, 1:]


def sample_pool(pool: Tensor, count: int, generators: ImageGenerators) -> Tensor:
    """``count`` different entries of each row of a pool ``(B, k)``, evenly drawn, ``(B, count)``."""
    if count > pool.shape[1]:
        raise HoldfastError(
            f"the attack needs {counted(count, 'different target')}, and has {pool.shape[1]} to choose from"
        )
    order = torch.stack([torch.rand(pool.shape[1], generator=one).argsort()[:count] for one in generators])
    return pool.gather(1, order.to(pool.device))


def sample_anywhere(distances: Tensor, count: int, generators: ImageGenerators) -> Tensor:
    """Rows ``(B, count)`` of different items, evenly drawn from those with a finite distance ``(B, N)``."""
    require_finite(distances, count)
    keys = torch.stack([torch.rand(distances.shape[1], generator=one) for one in generators]).to(distances.device)
    return keys.masked_fill(distances.isinf(), torch.inf).topk(count, dim=1, largest=False).indices


def recall_at_1(z: Tensor, perturbed: Queries, system: System) -> Tensor:
    """R@1 in percent of each image ``(B,)`` with embeddings ``z``, as benign retrieval has it: in a tie the share of
    matches among the first; NaN where there is no match to find. Through an index it is 0 where nothing is found."""
    hidden, matching = system.items.own(perturbed.ids), perturbed.labels[:, None] == system.items.labels
    if system.first is not None:
        rows = system.first(z, perturbed.ids)
        found = 100.0 * (matching.gather(1, rows.clamp(min=0)[:, None])[:, 0] & (rows >= 0))
    else:
        distances = system.items.distances(z).masked_fill_(hidden, torch.inf)
        first = distances == distances.amin(1, keepdim=True)
        found = 100 * (first & matching).sum(1) / first.sum(1)
    return found.masked_fill_(~(matching & ~hidden).any(1), torch.nan)


def missed(rows: Tensor, z: Tensor, perturbed: Queries, items: Items) -> Tensor:
    """100 where the item at ``rows`` (B,), an index's first result for ``z`` (B, D), is none of the nearest, else 0;
    rounding aside."""
    distances = items.distances(z).masked_fill_(items.own(perturbed.ids), torch.inf)
    reached = distances.gather(1, rows.clamp(min=0)[:, None])[:, 0].masked_fill_(rows < 0, torch.inf)
    return 100.0 * (reached > distances.amin(1) * (1 + ROUNDING) + ROUNDING)


@dataclass(frozen=True, eq=False)
class Attacked:
    """A batch after an attack.

    clean, images: before and after, (B, C, H, W). chosen: what the attack was about, (B, k). before, after: readings
    (B,) by name. outcome: what reads them off embeddings (B, D).
    """

    clean: Tensor
    images: Tensor
    chosen: Tensor
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    outcome: Outcome


Surrogate = tuple[Embed, System, Queries]
"""What a transfer attack sees instead of the target: a model, its system, and its embeddings of the images."""


def attack_images(
    attack: RankingAttack,
    embed: Embed,
    system: System,
    perturbed: Queries,
    images: Tensor,
    *,
    chosen: Tensor,
    pgd: PGD,
    generators: ImageGenerators | Generator,
    surrogate: Surrogate | None = None,
    initial: Tensor | None = None,
    scale: Tensor | None = None,
) -> Attacked:
    """Attack images (B, C, H, W), embedded clean in ``perturbed``, about what was ``chosen`` (B, k).

    The images need not be of the test set. With a surrogate the descent sees only that model. initial, scale: as in
    :meth:`.PGD.__call__`, of each image; there is no approach from an initial image. Raises FloatingPointError where an
    embedding is not finite.
    """
    plan = attack.plan(perturbed, system, chosen)
    with torch.no_grad():
        before = plan.outcome(perturbed.embeddings)
    seen, clean, aim = embed, perturbed, plan
    descent = replace(pgd, start=max(pgd.start, attack.start * pgd.ball.eps))
    if surrogate is not None:
        seen, other, clean = surrogate
        aim = attack.plan(clean, other, chosen)
        descent = replace(descent, eight_bits=False)
    initial = None if initial is None else initial[:, None]
    if aim.approach is not None and initial is None:
        first = replace(descent, steps=APPROACH, restarts=0, start=max(descent.start, NUDGE * pgd.ball.eps))
        initial = first(seen, images[:, None], aim.approach, generator=generators, scale=scale)
    adversarial = descent(
        seen,
        images[:, None],
        aim.objective,
        clean=clean.embeddings[:, None],
        generator=generators,
        initial=initial,
        scale=scale,
    ).squeeze(1)
    if pgd.eight_bits:
        adversarial = rounded(adversarial, images, pgd.ball, None if scale is None else scale.view(-1, 1, 1, 1))
    with torch.no_grad():
        z = embed(adversarial)
        if not z.isfinite().all():
            raise FloatingPointError("an embedding is not finite")
        after = plan.outcome(z)
    return Attacked(images, adversarial, chosen, before, after, plan.outcome)
