"""Image towers of open_clip, against the library's own pipeline; in the environment of ``make test-encoders``."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from holdfast.models.open import open_model
from holdfast.models.wrapped import WrappedModel
from holdfast.runs.config import resolve_config
from holdfast.training.build import embedder_of, optimizer_of
from holdfast.training.start import starting_from
from holdfast.util.errors import HoldfastError
from tests.conftest import Call
from tests.helpers import tiny
from tests.helpers.encoders import pictures, shown, slope_error

TOWERS: dict[str, dict[str, Any]] = {
    "tiny-vit": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32},
    "tiny-resnet": {"layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "image_size": 33, "head_width": 8},
}
TEXT = {"text_cfg": {"context_length": 8, "vocab_size": 60, "width": 16, "heads": 2, "layers": 1}}
PREPROCESS = [
    {},
    {"interpolation": "bilinear", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)},
    {"resize_mode": "squash"},
]


def test_the_library_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(HoldfastError, match=r"pip install 'holdfast\[open-clip\]'"):
        open_model("open_clip:ViT-B-32:openai")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """open_clip with small architectures."""
    found: Any = pytest.importorskip("open_clip", exc_type=ImportError)
    for name, tower in TOWERS.items():
        monkeypatch.setitem(found.factory._MODEL_CONFIGS, name, {"embed_dim": 16, "vision_cfg": tower} | TEXT)
    return found


def save(library: Any, name: str, folder: Path, **preprocess: Any) -> tuple[Any, Any, Path]:
    """A model, its pipeline, and a file of its weights."""
    torch.manual_seed(0)
    options = {f"image_{key}": value for key, value in preprocess.items()}
    model, _, pipeline = library.create_model_and_transforms(name, **options)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "w.safetensors")
    return model.eval(), pipeline, folder / "w.safetensors"


@pytest.mark.parametrize("as_option", [False, True])
@pytest.mark.parametrize("name", TOWERS)
def test_an_encoder_is_that_of_the_library(library: Any, name: str, as_option: bool, tmp_path: Path) -> None:
    model, pipeline, file = save(library, name, tmp_path)
    word = f"open_clip:{name}" if as_option else f"open_clip:{name}:{file}"
    opened = open_model(word, weights=file if as_option else None)
    assert opened.about["library"] == f"open_clip {library.__version__}"
    assert opened.preprocessing is not None
    images = shown(opened.preprocessing, tmp_path)
    with torch.no_grad():
        theirs = model.encode_image(torch.stack([pipeline(picture) for picture in pictures()]))
        torch.testing.assert_close(opened.embed(images), theirs, rtol=1e-5, atol=1e-5)
    wrapped = WrappedModel(opened.embed)
    wrapped.examine(images)
    assert (wrapped.faults, wrapped.differentiable) == ([], True)


@pytest.mark.parametrize("size", [31, 32])
@pytest.mark.parametrize("preprocess", PREPROCESS, ids=str)
def test_the_images_are_those_of_the_library(
    library: Any, preprocess: dict[str, Any], size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = TOWERS["tiny-vit"] | {"image_size": size, "patch_size": size}
    config = {"embed_dim": 16, "vision_cfg": tower} | TEXT
    monkeypatch.setitem(library.factory._MODEL_CONFIGS, "sized", config)
    _, pipeline, file = save(library, "sized", tmp_path, **preprocess)
    original = library.create_model

    def create(name: str, source: str, **options: Any) -> Any:
        model = original(name, source, **options)
        model.visual.preprocess_cfg |= preprocess
        return model

    monkeypatch.setattr(library, "create_model", create)
    opened = open_model(f"open_clip:sized:{file}")
    assert opened.preprocessing is not None
    mean, std = opened.embed.mean, opened.embed.std  # type: ignore[attr-defined]
    levels = (torch.stack([pipeline(picture) for picture in pictures()]) * std + mean) * 255
    mine = shown(opened.preprocessing, tmp_path) * 255
    assert torch.equal(levels.round(), mine.round())
    assert (levels - mine).abs().max() < 1e-3


def test_gradients_from_the_pixels_are_those_of_finite_differences(library: Any, tmp_path: Path) -> None:
    _, _, file = save(library, "tiny-vit", tmp_path)
    embed = open_model(f"open_clip:tiny-vit:{file}").embed
    assert isinstance(embed, nn.Module)
    assert slope_error(embed.double(), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))) < 1e-4


def test_what_cannot_be_opened(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, _, _ = save(library, "tiny-vit", tmp_path)
    torch.save(model.state_dict(), "w.pt")
    save_file({"x": torch.zeros(3)}, "other.safetensors")
    Path("short.safetensors").write_bytes(b"x" * 40)
    Path("empty.safetensors").write_bytes(b"")
    for rest, message in {
        "ViT-B-3": "has no model 'ViT-B-3'; did you mean .*open_clip:ViT-B-32",
        "tiny-vit": r"names no weights: add one of :FILE\.safetensors",
        "ViT-B-32": "names no weights: add one of :openai, ",
        "ViT-B-32:opemai": "unknown weights of ViT-B-32 'opemai'; did you mean 'openai'",
        "tiny-vit:w.pt": r"w\.pt is not loaded: weights of open_clip are read from \.safetensors only",
        "tiny-vit:v.safetensors": r"no weights at v\.safetensors; did you mean w\.safetensors\?",
        "tiny-vit:other.safetensors": "open_clip cannot open",
        "tiny-resnet:w.safetensors": "open_clip cannot open",
        "tiny-vit:short.safetensors": "open_clip cannot open",
        "tiny-vit:empty.safetensors": "it is empty",
    }.items():
        with pytest.raises(HoldfastError, match=message) as caught:
            open_model(f"open_clip:{rest}")
        assert "\n" not in str(caught.value)
    with pytest.raises(HoldfastError, match="names its weights already; leave out"):
        open_model("open_clip:tiny-vit:w.safetensors", weights="w.safetensors")


@pytest.fixture
def folder(library: Any, tmp_path: Path) -> Path:
    """A model as open_clip writes it for the Hub."""
    _, _, file = save(library, "tiny-vit", tmp_path)
    place = tmp_path / "clip"
    place.mkdir()
    file.rename(place / "open_clip_model.safetensors")
    shown_by = {"size": 32, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    config = {"model_cfg": {"embed_dim": 16, "vision_cfg": TOWERS["tiny-vit"]} | TEXT, "preprocess_cfg": shown_by}
    (place / "open_clip_config.json").write_text(json.dumps(config))
    return place


def test_a_folder_as_on_the_hub_goes_the_whole_way(library: Any, folder: Path, call: Call, tmp_path: Path) -> None:
    word, root = f"open_clip:hf-hub:{folder}", tiny.photos(tmp_path / "photos", each=4)
    model = library.create_model(f"local-dir:{folder}").eval()
    pixels = torch.rand(3, 3, 32, 32)
    mean, std = (torch.tensor(one).view(-1, 1, 1) for one in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    with torch.no_grad():
        torch.testing.assert_close(open_model(word).embed(pixels), model.encode_image((pixels - mean) / std))
    few = ("--recipe", "fare", "--data", "folder", "--root", root, "--set", "steps=2", "--set", "batch.pairs=4")
    few = (*few, "--set", "pgd.steps=2", "--set", "optim.lr=1e-3", "--set", "optim.warmup_ratio=0")
    run, out = tmp_path / "run", tmp_path / "out"
    assert call("train", "--model", word, *few, "--set", "validation.every=0", "--out", run)[0] == 0
    assert call("export", run, "--format", "native", "--out", out, "--verify")[0] == 0
    theirs = library.create_model(f"local-dir:{out}").eval()
    with torch.no_grad():
        z = nn.functional.normalize(theirs.encode_image((pixels - mean) / std), dim=1)
        torch.testing.assert_close(z, open_model(run).embed(pixels), rtol=0, atol=1e-5)
    assert open_model(f"open_clip:hf-hub:{out}").preprocessing == open_model(word).preprocessing


def test_weights_beside_the_word_are_trained(library: Any, tmp_path: Path) -> None:
    _, _, file = save(library, "tiny-vit", tmp_path)
    tree = starting_from("open_clip:tiny-vit", weights=file)
    assert (tree["model.backbone"], tree["model.weights"]) == (f"open_clip:tiny-vit:{file}", None)
    config = resolve_config({"data.name": "folder", "optim.lr": 1.0, "optim.layer_decay": 0.5}, tree)
    embedder, _ = embedder_of(config)
    names = {id(one): name for name, one in embedder.named_parameters()}
    groups = optimizer_of(config, embedder).param_groups
    rates = {names[id(one)]: group["lr"] for group in groups for one in group["params"]}
    visual = "backbone.network.visual."
    assert rates[f"{visual}proj"] == 1
    assert rates[f"{visual}ln_post.weight"] == 0.5
    block = [rates[f"{visual}transformer.resblocks.{i}.ln_1.weight"] for i in (0, 1)]
    assert block == [0.125, 0.25]
    assert rates[f"{visual}conv1.weight"] < rates[f"{visual}ln_pre.weight"] < 0.125


@pytest.mark.usefixtures("library")
def test_what_is_not_there_on_the_hub_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def offline(*_: object, **__: object) -> None:
        raise hub.errors.OfflineModeIsEnabled("no")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(
        HoldfastError, match=r"^there is no folder owner/name, and owner/name cannot be fetched: the Hub"
    ):
        open_model("open_clip:hf-hub:owner/name")
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(HoldfastError, match=r"holds no model of open_clip: it has no open_clip_config\.json"):
        open_model(f"open_clip:hf-hub:{folder}")
