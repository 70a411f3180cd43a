"""Train a plain and a hardened embedder on scikit-learn's handwritten digits, attack both, and compare.

``make demo`` runs it; nothing is downloaded. The runs stay in ``runs/demo-*``.
"""

import shutil
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table as Grid
from torch import Generator

from holdfast.assemble import pgd_of, pixels_of, table_of
from holdfast.config import resolve
from holdfast.evaluation import benign, embed_test
from holdfast.probe import adversary, reachable_hardness, shifted_recall
from holdfast.train import train

MODELS = {"plain": "none-r", "hardened": "hm-s-lga-ics"}
SETTINGS = {
    "data.name": "digits",
    "pgd.eps": 0.2,
    "pgd.step": 0.05,
    "pgd.steps": 8,
    "optim.epochs": 20,
    "validation.every": 20,
    "batch.pairs": 64,
}
SAMPLE = 400


def compare() -> dict[str, dict[str, str]]:
    """Train and attack each model; its column of the table."""
    columns = {}
    for name, recipe in MODELS.items():
        config = resolve(SETTINGS, {"recipe": recipe})
        folder = Path("runs") / f"demo-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        began = time.monotonic()
        embedder = train(config, folder, device="cpu")
        seconds = time.monotonic() - began

        pixels = pixels_of(config, table_of(config).test())
        embedded = embed_test(embedder, pixels, torch.device("cpu"))
        images, _ = pixels.read(embedded.ids[:SAMPLE])
        labels, ids = embedded.labels[:SAMPLE], embedded.ids[:SAMPLE]
        pgd, generator = adversary(pgd_of(config).ball), Generator().manual_seed(0)
        clean, raised = reachable_hardness(embedder, images, labels, pgd, generator)
        recall = shifted_recall(embedder, images, labels, ids, embedded.gallery, pgd=pgd, generator=generator)
        columns[f"{name} ({config.recipe})"] = {
            "R@1, images as they are": f"{benign(embedded)['R@1']:.1f} %",
            "R@1, every query attacked": f"{recall:.1f} %",
            "hardness of triplets, as they are": f"{clean:+.3f}",
            "hardness an attacker reaches": f"{raised:+.3f}",
            "seconds of training": f"{seconds:.0f}",
        }
    return columns


def show(columns: dict[str, dict[str, str]]) -> None:
    """One column per model, one row per figure."""
    grid = Grid(title="Handwritten digits: how far can an attacker push the results?", title_justify="left")
    grid.add_column("")
    for name in columns:
        grid.add_column(name, justify="right")
    for row in next(iter(columns.values())):
        grid.add_row(row, *(column[row] for column in columns.values()))
    Console().print(grid)
    print(
        f"The attacker may change every pixel by {SETTINGS['pgd.eps']:.0%} of its range. R@1: how often the nearest "
        "image shows the\nsame digit. Hardness d(anchor, positive) - d(anchor, negative): above 0, another digit is "
        "nearer than the same one."
    )


if __name__ == "__main__":
    show(compare())
