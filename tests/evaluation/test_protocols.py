"""The tables of scores and protocols, and that nothing in ``strict`` depends on the batch an image is attacked in."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import pytest
import torch
from torch import Tensor, nn

from holdfast.attacks import ATTACKS, CA, RankingAttack, System
from holdfast.attacks.base import no_entries, own_entries
from holdfast.core.pgd import PGD
from holdfast.core.steps import LInf
from holdfast.evaluation.protocols import BENIGN, COLUMNS, CVPR22, PROTOCOLS, STRICT, TOP1, ers
from holdfast.evaluation.words import SCORE_WORDS
from holdfast.models.wrapped import WrappedModel
from holdfast.util.errors import HoldfastError
from tests.helpers.tiny import same_set
from tests.oracles import attacks as naive
from tests.oracles.attacks import some

PUBLISHED = list(
    csv.DictReader(files("holdfast.report").joinpath("published.csv").read_text(encoding="utf-8").splitlines())
)
NAMES = [column.name for column in COLUMNS]
EPS = 8 / 255


# ---- scores ---------------------------------------------------------------------------------------------------------


def test_ers_is_that_of_every_published_row() -> None:
    assert len(PUBLISHED) == 105
    gaps = [abs(ers({name: float(row[name]) for name in NAMES}) - float(row["ERS"])) for row in PUBLISHED]
    assert max(gaps) <= 0.11


def test_ers_takes_each_score_into_account() -> None:
    """From the worst to the best value, every one of them adds a tenth."""
    worst = {"CA-": 100.0, "QA-": 100.0, "TMA": 1.0, "ES:D": 2.0}
    best = {"CA+": 50.0, "QA+": 50.0, "ES:R": 100.0, "LTM": 100.0, "GTM": 100.0, "GTT": 100.0}
    values = {name: worst.get(name, 0.0) for name in NAMES}
    assert ers(values) == pytest.approx(0)
    for i, name in enumerate(NAMES):
        values[name] = best.get(name, 0.0)
        assert ers(values) == pytest.approx(10 * (i + 1))
    assert ers({**values, "mAP": 3.0}) == pytest.approx(100)


def test_ers_needs_all_ten() -> None:
    with pytest.raises(HoldfastError, match="missing: TMA, GTT"):
        ers({name: 1.0 for name in NAMES if name not in ("TMA", "GTT")})


def test_every_column_is_read_by_its_attack() -> None:
    for protocol in (STRICT, CVPR22):
        for column in COLUMNS:
            assert column.name in protocol.attacks[column.attack].readings
    assert set(TOP1) == {column.name for column in COLUMNS if SCORE_WORDS[column.name].unit == "R@1 in %"}


# ---- protocols ------------------------------------------------------------------------------------------------------


def test_the_protocols_differ_as_they_should() -> None:
    assert list(PROTOCOLS) == ["strict", "cvpr22", "worst", "benign"]
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())
    assert (STRICT.best, STRICT.batch) == (True, None)
    assert (CVPR22.best, CVPR22.batch) == (False, {"28": 128, "224": 112})
    assert not BENIGN.attacks
    assert all(attack.start == 0 for attack in CVPR22.attacks.values())
    assert {name for name, attack in STRICT.attacks.items() if attack.start} == {"es"}
    for name in ("ca+", "ca-", "qa+", "qa-", "tma"):
        assert STRICT.attacks[name].excluded is own_entries  # type: ignore[attr-defined]
        assert CVPR22.attacks[name].excluded is no_entries  # type: ignore[attr-defined]


@dataclass(frozen=True)
class AbsoluteValue:
    floor: float = -1.0

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        return z[:, 0, 0].abs()


def test_published_numbers_are_of_the_last_iterate_and_strict_ones_of_the_best() -> None:
    """Steps of 0.1 from 0.07 above the minimum swing to 0.03 below it and back."""
    image = torch.full((1, 1, 1, 1, 1), 0.5)
    for protocol, expected in ((STRICT, 0.03), (CVPR22, 0.07)):
        pgd = PGD(LInf(0.5), 0.1, 4, best=protocol.best)
        z = pgd(lambda x: x.flatten(1) - 0.43, image, AbsoluteValue()).item() - 0.43
        assert abs(z) == pytest.approx(expected)


# ---- batch independence ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """Of some images: what was chosen, the objective before and after, the images, and the readings."""

    chosen: Tensor
    values: Tensor
    images: Tensor
    readings: Tensor


@cache
def setting() -> tuple[WrappedModel, Tensor, System]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(108, 24)
    )
    net.eval().requires_grad_(False)
    # kernels round by the size of the batch; this embedder does so for all to see
    wrapped = WrappedModel(lambda x: net(x) * (1 + 1e-3 * len(x) * x[:, 0, :1, 0]))
    images = torch.rand(230, 1, 8, 8)
    with torch.no_grad():
        z = wrapped(images)
    return wrapped, images, System(*same_set(z, torch.arange(230) % 5))


def carry_out(attack: RankingAttack, pgd: PGD, rows: Tensor) -> Found:
    wrapped, images, system = setting()
    perturbed, generators = some(system.queries, rows), [torch.Generator().manual_seed(int(row)) for row in rows]
    chosen = attack.choose(perturbed, system, generators)
    plan, clean, everyone = attack.plan(perturbed, system, chosen), perturbed.embeddings, torch.arange(len(rows))
    got = pgd(wrapped, images[rows, None], plan.objective, clean=clean[:, None], generator=generators)
    with torch.no_grad():
        z = wrapped(got[:, 0])
    values = torch.stack([plan.objective(x[:, None], everyone) for x in (clean, z)], dim=1)
    readings = torch.stack([*plan.outcome(clean).values(), *plan.outcome(z).values()], dim=1)
    return Found(chosen, values, got, readings)


def pgd_of(attack: RankingAttack) -> PGD:
    return PGD(LInf(EPS), EPS / 4, 4, start=attack.start * EPS, best=STRICT.best, schedule=STRICT.schedule)


def unchanged_by_the_batch(attack: RankingAttack, pgd: PGD) -> Found:
    together = carry_out(attack, pgd, torch.arange(40))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for rows in torch.split(order, [7, 7, 7, 7, 7, 4, 1]):
        apart = carry_out(attack, pgd, rows)
        for name in ("chosen", "values", "images", "readings"):
            assert torch.equal(getattr(apart, name), getattr(together, name)[rows]), name
    return together


@pytest.mark.parametrize("name", list(ATTACKS))
def test_strict_attacks_do_not_depend_on_the_batch(name: str) -> None:
    """Bit for bit: what is chosen, objectives, images and readings, of 40 at once or in shuffled sevens."""
    found = unchanged_by_the_batch(STRICT.attacks[name], pgd_of(STRICT.attacks[name]))
    assert found.images.shape == (40, 1, 1, 8, 8)
    assert (found.values[:, 1] <= found.values[:, 0] + 1e-6).all()
    assert (found.values[:, 1] < found.values[:, 0] - 1e-4).sum() > 20


def test_targets_of_several_queries_do_not_depend_on_the_batch() -> None:
    unchanged_by_the_batch(CA("+", 3), pgd_of(CA("+", 3)))


def test_without_steps_the_readings_are_the_benign_ones() -> None:
    """And the same as the naive twins', for a network."""
    _, _, system = setting()
    gallery = naive.listed(system.gallery)
    for name, attack in STRICT.attacks.items():
        found = carry_out(attack, PGD(LInf(0), EPS / 4, 2, best=True), torch.arange(6))
        before, after = found.readings.chunk(2, dim=1)
        assert torch.equal(before, after), name
        if name == "qa+":
            points = [gallery.points[i] for i in range(6)]
            ranks = [naive.query_rank(z, gallery, found.chosen[i].tolist(), [i]) for i, z in enumerate(points)]
            assert before[:, 0].tolist() == pytest.approx(ranks, abs=1e-3)
