"""What a GPU makes of it: ``python -m benchmarks.gpu``, by default ResNet-18 at 224 pixels, as the paper trains on CUB.

Training steps of a network in the middle of its training, with frozen BatchNorm, on one batch that lies on the device:
in each precision, and in bfloat16 with compiled networks and with CUDA graphs, which the library does not use. All take
turns in one process, beside the bare network making the same passes; seconds are wall seconds. Then the attacks of
``strict`` on noise, with random embeddings as gallery. The images trained on are scikit-learn's digits in colours.
On a CPU it runs as well, without what only a GPU has.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.profiler import ProfilerActivity, profile

from benchmarks.evaluation import BATCH, OVERHEAD, fast, passes
from benchmarks.passes import recorded, replay
from benchmarks.side_by_side import REPEATS, Bar, interleaved, row, settle, tell
from benchmarks.step import AFTER, DTYPES, NAIVE, SHORT, WARMUP, Work, midway
from holdfast.attacks import System
from holdfast.core.fused import FusedNetwork, frozen
from holdfast.core.gallery import Gallery, Queries
from holdfast.data import PairBatches, Pixels, Table, load_dataset
from holdfast.defense.base import Perturbing, Step
from holdfast.evaluation.runner import Target, runners_of
from holdfast.evaluation.settings import resolve_settings
from holdfast.models.embedder import Embedder
from holdfast.models.wrapped import WrappedModel
from holdfast.runs.config import resolve_config
from holdfast.training.build import optimizer_of
from holdfast.util import distributed
from holdfast.util.errors import HoldfastError

CUB_IMAGES, CUB_CLASSES, GALLERY = 5_864, 100, 5_924
"""Of CUB-200-2011: images and classes that train, images that test."""
AUTHORS = "9.1 h with 32 steps on two Titan Xp"
COUNTED = "training steps alone, all as large as this one: no images read, no validation"
GRAPHS = 8
"""Batch sizes that have a CUDA graph."""
PROFILED = 3
"""Steps whose kernels are timed."""
Facts = dict[str, Any]


class Graphed(FusedNetwork):
    """A replica that goes there and back as CUDA graphs, one per batch size; a batch is filled up to the next size.

    A graph reads the weights where they lay when it was captured, so they stay there.
    """

    def __init__(self, module: nn.Module, precision: torch.dtype, like: Tensor, sizes: Iterable[int]) -> None:
        super().__init__(module, like, precision)
        self.graphs: dict[int, Any] = {}
        with torch.autocast(like.device.type, precision, cache_enabled=False), frozen(self.network):
            for size in sizes:
                images = torch.rand(size, *like.shape[1:], device=like.device, requires_grad=True)
                self.graphs[size] = torch.cuda.make_graphed_callables(partial(self.network), (images,))

    def __call__(self, images: Tensor) -> Tensor:
        if not images.requires_grad:
            return super().__call__(images)
        size = min(size for size in self.graphs if size >= len(images))
        filled = torch.cat([images, images[-1:].detach().expand(size - len(images), *images.shape[1:])])
        z: Tensor = self.graphs[size](filled)[: len(images)]
        return z

    def refresh(self) -> None:
        places = {name: tensor.data for name, tensor in self._tensors().items()}
        super().refresh()
        for name, tensor in self._tensors().items():
            tensor.data = places[name].copy_(tensor)

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}


def as_it_is(work: Work) -> None:
    """The library."""


def compiled(work: Work) -> None:
    """Compile the network that trains and its replica; falling back to eager mode is an error."""
    fused = FusedNetwork(work.embedder, work.images, torch.bfloat16)
    fused.network.compile(fullgraph=True)
    work.embedder.compile(fullgraph=True)
    descent(work).fused_networks[torch.bfloat16] = fused


def graphed(work: Work) -> None:
    """Make the passes of the descent as CUDA graphs."""
    least = math.ceil(3 * len(work.anchors) / GRAPHS)
    sizes = range(least, least * GRAPHS + 1, least)
    descent(work).fused_networks[torch.bfloat16] = Graphed(work.embedder, torch.bfloat16, work.images, sizes)


@dataclass(frozen=True)
class Variant:
    """A way to make the step.

    like: the variant that is the library as it is, in the same precision; its bare network serves both.
    tf32: whether float32 convolutions may run in it, as torch lets them by default.
    """

    precision: str
    like: str
    tf32: bool = True
    prepare: Callable[[Work], None] = as_it_is
    everywhere: bool = True

    def under(self, work: Callable[[], Any]) -> Any:
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = self.tf32
        try:
            return work()
        finally:
            torch.backends.cudnn.allow_tf32 = before

    def step(self, work: Work) -> Step:
        step: Step = self.under(partial(work.step, self.precision))
        return step


BF16 = "bfloat16"
VARIANTS = {
    "float32 without TF32": Variant("float32", "float32 without TF32", tf32=False, everywhere=False),
    "float32": Variant("float32", "float32"),
    BF16: Variant(BF16, BF16),
    f"{BF16} compiled": Variant(BF16, BF16, prepare=compiled),
    f"{BF16} with CUDA graphs": Variant(BF16, BF16, prepare=graphed, everywhere=False),
}


def descent(work: Work) -> Perturbing:
    """The defense, as one that has a descent."""
    assert isinstance(work.defense, Perturbing)
    return work.defense


def peak(work: Callable[[], Any], device: torch.device) -> tuple[Any, Facts]:
    """What comes of the work, and on a GPU the GB at its peak: in all, beyond those before it, and held by torch."""
    if device.type != "cuda":
        return work(), {}
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result, most = work(), torch.cuda.max_memory_allocated(device)
    held = torch.cuda.memory_reserved(device)
    return result, {"peak_memory_gb": most / 1e9, "beyond_gb": (most - before) / 1e9, "held_gb": held / 1e9}


def write_digits(folder: Path) -> None:
    """scikit-learn's digits as small colour images, a folder per split and class."""
    table, generator = load_dataset("digits"), np.random.default_rng(0)
    for i, (image, label, split) in enumerate(zip(table.images, table.labels, table.split, strict=True)):
        place = folder / str(split) / str(label)
        place.mkdir(parents=True, exist_ok=True)
        coloured = np.asarray(image)[..., None] * generator.uniform(0.3, 1, 3)
        Image.fromarray(coloured.astype(np.uint8)).save(place / f"{i}.png")


