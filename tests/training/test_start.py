"""Hardening what others made: an encoder goes into training as it is, and back to its library as it came out."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from holdfast.export.folder import PLACE
from holdfast.export.source import open_run
from holdfast.models.open import open_model
from holdfast.runs.config import Config, flatten, resolve_config
from holdfast.runs.folder import Run
from holdfast.training.build import embedder_of, optimizer_of
from holdfast.training.start import starting_from
from holdfast.util.extras import quiet
from tests.conftest import Call, Refuse
from tests.helpers import tiny
from tests.helpers.encoders import SMALL, processor

tf: Any = pytest.importorskip("transformers")

FEW = ("--set", "steps=2", "--set", "batch.pairs=4", "--set", "pgd.steps=2", "--set", "validation.every=0")
FEW = (*FEW, "--set", "optim.lr=1e-3", "--set", "optim.warmup_ratio=0")
PIXELS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT of transformers in a folder."""
    folder = tmp_path_factory.mktemp("encoders") / "vit"
    torch.manual_seed(0)
    with quiet():
        tf.ViTModel(tf.ViTConfig(**SMALL), add_pooling_layer=False).save_pretrained(folder)
        sizes = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
        processor(
            tf, "CLIP", **sizes, resample=3, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]
        ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hardened(vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that began with it."""
    from holdfast.training.loop import train

    folder = tmp_path_factory.mktemp("runs")
    root = tiny.photos(folder / "photos", each=4)
    settings: dict[str, Any] = {"recipe": "fare", "data.name": "folder", "data.root": str(root), "steps": 2}
    settings |= {"batch.pairs": 4, "pgd.steps": 2, "validation.every": 0, "optim.lr": 1e-3, "optim.warmup_ratio": 0}
    train(resolve_config(starting_from(f"hf:{vit}"), settings), folder / "run", device="cpu", quiet=True)
    return folder / "run"


def embedded(word: str | Path) -> Tensor:
    with torch.no_grad():
        return F.normalize(open_model(word).embed(PIXELS), dim=1)


def settings_of(word: str) -> Config:
    return resolve_config({"data.name": "folder", "data.root": "photos"}, starting_from(word))


def test_training_begins_with_the_encoder_as_it_is(vit: Path) -> None:
    config = settings_of(f"hf:{vit}")
    assert (config.data.size, config.data.resize, config.data.interpolation) == (32, 36, "bicubic")
    assert (config.data.fit, config.model.dim, config.warmup.epochs) == ("shortest", 32, 0)
    embedder, _ = embedder_of(config)
    assert embedder.config.freeze_batchnorm
    with torch.no_grad():
        torch.testing.assert_close(embedder.eval()(PIXELS), embedded(f"hf:{vit}"), rtol=1e-5, atol=1e-6)


def test_a_run_is_shown_images_as_the_encoder_is(vit: Path, hardened: Path) -> None:
    theirs, ours = open_model(f"hf:{vit}"), open_model(hardened)
    assert ours.preprocessing == theirs.preprocessing
    assert (embedded(hardened) - embedded(f"hf:{vit}")).abs().max() > 1e-4


def test_transformers_alone_loads_what_was_hardened(hardened: Path, call: Call, tmp_path: Path) -> None:
    status, _, err = call("export", hardened, "--format", "native", "--out", tmp_path / "out", "--verify")
    assert (status, err) == (0, "")
    with quiet():
        model = tf.AutoModel.from_pretrained(tmp_path / "out").eval()
    mean, std = (torch.tensor(one).view(-1, 1, 1) for one in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    with torch.no_grad():
        z = model(pixel_values=(PIXELS - mean) / std).last_hidden_state[:, 0]
    torch.testing.assert_close(F.normalize(z, dim=1), embedded(hardened), rtol=0, atol=1e-5)
    assert open_model(f"hf:{tmp_path / 'out'}").preprocessing == open_model(hardened).preprocessing


def test_another_pooling_stays_through_training_and_back(
    vit: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(vit.parent)
    root = tiny.photos(tmp_path / "photos", each=4)
    start = ("--model", "hf:vit", "--pooling", "mean", "--recipe", "fare", "--data", "folder", "--root", root)
    assert call("train", *start, *FEW, "--out", tmp_path / "run")[0] == 0
    assert Run(tmp_path / "run").config().model.backbone == f"hf:{vit}:mean"
    monkeypatch.chdir(tmp_path)
    assert call("export", "run", "--format", "native", "--out", "out", "--verify")[0] == 0
    with torch.no_grad():
        z = F.normalize(open_model("hf:out:mean").embed(PIXELS), dim=1)
    torch.testing.assert_close(z, embedded("run"), rtol=0, atol=1e-5)
    assert (embedded("hf:out:cls") - z).abs().max() > 1e-2
    assert open_run("run").facts["backbone"] == "hf:vit:mean"


def test_what_lies_in_the_place_of_an_export_is_left_alone(hardened: Path, refused: Refuse, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    assert "is not empty; give another --out" in refused("export", hardened, "--format", "native", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_module_of_ours_goes_back_as_its_own_weights(digits_run: Path, call: Call, tmp_path: Path) -> None:
    assert call("export", digits_run, "--format", "native", "--out", tmp_path / "out")[0] == 0
    from safetensors.torch import load_file

    ours = open_model(digits_run).embed.backbone.state_dict()  # type: ignore[attr-defined]
    theirs = load_file(tmp_path / "out" / "model.safetensors")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_a_run_may_begin_with_another_one(digits_run: Path, call: Call, tmp_path: Path) -> None:
    few = ("--data", "digits", "--recipe", "none-r", "--set", "optim.lr=0")
    assert call("train", "--model", digits_run, *few, *FEW[:4], "--out", tmp_path / "run")[0] == 0
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        ours, theirs = (open_model(folder).embed(images) for folder in (tmp_path / "run", digits_run))
    torch.testing.assert_close(ours, theirs)
    assert Run(tmp_path / "run").config().model.dim == Run(digits_run).config().model.dim


def test_what_training_cannot_begin_with(vit: Path, refused: Refuse, tmp_path: Path) -> None:
    other = ("--data", "digits", "--out", tmp_path / "run")
    assert "brings its network: leave out --backbone" in refused(
        "train", "--model", f"hf:{vit}", "--backbone", "c2f2", *other
    )
    assert "brings its own weights; leave out w.safetensors" in refused(
        "train", "--model", f"hf:{vit}", "--weights", "w.safetensors", *other
    )
    assert "cannot have pooling pooler: its files hold no weights of its pooler; possible: cls, mean" in refused(
        "train", "--model", f"hf:{vit}", "--pooling", "pooler", *other
    )
    assert "takes images of 3 channels, and those of data set 'digits' have 1" in refused(
        "train", "--model", f"hf:{vit}", *other
    )
    assert "hf: names no model" in refused("train", "--model", "hf:typo", *other).replace("'typo' names", "hf: names")
    colour = ("--data", "folder", "--root", tiny.photos(tmp_path / "photos", each=4), "--out", tmp_path / "run")
    assert "takes images of 1 channels, and those of data set 'folder' have 3" in refused(
        "train", "--model", "zoo:digits-none-r", *colour
    )
    assert not (tmp_path / "run").exists()


def test_the_model_wins_over_a_file_of_settings(vit: Path, digits_run: Path) -> None:
    file = flatten(asdict(Run(digits_run).config()))
    config = resolve_config(file, {"data.name": "folder"}, starting_from(f"hf:{vit}"))
    assert (config.model.backbone, config.data.size, config.data.fit) == (f"hf:{vit}", 32, "shortest")


def test_a_run_goes_on_as_its_encoder_was_shown_images(hardened: Path) -> None:
    before, after = Run(hardened).config(), resolve_config({"data.name": "folder"}, starting_from(str(hardened)))
    assert (after.data.fit, after.data.interpolation) == (before.data.fit, before.data.interpolation)
    assert (after.data.size, after.data.resize) == (before.data.size, before.data.resize)


def test_no_export_tells_where_the_encoder_lay(vit: Path, hardened: Path, refused: Refuse, tmp_path: Path) -> None:
    assert "--format native gives it back" in refused("export", hardened, "--format", "hub", "--out", tmp_path / "hub")
    for word in (f"hf:{vit}", f"open_clip:ViT-B-32:{vit}/w.safetensors", f"--transfer=st:{vit}", str(vit)):
        assert "/" not in PLACE.sub(r"\1", word)
    assert PLACE.sub(r"\1", "http://host/path") == "http://host/path"


def test_rates_fall_from_the_head_of_an_encoder_to_its_input(vit: Path) -> None:
    config = settings_of(f"hf:{vit}")
    config = replace(config, optim=replace(config.optim, lr=1.0, layer_decay=0.5, head_lr=7.0))
    embedder, _ = embedder_of(config)
    names = {id(parameter): name.removeprefix("backbone.network.") for name, parameter in embedder.named_parameters()}
    rates = {
        names[id(one)]: group["lr"] for group in optimizer_of(config, embedder).param_groups for one in group["params"]
    }
    assert {rate for name, rate in rates.items() if name.startswith("layernorm.")} == {7.0}
    block = [{rate for name, rate in rates.items() if f"layer.{i}." in name or f"layers.{i}." in name} for i in (0, 1)]
    assert block == [{0.25}, {0.5}]
    assert {rate for name, rate in rates.items() if name.startswith("embeddings.")} == {0.125}


def test_an_encoder_without_a_trained_pooler_is_the_same_each_time(vit: Path) -> None:
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        states.append(open_model(f"hf:{vit}").embed.state_dict())  # type: ignore[attr-defined]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
