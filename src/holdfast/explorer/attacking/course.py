"""The course of an attack: one model after the other, each step told, and what comes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from holdfast.attacks import RankingAttack, System
from holdfast.attacks.base import Plan
from holdfast.core.gallery import Queries
from holdfast.core.objectives import Objective
from holdfast.evaluation.settings import AttackSettings
from holdfast.explorer.attacking.pictures import png
from holdfast.explorer.jobs import Tell
from holdfast.explorer.scene import Query, Scene
from holdfast.util.errors import HoldfastError

Look = Callable[[Tensor], None]
"""What hears the embedding ``(1, D)`` of the image each time a descent looks at it."""

Note = Callable[[float], None]


@dataclass(frozen=True)
class Outcome:
    """report: plain data for the page. files: PNGs by name."""

    report: dict[str, Any]
    files: dict[str, bytes]


Part = tuple[dict[str, Any], dict[str, bytes]]
"""What is shown of one model: plain data, and PNGs by name."""


@dataclass(frozen=True, eq=False)
class Told:
    """An objective of one image that is looked at."""

    objective: Objective
    look: Look

    @property
    def floor(self) -> float:
        return self.objective.floor

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        values = self.objective(z, rows)
        self.look(z[:, 0].detach())
        return values


class Watched:
    """An attack on one image that is looked at."""

    def __init__(self, attack: RankingAttack, look: Look) -> None:
        self.side, self.readings, self.start, self.choose = attack.side, attack.readings, attack.start, attack.choose
        self.attack, self.look = attack, look

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        plan = self.attack.plan(perturbed, system, chosen)
        approach = None if plan.approach is None else Told(plan.approach, self.look)
        return Plan(Told(plan.objective, self.look), plan.outcome, approach)


def on_each_model(
    scene: Scene,
    query: Query,
    resolved: AttackSettings,
    tell: Tell,
    *,
    steps: int,
    carry_out: Callable[[int, Note], Part],
) -> Outcome:
    """Attack a query by the only attack of the settings, each model by itself.

    steps: of one model. carry_out: attacks one model, and notes at each step what its curve shows. ``tell`` hears
    ``model`` (which one), ``step``, ``steps``, and ``traces``: for each model so far what was noted.
    """
    traces: list[list[float]] = []
    parts: list[dict[str, Any]] = []
    files = {"clean": png(query.image)}
    for i, model in enumerate(scene.models):
        traces.append([])

        def note(value: float, i: int = i) -> None:
            traces[i].append(value)
            step = min(len(traces[i]), steps)
            tell({"model": i, "step": step, "steps": steps, "traces": [list(one) for one in traces]})

        try:
            report, made = carry_out(i, note)
        except FloatingPointError as error:
            raise HoldfastError(
                f"{model.name} gives NaN or infinite embeddings on the way: no attack is possible"
            ) from error
        parts.append({**report, "trace": traces[i]})
        files |= {f"{i}-{name}": content for name, content in made.items()}
    report = {"attack": resolved.attacks[0], **budget(resolved), "of": steps, "label": query.label, "models": parts}
    return Outcome(report, files)


def budget(resolved: AttackSettings) -> dict[str, float]:
    """What the page lets one choose; ``eps`` and ``step`` in units of 1/255."""
    return {"eps": 255 * resolved.eps, "step": 255 * resolved.step, "steps": resolved.steps, "seed": resolved.seed}


def change(clean: Tensor, images: Tensor) -> dict[str, float]:
    """How much of an image (1, C, H, W) was changed: the most and the mean in units of 1/255, and the share of values,
    in percent."""
    levels = (255 * (images - clean)).round().abs()
    return {
        "largest": float(levels.max()),
        "mean": round(float(levels.mean()), 2),
        "changed": round(100 * float((levels > 0).float().mean()), 1),
    }
