"""One perturbation, or one patch, for all queries: made on some, read on others."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from typing_extensions import TypedDict

from holdfast.attacks.base import Attacked
from holdfast.attacks.shared import GREY, OnAll, Patch, Universal, mean_margin
from holdfast.core.gallery import Queries
from holdfast.core.objectives import Objective
from holdfast.core.pgd import PGD, crossing, rounded
from holdfast.core.steps import BALLS, Ball, LInf
from holdfast.data import Pixels
from holdfast.data.pixels import to_image
from holdfast.evaluation.evaluate import Data
from holdfast.evaluation.records import Records
from holdfast.evaluation.result import Result
from holdfast.evaluation.runner import Runner, Target, attacked_rows, generators_of
from holdfast.evaluation.saving import save
from holdfast.evaluation.scores import share
from holdfast.evaluation.settings import AttackSettings, resolve_settings
from holdfast.models.adapters.base import OpenedModel
from holdfast.threats.base import Examined, Model, Share, examine
from holdfast.util.arrays import read_arrays, write_arrays
from holdfast.util.atomic import replacing
from holdfast.util.errors import HoldfastError
from holdfast.util.lock import working_in
from holdfast.util.progress import Progress
from holdfast.util.text import counted
from holdfast.util.validate import Count, Whole, check, fit

ROUNDS = 4
"""Descents of the settings' steps, one after the other, with ever smaller steps; what is made is kept after each."""
STATE = "canvas.npz"
IDLE = ("restarts", "step", "query_budget", "gradient")
"""Settings that a shared perturbation has no use for."""

Shared = Universal | Patch


class _Recall(TypedDict):
    clean: Share
    untrained: Share
    attacked: Share


class OneForAll(TypedDict):
    """What a result holds under ``universal`` or ``patch``: R@1 of the queries that it was read on, in percent."""

    made_on: Whole
    read_on: Whole
    recall: _Recall


def shared_of(result: Result, threat: str) -> OneForAll | None:
    """What a result says of ``universal`` or ``patch``; None of another one, and HoldfastError of a damaged one."""
    found: OneForAll | None = result.content.get(threat)
    if found is not None:
        check(OneForAll, found, f"{result.path}: {threat}")
    return found


