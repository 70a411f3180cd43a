"""The scores of a test set as it is, without attack."""

from holdfast.core.gallery import Gallery, Queries
from holdfast.metrics.collapse import gauges
from holdfast.metrics.retrieval import retrieval_metrics


def benign(queries: Queries, gallery: Gallery) -> dict[str, float]:
    """R@1, R@2, R@4, R@8, mAP, mAP@R and R-Precision in percent, then the gallery's collapse gauges."""
    return {**retrieval_metrics(queries, gallery), **gauges(gallery.embeddings)}
