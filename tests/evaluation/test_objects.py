"""Attacks of one's own, given as objects: named, recorded, resumed by their repr, and refused where they are none."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from holdfast.attacks import ATTACKS, CA, ES, QA, Plan, System
from holdfast.attacks.base import ImageGenerators
from holdfast.core.distance import pairs
from holdfast.core.gallery import Queries
from holdfast.core.objectives import DistanceToTarget
from holdfast.evaluation.evaluate import evaluate
from holdfast.evaluation.protocols import STRICT
from holdfast.evaluation.runner import generators_of
from holdfast.evaluation.saving import attack
from holdfast.evaluation.settings import resolve_settings
from holdfast.report import Result
from holdfast.util.errors import HoldfastError
from tests.helpers.tiny import QUICK, digits, embedder, records, rows

EMBEDDER = embedder()


@dataclass(frozen=True)
class Farthest:
    """Pull a query onto the image that is farthest from it, or the next farthest ones."""

    place: int = 0
    side: ClassVar[str] = "query"
    start: ClassVar[float] = 0.0
    readings: ClassVar[tuple[str, ...]] = ("gap",)

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        farthest = system.items.distances(perturbed.embeddings).topk(self.place + 1, dim=1).indices
        return farthest[:, self.place :]

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        target = system.gallery.embeddings[chosen[:, 0]]
        return Plan(DistanceToTarget(target), lambda z: {self.readings[0]: pairs(z, target)})


class Named(Farthest):
    """Called by its name, not its class."""

    name = "my-attack.2"
    readings = ("gap 2",)

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        return torch.stack([torch.randint(len(system.items), (1,), generator=one) for one in generators])


class Addressed(Farthest):
    """Whose repr is Python's own."""

    __repr__ = object.__repr__


def settings(result: Result) -> list[str]:
    found: list[str] = result.content["settings"]["attacks"]
    return found


def files(result: Result) -> list[str]:
    assert result.path is not None
    return sorted(file.name for file in (result.path.parent / "records").iterdir())


def test_objects_and_names_are_attacked_with_side_by_side(tmp_path: Path) -> None:
    given = {**QUICK, "folder": tmp_path, "steps": 6}
    result = evaluate(EMBEDDER, digits(), attacks=["es", Farthest(), Named()], **given)
    assert settings(result) == ["es", "farthest", "my-attack.2"]
    assert files(result) == ["es.jsonl", "farthest.jsonl", "my-attack.2.jsonl"]
    assert list(result.content["columns"]) == ["ES:D", "ES:R", "gap", "gap 2"]
    assert result.path is not None
    found = rows(result.path.parent / "records" / "farthest.jsonl")
    assert len(found) == 12
    assert all(record["after"]["gap"] < record["before"]["gap"] for record in found)
    alone = evaluate(EMBEDDER, digits(), attacks=Farthest(), **given)
    assert alone.path is not None
    assert rows(alone.path.parent / "records" / "farthest.jsonl") == found
    assert alone.content["columns"]["gap"] == result.content["columns"]["gap"]


def test_what_an_object_draws_hangs_on_its_name(tmp_path: Path) -> None:
    result = evaluate(EMBEDDER, digits(), attacks=[Named()], folder=tmp_path, **QUICK)
    assert result.path is not None
    for record in rows(result.path.parent / "records" / "my-attack.2.jsonl"):
        (generators,) = generators_of("my-attack.2", 0, [record["id"]])
        assert record["chosen"] == torch.randint(100, (1,), generator=generators).tolist()


def test_a_dataclass_is_known_again_by_its_repr_and_what_is_in_it(tmp_path: Path) -> None:
    first, again, other = (
        evaluate(EMBEDDER, digits(), attacks=[Farthest(place)], folder=tmp_path, **QUICK) for place in (1, 1, 2)
    )
    assert again.path == first.path
    assert again.content == first.content
    assert other.path != first.path
    assert records(tmp_path).keys() == {
        f"{result.path.parent.name}/records/farthest.jsonl" for result in (first, other) if result.path
    }


def test_an_object_whose_repr_holds_an_address_is_never_known_again(tmp_path: Path) -> None:
    one = Addressed()
    assert " at 0x" in repr(one)
    found = [evaluate(EMBEDDER, digits(), attacks=[one], folder=tmp_path, **QUICK) for _ in range(2)]
    assert found[0].path != found[1].path
    assert found[0].content["columns"] == found[1].content["columns"]
    within = resolve_settings("28", attacks=[CA("+", width=3)])
    assert "function own_entries at 0x" in repr(within.objects["ca"])
    assert within.hash() != within.hash()


