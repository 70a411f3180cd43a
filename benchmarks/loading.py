"""How much of a 224-pixel training step waits for images: ``python -m benchmarks.loading --root CUB_200_2011``.

The training loop itself, on few pairs, from random weights; and the loader alone, with one worker. Without ``--root``
the images are JPEG files of random smooth colours, written to a temporary folder.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from benchmarks.side_by_side import Bar, row
from holdfast.data import Loader, PairBatches, Pixels
from holdfast.runs.config import Config, resolve_config
from holdfast.runs.data import table_of
from holdfast.runs.folder import Run
from holdfast.training.loop import train

CLASSES = 4
WIDTH, HEIGHT = 500, 375


def write_jpegs(folder: Path, per_class: int) -> None:
    """A folder per class, twice :data:`CLASSES` of them: half of them train."""
    generator = np.random.default_rng(0)
    for name in range(2 * CLASSES):
        place = folder / str(name)
        place.mkdir()
        for number in range(per_class):
            coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), np.uint8))
            coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(place / f"{number}.jpg", quality=90)


def settings(options: argparse.Namespace, name: str, root: Path) -> Config:
    """The paper's, but for the size of the batch, no warm-up, and no validation."""
    return resolve_config(
        {
            "recipe": "hm-s-lga-ics",
            "steps": options.steps,
            "precision": options.precision,
            "data": {"name": name, "root": str(root), "workers": options.workers},
            "batch.pairs": options.pairs,
            "warmup.epochs": 0,
            "validation.every": 0,
        }
    )


def decoded_per_second(config: Config, images: int) -> float:
    """Images that one worker decodes, resizes and crops in a second of its time."""
    table = table_of(config).train()
    pixels = Pixels(table, config.data.size, config.data.resize, workers=1)
    loader = Loader(pixels, PairBatches(table.labels, config.batch.pairs), augment=True)
    done, began = 0, time.perf_counter()
    for batch in loader.epoch(0):
        done += len(batch.images)
        if done >= images:
            break
    return done / (time.perf_counter() - began)


def measure(options: argparse.Namespace, name: str, root: Path, folder: Path) -> None:
    """Train, read the log, and print."""
    config = settings(options, name, root)
    train(config, folder, device=options.device, quiet=True)
    steps = Run(folder).steps()[1:]  # ahead of the first step nothing can be prepared
    waited, worked = (sum(step[key] for step in steps) for key in ("waited", "seconds"))
    images = 2 * options.pairs * len(steps) / (waited + worked)
    decoded = decoded_per_second(config, options.images)
    row(
        f"share of a {config.data.size}-pixel training step that waits for images, {name}",
        waited / (waited + worked),
        "of a step",
        Bar(most=0.05),
        data=name if options.root else "JPEG files of random smooth images",
        pairs=options.pairs,
        steps=len(steps),
        workers=options.workers,
        pgd_steps=config.pgd.steps,
        precision=config.precision,
        device=str(options.device or ("cuda" if torch.cuda.is_available() else "cpu")),
        seconds_per_step=(waited + worked) / len(steps),
        waited_per_step=waited / len(steps),
        images_per_second=images,
        decoded_per_second_per_worker=decoded,
    )
    print(f"a worker decodes {decoded:.0f} images per second; training consumes {images:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="of CUB-200-2011")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12, help="of training; the first does not count")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=400, help="that the loader alone reads")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device")
    options = parser.parse_args()

    with TemporaryDirectory() as made:
        name, root = "cub", options.root
        if root is None:
            name, root = "folder", Path(made) / "images"
            root.mkdir()
            write_jpegs(root, max(2, -(-max(options.images // 2, options.pairs * options.steps) // CLASSES)))
        measure(options, name, root, Path(made) / "run")


if __name__ == "__main__":
    main()
