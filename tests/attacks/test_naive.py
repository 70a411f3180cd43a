"""The library's attacks against the naive ones of the benchmarks, and scores in bfloat16 against those in float32."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from benchmarks import naive_attacks as naive
from holdfast.attacks import System
from holdfast.evaluation.evaluate import evaluate
from holdfast.evaluation.protocols import COLUMNS
from holdfast.evaluation.runner import Target, runners_of
from holdfast.evaluation.settings import resolve_settings
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.models.embedding import embed_dataset
from holdfast.models.wrapped import WrappedModel
from holdfast.report import Result
from holdfast.runs.config import resolve_config
from holdfast.training.loop import train
from tests.helpers.tiny import NINE, digits, rows

Readings = dict[str, npt.NDArray[np.float64]]

CONTINUOUS = ("TMA", "ES:D")
RANKS = ("CA+", "CA-", "QA+", "QA-")
DESCENT: dict[str, Any] = {"eps": 0.1, "step": 0.1, "steps": 6}
"""Steps so long that the last iterate is not always the best."""
QUIET: dict[str, Any] = {"cascade": False, "checks": False, "quiet": True, "device": "cpu"}
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


# --- the library's attacks


@pytest.fixture(scope="module")
def library(embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """128 images attacked in nine ways by the library."""
    return evaluate(embedder, PIXELS, folder=tmp_path_factory.mktemp("fast"), max_queries=128, **DESCENT, **QUIET)


@pytest.fixture(scope="module")
def by_hand(embedder: Embedder, library: Result) -> Readings:
    """The same images attacked naively, for what the records say was chosen."""
    embedded = embed_dataset(embedder, PIXELS, torch.device("cpu"))
    target = Target(WrappedModel(embedder), System(embedded.queries, embedded.gallery), PIXELS)
    assert library.path is not None
    found: Readings = {}
    for runner in runners_of(target, resolve_settings("28", max_queries=128, **DESCENT), 128):
        records = rows(library.path.parent / "records" / f"{runner.name}.jsonl")
        ids, chosen = (torch.tensor([record[key] for record in records]) for key in ("id", "chosen"))
        assert torch.equal(ids, runner.images)
        cases = naive.cases(target.system.queries.take(ids), chosen.long(), target.system)
        images = PIXELS.read(ids)[0]
        start = naive.near(images, runner.attack.start * DESCENT["eps"], runner.generators(target, ids))
        _, reached = naive.attack(runner.name, embedder, images, start, cases, **DESCENT)
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
    """Three standard errors of 256 images."""

    def attacked(precision: str) -> Readings:
        given: dict[str, Any] = {**DESCENT, **QUIET, "steps": 3, "max_queries": 256, "precision": precision}
        return readings(evaluate(embedder, PIXELS, folder=tmp_path / precision, **given))

    full, half = attacked("float32"), attacked("bfloat16")
    assert not np.array_equal(full["TMA"], half["TMA"])
    for name, values in full.items():
        assert len(values) == 256
        error = values.std(ddof=1) / math.sqrt(len(values))
        assert abs(half[name].mean() - values.mean()) <= 3 * error, name


@pytest.mark.parametrize("trained", [True, False])
def test_an_honest_model_is_trusted_in_bfloat16_too(embedder: Embedder, trained: bool) -> None:
    torch.manual_seed(0)
    model = embedder if trained else Embedder(EmbedderConfig("c2f2", dim=16, channels=1, size=8))
    given: dict[str, Any] = {**DESCENT, **QUIET, "checks": True, "max_queries": 64, "attacks": ("es",), "steps": 20}
    result = evaluate(model, PIXELS, precision="bfloat16", **given)
    assert result.content["trusted"] is True, [one for one in result.content["checks"] if not one["passed"]]
