"""What a training step costs: ``python -m benchmarks.step --backbone c2f2 --pairs 128 --size 28 --steps 8``.

A network in the middle of its training makes one step on one batch, loss and backward: the naive way, the library's
way in each precision, and the bare network with the image passes the library made. Without ``--root`` (Fashion-MNIST
for 28 pixels, CUB-200-2011 for more) the images are scikit-learn's digits.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

import torch
from torch import Generator, Tensor, nn

from benchmarks.naive_step import NaiveEmbedder, NaiveStep, embed_groups, hardness, naive_step, raise_hardness
from benchmarks.passes import Pass, recorded, replay
from benchmarks.side_by_side import REPEATS, Bar, interleaved, row
from holdfast.core.fused import PRECISIONS, FusedNetwork, autocast
from holdfast.core.triplets import Triplets
from holdfast.data import Batch, Loader, PairBatches
from holdfast.defense.base import Perturbing, Step, TripletDefense
from holdfast.defense.recipes import Recipe, parse_recipe
from holdfast.models.embedder import Embedder
from holdfast.runs.config import Config, resolve_config
from holdfast.runs.data import pixels_of, table_of
from holdfast.training.build import embedder_of, optimizer_of, pgd_of
from holdfast.util import distributed

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WARMUP = {"c2f2": 0, "resnet18": 20, "efficientnet_lite0": 20}
AFTER = {"c2f2": 100, "resnet18": 20, "efficientnet_lite0": 20}
LEARNED_FROM = {"c2f2": 32, "resnet18": 8, "efficientnet_lite0": 8}
NAIVE = "hm-s-lga-ics"
"""The recipe that there is a naive step of."""
SHORT = 0.5
"""A usual share of triplets that the adversary moves: docs/training.md has 0.39 to 0.63."""
NAIVE_BARS = {
    ("c2f2", 28, 8): (4.5, 11.0),
    ("c2f2", 28, 32): (6.0, 12.0),
    ("resnet18", 64, 8): (2.5, 4.5),
    ("resnet18", 112, 8): (2.8, 6.0),
}
NO_SLOWER = (1.0, 1.0)
CPU = torch.device("cpu")
DIFFERENT = 1e-4
"""Rounding moves a pixel by less than this, and a step by more."""


@dataclass(frozen=True)
class Work:
    """A network, its defense, and the batch that comes next in their training."""

    config: Config
    embedder: Embedder
    defense: TripletDefense
    images: Tensor
    labels: Tensor
    anchors: Tensor

    def step(self, precision: str = "float32") -> Step:
        """Loss and backward, with the same draws and the same state of the defense each time."""
        state = {name: value.clone() for name, value in self.defense.state_dict().items()}
        with autocast(PRECISIONS[precision], self.images.device):
            step: Step = self.defense(self.embedder, self.images, self.labels, self.anchors, _draws())
        self.embedder.zero_grad()
        step.loss.backward()  # type: ignore[no-untyped-call]
        self.defense.load_state_dict(state)
        return step

    def watched(self) -> tuple[Step, Tensor, Tensor]:
        """A step, the triplets it drew ``(T, 3)``, and what it made of their images ``(T, 3, C, H, W)``."""
        assert isinstance(self.defense, Perturbing)
        source, pgd = self.defense.source, self.defense.pgd
        drawn: list[Triplets] = []
        found: list[Tensor] = []
        self.defense.source, self.defense.pgd = _kept(source, drawn), _kept(pgd, found)
        try:
            step = self.step()
        finally:
            self.defense.source, self.defense.pgd = source, pgd
        return step, torch.stack([drawn[0].anchor, drawn[0].positive, drawn[0].negative], dim=1), found[0]

    def strengthen(self, short: float) -> None:
        """Set the gradual adversary so strong that this share of the triplets is short of its destination, if it can
        be. The cost of a step hangs on that share, and a young network's wavers from batch to batch."""
        _, triplets, _ = self.watched()
        with self.embedder.frozen():
            reached = hardness(embed_groups(self.embedder, self.images[triplets]))
        self.defense.observe(-reached.quantile(short).clamp(max=0))

    def naive(self, embedder: nn.Module, destination: float, triplets: Tensor | None = None) -> NaiveStep:
        """The naive step on the same batch, with the authors' early stop in descents of 32 steps or more."""
        step = naive_step(
            embedder,
            self.images,
            self.labels,
            self.anchors,
            destination=destination,
            pgd=pgd_of(self.config),
            learning=self.defense.learning,
            triplets=triplets,
            early_stop=self.config.pgd.steps >= 32,
            generator=_draws(),
        )
        embedder.zero_grad()
        step.loss.backward()  # type: ignore[no-untyped-call]
        return step


