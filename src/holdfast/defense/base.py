"""Defenses: draw triplets, perturb some of their images toward a goal, learn from what comes out.

A defense is called as ``step = defense(embedder, images, labels)`` and followed by ``step.loss.backward()``, in the
house's training loop or anyone else's. The embedder is any module from pixels in [0, 1] to unit vectors.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from holdfast.core.fused import FusedNetwork
from holdfast.core.objectives import CollapsePair, Objective, RaiseHardness, ShiftEmbedding
from holdfast.core.pgd import PGD
from holdfast.core.samplers import EmbeddedBatch, Sampler
from holdfast.core.triplets import ANCHOR, NEGATIVE, POSITIVE, Triplets, hardness
from holdfast.defense.destinations import Destination
from holdfast.defense.losses import intra_class_structure, triplet_loss
from holdfast.defense.original import Constraint, Original
from holdfast.defense.passes import Counted, count
from holdfast.util.errors import HoldfastError


@dataclass(frozen=True)
class Step:
    """One training step: the ``loss`` to call ``backward()`` on, and what to log, scalars by name.

    Under ``passes`` stand the images passed forward, where they are counted.
    """

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


BatchOf = Callable[[Tensor], EmbeddedBatch]
"""From embeddings ``(B, D)`` of a step's images to what triplets are drawn from."""


class Defense(nn.Module):
    """The base of all: ``forward(embedder, images (B, C, H, W), labels (B,), anchors (T,)) -> Step``.

    One of your own overrides that, or :meth:`step`.

    constraint: what holds the clean embeddings near those of the ``original``; by default nothing. keeps_original:
    whether the defense needs the embedder as it was at the begin, be it constrained or not. labels: whether it learns
    from the labels of the images.
    """

    keeps_original = False
    labels = True

    def __init__(self) -> None:
        super().__init__()
        self.original: Original | None = None
        self.constraint: Constraint | None = None

    def begin(self, embedder: nn.Module, images: Tensor) -> None:
        """Take note of the embedder as it is: called once, before the first step, with images like those to come."""
        if self.keeps_original or self.constraint is not None:
            self.original = Original(embedder)
            if self.constraint is not None:
                self.constraint.begin(self.original(images))

    def forward(
        self,
        embedder: nn.Module,
        images: Tensor,
        labels: Tensor | None = None,
        anchors: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Step:
        """One step on a batch; ``anchors`` are positions in it, by default every second image."""

        def batch_of(z: Tensor) -> EmbeddedBatch:
            if labels is None:
                raise HoldfastError(f"{type(self).__name__} draws triplets, which needs the labels of the images")
            return EmbeddedBatch.of(z, labels, anchors)

        step = self.step(embedder, images, batch_of, generator)
        if self.constraint is None:
            return step
        term, logs = self.constraint(embedder(images), self.origins(images))
        loss = step.loss + term
        if "passes" in step.logs:
            logs["passes"] = step.logs["passes"] + 2 * len(images)
        return Step(loss, {**step.logs, **logs, "loss": loss.detach()})

    @abstractmethod
    def step(self, embedder: nn.Module, images: Tensor, batch_of: BatchOf, generator: Generator | None) -> Step:
        """As :meth:`forward`; ``batch_of`` knows labels and anchors."""

    def origins(self, images: Tensor) -> Tensor:
        """Images as the original embeds them, ``(B, C, H, W) -> (B, D)``."""
        if self.original is None:
            raise HoldfastError("this defense compares with the original: call begin(embedder, images) before training")
        z: Tensor = self.original(images)
        return z


class TripletDefense(Defense):
    """A defense that learns from triplets, which the sampler ``source`` draws."""

    def __init__(self, source: Sampler, learning: Learning) -> None:
        super().__init__()
        self.source, self.learning = source, learning

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


class Plain(TripletDefense):
    """No defense: triplets drawn on, and loss of, the clean images."""

    def __init__(self, source: Sampler, learning: Learning) -> None:
        super().__init__(source, learning)
        _check_structure(learning, roles=[])

    def step(self, embedder: nn.Module, images: Tensor, batch_of: BatchOf, generator: Generator | None) -> Step:
        z = embedder(images)
        loss, logs = self.learn(self.source(batch_of(z), generator).take(z))
        return Step(loss, {**logs, "passes": count(len(images), images)})


class Perturbing(Defense):
    """A defense that perturbs images, with ``pgd``."""

    pgd: PGD

    @cached_property
    def fused_networks(self) -> dict[torch.dtype | None, FusedNetwork]:
        """By precision; left behind where the defense is copied or pickled."""
        return {}

    def fused(self, embedder: nn.Module, images: Tensor) -> FusedNetwork:
        """The embedder as it is now, the way the adversary runs it: in the precision of the autocast around it."""
        kind = images.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        fused = self.fused_networks.get(precision)
        if fused is not None and fused.module is embedder:
            fused.refresh()
        else:
            fused = self.fused_networks[precision] = FusedNetwork(embedder, images, precision)
        return fused

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "fused_networks"}


