"""Hubs: a gallery image that comes first for as many queries as possible, whatever they ask for.

Zhang et al., Adversarial Hubness in Multi-Modal Retrieval (arXiv 2412.14113).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from holdfast.attacks.base import ImageGenerators, Plan, System
from holdfast.core.gallery import Queries, nearest
from holdfast.core.objectives import AlignWith, ComeNearer
from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted

HITS = (1, 10)
"""The places that are counted as hits."""
TEMPERATURES = (0.1, 0.4, 1.6, 6.4)
"""Of the soft counts of queries, as shares of the median distance to their first results."""
BLOCK = 512


@dataclass(frozen=True)
class Hub:
    """Make a gallery image the first result of many queries.

    It is drawn to the normalised mean of ``made_on`` queries first, then to be nearer than their first results.
    Readings: for how many other queries, in %, it is among the first 1 and 10. Objective and readings are those of one
    image in the gallery as it is; for several, put the ones before into the gallery and name them in ``beside``.

    made_on: how many queries are drawn, by ``seed``; at most half of them. read_on: how many others; None: all. beside:
    ids of the attacker's images in the gallery: queries that have one of them first are left to it. query_class: the
    class of all these queries; None: any.
    """

    made_on: int = 100
    read_on: int | None = None
    seed: int = 0
    beside: tuple[int, ...] = ()
    query_class: int | None = None
    name: ClassVar[str] = "hub"
    side: ClassVar[str] = "candidate"
    start: ClassVar[float] = 0.0
    readings: ClassVar[tuple[str, ...]] = tuple(f"hit@{k}" for k in HITS)

    def drawn(self, queries: Queries) -> tuple[Tensor, Tensor]:
        """The rows (n,) of the queries that hubs are made on, and of those they are read on, in order.

        Raises HoldfastError where there are fewer than two.
        """
        labels = queries.labels.cpu()
        rows = torch.arange(len(labels)) if self.query_class is None else (labels == self.query_class).nonzero()[:, 0]
        if len(rows) < 2:
            raise HoldfastError(
                f"a hub is made on some queries and read on others, and has {counted(len(rows), 'query')}"
            )
        rows = rows[torch.randperm(len(rows), generator=Generator().manual_seed(self.seed))]
        made = min(self.made_on, len(rows) // 2)
        rest = rows[made:] if self.read_on is None else rows[made : made + self.read_on]
        return (rows[:made].sort().values.to(queries.ids.device), rest.sort().values.to(queries.ids.device))

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        return self.drawn(system.queries)[0].expand(len(perturbed.ids), -1)

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        rows, queries = chosen[0], system.queries.embeddings[chosen]
        distances, ids = first_items(system, rows, 2)
        reach = without(distances, ids, perturbed.ids, 1)
        mine = torch.isin(ids[:, 0], ids.new_tensor(self.beside))
        left = (~mine if not mine.all() else mine).to(queries) * (perturbed.ids[:, None] != system.queries.ids[chosen])
        weights = left / left.sum(1, keepdim=True).clamp(min=1)
        centre = normalize((queries * weights[:, :, None]).sum(1), dim=1)
        usual = reach.median(1).values.clamp(min=1e-6)
        temperatures = usual[:, None] * usual.new_tensor(TEMPERATURES)
        asking = system.queries.take(self.drawn(system.queries)[1])
        values, items = first_items(system, self.drawn(system.queries)[1], HITS[-1] + 1)
        bounds = {k: without(values[:, : k + 1], items[:, : k + 1], perturbed.ids, k) for k in HITS}
        foreign = perturbed.ids[:, None] != asking.ids

        def outcome(z: Tensor) -> dict[str, Tensor]:
            away = torch.stack([(asking.embeddings.to(one) - one).norm(dim=1) for one in z])
            hits = {k: ((away <= bounds[k]) & foreign).sum(1) for k in HITS}
            return {f"hit@{k}": 100 * one / foreign.sum(1).clamp(min=1) for k, one in hits.items()}

        return Plan(ComeNearer(queries, reach, weights, temperatures), outcome, AlignWith(centre))


def first_items(system: System, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The distances and ids (n, k) of the nearest gallery items of the queries at ``rows`` (n,), their own left out."""
    found = []
    for part in torch.split(rows, BLOCK):
        asking = system.queries.take(part)
        distances = system.items.distances(asking.embeddings).masked_fill_(system.items.own(asking.ids), torch.inf)
        places = nearest(distances, min(k, distances.shape[1]))
        found.append((distances.gather(1, places), system.gallery.ids[places]))
    values, ids = (torch.cat(side) for side in zip(*found, strict=True))
    return values, ids


def without(distances: Tensor, ids: Tensor, left_out: Tensor, k: int) -> Tensor:
    """The k-th smallest of ascending ``distances`` (n, k + 1) of items ``ids`` (n, k + 1), were one item not there: for
    each of ``left_out`` (B,), ``(B, n)``."""
    among = (ids[None, :, :k] == left_out[:, None, None]).any(2)
    return torch.where(among, distances[None, :, min(k, distances.shape[1] - 1)], distances[None, :, k - 1])
