"""How a model is shown images: what its run folder or the model itself says, or what the user does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.core.pgd import Embed
from holdfast.data import DATASETS, Pixels, Table
from holdfast.models.embedder import Embedder
from holdfast.models.zoo import located
from holdfast.runs.folder import Run
from holdfast.util.errors import HoldfastError

SIDE = 224
"""Side of the images that a model takes, in pixels, where nothing else is said."""


@dataclass(frozen=True)
class View:
    """size: of the images, in pixels. resize: side before the centre crop, None for no crop. channels: 1 or 3."""

    size: int = SIDE
    resize: int | None = None
    channels: int = 3

    def pixels(self, table: Table) -> Pixels:
        """The images of a table, any number of which may be unreadable."""
        return Pixels(table, self.size, self.resize, channels=self.channels, max_broken=len(table))


def view_of(
    spec: str, embed: Embed, *, size: int | None = None, resize: int | None = None, channels: int | None = None
) -> View:
    """How the model ``embed``, which ``spec`` names (see :func:`.load_model`), is shown images.

    A run folder, and ``best/`` in one, shows them as its training did, and nothing else may be said; an embedder has
    its own size and channels; any other model has 224 pixels and colour, unless said otherwise.
    """
    given = {"size": size, "resize": resize, "channels": channels}
    said: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    folder = located(spec)
    run = Run(folder.parent if folder.name == "best" else folder)
    if run.config_file.exists():
        for name in said:
            raise HoldfastError(f"--{name} goes with other models; the run {spec} has its own")
        data = run.config().data
        return View(data.size, data.resize, DATASETS[data.name].channels)
    own = {"size": embed.config.size, "channels": embed.config.channels} if isinstance(embed, Embedder) else {}
    return View(**{**own, **said})


def lasting(spec: str) -> str:
    """``spec`` as it names the same model from any working directory, where it names a folder or file."""
    where, _, name = spec.rpartition(":")
    if where.endswith(".py"):
        return f"{Path(where).resolve()}:{name}"
    return str(Path(spec).resolve()) if Path(spec).is_dir() else spec
