"""How long an evaluation takes, and how much memory: part by part, before it begins."""

from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from holdfast.core.pgd import Embed
from holdfast.evaluation.estimate.parts import Part, benign, embedding, through_index
from holdfast.evaluation.estimate.rehearsal import STEPS, Rehearsal
from holdfast.evaluation.estimate.sketch import sketch
from holdfast.evaluation.evaluate import Data, asked, examined
from holdfast.evaluation.indexed.gallery import images_at_once
from holdfast.evaluation.robust.cascade import stages_of
from holdfast.evaluation.runner import attacked_rows, runners_of
from holdfast.evaluation.scores import share
from holdfast.models.adapters.base import OpenedModel
from holdfast.util import distributed
from holdfast.util.text import counted


@dataclass(frozen=True)
class Estimate:
    """The parts of an evaluation in their order. basis: what the expected seconds rest on. took: seconds."""

    parts: tuple[Part, ...]
    basis: tuple[str, ...]
    took: float

    @property
    def seconds(self) -> float:
        """Expected."""
        return sum(part.seconds for part in self.parts)

    @property
    def most(self) -> float:
        """If no attack ends early."""
        return sum(part.most for part in self.parts)


def estimate(
    model: str | Path | Embed | OpenedModel,
    data: Data | None = None,
    protocol: str = "strict",
    *,
    surrogate: str | Path | Embed | OpenedModel | None = None,
    batch: int = 128,
    checks: bool = True,
    device: torch.device | str | None = None,
    **settings: Any,
) -> Estimate:
    """What :func:`.evaluate` would take with the same arguments, in one process.

    Some images are embedded, and random vectors stand for the others; each attack makes a few steps on a batch, and at
    most 256 queries try the first stages of the cascade. Not counted: start-up, and certificates. What is left of an
    evaluation that was interrupted counts as a whole one.

    Raises HoldfastError for what cannot be evaluated.
    """
    began = perf_counter()
    opened, pixels, resolved, other = asked(model, data, protocol, settings, surrogate=surrogate, batch=batch)
    where = distributed.device(device)
    white = resolved.attacking and resolved.gradient == "white-box"
    with (
        examined(opened.embed, pixels, where, resolved, white and surrogate is None) as wrapped,
        examined(other, pixels, where, resolved, white) as seen,
    ):
        if not resolved.cascade:
            wrapped.require_repeatable()
        if white and not (seen or wrapped).differentiable:
            resolved = replace(resolved, attacks=(), cascade=False, minimal_eps=False)
        drawn = sketch(wrapped, pixels, resolved, device=where)
        transfer = None if seen is None else sketch(seen, pixels, resolved, device=where, known=drawn.known)
        parts = [embedding(one) for one in (drawn, transfer) if one is not None]
        if resolved.index is not None:
            drawn, building = through_index(drawn, resolved)
            parts.append(building)
        parts.append(benign(drawn))
        basis = [f"{len(drawn.known):,} of {counted(len(pixels), 'image')} embedded"]
        runners = runners_of(drawn.target, resolved, batch)
        if resolved.attacking:
            batch = images_at_once(batch, len(drawn.target.system.items))
            total = len(attacked_rows("query", drawn.target, resolved))
            tried = Rehearsal(drawn, resolved, runners, total, batch, None if transfer is None else transfer.target)
            parts += tried.attacks()
            basis += (
                [f"{counted(min(STEPS, max(one.pgd.steps for one in runners)), 'step')} of each attack"]
                if runners
                else []
            )
            if resolved.cascade and tried.stood:
                parts += tried.cascade()
                names = " and ".join(stage.name for stage, _ in zip(stages_of(resolved), tried.stood, strict=False))
                queries, withstood = tried.stood[0].tried, tried.stood[-1].withstood
                found = share(np.repeat([100.0, 0.0], [withstood, queries - withstood]))
                spread = f" (95 %: {found['low']:.0f} to {found['high']:.0f} %)" if tried.others else ""
                basis.append(f"of {counted(queries, 'query')} tried, {withstood} withstood {names}{spread}")
            if resolved.minimal_eps:
                parts.append(tried.minimal())
            if checks:
                parts.append(tried.checks())
    return Estimate(tuple(parts), tuple(basis), perf_counter() - began)
