"""The command line: what it prints, what it leaves behind, and one clear line for everything that cannot work."""

import csv
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from holdfast.cli import main
from holdfast.data import DATASETS
from holdfast.defense.recipes import RECIPES
from holdfast.models.backbones import BACKBONES
from holdfast.models.embedder import Embedder
from holdfast.runs.config import Config, resolve
from holdfast.runs.folder import Run
from tests.conftest import Call, Refuse

QUICK = [
    *("--data", "digits", "--set", "steps=2", "--set", "model.dim=16", "--set", "batch.pairs=8"),
    *("--set", "pgd.steps=1", "--set", "validation.attacked=8"),
]
SETTINGS: dict[str, Any] = {
    "steps": 2,
    "model.dim": 16,
    "batch.pairs": 8,
    "pgd.steps": 1,
    "validation.attacked": 8,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny finished run; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["holdfast", "train", "--data", "digits"])
        with pytest.raises(SystemExit) as stop:
            main(["train", *QUICK, "--out", str(folder)])
    assert not stop.value.code
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def photos(root: Path, classes: int = 4, each: int = 4) -> Path:
    pixels = np.random.default_rng(0)
    for i in range(classes):
        (root / f"class {i}").mkdir(parents=True)
        for j in range(each):
            image = Image.fromarray(pixels.integers(0, 256, (40, 48, 3), np.uint8))
            image.save(root / f"class {i}" / f"{j}.png")
    return root


# -- what is listed ---------------------------------------------------------------------------------------------------


def test_recipes_are_listed_by_both_names(call: Call) -> None:
    status, out, err = call("list", "recipes")
    assert (status, err) == (0, "")
    for name, recipe in RECIPES.items():
        assert re.search(rf"^ *{re.escape(name)} +{re.escape(recipe.notation)} +\S.*\d{{4}}", out, re.MULTILINE)


def test_data_sets_are_listed(call: Call) -> None:
    status, out, _ = call("list", "datasets")
    assert status == 0
    for name, dataset in DATASETS.items():
        assert re.search(rf"^ *{name} +{dataset.family}-pixel +{re.escape(dataset.summary)} *$", out, re.MULTILINE)


def test_backbones_are_listed(call: Call) -> None:
    status, out, _ = call("list", "backbones")
    assert status == 0
    for name in [*BACKBONES, "timm:NAME"]:
        assert re.search(rf"^ *{name} +\S", out, re.MULTILINE)


