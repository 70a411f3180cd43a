"""The threats side by side: ``python -m benchmarks.threats zoo:ONE zoo:OTHER --root FOLDER --out FOLDER``.

One table in Markdown, a row for each threat and a column for each model; they are of such a size that a model takes
minutes on one core. What is found is kept in ``--out``, and a killed call goes on from there.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.rank_feedback import exact_search
from benchmarks.side_by_side import machine
from holdfast import Patch, Universal, attack_hub, attack_search, attack_shared, corrupt, evaluate, verify
from holdfast.data import Pixels
from holdfast.evaluation.result import ROBUST
from holdfast.evaluation.settings import parse_radius
from holdfast.models.adapters.base import OpenedModel
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.report.tables import format_radius, markdown
from holdfast.threats.corruption import corruptions_of, mean_of
from holdfast.threats.hub import hubs_of
from holdfast.threats.shared import shared_of
from holdfast.threats.verification import verification_of
from holdfast.util.errors import HoldfastError

INDEX = "IVF64,PQ32:nprobe=8"
AREA, POISONS, FAR, BUDGET = 0.1, 3, 0.001, 300
MADE_ON, STEPS, READ_ON = 400, 10, 300
"""Of a universal perturbation and a patch: queries that it is made on, in how many steps a round, and read on."""
HELD_OUT, CORRUPTED = 1000, 200
"""Queries that hubs are read on, and that are corrupted."""
HIGHER, LOWER = "higher", "lower"


class Row(NamedTuple):
    """What was measured, whether a higher or a lower figure is the better one, and the figure, in percent."""

    what: str
    better: str
    figure: str


@dataclass(frozen=True)
class Attacked:
    """A model, its test set, what is kept of its attacks, how far an image may move, and how many queries are attacked
    one by one."""

    model: OpenedModel
    pixels: Pixels
    folder: Path
    eps: float
    queries: int

    def settings(self) -> dict[str, Any]:
        return {"eps": self.eps, "max_queries": self.queries}


def worst_case(it: Attacked) -> Iterator[Row]:
    """The query itself, by all gradients."""
    found = evaluate(it.model, it.pixels, "worst", folder=it.folder, checks=False, **it.settings()).content
    yield Row(f"R@1 of {it.queries} queries, no attack", HIGHER, _points(found["sample R@1"]))
    yield Row("robust R@1 of these", HIGHER, _points(found[ROBUST]))


def through_an_index(it: Attacked) -> Iterator[Row]:
    """The same, of a search by an index."""
    found = evaluate(it.model, it.pixels, "worst", folder=it.folder, checks=False, index=INDEX, **it.settings())
    yield Row(f"robust R@1 through {INDEX}", HIGHER, _points(found.content[ROBUST]))


def by_answers(it: Attacked) -> Iterator[Row]:
    """Someone who only sees which items come first."""
    search = exact_search(it.model, it.pixels)
    asked = {**it.settings(), "query_budget": BUDGET}
    found = attack_search(search, it.pixels, folder=it.folder / "answers", **asked).content["curve"]
    for name in ("first replaced", "first wrong"):
        yield Row(f"by answers alone, {BUDGET} searches: {name}", LOWER, _points(found[name][-1]))


def one_for_all(it: Attacked) -> Iterator[Row]:
    """One change, or one sticker, on all queries."""
    settings: dict[str, Any] = {"made_on": MADE_ON, "steps": STEPS, "max_queries": READ_ON}
    attacks: list[tuple[Universal | Patch, dict[str, Any]]] = [(Universal(), {"eps": it.eps}), (Patch(area=AREA), {})]
    for attack, more in attacks:
        made = attack_shared(it.model, it.pixels, attack, it.folder / attack.name, **settings, **more)
        found = shared_of(made, attack.name)
        assert found is not None
        recall: Mapping[str, Any] = found["recall"]
        name = f"patch of {AREA:.0%}" if isinstance(attack, Patch) else "universal perturbation"
        for when, words in {"clean": "no attack", "untrained": f"random {attack.name}", "attacked": name}.items():
            yield Row(f"R@1 of {found['read_on']} queries, {words}", HIGHER, _points(recall[when]))


def hub(it: Attacked) -> Iterator[Row]:
    """Images in the gallery that come up for many queries."""
    made = attack_hub(it.model, it.pixels, it.folder / "hub", poisons=POISONS, eps=it.eps, max_queries=HELD_OUT)
    found = hubs_of(made)
    assert found is not None
    for hit, natural in found["natural"].items():
        reached = f"{found['poisoned'][-1]['hits'][hit]:.1f} ({natural:.1f})"
        yield Row(f"{POISONS} hubs, {hit} of {found['read_on']} queries (best natural item)", LOWER, reached)


def corruptions(it: Attacked) -> Iterator[Row]:
    """Noise, blur, weather and compression of the queries."""
    found = corruptions_of(corrupt(it.model, it.pixels, folder=it.folder, sides=["query"], max_queries=CORRUPTED))
    assert found is not None
    for severity in (1, 3, 5):
        cells = [cell for cell in found["cells"] if cell["severity"] == severity]
        mean = f"{mean_of(cells, 'values', 'R@1'):.1f}"
        yield Row(f"R@1 of {CORRUPTED} corrupted queries, mean of 15 kinds, severity {severity}", HIGHER, mean)


def verification(it: Attacked) -> Iterator[Row]:
    """The model as a verifier."""
    found = verification_of(verify(it.model, it.pixels, far=FAR, folder=it.folder, **it.settings()))
    assert found is not None
    attacks = found["attacks"]
    yield Row(f"TAR at FAR {FAR:.1%}, no attack", HIGHER, _points(found["TAR"]))
    yield Row("TAR under dodging", HIGHER, _points(attacks["dodging"]["after"]))
    yield Row("FAR under impersonation of a random class", LOWER, _points(attacks["impersonation-random"]["after"]))


THREATS = (worst_case, through_an_index, by_answers, one_for_all, hub, corruptions, verification)


def _points(share: Mapping[str, Any]) -> str:
    return f"{share['value']:.1f}"


def _folder(word: str) -> str:
    return "".join(one if one.isalnum() else "-" for one in word)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--root", help="where their data set lies")
    parser.add_argument("--eps", type=parse_radius, default=32 / 255)
    parser.add_argument("--queries", type=int, default=64, help="attacked one by one")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if len({_folder(word) for word in options.models}) < len(options.models):
        parser.error("two models have one name")
    columns: list[dict[Row, str]] = []
    try:
        opened = {word: open_model(word) for word in options.models}
        images = {word: load_test_set(model, root=options.root) for word, model in opened.items()}
    except HoldfastError as error:
        parser.error(str(error))
    for word, model in opened.items():
        it = Attacked(model, images[word], options.out / _folder(word), options.eps, options.queries)
        columns.append({row._replace(figure=""): row.figure for threat in THREATS for row in threat(it)})
    rows = [[row.what, row.better, *(column[row] for column in columns)] for row in columns[0]]
    print(markdown([f"in %, ε = {format_radius(options.eps, 'linf')}", "better", *options.models], rows))
    print(machine())


if __name__ == "__main__":
    main()
