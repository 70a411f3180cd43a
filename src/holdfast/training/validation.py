"""What training looks at between epochs: benign scores, collapse gauges, and R@1 under a short attack."""

import math
from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from holdfast.attacks.base import System, attack_images
from holdfast.attacks.misrank import ODDS
from holdfast.core.fused import FusedNetwork
from holdfast.core.pgd import PGD, Adaptive
from holdfast.data import Pixels
from holdfast.metrics.benign import benign
from holdfast.metrics.collapse import collapsed
from holdfast.models.embedder import Embedder
from holdfast.models.embedding import EmbeddedDataset, embed_dataset
from holdfast.runs.config import Config
from holdfast.training.build import pgd_of

ATTACKED = "R@1 attacked"
BLOCK = 128
"""Queries attacked at once."""
STEPS = 20


def validate(config: Config, embedder: Embedder, pixels: Pixels, device: torch.device) -> tuple[dict[str, float], bool]:
    """Scores of a table that is asked, by name, and whether the embedder has collapsed.

    ``R@1 attacked`` is over ``validation.attacked`` queries, the same ones each time; NaN where that is 0.
    """
    embedded = embed_dataset(embedder, pixels, device)
    scores = benign(embedded.queries, embedded.gallery) | {ATTACKED: _attacked(config, embedder, pixels, embedded)}
    return scores, collapsed(scores, embedded.classes)


def merit(scores: Mapping[str, float]) -> float:
    """What the best weights are chosen by: the mean of R@1 and, where it is measured, R@1 under attack."""
    attacked = scores[ATTACKED]
    return scores["R@1"] if math.isnan(attacked) else (scores["R@1"] + attacked) / 2


def describe(scores: Mapping[str, float]) -> str:
    """One line."""
    return (
        f"R@1 {scores['R@1']:.1f}, attacked {scores[ATTACKED]:.1f}, mAP {scores['mAP']:.1f}, "
        f"mean cosine {scores['mean_cosine']:.3f}, effective rank {scores['effective_rank']:.1f}"
    )


def _attacked(config: Config, embedder: Embedder, pixels: Pixels, embedded: EmbeddedDataset) -> float:
    """R@1 in percent of some queries under the second stage of the cascade on robust R@1: an upper bound of that."""
    queries, count = embedded.queries, config.validation.attacked
    if not count:
        return math.nan
    matched = torch.from_numpy(pixels.table.matched_queries())[queries.ids.cpu()].nonzero().squeeze(1)
    chosen = matched[torch.randperm(len(matched), generator=Generator().manual_seed(config.seed))[:count]]
    attack, system = ODDS, System(queries, embedded.gallery)
    ball, generator = pgd_of(config).ball, Generator().manual_seed(config.seed)
    pgd, found = PGD(ball, 2 * ball.eps, STEPS, best=True, schedule=Adaptive()), list[Tensor]()
    for rows in torch.split(chosen.to(queries.ids.device), BLOCK):
        perturbed = queries.take(rows)
        images = pixels.read(perturbed.ids.cpu())[0].to(rows.device)
        network = FusedNetwork(embedder, images)
        with network.frozen():
            aim = attack.choose(perturbed, system, ())
            outcome = attack_images(
                attack, network, system, perturbed, images, chosen=aim, pgd=pgd, generators=generator
            )
        found.append(outcome.after["R@1"])
    return float(torch.cat(found).mean())