def test_a_narrow_screen_cuts_no_name_short(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    _, out, _ = call("list", "recipes")
    assert all(recipe.notation in out for recipe in RECIPES.values())


def test_help_imports_no_torch() -> None:
    code = """
import sys
from holdfast.cli import main
for arguments in (["--help"], ["train", "--help"], ["evaluate", "--help"], ["report", "--help"]):
    try:
        main(arguments)
    except SystemExit as stop:
        assert not stop.code
heavy = {"torch", "numpy", "sklearn", "scipy", "PIL"} & sys.modules.keys()
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for option in ("--recipe", "--data", "--root", "--set", "--resume", "--verify", "--best"):
        assert option in done.stdout


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "holdfast"]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for verb in ("train", "evaluate", "attack", "report", "recipes", "datasets", "backbones", "doctor"):
        assert re.search(rf"^  {verb} ", done.stdout, re.MULTILINE)
    done = subprocess.run([*command, "train", "--data", "digitz"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("holdfast: unknown data set 'digitz'; did you mean 'digits'?")


# -- a run, whole -----------------------------------------------------------------------------------------------------


def test_train_leaves_the_files_that_the_run_folder_promises(finished: Path) -> None:
    expected = resolve({"data.name": "digits", **SETTINGS})
    assert resolve(yaml.safe_load((finished / "config.yaml").read_text())) == expected

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
    metrics = {"R@1", "R@2", "R@4", "R@8", "mAP", "mAP@R", "R-Precision", "R@1 shifted"}
    assert row.keys() >= {"step", "epoch", "mean_cosine", "effective_rank"} | metrics
    assert (row["step"], row["epoch"]) == ("2", "1")
    assert all(0 <= float(row[name]) <= 100 for name in metrics)

    assert Embedder.from_pretrained(finished).config.dim == 16
    assert Embedder.from_pretrained(finished / "best").config.dim == 16
    assert not list(finished.rglob("*.tmp"))


def test_train_says_what_it_does_and_where_the_run_is(call: Call, tmp_path: Path) -> None:
    status, out, err = call("train", *QUICK, "--out", tmp_path / "run")
    assert (status, err) == (0, "")
    for told in ("digits: train 1,000 images", "125 batches of 8 pairs", "recipe HM[S,g_LGA]&ICS", "training: 2/2"):
        assert told in out
    assert out.splitlines()[-1] == f"the run is in {tmp_path / 'run'}; now: holdfast evaluate {tmp_path / 'run'}"


def test_both_notations_name_the_same_default_folder(
    call: Call, refused: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = call("train", *QUICK, "--recipe", "HM[S, g_LGA] & ICS", "--set", "seed=3")
    assert status == 0
    folder = Path("runs") / "digits-hm-s-lga-ics-3"
    assert str(folder) in out
    assert (folder / "model.safetensors").exists()
    assert "holds a run already" in refused("train", *QUICK, "--recipe", "hm-s-lga-ics", "--set", "seed=3")


def test_set_wins_over_options_and_options_over_the_file(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("recipe: none-r\nseed: 4\ndata: {name: mnist}\noptim: {lr: 0.5, weight_decay: 0}\n")
    options = ["--config", file, "--recipe", "none-s", "--out", tmp_path / "run"]
    status, _, _ = call("train", *QUICK, *options, "--set", "optim.lr=1e-3", "--set", "recipe=none-h")
    assert status == 0
    config = Run(tmp_path / "run").config()
    assert (config.recipe, config.seed, config.data.name) == ("none-h", 4, "digits")
    assert (config.optim.lr, config.optim.weight_decay) == (1e-3, 0)


def test_weights_of_an_earlier_run_are_loaded_and_reported(call: Call, finished: Path, tmp_path: Path) -> None:
    weights = finished / "model.safetensors"
    status, out, _ = call("train", *QUICK, "--weights", weights, "--out", tmp_path / "a")
    assert status == 0
    assert "loaded 8 of 8 tensors" in out
    status, out, _ = call("train", *QUICK, "--set", "model.dim=4", "--weights", weights, "--out", tmp_path / "b")
    assert status == 0
    assert "loaded 6 of 8 tensors" in out
    assert "fc2.weight is (16, 1024) in the file and (4, 1024) in the network" in out


def test_a_folder_of_images_trains_a_resnet(call: Call, refused: Refuse, tmp_path: Path) -> None:
    root, run = photos(tmp_path / "photos"), tmp_path / "run"
    small = ["--set", "data.size=32", "--set", "steps=1", "--set", "batch.pairs=4", "--set", "validation.attacked=2"]
    options = ["--data", "folder", "--root", root, "--recipe", "hm-s-lga-ics", "--set", "warmup.epochs=0"]
    status, out, err = call("train", *options, *small, "--set", "pgd.steps=1", "--verify", "--out", run)
    assert (status, err) == (0, "")
    assert "folder: train 8 images of 2 classes, test 8 images of 2 classes" in out
    config = Run(run).config()
    assert (config.model.backbone, config.data.size, config.data.resize) == ("resnet18", 32, 37)
    assert call("evaluate", run, "--protocol", "benign")[0] == 0

    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    assert f"there is no folder {root}" in refused("evaluate", run)
    assert call("evaluate", run, "--protocol", "benign", "--root", tmp_path / "elsewhere")[0] == 0


# -- resuming ---------------------------------------------------------------------------------------------------------


def test_a_finished_run_resumes_to_itself(call: Call, copied: Path) -> None:
    before = (copied / "model.safetensors").read_bytes(), (copied / "steps.jsonl").read_text()
    status, out, _ = call("train", *QUICK, "--out", copied, "--resume")
    assert status == 0
    assert "resumed at step 2 of 2" in out
    assert ((copied / "model.safetensors").read_bytes(), (copied / "steps.jsonl").read_text()) == before


def test_a_run_is_kept_from_a_second_one(refused: Refuse, copied: Path) -> None:
    assert "holds a run already; add --resume, or give another --out" in refused("train", *QUICK, "--out", copied)
    line = refused("train", *QUICK, "--set", "optim.lr=2e-3", "--out", copied, "--resume")
    assert "begun with other settings" in line
    assert "Changed: optim.lr: 0.001 -> 0.002" in line


@pytest.mark.parametrize("content", [b"", b"no state", bytes(range(200))])
def test_a_corrupt_state_is_named(content: bytes, refused: Refuse, copied: Path) -> None:
    (copied / "state.safetensors").write_bytes(content)
    line = refused("train", *QUICK, "--out", copied, "--resume")
    assert f"{copied / 'state.safetensors'} cannot be resumed from" in line


def test_the_state_of_another_run_is_refused(call: Call, refused: Refuse, copied: Path, tmp_path: Path) -> None:
    call("train", *QUICK, "--set", "model.dim=4", "--out", tmp_path / "other")
    shutil.copy(tmp_path / "other" / "state.safetensors", copied)
    assert "state.safetensors is no state of this run" in refused("train", *QUICK, "--out", copied, "--resume")


def test_a_folder_taken_by_a_run_that_failed_at_once_can_be_begun_again(
    call: Call, refused: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "holdfast[wandb]" in refused("train", *QUICK, "--set", "tracker=wandb", "--out", tmp_path / "run")
    assert call("train", *QUICK, "--out", tmp_path / "run", "--resume")[0] == 0


# -- what cannot work -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--recipe", "hm-s-lgb"], "unknown destination 'lgb'; did you mean 'lga'?"),
        (["--recipe", "xm-s"], "unknown method 'xm'"),
        (["--recipe", "hm"], "recipe 'hm' is not understood; write it like hm-s-lga-ics or HM[S,g_LGA]&ICS"),
        (["--recipe", "hm-s"], "HM needs a destination, as in hm-s-lga"),
        (["--recipe", "act-r-ics"], "intra-class structure needs a perturbed anchor, and ACT leaves the anchor clean"),
        (["--recipe", "ACT[R]&ICS"], "intra-class structure needs a perturbed anchor"),
        (["--data", "digitz"], "unknown data set 'digitz'; did you mean 'digits'?"),
        (["--data", "cub"], "data set 'cub' needs the folder its files lie in (--root)"),
        (["--data", "cub", "--root", "/no/such/folder"], "there is no folder /no/such/folder"),
        (["--data", "cub", "--root", "."], "no images.txt in "),
        (["--data", "mnist", "--root", "."], "train-images-idx3-ubyte"),
        (["--backbone", "resnet19"], "unknown backbone 'resnet19'; did you mean 'resnet18'?"),
        (["--backbone", "c2f2", "--set", "data.size=3"], "c2f2 halves its input twice and needs images of at least 4"),
        (["--weights", "none.pth"], "no weights at none.pth: it does not exist"),
        (["--weights", "."], "no weights at .: it is not a file"),
        (["--config", "none.yaml"], "cannot read none.yaml: No such file or directory"),
        (["--config", "."], "cannot read .: Is a directory"),
        (["--set", "optim.lrr=1"], "unknown setting 'optim.lrr'; did you mean 'optim.lr'?"),
        (["--set", "optim=1"], "setting optim is a section"),
        (["--set", "optim.lr"], "--set takes key=value"),
        (["--set", "optim.lr=fast"], "setting optim.lr takes a finite number or a fraction such as 8/255, not 'fast'"),
        (["--set", "optim.lr=nan"], "setting optim.lr"),
        (["--set", "seed=-1"], "seed"),
        (["--set", f"seed={2**64}"], "seed"),
        (["--set", "tracker=tensorbord"], "did you mean 'tensorboard'?"),
        (["--set", "batch.pairs=1"], "setting batch.pairs is at least 2, not 1"),
        (["--set", "batch.per_class=300"], "0 of 10 classes have 300 images or more"),
        (["--set", "optim.epochs=0"], "nothing to train"),
        (["--set", "pgd.eps=8"], "setting pgd.eps is in units of the pixel range [0, 1], as 8/255"),
        (["--device", "banana"], "device 'banana' cannot be used"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_one_line_says_what_is_wrong_and_nothing_is_left_behind(
    arguments: list[str], told: str, refused: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in refused("train", *QUICK, *arguments, "--out", "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"\xff\xfe\x80", b"optim: [", b"- a", b"5", b"steps: 2020-13-45"])
def test_a_settings_file_that_is_none(content: bytes, refused: Refuse, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(content)
    assert "run.yaml" in refused("train", *QUICK, "--config", tmp_path / "run.yaml", "--out", tmp_path / "run")


def test_weights_that_fit_nothing(refused: Refuse, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"no weights")
    assert "cannot be read as weights" in refused("train", *QUICK, "--weights", tmp_path / "w.pth")
    Embedder(Embedder.from_pretrained(_resnet(tmp_path)).config).save_pretrained(tmp_path / "again")
    line = refused("train", *QUICK, "--weights", tmp_path / "again" / "model.safetensors", "--out", tmp_path / "run")
    assert "fits the network" in line


def _resnet(folder: Path) -> Path:
    from holdfast.models.embedder import EmbedderConfig

    Embedder(EmbedderConfig("resnet18", dim=2, channels=1, size=8)).save_pretrained(folder / "resnet")
    return folder / "resnet"


@pytest.mark.parametrize("inside", ["", "run"])
def test_a_file_where_the_run_folder_should_be(inside: str, refused: Refuse, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert str(tmp_path / "file") in refused("train", *QUICK, "--out", tmp_path / "file" / inside)
    assert (tmp_path / "file").read_text() == "mine"


def test_one_class_cannot_train(refused: Refuse, tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", classes=3)
    options = ["--data", "folder", "--root", root, "--out", tmp_path / "run"]
    assert "the train split has 1 classes and needs 2" in refused("train", *options)

    table = tmp_path / "photos.csv"
    rows = [f"{i},photos/class {i}/{j}.png,{'train' if i == 0 else 'test'}" for i in range(3) for j in range(4)]
    table.write_text("\n".join(["label,path,split", *rows]))
    options = ["--data", "csv", "--root", table, "--set", "data.size=32", "--out", tmp_path / "run"]
    assert "training needs two such classes" in refused("train", *options)


def test_more_pairs_than_images_make_one_batch(call: Call, tmp_path: Path) -> None:
    status, out, _ = call(
        "train",
        *QUICK,
        "--set",
        "batch.pairs=100000",
        "--set",
        "steps=1",
        "--recipe",
        "none-r",
        "--out",
        tmp_path / "run",
    )
    assert status == 0
    assert "1,000 images, 1 batches" in out


def test_sampled_queries_have_an_answer(call: Call, tmp_path: Path) -> None:
    """Queries without another gallery image of their class must not end a run."""
    photos(tmp_path / "photos")
    train = [f"{i},photos/class {i}/{j}.png,train,," for i in range(2) for j in range(4)]
    unmatched = [f"2,photos/class 2/{j}.png,test,1,0" for j in range(4)]
    matched = [f"3,photos/class 3/{j}.png,test,{int(j == 0)},1" for j in range(4)]
    table = tmp_path / "photos.csv"
    table.write_text("\n".join(["label,path,split,is_query,is_gallery", *train, *unmatched, *matched]))
    options = ["--data", "csv", "--root", table, "--set", "data.size=8", "--backbone", "c2f2", "--recipe", "none-r"]
    small = ["--set", "validation.attacked=1", "--set", "steps=1", "--set", "batch.pairs=4"]
    for seed in range(3):
        status, _, err = call("train", *options, *small, "--set", f"seed={seed}", "--out", tmp_path / str(seed))
        assert (status, err) == (0, "")


@pytest.mark.parametrize(
    ("broken", "told"), [((0, 1), "no batch could be used"), ((2, 3), "none of the 8 test images")]
)
def test_a_split_without_a_readable_image(broken: tuple[int, int], told: str, refused: Refuse, tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    for i in broken:
        for path in (root / f"class {i}").iterdir():
            path.write_bytes(b"no image")
    options = ["--data", "folder", "--root", root, "--set", "data.size=8", "--backbone", "c2f2", "--recipe", "none-r"]
    line = refused("train", *options, "--set", "steps=1", "--set", "batch.pairs=4", "--out", tmp_path / "run")
    assert told in line


def test_verify_lists_what_cannot_be_read(call: Call, tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    (root / "class 1" / "2.png").write_bytes(b"no image")
    (root / "class 3" / "0.png").write_bytes((root / "class 3" / "1.png").read_bytes()[:200])
    status, _, err = call("train", "--data", "folder", "--root", root, "--verify", "--out", tmp_path / "run")
    assert status == 2
    lines = err.splitlines()
    assert re.fullmatch(r"holdfast: 2 of \d+ images cannot be read:", lines[0])
    assert [line.partition(": ")[0] for line in lines[1:]] == [str(root / "class 1/2.png"), str(root / "class 3/0.png")]
    assert not (tmp_path / "run").exists()


def test_evaluate_needs_a_run(refused: Refuse, copied: Path, tmp_path: Path) -> None:
    assert f"{tmp_path} is no run folder: it has no config.yaml" in refused("evaluate", tmp_path)
    assert "is no run folder" in refused("evaluate", tmp_path / "absent")
    assert "is no run folder" in refused("evaluate", copied / "config.yaml")
    assert "device 'banana' cannot be used" in refused("evaluate", copied, "--device", "banana")
    shutil.rmtree(copied / "best")
    assert "has no best/" in refused("evaluate", copied, "--best")
    (copied / "config.yaml").write_text("recipe: none-r\nsteps: many\n")
    assert "setting steps takes a whole number or null, not 'many'" in refused("evaluate", copied)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "--bogus"], "No such option: --bogus"),
        (["train", "extra"], "extra"),
        (["train", "--recipe"], "requires an argument"),
        (["evaluate", "--eps"], "requires an argument"),
        (["evalute"], "No such command"),
    ],
)
def test_a_command_written_wrongly(arguments: list[str], told: str, call: Call) -> None:
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert told in err
    assert "Traceback" not in err


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("os.replace", "config.yaml: No space left on device"),
        ("pathlib.Path.write_bytes", "model.safetensors: No space left on device"),
        ("holdfast.runs.folder.Run.log_step", "No space left on device"),
    ],
)
def test_a_full_disk_is_one_line(
    where: str, told: str, refused: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, no_space)
    line = refused("train", *QUICK, "--out", tmp_path / "run")
    assert told in line
    assert "Errno" not in line
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_full_disk_in_the_middle_keeps_the_state_before_it(
    call: Call, refused: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, options = tmp_path / "run", [*QUICK, "--set", "save_minutes=0", "--set", "steps=4"]
    whole, calls = Run.log_step, 0

    def third_fails(self: Run, values: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            no_space()
        whole(self, values)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log_step", third_fails)
        assert "No space left on device" in refused("train", *options, "--out", run)
    assert Run(run).load_state().progress["step"] == 2
    status, out, _ = call("train", *options, "--out", run, "--resume")
    assert status == 0
    assert "resumed at step 2 of 4" in out
    assert [line["step"] for line in Run(run).steps()] == [1, 2, 3, 4]


def test_a_nan_before_anything_is_saved(refused: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Embedder.forward
    monkeypatch.setattr(Embedder, "forward", lambda self, images: whole(self, images) * float("nan"))
    line = refused("train", *QUICK, "--recipe", "none-r", "--out", tmp_path / "run")
    assert "step 1: the loss is nan" in line
    assert "no state had been saved" in line
    assert len((tmp_path / "run" / "failed-batch-0.txt").read_text().splitlines()) == 16


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 30 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried\nto"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
    ids=["python", "cpu", "gpu"],
)
def test_too_little_memory_is_one_line(
    error: Exception, refused: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(config: Config, *_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("holdfast.training.loop.train", fails)
    assert "batch.pairs" in refused("train", *QUICK, "--out", tmp_path / "run")


def test_a_mistake_in_the_code_is_not_hidden(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(config: Config, *_: Any, **__: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("holdfast.training.loop.train", fails)
    with pytest.raises(RuntimeError, match="mat1"):
        call("train", *QUICK, "--out", tmp_path / "run")


def test_an_interrupt_ends_quietly(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("holdfast.training.loop.train", interrupted)
    status, _, err = call("train", *QUICK, "--out", tmp_path / "run")
    assert status in (1, 130)
    assert "Traceback" not in err
