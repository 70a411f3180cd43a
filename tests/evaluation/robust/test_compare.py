"""A hardened model beside its original: what stays, what a rotation breaks, and whose gallery is attacked."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.gallery import Gallery, Queries
from holdfast.evaluation import runner
from holdfast.evaluation.protocols import CASCADE
from holdfast.evaluation.robust import cascade, draws
from holdfast.evaluation.robust.compare import Comparison, compare
from holdfast.util.errors import HoldfastError
from tests.conftest import Call, Refuse
from tests.helpers import tiny
from tests.oracles import steps as oracles

QUICK: dict[str, Any] = {"eps": 0, "device": "cpu", "quiet": True}


class Rotated(nn.Module):
    """The embeddings of another, turned around: the same distances, other places."""

    def __init__(self, embedder: nn.Module) -> None:
        super().__init__()
        self.embedder = embedder
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("turn", torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q)

    def forward(self, images: Tensor) -> Tensor:
        z: Tensor = self.embedder(images) @ self.turn
        return z


def recalls(found: Comparison) -> list[float]:
    return [one.recall for one in found.searches]


def test_a_model_beside_itself() -> None:
    found = compare(tiny.embedder(), tiny.embedder(), tiny.digits(), **QUICK)
    assert found.cosine == pytest.approx(1)
    assert found.images == 100
    assert len(set(recalls(found))) == 1
    assert [(one.queries, one.gallery) for one in found.searches] == [
        ("original", "original"),
        ("hardened", "original"),
        ("hardened", "hardened"),
    ]


def test_a_rotation_breaks_the_old_gallery_alone() -> None:
    found = compare(Rotated(tiny.embedder()), tiny.embedder(), tiny.digits(), **QUICK)
    original, old, new = recalls(found)
    assert new == pytest.approx(original)
    assert old < original - 20
    assert abs(found.cosine) < 0.6


def test_recall_and_cosine_are_those_of_the_naive_search() -> None:
    """Two networks of their own; an image never finds its own entry, be it of the other model."""
    one, other, pixels = tiny.embedder(1), tiny.embedder(2), tiny.digits(40)
    found = compare(one, other, pixels, **QUICK)
    images, labels = pixels.read(torch.arange(40))[0], pixels.table.labels.tolist()
    with torch.no_grad():
        embedded = {"hardened": one(images).tolist(), "original": other(images).tolist()}
    cosines = [sum(a * b for a, b in zip(*both, strict=True)) for both in zip(*embedded.values(), strict=True)]
    assert found.cosine == pytest.approx(sum(cosines) / 40, abs=1e-6)
    for search in found.searches:
        queries, gallery = embedded[search.queries], embedded[search.gallery]
        right = []
        for i, query in enumerate(queries):
            if labels.count(labels[i]) > 1:
                first = next(j for j in oracles.nearest(query, gallery, 2) if j != i)
                right.append(labels[first] == labels[i])
        assert search.recall == pytest.approx(100 * sum(right) / len(right))


def test_without_a_radius_what_is_attacked_is_as_it_was() -> None:
    for one in compare(tiny.embedder(1), tiny.embedder(2), tiny.digits(), **QUICK).searches:
        (robust,) = one.robust
        assert (robust.eps, robust.queries) == (0, 100)
        assert robust.value == pytest.approx(one.recall)


def test_queries_are_attacked_in_the_gallery_they_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Robust R@1 is of the adversarial queries that were searched for in that gallery, found by that model."""
    seen: list[tuple[Queries, Gallery]] = []
    measure = cascade.unattacked
    monkeypatch.setattr(cascade, "CASCADE", (replace(CASCADE[0], steps=3),))
    monkeypatch.setattr(
        cascade,
        "unattacked",
        lambda target, *rest: seen.append((target.system.queries, target.system.gallery)) or measure(target, *rest),
    )
    one, other, pixels = tiny.embedder(1), tiny.embedder(2), tiny.digits(60)
    found = compare(one, other, pixels, **{**QUICK, "eps": ["2/255", 0.3]}, max_queries=12)
    with torch.no_grad():
        z = {"hardened": one(pixels.read(torch.arange(60))[0]), "original": other(pixels.read(torch.arange(60))[0])}
    for i, search in enumerate(found.searches):
        for queries, gallery in seen[2 * i : 2 * i + 2]:
            torch.testing.assert_close(queries.embeddings, z[search.queries], rtol=0, atol=1e-5)
            torch.testing.assert_close(gallery.embeddings, z[search.gallery], rtol=0, atol=1e-5)
        small, large = search.robust
        assert (small.eps, large.eps) == (pytest.approx(2 / 255), 0.3)
        assert large.value < small.value <= 100
        assert small.low <= small.value <= small.high
        assert small.queries == 12


