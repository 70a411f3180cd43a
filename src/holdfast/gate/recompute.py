"""Does a result that somebody hands in hold? A sample of it is evaluated again from the weights, record by record."""

from collections.abc import Iterator
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch

from holdfast.data import Pixels
from holdfast.evaluation.evaluate import evaluate
from holdfast.evaluation.protocols import COLUMNS, PROTOCOLS
from holdfast.evaluation.records import read_benign, read_records
from holdfast.evaluation.result import CERTIFIED, ROBUST, Result
from holdfast.evaluation.words import SCORE_WORDS
from holdfast.gate.rules import UNATTACKED
from holdfast.gate.values import values_of
from holdfast.models.adapters.base import OpenedModel
from holdfast.util.errors import HoldfastError, pick

NEAR = 0.01
"""How far a value may be from the one that was handed in, as a share of its range."""
EVERY, EVERY_UNATTACKED = 20, 100
"""One query in so many may be farther, under attack and without: at the edge, rounding on another machine decides."""


@dataclass(frozen=True)
class Compared:
    """One score, query by query. queries: how many are compared. apart: how many differ. better: in how many of these
    the result that was handed in is the better one."""

    score: str
    queries: int
    apart: int
    better: int

    @property
    def ok(self) -> bool:
        """Whether at most one query in :data:`EVERY` differs; one may where there are fewer."""
        every = EVERY_UNATTACKED if self.score in UNATTACKED else EVERY
        return self.apart <= max(1, self.queries // every)


def recompute(
    result: Result,
    model: OpenedModel,
    data: Pixels,
    sample: int,
    *,
    batch: int = 128,
    device: torch.device | str | None = None,
    quiet: bool = False,
) -> list[Compared]:
    """Evaluate ``sample`` of a result's queries again, and compare every score that its records hold.

    Drawn by the result's seed, they are the first of those that it attacked. R@1 is compared on all queries.

    Raises HoldfastError where the model or the data are others than the result says, where its protocol is of another
    version, and for what cannot be repeated: transfer attacks, and attacks of somebody's own.
    """
    if result.path is None:
        raise HoldfastError(f"{result.name}: an evaluation that was kept in memory has no records")
    with TemporaryDirectory() as place:
        again = evaluate(
            model,
            data,
            result.content["protocol"],
            folder=place,
            checks=False,
            batch=batch,
            device=device,
            quiet=quiet,
            **settings_of(result, sample),
        )
        for part, name in (("data", "hash"), ("model", "hash")):
            ours, theirs = (one.content[part].get(name) for one in (again, result))
            if ours != theirs:
                raise HoldfastError(f"{result.path} is of {part} {theirs}, by hash; this {part} is {ours}")
        return [*_compared(result, again)]


def settings_of(result: Result, sample: int) -> dict[str, Any]:
    """The settings that repeat a result on a sample of its queries, for :func:`.evaluate`."""
    given, rules = dict(result.content["settings"]), pick("protocol", result.content["protocol"], PROTOCOLS)
    version = result.content.get("protocol_version")
    if version != rules.version:
        raise HoldfastError(
            f"{result.path} is by version {version} of protocol {rules.name}; this holdfast has {rules.version}"
        )
    if result.content["model"].get("surrogate"):
        raise HoldfastError(f"{result.path} has transfer attacks, whose other model is not known")
    known = {column.attack for column in COLUMNS}
    if own := [name for name in given.get("attacks", []) if name not in known]:
        raise HoldfastError(f"{result.path} has attacks that no score is made of: {', '.join(own)}")
    attacked = result.content["data"].get("attacked")
    dropped = {"protocol", "minimal_eps"}
    dropped |= {"steps"} if given.get("query_budget") else set()
    if not rules.attacks:
        dropped |= {"attacks", "step", "steps", "restarts"}
    if not (rules.attacks or rules.cascade):
        dropped |= {"eps", "norm", "gradient", "query_budget", "cascade"}
    elif attacked:
        given["max_queries"] = min(sample, int(attacked))
    if rules.attacks:
        given["attacks"] = tuple(given["attacks"])
        given["cascade"] = bool(given.get("cascade"))
    return {name: value for name, value in given.items() if name not in dropped and value is not None}


def _compared(result: Result, again: Result) -> Iterator[Compared]:
    """Every score that both results have records of."""
    assert result.path is not None
    assert again.path is not None
    ours, theirs = again.path.parent, result.path.parent
    if read_benign(theirs):
        for score in ("R@1", "mAP"):
            yield _score(score, again, result)
    settings = again.content["settings"]
    for column in COLUMNS:
        if column.attack in settings["attacks"]:
            before, after = (
                {one["id"]: one for one in read_records(place, column.attack, after=(column.name,))}
                for place in (theirs, ours)
            )
            if missing := [i for i in after if i not in before]:
                raise HoldfastError(f"{theirs / 'records'} lacks query {missing[0]} of {column.attack!r}")
            words = SCORE_WORDS[column.name]
            slope = column.to_score(1.0) - column.to_score(0.0)
            gaps = [slope * (before[i]["after"][column.name] - one["after"][column.name]) for i, one in after.items()]
            far = [gap for gap in gaps if abs(gap) > NEAR * abs(slope) * (words.high - words.low)]
            yield Compared(column.name, len(gaps), len(far), sum(gap > 0 for gap in far))
    if again.content.get(ROBUST):
        yield _score(ROBUST, again, result)
    for score in again.extras:
        if score.startswith(CERTIFIED):
            yield _score(score, again, result)


def _score(score: str, again: Result, result: Result) -> Compared:
    """A score of which more is better, on the queries that both have; one without a record is 0."""
    ours, theirs = (values_of(one, score)[score] for one in (again, result))
    known = {i: value for i, value in zip(theirs.ids, theirs.values.tolist(), strict=True) if i >= 0}
    gaps = [known.get(i, 0.0) - value for i, value in zip(ours.ids, ours.values.tolist(), strict=True) if i >= 0]
    far = [gap for gap in gaps if abs(gap) > 100 * NEAR]
    return Compared(score, len(gaps), len(far), sum(gap > 0 for gap in far))
