"""TensorBoard and Weights & Biases: both optional, both given every number of a run."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest

from holdfast.runs.config import Config, resolve_config
from holdfast.runs.folder import Run
from holdfast.training.loop import train
from holdfast.training.trackers import TRACKERS, tracker
from holdfast.util.errors import HoldfastError

SMALL = {
    "data.name": "digits",
    "recipe": "none-r",
    "model.dim": 8,
    "batch.pairs": 8,
    "steps": 2,
    "validation.attacked": 4,
}


def test_no_tracker_does_nothing(tmp_path: Path) -> None:
    tracker(None, tmp_path)({"loss": 1.0}, 1)
    assert not list(tmp_path.iterdir())


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        tracker("tensorbord", tmp_path)
    allowed = get_args(get_type_hints(Config)["tracker"])
    assert get_args(allowed[0]) == tuple(TRACKERS), "what the settings allow"


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_extra_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(HoldfastError, match=rf"{name} is not installed.*pip install 'holdfast\[{name}\]'"):
        tracker(name, tmp_path)


def test_a_run_without_its_extra_can_be_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(HoldfastError, match="wandb is not installed"):
        train(resolve_config(SMALL, {"tracker": "wandb"}), tmp_path, quiet=True)
    train(resolve_config(SMALL), tmp_path, resume=True, quiet=True)
    assert len(Run(tmp_path).steps()) == 2


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, int]]:
    """What a stand-in for TensorBoard's writer was told."""
    told: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: Path) -> None:
            assert Path(folder).is_dir()

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.append((name, value, step))

        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    monkeypatch.setitem(sys.modules, "tensorboard", ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    return told


def test_a_run_tracks_its_steps_and_its_validation(written: list[tuple[str, float, int]], tmp_path: Path) -> None:
    train(resolve_config(SMALL, {"tracker": "tensorboard"}), tmp_path, quiet=True)
    run = Run(tmp_path)
    assert [(v, s) for name, v, s in written if name == "loss"] == [
        (line["loss"], line["step"]) for line in run.steps()
    ]
    (recall,) = [(v, s) for name, v, s in written if name == "validation/R@1"]
    assert recall == (float(run.epochs()[0]["R@1"]), 2)


def test_wandb_is_told_every_scalar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, told = [], []

    def init(**options: Any) -> Any:
        begun.append(options)
        return SimpleNamespace(log=lambda values, step: told.append((values, step)))

    library = ModuleType("wandb")
    library.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", library)
    folder, other = tmp_path / "a" / "fashion-hm", tmp_path / "b" / "fashion-hm"
    track = tracker("wandb", folder)
    track({"loss": 0.5}, 3)
    assert told == [({"loss": 0.5}, 3)]
    assert begun[0]["name"] == "fashion-hm"
    assert begun[0]["project"] == "holdfast"
    tracker("wandb", folder)
    tracker("wandb", other)
    first, resumed, another = (one["id"] for one in begun)
    assert first == resumed != another
