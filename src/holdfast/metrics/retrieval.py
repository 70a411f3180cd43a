"""Benign retrieval metrics: Recall@K, mAP, mAP@R, R-Precision; exact, blockwise, memory bounded.

Items at the same distance from a query have no order. Every metric is its expected value over all orders of such ties
(McSherry & Najork, ECIR 2008), so the order of the gallery cannot matter and a collapsed embedder scores at chance.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from holdfast.core.batching import checked, full_precision, rows_per_block
from holdfast.core.gallery import Gallery, Queries
from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted

RECALLS = (1, 2, 4, 8)

CACHED = 128
"""Rows of what takes many small steps, at once: few enough to stay in the processor's cache."""

FEW, BINS = 12, 4096
"""Up to how many positives are each compared with all items, and into how many bins items are divided for more."""


def retrieval_metrics(
    queries: Queries, gallery: Gallery, ks: Sequence[int] = RECALLS, block: int | None = None
) -> dict[str, float]:
    """Mean retrieval metrics over the queries, in percent.

    Args:
        queries: Q queries.
        gallery: N items.
        ks: the K of each Recall@K.
        block: queries ranked at once; by default as many as fit in a bounded workspace.

    Returns:
        ``R@K`` for each K, ``mAP`` (over the full ranking), ``mAP@R`` (Musgrave et al., ECCV 2020), ``R-Precision``,
        all in [0, 100]; then ``queries`` (how many the means are over) and ``queries_without_match`` (how many were
        left out because the gallery holds no other item of their class).

    Raises:
        HoldfastError: unusable input, or no query with a match.
    """
    return means_of(per_query(queries, gallery, ks, block))


def means_of(scores: Mapping[str, Tensor]) -> dict[str, float]:
    """:func:`retrieval_metrics` from :func:`per_query`."""
    matched = ~scores["mAP"].isnan()
    if not matched.any():
        raise HoldfastError(
            f"none of the {counted(len(matched), 'query')} has another item of its class in the "
            "gallery: nothing to retrieve"
        )
    means = {name: 100 * values[matched].mean().item() for name, values in scores.items()}
    found = int(matched.sum())
    return {**means, "queries": float(found), "queries_without_match": float(len(matched) - found)}


Shared = Callable[[int, Callable[[slice], Tensor]], Sequence[Tensor]]
"""Calls ``work`` on shares of ``count`` blocks, on several processes or not, and gives what they make, in order."""


def alone(count: int, work: Callable[[slice], Tensor]) -> list[Tensor]:
    """All the blocks in one share."""
    return [work(slice(0, count))]


