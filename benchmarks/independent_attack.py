"""Does robust R@1 hold? Another attack tries: ``python -m benchmarks.independent_attack RESULT.json --root FOLDER``.

It takes the model, the radius and the robust queries from a result with the worst-case cascade (L∞), and attacks these
again, in plain torch that shares no line with :mod:`holdfast.core.pgd`, ``attacks`` or ``evaluation``: three losses,
each with restarts of decaying steps, by sign and by Adam in turn, in float32 on the network as it was opened. A query
is broken as soon as the nearest other gallery item of one iterate is of another class: the image passed alone through
the network, distances in float64 from the differences, a tie not counted.

The figure is how many points of all queries it breaks that the library calls robust: the most by which it can break
more than the cascade. ``opinion.json``, beside the result, keeps after every round which queries were robust, which
are broken, and which rounds are done: the same command goes on from there, without the records, and another adds to it.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import normalize

from benchmarks.side_by_side import Bar, row
from holdfast.models.embedding import embed_dataset
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.util import distributed
from holdfast.util.atomic import write_json
from holdfast.util.progress import Progress

NAME = "opinion.json"
BATCH = 64
ALLOWED = 0.5
"""Points that the cascade may miss."""

NEAR = 1e-4
"""Distances from a matrix product are off by less, as a share of their mean; a margin below it is looked at closely."""

NOTHING = 60.0
"""In the exponent, how much less than the largest item weighs another that is not told from nothing."""

FROM_THE_IMAGE = 2
"""Restarts that begin at the image; the later ones begin anywhere in the ball."""

STEPS = (0.5, 0.125, 0.03)
"""First steps in units of ε, one for every two restarts in turn."""

SHARPEST, SMOOTHEST = 0.003, 0.05
"""Temperatures of the smooth loss at its end and at its beginning, as a share of the mean distance."""


@dataclass(frozen=True, eq=False)
class Victim:
    """A network, images (n, C, H, W) to vectors (n, D) of unit length, and its gallery of N items."""

    embed: Callable[[Tensor], Tensor]
    z: Tensor
    labels: Tensor
    ids: Tensor

    @cached_property
    def squares(self) -> Tensor:
        return self.z.square().sum(1)

    def distances(self, z: Tensor) -> Tensor:
        """(B, D) -> (B, N)."""
        squares = z.square().sum(1, keepdim=True) + self.squares - 2 * z @ self.z.T
        return squares.clamp_min(1e-12).sqrt()


@dataclass(frozen=True, eq=False)
class Queries:
    """B queries under attack: ids (B,), images (B, C, H, W), which of N items match and which are of another class
    (B, N), the mean distance (B,), and the wrong classes from the nearest to the farthest (B, C - 1)."""

    ids: Tensor
    images: Tensor
    match: Tensor
    other: Tensor
    scale: Tensor
    wrong: Tensor

    def take(self, rows: Tensor) -> "Queries":
        return Queries(*(getattr(self, column.name)[rows] for column in fields(self)))


class Round(NamedTuple):
    """A descent for all survivors."""

    loss: str
    restart: int
    steps: int


def to_nearest(victim: Victim, z: Tensor, distances: Tensor, among: Tensor) -> Tensor:
    """The distance (B,), with its gradient, to the item that is nearest now among those allowed (B, N)."""
    nearest = distances.masked_fill(~among, float("inf")).argmin(1)
    distance: Tensor = (z - victim.z[nearest]).norm(dim=1)
    return distance


def margin(victim: Victim, queries: Queries, z: Tensor, distances: Tensor, *_: float) -> Tensor:
    """How much farther the nearest item of another class is than the nearest match."""
    away = to_nearest(victim, z, distances, queries.other)
    return away - to_nearest(victim, z, distances, queries.match)


def smooth(victim: Victim, queries: Queries, z: Tensor, distances: Tensor, _: int, done: float) -> Tensor:
    """The log odds of the right class where each item weighs ``exp(-distance / temperature)``; it sharpens."""
    temperature = queries.scale * SMOOTHEST * (SHARPEST / SMOOTHEST) ** done
    weights = -distances / temperature[:, None]
    return log_sum(weights, queries.match) - log_sum(weights, queries.other)


def log_sum(weights: Tensor, among: Tensor) -> Tensor:
    """The log of the sum (B,) of ``exp(weights)`` (B, N) among those allowed; to tell what adds nothing is slow."""
    weights = weights.masked_fill(~among, -float("inf"))
    least = weights.amax(1, keepdim=True).detach() - NOTHING
    found: Tensor = weights.maximum(least).logsumexp(1)
    return found


def targeted(victim: Victim, queries: Queries, z: Tensor, distances: Tensor, restart: int, _: float) -> Tensor:
    """The distance to the nearest item of one wrong class, with each restart of the next one."""
    classes = queries.wrong[:, restart % queries.wrong.shape[1]]
    return to_nearest(victim, z, distances, victim.labels == classes[:, None])


LOSSES = {loss.__name__: loss for loss in (margin, smooth, targeted)}


def is_broken(victim: Victim, image: Tensor, match: Tensor, other: Tensor) -> bool:
    """Whether the nearest other item of an image (C, H, W) is of another class: one image, all differences."""
    with torch.no_grad():
        distances = (victim.z.double() - victim.embed(image[None]).double()).norm(dim=1)
    return bool(distances[other].min() < distances[match].min())


def start(queries: Queries, eps: float, this: Round) -> Tensor:
    """The images, or a random point in the ball around each, drawn from its id."""
    if this.restart < FROM_THE_IMAGE:
        return queries.images
    moved = torch.empty_like(queries.images)
    for i, identity in enumerate(queries.ids.tolist()):
        seed = (identity * len(LOSSES) + list(LOSSES).index(this.loss)) * 1000 + this.restart
        noise = torch.rand(moved[i].shape, generator=Generator().manual_seed(seed)).to(moved.device)
        moved[i] = (queries.images[i] + eps * (2 * noise - 1)).clamp(0, 1)
    return moved


def descend(victim: Victim, queries: Queries, eps: float, this: Round) -> dict[int, int]:
    """The queries, by id, that a descent breaks, and at which step."""
    broken: dict[int, int] = {}
    x, first, second = start(queries, eps, this), 0.0 * queries.images, 0.0 * queries.images
    for step in range(this.steps + 1):
        x = x.detach().requires_grad_()
        z = victim.embed(x)
        distances = victim.distances(z)
        done = step / max(this.steps, 1)
        loss = LOSSES[this.loss](victim, queries, z, distances, this.restart, done)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        close = margin(victim, queries, z.detach(), distances.detach()) < NEAR * queries.scale
        for i in close.nonzero()[:, 0].tolist():
            if is_broken(victim, x[i].detach(), queries.match[i], queries.other[i]):
                broken[int(queries.ids[i])] = step
        left = torch.tensor([i not in broken for i in queries.ids.tolist()], device=x.device)
        if step == this.steps or not left.any():
            break
        if not left.all():
            queries = queries.take(left)
            x, gradient, first, second = (part[left] for part in (x, gradient, first, second))
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
        if this.restart % 2:  # Adam, whose means begin at zero
            mean, spread = first / (1 - 0.9 ** (step + 1)), (second / (1 - 0.999 ** (step + 1))).sqrt()
            direction = mean / (spread + 1e-12)
        else:
            direction = gradient.sign()
        size = eps * STEPS[this.restart // 2 % len(STEPS)] * max(1 - done, 0.01)
        x = x.detach() - size * direction
        x = torch.minimum(torch.maximum(x, queries.images - eps), queries.images + eps).clamp(0, 1)
    return broken


def asked(victim: Victim, ids: Tensor, images: Tensor, labels: Tensor) -> Queries:
    """Queries by their clean distances; own entries are left out by id."""
    with torch.no_grad():
        distances = torch.cat([victim.distances(victim.embed(part)) for part in torch.split(images, BATCH)])
    same = victim.labels == labels[:, None]
    match, other = same & (victim.ids != ids[:, None]), ~same
    classes = torch.unique(victim.labels)
    nearest = torch.stack([distances.masked_fill(victim.labels != c, float("inf")).amin(1) for c in classes], dim=1)
    order = nearest.masked_fill(classes == labels[:, None], float("inf")).argsort(1)
    return Queries(ids, images, match, other, distances.mean(1), classes[order[:, :-1]])


@dataclass(frozen=True)
class Claim:
    """What a result says: the word of its model, its data, ε, how many queries, and which of them are robust."""

    model: str
    data: str | None
    eps: float
    queries: int
    robust: list[int]


def read_claim(file: Path, model: str | None, kept: Mapping[str, Any]) -> Claim:
    """The claim of a result and of what was kept, else of its records. Raises ValueError where it makes none."""
    content = json.loads(file.read_text())
    robust, settings = content.get("robust R@1"), content["settings"]
    if robust is None or settings["norm"] != "linf":
        raise ValueError(f"{file} has no robust R@1 of the worst-case cascade in L∞")
    surviving = kept["robust"] if kept else recorded(file.parent / "records", robust["stages"])
    counted = round(robust["value"] * robust["queries"] / 100)
    if len(surviving) != counted:
        raise ValueError(f"{file} counts {counted} robust queries, its records {len(surviving)}")
    trained_on = content["model"].get("training", {}).get("settings", {}).get("data.name")
    data = None if trained_on == content["data"]["name"] else content["data"]["name"]
    word = model or f"zoo:{content['name']}"
    return Claim(word, data, settings["eps"], robust["queries"], surviving)


def recorded(records: Path, stages: list[dict[str, Any]]) -> list[int]:
    """The queries that withstood all stages, by their records."""
    lines = [read_lines(records / f"worst.{stage['name']}.jsonl".replace(":", "_")) for stage in stages]
    fallen = {line["id"] for stage in lines for line in stage if line["after"]["R@1"] < 50}
    return [line["id"] for line in lines[0] if line["id"] not in fallen]


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def open_claim(claim: Claim, root: Path | None, device: torch.device) -> tuple[Victim, Queries]:
    """The model, its gallery, and the queries that the claim is about. Raises ValueError where they are others."""
    opened = open_model(claim.model)
    pixels = load_test_set(opened, data=claim.data, root=root)
    network = opened.embed
    if isinstance(network, nn.Module):
        network = network.to(device).eval().requires_grad_(False)
    dataset = embed_dataset(lambda images: normalize(network(images), dim=1), pixels, device)
    gallery = dataset.gallery
    victim = Victim(lambda images: normalize(network(images), dim=1), gallery.embeddings, gallery.labels, gallery.ids)
    ids = torch.tensor(claim.robust, dtype=torch.long)
    labels = torch.from_numpy(pixels.table.labels)[ids]
    queries = asked(victim, ids.to(device), pixels.read(ids)[0].to(device), labels.to(device))
    for i, identity in enumerate(claim.robust):
        if is_broken(victim, queries.images[i], queries.match[i], queries.other[i]):
            raise ValueError(f"query {identity} fails unattacked: {claim.model} or its images are not the result's")
    return victim, queries


def attack(
    victim: Victim, queries: Queries, eps: float, *, rounds: list[Round], state: dict[str, Any], out: Path
) -> dict[str, Any]:
    """All rounds that ``state`` does not have yet, survivors only: what is broken, the rounds done, and the seconds."""
    missing = [this for this in rounds if list(this) not in state["rounds"]]
    with Progress("independent attack", len(rounds), len(rounds) - len(missing)) as progress:
        for this in missing:
            began = time.perf_counter()
            fallen = {kill["id"] for kill in state["broken"]}
            left = [i for i, one in enumerate(queries.ids.tolist()) if one not in fallen]
            found: dict[int, int] = {}
            for first in range(0, len(left), BATCH):
                found |= descend(victim, queries.take(torch.tensor(left[first : first + BATCH])), eps, this)
            state["broken"] += [{"id": identity, **this._asdict(), "step": step} for identity, step in found.items()]
            state["rounds"].append(list(this))
            state["seconds"] += time.perf_counter() - began
            write_json(out, state)
            progress.advance(f"{this.loss} {this.restart}: {len(found)} more of {len(left)}")
    return state


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="result.json of --protocol worst or strict, its records beside it")
    parser.add_argument("--model", help="its model, as for evaluate; by default zoo:NAME by the name in the result")
    parser.add_argument("--root", type=Path, help="where its data set lies")
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--device")
    options = parser.parse_args(arguments)
    out = options.result.parent / NAME
    kept = json.loads(out.read_text()) if out.exists() else {}
    try:
        claim = read_claim(options.result, options.model, kept)
        victim, queries = open_claim(claim, options.root, distributed.device(options.device))
    except ValueError as error:
        parser.error(str(error))
    rounds = [Round(loss, restart, options.steps) for restart in range(options.restarts) for loss in LOSSES]
    empty = {"robust": claim.robust, "broken": [], "rounds": [], "seconds": 0.0}
    state = attack(victim, queries, claim.eps, rounds=rounds, state={**empty, **kept}, out=out)
    for kill in state["broken"]:
        print(f"query {kill['id']} breaks by {kill['loss']}, restart {kill['restart']}, step {kill['step']}")
    facts = {
        "model": claim.model,
        "eps": claim.eps,
        "queries": claim.queries,
        "robust by the library": len(claim.robust),
        "of these broken": len(state["broken"]),
        "seconds": state["seconds"],
    }
    figure = 100 * len(state["broken"]) / claim.queries
    row("broken here, robust by the library", figure, "points", Bar(most=ALLOWED), **facts)


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # the smooth loss weighs most items with nearly nothing, which is slow to multiply
    main()
