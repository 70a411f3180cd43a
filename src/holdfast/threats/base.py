"""What every threat begins and ends with: a model examined on a test set, and a result that reports can read."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from typing_extensions import TypedDict

from holdfast.core.pgd import Embed
from holdfast.data import Pixels
from holdfast.evaluation.evaluate import Data, as_pixels, clean_scores, examined, target_of
from holdfast.evaluation.fingerprint import describe_data, model_fingerprint
from holdfast.evaluation.result import FORMAT, NAME, Result
from holdfast.evaluation.runner import Target
from holdfast.evaluation.settings import AttackSettings
from holdfast.metrics.retrieval import per_query
from holdfast.models.adapters.base import OpenedModel
from holdfast.models.embedding import EmbeddedDataset
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.models.wrapped import WrappedModel
from holdfast.runs.folder import environment
from holdfast.util import distributed
from holdfast.util.atomic import write_json
from holdfast.util.validate import Measured, Whole

Model = str | Path | Embed | OpenedModel
"""What :func:`.open_model` takes."""
VERSION = 1
"""Of what threats measure."""


class Share(TypedDict):
    """A share in percent with its 95 % interval: ``kept`` of ``queries``."""

    value: Measured
    low: Measured
    high: Measured
    kept: Whole
    queries: Whole


@dataclass(frozen=True, eq=False)
class Examined:
    """A model on a test set: examined, fixed, embedded, with the settings of a threat."""

    opened: OpenedModel
    wrapped: WrappedModel
    target: Target
    embedded: EmbeddedDataset
    resolved: AttackSettings

    def identity(self, threat: Mapping[str, Any]) -> str:
        """Eight hex digits that stand for the settings, those of the threat included, the model, and the data."""
        hashes = {"hash": model_fingerprint(self.target)}
        return self.resolved.hash(hashes, describe_data(self.target.pixels), dict(threat))

    def result(
        self,
        place: Path | None,
        threat: str,
        identity: str,
        found: Mapping[str, Any],
        *,
        attacked: int = 0,
        cost: Mapping[str, float] | None = None,
    ) -> Result:
        """A result of protocol ``threat`` that holds under its name what was ``found``; written into the folder
        ``place`` where there is one."""
        pixels, opened, system = self.target.pixels, self.opened, self.target.system
        unattacked = per_query(system.queries, system.gallery)
        content = {
            "format": FORMAT,
            "name": opened.name,
            "model": {
                **opened.about,
                "hash": model_fingerprint(self.target),
                "dim": self.embedded.z.shape[1],
                "remarks": [*opened.remarks, *self.wrapped.remarks, *self.wrapped.faults, *pixels.remarks()],
            },
            "data": describe_data(pixels) | {"attacked": attacked},
            "protocol": threat,
            "protocol_version": VERSION,
            "settings": self.resolved.plain(),
            "hash": identity,
            **clean_scores(self.target, unattacked, self.embedded.classes, self.resolved.seed),
            "columns": {},
            threat: dict(found),
            "checks": [],
            "trusted": False if self.wrapped.faults else None,
            **({} if cost is None else {"cost": dict(cost)}),
            "environment": environment(),
        }
        if place is not None:
            write_json(place / NAME, content)
        return Result(None if place is None else place / NAME, content)


@contextmanager
def examine(
    model: Model,
    data: Data | None,
    settings: Callable[[OpenedModel, Pixels], AttackSettings],
    *,
    device: torch.device | str | None = None,
    quiet: bool = False,
) -> Iterator[Examined]:
    """Open a model and its test set, and look at both, before any work.

    settings: from the opened model and the images to what is to be done, checked. Raises HoldfastError for what cannot
    be measured, among it a model without gradients where the settings need them.
    """
    opened = open_model(model)
    pixels = load_test_set(opened) if data is None else as_pixels(data)
    resolved = settings(opened, pixels)
    where = distributed.device(device)
    white = resolved.attacking and resolved.gradient == "white-box"
    with examined(opened.embed, pixels, where, resolved, white) as wrapped:
        wrapped.require_repeatable()
        if white:
            wrapped.require_gradients()
        target, embedded = target_of(wrapped, pixels, where, quiet)
        yield Examined(opened, wrapped, target, embedded, resolved)