def begun(options: argparse.Namespace, device: torch.device) -> Work:
    """A network in the middle of its training, and its next batch."""
    with TemporaryDirectory() as made:
        write_digits(Path(made))
        data = {"data.name": "folder", "data.root": made, "data.size": options.size, "recipe": NAIVE}
        changes = {"batch.pairs": options.pairs, "pgd.steps": options.steps[0], "model.backbone": options.backbone}
        work = midway(resolve_config(data, changes), WARMUP[options.backbone], AFTER[options.backbone], device, BF16)
    work.strengthen(SHORT)
    descent(work).fused_networks.clear()
    return work


def prepared(work: Work, names: Iterable[str], about: Facts) -> dict[str, Work]:
    """A copy of the work for each variant that can be run, after steps on batches of two sizes; says which cannot."""
    ready = {}
    for name in names:
        own = replace(work, embedder=deepcopy(work.embedder), defense=deepcopy(work.defense))
        fewer = replace(own, images=own.images[:-2], labels=own.labels[:-2], anchors=own.anchors[:-1])
        began = time.perf_counter()
        try:
            VARIANTS[name].prepare(own)
            for one in (own, fewer, own):
                VARIANTS[name].step(one)
            settle(own.images.device)
        except Exception as error:  # compilers raise whatever they like
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            print(f"{name}: failed, {reason}")
            print(json.dumps({"row": name, "failed": reason, **about}), flush=True)
            continue
        tell(f"{name}: preparation and three steps", time.perf_counter() - began, "s", **about)
        ready[name] = own
    return ready


def updating(work: Work) -> Callable[[], None]:
    """What follows a step in training, at a rate of zero: the norm of the gradient and the optimiser."""
    config = replace(work.config, optim=replace(work.config.optim, lr=0.0))
    optimizer, parameters = optimizer_of(config, work.embedder), list(work.embedder.parameters())

    def update() -> None:
        nn.utils.clip_grad_norm_(parameters, math.inf)
        optimizer.step()

    return update