def settings(size: int, root: str | None, changes: Mapping[str, Any]) -> Config:
    """The paper's settings for images of this size, and the ``changes`` to them."""
    name = "digits" if root is None else "fashion-mnist" if size == 28 else "cub"
    eps, step = (77 / 255, 3 / 255) if size == 28 else (8 / 255, 1 / 255)
    tree = {"data.name": name, "data.root": root, "data.size": size, "pgd.eps": eps, "pgd.step": step}
    tree |= {"validation.share": 0}
    return resolve_config(tree, changes)


def midway(config: Config, warmup: int, after: int, device: torch.device = CPU, precision: str = "float32") -> Work:
    """A network after some plain steps, which one with BatchNorm and random weights needs, and some of the recipe.

    To be quick these have few images. BatchNorm learns on the way; then it is frozen.
    """
    pairs = min(config.batch.pairs, LEARNED_FROM[config.model.backbone])
    embedder = embedder_of(config)[0].to(device)
    defense = _defense(config, device)
    plain = Recipe("none", config.warmup.sampler).build(pgd_of(config), config.loss)
    optimizer = optimizer_of(config, embedder)
    few = _batches(replace(config, batch=replace(config.batch, pairs=pairs)))
    for i, batch in enumerate(islice(few, warmup + after)):
        method = plain if i < warmup else defense
        with autocast(PRECISIONS[precision], device):
            step: Step = method(embedder, *_parts(batch, device), _draws(i))
        optimizer.zero_grad()
        step.loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return _ready(config, embedder, defense, device)


def _ready(config: Config, embedder: Embedder, defense: TripletDefense, device: torch.device) -> Work:
    """A network with BatchNorm as it has become, and a batch."""
    fixed = Embedder(replace(embedder.config, freeze_batchnorm=True)).to(device)
    fixed.load_state_dict(embedder.state_dict())
    return Work(config, fixed, defense, *_parts(next(_batches(config)), device))


def _defense(config: Config, device: torch.device) -> TripletDefense:
    defense = parse_recipe(config.recipe).build(pgd_of(config), config.loss).to(device)
    assert isinstance(defense, TripletDefense)
    return defense


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=AFTER, default="c2f2")
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--size", type=int, default=28, help="side of the images in pixels")
    parser.add_argument("--steps", type=int, default=8, help="of the descent")
    parser.add_argument("--recipe", default=NAIVE, help="hm-s-lga-ics, act-r or est-r")
    parser.add_argument("--precision", choices=DTYPES, help="default: both")
    parser.add_argument("--root", help="folder of Fashion-MNIST (28 pixels) or CUB-200-2011")
    parser.add_argument("--warmup", type=int, help="plain training steps made before")
    parser.add_argument("--after", type=int, help="steps of the recipe made before")
    parser.add_argument("--run", help="folder of a run of the recipe whose weights to take instead")
    parser.add_argument("--short", type=float, default=SHORT, help="share of triplets short of their destination")
    parser.add_argument("--device")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    device = distributed.device(options.device)
    changes = {"recipe": options.recipe, "model.backbone": options.backbone}
    changes |= {"batch.pairs": options.pairs, "pgd.steps": options.steps}
    config = settings(options.size, options.root, changes)
    warmup = WARMUP[options.backbone] if options.warmup is None else options.warmup
    after = AFTER[options.backbone] if options.after is None else options.after
    precisions = [options.precision] if options.precision else list(DTYPES)
    if options.run:
        work = _ready(config, Embedder.from_pretrained(options.run), _defense(config, device), device)
        work.defense.observe(work.step().logs["triplet_loss"])
    else:
        work = midway(config, warmup, after, device, precisions[-1])
        if config.recipe == NAIVE:
            work.strengthen(options.short)
    compare(work, precisions, options.repeats)


