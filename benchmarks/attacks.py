"""How long each attack takes beside the bare network: ``python -m benchmarks.attacks --gallery 10000 --device cuda``.

Images are noise and the C2F2 network is untrained: only time is measured. The bare network passes as many images
forward and backward as the attack did, side by side in one run. It also says whether batches of 16 and 128 give the
same records on the device, which is promised on a CPU only.
"""

import argparse
import json
import time

import numpy as np
import torch

from holdfast import distributed
from holdfast.attacks import System
from holdfast.audit import campaigns_of
from holdfast.budget import resolve_budget
from holdfast.campaign import Target
from holdfast.data import Pixels, Table
from holdfast.embedder import Embedder, EmbedderConfig
from holdfast.evaluation import embed_test
from holdfast.progress import Progress
from holdfast.records import Records
from holdfast.subject import Subject

CLASSES = 10


def target(gallery: int, device: torch.device) -> Target:
    """An untrained C2F2 and noise for images, embedded."""
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (gallery, 28, 28), np.uint8)
    table = Table.build("noise", images, np.arange(gallery) % CLASSES, ["test"] * gallery)
    pixels = Pixels(table, 28, channels=1)
    subject = Subject(Embedder(EmbedderConfig("c2f2", channels=1, size=28)).to(device).eval().requires_grad_(False))
    subject.examine(pixels.read(torch.arange(32))[0].to(device))
    embedded = embed_test(subject, pixels, device)
    return Target(subject, System(embedded.queries, embedded.gallery), pixels)


def settle(device: torch.device) -> float:
    """The time, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def bare(one: Target, forward: int, backward: int, device: torch.device) -> float:
    """Seconds in which the network alone passes so many images forward, and so many of them backward."""
    images = one.pixels.read(torch.arange(32))[0].to(device)
    began = settle(device)
    for i in range(forward // len(images)):
        pixels = images.clone().requires_grad_(i < backward // len(images))
        with torch.set_grad_enabled(pixels.requires_grad):
            z = one.subject.embed(pixels)
        if pixels.requires_grad:
            torch.autograd.grad(z.sum(), pixels)
    return settle(device) - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gallery", type=int, default=10000)
    parser.add_argument("--images", type=int, default=128, help="attacked")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--device")
    options = parser.parse_args()
    device = distributed.device(options.device)
    one = target(options.gallery, device)
    budget = resolve_budget(28, max_queries=options.images, steps=options.steps)

    rows = {}
    for campaign in campaigns_of(one, budget, options.images):
        records = Records(None)
        with Progress(campaign.name, len(campaign.images), quiet=True) as progress:
            began = settle(device)
            for _ in campaign.run(one, records, progress):
                pass
            seconds = settle(device) - began
        cost = records.cost()
        network = bare(one, int(cost["forward"]), int(cost["backward"]), device)
        rows[campaign.name] = {"seconds": seconds, "network": network, "ratio": seconds / network}
        print(f"{campaign.name:4} {seconds:7.2f} s, bare network {network:7.2f} s, ratio {seconds / network:.2f}")

    found = []
    for batch in (16, 128):
        records, campaign = Records(None), campaigns_of(one, budget, batch)[-1]
        with Progress("", len(campaign.images), quiet=True) as progress:
            list(campaign.run(one, records, progress))
        found.append(records.of(campaign.name))
    print(f"batches of 16 and 128 give {'the same' if found[0] == found[1] else 'OTHER'} records on {device}")
    print(json.dumps({"gallery": options.gallery, "device": str(device), "attacks": rows}))


if __name__ == "__main__":
    main()