def training(title: str, works: dict[str, Work], repeats: int, about: Facts) -> dict[str, float]:
    """Print what the steps cost; the seconds of each."""
    work = next(iter(works.values()))
    device, images, pairs = work.images.device, len(work.images), len(work.anchors)
    pieces: dict[str, Callable[[], object]] = {"update": updating(work)}
    facts: dict[str, Facts] = {}
    for name, own in works.items():
        variant = VARIANTS[name]
        pieces[name] = partial(variant.step, own)
        step, memory = peak(partial(variant.step, own), device)
        logs = {key: float(step.logs[key]) for key in ("source_hardness", "hardness", "moved", "loss")}
        facts[name] = {**about, **logs, **memory}
        if variant.like == name:
            with recorded() as made:
                variant.step(own)
            active = sum(one.images for one in made if one.kind == "pixels") / (3 * pairs)
            facts[name] |= {"active_passes": active}
            pieces[f"bare {name}"] = partial(variant.under, replay(made, own.embedder, DTYPES[variant.precision]))
    seconds = interleaved(pieces, repeats, device)
    epochs = resolve_config({"data.name": "cub"}).optim.epochs
    steps = epochs * len(PairBatches(np.arange(CUB_IMAGES) % CUB_CLASSES, pairs))
    for name in works:
        mine, update = seconds[name], seconds["update"]
        of_eager = {"of_eager": mine / seconds[like]} if (like := VARIANTS[name].like) in works else {}
        tell(f"{title}, {name}: a step", 1000 * mine, "ms", images_per_second=images / mine, **of_eager, **facts[name])
        if like in works:
            bar = Bar(most=1.2 if descent(work).pgd.steps <= 8 else 1.5)
            bare = seconds[f"bare {like}"]
            row(f"{title}, {name}: step ÷ bare network", mine / bare, "x", bar, seconds=mine, bare=bare, **about)
        minutes, said = steps * (mine + update) / 60, {"authors": AUTHORS, "counted": COUNTED}
        tell(f"{title}, {name}: {steps} steps, as CUB needs", minutes, "minutes", update=update, **said, **about)
    return {name: seconds[name] for name in works}


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of spans, from and to."""
    length, reached = 0.0, -math.inf
    for begin, end in sorted(spans):
        length += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return length


def in_kernels(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the work in which the GPU runs kernels or copies."""
    settle(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(PROFILED):
            work()
        settle(device)
    on_gpu = (one for one in profiler.events() or () if one.device_type.name == "CUDA" and not one.is_user_annotation)
    return 1e-6 * covered((one.time_range.start, one.time_range.end) for one in on_gpu) / PROFILED


def evaluation(embedder: Embedder, options: argparse.Namespace, device: torch.device, about: Facts) -> None:
    """Print what the attacks cost."""
    size, gallery = options.size, options.gallery
    images = np.random.default_rng(0).integers(0, 256, (gallery, size, size, 3), np.uint8)
    pixels = Pixels(Table.build("noise", images, np.arange(gallery) % CUB_CLASSES, ["test"] * gallery), size)
    ids = torch.arange(gallery, device=device)
    columns = normalize(torch.randn(gallery, embedder.config.dim, device=device), dim=1), ids % CUB_CLASSES, ids
    for precision, dtype in DTYPES.items():
        wrapped = WrappedModel(embedder, precision)
        wrapped.examine(pixels.read(torch.arange(32))[0].to(device))
        target = Target(wrapped, System(Queries(*columns), Gallery(*columns)), pixels)
        resolved = resolve_settings(
            "28" if size <= 32 else "224", max_queries=BATCH, steps=options.attack_steps, precision=precision
        )
        facts = {**about, "gallery": gallery, "images": BATCH, "steps": resolved.steps}
        facts |= {"replica": isinstance(wrapped.network, FusedNetwork) and wrapped.network.network is not embedder}
        total: dict[str, float] = {"library": 0, "bare": 0}
        for runner in runners_of(target, resolved, BATCH):
            attack: Callable[[], object] = partial(fast, runner, target)
            records, memory = peak(attack, device)
            made = passes(int(records.cost()["forward"]), int(records.cost()["backward"]))
            works = {"library": attack, "bare": replay(made, embedder, dtype)}
            seconds = interleaved(works, min(3, options.repeats), device)
            total = {key: total[key] + seconds[key] for key in total}
            name = f"{runner.name} ÷ bare network, {options.backbone} {size} px, {precision}"
            ratio = seconds["library"] / seconds["bare"]
            row(name, ratio, "x", OVERHEAD[precision], **facts, **memory, **seconds)
        name = f"all attacks on {BATCH} queries, {options.backbone} {size} px, {precision}"
        tell(name, total["library"], "s", **facts, bare=total["bare"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backbone", choices=AFTER, default="resnet18")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--pairs", type=int, default=56)
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 32], help="of the descent in training")
    parser.add_argument("--attack-steps", type=int, default=32, help="of an attack in the evaluation")
    parser.add_argument("--gallery", type=int, default=GALLERY)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    try:
        device = distributed.device(options.device)
    except HoldfastError as error:
        parser.error(str(error))
    on_gpu = device.type == "cuda"
    about = {"device": torch.cuda.get_device_name(device) if on_gpu else str(device)}

    work = begun(options, device)
    works = prepared(work, [name for name in VARIANTS if on_gpu or VARIANTS[name].everywhere], about)
    timed = []
    for steps in options.steps:
        title = f"{options.backbone} {options.size} px, {options.pairs} pairs, {steps} steps"
        for own in works.values():
            descent(own).pgd = replace(descent(own).pgd, steps=steps)
        timed.append((title, steps, training(title, works, options.repeats, about)))
    evaluation(deepcopy(work.embedder).eval().requires_grad_(False), options, device, about)
    if not on_gpu:
        others = ", ".join(name for name in VARIANTS if not VARIANTS[name].everywhere)
        print(f"only a GPU has these, so they are left out: {others}, share of kernels, memory at the peak")
        return
    for title, steps, seconds in timed:  # last, because a profiler slows what comes after it
        for name, wall in seconds.items():
            descent(works[name]).pgd = replace(descent(works[name]).pgd, steps=steps)
            busy = in_kernels(partial(VARIANTS[name].step, works[name]), device)
            tell(f"{title}, {name}: share of a step in which kernels run", busy / wall, "of it", busy=busy, **about)


if __name__ == "__main__":
    main()
