"""The images that a model is tried on."""

from dataclasses import replace
from pathlib import Path

from holdfast.data import DATASETS, Pixels, held_out, query_gallery
from holdfast.data.datasets import check_root
from holdfast.models.adapters.base import OpenedModel
from holdfast.models.preprocessing import Preprocessing
from holdfast.runs.config import resolve_config
from holdfast.runs.data import pixels_of, table_of
from holdfast.runs.folder import Run
from holdfast.util.errors import HoldfastError


def load_test_set(
    model: OpenedModel,
    *,
    data: str | None = None,
    root: str | Path | None = None,
    queries: Path | None = None,
    gallery: Path | None = None,
) -> Pixels:
    """The test images of the data set ``data``, or of two lists of images, or those of the model's own run.

    Where the model does not say how it is shown images, the data set decides. root: where the data set lies, for a run
    where it lies now. Raises HoldfastError where there is no such test set, or more than one is named.
    """
    if (queries is None) != (gallery is None):
        raise HoldfastError("--queries and --gallery go together: two CSVs with the columns path,label")
    if queries is not None and gallery is not None:
        if data is not None or root is not None:
            option = "--data" if data is not None else "--root"
            raise HoldfastError(f"{option} does not go with --queries and --gallery, two files that name their images")
        return (model.preprocessing or Preprocessing()).pixels(query_gallery(queries, gallery))
    if data is not None:
        check_root(data, root)
        table = held_out(data, root)
        usual = Preprocessing(resolve_config({"data.name": data}).data.size, channels=DATASETS[data].channels)
        return (model.preprocessing or usual).pixels(table)
    if model.folder is None:
        raise HoldfastError(
            f"{model.name} needs a test set: --data NAME --root FOLDER, or --queries Q.csv --gallery G.csv"
        )
    config = Run(model.folder).config()
    if root is not None:
        check_root(config.data.name, root)
        config = replace(config, data=replace(config.data, root=str(root)))
    return pixels_of(config, table_of(config).test())
