"""How long a sweep takes: what is left of each run, from a few timed steps of each kind."""

from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

import pytest

from holdfast.evaluation.estimate.estimate import Estimate
from holdfast.evaluation.estimate.parts import Part
from holdfast.runs.config import Config
from holdfast.runs.folder import Run
from holdfast.sweep import estimate
from holdfast.sweep.estimate import Estimator
from tests.helpers.sweep_files import PLAIN, SMALL, evaluated, leave, planned
from tests.helpers.tiny import photos

TEST_IMAGES = 797
LONG: dict[str, Any] = {**SMALL, "steps": None}
"""An epoch of 125 steps."""


@dataclass
class Machine:
    """A machine on which a hardened step takes a second per PGD step, a plain one a quarter, and an evaluation 10 at
    the most.

    The first step takes long, and the others not all as long.
    """

    trained: list[Config] = field(default_factory=list)
    evaluated: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    devices: list[Any] = field(default_factory=list)

    def train(self, config: Config, folder: str | Path, *, device: Any, quiet: bool) -> None:
        assert quiet
        self.trained.append(config)
        self.devices.append(device)
        Path(folder).mkdir(exist_ok=True)
        seconds = 0.25 if config.recipe.startswith("none") else float(config.pgd.steps)
        assert config.steps == 4
        for i, times in enumerate((100, 0.5, 1, 1.5), start=1):
            Run(folder).log_step({"step": i, "seconds": 0.75 * times * seconds, "waited": 0.25 * times * seconds})

    def estimate(
        self, _: object, pixels: Any, protocol: str, *, checks: bool, device: Any, **settings: Any
    ) -> Estimate:
        assert len(pixels) == TEST_IMAGES
        self.evaluated.append((protocol, {"checks": checks, **settings}))
        self.devices.append(device)
        return Estimate((Part("all", 0, 1.0, 10.0, None),), (), 0.0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    for name in ("train", "estimate"):
        monkeypatch.setattr(estimate, name, getattr(machine, name))
    return machine


def test_steps_and_recipes_cost_what_was_timed(tmp_path: Path, machine: Machine) -> None:
    runs = planned(
        tmp_path,
        {"recipe": "act-r", "pgd.steps": [2, 3]},
        {"recipe": "none-r", "optim.epochs": 4},
        {"recipe": "act-r", "pgd.steps": 2, "steps": 60},
        settings=LONG,
    )
    assert Estimator("cpu").seconds(runs, quiet=True) == [125 * 2, 125 * 3, 4 * 125 * 0.25, 60 * 2]
    assert set(machine.devices) == {"cpu"}


def test_what_differs_in_the_seed_or_the_length_only_is_timed_once(tmp_path: Path, machine: Machine) -> None:
    given = {"protocol": "strict", "max_queries": 64}
    runs = planned(
        tmp_path,
        {"recipe": "act-r", "seed": [0, 1, 2]},
        {"recipe": "act-r", "optim.epochs": [2, 3]},
        settings=LONG,
        evaluations=[given],
    )
    estimator = Estimator()
    seconds = estimator.seconds(runs, quiet=True)
    assert (len(machine.trained), len(machine.evaluated)) == (1, 1)
    assert [one - seconds[0] for one in seconds] == [0, 0, 0, 125, 250]
    assert estimator.seconds(runs, quiet=True) == seconds
    assert (len(machine.trained), len(machine.evaluated)) == (1, 1)
    estimator.seconds(planned(tmp_path, {"recipe": "act-s"}, settings=LONG), quiet=True)
    assert [config.recipe for config in machine.trained] == ["act-r", "act-s"]


def test_what_is_timed_is_hardening_alone(tmp_path: Path, machine: Machine) -> None:
    changes = {"warmup.epochs": 1, "warmup.ramp": 1, "validation.every": 1, "optim.epochs": 7, "precision": "bfloat16"}
    Estimator().seconds(planned(tmp_path, {"recipe": "act-r"}, settings={**LONG, **changes}), quiet=True)
    for config in machine.trained:
        assert (config.warmup.epochs, config.warmup.ramp, config.validation.every) == (0, 0, 0)
        assert config.precision == "bfloat16"


@pytest.mark.parametrize(
    ("steps", "done", "left"),
    [
        (None, 0, [125, 250]),
        (200, 0, [125, 75]),
        (60, 0, [60, 0]),
        (900, 25, [100, 250]),
        (None, 125, [0, 250]),
        (None, 300, [0, 75]),
    ],
)
def test_what_is_left_of_a_run_counts(
    steps: int | None, done: int, left: list[int], tmp_path: Path, machine: Machine
) -> None:
    """The warm-up is plain; a run that is cut short is cut at its end."""
    changes = {"warmup.epochs": 1, "warmup.sampler": "S", "optim.epochs": 2, "steps": steps}
    runs = planned(tmp_path, {"recipe": "act-r", "pgd.steps": 2}, settings={**LONG, **changes})
    if done:
        leave(runs[0], step=done)
    warm, hard = left
    assert Estimator().seconds(runs, quiet=True) == [warm * 0.25 + hard * 2]
    assert [config.recipe for config in machine.trained] == ["none-s"] * bool(warm) + ["act-r"] * bool(hard)


def test_what_is_done_costs_nothing(tmp_path: Path, machine: Machine) -> None:
    """Also of a run that collapsed."""
    (run,) = runs = planned(tmp_path, settings=LONG, evaluations=[{"checks": False}, {"protocol": "benign"}])
    leave(run, step=20, collapsed=2)
    evaluated(run, run.evaluations[0])
    assert len(Estimator().seconds(runs, quiet=True)) == 1
    assert [protocol for protocol, _ in machine.evaluated] == ["benign"]
    evaluated(run, run.evaluations[1])
    assert Estimator().seconds(runs, quiet=True) == [0]
    assert not machine.trained
    assert len(machine.evaluated) == 1


def test_weights_that_are_not_there_yet_are_not_read(tmp_path: Path, machine: Machine) -> None:
    """Their BatchNorm is frozen all the same, unless it is said to train."""
    runs = planned(tmp_path, PLAIN, {**PLAIN, "model.batchnorm": "train"}, start={"recipe": "none-s"})
    weights = runs[1].config.model.weights
    assert weights is not None
    Estimator().seconds(runs, quiet=True)
    assert [(config.model.weights, config.model.batchnorm) for config in machine.trained] == [
        *((None, "auto"), (None, "frozen"), (None, "train"))
    ]
    leave(runs[0])
    Estimator().seconds(runs[1:2], quiet=True)
    assert machine.trained[-1].model.weights == weights


def test_evaluations_take_the_most_that_is_estimated(tmp_path: Path, machine: Machine) -> None:
    given = [
        {"protocol": "strict", "steps": 32, "max_queries": 256},
        {"protocol": "cvpr22", "steps": 1, "attacks": ["es"], "checks": False},
    ]
    (run,) = runs = planned(tmp_path, evaluations=given)
    leave(run)
    assert Estimator("cpu").seconds(runs, quiet=True) == [20]
    assert machine.evaluated == [
        ("strict", {"checks": True, "steps": 32, "max_queries": 256}),
        ("cvpr22", {"checks": False, "steps": 1, "attacks": ["es"]}),
    ]
    assert set(machine.devices) == {"cpu"}


def test_an_epoch_may_be_shorter_than_what_is_timed(tmp_path: Path) -> None:
    """Of one batch, or of two; here steps are timed."""
    photos(tmp_path / "photos", each=4)
    small = {"data.name": "folder", "data.root": str(tmp_path / "photos"), "data.size": 8, "model.backbone": "c2f2"}
    for pairs in (8, 4):
        runs = planned(tmp_path, settings={**LONG, **small, "batch.pairs": pairs, "optim.epochs": 3})
        (seconds,) = Estimator("cpu").seconds(runs, quiet=True)
        assert seconds > 0


def test_a_kind_that_cannot_be_timed_stops_nothing(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(config: Config, *arguments: Any, **options: Any) -> None:
        if config.recipe == "act-r":
            raise RuntimeError("out of memory\nat length")
        machine.train(config, *arguments, **options)

    monkeypatch.setattr(estimate, "train", train)
    runs = planned(tmp_path, {"recipe": ["act-r", "none-r"]}, settings=LONG)
    failed, timed = Estimator().seconds(runs)
    assert (isnan(failed), timed) == (True, 125 * 0.25)
    assert "tiny, act-r cannot be timed: out of memory\n" in capsys.readouterr().out
