"""The data set that the settings of a run name."""

from pathlib import Path

from holdfast.data import DATASETS, Pixels, Table, load_dataset
from holdfast.runs.config import Config


def table_of(config: Config) -> Table:
    """The data set."""
    return load_dataset(config.data.name, config.data.root and Path(config.data.root))


def pixels_of(config: Config, table: Table, cache: bool = False) -> Pixels:
    """The images of a table, at the size the settings ask for; ``cache`` keeps them in memory once decoded."""
    data = config.data
    channels = DATASETS[data.name].channels
    return Pixels(table, data.size, data.resize, channels=channels, cache=cache, workers=data.workers)


def family_of(config: Config) -> str:
    """The family of the data set, whose settings of the paper apply: ``"28"`` or ``"224"``."""
    return DATASETS[config.data.name].family