class ShiftedBatch(Perturbing, TripletDefense):
    """Every image of the batch is shifted by itself, and triplets are drawn on what comes out (EST, Zhou 2020)."""

    def __init__(self, source: Sampler, learning: Learning, pgd: PGD) -> None:
        super().__init__(source, learning)
        self.pgd = _off_origin(pgd)

    def objective(self, clean: Tensor) -> Objective:
        """What the descent minimises, of images with clean embeddings ``(B, 1, D)``."""
        return ShiftEmbedding(clean)

    def step(self, embedder: nn.Module, images: Tensor, batch_of: BatchOf, generator: Generator | None) -> Step:
        fused = self.fused(embedder, images)
        embed, attacked = Counted(embedder), Counted(fused)
        with fused.frozen():
            with torch.no_grad():
                clean = attacked(images)
            objective = self.objective(clean[:, None])
            shifted = self.pgd(attacked, images[:, None], objective, generator=generator).squeeze(1)
        z = embed(shifted)
        triplets = self.source(batch_of(z), generator)
        benign = _embed_groups(embed, triplets.take(images)[:, :NEGATIVE]) if self.learning.structure else None
        loss, logs = self.learn(triplets.take(z), benign)
        logs["source_hardness"] = hardness(triplets.take(clean)).mean()
        return Step(loss, {**logs, "passes": count(embed.images + attacked.images, images)})


