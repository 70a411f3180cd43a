"""Weights to begin from where triplets teach a random network nothing: a cosine classifier on the training classes.

    python experiments/softmax_start.py --data cars --root data/stanford_cars --out results/cars-softmax/start

Each epoch draws a pair for every training image, cropped and flipped at random; Adam at 1e-3, falling to zero along
a cosine; logits are cosines times 16. The folder is a saved embedder, whose model.safetensors others can begin with.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from holdfast import Loader, PairBatches, resolve
from holdfast.assemble import embedder_of, pixels_of, table_of
from holdfast.progress import Progress
from holdfast.replica import PRECISIONS, under

RATE, SCALE = 1e-3, 16.0


def main() -> None:
    """Train, and save the embedder after every epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="cub or cars")
    parser.add_argument("--root", required=True, help="where it lies")
    parser.add_argument("--size", type=int, default=64, help="side of the images")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--out", type=Path, required=True, help="folder for the embedder")
    arguments = parser.parse_args()
    data = {"name": arguments.data, "root": arguments.root, "size": arguments.size}
    config = resolve({"recipe": "none-r", "data": data, "batch.pairs": 28})

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pixels = pixels_of(config, table_of(config).train(), cache=True)
    loader = Loader(pixels, PairBatches(pixels.table.labels, config.batch.pairs), augment=True)
    embedder = embedder_of(config)[0].to(device)
    _, classes = torch.from_numpy(pixels.table.labels).unique(return_inverse=True)
    classifier = nn.Parameter(torch.randn(int(classes.max()) + 1, config.model.dim, device=device))
    optimizer = torch.optim.Adam([*embedder.parameters(), classifier], lr=RATE)
    total = arguments.epochs * len(loader)

    with Progress("classifying", total) as progress:
        for epoch in range(arguments.epochs):
            right = seen = 0
            for batch in loader.epoch(epoch):
                for group in optimizer.param_groups:
                    group["lr"] = RATE * (1 + math.cos(math.pi * progress.done / total)) / 2
                wanted = classes[batch.indices].to(device)
                with under(PRECISIONS["bfloat16"], device):
                    z = embedder(batch.images.to(device))
                logits = SCALE * z @ F.normalize(classifier, dim=1).T
                loss = F.cross_entropy(logits, wanted)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                right, seen = right + int((logits.argmax(1) == wanted).sum()), seen + len(wanted)
                progress.advance(f"loss {loss.item():.3f}")
            progress.say(f"epoch {epoch + 1}: {100 * right / seen:.1f} % of training images are classified right")
            embedder.save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
