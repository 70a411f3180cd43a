"""What embedding, an index and the benign metrics take: of some images, scaled to all."""

from dataclasses import dataclass, replace
from time import perf_counter

import torch

from holdfast.evaluation.estimate.memory import peak
from holdfast.evaluation.estimate.sketch import Sketch
from holdfast.evaluation.indexed.gallery import indexed
from holdfast.evaluation.settings import AttackSettings
from holdfast.metrics.clustering import kmeans
from holdfast.metrics.collapse import gauges
from holdfast.metrics.retrieval import per_query

RANKED, FEW = 512, 64
"""Queries whose benign metrics are timed, and fewer, to tell what each of them adds."""


@dataclass(frozen=True)
class Part:
    """passes: images through the network, forward and backward. seconds, most: expected, and where no attack ends
    early. memory: bytes in use at the most; None where the system does not say."""

    name: str
    passes: int
    seconds: float
    most: float
    memory: int | None


def embedding(sketch: Sketch) -> Part:
    """Of all images."""
    count = len(sketch.target.pixels)
    seconds = sketch.seconds * count / len(sketch.known)
    return Part("embedding", count, seconds, seconds, sketch.memory)


def through_index(sketch: Sketch, resolved: AttackSettings) -> tuple[Sketch, Part]:
    """The same images behind the index, and what it took to train and fill that."""
    began = perf_counter()
    with peak(sketch.target.system.gallery.embeddings.device) as used:
        target = indexed(sketch.target, resolved)[0]
    seconds = perf_counter() - began
    return replace(sketch, target=target), Part("index", 0, seconds, seconds, used.bytes)


def benign(sketch: Sketch) -> Part:
    """Retrieval metrics, collapse gauges, and the NMI: k-means of the images embedded, in so many clusters that these
    are as large as the classes."""
    queries, gallery = sketch.target.system.queries, sketch.target.system.gallery
    count, timed = len(queries.ids), dict[int, float]()
    with peak(gallery.embeddings.device) as used:
        for asking in (FEW, RANKED):
            began = perf_counter()
            per_query(queries.take(torch.arange(min(asking, count))), gallery)
            timed[min(asking, count)] = perf_counter() - began
        (few, short), (some, long) = min(timed.items()), max(timed.items())
        each = max(0.0, long - short) / max(1, some - few)
        began = perf_counter()
        gauges(gallery.embeddings)
        seconds = long + each * (count - some) + perf_counter() - began
        points = gallery.embeddings[torch.isin(gallery.ids, sketch.known.to(gallery.ids))]
        classes, times = len(torch.unique(gallery.labels)), len(gallery.ids) / len(points)
        clusters, began = max(1, round(classes / times)), perf_counter()
        kmeans(points, clusters)
        seconds += (perf_counter() - began) * times * classes / clusters
    return Part("benign metrics", 0, seconds, seconds, used.bytes)
