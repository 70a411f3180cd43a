"""How long the runs of a sweep will take on this machine, from a few timed steps of each kind."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import nan
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from holdfast.defense.recipes import Recipe
from holdfast.evaluation.estimate.estimate import estimate
from holdfast.runs.config import Config, WarmupConfig, decisive
from holdfast.runs.data import pixels_of, table_of
from holdfast.runs.folder import Run
from holdfast.sweep.plan import Evaluation, Planned
from holdfast.training.build import embedder_of
from holdfast.training.loop import train
from holdfast.util.errors import HoldfastError
from holdfast.util.progress import Progress

STEPS = 4


class Estimator:
    """Seconds of runs on a device; what differs in the seed only is timed once."""

    def __init__(self, device: torch.device | str | None = None) -> None:
        self.device = device
        self.known: dict[str, float] = {}

    def seconds(self, runs: Sequence[Planned], *, quiet: bool = False) -> list[float]:
        """What is left to do of each run; NaN for one that fails while it is timed.

        Not counted: start-up and validations. Raises HoldfastError where data is missing.
        """
        for run in runs:
            run.steps()
        found = []
        with Progress("timing", len(runs), quiet=quiet) as progress:
            for run in runs:
                try:
                    found.append(self._training(run) + sum(self._evaluation(run.config, one) for one in run.missing()))
                except (HoldfastError, RuntimeError) as error:
                    progress.say(f"{run.sweep}, {run.name} cannot be timed: {str(error).splitlines()[0]}")
                    found.append(nan)
                progress.advance(run.name)
        return found

    def _training(self, run: Planned) -> float:
        if run.trained():
            return 0.0
        done, (plain, rest) = run.run.place().step, run.phases
        warming = replace(run.config, recipe=Recipe("none", run.config.warmup.sampler).name)
        left = [(warming, max(0, plain - done)), (run.config, rest - max(0, done - plain))]
        return sum(count * self._step(config) for config, count in left if count)

    def _step(self, config: Config) -> float:
        model = config.model
        if model.weights is not None and not Path(model.weights).exists():
            model = replace(model, weights=None, batchnorm="frozen" if model.batchnorm == "auto" else model.batchnorm)
        timed = replace(
            config,
            seed=0,
            steps=STEPS,
            tracker=None,
            model=model,
            warmup=WarmupConfig(),
            validation=replace(config.validation, every=0),
            optim=replace(config.optim, epochs=STEPS),
        )
        key = json.dumps(decisive(timed))
        if key not in self.known:
            with TemporaryDirectory() as folder:
                train(timed, folder, device=self.device, quiet=True)
                self.known[key] = median(line["seconds"] + line["waited"] for line in Run(folder).steps()[1:])
        return self.known[key]

    def _evaluation(self, config: Config, evaluation: Evaluation) -> float:
        """At the most: what a model withstands is not known before it is trained."""
        key = json.dumps([asdict(config.data), config.model.backbone, config.model.dim, asdict(evaluation)])
        if key not in self.known:
            pixels = pixels_of(config, table_of(config).test())
            embedder, _ = embedder_of(replace(config, model=replace(config.model, weights=None)))
            what = {"checks": evaluation.checks, "device": self.device, **evaluation.settings}
            self.known[key] = estimate(embedder.eval(), pixels, evaluation.protocol, **what).most
        return self.known[key]
