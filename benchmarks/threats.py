"""Every threat against several models: ``python -m benchmarks.threats zoo:ONE zoo:OTHER --root FOLDER --out FOLDER``.

One table in Markdown, a row for each threat and a column for each model; they are of such a size that a model takes
minutes on one core. What is found is kept in ``--out``, and a killed call goes on from there.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.side_by_side import machine
from holdfast import Patch, Universal, attack_hub, attack_search, attack_shared, corrupt, evaluate, verify
from holdfast.core.batching import fixed_batch
from holdfast.data import Pixels
from holdfast.evaluation.result import ROBUST
from holdfast.evaluation.settings import parse_radius
from holdfast.models.adapters.base import OpenedModel
from holdfast.models.embedding import embed_dataset
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.report.tables import markdown
from holdfast.search.nearest import by_torch
from holdfast.threats.corruption import corruptions_of, mean_of
from holdfast.threats.hub import hubs_of
from holdfast.threats.shared import shared_of
from holdfast.threats.verification import verification_of

INDEX = "IVF64,PQ32:nprobe=8"
AREA, POISONS, FAR, BUDGET = 0.1, 3, 0.001, 300

Rows = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Attacked:
    """A model, its test set, what is kept of its attacks, how far a query may move, and how many are attacked."""

    model: OpenedModel
    pixels: Pixels
    folder: Path
    eps: float
    queries: int

    def settings(self) -> dict[str, Any]:
        return {"eps": self.eps, "max_queries": self.queries}


def worst_case(it: Attacked) -> Rows:
    """The query itself, by all gradients."""
    found = evaluate(it.model, it.pixels, "worst", folder=it.folder, checks=False, **it.settings()).content
    yield "no attack: R@1 of the attacked queries", _points(found["sample R@1"])
    yield "worst case: robust R@1", _points(found[ROBUST])


def through_an_index(it: Attacked) -> Rows:
    """The same, of a search by an index."""
    found = evaluate(it.model, it.pixels, "worst", folder=it.folder, checks=False, index=INDEX, **it.settings())
    yield f"worst case through {INDEX}: robust R@1", _points(found.content[ROBUST])


def by_answers(it: Attacked) -> Rows:
    """Someone who only sees which items come first."""
    gallery = embed_dataset(it.model.embed, it.pixels, torch.device("cpu")).gallery

    def search(images: Tensor, k: int) -> list[list[str]]:
        with torch.no_grad():
            rows = by_torch(gallery.embeddings, fixed_batch(it.model.embed, images), k)[1]
        return [[str(one) for one in near] for near in rows.tolist()]

    asked = {**it.settings(), "query_budget": BUDGET}
    found = attack_search(search, it.pixels, folder=it.folder / "answers", **asked).content["curve"]
    for name in ("first replaced", "first wrong"):
        yield f"answers alone, {BUDGET} searches: {name}", _points(found[name][-1])


def universal(it: Attacked) -> Rows:
    """One change of all queries."""
    found = shared_of(
        attack_shared(
            it.model,
            it.pixels,
            Universal(),
            it.folder / "universal",
            made_on=400,
            steps=10,
            eps=it.eps,
            max_queries=300,
        ),
        "universal",
    )
    assert found is not None
    yield "universal: R@1 clean", _points(found["recall"]["clean"])
    yield "universal: R@1 under random signs", _points(found["recall"]["untrained"])
    yield "universal: R@1 attacked", _points(found["recall"]["attacked"])


def patch(it: Attacked) -> Rows:
    """One sticker on all queries."""
    made = attack_shared(
        it.model, it.pixels, Patch(area=AREA), it.folder / "patch", made_on=400, steps=10, max_queries=300
    )
    found = shared_of(made, "patch")
    assert found is not None
    yield f"patch of {AREA:.0%}: R@1 of random pixels", _points(found["recall"]["untrained"])
    yield f"patch of {AREA:.0%}: R@1 attacked", _points(found["recall"]["attacked"])


def hub(it: Attacked) -> Rows:
    """Images in the gallery that come up for many queries."""
    found = hubs_of(attack_hub(it.model, it.pixels, it.folder / "hub", poisons=POISONS, eps=it.eps, max_queries=1000))
    assert found is not None
    for depth, natural in found["natural"].items():
        yield (
            f"{POISONS} hubs: {depth} (best natural item)",
            f"{found['poisoned'][-1]['hits'][depth]:.1f} ({natural:.1f})",
        )


def corruptions(it: Attacked) -> Rows:
    """Noise, blur, weather and compression of the queries."""
    found = corruptions_of(corrupt(it.model, it.pixels, folder=it.folder, sides=["query"], max_queries=200))
    assert found is not None
    yield "15 corruptions × 5 severities of queries: mean R@1", f"{mean_of(found['cells'], 'values', 'R@1'):.1f}"
    for severity in (1, 5):
        cells = [cell for cell in found["cells"] if cell["severity"] == severity]
        yield f"corruptions of severity {severity}: mean R@1", f"{mean_of(cells, 'values', 'R@1'):.1f}"


def verification(it: Attacked) -> Rows:
    """The model as a verifier."""
    found = verification_of(verify(it.model, it.pixels, far=FAR, folder=it.folder, **it.settings()))
    assert found is not None
    attacks = found["attacks"]
    yield f"verification at FAR {FAR}: TAR clean", _points(found["TAR"])
    yield f"verification at FAR {FAR}: TAR under dodging", _points(attacks["dodging"]["after"])
    yield (
        f"verification at FAR {FAR}: FAR under impersonation of a random class",
        _points(attacks["impersonation-random"]["after"]),
    )


THREATS: tuple[Callable[[Attacked], Rows], ...] = (
    worst_case,
    through_an_index,
    by_answers,
    universal,
    patch,
    hub,
    corruptions,
    verification,
)


def _points(share: Mapping[str, Any]) -> str:
    return f"{share['value']:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--root", help="where their data set lies")
    parser.add_argument("--eps", type=parse_radius, default=32 / 255)
    parser.add_argument("--queries", type=int, default=64, help="attacked one by one")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    columns: dict[str, dict[str, str]] = {}
    for word in options.models:
        model = open_model(word)
        pixels = load_test_set(model, root=options.root)
        it = Attacked(model, pixels, options.out / model.name, options.eps, options.queries)
        columns[model.name] = {name: figure for threat in THREATS for name, figure in threat(it)}
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    print(
        markdown(["in %", *columns], [[name, *(column.get(name, "") for column in columns.values())] for name in names])
    )
    print(machine())


if __name__ == "__main__":
    main()