def per_query(
    queries: Queries,
    gallery: Gallery,
    ks: Sequence[int] = RECALLS,
    block: int | None = None,
    shared: Shared = alone,
) -> dict[str, Tensor]:
    """The metrics of :func:`retrieval_metrics` for each query, (Q,) float64 in [0, 1]; NaN where it has no match.

    shared: how processes share the blocks of queries; by default one ranks all.
    """
    if not ks or min(ks) < 1:
        raise HoldfastError(f"each K of Recall@K must be 1 or more; got {tuple(ks)}")
    if block is not None and block < 1:
        raise HoldfastError(f"block must be 1 or more queries; got {block}")
    points, items = checked(queries.embeddings).to(gallery.embeddings.device), checked(gallery.embeddings)
    if points.shape[1] != items.shape[1]:
        raise HoldfastError(f"queries have {counted(points.shape[1], 'dimension')}, the gallery {items.shape[1]}")

    device = items.device
    classes, item_class, sizes = torch.unique(gallery.labels.to(device), return_inverse=True, return_counts=True)
    query_class, known = _find(classes, queries.labels.to(device))
    by_class = item_class.argsort(stable=True)
    first = sizes.cumsum(0) - sizes
    own, has_own = _own_entries(queries, gallery, by_class)
    relevant = torch.where(known, sizes[query_class] - has_own.long(), 0)

    with full_precision(device):
        # A shift changes no distance but keeps the products small when embeddings lie close together; a
        # coordinate's median is one of its values, so equal distances on a grid stay exactly equal.
        origin = items.median(dim=0).values
        items = items[by_class].sub_(origin)
        half_norms = torch.cat([rows.square().sum(1) for rows in torch.split(items, CACHED)]) / 2

        order = relevant.argsort(descending=True, stable=True)
        order = order[: int((relevant > 0).sum())]
        widest = int(sizes[query_class].max())
        rows = block or _queries_per_block(len(items), widest, items.element_size())
        names = [f"R@{k}" for k in ks] + ["mAP", "mAP@R", "R-Precision"]
        scores = torch.full((len(names), len(points)), torch.nan, dtype=torch.float64, device=device)
        ranks = _ranks_on_cpu if device.type == "cpu" else _ranks
        starts = range(0, len(order), rows)

        def scored(part: Tensor) -> Tensor:
            # |q - x|² = |q|² + 2 · (|x|² / 2 - q·x): the same order as the distances
            distances = torch.addmm(half_norms, points[part].to(items) - origin, items.T, alpha=-1)
            mine = has_own[part]
            distances[mine.nonzero().flatten(), own[part][mine]] = torch.inf
            group = query_class[part]
            slots = torch.arange(int(sizes[group].max()), device=device)
            columns = (first[group, None] + slots).clamp_(max=len(items) - 1)
            positives = distances.gather(1, columns)
            positives.masked_fill_(slots >= sizes[group, None], torch.inf)
            before, upto = ranks(distances, positives, relevant[part])
            parts = (torch.split(column, CACHED) for column in (before, upto, relevant[part]))
            return torch.cat([_expected(b, u, r, ks) for b, u, r in zip(*parts, strict=True)], dim=1)

        def of_blocks(which: slice) -> Tensor:
            found = [scored(order[start : start + rows]) for start in starts[which]]
            return torch.cat(found, dim=1).cpu() if found else torch.empty(len(names), 0, dtype=torch.float64)

        scores[:, order] = torch.cat([*shared(len(starts), of_blocks)], dim=1).to(device)
    return dict(zip(names, scores, strict=True))


def _queries_per_block(items: int, widest: int, element_size: int) -> int:
    """How many queries to rank at once: their distances, those sorted with indices, and the work on the positives."""
    return rows_per_block(items * (2 * element_size + 16) + 128 * widest)


