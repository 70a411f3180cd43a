"""Hardening a module of the user's own by its word: from its weights, through a run, back to the module alone."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from holdfast.export.source import open_run
from holdfast.models.backbones import find_backbone
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.models.open import open_model
from holdfast.runs.config import resolve_config
from holdfast.runs.folder import Run
from holdfast.training.build import embedder_of
from holdfast.training.start import starting_from
from holdfast.util.errors import HoldfastError
from holdfast.util.imports import load_attribute
from tests.conftest import Call, Refuse
from tests.helpers import tiny

CODE = """
import torch
from torch import nn

def build():
    network = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 6))
    network.size, network.mean, network.std = 16, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    return network

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.head = nn.Linear(3, 4)

    def forward(self, images):
        return self.head((images - self.mean).mean((2, 3)))

class Half(Own):
    size = 8

module = Half().double()

class Nothing(nn.Module):
    size = 8

    def forward(self, images):
        return images.mean((2, 3))

def embed(images):
    return images.mean((2, 3))
"""
MEAN, STD = (torch.tensor(one).view(-1, 1, 1) for one in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
PIXELS = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
FEW = ("--set", "steps=2", "--set", "batch.pairs=4", "--set", "pgd.steps=2", "--set", "validation.every=0")
FEW = (*FEW, "--set", "optim.warmup_ratio=0", "--recipe", "fare", "--data", "folder")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with code, weights of its network, and photos."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(CODE)
    torch.manual_seed(3)
    network = load_attribute("own.py:build")()
    nn.init.uniform_(network[1].running_var, 0.5, 1.5)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    tiny.photos(tmp_path / "photos", each=4)
    return tmp_path


def test_a_module_goes_the_whole_way_by_its_word(place: Path, call: Call) -> None:
    start = ("--model", "own.py:build", "--weights", "w.safetensors", "--root", "photos", "--set", "optim.lr=1e-2")
    assert call("train", *start, *FEW, "--out", "run")[0] == 0
    status, out, _ = call("evaluate", "run", "--protocol", "benign")
    assert (status, "R@1" in out) == (0, True)
    assert call("export", "run", "--format", "native", "--out", "back", "--verify")[0] == 0

    theirs = load_attribute("own.py:build")()
    theirs.load_state_dict(load_file(place / "back" / "model.safetensors"))
    with torch.no_grad():
        z = F.normalize(theirs.eval()((PIXELS - MEAN) / STD), dim=1)
        torch.testing.assert_close(z, open_model(place / "run").embed(PIXELS), rtol=0, atol=1e-5)
        begun = F.normalize(open_model("own.py:build", weights="w.safetensors").embed.eval()(PIXELS), dim=1)  # type: ignore[attr-defined]
    assert (z - begun).abs().max() > 1e-3
    assert open_model(place / "run").preprocessing == open_model("own.py:build").preprocessing


def test_weights_that_learn_nothing_come_back_as_they_came(place: Path, call: Call) -> None:
    start = ("--model", "own.py:build", "--weights", "w.safetensors", "--root", "photos", "--set", "optim.lr=0")
    assert call("train", *start, *FEW, "--out", "run")[0] == 0
    assert call("export", "run", "--format", "native", "--out", "back")[0] == 0
    came, back = load_file("w.safetensors"), load_file("back/model.safetensors")
    assert came.keys() == back.keys()
    assert all(torch.equal(came[name], back[name]) for name in came)

    assert call("train", "--model", "run", *FEW, "--root", "photos", "--set", "optim.lr=0", "--out", "next")[0] == 0
    assert Run(Path("next")).config().model.backbone == f"model:{place / 'own.py'}:build"
    assert all(torch.equal(came[name], one) for name, one in open_run("next").embedder.backbone.state_dict().items())


def test_a_run_is_opened_from_anywhere(place: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    start = ("--model", "own.py:build", "--root", "photos", "--set", "optim.lr=0")
    assert call("train", *start, *FEW, "--out", "run")[0] == 0
    with torch.no_grad():
        here = open_model(place / "run").embed(PIXELS)
        monkeypatch.chdir("/")
        torch.testing.assert_close(open_model(place / "run").embed(PIXELS), here, rtol=0, atol=0)
    source = open_run(place / "run")
    assert source.facts["backbone"] == source.config.model.backbone == "model:own.py:build"


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("name", ["Half", "module"])
def test_a_module_that_normalises_by_itself_is_given_pixels(name: str) -> None:
    config = resolve_config({"data.name": "folder"}, starting_from(f"own.py:{name}"))
    embedder, _ = embedder_of(config)
    assert {parameter.dtype for parameter in embedder.parameters()} == {torch.float32}
    assert (embedder.mean.abs().max(), embedder.std.min()) == (0, 1)
    (images,) = PIXELS[None, :, :, :8, :8]
    assert isinstance(embedder.backbone, nn.Module)
    with torch.no_grad():
        torch.testing.assert_close(embedder.eval()(images), F.normalize(embedder.backbone(images), dim=1))
    kind = find_backbone(config.model.backbone)
    one, other = (next(kind.network(4, 3, 8).parameters()) for _ in range(2))
    assert one.data_ptr() != other.data_ptr()


@pytest.mark.usefixtures("place")
def test_a_module_without_a_size_is_given_one(call: Call, refused: Refuse) -> None:
    start = ("--model", "own.py:Own", "--root", "photos")
    assert (
        "does not say what size of images it takes: give it an attribute size, or add --set data.size=224"
        in refused("train", *start, *FEW, "--out", "run")
    )
    assert call("train", *start, *FEW, "--set", "data.size=12", "--out", "run")[0] == 0
    assert (Run(Path("run")).config().data.size, Run(Path("run")).config().model.dim) == (12, 4)


@pytest.mark.usefixtures("place")
def test_what_cannot_be_trained_by_a_word(refused: Refuse) -> None:
    for word, message in {
        "own.py:embed": "own.py:embed is a function, not a torch module: there is nothing to train",
        "own.py:Nothing": "own.py:Nothing has no parameters to train",
        "program:x.pt2": "program:x.pt2 is not trained: it gives vectors, and no weights to go on from",
        "onnx:x.onnx": "onnx:x.onnx is not trained",
        "http://127.0.0.1:9/embed": "is not trained",
        "own.py:built": "unknown attribute of own.py 'built'; did you mean 'build'",
    }.items():
        assert message in refused("train", "--model", word, *FEW, "--root", "photos", "--out", "run")
    assert "brings its own weights; leave out w.safetensors" in refused(
        "train", "--model", "zoo:digits-none-r", "--weights", "w.safetensors", "--data", "digits", "--out", "run"
    )
    assert "takes images of 3 channels, and those of data set 'digits' have 1" in refused(
        "train", "--model", "own.py:build", "--out", "run"
    )
    assert "--pooling goes with hf: models" in refused(
        "train", "--model", "own.py:build", "--pooling", "cls", *FEW, "--out", "run"
    )
    assert "--pooling goes with --model hf:" in refused("train", "--pooling", "cls", "--out", "run")
    save_file({"other": torch.zeros(1)}, "other.safetensors")
    assert "nothing in other.safetensors fits the network" in refused(
        "train", "--model", "own.py:build", "--weights", "other.safetensors", *FEW, "--root", "photos", "--out", "run"
    )
    assert not Path("run").exists()


@pytest.mark.usefixtures("place")
def test_code_in_a_model_from_elsewhere_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Embedder(EmbedderConfig("model:own.py:build", dim=6, size=16))
    embedder.save_pretrained("saved")
    assert isinstance(Embedder.from_pretrained("saved"), Embedder)
    monkeypatch.setattr("holdfast.models.hub.located", lambda *_: Path("saved"))
    with pytest.raises(HoldfastError, match=r"names code, model:own\.py:build, which is not run"):
        Embedder.from_pretrained("owner/name")
    with pytest.raises(HoldfastError, match="goes to the Hub as it came"):
        embedder.push_to_hub("owner/name")
    with pytest.raises(HoldfastError, match=r"turns pixels \(2, 3, 16, 16\) into \(2, 6\), not into \(2, dim=7\)"):
        Embedder(EmbedderConfig("model:own.py:build", dim=7, size=16))
