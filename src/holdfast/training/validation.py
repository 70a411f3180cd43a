"""What training looks at between epochs: benign scores, collapse gauges, and R@1 under a short embedding shift."""

import math
from collections.abc import Mapping

import torch
from torch import Generator

from holdfast.data import Pixels
from holdfast.metrics.benign import Embedded, benign, embed_test, is_collapsed
from holdfast.models.embedder import Embedder
from holdfast.runs.config import Config
from holdfast.training.build import pgd_of
from holdfast.training.probe import adversary, shifted_recall

SHIFTED = "R@1 shifted"


def validate(config: Config, embedder: Embedder, pixels: Pixels, device: torch.device) -> tuple[dict[str, float], bool]:
    """Scores of a test set, by name, and whether the embedder has collapsed.

    ``R@1 shifted`` is over ``validation.attacked`` queries, the same ones each time; NaN where that is 0.
    """
    embedded = embed_test(embedder, pixels, device)
    scores = benign(embedded) | {SHIFTED: _shifted(config, embedder, pixels, embedded)}
    return scores, is_collapsed(scores, embedded)


def merit(scores: Mapping[str, float]) -> float:
    """What the best weights are chosen by: the mean of R@1 and, where it is measured, R@1 under shift."""
    shifted = scores[SHIFTED]
    return scores["R@1"] if math.isnan(shifted) else (scores["R@1"] + shifted) / 2


def describe(scores: Mapping[str, float]) -> str:
    """One line."""
    return (
        f"R@1 {scores['R@1']:.1f}, under shift {scores[SHIFTED]:.1f}, mAP {scores['mAP']:.1f}, "
        f"mean cosine {scores['mean_cosine']:.3f}, effective rank {scores['effective_rank']:.1f}"
    )


def _shifted(config: Config, embedder: Embedder, pixels: Pixels, embedded: Embedded) -> float:
    queries, count = embedded.queries, config.validation.attacked
    if not count:
        return math.nan
    matched = torch.from_numpy(pixels.table.matched_queries())[queries.ids.cpu()].nonzero().squeeze(1)
    chosen = matched[torch.randperm(len(matched), generator=Generator().manual_seed(config.seed))[:count]]
    ids, labels = (x[chosen.to(x.device)] for x in (queries.ids, queries.labels))
    images, _ = pixels.read(ids.cpu())
    return shifted_recall(
        embedder,
        images.to(ids.device),
        labels,
        ids,
        embedded.gallery,
        pgd=adversary(pgd_of(config).ball),
        generator=Generator().manual_seed(config.seed),
    )
