"""Exported models embed as the trained one does, carry what they are, and are kept only if they prove to be it."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from holdfast.evaluation.evaluate import evaluate
from holdfast.export import FORMATS, Format, export, program
from holdfast.export.folder import merging, portable
from holdfast.export.source import Source, frozen_copy, open_run
from holdfast.export.verify import BATCHES, attacked, compared, generated, passed
from holdfast.models import backbones
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.runs.config import resolve_config
from holdfast.training.loop import train
from holdfast.util.errors import HoldfastError
from tests.conftest import Call, Refuse
from tests.helpers.onnx import needs_onnx
from tests.helpers.tiny import QUICK, digits, embedder, photos, snapshot

pytestmark = pytest.mark.usefixtures("short_attacks")

GRAY = EmbedderConfig("c2f2", 6, 1, 8)
RESNET = EmbedderConfig("resnet18", 6, 3, 16, mean=(0.1, 0.2, 0.3))

NETWORK = """
from torch import nn

def build(dim, channels, size):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, dim))
"""


def source(config: EmbedderConfig = GRAY) -> Source:
    """An embedder as if from a run; BatchNorm has statistics of its own."""
    torch.manual_seed(0)
    model = Embedder(config)
    model(torch.rand(8, config.channels, config.size, config.size))
    return Source(frozen_copy(model), "mine", resolve_config({"data.name": "digits"}), "last", (), {}, True)


@pytest.fixture(scope="module")
def run(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one evaluation and best weights that are others."""
    folder = shutil.copytree(digits_run, tmp_path_factory.mktemp("runs") / "digits")
    evaluate(folder, **QUICK)
    embedder().save_pretrained(folder / "best")
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> "Written":
    """A file of an embedder in a format, and what it is of."""
    place = tmp_path_factory.mktemp("written")

    @cache
    def write(form: str, config: EmbedderConfig) -> tuple[Source, Path]:
        given, path = source(config), place / f"{config.backbone}{FORMATS[form].ending}"
        FORMATS[form].write(given, path)
        return given, path

    return write


Written = Callable[[str, EmbedderConfig], tuple[Source, Path]]


@pytest.mark.parametrize("form", [pytest.param("onnx", marks=needs_onnx), "torch"])
@pytest.mark.parametrize("config", [GRAY, RESNET], ids=["gray c2f2", "colour resnet"])
def test_a_file_embeds_as_the_embedder(form: str, config: EmbedderConfig, written: Written) -> None:
    """For images one, three and seventeen at a time."""
    given, path = written(form, config)
    embed = FORMATS[form].load(path)
    for count in (1, 3, 17):
        images = torch.rand(count, config.channels, config.size, config.size)
        torch.testing.assert_close(embed(images), given.embedder(images), rtol=0, atol=2e-6)
    images = generated(config.channels, config.size)
    torch.testing.assert_close(passed(embed, images), passed(given.embedder, images, (128,)), rtol=0, atol=1e-5)
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes(), "it tells where the code lies"


@needs_onnx
def test_onnx_is_sound_and_says_what_it_is(written: Written) -> None:
    import onnx as format

    given, path = written("onnx", GRAY)
    model = format.load(path)
    format.checker.check_model(model, full_check=True)
    (images,), (embeddings,) = model.graph.input, model.graph.output
    shape = [size.dim_param or size.dim_value for size in images.type.tensor_type.shape.dim]
    assert (images.name, embeddings.name) == ("images", "embeddings")
    assert shape == ["batch", 1, 8, 8]
    assert {one.key: one.value for one in model.metadata_props} == given.facts
    assert given.facts.items() >= {"recipe": "hm-s-lga-ics", "data": "digits", "size": "8", "channels": "1"}.items()
    assert {weight.data_type for weight in model.graph.initializer} <= {
        format.TensorProto.FLOAT,
        format.TensorProto.INT64,
    }


