"""Networks and models from timm by name, in the environment of ``make test-encoders``: timm imports torchvision."""

import dataclasses
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.pgd import PGD
from holdfast.core.steps import LInf
from holdfast.defense.recipes import parse_recipe
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.models.open import open_model
from holdfast.models.wrapped import WrappedModel
from holdfast.runs.config import resolve_config
from holdfast.runs.folder import Run
from holdfast.training.build import embedder_of
from holdfast.training.start import starting_from
from holdfast.util.errors import HoldfastError
from tests.conftest import Call, Refuse
from tests.helpers import tiny
from tests.helpers.encoders import pictures, shown
from tests.helpers.networks import scattered

if find_spec("timm") is None:
    pytest.skip("timm is not installed here; make test-encoders runs these", allow_module_level=True)

timm: Any = import_module("timm")

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def network(classes: int = 7) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = timm.create_model("resnet18", num_classes=classes)
    return made.eval()


def saved(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:vit_tiny_patch16_224", "timm:mobilenetv3_small_050"])
def test_a_timm_network_takes_a_hardening_step(name: str) -> None:
    embedder = Embedder(EmbedderConfig(name, dim=32, size=64))
    images, labels = torch.rand(8, 3, 64, 64), torch.arange(4).repeat_interleave(2)
    assert torch.allclose(embedder(images).norm(dim=1), torch.ones(8), atol=1e-5)
    step = parse_recipe("hm-s-lga-ics").build(PGD(LInf(8 / 255), 1 / 255, 2))(embedder, images, labels)
    step.loss.backward()
    assert step.loss.isfinite()


def test_mean_and_std_are_the_network_s_own() -> None:
    assert Embedder(EmbedderConfig("timm:vit_tiny_patch16_224", dim=8)).mean.flatten().tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("classes", [0, 7, 1000])
def test_a_file_of_weights_with_any_classifier(tmp_path: Path, classes: int, prefix: str) -> None:
    whole = network(classes)
    file = saved(tmp_path / "w.pth", {prefix + name: value for name, value in whole.state_dict().items()})
    model, images = open_model("timm:resnet18", weights=file).embed, torch.rand(4, 3, 64, 64)
    whole.reset_classifier(0)  # type: ignore[operator]
    expected = whole((images - MEAN[:, None, None]) / STD[:, None, None])
    torch.testing.assert_close(model(images), expected)
    wrapped = WrappedModel(model)
    wrapped.examine(images)
    assert wrapped.faults == []
    assert wrapped.differentiable
    assert wrapped.remarks == ["outputs were not of unit length: holdfast normalised them"]


@pytest.mark.parametrize(
    ("drop", "add", "message"),
    [
        ("layer4.1.conv2.weight", "", r"1 missing \(layer4.1.conv2.weight\)"),
        ("", "layer1.fc.weight", r"1 unexpected \(layer1.fc.weight\)"),
        ("", "fcc.weight", r"1 unexpected \(fcc.weight\)"),
    ],
)
def test_only_the_classifier_may_differ(tmp_path: Path, drop: str, add: str, message: str) -> None:
    state = {name: value for name, value in network().state_dict().items() if name != drop}
    if add:
        state[add] = torch.zeros(2)
    with pytest.raises(HoldfastError, match=message):
        open_model("timm:resnet18", weights=saved(tmp_path / "w.pth", state))


def test_pretrained_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", unreachable)
    with pytest.raises(HoldfastError, match=r"no route to host\).*--weights"):
        open_model("timm:resnet18")


def test_a_network_without_pretrained_weights_is_not_left_random() -> None:
    without = next(name for name in timm.list_models() if not timm.get_pretrained_cfg(name).has_weights)
    with pytest.raises(HoldfastError, match=f"no pretrained weights of {without}.*--weights"):
        open_model(f"timm:{without}")


def test_an_unknown_network_names_the_nearest() -> None:
    with pytest.raises(HoldfastError, match="resnet18"):
        Embedder(EmbedderConfig("timm:resnet1888", dim=8))
    with pytest.raises(HoldfastError, match="did you mean timm:resnet18"):
        open_model("timm:resnet1888")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"crop_pct": 0.95, "interpolation": "bicubic"},
        {"crop_pct": 0.9, "crop_mode": "squash", "interpolation": "bicubic"},
        {"input_size": (3, 31, 31), "crop_pct": 0.8},
        {"crop_pct": 1.0, "interpolation": "lanczos"},
    ],
    ids=str,
)
def test_the_images_are_those_of_timm(tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    facts = dataclasses.replace(timm.get_pretrained_cfg("resnet18"), input_size=(3, 48, 48), test_input_size=None)
    facts = dataclasses.replace(facts, **change)
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: facts)
    state = {name: value for name, value in network().state_dict().items() if not name.startswith("fc.")}
    opened = open_model("timm:resnet18", weights=saved(tmp_path / "w.pth", state))
    settings = timm.data.resolve_data_config({}, pretrained_cfg=facts.to_dict())
    pipeline = timm.data.create_transform(**settings, is_training=False)
    assert opened.preprocessing is not None
    mean, std = (torch.tensor(settings[name]).view(-1, 1, 1) for name in ("mean", "std"))
    levels = (torch.stack([pipeline(picture) for picture in pictures()]) * std + mean) * 255
    mine = shown(opened.preprocessing, tmp_path) * 255
    assert torch.equal(levels.round(), mine.round())
    assert (levels - mine).abs().max() < 1e-3
    assert opened.about["library"] == f"timm {timm.__version__}"


