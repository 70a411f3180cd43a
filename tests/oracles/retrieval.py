"""Slow twins of the retrieval metrics and gauges: one query, one order, one pair at a time."""

import math
from collections.abc import Sequence
from itertools import pairwise, permutations

import numpy as np


def of_one_order(matches: Sequence[bool], ks: Sequence[int]) -> dict[str, float]:
    """The metrics of one query whose ranking holds a match where ``matches`` is true."""
    relevant = sum(matches)
    scores = {f"R@{k}": float(any(matches[:k])) for k in ks}
    precisions = [sum(matches[: rank + 1]) / (rank + 1) for rank in range(len(matches))]
    found = [precision * match for precision, match in zip(precisions, matches, strict=True)]
    scores["mAP"] = sum(found) / relevant
    scores["mAP@R"] = sum(found[:relevant]) / relevant
    scores["R-Precision"] = sum(matches[:relevant]) / relevant
    return scores


def of_query(distances: Sequence[float], matches: Sequence[bool], ks: Sequence[int]) -> dict[str, float]:
    """Mean of :func:`of_one_order` over every order of the items that never puts a farther one first."""
    orders = [
        order
        for order in permutations(range(len(distances)))
        if all(distances[a] <= distances[b] for a, b in pairwise(order))
    ]
    each = [of_one_order([matches[item] for item in order], ks) for order in orders]
    return {name: sum(scores[name] for scores in each) / len(each) for name in each[0]}


def of_untied_query(distances: np.ndarray, matches: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    """The metrics of one query without ties."""
    assert len(np.unique(distances)) == len(distances)
    return of_one_order(matches[np.argsort(distances)].tolist(), ks)


def gauges(embeddings: np.ndarray) -> dict[str, float]:
    """Mean pairwise cosine by a double loop, effective rank from numpy's covariance."""
    cosines = [
        float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))
        for i, a in enumerate(embeddings)
        for j, b in enumerate(embeddings)
        if i != j
    ]
    values = np.linalg.eigvalsh(np.atleast_2d(np.cov(embeddings.T)))
    shares = [value / values.sum() for value in values if value > 1e-12 * values.sum()]
    entropy = -sum(share * math.log(share) for share in shares)
    return {"mean_cosine": sum(cosines) / len(cosines), "effective_rank": math.exp(entropy)}
