"""What every test shares: one thread per process, no deadlines, where the real images lie, and the command line."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from holdfast.cli import main
from holdfast.evaluation.protocols import BUDGETS
from holdfast.evaluation.robust import cascade
from holdfast.runs.config import resolve_config
from holdfast.training.loop import train

Call = Callable[..., tuple[int, str, str]]
Refuse = Callable[..., str]

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start: the sums of a step depend on it
IGNORED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("no clock", deadline=None, suppress_health_check=IGNORED)
settings.load_profile("no clock")

DATA = Path(os.environ.get("HOLDFAST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets; the test is skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no real images at {DATA}; set HOLDFAST_DATA to the folder that holds them")
    return DATA


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on digits; tests that change it, or evaluate it, take a copy."""
    folder = tmp_path_factory.mktemp("session") / "digits"
    settings = {"recipe": "hm-s-lga", "model.dim": 8, "batch.pairs": 100, "steps": 2, "pgd.steps": 1}
    train(resolve_config(settings, {"validation.every": 0}), folder, quiet=True)
    return folder


@pytest.fixture
def short_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks take four steps where nothing says how many, those of robust R@1 too."""
    for family, (eps, step, _) in BUDGETS.items():
        monkeypatch.setitem(BUDGETS, family, (eps, step, 4))
    for stages in ("CASCADE", "BLACK_BOX"):
        monkeypatch.setattr(cascade, stages, [replace(one, steps=4) for one in getattr(cascade, stages)])


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """The exit status, output and errors of a command."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        try:
            main([str(argument) for argument in arguments])
            status: Any = 0
        except SystemExit as stop:
            status = stop.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def refused(call: Call) -> Refuse:
    """The one line that a command which cannot work ends with."""

    def run(*arguments: str | Path) -> str:
        status, _, err = call(*arguments)
        assert status == 2
        assert err.startswith("holdfast: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        return err

    return run