@pytest.mark.parametrize("fatal", [2, 5, 9])
def test_a_killed_comparison_goes_on_where_it_was(fatal: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cascade, "CASCADE", (replace(CASCADE[0], steps=2),))
    given = {**QUICK, "eps": ["1/255", 0.1], "max_queries": 12, "batch": 4}
    whole = compare(tiny.embedder(1), tiny.embedder(2), tiny.digits(40), folder=tmp_path / "whole", **given)
    attacks: list[int] = []
    plain = runner.attack_batch

    def counting(*args: Any, **options: Any) -> Any:
        attacks.append(len(args[2]))
        if len(attacks) == fatal:
            tiny.interrupt()
        return plain(*args, **options)

    monkeypatch.setattr(draws, "attack_batch", counting)
    with pytest.raises(KeyboardInterrupt):
        compare(tiny.embedder(1), tiny.embedder(2), tiny.digits(40), folder=tmp_path / "cut", **given)
    done, fatal = len(attacks) - 1, 0
    found = compare(tiny.embedder(1), tiny.embedder(2), tiny.digits(40), folder=tmp_path / "cut", **given)
    assert found == whole
    total = len(attacks) - 1
    assert compare(tiny.embedder(1), tiny.embedder(2), tiny.digits(40), folder=tmp_path / "cut", **given) == whole
    assert (len(attacks) - 1, done > 0) == (total, True)
    assert tiny.records(tmp_path / "cut") == tiny.records(tmp_path / "whole")
    assert len(tiny.records(tmp_path / "whole")) == 6  # three searches at two radii


def test_records_are_kept_with_the_run_and_not_mistaken_for_another_s(tmp_path: Path) -> None:
    given = {**QUICK, "eps": 0.1, "max_queries": 3}
    pixels = tiny.digits(40)
    for seed, folders in ((2, 3), (2, 3), (3, 5)):  # the search of the hardened model by itself stays
        compare(tiny.embedder(1), tiny.embedder(seed), pixels, folder=tmp_path, **given)
        assert len(list(tmp_path.glob("compare-*"))) == folders


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare(narrow(), tiny.embedder(), tiny.digits(), **QUICK), r"vectors of 8 dimensions.*of 16"),
        (lambda: compare(tiny.embedder(), "nothing", tiny.digits(), **QUICK), r"'nothing' names no model"),
        (lambda: compare(tiny.embedder(), tiny.embedder(), **QUICK), r"needs a test set"),
        (lambda: compare(tiny.embedder(), tiny.embedder(), tiny.digits(), **QUICK, steps=3), r"no steps to choose"),
    ],
)
def test_what_cannot_be_compared_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(HoldfastError, match=message):
        call()


def narrow() -> Callable[[Tensor], Tensor]:
    embedder = tiny.embedder()
    return lambda images: embedder(images)[:, :8]


def test_the_command_prints_a_table_and_writes_json(call: Call, refused: Refuse, tmp_path: Path) -> None:
    for seed, name in enumerate(("new", "old")):
        tiny.embedder(seed).save_pretrained(tmp_path / name)
    models, out = (tmp_path / "new", tmp_path / "old"), tmp_path / "found.json"
    usual = ("--data", "digits", "--eps", "0", "--device", "cpu", "--max-queries", "20", "--out")
    status, printed, _ = call("compare", *models, *usual, out)
    assert status == 0
    written = json.loads(out.read_text())
    assert (written["format"], written["data"], written["images"]) == ("holdfast-comparison-1", "digits", 797)
    assert f"mean cosine to the original: {written['cosine']:.4f}, of 797 images" in printed
    for one in written["searches"]:
        assert f"{one['recall']:.2f}" in printed
    assert "is a folder" in refused("compare", *models, *usual, tmp_path)