def _find(table: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Where each of ``values`` stands in the ascending ``table``, and whether it is there at all."""
    where = torch.searchsorted(table, values.to(table)).clamp_(max=len(table) - 1)
    return where, table[where] == values


def _own_entries(queries: Queries, gallery: Gallery, order: Tensor) -> tuple[Tensor, Tensor]:
    """Each query's own column in the gallery reordered by ``order``, and whether it has one."""
    ids, place = gallery.ids.to(order.device)[order].sort()
    where, has_own = _find(ids, queries.ids.to(order.device))
    own = place[where]
    label = gallery.labels.to(order.device)[order][own]
    wrong = (has_own & (label != queries.labels.to(order.device))).nonzero().flatten().tolist()
    if wrong:
        raise HoldfastError(
            f"query {wrong[0]} has id {int(queries.ids[wrong[0]])}, which is another label's in the gallery; "
            f"ids are positions in one test table, so separate sets need distinct ids"
        )
    return own, has_own


def _ranks(distances: Tensor, positives: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks of the positives, nearest first, by one sort of the block.

    Args:
        distances: (B, N), infinite for what is left out.
        positives: (B, P) values of ``distances``; the ``relevant`` (B,) smallest of a row are its positives.

    Returns:
        ``before`` and ``upto``, (B, P): how many items are nearer than the positive, and how many are no farther.
        Beyond the row's positives both are N.
    """
    ordered, wanted = distances.sort(dim=1).values, positives.sort(dim=1).values
    unused = torch.arange(wanted.shape[1], device=wanted.device) >= relevant[:, None]
    before = torch.searchsorted(ordered, wanted).masked_fill_(unused, distances.shape[1])
    upto = torch.searchsorted(ordered, wanted, right=True).masked_fill_(unused, distances.shape[1])
    return before, upto


def _ranks_on_cpu(distances: Tensor, positives: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`_ranks` row by row with numpy, without a sort of the whole row."""
    table, targets, lengths = distances.numpy(), positives.numpy(), relevant.numpy()
    ranks = np.full((2, *targets.shape), table.shape[1])

    def rank_rows(rows: range) -> None:
        for row in rows:
            wanted = np.sort(targets[row])[: lengths[row]]
            find = _counted if len(wanted) <= FEW else _found_in_bins
            ranks[:, row, : len(wanted)] = find(table[row], wanted)

    workers = torch.get_num_threads()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(rank_rows, (range(start, len(table), workers) for start in range(workers))))
    return torch.from_numpy(ranks[0]), torch.from_numpy(ranks[1])


def _counted(items: np.ndarray, wanted: np.ndarray) -> tuple[list[int], list[int]]:
    """How many of the ``items`` (N,) are less than each of the ``wanted`` (P,), and how many are no greater."""
    less, no_greater = (
        [int(np.count_nonzero(than(items, one))) for one in wanted] for than in (np.less, np.less_equal)
    )
    return less, no_greater


def _found_in_bins(items: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """:func:`_counted` of ascending ``wanted``, all among the items. Rounding never puts a lesser item into a later
    bin, so only those that share a bin with a wanted one are sorted, and the others counted."""
    near = items[items <= wanted[-1]]
    low = near.min()
    with np.errstate(over="ignore"):
        if not np.isfinite(wanted[-1] - low):
            near.sort()
            return near.searchsorted(wanted), near.searchsorted(wanted, side="right")
    width = max((wanted[-1] - low) / BINS, np.finfo(items.dtype).tiny)
    bins, places = (((values - low) / width).astype(np.intp) for values in (near, wanted))
    counts = np.bincount(bins)
    shared = np.zeros(len(counts), bool)
    shared[places] = True
    sizes = np.where(shared, 0, counts)
    beside = np.sort(near[shared[bins]])
    before, upto = (beside.searchsorted(wanted, side) for side in ("left", "right"))
    lower = sizes.cumsum()[places]
    return before + lower, upto + lower


def _expected(before: Tensor, upto: Tensor, relevant: Tensor, ks: Sequence[int]) -> Tensor:
    """Expected Recall@K for each K, AP, AP@R and R-Precision: (len(ks) + 3, B) float64, from :func:`_ranks`.

    A group of n tied items with p positives, after b nearer items with P positives, puts a positive on its j-th place
    with probability p/n, and the precision there is then (P + 1 + (j-1)(p-1)/(n-1)) / (b + j) on average.
    """
    slots = torch.arange(before.shape[1], device=before.device)
    begins = before.diff(dim=1, prepend=before[:, :1] - 1) > 0
    one = torch.ones_like(before, dtype=torch.float64)
    tied = torch.zeros_like(one).scatter_add_(1, (slots * begins).cummax(dim=1).values, one)
    group = (upto - before).clamp_(min=1)
    share = tied / group

    places = torch.arange(max(ks), device=before.device) - before[:, :1]
    size, drawn = group[:, :1], places.clamp(min=0)
    missed = (size - tied[:, :1] - drawn).clamp(min=0) / (size - drawn).clamp(min=1)
    missed = torch.where((places >= 0) & (places < size), missed, 1.0)
    recalls = 1 - missed.cumprod(dim=1)[:, [k - 1 for k in ks]]

    steps = torch.arange(1, int(upto.max()) + 1, dtype=torch.float64, device=before.device).reciprocal()
    harmonic = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    nearer = harmonic[before]
    rise = (tied - 1) / (group - 1).clamp_(min=1)
    level = slots + 1 - rise * (before + 1)

    def precision(places: Tensor) -> Tensor:
        """Mean over a row's positives, when only the first ``places`` of each group count."""
        gain = level * (harmonic[before + places] - nearer) + rise * places
        return (gain * share).sum(1) / relevant

    everywhere, within = upto - before, (relevant[:, None] - before).clamp_(min=0).minimum(group)
    r_precision = (within * share).sum(1) / relevant
    return torch.cat([recalls.T, torch.stack([precision(everywhere), precision(within), r_precision])])
