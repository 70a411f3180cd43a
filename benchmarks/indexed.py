"""A gallery of many vectors attacked through an index: ``python -m benchmarks.indexed --items 1000000``.

Vectors of a linear model: classes as directions, each item a noisy copy. The index is built, a stage of robust R@1 is
made on a few queries, as many at once as an evaluation takes, and what comes first is read through the index. Memory is
that beyond the given vectors. The share of ranking is what the same attack takes more than with 1,000 items.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmarks.memory import peak, resident
from benchmarks.side_by_side import Bar, row
from holdfast.attacks import System
from holdfast.attacks.misrank import ODDS
from holdfast.core.gallery import Gallery, Queries
from holdfast.data import Pixels, Table
from holdfast.evaluation.indexed.factory import GalleryIndex, build_index
from holdfast.evaluation.indexed.gallery import images_at_once, through
from holdfast.evaluation.records import Records
from holdfast.evaluation.runner import Runner, Target
from holdfast.evaluation.settings import resolve_settings
from holdfast.models.wrapped import WrappedModel
from holdfast.util.progress import Progress

SIDE, FEW = 8, 1000


class Linear(nn.Module):
    """Images (n, 1, 8, 8) to unit vectors (n, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(SIDE * SIDE, dim, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return normalize(self.layer(images.flatten(1) - 0.5), dim=1)


def gallery(model: Linear, items: int, classes: int, centres: Tensor) -> Gallery:
    """Items (N, dim), made block by block."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(items) % classes
    z = torch.empty(items, model.layer.out_features)
    with torch.no_grad():
        for rows in torch.split(torch.arange(items), 2**14):
            noise = 0.15 * torch.randn(len(rows), SIDE * SIDE, generator=generator)
            z[rows] = model((centres[labels[rows]] + noise).clamp(0, 1))
    return Gallery(z, labels, torch.arange(items) + 2**20)


def attacked(target: Target, steps: int) -> tuple[float, int]:
    """Seconds of the process that a stage takes, and how many queries it breaks."""
    pgd = resolve_settings("28", eps=0.1, steps=steps).pgd()
    rows = torch.arange(len(target.system.queries.ids))
    batch = images_at_once(128, len(target.system.items))
    records, began = Records(None), time.process_time()
    with Progress("", len(rows), quiet=True) as progress:
        list(Runner("odds", ODDS, pgd, rows, 0, batch).run(target, records, progress))
    return time.process_time() - began, sum(one["after"]["R@1"] == 0 for one in records.of("odds"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--index", default="IVF256,SQ8:nprobe=8")
    options = parser.parse_args()

    torch.manual_seed(0)
    model = Linear(options.dim).eval().requires_grad_(False)
    centres = torch.rand(options.classes, SIDE * SIDE)
    stored = gallery(model, options.items, options.classes, centres)
    noisy = centres[: options.queries] + 0.15 * torch.randn(options.queries, SIDE * SIDE)
    images = (255 * noisy.clamp(0, 1)).round().to(torch.uint8).view(-1, SIDE, SIDE).numpy()
    table = Table.build(
        "queries",
        images,
        np.arange(options.queries),
        ["test"] * options.queries,
        is_query=np.zeros(options.queries, bool),
    )
    pixels = Pixels(table, SIDE, channels=1)
    asking = Queries(
        model(pixels.read(torch.arange(options.queries))[0]),
        torch.arange(options.queries),
        torch.arange(options.queries),
    )
    wrapped, system = WrappedModel(model, width=16), System(asking, stored)

    before, found = resident(), list[GalleryIndex]()
    began = time.process_time()
    built = peak(lambda: found.append(build_index(options.index, stored.embeddings)), before)
    seconds = time.process_time() - began
    index = found[0]
    target = Target(wrapped, through(index, system), pixels)
    taken: list[tuple[float, int]] = []
    needed = peak(lambda: taken.append(attacked(target, options.steps)), before)
    (full, broken), kept = taken[0], resident() - before
    few = Gallery(index.items[:FEW], stored.labels[:FEW], stored.ids[:FEW])
    bare, _ = attacked(replace(target, system=System(asking, few)), options.steps)
    row(
        f"{options.index}, {options.items:,} x {options.dim}: memory beyond the vectors",
        max(built, needed) / 1000,
        "GB",
        Bar(most=2.0),
        items=options.items,
        dim=options.dim,
        vectors_mb=1e-6 * stored.embeddings.nbytes,
        building_mb=built,
        building_seconds=seconds,
        attacking_mb=needed,
        kept_mb=kept,
        attack_seconds=full,
        share_of_ranking=1 - bare / full,
        queries=options.queries,
        steps=options.steps,
        broken=broken,
    )
    share = f"{100 * (1 - bare / full):.0f} % of it ranking"
    print(f"CPU seconds: build {seconds:.1f}, attack {full:.1f}, {share}; wrong then: {broken} of {options.queries}")


if __name__ == "__main__":
    main()
