"""What an evaluation found, image by image, on disk: appended batch by batch, so that a killed one can go on.

::

    records/es.jsonl    one line per attacked image: {"id", "chosen", "before", "after", "moved"}
    costs.jsonl         one line per finished batch: {"attack", "images", "forward", "backward", "asked", "seconds"}

``id`` is the image's row in the test table, ``chosen`` are the rows the attack is about, ``before`` and ``after`` hold
its readings, ``moved`` the size of the perturbation in the ball's norm. A batch counts once its costs are written.

``benign.jsonl`` has one line per query with a match, attacked or not: {"id", "scores"}, in percent, without attack.
"""

import json
from collections.abc import Collection, Mapping
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from pydantic import Field, StrictFloat, StrictStr
from typing_extensions import TypedDict

from holdfast.util.atomic import append_lines, rewrite_lines, write_text
from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted
from holdfast.util.validate import Whole, read_lines

if TYPE_CHECKING:
    from torch import Tensor

Record = dict[str, Any]
DIGITS = 6
"""Decimals of the numbers in a record."""


COST = ("forward", "backward", "asked", "seconds")
BENIGN = "benign.jsonl"


class RecordLine(TypedDict):
    """A line of ``records/``."""

    id: Whole
    chosen: list[Whole]
    before: dict[str, StrictFloat]
    after: dict[str, StrictFloat]
    moved: StrictFloat


class CostLine(TypedDict):
    """A line of ``costs.jsonl``."""

    attack: Annotated[StrictStr, Field(pattern=r"^[\w+:.-]{1,100}$")]
    images: Whole
    forward: Whole
    backward: Whole
    asked: NotRequired[Whole]
    seconds: StrictFloat


class BenignLine(TypedDict):
    """A line of ``benign.jsonl``."""

    id: Whole
    scores: dict[str, StrictFloat]


class Records:
    """The records of one evaluation, in a folder, or in memory where there is none."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.costs: list[Record] = []
        self.kept: dict[str, list[Record]] = {}
        if folder is None:
            return
        (folder / "records").mkdir(parents=True, exist_ok=True)
        self.costs = read_lines(CostLine, folder / "costs.jsonl")
        rewrite_lines(folder / "costs.jsonl", self.costs)
        for attack in dict.fromkeys(cost["attack"] for cost in self.costs):
            done = sum(cost["images"] for cost in self.costs if cost["attack"] == attack)
            records = read_lines(RecordLine, self._file(attack))
            if len(records) < done:
                raise HoldfastError(
                    f"{self._file(attack)} holds {counted(len(records), 'record')}, but {folder / 'costs.jsonl'} "
                    f"counts {done}; remove {folder} to start over"
                )
            self.kept[attack] = records[:done]
        kept = {_stem(attack): records for attack, records in self.kept.items()}
        for file in (folder / "records").glob("*.jsonl"):
            rewrite_lines(file, kept.get(file.stem, []))

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process has the records, and writes none."""
        return {**vars(self), "folder": None}

    def of(self, attack: str) -> list[Record]:
        """The records of an attack's finished batches."""
        return self.kept.get(attack, [])

    def check(self, attack: str, ids: list[int]) -> None:
        """Refuse records that are not of the first of these images, in order: two processes may have written them."""
        found = [record["id"] for record in self.of(attack)]
        if found != ids[: len(found)]:
            raise HoldfastError(
                f"the records of {attack!r} in {self.folder} are not those of the images to attack, one each and in "
                f"order; remove {self.folder} to start over"
            )

    def add(self, attack: str, records: list[Record], cost: Mapping[str, float]) -> None:
        self.kept.setdefault(attack, []).extend(records)
        self.costs.append({"attack": attack, "images": len(records), **cost})
        if self.folder is not None:
            append_lines(self._file(attack), records)
            append_lines(self.folder / "costs.jsonl", self.costs[-1:])

    def cost(self) -> dict[str, float]:
        """Images passed forward and backward and asked for, and seconds, over all batches."""
        return {name: sum(cost.get(name, 0) for cost in self.costs) for name in COST}

    def _file(self, attack: str) -> Path:
        assert self.folder is not None
        return self.folder / "records" / f"{_stem(attack)}.jsonl"


def read_records(folder: Path, attack: str, before: Collection[str] = (), after: Collection[str] = ()) -> list[Record]:
    """The records of an attack in the folder of a finished evaluation; none where it was not made.

    before, after: the readings that each has to have; HoldfastError where one lacks some.
    """
    file = folder / "records" / f"{_stem(attack)}.jsonl"
    records = read_lines(RecordLine, file)
    for record in records:
        for when, names in (("before", before), ("after", after)):
            if lacking := [name for name in names if name not in record[when]]:
                raise HoldfastError(f"{file}: the record of {record['id']} has no {lacking[0]} {when} the attack")
    return records


def write_benign(folder: Path, ids: "Tensor", scores: "Mapping[str, Tensor]") -> None:
    """Write the scores (Q,) of queries, in [0, 1] and NaN where there is no match, with their ids (Q,)."""
    columns = {name: [round(100 * one, DIGITS) for one in values.tolist()] for name, values in scores.items()}
    each = zip(ids.tolist(), *columns.values(), strict=True)
    lines = [
        {"id": i, "scores": dict(zip(columns, values, strict=True))} for i, *values in each if not isnan(values[0])
    ]
    write_text(folder / BENIGN, "".join(json.dumps(line) + "\n" for line in lines))


def read_benign(folder: Path) -> list[Record]:
    """What :func:`write_benign` wrote; nothing where an evaluation of before did not."""
    return read_lines(BenignLine, folder / BENIGN)


def _stem(attack: str) -> str:
    return attack.replace(":", "_")