def compare(work: Work, precisions: list[str], repeats: int) -> None:
    """Print the rows."""
    config, device = work.config, work.images.device
    works: dict[str, Callable[[], object]] = {}
    details: dict[str, dict[str, Any]] = {}
    for precision in precisions:
        step, passes, memory = _measured(work, precision)
        works[precision] = _step(work, precision)
        works[f"{precision} bare"] = replay(passes, work.embedder, DTYPES[precision])
        details[precision] = {**_facts(work, step, passes), **memory}
    hm = config.recipe == NAIVE
    if hm:
        _exactness(work)
        network, destination = NaiveEmbedder(work.embedder), float(step.logs["destination_hardness"])
        works["naive"] = lambda: work.naive(network, destination)
    seconds = interleaved(works, repeats, device)

    title = f"{parse_recipe(config.recipe).notation} {_shape(config)}"
    bars = NAIVE_BARS.get((config.model.backbone, config.data.size, config.pgd.steps), NO_SLOWER)
    for precision in precisions:
        mine, bare = seconds[precision], seconds[f"{precision} bare"]
        facts = details[precision] | {"images_per_second": len(work.images) / mine, "seconds": mine, "bare": bare}
        if hm:
            bar = Bar(least=bars[precision == "bfloat16"])
            naive = seconds["naive"]
            row(f"{title}, {precision}: naive ÷ library", naive / mine, "x", bar, naive=naive, **facts)
        most = 1.15 if not hm else 1.2 if config.pgd.steps <= 8 else 1.5
        row(f"{title}, {precision}: library ÷ bare network", mine / bare, "x", Bar(most=most), **facts)


def _exactness(work: Work) -> None:
    """What leaving finished triplets alone changes: the same network, in float32, descends on all of them always."""
    step, triplets, perturbed = work.watched()
    network, destination = (
        FusedNetwork(work.embedder, work.images).network.eval(),
        float(step.logs["destination_hardness"]),
    )
    full = raise_hardness(network, work.images[triplets], destination, pgd_of(work.config), early_stop=False)
    with torch.no_grad():
        reached, wanted = (hardness(embed_groups(network, images)) for images in (perturbed, full))
    apart = float(((perturbed - full).abs() > DIFFERENT).float().mean())
    title = f"{parse_recipe(work.config.recipe).notation} {_shape(work.config)}, float32, triplets in play against all"
    row(f"{title}: pixels that differ", 100 * apart, "%", Bar(most=0.05))
    row(
        f"{title}: hardness apart, the most of any",
        float((reached - wanted).abs().max()),
        "of distance",
        Bar(most=1e-5),
    )


def _measured(work: Work, precision: str) -> tuple[Step, list[Pass], dict[str, float]]:
    """A step, its passes, and on a GPU the memory it took at its peak, in GB."""
    device = work.images.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    work.step(precision)
    with recorded() as passes:
        step = work.step(precision)
    gigabytes = {"peak_memory_gb": torch.cuda.max_memory_allocated(device) / 1e9} if device.type == "cuda" else {}
    return step, passes, gigabytes


def _facts(work: Work, step: Step, passes: list[Pass]) -> dict[str, Any]:
    """What the step was like: passes per perturbed image, of so many; hardness of the triplets before and after."""
    perturbed = len(work.anchors) * (3 if work.config.recipe.startswith("hm") else 2)
    active = sum(one.images for one in passes if one.kind == "pixels") / perturbed
    logs = ("source_hardness", "destination_hardness", "hardness", "moved", "triplet_loss")
    return {
        "data": work.config.data.name,
        "device": str(work.images.device),
        "active_passes": active,
        "of": work.config.pgd.steps,
        **{name: float(step.logs[name]) for name in logs if name in step.logs},
    }


def _step(work: Work, precision: str) -> Callable[[], object]:
    return lambda: work.step(precision)


def _shape(config: Config) -> str:
    return f"{config.model.backbone} {config.data.size} px, {config.batch.pairs} pairs, {config.pgd.steps} steps"


def _batches(config: Config) -> Iterator[Batch]:
    """Training batches without end."""
    table = table_of(config).train()
    pairs = PairBatches(table.labels, config.batch.pairs, seed=config.seed)
    loader = Loader(pixels_of(config, table), pairs, config.seed, config.data.augment)
    for epoch in count():
        yield from loader.epoch(epoch)


def _parts(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    return batch.images.to(device), batch.labels.to(device), batch.anchors.to(device)


def _kept(function: Callable[..., Any], results: list[Any]) -> Any:
    """The function, whose results are kept from now on."""

    def call(*given: Any, **named: Any) -> Any:
        results.append(function(*given, **named))
        return results[-1]

    return call


def _draws(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


if __name__ == "__main__":
    main()
