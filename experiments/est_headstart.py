"""EST trained as the authors' code trains it: every shift sets out in the same direction.

    python experiments/est_headstart.py --out results/est-headstart

Their attack maximises the distance of torch, which adds 1e-6 to a difference and so has, where an embedding is still at
its origin, the gradient that raises all of its coordinates. ``est-r`` of holdfast starts from random noise instead.
The run is otherwise ``est-r,pgd.steps=8,pgd.step=12of255,seed=0`` of fashion-quarter.yaml, and with ``--epochs 8``
``est-r,seed=0`` of fashion-whole.yaml. Evaluate it like any other:

    holdfast evaluate results/est-headstart --protocol cvpr22 --max-queries 256 --precision bfloat16 --no-checks
"""

import argparse
from pathlib import Path

from torch import Tensor

from holdfast import PGD, SAMPLERS, LInf, resolve_config, train
from holdfast.attacks.shift import HEADSTART
from holdfast.core.objectives import Objective, ShiftEmbedding
from holdfast.core.samplers import Sampler
from holdfast.defense.base import Learning, ShiftedBatch

SETTINGS = {
    "data": {"name": "fashion-mnist", "root": "data/fashion-mnist"},
    "precision": "bfloat16",
    "pgd": {"steps": 8, "step": "12/255"},
    "validation.share": 0,
}


class Ahead(ShiftEmbedding):
    """A shift seen to have begun, by the same amount in every coordinate."""

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        return super().__call__(z + HEADSTART, rows)


class HeadStart(ShiftedBatch):
    """EST whose shifts set out from the images themselves, ahead."""

    def __init__(self, source: Sampler, learning: Learning, pgd: PGD) -> None:
        super().__init__(source, learning, pgd)
        self.pgd = pgd

    def objective(self, clean: Tensor) -> Objective:
        return Ahead(clean)


def main() -> None:
    """Train with this defense in place of a recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    arguments = parser.parse_args()
    config = resolve_config(SETTINGS, {"optim.epochs": arguments.epochs, "validation.every": arguments.epochs})
    pgd = PGD(LInf(config.pgd.eps), config.pgd.step, config.pgd.steps)
    defense = HeadStart(SAMPLERS["R"], Learning(config.loss.margin), pgd)
    train(config, arguments.out, defense=defense, resume=True, device="cpu")


if __name__ == "__main__":
    main()
