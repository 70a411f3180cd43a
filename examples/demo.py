"""Train a plain and a hardened embedder on scikit-learn's handwritten digits, attack both in ten ways, and compare.

``make demo`` runs it; nothing is downloaded. The runs stay in ``runs/demo-*``, with their evaluations.
"""

import shutil
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid

from holdfast import evaluate
from holdfast.evaluation.protocols import COLUMNS
from holdfast.report import Result
from holdfast.runs.config import resolve
from holdfast.training.loop import train

MODELS = {"plain": "none-r", "hardened": "hm-s-lga-ics"}
EPS = 0.2
SETTINGS = {
    "data.name": "digits",
    "pgd.eps": EPS,
    "pgd.step": 0.05,
    "pgd.steps": 8,
    "optim.epochs": 20,
    "validation.every": 20,
    "batch.pairs": 64,
}
ATTACKED = 128
MEANING = {
    "CA+": "a random image raised for a query: rank, %",
    "CA-": "a good answer sunk for a query: rank, %",
    "QA+": "a query that raises a random image: rank, %",
    "QA-": "a query that sinks a good answer: rank, %",
    "TMA": "a query made like another image: cosine",
    "ES:D": "a query moved far off: distance, 0 to 2",
    "ES:R": "… and what it finds then: R@1, %",
    "LTM": "a query pushed to wrong digits: R@1, %",
    "GTM": "a query pulled onto a wrong digit: R@1, %",
    "GTT": "a query whose best answer is kept, %",
}


def run() -> dict[str, Result]:
    """Train and attack each model."""
    results = {}
    for name, recipe in MODELS.items():
        folder = Path("runs") / f"demo-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        config = resolve(SETTINGS, {"recipe": recipe})
        train(config, folder, device="cpu")
        results[name] = evaluate(folder, eps=EPS, max_queries=ATTACKED, device="cpu")
    return results


def show(results: dict[str, Result]) -> None:
    """One column per model, one row per figure."""
    console = Console()
    grid = Grid()
    grid.add_column("")
    grid.add_column("what the attacker does, and what is read")
    for name in results:
        grid.add_column(name, justify="right")

    def row(name: str, what: str, column: str, digits: int, *, end: bool = False) -> None:
        values = [result.number(column) for result in results.values()]
        grid.add_row(name, what, *(f"{value:.{digits}f}" for value in values if value is not None), end_section=end)

    row("R@1", "nothing: the images as they are: R@1, %", "R@1", 1, end=True)
    for column in COLUMNS:
        row(column.name, MEANING[column.name], column.name, 3 if column.name in ("TMA", "ES:D") else 1)
    grid.add_section()
    row("robust R@1", "the worst attack on each query: R@1, %", "robust R@1", 1)
    row("ERS", "Empirical Robustness Score, 0 to 100", "ERS", 1)
    grid.add_row("verdict", "can the scores be trusted?", *(result.verdict for result in results.values()))
    console.print("Handwritten digits: how far can an attacker push the results?", style="bold")
    console.print(grid)
    print(
        f"The attacker may change every pixel by {EPS:.0%} of its range; {ATTACKED} images are attacked in each of ten "
        "ways.\nAll figures, with their intervals and checks: holdfast report runs/demo-*"
    )


if __name__ == "__main__":
    show(run())