def test_the_repr_is_in_the_hash_and_old_hashes_are_as_they_were() -> None:
    hashes = [resolve_settings("28", attacks=["es", Farthest(place)]).hash() for place in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert resolve_settings("28").hash() == "13eddbf1"
    assert resolve_settings("28", "cvpr22", attacks="es", seed=3).hash({"model": "a"}) == "71066bcd"


@pytest.mark.parametrize("name", ATTACKS)
def test_the_protocol_s_own_object_is_its_name(name: str) -> None:
    by_object = resolve_settings("28", attacks=[ATTACKS[name]])
    assert by_object == resolve_settings("28", attacks=[name])
    assert by_object.hash() == resolve_settings("28", attacks=[name]).hash()
    assert by_object.attack(name) is STRICT.attacks[name]


def test_an_equal_object_is_the_protocol_s_own_too() -> None:
    assert resolve_settings("28", attacks=[ES(), CA("+"), QA("-")]).attacks == ("es", "ca+", "qa-")
    assert resolve_settings("28", attacks=CA("+", width=3)).objects == {"ca": CA("+", width=3)}


def test_adversarial_images_of_an_object_are_saved(tmp_path: Path) -> None:
    given: dict[str, Any] = {"steps": 2, "max_queries": 6, "quiet": True, "device": "cpu"}
    entries = attack(EMBEDDER, digits(), Farthest(), tmp_path / "a", **given)
    assert len(entries) == 6
    assert all(entry["after"]["gap"] < entry["before"]["gap"] for entry in entries)
    assert attack(EMBEDDER, digits(), Farthest(), tmp_path / "a", **given) == entries
    for other in (Farthest(1), Addressed()):
        with pytest.raises(HoldfastError, match="holds images of another attack"):
            attack(EMBEDDER, digits(), other, tmp_path / "a", **given)


# --- what is no attack


def with_parts(**parts: Any) -> Any:
    """An attack with other parts; None leaves one out."""
    does = {"choose": lambda _, *given: Farthest().choose(*given), "plan": lambda _, *given: Farthest().plan(*given)}
    whole = {"side": "query", "start": 0.0, "readings": ("gap",), **does}
    return type("Mine", (), {name: part for name, part in {**whole, **parts}.items() if part is not None})()


@dataclass(frozen=True)
class Stronger(ES):
    """Not the protocol's."""

    extra: float = field(default=1.0)


@pytest.mark.parametrize(
    ("attacks", "message"),
    [
        ([with_parts(side=None)], "attack Mine lacks side: an attack is a name, or an object with side, readings, st"),
        ([with_parts(readings=None, plan=None)], "attack Mine lacks readings, plan:"),
        (5, "attack int lacks side"),
        ([Farthest], r"attack Farthest is a class: give an object of it, Farthest\(…\)"),
        ([with_parts(side="queries")], r"unknown side of attack mine 'queries'; did you mean 'query'\?"),
        ([with_parts(readings="gap")], "the readings of attack mine are a tuple of names, not 'gap'"),
        ([with_parts(name="a/b")], "attack Mine is called 'a/b': a name has letters"),
        ([with_parts(), with_parts()], "two attacks are called 'mine': give one of them another `name`"),
        (["es", ES()], "two attacks are called 'es'"),
        ([with_parts(name="es")], "protocol 'strict' has another attack called 'es': give yours a `name`"),
        ([Stronger()], "attack 'stronger' gives ES:[DR], a score of the protocols: rename its reading"),
        ([with_parts(), with_parts(name="other")], "attacks 'mine' and 'other' both give gap: leave one out"),
    ],
)
def test_what_is_no_attack_is_refused_before_work_starts(attacks: Any, message: str, tmp_path: Path) -> None:
    def never(images: Tensor) -> Tensor:
        raise AssertionError("work has started")

    with pytest.raises(HoldfastError, match=message) as caught:
        evaluate(never, digits(), attacks=attacks, folder=tmp_path, quiet=True, device="cpu")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("found", "said"),
    [({}, "nothing"), ({"other": 0}, "other"), ({"gap": 0, "LTM": 0}, "gap, LTM")],
)
def test_readings_other_than_said_are_found_before_the_first_attack(
    found: Iterable[str], said: str, tmp_path: Path
) -> None:
    def plan(self: Any, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        honest = Farthest().plan(perturbed, system, chosen)
        return Plan(honest.objective, lambda z: {name: honest.outcome(z)["gap"] for name in found})

    with pytest.raises(HoldfastError, match=rf"attack 'mine' says that it reads gap, and gives {said}$"):
        evaluate(EMBEDDER, digits(), attacks=["es", with_parts(plan=plan)], folder=tmp_path, **QUICK)
    assert not records(tmp_path)
