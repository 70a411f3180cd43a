"""The one training loop, for every recipe: one process or several under torchrun, resumable after a kill."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Generator, nn

from holdfast.core.fused import PRECISIONS, autocast
from holdfast.data import Batch, Loader
from holdfast.defense.base import Defense, Perturbing, Step
from holdfast.defense.recipes import Recipe
from holdfast.models.embedder import Embedder
from holdfast.models.weights import fitting
from holdfast.runs.config import Config
from holdfast.runs.data import judging, pixels_of, table_of
from holdfast.runs.folder import Place, Run, State
from holdfast.training.build import batches_of, defense_of, embedder_of, optimizer_of, pgd_of, with_objects
from holdfast.training.state import averaged, restore, tensors
from holdfast.training.trackers import tracker
from holdfast.training.validation import describe, merit, validate
from holdfast.util import distributed
from holdfast.util.errors import HoldfastError
from holdfast.util.extras import require
from holdfast.util.lock import working_in
from holdfast.util.progress import Progress
from holdfast.util.text import counted

PATIENCE = 2
"""Validations in a row that find a collapse before a run stops: a fresh network can look collapsed, and recover."""

SHOWN = ("loss", "source_hardness", "destination_hardness", "hardness", "moved")
NEAR = ("distance_shifted", "distance", "multiplier")
"""What defenses log that compare with the original."""


class CollapsedError(HoldfastError):
    """The embeddings have run together, and training on would be in vain."""


def train(
    config: Config,
    folder: str | Path,
    *,
    defense: Defense | None = None,
    backbone: nn.Module | None = None,
    resume: bool = False,
    device: torch.device | str | None = None,
    verify: bool = False,
    quiet: bool = False,
) -> Embedder:
    """Train an embedder as the settings say, into a run folder, and return it (averaged weights with ``optim.ema``).

    defense: one of your own, in place of the recipe, which is then called ``custom``; it has a PGD of its own, and
        ``pgd`` of the settings serves the validation only.
    backbone: a module, normalised pixels (B, C, H, W) -> (B, ``model.dim``), in place of the one named, which is then
        called ``custom``. Both are copied: what is given stays as it is.
    resume: go on from the state in the folder where there is one; the weights come out as if never interrupted. More
        ``optim.epochs`` or ``steps`` make the run longer. A defense and a backbone of your own are given again.
    device: by default the GPU where there is one. Under torchrun each process takes its own.
    verify: decode every image first, and refuse to begin with an unreadable one.

    Raises HoldfastError for anything that cannot work, before work starts where that can be known; CollapsedError when
    the embeddings run together; either way the last good state stays in the folder.
    """
    device = distributed.device(device)
    config, defense, backbone = with_objects(config, defense, backbone)
    with distributed.process_group(device):
        first = distributed.rank() == 0
        Run(folder).check(config, resume)
        with working_in(folder if first else None):
            training = _Training(config, Run(folder), device, defense, backbone)
            quiet = quiet or not first
            if verify:
                training.verify(quiet)
            return training.run(resume, quiet)


def finished(run: Run, config: Config) -> bool:
    """Whether a run with these settings has come to its end: its last step, or a collapse that stopped it."""
    place = run.place()
    collapsed = config.stop_on_collapse and place.collapsed >= PATIENCE
    by_steps = config.steps is not None and place.step >= config.steps
    return collapsed or by_steps or place.epoch >= config.warmup.epochs + config.optim.epochs


class _Training:
    def __init__(
        self, config: Config, run: Run, device: torch.device, defense: Defense | None, backbone: nn.Module | None
    ) -> None:
        self.config, self.run_files, self.device = config, run, device
        if config.tracker:
            require(config.tracker, extra=config.tracker)
        self.defense, method = defense_of(config, defense)
        table = table_of(config)
        self.train_pixels = pixels_of(config, table.train(), cache=config.data.cache)
        judged, self.chooses = judging(config, table)
        self.judged_pixels = None if judged is None else pixels_of(config, judged)
        batches = batches_of(config, self.train_pixels.table.labels, self.defense.labels)
        self.loader = Loader(self.train_pixels, batches, config.seed, config.data.augment)

        embedder, mismatch = embedder_of(config, backbone)
        self.embedder, self.defense = embedder.to(device), self.defense.to(device)
        shape = self.embedder.config.channels, config.data.size, config.data.size
        self.defense.begin(self.embedder, torch.zeros(2, *shape, device=device))
        distributed.share([*self.embedder.state_dict().values(), *self.defense.state_dict().values()])
        self.average = None if config.optim.ema is None else averaged(self.embedder, config.optim.ema)
        self.adversary = self.defense.pgd if isinstance(self.defense, Perturbing) else None
        self.warmup = Recipe("none", config.warmup.sampler).build(pgd_of(config), config.loss).to(device)
        self.optimizer = optimizer_of(config, self.embedder)

        self.epochs = config.warmup.epochs + config.optim.epochs
        total = self.epochs * len(self.loader)
        self.total = total if config.steps is None else min(total, config.steps)
        self.place = Place()
        self.opening = [table.describe(), batches.describe(), method, mismatch]
        if config.validation.every and not self.chooses:
            self.opening.append("no validation split: the test set is watched between epochs, and no best/ is chosen")

    def verify(self, quiet: bool) -> None:
        broken: list[str] = []
        read = [pixels for pixels in (self.train_pixels, self.judged_pixels) if pixels is not None]
        for pixels in read:
            with Progress("reading images", len(pixels), quiet=quiet) as progress:
                found = pixels.verify(progress)
            broken += [f"{pixels.table.name_of(i)}: {reason}" for i, reason in found.items()]
        if broken:
            total = sum(map(len, read))
            raise HoldfastError(f"{len(broken):,} of {counted(total, 'image')} cannot be read:\n" + "\n".join(broken))

    def run(self, resume: bool, quiet: bool) -> Embedder:
        state = self.run_files.begin(self.config, resume) if distributed.rank() == 0 else None
        distributed.wait()
        if distributed.rank() > 0 and self.run_files.state_file.exists():
            state = self.run_files.load_state()
        if state:
            with fitting(f"{self.run_files.state_file} is no state of this run"):
                restore(state.tensors, self._parts, self.optimizer)
            self.place = state.place
        self.track = tracker(self.config.tracker if distributed.rank() == 0 else None, self.run_files.folder)
        with Progress("training", self.total, self.place.step, quiet=quiet) as progress:
            self._open(progress, state)
            self.saved_at = time.monotonic()
            try:
                while self.place.step < self.total and self.place.epoch < self.epochs:
                    self._epoch(progress)
            except KeyboardInterrupt:
                progress.say(f"stopped at step {self.place.step}; --resume goes on from the state saved last")
                raise
            if self.loader.skipped or self.train_pixels.broken:
                progress.say(
                    f"left out: {counted(len(self.train_pixels.broken), 'unreadable image')}; "
                    f"skipped: {counted(self.loader.skipped, 'batch')}"
                )
        return self.trained

    @property
    def trained(self) -> Embedder:
        return self.embedder if self.average is None else cast(Embedder, self.average.module)

    @property
    def _parts(self) -> dict[str, nn.Module]:
        """What the state holds, beside the optimiser, by its name there."""
        average = {} if self.average is None else {"average": self.average.module}
        return {"model": self.embedder, **average, "defense": self.defense}

    def _open(self, progress: Progress, state: State | None) -> None:
        for line in filter(None, self.opening):
            progress.say(line)
        if self.config.warmup.epochs:
            progress.say(f"warm-up: plain training for {self.config.warmup.epochs} of {counted(self.epochs, 'epoch')}")
        if state:
            progress.say(f"resumed at step {self.place.step} of {self.total}")

    def _epoch(self, progress: Progress) -> None:
        self.embedder.train()
        epoch, skipped, waited_before = self.place.epoch, self.loader.skipped, self.loader.waited
        for batch in self.loader.epoch(epoch, self.place.batch):
            began, waited = time.perf_counter(), self.loader.waited - waited_before
            waited_before = self.loader.waited
            factor = self._rate(self.place.step)
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            step, gradient = self._learn(batch)
            self.place.step += 1
            self.place.batch = batch.step + 1
            logs = {name: float(value) for name, value in step.logs.items()} | {"gradient": gradient}
            rate = self.config.optim.lr * factor
            self._log_step(logs | {"seconds": time.perf_counter() - began, "waited": waited, "lr": rate})
            progress.advance(", ".join(f"{name} {logs[name]:.3f}" for name in (*SHOWN, *NEAR) if name in logs))
            if self.place.step >= self.total:
                break
            if time.monotonic() - self.saved_at > 60 * self.config.save_minutes:
                self._save()
        if self.loader.skipped - skipped == len(self.loader):
            raise HoldfastError(
                f"epoch {epoch + 1}: no batch could be used, for "
                f"{counted(len(self.train_pixels.broken), 'training image')} cannot be read; --verify lists them"
            )
        within = self.place.batch
        self.place.epoch, self.place.batch = epoch + 1, 0
        every = self.config.validation.every
        last = self.place.epoch == self.epochs or self.place.step >= self.total
        scores = self._validate(progress) if every and (last or self.place.epoch % every == 0) else {}
        self._log_epoch(scores)
        self._stop_if_collapsed()
        if self.place.step >= self.total and within < len(self.loader):
            self.place.epoch, self.place.batch = epoch, within  # with more steps the run goes on in this epoch
        self._save()

    def _learn(self, batch: Batch) -> tuple[Step, float]:
        warm = self.place.epoch < self.config.warmup.epochs
        method = self.warmup if warm else self._hardening()
        entropy = np.random.SeedSequence((self.config.seed, self.place.step, distributed.rank()))
        seed = int(entropy.generate_state(1, np.uint64)[0])
        generator = Generator().manual_seed(seed)
        torch.manual_seed(seed)
        images, labels, anchors = (x.to(self.device) for x in (batch.images, batch.labels, batch.anchors))
        with self._finite(batch):
            with autocast(PRECISIONS[self.config.precision], self.device):
                step: Step = method(self.embedder, images, labels, anchors, generator)
            self.optimizer.zero_grad()
            step.loss.backward()  # type: ignore[no-untyped-call]
            gradients = [p.grad for p in self.embedder.parameters() if p.grad is not None]
            passes = {name: value for name, value in step.logs.items() if name == "passes"}
            distributed.average([*gradients, *passes.values()])
            norm = nn.utils.clip_grad_norm_(self.embedder.parameters(), self.config.optim.clip or math.inf)
            for name, value in {"loss": step.loss, "gradient": norm}.items():
                if not value.isfinite():
                    raise FloatingPointError(f"the {name} is {value.item()}")
        self.optimizer.step()
        distributed.average(self.embedder.buffers())
        if self.average is not None:
            self.average.update_parameters(self.embedder)
        passes = {name: value * distributed.world() for name, value in passes.items()}
        return Step(step.loss, step.logs | passes), float(norm)

    def _hardening(self) -> Defense:
        """The defense, its adversary weaker during the ramp."""
        if isinstance(self.defense, Perturbing) and self.adversary and self.config.warmup.ramp:
            done = (self.place.epoch - self.config.warmup.epochs) * len(self.loader) + self.place.batch + 1
            self.defense.pgd = self.adversary.scaled(min(1.0, done / (self.config.warmup.ramp * len(self.loader))))
        return self.defense

    @contextmanager
    def _finite(self, batch: Batch) -> Iterator[None]:
        try:
            yield
        except FloatingPointError as error:
            listing, names = self.run_files.folder / f"failed-batch-{distributed.rank()}.txt", batch.names()
            listing.write_text("\n".join(names) + "\n")
            state = self.run_files.state_file
            saved = f"the state saved last is in {state}" if state.exists() else "no state had been saved"
            raise HoldfastError(
                f"step {self.place.step + 1}: {error}. The weights before it are good; {saved}. "
                f"{listing} lists the {counted(len(names), 'image')} of the batch: {', '.join(names[:4])}, ..."
            ) from error

    def _rate(self, step: int) -> float:
        """What the learning rates are multiplied by at a step, from 0."""
        rise = round(self.config.optim.warmup_ratio * self.total)
        if step < rise:
            return (step + 1) / rise
        left = 1 - (step - rise) / (self.total - rise)
        factors = {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}
        return factors[self.config.optim.schedule]

    def _log_step(self, logs: Mapping[str, float]) -> None:
        if distributed.rank() == 0:
            where = {"step": self.place.step, "epoch": self.place.epoch + 1}
            self.run_files.log_step({**where, **logs})
            self.track(logs, self.place.step)

    def _log_epoch(self, scores: Mapping[str, float]) -> None:
        """One row: the epoch's mean training figures, and the scores where it ends in a validation."""
        if distributed.rank() == 0:
            lines = [line for line in self.run_files.steps() if line.get("epoch") == self.place.epoch]
            names = (*SHOWN, *(name for name in NEAR if any(name in line for line in lines)))
            means = {name: sum(line.get(name, math.nan) for line in lines) / max(1, len(lines)) for name in names}
            self.run_files.log_epoch({"step": self.place.step, "epoch": self.place.epoch, **means, **scores})

    def _validate(self, progress: Progress) -> Mapping[str, float]:
        """The scores, on rank 0, for its weights are everybody's; every rank learns of a collapse.

        Neither the warm-up nor a run without a validation split has best weights.
        """
        fallen = torch.zeros((), device=self.device)
        scores: Mapping[str, float] = {}
        if distributed.rank() == 0 and self.judged_pixels is not None:
            scores, collapsed = validate(self.config, self.trained, self.judged_pixels, self.device)
            fallen += collapsed
            split = str(self.judged_pixels.table.split[0])
            self.track({f"{split}/{name}": value for name, value in scores.items()}, self.place.step)
            hardened = self.place.epoch > self.config.warmup.epochs
            if self.chooses and hardened and merit(scores) > self.place.best:
                self.place.best = merit(scores)
                self.trained.save_pretrained(self.run_files.best, weights="best", chosen_on=self.config.chosen_on)
            verdict = " COLLAPSED" if collapsed else ""
            progress.say(f"epoch {self.place.epoch}/{self.epochs}: {describe(scores)}{verdict}")
        distributed.average([fallen])
        self.place.collapsed = self.place.collapsed + 1 if fallen else 0
        return scores

    def _stop_if_collapsed(self) -> None:
        if self.place.collapsed >= PATIENCE and self.config.stop_on_collapse:
            self._save()
            raise CollapsedError(
                f"the embeddings have collapsed (epoch {self.place.epoch}): training stops here. Try a longer warm-up "
                "(warmup.epochs), a radius that rises (warmup.ramp), pretrained weights (model.weights), or a smaller "
                "optim.lr; stop_on_collapse=false goes on regardless"
            )

    def _save(self) -> None:
        if distributed.rank() == 0:
            self.trained.save_pretrained(self.run_files.folder)
            self.run_files.save_state(State(tensors(self._parts, self.optimizer), self.place))
        self.saved_at = time.monotonic()
