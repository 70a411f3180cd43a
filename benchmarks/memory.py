"""Memory that an evaluation needs beyond the model, the pixels and the embeddings: ``python -m benchmarks.memory``.

As many noise images as Stanford Online Products tests with, and an untrained C2F2. Benign metrics, gauges, the start of
k-means, and all attacks of ``strict`` on one batch.
Memory is the process's, from Linux's /proc; what was freed goes back to the system before each reading.
"""

import argparse
import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.noise import SIZE, noise, untrained
from benchmarks.side_by_side import Bar, row
from holdfast.attacks import System
from holdfast.evaluation.records import Records
from holdfast.evaluation.runner import Target, runners_of
from holdfast.evaluation.settings import resolve_settings
from holdfast.metrics.clustering import kmeans
from holdfast.metrics.collapse import gauges
from holdfast.metrics.retrieval import retrieval_metrics
from holdfast.models.embedding import embed_dataset
from holdfast.util.progress import Progress

ITEMS, CLASSES = 60_502, 11_316
"""Of the test split of Stanford Online Products."""

RANKED = 512
"""Queries of the benign metrics: more than one block."""


def resident(field: str = "VmRSS") -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process in MB."""
    if field == "VmRSS":
        ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    return 1024e-6 * int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])


def peak(work: Callable[[], object], before: float | None = None) -> float:
    """The MB that ``work`` needed at its peak beyond what was resident ``before``; by default, when it began."""
    before = resident() if before is None else before
    Path("/proc/self/clear_refs").write_text("5")
    work()
    return resident("VmHWM") - before


def stages(target: Target, queries: int, steps: int, before: float) -> dict[str, float]:
    """MB at the peak of each stage beyond those resident ``before``."""
    system, clusters = target.system, len(target.pixels.table.classes)
    needed = {
        "metrics": peak(lambda: retrieval_metrics(system.queries.take(torch.arange(RANKED)), system.gallery), before),
        "gauges": peak(lambda: gauges(system.gallery.embeddings), before),
        "k-means": peak(lambda: kmeans(system.gallery.embeddings, clusters, iterations=0), before),
    }
    runners = runners_of(target, resolve_settings("224", max_queries=queries, steps=steps), queries)
    with Progress("", queries * len(runners), quiet=True) as progress:
        for runner in runners:
            needed[runner.name] = peak(lambda one=runner: list(one.run(target, Records(None), progress)), before)  # type: ignore[misc]
    return needed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--classes", type=int, default=CLASSES)
    parser.add_argument("--queries", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()

    pixels = noise(options.items, options.classes)
    wrapped = untrained(pixels)
    embedded = embed_dataset(wrapped, pixels, torch.device("cpu"))
    before = resident()
    system = System(embedded.queries, embedded.gallery)
    shared = {"queries and gallery": resident() - before}
    target = Target(wrapped, system, pixels)
    needed = shared | stages(target, options.queries, options.steps, before)
    row(
        f"evaluation memory beyond model and data, {options.items:,} x {embedded.z.shape[1]}, "
        f"{options.queries} queries at once",
        max(needed.values()) / 1000,
        "GB",
        Bar(most=0.5),
        items=options.items,
        steps=options.steps,
        data_mb=1e-6 * (options.items * SIZE**2 + embedded.z.nbytes),
        stages_mb=needed,
        kept_mb=resident() - before,
    )


if __name__ == "__main__":
    main()
