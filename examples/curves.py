"""Draw the training curves of a run: loss and mean hardness per step. Needs the extra ``plot`` (matplotlib).

python examples/curves.py runs/fashion-hm curves.svg
"""

import sys
from pathlib import Path

import numpy as np

from holdfast.runs.folder import Run
from holdfast.util.extras import require

CURVES = {
    "triplet_loss": ("triplet loss", "#000000", "-"),
    "source_hardness": ("H_S, source triplets", "#0072b2", "-"),
    "destination_hardness": ("H_D, destination", "#d55e00", "--"),
    "hardness": ("hardness after the attack", "#009e73", "-"),
}
WINDOW = 25


def draw(run: Run, out: Path) -> None:
    """Means over 25 steps of each curve that the run logged."""
    require("matplotlib", extra="plot")
    from matplotlib import pyplot  # noqa: PLC0415

    lines = run.steps()
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for key, (label, colour, style) in CURVES.items():
        points = np.array([(line["step"], line[key]) for line in lines if key in line])
        count = len(points) // WINDOW * WINDOW
        if count:
            step, value = points[:count].reshape(-1, WINDOW, 2).mean(axis=1).T
            axes.plot(step, value, style, color=colour, label=label)
    axes.set(xlabel="step", title=f"{run.config().recipe} on {run.config().data.name}")
    axes.axhline(0, color="#999999", linewidth=0.5)
    figure.legend(loc="outside lower center", ncols=len(CURVES), frameon=False)
    figure.savefig(out)


if __name__ == "__main__":
    draw(Run(sys.argv[1]), Path(sys.argv[2]))
