"""Data: one table contract, readers per layout, pixels, batches of pairs, and the loader that joins them."""

from holdfast.data.batches import ImageBatches, Indices, PairBatches
from holdfast.data.datasets import DATASETS, Dataset, load_dataset
from holdfast.data.loader import Batch, Loader, stream
from holdfast.data.pixels import Pixels, draw_augmentation
from holdfast.data.readers.held_out import held_out, query_gallery
from holdfast.data.splitting import with_validation
from holdfast.data.table import Table

__all__ = [
    "DATASETS",
    "Batch",
    "Dataset",
    "ImageBatches",
    "Indices",
    "Loader",
    "PairBatches",
    "Pixels",
    "Table",
    "draw_augmentation",
    "held_out",
    "load_dataset",
    "query_gallery",
    "stream",
    "with_validation",
]
