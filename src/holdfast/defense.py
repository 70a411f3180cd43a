"""Defenses: draw triplets, perturb some of their images toward a goal, learn from what comes out.

A defense is called as ``step = defense(embedder, images, labels)`` and followed by ``step.loss.backward()``, in the
house's training loop or anyone else's. The embedder is any module from pixels in [0, 1] to unit vectors.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from holdfast.destinations import Destination
from holdfast.errors import HoldfastError
from holdfast.frozen import frozen
from holdfast.goals import CollapsePair, RaiseHardness, ShiftEmbedding
from holdfast.losses import intra_class_structure, triplet_loss
from holdfast.perturb import PGD, Objective
from holdfast.samplers import Batch, Sampler
from holdfast.triplets import ANCHOR, NEGATIVE, POSITIVE, Triplets, hardness


@dataclass(frozen=True)
class Step:
    """One training step: the ``loss`` to call ``backward()`` on, and what to log, scalars by name."""

    loss: Tensor
    logs: dict[str, Tensor]


@dataclass(frozen=True)
class Learning:
    """What every defense does with the triplets that come out.

    margin: of the triplet loss, in units of distance.
    structure: weight of the intra-class structure term (lambda); 0 leaves it out.
    """

    margin: float = 0.2
    structure: float = 0.0


class Defense(nn.Module):
    """The base of all: ``forward(embedder, images (B, C, H, W), labels (B,), anchors (T,)) -> Step``."""

    def __init__(self, source: Sampler, learning: Learning) -> None:
        super().__init__()
        self.source, self.learning = source, learning

    @abstractmethod
    def forward(
        self,
        embedder: nn.Module,
        images: Tensor,
        labels: Tensor,
        anchors: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Step:
        """One step on a batch; ``anchors`` are positions in it, by default every second image."""

    def learn(self, z: Tensor, benign: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of embedded triplets ``(T, 3, D)``, with the intra-class term where benign ones are given."""
        loss = triplet_loss(z, self.learning.margin)
        self.observe(loss)
        logs = {"triplet_loss": loss.detach(), "hardness": hardness(z.detach()).mean()}
        if self.learning.structure:
            assert benign is not None
            structure = intra_class_structure(benign[:, ANCHOR], z[:, ANCHOR], benign[:, POSITIVE])
            loss = loss + self.learning.structure * structure
            logs["structure_loss"] = structure.detach()
        return loss, {"loss": loss.detach(), **logs}

    def observe(self, loss: Tensor) -> None:
        """Take note of the triplet loss of this iteration."""