def attack_shared(
    model: Model,
    data: Data | None,
    attack: Shared,
    folder: str | Path,
    *,
    made_on: int = 1000,
    max_queries: int = 100,
    batch: int = 128,
    device: torch.device | str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Result:
    """Make one perturbation for all queries, save it and queries with it on, and measure what it does to others.

    Args:
        model: what :func:`.open_model` takes; with gradients.
        data: a test set, as for :func:`.evaluate`.
        attack: a :class:`.Universal` or a :class:`.Patch`.
        folder: for the canvas, ``universal.png`` or ``patch.png``, for images as :func:`.save` writes them, and for
            ``result.json``.
        made_on: how many queries it is made on, drawn by the seed; at most half of those that have a match.
        max_queries: how many others it is read on, and laid on in files.
        batch: images read at once.
        device: by default the GPU where there is one.
        settings: of :class:`.AttackSettings`: eps and norm (of a universal perturbation), steps (of each of the
            :data:`ROUNDS`), precision, seed.

    Returns a result that holds under the attack's name a :class:`OneForAll`: R@1 of held-out queries ``clean``, under
    an ``untrained`` perturbation of the same size, and ``attacked``.
    """
    threat = attack.name
    fit(Count, made_on, "made_on")
    fit(Count, max_queries, "max_queries")
    for name in IDLE:
        if settings.pop(name, None) is not None:
            raise HoldfastError(f"--attack {threat} takes no {name}: it follows gradients, in steps that get smaller")
    if isinstance(attack, Patch):
        for name in ("eps", "norm"):
            if settings.pop(name, None) is not None:
                raise HoldfastError(f"a patch takes no {name}: its pixels may have any value; give its area")
        settings["eps"] = 1.0

    def resolve(opened: OpenedModel, pixels: Pixels) -> AttackSettings:
        resolved = resolve_settings(pixels.table.family, attacks=(attack,), **settings)
        if not resolved.eps:
            raise HoldfastError("eps is above 0, or nothing would be perturbed")
        if opened.black_box:
            raise HoldfastError(f"--attack {threat} needs gradients, and {opened.name} gives none")
        return resolved

    place = Path(folder)
    with examine(model, data, resolve, device=device, quiet=quiet) as it, working_in(place):
        made, others = _drawn(it, made_on, max_queries)
        identity = it.identity({threat: [len(made), len(others)]})
        canvas = _made(it, attack, made, place, identity=identity, quiet=quiet)
        with replacing(place / f"{threat}.png") as temporary:
            to_image(canvas).save(temporary, "PNG")
        ball = LInf(1.0) if isinstance(attack, Patch) else BALLS[it.resolved.norm](it.resolved.eps)
        pgd = replace(it.resolved.pgd(), ball=ball)
        runner = Spread(threat, attack, pgd, others, it.resolved.seed, batch, canvas=canvas)
        entries = save(runner, it.target, place, identity, quiet)
        untrained = replace(runner, canvas=_untrained(it, attack, canvas))
        noise = torch.cat([untrained.carry_out(it.target, rows).after["R@1"] for rows in torch.split(others, batch)])
        recall = {when: _share([entry[when]["R@1"] for entry in entries]) for when in ("before", "saved")}
        found = {
            "made_on": len(made),
            "read_on": len(others),
            "recall": {"clean": recall["before"], "untrained": _share(noise.tolist()), "attacked": recall["saved"]},
        }
        return it.result(place, threat, identity, found, attacked=len(others), cost=Records(place).cost())


@dataclass(frozen=True, kw_only=True)
class Spread(Runner):
    """Lays a finished canvas (C, h, h) on images, and reads what it does."""

    canvas: Tensor

    def carry_out(self, target: Target, rows: Tensor, surrogate: Target | None = None) -> Attacked:
        attack, perturbed = self.attack, target.system.queries.take(rows)
        assert isinstance(attack, Universal | Patch)
        clean, readable = target.pixels.read(perturbed.ids.cpu())
        if not readable.all():
            raise HoldfastError(f"{counted(int((~readable).sum()), 'image')} can no longer be read")
        clean = clean.to(perturbed.embeddings.device)
        return laid(attack, self.canvas, target, perturbed, clean, ball=self.pgd.ball, seed=self.seed)


def laid(
    attack: Shared, canvas: Tensor, target: Target, perturbed: Queries, images: Tensor, *, ball: Ball, seed: int
) -> Attacked:
    """A finished canvas (C, h, h) laid on images (B, C, H, W), in 8 bits; where, the seed and the ids decide."""
    chosen = attack.choose(perturbed, target.system, [])
    plan = attack.plan(perturbed, target.system, chosen)
    generators = generators_of(attack.name, seed, perturbed.ids.tolist())
    numbers = torch.stack([torch.rand(attack.numbers, generator=one) for one in generators])
    with torch.no_grad():
        after = rounded(attack(canvas, images, numbers.to(images)), images, ball)
        read = plan.outcome(perturbed.embeddings), plan.outcome(target.model(after))
    return Attacked(images, after, chosen, *read, plan.outcome)


def blank(attack: Shared, pixels: Pixels) -> Tensor:
    """A canvas (1, 1, C, h, h) that is perturbed in no way."""
    side = attack.canvas_side(pixels.size)
    return torch.full((1, 1, pixels.channels, side, side), GREY)


def rounds(
    attack: Shared,
    target: Target,
    images: Tensor,
    objective: Objective,
    resolved: AttackSettings,
    *,
    canvas: Tensor,
    done: int = 0,
) -> Iterator[Tensor]:
    """The canvas (1, 1, C, h, h) after each of the :data:`ROUNDS` that are left, made on images (N, C, H, W)."""
    start, ball = torch.full_like(canvas, GREY), reach(attack, resolved)
    for i in range(done, ROUNDS):
        size = 2 * (1 - (i + 0.5) / ROUNDS) * crossing(ball.eps, ROUNDS * resolved.steps)
        (generator,) = generators_of(attack.name, resolved.seed, [i])
        embed = OnAll(target.model, attack, images, generator, target.model.width)
        canvas = PGD(ball, size, resolved.steps)(embed, start, objective, initial=canvas)
        yield canvas


def reach(attack: Shared, resolved: AttackSettings) -> Ball:
    """How far a canvas may get from :data:`.GREY`: a patch to every value."""
    return LInf(0.5) if isinstance(attack, Patch) else BALLS[resolved.norm](resolved.eps)


def in_eight_bits(canvas: Tensor, ball: Ball) -> Tensor:
    """A canvas (1, 1, C, h, h) as its file holds it, (C, h, h)."""
    return rounded(canvas[0], torch.full_like(canvas[0], GREY), ball)[0]


def _drawn(it: Examined, made_on: int, read_on: int) -> tuple[Tensor, Tensor]:
    """The rows (n,) of the queries that a perturbation is made on, and of those it is read on, in order."""
    rows = attacked_rows("query", it.target, it.resolved)
    if len(rows) < 2:
        raise HoldfastError(
            f"it is made on some queries and read on others, and there is {counted(len(rows), 'query')}"
        )
    order = rows[torch.randperm(len(rows), generator=Generator().manual_seed(it.resolved.seed)).to(rows.device)]
    made = min(made_on, len(rows) // 2)
    return order[:made].sort().values, order[made : made + read_on].sort().values


def _made(it: Examined, attack: Shared, made: Tensor, place: Path, *, identity: str, quiet: bool) -> Tensor:
    """The finished canvas (C, h, h), on the grid of 8 bits; goes on where a killed call has left it in ``place``."""
    pixels, file = it.target.pixels, place / STATE
    queries = it.target.system.queries.take(made)
    device = queries.embeddings.device
    canvas, done = blank(attack, pixels).to(device), 0
    if file.exists():
        known = read_arrays(file, ("canvas", "rounds", "identity"))
        if str(known["identity"]) != identity:
            raise HoldfastError(f"{place} holds images of another attack, model or data set; give another folder")
        canvas, done = torch.from_numpy(known["canvas"]).to(device).view_as(canvas), int(known["rounds"])
    images = pixels.read(queries.ids.cpu())[0].to(device)
    objective = mean_margin(queries, it.target.system)
    with Progress("making it", ROUNDS, done, quiet=quiet) as progress:
        left = rounds(attack, it.target, images, objective, it.resolved, canvas=canvas, done=done)
        for i, canvas in enumerate(left, done + 1):
            state = {"canvas": canvas.cpu().numpy(), "rounds": np.array(i), "identity": np.array(identity)}
            write_arrays(file, state)
            progress.advance()
    return in_eight_bits(canvas, reach(attack, it.resolved))


def _untrained(it: Examined, attack: Shared, canvas: Tensor) -> Tensor:
    """A canvas of the same size that nothing was learned for: random signs at the radius, or random pixels."""
    draw = torch.rand(canvas.shape, generator=Generator().manual_seed(it.resolved.seed)).to(canvas)
    if isinstance(attack, Patch):
        return draw
    ball = BALLS[it.resolved.norm](it.resolved.eps)
    signs = (draw - 0.5).sign()
    return GREY + ball.project(signs[None] * ball.eps / ball.norm(signs[None]))[0]


def _share(values: list[float]) -> dict[str, float]:
    return share(np.array(values))