def test_a_network_goes_the_whole_way_by_its_word(
    call: Call, refused: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a file of weights with their classifier, through a run, back to what timm alone loads."""
    facts = dataclasses.replace(timm.get_pretrained_cfg("resnet18"), input_size=(3, 32, 32), test_input_size=None)
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: facts)
    file, root = saved(tmp_path / "w.pth", scattered(network()).state_dict()), tiny.photos(tmp_path / "photos", each=4)
    few = ("--recipe", "fare", "--data", "folder", "--root", root, "--set", "steps=2", "--set", "batch.pairs=4")
    few = (*few, "--set", "pgd.steps=2", "--set", "validation.every=0", "--set", "optim.lr=1e-3")
    start = ("--model", "timm:resnet18", "--weights", file)
    assert call("train", *start, *few, "--set", "optim.warmup_ratio=0", "--out", tmp_path / "run")[0] == 0
    assert Run(tmp_path / "run").config().model.backbone == "model:timm:resnet18"
    out = tmp_path / "back"
    assert call("export", tmp_path / "run", "--format", "native", "--out", out, "--verify")[0] == 0

    theirs = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(out / "model.safetensors")).eval()
    pixels = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        z = nn.functional.normalize(theirs((pixels - MEAN[:, None, None]) / STD[:, None, None]), dim=1)
        ours = open_model(tmp_path / "run").embed(pixels)
        torch.testing.assert_close(z, ours, rtol=0, atol=1e-5)
        before = nn.functional.normalize(open_model("timm:resnet18", weights=file).embed(pixels), dim=1)
    assert (ours - before).abs().max() > 1e-4
    assert "goes with" in refused("train", *start, "--pooling", "cls", *few, "--out", tmp_path / "other")


def test_training_starts_from_timm_s_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    own = scattered(network(0))

    def create(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        made = original(name, **options)
        if pretrained:
            made.load_state_dict(own.state_dict())
        return made

    original = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    config = resolve_config({"data.name": "folder"}, starting_from("timm:resnet18"))
    assert (config.model.dim, config.data.size, config.data.fit) == (512, 224, "shortest")
    begun, _ = embedder_of(config)
    state = begun.backbone.state_dict()
    assert all(torch.equal(state[name], one) for name, one in own.state_dict().items())
    fresh = Embedder(begun.config).backbone.state_dict()
    assert not torch.equal(fresh["conv1.weight"], state["conv1.weight"])