class AdversarialTriplets(Perturbing, TripletDefense):
    """Triplets are drawn on the clean images and some of their roles are perturbed together, toward the goal."""

    def __init__(self, source: Sampler, learning: Learning, pgd: PGD, goal: "Goal") -> None:
        super().__init__(source, learning)
        self.pgd, self.goal = goal.prepare(pgd), goal
        _check_structure(learning, goal.roles)

    def step(self, embedder: nn.Module, images: Tensor, batch_of: BatchOf, generator: Generator | None) -> Step:
        fused, roles = self.fused(embedder, images), self.goal.roles
        embed, attacked = Counted(embedder), Counted(fused)
        # The intra-class term learns from the clean images: where each is embedded by itself, one pass serves it, the
        # drawing of triplets, and the triplets that stay as they are.
        shared = bool(self.learning.structure) and independent(embedder)
        if shared:
            seen = embed(images)
        else:
            with fused.frozen(), torch.no_grad():
                seen = attacked(images)
        batch = batch_of(seen)
        triplets = self.source(batch, generator)
        objective = self.goal(batch, triplets, generator)
        originals, z_clean = triplets.take(images), triplets.take(seen)
        targets, known = originals[:, roles], z_clean[:, roles].detach()
        with fused.frozen():
            perturbed = self.pgd(attacked, targets, objective, clean=known, generator=generator)
        moved = (perturbed != targets).flatten(1).any(dim=1)

        z, benign = (z_clean, z_clean) if shared else self._embed(embed, originals, perturbed)
        if shared and moved.any():
            rows, columns = moved.nonzero(), torch.tensor(roles, device=moved.device)
            z = z.index_put((rows, columns), _embed_groups(embed, perturbed[moved]))
        loss, logs = self.learn(z, benign)
        logs["source_hardness"] = hardness(z_clean.detach()).mean()
        logs["moved"] = moved.float().mean()
        if isinstance(objective, RaiseHardness):
            logs["destination_hardness"] = objective.destination.mean()
        return Step(loss, {**logs, "passes": count(embed.images + attacked.images, images)})

    def _embed(self, embed: "Counted", originals: Tensor, perturbed: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings ``(T, 3, D)`` to learn from, and what is benign of them.

        Clean and adversarial images go through separately: where BatchNorm trains, each has its own statistics.
        """
        roles, structure = self.goal.roles, (ANCHOR, POSITIVE) if self.learning.structure else ()
        by_role = dict(zip(roles, _embed_groups(embed, perturbed).unbind(1), strict=True))
        others = [role for role in range(3) if role not in roles or role in structure]
        benign = _embed_groups(embed, originals[:, others]) if others else None
        if benign is not None:
            by_role = {**dict(zip(others, benign.unbind(1), strict=True)), **by_role}
        return torch.stack([by_role[role] for role in range(3)], dim=1), benign

    def observe(self, loss: Tensor) -> None:
        self.goal.observe(loss)


class Goal(nn.Module):
    """Makes the objective of a batch's triplets: ``goal(batch, triplets, generator) -> Objective``.

    roles: which images of a triplet are perturbed, a list of ANCHOR, POSITIVE, NEGATIVE.
    """

    roles: list[int]

    @abstractmethod
    def forward(self, batch: EmbeddedBatch, triplets: Triplets, generator: Generator | None) -> Objective:
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

    def forward(self, batch: EmbeddedBatch, triplets: Triplets, generator: Generator | None) -> Objective:
        return RaiseHardness(self.destination(batch, generator))

    def observe(self, loss: Tensor) -> None:
        self.destination.observe(loss)


class Collapse(Goal):
    """Positive and negative are pulled together, the anchor stays clean (ACT)."""

    roles = [POSITIVE, NEGATIVE]  # noqa: RUF012

    def forward(self, batch: EmbeddedBatch, triplets: Triplets, generator: Generator | None) -> Objective:
        return CollapsePair()


class Shift(Goal):
    """Positive and negative each move away from where they were, the anchor stays clean (REST)."""

    roles = [POSITIVE, NEGATIVE]  # noqa: RUF012

    def prepare(self, pgd: PGD) -> PGD:
        return _off_origin(pgd)

    def forward(self, batch: EmbeddedBatch, triplets: Triplets, generator: Generator | None) -> Objective:
        return ShiftEmbedding(triplets.take(batch.embeddings)[:, self.roles])


def _check_structure(learning: Learning, roles: list[int]) -> None:
    if learning.structure and ANCHOR not in roles:
        raise HoldfastError(
            "the intra-class structure term needs a perturbed anchor, and this defense leaves the anchor clean; "
            "use it with HM, HMQ, EST or min-max"
        )


def _off_origin(pgd: PGD) -> PGD:
    """A shift has no gradient where it starts: begin within one step of the image."""
    return replace(pgd, start=pgd.start or pgd.step)


def _embed_groups(embed: Counted, images: Tensor) -> Tensor:
    """``(G, R, C, H, W) -> (G, R, D)``."""
    return embed(images.flatten(0, 1)).view(*images.shape[:2], -1)


def independent(module: nn.Module) -> bool:
    """Whether each image is embedded by itself: no BatchNorm on statistics of the batch, no torch.nn dropout at work.

    Noise of other kinds, such as stochastic depth, is not noticed; one draw of it then serves all uses of an image.
    """
    batch = (m.training or m.running_mean is None for m in module.modules() if isinstance(m, _BatchNorm))
    noise = (m.training and m.p > 0 for m in module.modules() if isinstance(m, _DropoutNd))
    return not any(batch) and not any(noise)
