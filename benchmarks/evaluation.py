"""How fast attacks are: ``python -m benchmarks.evaluation --root FOLDER_OF_FASHION_MNIST --precision bfloat16``.

Attack by attack, in turns: the library, the bare network making the passes that the library's attack made, and the
naive loops of :mod:`.naive_attacks`, in float32, with the same choices. The time of the loops is linear in images and
in steps, since they make them all, so they are timed on few images, without any step and with one; the rest follows.

The gallery, embedded once, is in nobody's time; what the library chooses and reads is in its time, what the loops read
in theirs. Images are Fashion-MNIST's, and C2F2 has learnt them for a moment; without ``--root`` it is noise and a
network with random weights.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks import naive_attacks
from benchmarks.naive_step import NaiveEmbedder
from benchmarks.noise import fresh, noise
from benchmarks.passes import Pass, replay
from benchmarks.side_by_side import Bar, interleaved, row
from holdfast.attacks import System
from holdfast.data import Pixels, held_out
from holdfast.evaluation.records import Records
from holdfast.evaluation.runner import Runner, Target, runners_of
from holdfast.evaluation.settings import AttackSettings, resolve_settings
from holdfast.models.embedder import Embedder
from holdfast.models.embedding import embed_dataset
from holdfast.models.wrapped import WrappedModel
from holdfast.runs.config import resolve_config
from holdfast.training.loop import train
from holdfast.util import distributed
from holdfast.util.progress import Progress

BATCH = 128
CLASSES = 10
TRAINED = 40
"""Steps of training, of 128 pairs."""
SPEEDUP = {"float32": Bar(least=12), "bfloat16": Bar(least=28)}
OVERHEAD = {"float32": Bar(most=1.3), "bfloat16": Bar(most=1.8)}


def clothes(root: str | None, gallery: int) -> Pixels:
    """The first test images of Fashion-MNIST under ``root``, or noise."""
    if root is None:
        return noise(gallery, CLASSES)
    table = held_out("fashion-mnist", root)
    return Pixels(table.select(np.arange(len(table)) < gallery), 28, channels=1)


def network(root: str | None) -> Embedder:
    """C2F2 with 512 dimensions, trained plainly on Fashion-MNIST under ``root``, or not at all."""
    if root is None:
        return fresh()
    settings = {"data.name": "fashion-mnist", "data.root": root, "steps": TRAINED}
    with TemporaryDirectory() as folder:
        return train(resolve_config(settings, {"recipe": "none-r"}), folder, device="cpu", quiet=True)


def attacked_by(embedder: Embedder, pixels: Pixels, precision: str, device: torch.device) -> Target:
    """The system that the embedder makes of the images, as an evaluation sets it up."""
    wrapped = WrappedModel(embedder, precision)
    wrapped.examine(pixels.read(torch.arange(32))[0].to(device))
    embedded = embed_dataset(wrapped, pixels, device)
    return Target(wrapped, System(embedded.queries, embedded.gallery), pixels)


def fast(runner: Runner, target: Target) -> Records:
    """The library at work."""
    records = Records(None)
    with Progress(runner.name, len(runner.images), quiet=True) as progress:
        for _ in runner.run(target, records, progress):
            pass
    return records


def passes(forward: int, backward: int) -> list[Pass]:
    """So many images forward, so many of them backward to the pixels as well, in batches."""
    both, only = ([BATCH] * (n // BATCH) + [n % BATCH] * (n % BATCH > 0) for n in (backward, forward - backward))
    return [*(Pass(n, "pixels") for n in both), *(Pass(n, "forward") for n in only)]


def naive(
    runner: Runner, target: Target, model: Embedder, resolved: AttackSettings, count: int
) -> Callable[[int], None]:
    """The naive loops at work on the first ``count`` images of a campaign, with as many steps as they are told."""
    prepared = []
    for rows in torch.split(runner.images[:count], BATCH):
        perturbed = target.system.perturbed(runner.attack).take(rows)
        chosen = runner.attack.choose(perturbed, target.system, runner.generators(target, rows))
        images = target.pixels.read(perturbed.ids.cpu())[0].to(perturbed.embeddings.device)
        start = naive_attacks.near(images, runner.attack.start * resolved.eps, runner.generators(target, rows))
        prepared.append((images, start, naive_attacks.cases(perturbed, chosen, target.system)))

    def work(steps: int) -> None:
        for images, start, cases in prepared:
            naive_attacks.attack(
                runner.name, model, images, start, cases, eps=resolved.eps, step=resolved.step, steps=steps
            )

    return work


def measure(
    runner: Runner, target: Target, embedder: Embedder, resolved: AttackSettings, *, dtype: torch.dtype, count: int
) -> dict[str, float]:
    """Seconds of the library, the bare network and the naive loops in one attack, and the images passed.

    ``count`` images are attacked naively; their time is scaled to all images and steps.
    """
    cost = fast(runner, target).cost()
    forward, backward = int(cost["forward"]), int(cost["backward"])
    loops = naive(runner, target, NaiveEmbedder(embedder).eval(), resolved, count)
    seconds = interleaved(
        {
            "library": lambda: fast(runner, target),
            "network": replay(passes(forward, backward), embedder, dtype),
            "no step": lambda: loops(0),
            "one step": lambda: loops(1),
        },
        device=target.system.gallery.embeddings.device,
    )
    step = seconds["one step"] - seconds["no step"]
    return {
        "library_s": seconds["library"],
        "network_s": seconds["network"],
        "naive_s": (seconds["no step"] + resolved.steps * step) * len(runner.images) / count,
        "forward": forward,
        "backward": backward,
    }


def batches_agree(runner: Runner, target: Target) -> bool:
    """Whether batches of 16 and of 128 give the same records, which is promised on a CPU only."""
    one, other = (fast(replace(runner, batch=batch), target).of(runner.name) for batch in (16, 128))
    return one == other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gallery", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=BATCH, help="attacked by the library; a multiple of 128")
    parser.add_argument("--steps", type=int, default=32, help="of an attack")
    parser.add_argument("--precision", choices=SPEEDUP, default="float32", help="of the library's network")
    parser.add_argument("--naive-images", type=int, default=16, help="attacked by the naive loops, of the same")
    parser.add_argument("--root", help="folder of Fashion-MNIST")
    parser.add_argument("--device")
    options = parser.parse_args()
    device, precision = distributed.device(options.device), options.precision

    pixels, embedder = clothes(options.root, options.gallery), network(options.root)
    embedder.to(device).eval().requires_grad_(False)
    resolved = resolve_settings("28", max_queries=options.images, steps=options.steps, precision=precision)
    target = attacked_by(embedder, pixels, precision, device)
    runners = runners_of(target, resolved, BATCH)
    if any(len(runner.images) % BATCH for runner in runners):
        parser.error(f"--images is a multiple of {BATCH}: the passes that fill up a block would blur the ratios")

    details = {
        "precision": precision,
        "device": str(device),
        "data": pixels.table.name,
        "gallery": len(target.system.gallery.ids),
        "images": len(runners[0].images),
        "steps": resolved.steps,
    }
    count = min(options.naive_images, len(runners[0].images))
    found = {}
    for runner in runners:
        one = measure(runner, target, embedder, resolved, dtype=getattr(torch, precision), count=count)
        found[runner.name] = one
        name = f"{runner.name} ÷ bare network, {precision}"
        row(name, one["library_s"] / one["network_s"], "times", OVERHEAD[precision], **details, **one)

    library, loops = (sum(one[key] for one in found.values()) for key in ("library_s", "naive_s"))
    said = f"no step and one step of {count} images timed, scaled to all images and steps"
    name = f"ten-attack evaluation, library in {precision} against naive loops in float32"
    row(
        name,
        loops / library,
        "times faster",
        SPEEDUP[precision],
        **details,
        library_s=library,
        naive_s=loops,
        naive=said,
    )
    if device.type == "cuda":
        verdict = "the same" if batches_agree(runners[-1], target) else "OTHER"
        print(f"batches of 16 and 128 give {verdict} records of {runners[-1].name} on {device}")


if __name__ == "__main__":
    main()
