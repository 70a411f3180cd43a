"""How the time of an attack grows with the work: ``python -m benchmarks.scaling``.

Attacks without an early end, with twice the queries, or twice the steps (an untrained C2F2, noise for images). And what
the ranking adds to ResNet-18 at 224 pixels, with as large a gallery as Stanford Online Products has (synthetic
embeddings): of QA- with all its steps, added up from their parts, network and objective. The ranking part is the
objective with its gradient for the embeddings in every step, and, once, the choice of targets and the readings.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from benchmarks.noise import noise, untrained
from benchmarks.side_by_side import Bar, interleaved, row
from holdfast.attacks import Plan, System
from holdfast.core.gallery import Gallery, Queries
from holdfast.data import Pixels, Table
from holdfast.evaluation.runner import Target, attack_batch
from holdfast.evaluation.settings import AttackSettings, resolve_settings
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.models.embedding import embed_dataset
from holdfast.models.wrapped import WrappedModel

QUERIES, IMAGES = 128, 64
"""Attacked at once, in the second part; and passed through the network to time it."""

GALLERY = 60_502
CLASSES = 1_000
ATTACK = "qa-"
ENDLESS = ("es", "ltm")


def generators(rows: Tensor) -> list[Generator]:
    """One generator per image."""
    return [Generator().manual_seed(row) for row in rows.tolist()]


def attacking(target: Target, resolved: AttackSettings, queries: int) -> Callable[[], None]:
    """The attacks of a budget on the first images."""
    rows = torch.arange(queries)

    def work() -> None:
        for name in resolved.attacks:
            attack_batch(resolved.attack(name), target, rows, resolved.pgd(), generators=generators(rows))

    return work


def growth(gallery: int, queries: int, steps: int) -> None:
    """Print how time grows with the queries and with the steps."""
    pixels = noise(gallery, 10)
    wrapped = untrained(pixels)
    embedded = embed_dataset(wrapped, pixels, torch.device("cpu"))
    target = Target(wrapped, System(embedded.queries, embedded.gallery), pixels)
    once, twice = (resolve_settings("28", steps=number, attacks=ENDLESS) for number in (steps, 2 * steps))
    seconds = interleaved(
        {
            "once": attacking(target, once, queries),
            "queries": attacking(target, once, 2 * queries),
            "steps": attacking(target, twice, queries),
        }
    )
    facts = {
        "attacks": " ".join(ENDLESS),
        "gallery": gallery,
        "queries": queries,
        "steps": steps,
        "cpu_seconds": seconds,
    }
    for what in ("queries", "steps"):
        row(f"time of attacks with twice the {what}", seconds[what] / seconds["once"], "x", Bar(most=2.3), **facts)


def large_target(size: int) -> Target:
    """ResNet-18, random unit embeddings as gallery, the first of which ask."""
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, size, size, 3), np.uint8)
    pixels = Pixels(Table.build("noise", images, np.arange(IMAGES) % 2, ["test"] * IMAGES), size)
    wrapped = WrappedModel(Embedder(EmbedderConfig("resnet18", size=size)).eval().requires_grad_(False))
    z, ids = normalize(torch.randn(GALLERY, 512), dim=1), torch.arange(GALLERY)
    labels = ids % CLASSES
    queries = Queries(z[:QUERIES], labels[:QUERIES], ids[:QUERIES])
    return Target(wrapped, System(queries, Gallery(z, labels, ids)), pixels)


def smaller(target: Target, items: int) -> Target:
    """The same with the first items as gallery."""
    gallery = target.system.gallery
    part = Gallery(gallery.embeddings[:items], gallery.labels[:items], gallery.ids[:items])
    return replace(target, system=System(target.system.queries, part))


def planned(target: Target, resolved: AttackSettings) -> Plan:
    """The choice of targets, and what follows from it."""
    attack, queries = resolved.attack(ATTACK), target.system.queries
    chosen = attack.choose(queries, target.system, generators(queries.ids))
    return attack.plan(queries, target.system, chosen)


def descending(plan: Plan, z: Tensor) -> Callable[[], None]:
    """The objective of embeddings, and its gradient for them."""
    rows = torch.arange(len(z))

    def work() -> None:
        points = z[:, None].clone().requires_grad_()
        torch.autograd.grad(plan.objective(points, rows).sum(), points)

    return work


def reading(plan: Plan, z: Tensor) -> Callable[[], None]:
    """The readings before and after."""

    def work() -> None:
        with torch.no_grad():
            plan.outcome(z)
            plan.outcome(z)

    return work


def passing(target: Target) -> Callable[[], None]:
    """The network there and back, for all images."""
    images, _ = target.pixels.read(torch.arange(IMAGES))

    def work() -> None:
        pixels = images.clone().requires_grad_()
        torch.autograd.grad(target.model(pixels).sum(), pixels)

    return work


def ranking(size: int) -> None:
    """Print what the ranking adds, and how that grows with the gallery."""
    target = large_target(size)
    quarter = smaller(target, GALLERY // 4)
    resolved = resolve_settings("28" if size <= 32 else "224")
    z = normalize(torch.randn(QUERIES, 512), dim=1)
    plans = {"objective": planned(target, resolved), "objective, quarter": planned(quarter, resolved)}
    seconds = interleaved(
        {
            **{name: descending(plan, z) for name, plan in plans.items()},
            "choice": lambda: planned(target, resolved),
            "readings": reading(plans["objective"], z),
            "network": passing(target),
        }
    )
    seconds["network"] *= QUERIES / IMAGES
    ranked = seconds["choice"] + seconds["readings"] + (resolved.steps + 2) * seconds["objective"]
    share = ranked / (ranked + resolved.steps * seconds["network"])
    facts = {"gallery": GALLERY, "queries": QUERIES, "steps": resolved.steps, "size": size, "cpu_seconds": seconds}
    row(f"ranking part of {ATTACK} on ResNet-18, {size} pixels", share, "of the time", Bar(most=0.05), **facts)
    grown = seconds["objective"] / seconds["objective, quarter"]
    row(f"objective at {GALLERY:,} in the gallery against {GALLERY // 4:,}", grown, "x", Bar(most=4.6), **facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gallery", type=int, default=4_000, help="of the first part")
    parser.add_argument("--queries", type=int, default=128, help="of the first part, and twice as many")
    parser.add_argument("--steps", type=int, default=8, help="of the first part, and twice as many")
    parser.add_argument("--size", type=int, default=224, help="of the images in the second part")
    options = parser.parse_args()
    growth(options.gallery, options.queries, options.steps)
    ranking(options.size)


if __name__ == "__main__":
    main()
