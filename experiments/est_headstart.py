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
from unittest.mock import patch

from torch import Tensor

from holdfast import resolve_config
from holdfast.attacks.shift import HEADSTART
from holdfast.core.objectives import ShiftEmbedding
from holdfast.defense import base as defense
from holdfast.training.loop import train

SETTINGS = {
    "recipe": "est-r",
    "data": {"name": "fashion-mnist", "root": "data/fashion-mnist"},
    "precision": "bfloat16",
    "pgd": {"steps": 8, "step": "12/255"},
}


class Ahead(ShiftEmbedding):
    """A shift seen to have begun, by the same amount in every coordinate."""

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        return super().__call__(z + HEADSTART, rows)


def main() -> None:
    """Train with the recipe's attack replaced for the time being."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    arguments = parser.parse_args()
    settings = SETTINGS | {"optim.epochs": arguments.epochs, "validation.every": arguments.epochs}
    with patch.object(defense, "ShiftEmbedding", Ahead), patch.object(defense, "_off_origin", lambda pgd: pgd):
        train(resolve_config(settings), arguments.out, resume=True, device="cpu")


if __name__ == "__main__":
    main()
