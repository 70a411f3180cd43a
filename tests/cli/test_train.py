"""``holdfast train``: what it leaves behind and prints, how it goes on, and one line for what cannot work."""

import csv
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast.cli import main
from holdfast.models.embedder import Embedder
from holdfast.runs.config import Config, resolve_config
from holdfast.runs.folder import Run
from tests.conftest import Call, Refuse
from tests.helpers.tiny import photos

SETTINGS = {"steps": 2, "model.dim": 16, "batch.pairs": 8, "pgd.steps": 1, "validation.attacked": 8}
QUICK = ["--data", "digits", *(f"--set={key}={value}" for key, value in SETTINGS.items())]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A tiny finished run, and what was printed; tests that change it take a copy."""
    folder, out = tmp_path_factory.mktemp("runs") / "digits", StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.setattr(sys, "argv", ["holdfast", "train", "--data", "digits"])
        with pytest.raises(SystemExit) as stop:
            main(["train", *QUICK, "--out", str(folder)])
    assert not stop.value.code
    return folder, out.getvalue()


@pytest.fixture
def finished(printed: tuple[Path, str]) -> Path:
    return printed[0]


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "copy")


# -- what is trained --------------------------------------------------------------------------------------------------


@dataclass
class Asked:
    """What training was asked for."""

    config: Config
    folder: Path
    options: dict[str, Any]


@pytest.fixture
def asked(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Asked]:
    """What a command would train, in an empty folder."""
    found: list[Asked] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "holdfast.training.loop.train", lambda config, folder, **options: found.append(Asked(config, folder, options))
    )

    def ask(*arguments: str | Path) -> Asked:
        assert call("train", *arguments)[0] == 0
        return found[-1]

    return ask


def test_both_notations_name_the_same_default_folder(asked: Callable[..., Asked]) -> None:
    for recipe in ("HM[S, g_LGA] & ICS", "hm-s-lga-ics"):
        found = asked("--data", "digits", "--recipe", recipe, "--set", "seed=3")
        assert found.folder == Path("runs") / "digits-hm-s-lga-ics-3"
        assert found.options == {"resume": False, "device": None, "verify": False}


def test_set_wins_over_options_and_options_over_the_file(asked: Callable[..., Asked]) -> None:
    Path("run.yaml").write_text("recipe: none-r\nseed: 4\ndata: {name: mnist}\noptim: {lr: 0.5, weight_decay: 0}\n")
    options = ["--data", "digits", "--config", "run.yaml", "--recipe", "none-s"]
    config = asked(*options, "--set", "optim.lr=1e-3", "--set", "recipe=none-h").config
    assert (config.recipe, config.seed, config.data.name) == ("none-h", 4, "digits")
    assert (config.optim.lr, config.optim.weight_decay) == (1e-3, 0)


def test_a_mistake_in_the_file_is_told_from_one_beside_it(
    asked: Callable[..., Asked], refused: Refuse, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("seed: 4\noptim: {lr: fast}\n")
    assert f"{file}: optim.lr takes a finite number" in refused("train", "--config", file, "--set", "steps=2")
    file.write_text("data: {resize: 4}\n")
    assert asked("--config", str(file), "--set", "data.size=4").config.data.resize == 4
    assert str(file) not in refused("train", "--config", file, "--set", "data.size=4", "--set", "seed=x")


def test_every_option_is_handed_on(asked: Callable[..., Asked]) -> None:
    words = ("--resume", "--device", "cpu", "--verify", "--weights", "w.pth", "--backbone", "resnet50")
    found = asked("--data", "folder", "--root", "photos", "--out", "mine", *words)
    assert found.folder == Path("mine")
    assert found.options == {"resume": True, "device": "cpu", "verify": True}
    assert found.config.data.root == str(Path("photos").absolute())
    assert (found.config.model.backbone, found.config.model.weights) == ("resnet50", "w.pth")
    assert asked("--data", "folder", "--root", "photos").config.model.backbone == "resnet18"


# -- a run, whole -----------------------------------------------------------------------------------------------------


def test_train_leaves_the_files_that_the_run_folder_promises(finished: Path) -> None:
    expected = resolve_config({"data.name": "digits", **SETTINGS})
    assert resolve_config(yaml.safe_load((finished / "config.yaml").read_text())) == expected

    environment = json.loads((finished / "environment.json").read_text())
    assert environment["command"] == ["holdfast", "train", "--data", "digits"]
    assert environment.keys() >= {"python", "platform", "libraries", "git", "cuda", "devices", "threads", "processes"}

    lines = [json.loads(line) for line in (finished / "steps.jsonl").read_text().splitlines()]
    assert [(line["step"], line["epoch"]) for line in lines] == [(1, 1), (2, 1)]
    names = {"loss", "triplet_loss", "structure_loss", "hardness", "source_hardness", "destination_hardness"}
    for line in lines:
        assert line.keys() >= names | {"moved", "passes", "gradient", "lr", "seconds"}
        assert all(isinstance(value, (int, float)) for value in line.values())

    with (finished / "epochs.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    metrics = {"R@1", "R@2", "R@4", "R@8", "mAP", "mAP@R", "R-Precision", "R@1 attacked"}
    assert row.keys() >= {"step", "epoch", "mean_cosine", "effective_rank"} | metrics
    assert (row["step"], row["epoch"]) == ("2", "1")
    assert all(0 <= float(row[name]) <= 100 for name in metrics)

    assert Embedder.from_pretrained(finished).config.dim == 16
    assert Embedder.from_pretrained(finished / "best").config.dim == 16
    assert not list(finished.rglob("*.tmp"))


def test_train_says_what_it_does_and_where_the_run_is(printed: tuple[Path, str]) -> None:
    folder, out = printed
    for told in ("digits: train ", ", validation ", " batches of 8 pairs", "recipe HM[S,g_LGA]&ICS", "training: 2/2"):
        assert told in out
    assert out.splitlines()[-1] == f"the run is in {folder}; now: holdfast evaluate {folder}"


def test_weights_of_an_earlier_run_are_loaded_and_reported(call: Call, finished: Path, tmp_path: Path) -> None:
    weights = finished / "model.safetensors"
    out = call("train", *QUICK, "--set", "model.dim=4", "--weights", weights, "--out", tmp_path / "run")[1]
    assert "loaded 6 of 8 tensors" in out
    assert "fc2.weight is (16, 1024) in the file and (4, 1024) in the network" in out


SMALL = ["--data", "folder", "--recipe", "none-r", "--backbone", "c2f2", "--set", "data.size=8", "--set", "steps=1"]
SMALL += ["--set", "batch.pairs=4", "--set", "validation.attacked=2"]


def test_a_folder_of_images_is_trained_on_and_may_move(call: Call, refused: Refuse, tmp_path: Path) -> None:
    root, run = photos(tmp_path / "photos", each=4), tmp_path / "run"
    status, out, err = call("train", *SMALL, "--root", root, "--verify", "--out", run)
    assert (status, err) == (0, "")
    assert "folder: train 8 images of 2 classes, test 8 images of 2 classes" in out
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    assert f"{root} does not exist" in refused("evaluate", run)
    assert call("evaluate", run, "--protocol", "benign", "--root", tmp_path / "elsewhere")[0] == 0


# -- resuming ---------------------------------------------------------------------------------------------------------


def test_a_finished_run_resumes_to_itself(call: Call, copied: Path) -> None:
    before = (copied / "model.safetensors").read_bytes(), (copied / "steps.jsonl").read_text()
    status, out, _ = call("train", *QUICK, "--out", copied, "--resume")
    assert status == 0
    assert "resumed at step 2 of 2" in out
    assert ((copied / "model.safetensors").read_bytes(), (copied / "steps.jsonl").read_text()) == before


def test_a_run_goes_on_by_its_own_settings(call: Call, refused: Refuse, copied: Path, tmp_path: Path) -> None:
    status, out, _ = call("train", "--resume", "--out", copied, "--set", "steps=3")
    assert status == 0
    assert "resumed at step 2 of 3" in out
    assert Run(copied).config() == resolve_config({"data.name": "digits", **SETTINGS, "steps": 3})
    told = refused("train", "--resume", "--out", copied, "--recipe", "none-r")
    assert told.endswith("Changed: recipe: 'hm-s-lga-ics' -> 'none-r'\n")


def test_nothing_to_resume_and_nothing_said(refused: Refuse, copied: Path, tmp_path: Path) -> None:
    told = refused("train", "--resume", "--out", tmp_path / "cop")
    assert f"there is no run in {tmp_path / 'cop'} to resume; did you mean {copied}?" in told
    assert not (tmp_path / "cop").exists()


def test_a_run_is_resumed_where_its_data_lies_now(call: Call, tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    root = photos(tmp_path / "photos", each=4)
    assert call("train", *SMALL, "--root", root, "--out", run)[0] == 0
    root.rename(moved)
    status, out, _ = call("train", "--resume", "--out", run, "--root", moved, "--set", "steps=2")
    assert status == 0
    assert "resumed at step 1 of 2" in out


def test_the_same_command_begins_and_resumes(call: Call, tmp_path: Path) -> None:
    for told in ("training: 2/2", "resumed at step 2 of 2"):
        assert told in call("train", *QUICK, "--out", tmp_path / "run", "--resume")[1]


# -- what cannot work -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config", "none.yaml"], "cannot read none.yaml: No such file or directory"),
        (["--config", os.devnull], f"{os.devnull} has no settings in it"),
        (["--root", "photos"], "data set 'digits' is bundled: leave out --root photos"),
        (["--data", "cub", "--root", "/no/such/folder"], "/no/such/folder does not exist"),
        (["--weights", "none.pth"], "no weights at none.pth: there is no such file"),
        (["--set", "batch.per_class=300"], "with 300 images or more: 0 of 10 classes"),
        (["--device", "banana"], "device 'banana' cannot be used"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_one_line_says_what_is_wrong_and_nothing_is_left_behind(
    arguments: list[str], told: str, refused: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in refused("train", *QUICK, *arguments, "--out", "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("broken", "told"), [("ab", "no batch could be used"), ("cd", "none of the 8 test images")])
def test_a_split_without_a_readable_image(broken: str, told: str, refused: Refuse, tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", each=4)
    for name in broken:
        for path in (root / name).iterdir():
            path.write_bytes(b"no image")
    assert told in refused("train", *SMALL, "--root", root, "--out", tmp_path / "run")


def test_verify_lists_what_cannot_be_read(call: Call, tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", each=4)
    (root / "b" / "2.png").write_bytes(b"no image")
    (root / "d" / "0.png").write_bytes((root / "d" / "1.png").read_bytes()[:100])
    status, _, err = call("train", *SMALL, "--root", root, "--verify", "--out", tmp_path / "run")
    assert status == 2
    lines = err.splitlines()
    assert re.fullmatch(r"holdfast: 2 of \d+ images cannot be read:", lines[0])
    assert [line.partition(": ")[0] for line in lines[1:]] == [str(root / "b/2.png"), str(root / "d/0.png")]
    assert not (tmp_path / "run").exists()


def test_a_full_disk_in_the_middle_keeps_the_state_before_it(
    call: Call, refused: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, options = tmp_path / "run", [*QUICK, "--set", "save_minutes=0", "--set", "steps=4"]
    whole, calls = Run.log_step, 0

    def third_fails(self: Run, values: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(self, values)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log_step", third_fails)
        assert refused("train", *options, "--out", run) == "holdfast: No space left on device\n"
    assert not list(run.rglob("*.tmp"))
    assert Run(run).load_state().place.step == 2
    status, out, _ = call("train", *options, "--out", run, "--resume")
    assert status == 0
    assert "resumed at step 2 of 4" in out
    assert [line["step"] for line in Run(run).steps()] == [1, 2, 3, 4]
