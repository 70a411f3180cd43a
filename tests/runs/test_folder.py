"""The run folder: who may take it, what a resumed run finds, and what a kill or a full disk leaves."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from holdfast.runs.config import HARMLESS, decisive, differences, flatten, resolve_config
from holdfast.runs.folder import LIBRARIES, Place, Run, State, environment
from holdfast.util.errors import HoldfastError

CONFIG = resolve_config()


def begun(folder: Path, step: int = 2) -> Run:
    """A run of four logged steps and two epochs, saved at ``step``."""
    run = Run(folder)
    assert run.begin(CONFIG, resume=False) is None
    for i in range(1, 5):
        run.log_step({"step": i, "loss": 1 / i})
        if i % 2 == 0:
            run.log_epoch({"step": i, "epoch": i // 2, "R@1": 10.0 * i})
    run.save_state(State({"model/w": torch.arange(3.0)}, Place(step=step, best=0.5)))
    return run


def test_a_new_folder_is_made_with_the_settings_and_the_environment(tmp_path: Path) -> None:
    run = Run(tmp_path / "a" / "b")
    assert run.begin(CONFIG, resume=False) is None
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "config.yaml",
        "environment.json",
        "epochs.csv",
        "steps.jsonl",
    ]
    assert run.config() == CONFIG
    assert run.steps() == run.epochs() == []


def test_an_epoch_has_one_row(tmp_path: Path) -> None:
    """A run killed between the row and the state makes it again."""
    run = begun(tmp_path, step=4)
    run.begin(CONFIG, resume=True)
    run.log_epoch({"step": 4, "epoch": 2, "R@1": 41.0})
    assert [(row["epoch"], row["R@1"]) for row in run.epochs()] == [("1", "20.0"), ("2", "41.0")]


@pytest.mark.parametrize("missing", ["nothing", "config.yaml", "state.safetensors"])
def test_a_run_or_half_of_one_is_not_overwritten(missing: str, tmp_path: Path) -> None:
    run = begun(tmp_path)
    (tmp_path / missing).unlink(missing_ok=True)
    with pytest.raises(HoldfastError, match=r"holds a run already; add --resume"):
        Run(tmp_path).begin(CONFIG, resume=False)
    assert len(run.steps()) == 4


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"optim.epochs": 9, "steps": None}, ""),
        ({"steps": 41}, ""),
        ({"steps": 39}, "steps: 40 -> 39"),
        ({"optim.epochs": 7}, "optim.epochs: 8 -> 7"),
        ({"optim.epochs": 9, "optim.lr": 0.5}, "optim.lr: 0.001 -> 0.5"),
        ({"warmup.epochs": 1}, "warmup.epochs: 0 -> 1"),
    ],
)
def test_a_run_may_become_longer(given: dict[str, Any], refused: str) -> None:
    usual = {"steps": 40}
    assert "; ".join(differences(resolve_config(usual), resolve_config(usual, given))) == refused


def test_a_run_whose_rate_falls_over_its_length_stays_as_long() -> None:
    falling = {"optim.schedule": "cosine"}
    longer = differences(resolve_config(falling), resolve_config(falling, {"optim.epochs": 9}))
    assert longer == ["optim.epochs: 8 -> 9"]


def test_settings_may_change_while_nothing_is_saved(tmp_path: Path) -> None:
    """A run that failed at its first step leaves nothing to be true to."""
    Run(tmp_path).begin(CONFIG, resume=False)
    changed = resolve_config({"batch.pairs": 4})
    assert Run(tmp_path).begin(changed, resume=True) is None
    assert Run(tmp_path).config() == changed


@pytest.mark.parametrize(
    ("step", "steps", "epochs"), [(0, 0, 0), (1, 1, 0), (2, 2, 1), (3, 3, 1), (4, 4, 2), (9, 4, 2)]
)
def test_what_was_logged_after_the_state_is_dropped(step: int, steps: int, epochs: int, tmp_path: Path) -> None:
    run = begun(tmp_path, step)
    state = run.begin(CONFIG, resume=True)
    assert state is not None
    assert state.place.step == step
    assert [line["step"] for line in run.steps()] == list(range(1, steps + 1))
    assert [row["epoch"] for row in run.epochs()] == [str(e + 1) for e in range(epochs)]


def test_without_a_state_the_logs_begin_anew(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.state_file.unlink()
    assert run.begin(CONFIG, resume=True) is None
    assert run.steps() == run.epochs() == []


def test_a_last_line_cut_by_a_kill_is_dropped(tmp_path: Path) -> None:
    run = begun(tmp_path, step=4)
    whole = run.steps_file.read_text()
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
        run.steps_file.write_text(whole[:-cut])
        assert [line["step"] for line in run.steps()] == [1, 2, 3]
    run.begin(CONFIG, resume=True)
    run.log_step({"step": 4, "loss": 0.0})
    assert [line["step"] for line in run.steps()] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("steps.jsonl", '{"step": 1, bad\n'),
        ("steps.jsonl", '{"a": 1}\n'),
        ("steps.jsonl", "5\n"),
        ("epochs.csv", "x\n1\n"),
    ],
)
def test_damaged_logs_are_named(file: str, content: str, tmp_path: Path) -> None:
    run = begun(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(HoldfastError, match=file):
        run.begin(CONFIG, resume=True)
    assert (tmp_path / file).read_text() == content


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def with_metadata(**metadata: str) -> Callable[[Path], None]:
    return lambda path: save_file({"model/w": torch.ones(1)}, path, metadata)


DAMAGE = {
    "cut short": cut_short,
    "no progress": with_metadata(),
    "broken progress": with_metadata(progress="{not json"),
    "other bytes": lambda path: path.write_bytes(bytes(range(256))),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_corrupt_state_is_named(damage: Callable[[Path], None], tmp_path: Path) -> None:
    run = begun(tmp_path)
    damage(run.state_file)
    for read in (lambda: run.begin(CONFIG, resume=True), run.place):
        with pytest.raises(HoldfastError, match=r"state\.safetensors cannot be resumed from: ."):
            read()
    assert len(run.steps()) == 4, "nothing is dropped before the state is known to be good"
    with pytest.raises(HoldfastError, match="holds a run already"):
        run.begin(CONFIG, resume=False)


def test_epochs_may_gain_columns(tmp_path: Path) -> None:
    run = Run(tmp_path)
    rows = [{"epoch": "1", "step": "1", "R@1": "5.0"}, {"epoch": "2", "step": "2", "R@1": "6.0", "a, b": "x\ny"}]
    for row in rows:
        run.log_epoch(row)
    assert run.epochs() == [{**rows[0], "a, b": ""}, rows[1]]


def test_no_settings_no_run(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match=r"is no run folder: it has no config\.yaml"):
        Run(tmp_path).config()
    with pytest.raises(HoldfastError, match="is no run folder"):
        Run(tmp_path / "absent").config()
    run = begun(tmp_path / "run")
    run.config_file.unlink()
    with pytest.raises(HoldfastError, match=r"it has no config\.yaml"):
        run.begin(CONFIG, resume=True)


def test_a_file_in_the_way_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(HoldfastError, match=r"cannot write .*file"):
            Run(folder).begin(CONFIG, resume=False)


def test_the_environment_is_what_a_result_depends_on(tmp_path: Path) -> None:
    Run(tmp_path).begin(CONFIG, resume=False)
    found = json.loads((tmp_path / "environment.json").read_text())
    assert found == json.loads(json.dumps(environment()))
    assert found.keys() == {
        *("command", "python", "platform", "libraries", "git", "cuda", "devices", "threads", "processes")
    }
    assert found["libraries"].keys() == set(LIBRARIES)
    assert torch.__version__.startswith(found["libraries"]["torch"])
    assert found["processes"] == 1


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_code_and_of_nothing_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "package" / "runs").mkdir(parents=True)
    ours = tmp_path / "package" / "runs" / "folder.py"
    monkeypatch.setattr("holdfast.runs.folder.__file__", str(ours))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment()["git"] is None
    ours.write_text("1")
    (tmp_path / "other.py").write_text("1")
    git("init")
    git("add", "other.py")
    git("commit", "-m", "a project the package is installed in")
    assert environment()["git"] is None
    git("add", "package")
    git("commit", "-m", "the package's own")
    state = environment()["git"]
    assert len(state["commit"]) == 40
    assert state["changed"] is False
    ours.write_text("2")
    assert environment()["git"] == {**state, "changed": True}


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("/home/me/lib/holdfast/__main__.py", "holdfast"),
        ("/home/me/bin/holdfast", "holdfast"),
        ("holdfast", "holdfast"),
        ("/home/me/examples/first.py", "first.py"),
        ("-c", "-c"),
        ("", ""),
    ],
)
def test_the_command_names_no_place_of_the_machine(program: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [program, "train", "--out", "runs/a"])
    assert environment()["command"] == [name, "train", "--out", "runs/a"]


def test_how_far_a_run_has_come_is_read_without_its_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Run(tmp_path / "absent").place() == Place()
    run = begun(tmp_path, step=3)
    monkeypatch.setattr(Run, "load_state", None)
    assert run.place() == Place(step=3, best=0.5)


def test_what_training_cost_is_the_sum_of_its_steps(tmp_path: Path) -> None:
    assert Run(tmp_path).cost() == {}, "unknown without a log"
    run = Run(tmp_path)
    run.steps_file.touch()
    assert run.cost() == {"steps": 0, "passes": 0, "seconds": 0}
    for i in range(1, 4):
        run.log_step({"step": i, "passes": 16.5 * i, "seconds": 0.25})
    with run.steps_file.open("a") as file:
        file.write('{"step": 4, "passes": 100')
    assert run.cost() == {"steps": 3, "passes": 99.0, "seconds": 0.75}
    run.log_step({})
    run.steps_file.write_text('{"step": 1, "seconds": 2.0}\n')
    assert run.cost() == {"steps": 1, "passes": 0, "seconds": 2.0}


def test_what_training_cost_is_told_by_an_exported_folder(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.cost_file.write_text('{"steps": 3, "passes": 99.0, "seconds": 0.75}')
    assert run.cost() == {"steps": 3, "passes": 99.0, "seconds": 0.75}
    for content in ('{"steps": -1}', '{"seconds": "long"}', '{"seconds": 1e999}', '{"passes": -5.0}', "[]", "3"):
        run.cost_file.write_text(content)
        with pytest.raises(HoldfastError, match=r"cost\.json"):
            run.cost()


def test_a_folder_is_checked_without_a_trace(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Run(folder).check(CONFIG, resume=False)
    assert not folder.exists()
    begun(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    Run(folder).check(CONFIG, resume=True)
    with pytest.raises(HoldfastError, match="holds a run already"):
        Run(folder).check(CONFIG, resume=False)
    with pytest.raises(HoldfastError, match=r"other settings.*Changed: seed: 0 -> 1; optim\.lr: 0\.001 -> 0\.5"):
        Run(folder).check(resolve_config({"seed": 1, "optim.lr": 0.5}), resume=True)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_decisive_settings_are_all_that_can_change_the_weights() -> None:
    given = {
        "data.root": "photos",
        "data.cache": True,
        "save_minutes": 1,
        "tracker": "wandb",
        "stop_on_collapse": False,
    }
    assert decisive(resolve_config(given)) == decisive(CONFIG)
    assert differences(resolve_config(given), CONFIG) == []
    found = decisive(resolve_config({"optim.lr": 0.5, "model.weights": "a.pth", "seed": 3}))
    assert (found["optim.lr"], found["model.weights"], found["seed"], found["pgd.steps"]) == (0.5, "a.pth", 3, 32)
    assert flatten(asdict(CONFIG)).keys() - found.keys() == HARMLESS
    assert json.loads(json.dumps(found)) == found


def test_a_folder_from_before_the_validation_split_chose_on_the_test_set(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.begin(resolve_config({"data.name": "digits"}), resume=False)
    assert (run.config().validation.share, run.config().validation.on_test) == (0.1, False)
    lines = run.config_file.read_text().splitlines()
    run.config_file.write_text("\n".join(line for line in lines if not line.startswith(("  share:", "  on_test:"))))
    assert (run.config().validation.share, run.config().validation.on_test) == (0, True)


def test_a_key_in_an_address_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["holdfast", "evaluate", "https://host/embed?key=S#x", "--transfer=http://host/a?b=c", "what?"]
    monkeypatch.setattr(sys, "argv", words)
    assert environment()["command"] == [
        "holdfast",
        "evaluate",
        "https://host/embed",
        "--transfer=http://host/a",
        "what?",
    ]
