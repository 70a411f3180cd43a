"""The library's attacks against the naive ones of the benchmarks, and scores in bfloat16 against those in float32."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from benchmarks import naive_attacks as naive
from benchmarks.naive_attacks import Case
from holdfast.attacks import ATTACKS, System
from holdfast.evaluation.evaluate import campaigns_of, evaluate
from holdfast.evaluation.protocols import COLUMNS
from holdfast.evaluation.runner import Target
from holdfast.evaluation.settings import resolve_budget
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.models.embedding import embed_dataset
from holdfast.models.wrapped import Subject
from holdfast.report import Result
from holdfast.runs.config import resolve_config
from holdfast.training.loop import train
from tests.helpers.tiny import NINE, digits, rows
from tests.oracles import attacks as oracles
from tests.oracles.attacks import generators, listed, numbers, world
from tests.oracles.steps import Vector, distance

Readings = dict[str, npt.NDArray[np.float64]]

CLOSE: dict[str, Any] = {"abs": 1e-5, "rel": 1e-5}
CONTINUOUS = ("TMA", "ES:D")
RANKS = ("CA+", "CA-", "QA+", "QA-")
DESCENT: dict[str, Any] = {"eps": 0.1, "step": 0.1, "steps": 6}
"""Steps so long that the last iterate is not always the best."""
QUIET: dict[str, Any] = {"checks": False, "quiet": True, "device": "cpu"}
PIXELS = digits(797)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    """C2F2, trained plainly on the digits for a moment: robust scores lie between the extremes."""
    settings = {"data.name": "digits", "data.size": 8, "model.dim": 32, "optim.epochs": 4, "validation.every": 100}
    config = resolve_config(settings, {"recipe": "none-r"})
    return train(config, tmp_path_factory.mktemp("run"), device="cpu", quiet=True).eval()


def readings(result: Result, when: str = "after") -> Readings:
    """The readings of every image, by the name of the column."""
    assert result.path is not None
    found: Readings = {}
    for attack in NINE:
        records = rows(result.path.parent / "records" / f"{attack}.jsonl")
        for name in records[0][when]:
            found[name] = np.array([record[when][name] for record in records])
    return found


# --- the naive attacks, in plain numbers


def objective_in_numbers(name: str, z: Vector, case: Case) -> float:
    gallery, clean = listed(case.gallery), case.clean.tolist()
    if name in ("ca+", "ca-"):
        assert case.chosen is not None
        hidden = [case.id, int(case.system.queries.ids[case.chosen])]
        return oracles.candidate_objective(name[-1], z, [case.query.tolist()], gallery, [hidden])  # type: ignore[arg-type]
    if name in ("qa+", "qa-", "gtt"):
        assert case.chosen is not None
        return oracles.query_objective("+" if name == "qa+" else "-", z, gallery, [case.chosen], [case.id])
    if name == "tma":
        return 1 - cosine(z, case.target.tolist())
    if name == "es":
        return -distance(z, clean)
    if name == "ltm":
        return oracles.misrank(z, case.label, case.id, gallery)
    return distance(z, case.target.tolist())


def readings_in_numbers(name: str, z: Vector, case: Case) -> dict[str, float]:
    gallery = listed(case.gallery)
    recall = oracles.recall_at_1(z, case.label, case.id, gallery)
    if name in ("ca+", "ca-"):
        assert case.chosen is not None
        hidden = [case.id, int(case.system.queries.ids[case.chosen])]
        return {name.upper(): oracles.candidate_rank(z, [case.query.tolist()], gallery, [hidden])}
    if name in ("qa+", "qa-"):
        assert case.chosen is not None
        return {name.upper(): oracles.query_rank(z, gallery, [case.chosen], [case.id])}
    if name == "tma":
        return {"TMA": cosine(z, case.target.tolist())}
    if name == "es":
        return {"ES:D": distance(z, case.clean.tolist()), "ES:R": recall}
    if name == "gtt":
        assert case.chosen is not None
        return {"GTT": oracles.still_on_top(z, gallery, case.chosen, case.id)}
    return {name.upper(): recall}


def cosine(a: Vector, b: Vector) -> float:
    origin = [0.0] * len(a)
    return sum(x * y for x, y in zip(a, b, strict=True)) / (distance(a, origin) * distance(b, origin))


@pytest.mark.parametrize("name", NINE)
@pytest.mark.parametrize("grid", [False, True])
def test_the_naive_attacks_are_their_formulas(name: str, grid: bool) -> None:
    """On a grid many distances tie; off it the gallery holds a few items twice."""
    for seed in range(3):
        system, attack = world(seed, grid=grid), ATTACKS[name]
        perturbed = system.perturbed(attack)
        chosen = attack.choose(perturbed, system, generators(len(perturbed.ids)))
        points = numbers(torch.Generator().manual_seed(seed + 1), len(perturbed.ids), 3, grid=grid)
        objective, readings = naive.ATTACKS[name]
        for case, z in zip(naive.cases(perturbed, chosen, system), points, strict=True):
            if math.isnan(oracles.recall_at_1(z.tolist(), case.label, case.id, listed(system.gallery))) or not z.any():
                continue
            assert float(objective(z, case)) == pytest.approx(objective_in_numbers(name, z.tolist(), case), **CLOSE)
            expected = readings_in_numbers(name, z.tolist(), case)
            assert {column: read(z, case) for column, read in readings.items()} == pytest.approx(expected, **CLOSE)


def test_the_naive_ers_is_that_of_the_paper() -> None:
    """N/A[R] on Fashion-MNIST in the table of published scores."""
    names = ("CA+", "CA-", "QA+", "QA-", "TMA", "ES:D", "ES:R", "LTM", "GTM", "GTT")
    values = (1.1, 96.8, 0.3, 97.8, 0.99, 1.604, 0.1, 0.0, 12.6, 0.0)
    assert naive.ers(dict(zip(names, values, strict=True))) == pytest.approx(4.2, abs=0.05)


# --- the library's attacks


@pytest.fixture(scope="module")
def library(embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """128 images attacked in nine ways by the library."""
    return evaluate(embedder, PIXELS, folder=tmp_path_factory.mktemp("fast"), max_queries=128, **DESCENT, **QUIET)


@pytest.fixture(scope="module")
def by_hand(embedder: Embedder, library: Result) -> Readings:
    """The same images attacked naively, for what the records say was chosen."""
    embedded = embed_dataset(embedder, PIXELS, torch.device("cpu"))
    target = Target(Subject(embedder), System(embedded.queries, embedded.gallery), PIXELS)
    assert library.path is not None
    found: Readings = {}
    for campaign in campaigns_of(target, resolve_budget("28", max_queries=128, **DESCENT), 128):
        records = rows(library.path.parent / "records" / f"{campaign.name}.jsonl")
        ids, chosen = (torch.tensor([record[key] for record in records]) for key in ("id", "chosen"))
        assert torch.equal(ids, campaign.images)
        cases = naive.cases(target.system.queries.take(ids), chosen.long(), target.system)
        images = PIXELS.read(ids)[0]
        start = naive.near(images, campaign.attack.start * DESCENT["eps"], campaign.draws(target, ids))
        _, reached = naive.attack(campaign.name, embedder, images, start, cases, **DESCENT)
        found |= {name: np.array(values) for name, values in reached.items()}
    return found


@pytest.mark.parametrize("name", [column.name for column in COLUMNS])
def test_naive_attacks_end_where_the_library_does(name: str, library: Result, by_hand: Readings) -> None:
    """Image by image: ranks to one place in the gallery, first results for all but two images."""
    fast, slow = readings(library)[name], by_hand[name]
    assert fast.shape == slow.shape == (128,)
    assert abs(fast - readings(library, "before")[name]).mean() > 0.05
    apart = abs(fast - slow)
    if name in CONTINUOUS:
        assert apart.max() < 1e-3
    elif name in RANKS:
        assert apart.max() < 101 / len(PIXELS)
    assert (apart > 1e-4).sum() <= 2


def test_naive_and_library_give_the_same_ers_to_four_digits(library: Result, by_hand: Readings) -> None:
    score = naive.ers({name: float(values.mean()) for name, values in by_hand.items()})
    assert 20 < score < 80
    assert library.number("ERS") == pytest.approx(score, rel=5e-5)


# --- half precision


def test_bfloat16_changes_no_score_beyond_its_noise(embedder: Embedder, tmp_path: Path) -> None:
    """Three standard errors of 512 images."""

    def attacked(precision: str) -> Readings:
        given: dict[str, Any] = {**DESCENT, **QUIET, "steps": 3, "max_queries": 512, "precision": precision}
        return readings(evaluate(embedder, PIXELS, folder=tmp_path / precision, **given))

    full, half = attacked("float32"), attacked("bfloat16")
    assert not np.array_equal(full["TMA"], half["TMA"])
    for name, values in full.items():
        assert len(values) == 512
        error = values.std(ddof=1) / math.sqrt(len(values))
        assert abs(half[name].mean() - values.mean()) <= 3 * error, name


@pytest.mark.parametrize("trained", [True, False])
def test_an_honest_model_is_trusted_in_bfloat16_too(embedder: Embedder, trained: bool) -> None:
    torch.manual_seed(0)
    model = embedder if trained else Embedder(EmbedderConfig("c2f2", dim=16, channels=1, size=8))
    given: dict[str, Any] = {**DESCENT, **QUIET, "checks": True, "max_queries": 64, "attacks": ("es",)}
    result = evaluate(model, PIXELS, precision="bfloat16", **given)
    assert result.content["trusted"] is True, [one for one in result.content["checks"] if not one["passed"]]
