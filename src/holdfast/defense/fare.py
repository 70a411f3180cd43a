"""Hardening without labels: perturbed images are embedded where the original embeds the clean ones."""

from dataclasses import replace

from torch import Generator, Tensor, nn

from holdfast.core.objectives import ShiftEmbedding
from holdfast.core.pgd import PGD
from holdfast.defense.base import BatchOf, Perturbing, Step
from holdfast.defense.original import squared_distances
from holdfast.defense.passes import Counted, count


class Fare(Perturbing):
    """``min_φ mean_x max_δ ‖φ(x + δ) - φ0(x)‖²``, φ0 the original (Schlarmann et al., ICML 2024, FARE).

    The descent starts anywhere in the ball, unless ``pgd`` has a start. No labels are used. With a constraint it is
    LORE (Poppi et al. 2025).
    """

    keeps_original = True
    labels = False

    def __init__(self, pgd: PGD) -> None:
        super().__init__()
        self.pgd = replace(pgd, start=pgd.start or pgd.ball.eps)

    def step(self, embedder: nn.Module, images: Tensor, batch_of: BatchOf, generator: Generator | None) -> Step:
        origins, fused = self.origins(images), self.fused(embedder, images)
        attacked, objective = Counted(fused), ShiftEmbedding(origins[:, None])
        with fused.frozen():
            shifted = self.pgd(attacked, images[:, None], objective, generator=generator).squeeze(1)
        loss = squared_distances(embedder(shifted), origins).mean()
        passes = count(attacked.images + 2 * len(images), images)
        return Step(loss, {"loss": loss.detach(), "distance_shifted": loss.detach(), "passes": passes})