def test_a_program_needs_no_holdfast(tmp_path: Path, written: Written) -> None:
    given, path = written("torch", GRAY)
    told = {program.FACTS: ""}
    torch.export.load(io.BytesIO(path.read_bytes()), extra_files=told)
    assert json.loads(told[program.FACTS]) == given.facts
    images = torch.rand(3, 1, 8, 8)
    torch.save(images, tmp_path / "images.pth")
    code = (
        "import sys, torch\n"
        "z = torch.export.load(sys.argv[1]).module()(torch.load('images.pth'))\n"
        "torch.save(z.detach(), 'z.pth')\n"
        "sys.exit('holdfast' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=tmp_path, check=False).returncode == 0
    torch.testing.assert_close(torch.load(tmp_path / "z.pth"), given.embedder(images).detach(), rtol=0, atol=1e-6)


def test_an_embedder_of_another_precision_is_exported_in_float32_and_left_alone() -> None:
    model = embedder().double().train()
    copy = frozen_copy(model)
    assert {tensor.dtype for tensor in copy.state_dict().values()} == {torch.float32}
    assert not copy.training
    assert model.training
    assert next(model.parameters()).dtype == torch.float64
    assert program.program(copy).module()(torch.rand(2, 1, 8, 8)).dtype == torch.float32


class Fickle(nn.Module):
    """A network that no graph can hold."""

    def __init__(self, dim: int, channels: int, size: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels * size**2, dim)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.fc(x.flatten(1))
        return z if z.sum().item() > 0 else -z


@pytest.mark.parametrize("form", [pytest.param("onnx", marks=needs_onnx), "torch"])
def test_a_backbone_that_cannot_be_exported_is_named(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(backbones.BACKBONES, "fickle", backbones.Backbone(Fickle, (0.0,), (1.0,), "", fixed_size=True))
    with pytest.raises(HoldfastError, match=r"^fickle cannot be exported \(\w+: .*\)$"):
        FORMATS[form].write(source(EmbedderConfig("fickle", 4, 1, 8)), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", ""), "the exporter is heard"


# --- the command


@pytest.mark.parametrize(
    ("form", "name"),
    [pytest.param("onnx", "digits.onnx", marks=needs_onnx), ("torch", "digits.pt2"), ("hub", "digits")],
)
def test_a_run_is_exported_and_verified(  # noqa: PLR0917
    form: str, name: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.chdir(tmp_path)
    before = snapshot(run)
    status, out, _ = call("export", run, "--format", form, "--verify", "--max-queries", "2")
    assert status == 0
    assert f"written to exports/{name}" in out
    assert out.count("as in the run") == 4
    assert "embeddings, 2 attacked images" in out
    images = digits().read(torch.arange(9))[0]
    wanted = Embedder.from_pretrained(run)(images)
    torch.testing.assert_close(FORMATS[form].load(Path("exports") / name)(images), wanted, rtol=0, atol=1e-5)
    assert [path.name for path in Path("exports").iterdir()] == [name]
    assert snapshot(run) == before


@needs_onnx
def test_nothing_is_heard_of_the_exporter(run: Path, tmp_path: Path) -> None:
    """In a process of its own, whose loggers no test has touched."""
    command = [sys.executable, "-m", "holdfast", "export", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("written to exports/digits.onnx\n", "")


def test_the_best_weights_are_exported(run: Path, tmp_path: Path) -> None:
    place, _, _ = export(run, "torch", tmp_path / "best.pt2", best=True)
    images = digits().read(torch.arange(3))[0]
    torch.testing.assert_close(program.load(place)(images), embedder()(images), rtol=0, atol=1e-6)
    assert open_run(run, best=True).results == (), "the evaluation there is of the last weights"
    assert len(open_run(run).results) == 1


def test_a_folder_is_evaluated_as_a_run_is(run: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "hub"
    assert call("export", run, "--format", "hub", "--out", out)[0] == 0
    files = {"config.json", "model.safetensors", "config.yaml", "cost.json", "README.md"}
    assert {path.name for path in out.iterdir()} == files | {"evaluations"}
    (copied,), (original,) = open_run(out).results, open_run(run).results
    assert {**copied.content, "environment": None} == {**original.content, "environment": None}
    known = evaluate(out, **QUICK)
    assert known.content == copied.content, "the result that came along is the result"
    fresh = evaluate(out, None, "benign", quiet=True, device="cpu")
    assert fresh.path is not None
    assert fresh.path.parent.parent == out / "evaluations"
    assert fresh.content["benign"] == original.content["benign"]
    assert fresh.content["model"]["training"] == original.training


@pytest.mark.parametrize(("on_test", "verdict"), [(True, "unchecked, CHOSEN ON TEST"), (False, "unchecked")])
def test_an_exported_folder_says_how_its_weights_were_chosen(
    on_test: bool, verdict: str, run: Path, tmp_path: Path
) -> None:
    """As the run itself does, also after it was exported again; the last weights were not chosen."""
    chosen = shutil.copytree(run, tmp_path / "run")
    settings = yaml.safe_load((chosen / "config.yaml").read_text())
    settings["validation"] |= {"on_test": on_test}
    (chosen / "config.yaml").write_text(yaml.safe_dump(settings))
    best, _, _ = export(chosen, "hub", tmp_path / "best", best=True)
    again, _, _ = export(best, "hub", tmp_path / "again")
    last, _, _ = export(chosen, "hub", tmp_path / "last")
    for place, said in ((chosen / "best", verdict), (best, verdict), (again, verdict), (last, "unchecked")):
        result = evaluate(place, None, "benign", quiet=True, device="cpu")
        assert (result.verdict, result.chosen_on_test) == (said, said != "unchecked")
    cards = [(place / "README.md").read_text() for place in (best, again, last)]
    assert ["weights of the best validation" in card for card in cards] == [True, True, False]
    assert ["chosen on the test set" in card for card in cards] == [on_test, on_test, False]


def test_an_exported_folder_is_exported_again_and_keeps_what_lies_there(run: Path, tmp_path: Path) -> None:
    place, _, _ = export(run, "hub", tmp_path / "hub", precision="bfloat16")
    evaluate(place, None, "benign", quiet=True, device="cpu")
    whole = snapshot(place)
    export(place, "hub", place, precision="bfloat16")
    again = snapshot(place)
    assert again.keys() == whole.keys()
    assert again["model.safetensors"] == whole["model.safetensors"]
    assert again["README.md"] != whole["README.md"], "the new evaluation is in the card"
    cost = open_run(run).cost
    assert cost.keys() == {"steps", "passes", "seconds"}
    assert open_run(place).cost == cost


@pytest.mark.parametrize(
    ("root", "told"),
    [("data/photos", "data/photos"), ("/data/photos", None), ("data/../../photos", None), (None, None)],
)
def test_settings_keep_only_a_path_below_the_working_folder(root: str | None, told: str | None) -> None:
    assert portable(resolve_config({"data": {"name": "folder", "root": root}})).data.root == told


def test_nothing_tells_where_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    root = photos(tmp_path / "secret" / "photos", each=6)
    weights = tmp_path / "secret" / "start.safetensors"
    Embedder(EmbedderConfig("c2f2", 4, 3, 8)).save_pretrained(tmp_path / "secret")
    (tmp_path / "secret" / "model.safetensors").rename(weights)
    given = {"data.name": "folder", "data.root": str(root), "data.size": 8, "data.resize": 8, "model.dim": 4}
    given |= {"recipe": "none-r", "model.backbone": "c2f2", "model.weights": str(weights), "batch.pairs": 2, "steps": 1}
    run = tmp_path / "run"
    train(resolve_config(given, {"validation.every": 0}), run, quiet=True)
    words = ["evaluate", str(run), f"--root={root}", "--steps", "1", "--max-queries", "2", "--no-checks"]
    monkeypatch.setattr(sys, "argv", ["holdfast", *words])
    assert call(*words)[0] == 0
    export(run, "hub", tmp_path / "hub")
    text = "".join(path.read_text() for path in (tmp_path / "hub").rglob("*.*") if path.suffix != ".safetensors")
    assert str(tmp_path) not in text
    assert "secret" not in text
    assert "--root=photos" in text
    assert open_run(tmp_path / "hub").config.model.weights == "start.safetensors"
    assert "--weights WEIGHTS" in (tmp_path / "hub" / "README.md").read_text()
    _, found, notes = export(run, "hub", tmp_path / "hub", verify=True, queries=2)
    assert len(found) == 4
    shutil.rmtree(root)
    _, found, notes = export(run, "hub", tmp_path / "hub", verify=True, queries=2)
    assert len(found) == 1
    assert notes[0].startswith("only generated images were compared, and no attack was made: ")
    with pytest.raises(HoldfastError, match="does not exist"):
        export(run, "hub", tmp_path / "hub", verify=True, root=root)


def test_code_of_one_s_own_is_named_without_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "secret" / "net.py"
    code.parent.mkdir()
    code.write_text(NETWORK)
    settings = {"data.name": "digits", "model.dim": 4, "recipe": "none-r", "batch.pairs": 2, "steps": 1}
    train(resolve_config(settings | {"model.backbone": f"{code}:build"}, {"validation.every": 0}), tmp_path / "run")
    place, found, _ = export(tmp_path / "run", "hub", tmp_path / "hub", verify=True, queries=2)
    assert all(one.ok for one in found)
    for name in ("config.json", "config.yaml", "README.md"):
        text = (place / name).read_text()
        assert "net.py:build" in text
        assert "secret" not in text
    with pytest.raises(HoldfastError, match=r"hub needs your own code net.py:build: no file net.py.*backbone=…"):
        Embedder.from_pretrained(place)
    monkeypatch.chdir(code.parent)
    assert Embedder.from_pretrained(place).config.backbone == "net.py:build"


# --- what is compared


class Off(nn.Module):
    """An embedder and a mistake."""

    def __init__(self, model: nn.Module, by: float) -> None:
        super().__init__()
        self.model, self.by = model, by

    def forward(self, images: Tensor) -> Tensor:
        z: Tensor = self.model(images)
        return nn.functional.normalize(z + self.by * z.roll(1, dims=1), dim=1)


def test_each_program_passes_every_image_once_in_several_sizes_of_batch() -> None:
    model, sizes = frozen_copy(embedder()), list[int]()

    def counted(images: Tensor) -> Tensor:
        sizes.append(len(images))
        z: Tensor = model(images)
        return z

    found = compared(model, counted, digits(), queries=6)
    assert [one.what for one in found[:3]] == [
        f"embeddings, {n} images" for n in ("28 generated", "6 test", "6 attacked")
    ]
    assert all(one.ok for one in found)
    assert sum(sizes) == 28 + 6 + 6
    assert set(BATCHES) <= set(sizes)


def test_the_attack_moves_what_is_compared() -> None:
    model, images = frozen_copy(embedder()), digits().read(torch.arange(6))[0]
    moved = attacked(model, images, 0.2)
    assert 0.1 < (moved - images).abs().max() <= 0.2 + 1e-6
    found = compared(model, model, digits(), queries=6)[-1]
    assert found.before is not None
    assert found.before > 0.1
    assert found.after == pytest.approx(found.before, rel=1e-5)  # the two are passed in batches of other sizes


def test_a_model_that_differs_under_attack_only_is_found() -> None:
    """Beyond a radius of its own, this one sees the clean image."""
    model = frozen_copy(embedder())
    clean = torch.cat([generated(1, 8), digits().read(torch.linspace(0, 99, 6).long())[0]])

    def deaf(images: Tensor) -> Tensor:
        apart = (images[:, None] - clean).flatten(2).abs().amax(2)
        z: Tensor = model(clean[apart.argmin(1)])
        return z

    assert [one.ok for one in compared(model, deaf, digits(), queries=6)] == [True, True, False, False]


@pytest.mark.parametrize(("by", "fine"), [(0.0, True), (1e-6, True), (1e-2, False), (float("nan"), False)])
def test_a_mistake_is_found(by: float, fine: bool) -> None:
    model = frozen_copy(embedder())
    (found,) = compared(model, Off(model, by), None)
    assert found.ok == fine


def test_what_differs_is_not_kept(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    """What was there stays; exit status 1, with the table."""
    old = tmp_path / "old.pt2"
    old.write_bytes(b"old")

    def wrong(path: Path) -> Any:
        embed = program.load(path)
        return lambda images: -embed(images)

    broken = Format(".pt2", program.write, wrong)
    monkeypatch.setitem(FORMATS, "torch", broken)
    words = ("export", run, "--format", "torch", "--verify", "--max-queries", "2", "--out", old)
    status, out, err = call(*words)
    assert status == 1
    assert "DIFFERS" in out
    assert "holdfast: what was exported differs from the run, and was not kept (embeddings" in err
    assert snapshot(tmp_path) == {"old.pt2": b"old"}


def test_rounded_weights_embed_nearly_the_same(run: Path, tmp_path: Path) -> None:
    _, found, _ = export(run, "hub", tmp_path / "hub", precision="bfloat16", verify=True, queries=4)
    assert all(one.ok for one in found)
    assert found[0].difference > 1e-5


# --- what is refused


def test_what_cannot_be_exported_is_refused(run: Path, tmp_path: Path, refused: Refuse) -> None:
    before = snapshot(run)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "dir.onnx").mkdir()
    (tmp_path / "file").write_text("mine")
    assert "unknown format 'onxx'; did you mean 'onnx'?" in refused("export", run, "--format", "onxx")
    assert "names no model, and no folder has this name" in refused("export", tmp_path / "absent")
    assert "ends in .onnx, not" in refused("export", run, "--out", tmp_path / "model.png")
    assert "dir.onnx is a folder; format onnx is a file" in refused("export", run, "--out", tmp_path / "dir.onnx")
    shutil.copytree(run, tmp_path / "last", ignore=shutil.ignore_patterns("best"))
    assert "has no best/" in refused("export", tmp_path / "last", "--best")
    hub = ("export", run, "--format", "hub", "--out")
    assert "file is a file; format hub is a folder" in refused(*hub, tmp_path / "file")
    assert "full is not empty and no earlier export; give another --out" in refused(*hub, tmp_path / "full")
    assert "digits is a run folder; give another --out" in refused(*hub, run)
    assert "best is not empty and no earlier export" in refused(*hub, run / "best")
    assert "goes with format 'hub'; onnx holds float32" in refused("export", run, "--dtype", "bfloat16")
    assert "unknown precision 'half'" in refused("export", run, "--format", "hub", "--dtype", "half")
    nowhere = tmp_path / "file" / "model.onnx"
    assert "cannot write" in refused("export", run, "--out", nowhere)
    assert "cannot write" in refused(*hub, tmp_path / "file" / "hub")
    assert {path.name for path in tmp_path.iterdir()} == {"full", "dir.onnx", "file", "last"}
    assert snapshot(run) == before


def test_a_missing_extra_says_what_to_install(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refuse
) -> None:
    monkeypatch.chdir(tmp_path)
    for module in ("onnx", "onnxscript"):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, module, None)
            assert "pip install 'holdfast[onnx]'" in refused("export", run)
    assert not list(tmp_path.rglob("*.onnx"))


def test_onnx_is_refused_by_an_old_torch(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refuse
) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.6.0+cpu"))
    said = "format onnx needs torch 2.7 or newer, not 2.6.0+cpu; formats torch and hub do not"
    assert said in refused("export", run, "--out", tmp_path / "digits.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_merged_whole_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / "deep").mkdir(parents=True)
    (place / "deep" / "kept").write_text("kept")
    (place / "old").write_text("old")

    def half(folder: Path) -> None:
        with merging(folder) as new:
            (new / "old").write_text("new")
            (new / "no" / "such" / "folder").touch()

    with pytest.raises(HoldfastError, match=r"cannot write .*place"):
        half(place)
    assert snapshot(place) == {"deep/kept": b"kept", "old": b"old"}
    with merging(place) as new:
        (new / "old").write_text("new")
        (new / "deep").mkdir()
        (new / "deep" / "more").write_text("more")
    assert snapshot(place) == {"deep/kept": b"kept", "deep/more": b"more", "old": b"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_folder_with_evaluations_of_other_weights_is_refused(run: Path, tmp_path: Path) -> None:
    place, _, _ = export(run, "hub", tmp_path / "hub")
    foreign = place / "evaluations" / "strict-00000000" / "result.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("{}")
    before = snapshot(place)
    with pytest.raises(HoldfastError, match="evaluations of other weights, such as strict-00000000"):
        export(run, "hub", place)
    assert snapshot(place) == before
