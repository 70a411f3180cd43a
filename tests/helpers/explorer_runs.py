"""Run folders for the explorer, of networks with random weights, which retrieve eight digits in ten; its queue."""

from pathlib import Path
from threading import Event

import torch

from holdfast.explorer.jobs import Jobs
from holdfast.runs.config import resolve_config
from holdfast.runs.folder import Run
from holdfast.training.build import embedder_of
from tests.helpers.waiting import GUARD


def run_folder(folder: Path, seed: int = 0, **settings: object) -> Path:
    """A run folder as training leaves it behind, but for the training."""
    config = resolve_config({"recipe": "none-r", "model.dim": 16, "seed": seed, **settings})
    Run(folder).begin(config, resume=False)
    with torch.random.fork_rng():
        embedder_of(config)[0].save_pretrained(folder)
    return folder


def finish(jobs: Jobs) -> None:
    """Wait until all is over that was submitted: work is done in order."""
    reached = Event()
    jobs.submit(str(id(reached)), lambda tell: reached.set())
    assert reached.wait(GUARD)
