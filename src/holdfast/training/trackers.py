"""Where numbers go beside the run folder: TensorBoard and Weights & Biases, each an extra."""

import atexit
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from holdfast.util.atomic import write_text
from holdfast.util.errors import pick
from holdfast.util.extras import require

Tracker = Callable[[Mapping[str, float], int], None]


def tensorboard(folder: Path) -> Tracker:
    """Scalars into event files in the run folder."""
    require("tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

    writer = SummaryWriter(folder)
    atexit.register(writer.close)

    def track(values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return track


def wandb(folder: Path) -> Tracker:
    """Scalars to a Weights & Biases run named after the run folder; ``wandb-id`` there keeps its id."""
    mark = folder / "wandb-id"
    if not mark.exists():
        write_text(mark, secrets.token_hex(8))
    options = {"project": "holdfast", "name": folder.name, "id": mark.read_text(), "dir": folder, "resume": "allow"}
    run = require("wandb", "wandb").init(**options)
    return lambda values, step: run.log(dict(values), step=step)


TRACKERS: dict[str, Callable[[Path], Tracker]] = {"tensorboard": tensorboard, "wandb": wandb}


def tracker(name: str | None, folder: Path) -> Tracker:
    """The tracker of a name; one that does nothing for None."""
    if name is None:
        return lambda values, step: None
    return pick("tracker", name, TRACKERS)(folder)
