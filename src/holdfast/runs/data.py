"""The data set that the settings of a run name."""

from pathlib import Path

from holdfast.data import DATASETS, Pixels, Table, load_dataset, with_validation
from holdfast.data.resizing import Resizing
from holdfast.runs.config import Config


def table_of(config: Config) -> Table:
    """The data set, with the validation split that the settings ask for."""
    table = load_dataset(config.data.name, config.data.root and Path(config.data.root))
    validation = config.validation
    return with_validation(table, 0 if validation.on_test or not validation.every else validation.share, config.seed)


def judging(config: Config, table: Table) -> tuple[Table | None, bool]:
    """The images of the scores between epochs, if any, and whether the best weights are chosen by these scores.

    Without a validation split the test set is looked at, for a collapse and for the log, and nothing is chosen by it.
    """
    if not config.validation.every:
        return None, False
    on_test = config.validation.on_test
    validation = None if on_test else table.validation()
    return (table.test(), on_test) if validation is None else (validation, True)


def pixels_of(config: Config, table: Table, cache: bool = False) -> Pixels:
    """The images of a table, at the size the settings ask for; ``cache`` keeps them in memory once decoded."""
    data, channels = config.data, DATASETS[config.data.name].channels
    return Pixels(
        table,
        data.size,
        data.resize,
        channels=channels,
        cache=cache,
        workers=data.workers,
        resizing=resizing_of(config),
    )


def resizing_of(config: Config) -> Resizing:
    """How an image of another shape becomes a square."""
    return Resizing(config.data.interpolation, config.data.fit, config.data.centring)


def family_of(config: Config) -> str:
    """The family of the data set, whose settings of the paper apply: ``"28"`` or ``"224"``."""
    return DATASETS[config.data.name].family
