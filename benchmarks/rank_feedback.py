"""How far answers alone lead, beside gradients: ``python -m benchmarks.rank_feedback``.

The same queries of a model's test set, in the same ball, are attacked by rank feedback through an exact search of 8-bit
images, and by the cascade of robust R@1, which knows the network. The first may not break more.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from benchmarks.side_by_side import Bar, row, tell
from holdfast import attack_search, evaluate
from holdfast.core.batching import fixed_batch
from holdfast.data import Pixels
from holdfast.evaluation.settings import parse_radius
from holdfast.models.adapters.base import OpenedModel
from holdfast.models.embedding import embed_dataset
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.search.nearest import by_torch


def exact_search(model: OpenedModel, pixels: Pixels) -> Callable[[Tensor, int], list[list[str]]]:
    """A search of a model's test set, by comparing every item, that answers with ids alone."""
    items = embed_dataset(model.embed, pixels, torch.device("cpu")).gallery.embeddings

    def search(images: Tensor, k: int) -> list[list[str]]:
        with torch.no_grad():
            rows = by_torch(items, fixed_batch(model.embed, images), k)[1]
        return [[str(one) for one in near] for near in rows.tolist()]

    return search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zoo:digits-hm-s-lga-ics")
    parser.add_argument("--root", type=Path, help="where its data set lies")
    parser.add_argument("--eps", type=parse_radius, default=51 / 255)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--budget", type=int, default=1000)
    options = parser.parse_args()
    model = open_model(options.model)
    pixels = load_test_set(model, root=options.root)
    search = exact_search(model, pixels)
    settings = {"eps": options.eps, "max_queries": options.queries, "quiet": True}
    with TemporaryDirectory() as folder:
        found = attack_search(search, pixels, folder=folder, query_budget=options.budget, **settings).content
    white = evaluate(model, pixels, "worst", checks=False, **settings).content["robust R@1"]
    broken = white["queries"] - white["kept"]
    facts = {"model": options.model, "eps": options.eps, "queries": white["queries"], "white box": broken}
    for name, points in found["curve"].items():
        for point in points:
            tell(f"{name}, {point['searches']} searches", point["value"], "%", kept=point["kept"], **facts)
    ahead = found["curve"]["first wrong"][-1]["kept"] - broken
    row("queries that answers break beyond those that gradients break", ahead, "queries", Bar(most=0), **facts)


if __name__ == "__main__":
    main()
