"""Run folders for the explorer: digits, and networks with random weights, which retrieve eight in ten."""

from pathlib import Path

import torch

from holdfast.runs.config import resolve_config
from holdfast.runs.folder import Run
from holdfast.training.build import embedder_of


def run_folder(folder: Path, seed: int = 0, **settings: object) -> Path:
    """A run folder as training leaves it behind, but for the training."""
    config = resolve_config({"recipe": "none-r", "model.dim": 16, "seed": seed, **settings})
    Run(folder).begin(config, resume=False)
    with torch.random.fork_rng():
        embedder_of(config)[0].save_pretrained(folder)
    return folder
