"""The scores of a test set as it is, without attack."""

from collections.abc import Mapping

from torch import Tensor

from holdfast.core.gallery import Gallery, Queries
from holdfast.metrics.collapse import gauges
from holdfast.metrics.retrieval import means_of, per_query


def benign(queries: Queries, gallery: Gallery) -> dict[str, float]:
    """R@1, R@2, R@4, R@8, mAP, mAP@R and R-Precision in percent, then the gallery's collapse gauges."""
    return benign_of(per_query(queries, gallery), gallery)


def benign_of(scores: Mapping[str, Tensor], gallery: Gallery) -> dict[str, float]:
    """:func:`benign` from the scores of :func:`.per_query`."""
    return {**means_of(scores), **gauges(gallery.embeddings)}
