"""What attacks and benign metrics cost as the work grows: ``python -m benchmarks.axes queries gallery steps ranks``.

Processor seconds, images through the network, and memory beyond what was in use, of the ten scores' attacks, of the
stages of the cascade that have no approach, and, as the gallery grows, of the benign metrics; beside what linear growth
from the first row would give. The network is an untrained C2F2 for 8 pixels (``ranks``: for 28), the gallery synthetic,
the radius so small that no attack ends early. ``ranks`` are processes under torchrun, and wall seconds: run these on a
quiet machine with a core for each.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from benchmarks.memory import peak
from benchmarks.noise import fresh, noise
from benchmarks.side_by_side import tell
from holdfast.attacks import System
from holdfast.core import gallery
from holdfast.core.gallery import Gallery, Queries
from holdfast.data import Pixels, Table
from holdfast.evaluation.evaluate import evaluate
from holdfast.evaluation.protocols import CASCADE
from holdfast.evaluation.records import Records
from holdfast.evaluation.robust import cascade
from holdfast.evaluation.robust.cascade import descent
from holdfast.evaluation.runner import Runner, Target
from holdfast.evaluation.settings import resolve_settings
from holdfast.metrics.retrieval import retrieval_metrics
from holdfast.models import embedding
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.models.wrapped import WrappedModel
from holdfast.util import distributed
from holdfast.util.progress import Progress

QUERIES = (128, 1_280, 10_000)
GALLERY = (10_000, 60_000, 250_000, 1_000_000)
STEPS = (4, 8, 16, 32)
RANKS = (1, 2)
FEW, ITEMS = 64, 10_000
"""Queries, and images of the gallery, where others grow."""
EPS, SIDE, EACH = 1e-6, 8, 10
"""The radius; the side of the images; gallery images of a class."""


def target_of(queries: int, items: int) -> Target:
    """Noise, embedded; near each query a gallery image of its class, and random vectors for the rest."""
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (2 * queries, SIDE, SIDE), np.uint8)
    labels = np.arange(items) % max(2, items // EACH)
    pixels = Pixels(Table.build("noise", images, np.arange(len(images)) % 2, ["test"] * len(images)), SIDE, channels=1)
    model = WrappedModel(Embedder(EmbedderConfig("c2f2", channels=1, size=SIDE)).eval().requires_grad_(False))
    model.examine(pixels.read(torch.arange(32))[0])
    with torch.no_grad():
        asked = torch.cat([model(pixels.read(rows)[0]) for rows in torch.split(torch.arange(queries), 256)])
    z = torch.empty(items, asked.shape[1])
    for part in torch.split(z, FEW * 64):
        normalize(part.normal_(), dim=1, out=part)
    classes, ids = torch.from_numpy(labels), torch.arange(items) + queries
    z[:queries] = normalize(asked + 0.01 * z[:queries], dim=1)
    return Target(
        model, System(Queries(asked, classes[:queries], ids[:queries] - queries), Gallery(z, classes, ids)), pixels
    )


def attacks(steps: int, queries: int) -> list[Runner]:
    """The attacks of the ten scores, on as many queries or gallery images."""
    resolved, rows = resolve_settings("28", eps=EPS, step=EPS, steps=steps), torch.arange(queries)
    return [Runner(name, resolved.attack(name), resolved.pgd(), rows) for name in resolved.attacks]


def stages(steps: int, queries: int) -> list[Runner]:
    """Stages of the cascade with so many steps."""
    resolved, rows = resolve_settings("28", eps=EPS), torch.arange(queries)
    short = [replace(one, steps=steps) for one in CASCADE if one.attack.toward is None]
    return [Runner(one.name, one.attack, descent(one, resolved), rows) for one in short]


def carry_out(target: Target, runners: list[Runner]) -> None:
    """Attack."""
    with Progress("", 0, quiet=True) as progress:
        for runner in runners:
            for _ in runner.run(target, Records(None), progress):
                pass


def rank_all(target: Target) -> None:
    """The benign metrics of the queries."""
    retrieval_metrics(target.system.queries, target.system.gallery)


class Axis:
    """Rows that say how costs grow along one axis."""

    def __init__(self, name: str, fixed: str) -> None:
        self.name, self.fixed = name, fixed
        self.first: dict[str, tuple[float, float]] = {}

    def measure(self, what: str, size: int, work: Callable[[], None], target: Target) -> None:
        """Do the work, and print what it cost; of the first size every growth is reckoned from."""
        model, before, began = target.model, target.model.forward + target.model.backward, process_time()
        megabytes = peak(work)
        seconds, passes = process_time() - began, model.forward + model.backward - before
        self.say(what, size, seconds, passes=passes, megabytes=megabytes)

    def say(self, what: str, size: int, seconds: float, **facts: float) -> None:
        """Print a row."""
        start, least = self.first.setdefault(what, (size, seconds))
        facts |= {"times linear": seconds / (least * size / start)}
        tell(f"{what}, {size:,} {self.name} ({self.fixed})", seconds, "s", **facts)


def by_queries() -> None:
    """Queries."""
    axis, steps = Axis("queries", f"{ITEMS:,} in the gallery, 2 steps"), 2
    for queries in QUERIES:
        target = target_of(queries, ITEMS)
        axis.measure("attacks", queries, partial(carry_out, target, attacks(steps, queries)), target)
        axis.measure("cascade", queries, partial(carry_out, target, stages(steps, queries)), target)


def by_gallery() -> None:
    """Images of the gallery."""
    axis, steps = Axis("in the gallery", f"{FEW} queries, 2 steps"), 2
    for items in GALLERY:
        target = target_of(FEW, items)
        axis.measure("benign metrics", items, partial(rank_all, target), target)
        axis.measure(
            "attack qa-",
            items,
            partial(carry_out, target, [one for one in attacks(steps, FEW) if one.name == "qa-"]),
            target,
        )
        axis.measure("stage margin", items, partial(carry_out, target, stages(steps, FEW)[:1]), target)


def by_steps() -> None:
    """Steps of an attack."""
    axis, target = Axis("steps", f"{FEW} queries, {ITEMS:,} in the gallery"), target_of(FEW, ITEMS)
    for steps in STEPS:
        axis.measure("attacks", steps, partial(carry_out, target, attacks(steps, FEW)), target)
        axis.measure("cascade", steps, partial(carry_out, target, stages(steps, FEW)), target)


SPREAD = "two stages, gallery spread"
ASKED: dict[str, dict[str, Any]] = {
    "es and qa-, 8 steps": {"attacks": ("es", "qa-"), "step": EPS, "steps": 8},
    "two stages": {"protocol": "worst"},
    SPREAD: {"protocol": "worst"},
}
"""The first stages of the cascade. A gallery that is spread lies in four blocks, of which a single process has all."""


def by_ranks() -> None:
    """Processes under torchrun, each with a thread."""
    axis = Axis("processes", "256 queries, 2,000 in the gallery; wall seconds")
    for ranks in RANKS:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        done = subprocess.run([*command, "-m", "benchmarks.axes", "rank"], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        for what in ASKED:
            axis.say(what, ranks, found[what], passes=found[f"{what} passes"])


def rank() -> None:
    """One of the processes; the first prints what it took."""
    pixels, found = noise(2_000, 1_000, twins=True), dict[str, float]()
    given: dict[str, Any] = {"eps": EPS, "max_queries": 256, "checks": False, "quiet": True, "device": "cpu"}
    cascade.CASCADE = CASCADE[:2]  # type: ignore[attr-defined]
    with distributed.process_group(torch.device("cpu")):
        for what, more in ASKED.items():
            if what == SPREAD:
                embedding.ROOM, gallery.BLOCK = 0.0, 500
            began = perf_counter()
            cost = evaluate(fresh(), pixels, **given, **more).content["cost"]
            found |= {what: perf_counter() - began, f"{what} passes": cost["forward"] + cost["backward"]}
        if distributed.rank() == 0:
            print(json.dumps(found))


AXES = {"queries": by_queries, "gallery": by_gallery, "steps": by_steps, "ranks": by_ranks, "rank": rank}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("axes", nargs="+", choices=AXES, metavar="AXIS", help=", ".join([*AXES][:-1]))
    for axis in parser.parse_args().axes:
        AXES[axis]()


if __name__ == "__main__":
    main()