class Plain(Defense):
    """No defense: triplets drawn on, and loss of, the clean images."""

    def __init__(self, source: Sampler, learning: Learning) -> None:
        super().__init__(source, learning)
        _check_structure(learning, roles=[])

    def forward(
        self,
        embedder: nn.Module,
        images: Tensor,
        labels: Tensor,
        anchors: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Step:
        z = embedder(images)
        triplets = self.source(Batch.of(z, labels, anchors), generator)
        loss, logs = self.learn(triplets.take(z))
        return Step(loss, {**logs, "passes": _count(len(images), images)})


class Perturbing(Defense):
    """A defense that perturbs images, with ``pgd``."""

    def __init__(self, source: Sampler, learning: Learning, pgd: PGD) -> None:
        super().__init__(source, learning)
        self.pgd = pgd


class ShiftedBatch(Perturbing):
    """Every image of the batch is shifted by itself, and triplets are drawn on what comes out (EST, Zhou 2020)."""

    def __init__(self, source: Sampler, learning: Learning, pgd: PGD) -> None:
        super().__init__(source, learning, _off_origin(pgd))

    def forward(
        self,
        embedder: nn.Module,
        images: Tensor,
        labels: Tensor,
        anchors: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Step:
        embed = Counted(embedder)
        with frozen(embedder):
            with torch.no_grad():
                clean = embed(images)
            shift = ShiftEmbedding(clean[:, None])
            shifted = self.pgd(embed, images[:, None], shift, generator=generator).squeeze(1)
        z = embed(shifted)
        triplets = self.source(Batch.of(z, labels, anchors), generator)
        benign = None
        if self.learning.structure:
            benign = _embed_groups(embed, triplets.take(images)[:, :NEGATIVE])
        loss, logs = self.learn(triplets.take(z), benign)
        logs["source_hardness"] = hardness(triplets.take(clean)).mean()
        return Step(loss, {**logs, "passes": _count(embed.images, images)})


class AdversarialTriplets(Perturbing):
    """Triplets are drawn on the clean images and some of their roles are perturbed together, toward the goal."""

    def __init__(self, source: Sampler, learning: Learning, pgd: PGD, goal: "Goal") -> None:
        super().__init__(source, learning, goal.prepare(pgd))
        self.goal = goal
        _check_structure(learning, goal.roles)

    def forward(
        self,
        embedder: nn.Module,
        images: Tensor,
        labels: Tensor,
        anchors: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Step:
        embed = Counted(embedder)
        roles = self.goal.roles
        with frozen(embedder):
            with torch.no_grad():
                clean = embed(images)
            batch = Batch.of(clean, labels, anchors)
            triplets = self.source(batch, generator)
            objective = self.goal(batch, triplets, generator)
            originals, z_clean = triplets.take(images), triplets.take(clean)
            targets = originals[:, roles]
            perturbed = self.pgd(embed, targets, objective, clean=z_clean[:, roles], generator=generator)

        # Clean and adversarial images go through separately: where BatchNorm trains, each has its own statistics.
        z = [*_embed_groups(embed, perturbed).unbind(1)]
        structure = (ANCHOR, POSITIVE) if self.learning.structure else ()
        benign_roles = [r for r in range(3) if r not in roles or r in structure]
        benign = _embed_groups(embed, originals[:, benign_roles]) if benign_roles else None
        by_role = dict(zip(roles, z, strict=True))
        if benign is not None:
            by_role = {**dict(zip(benign_roles, benign.unbind(1), strict=True)), **by_role}
        loss, logs = self.learn(torch.stack([by_role[r] for r in range(3)], dim=1), benign)

        logs["source_hardness"] = hardness(z_clean).mean()
        logs["moved"] = (perturbed != targets).flatten(1).any(dim=1).float().mean()
        if isinstance(objective, RaiseHardness):
            logs["destination_hardness"] = objective.destination.mean()
        return Step(loss, {**logs, "passes": _count(embed.images, images)})

    def observe(self, loss: Tensor) -> None:
        self.goal.observe(loss)


class Goal(nn.Module):
    """Makes the objective of a batch's triplets: ``goal(batch, triplets, generator) -> Objective``.

    roles: which images of a triplet are perturbed, a list of ANCHOR, POSITIVE, NEGATIVE.
    """

    roles: list[int]

    @abstractmethod
    def forward(self, batch: Batch, triplets: Triplets, generator: Generator | None) -> Objective:
        """The objective, with one value per triplet."""

    def prepare(self, pgd: PGD) -> PGD:
        """The descent as this goal needs it."""
        return pgd

    def observe(self, loss: Tensor) -> None:
        """Take note of the triplet loss of this iteration."""


class ReachHardness(Goal):
    """All three images together raise the triplet's hardness to its destination (HM; min-max with ``H_D = 2``)."""

    roles = [ANCHOR, POSITIVE, NEGATIVE]  # noqa: RUF012

    def __init__(self, destination: Destination) -> None:
        super().__init__()
        self.destination = destination

    def forward(self, batch: Batch, triplets: Triplets, generator: Generator | None) -> Objective:
        return RaiseHardness(self.destination(batch, generator))

    def observe(self, loss: Tensor) -> None:
        self.destination.observe(loss)


class Collapse(Goal):
    """Positive and negative are pulled together, the anchor stays clean (ACT)."""

    roles = [POSITIVE, NEGATIVE]  # noqa: RUF012

    def forward(self, batch: Batch, triplets: Triplets, generator: Generator | None) -> Objective:
        return CollapsePair()


class Shift(Goal):
    """Positive and negative each move away from where they were, the anchor stays clean (REST)."""

    roles = [POSITIVE, NEGATIVE]  # noqa: RUF012

    def prepare(self, pgd: PGD) -> PGD:
        return _off_origin(pgd)

    def forward(self, batch: Batch, triplets: Triplets, generator: Generator | None) -> Objective:
        return ShiftEmbedding(triplets.take(batch.embeddings)[:, self.roles])


class Counted:
    """An embedder that counts the images passed through it, forward."""

    def __init__(self, embed: nn.Module) -> None:
        self.embed, self.images = embed, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.images += len(images)
        z: Tensor = self.embed(images)
        return z


def _check_structure(learning: Learning, roles: list[int]) -> None:
    if learning.structure and ANCHOR not in roles:
        raise HoldfastError(
            "the intra-class structure term needs a perturbed anchor, and this defense leaves the anchor clean; "
            "use it with HM, EST or min-max"
        )


def _off_origin(pgd: PGD) -> PGD:
    """A shift has no gradient where it starts: begin within one step of the image."""
    return replace(pgd, start=pgd.start or pgd.step)


def _embed_groups(embed: Counted, images: Tensor) -> Tensor:
    """``(G, R, C, H, W) -> (G, R, D)``."""
    return embed(images.flatten(0, 1)).view(*images.shape[:2], -1)


def _count(images: int, like: Tensor) -> Tensor:
    return torch.tensor(float(images), device=like.device)
