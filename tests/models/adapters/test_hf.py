"""Encoders of transformers: against the library itself, for every pooling; and what cannot be opened."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.pgd import Embed
from holdfast.models.open import open_model
from holdfast.models.wrapped import WrappedModel
from holdfast.search.index import Index
from holdfast.search.lookup import embed_files, model_of
from holdfast.util.errors import HoldfastError
from holdfast.util.extras import quiet
from tests.conftest import Call, Refuse
from tests.helpers.encoders import SMALL, pictures, processor, shown, slope_error

tf: Any = pytest.importorskip("transformers")

Output = Callable[[Any, Tensor], Tensor]
TEXT = {"vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CROPPED = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
SQUARE = {"size": {"height": 32, "width": 32}}


def last(model: Any, pixels: Tensor) -> Tensor:
    found: Tensor = model(pixel_values=pixels).last_hidden_state
    return found


def pooler(model: Any, pixels: Tensor) -> Tensor:
    found: Tensor = model(pixel_values=pixels).pooler_output
    return found.flatten(1)


def features(model: Any, pixels: Tensor) -> Tensor:
    found = model.get_image_features(pixel_values=pixels)
    return found if isinstance(found, Tensor) else found.pooler_output  # type: ignore[no-any-return]


def patches(before: int) -> Output:
    return lambda model, pixels: last(model, pixels)[:, before:].mean(1)


def first(model: Any, pixels: Tensor) -> Tensor:
    return last(model, pixels)[:, 0]


def places(model: Any, pixels: Tensor) -> Tensor:
    return last(model, pixels).mean((2, 3))


def of_tower(output: Output) -> Output:
    return lambda model, pixels: output(model.vision_model, pixels)


@dataclass(frozen=True)
class Tiny:
    """A model to be built, its image processor, and by pooling what the embedding is; the first is the default."""

    build: Callable[[], nn.Module]
    processor: tuple[str, dict[str, Any]]
    poolings: dict[str, Output]


def dual(kind: str) -> Any:
    text = {**SMALL, **TEXT}
    config = getattr(tf, f"{kind}Config")(text_config=text, vision_config=SMALL)
    return getattr(tf, f"{kind}Model")(config)


def convolutions(kind: str) -> Any:
    config = getattr(tf, f"{kind}Config")(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
    return getattr(tf, f"{kind}Model")(config)


TINY = {
    "vit": Tiny(
        lambda: tf.ViTModel(tf.ViTConfig(**SMALL)),
        ("ViT", SQUARE),
        {"pooler": pooler, "cls": first, "mean": patches(1)},
    ),
    "vit without pooler": Tiny(
        lambda: tf.ViTModel(tf.ViTConfig(**SMALL), add_pooling_layer=False),
        ("ViT", SQUARE),
        {"cls": first, "mean": patches(1)},
    ),
    "deit": Tiny(
        lambda: tf.DeiTModel(tf.DeiTConfig(**SMALL), add_pooling_layer=False),
        ("DeiT", {"size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}}),
        {"cls": first, "mean": patches(2)},
    ),
    "dinov2": Tiny(
        lambda: tf.Dinov2Model(tf.Dinov2Config(**SMALL)),
        ("Bit", CROPPED),
        {"pooler": pooler, "cls": first, "mean": patches(1)},
    ),
    "dinov2 with registers": Tiny(
        lambda: tf.Dinov2WithRegistersModel(tf.Dinov2WithRegistersConfig(**SMALL, num_register_tokens=3)),
        ("Bit", CROPPED),
        {"pooler": pooler, "cls": first, "mean": patches(4)},
    ),
    "swin": Tiny(
        lambda: tf.SwinModel(tf.SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2])),
        ("ViT", SQUARE),
        {"pooler": pooler, "mean": patches(0)},
    ),
    "resnet": Tiny(
        lambda: convolutions("ResNet"),
        ("ConvNext", {"size": {"shortest_edge": 32}}),
        {"pooler": pooler, "mean": places},
    ),
    "convnext": Tiny(
        lambda: convolutions("ConvNext"),
        ("ConvNext", {"size": {"shortest_edge": 32}}),
        {"pooler": pooler, "mean": places},
    ),
    "clip": Tiny(
        lambda: dual("CLIP"),
        ("CLIP", CROPPED),
        {"features": features, "pooler": of_tower(pooler), "cls": of_tower(first), "mean": of_tower(patches(1))},
    ),
    "siglip": Tiny(
        lambda: dual("Siglip"),
        ("Siglip", SQUARE),
        {"features": features, "pooler": of_tower(pooler), "mean": of_tower(patches(0))},
    ),
}


def save(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """A model and its processor in a folder, and both as they are in the library."""
    torch.manual_seed(0)
    tiny = TINY[name]
    model = tiny.build().to(dtype).eval()
    made = processor(tf, tiny.processor[0], **tiny.processor[1])
    with quiet():
        model.save_pretrained(folder)
        made.save_pretrained(folder)
    return model, made


CASES = [(name, pooling) for name, tiny in TINY.items() for pooling in [None, *tiny.poolings]]


@pytest.mark.parametrize(("name", "pooling"), CASES)
def test_an_encoder_is_that_of_the_library(name: str, pooling: str | None, tmp_path: Path) -> None:
    model, made = save(tmp_path / "m", name)
    opened = open_model(f"hf:{tmp_path / 'm'}", pooling=pooling)
    chosen = pooling or next(iter(TINY[name].poolings))
    assert opened.about["pooling"] == chosen
    assert opened.about["library"] == f"transformers {tf.__version__}"
    assert any(f"pooling {chosen}" in one for one in opened.remarks)
    assert opened.preprocessing is not None
    images = shown(opened.preprocessing, tmp_path)
    with torch.no_grad():
        theirs = TINY[name].poolings[chosen](model, made(pictures(), return_tensors="pt")["pixel_values"])
        mine = opened.embed(images)
    assert mine.shape == theirs.shape
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert (theirs - theirs[0]).abs().max() > 1e-3
    wrapped = WrappedModel(opened.embed)
    wrapped.examine(images)
    assert (wrapped.faults, wrapped.differentiable, wrapped.random) == ([], True, False)


@pytest.mark.parametrize("name", TINY)
def test_gradients_from_the_pixels_are_those_of_finite_differences(name: str, tmp_path: Path) -> None:
    save(tmp_path, name)
    opened = open_model(f"hf:{tmp_path}")
    assert isinstance(opened.embed, nn.Module)
    assert opened.preprocessing is not None
    size = opened.preprocessing.size
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    assert slope_error(opened.embed.double(), images) < 1e-4


@pytest.mark.parametrize("pooling", ["pooler", "cls", "mean"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype, pooling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model, _ = save(tmp_path / "m", "vit", dtype)
    opened = open_model(f"hf:{tmp_path / 'm'}", pooling=pooling)
    assert opened.preprocessing is not None
    images = shown(opened.preprocessing, tmp_path)
    z = opened.embed(images)
    said = {torch.float16: "stored in float16; without a GPU the model computes in float32", torch.bfloat16: "bfloat16"}
    assert any(said[dtype] in one for one in opened.remarks)
    assert z.dtype == {torch.float16: torch.float32, torch.bfloat16: torch.bfloat16}[dtype]
    exact = TINY["vit"].poolings[pooling](model.float(), (images - 0.5) / 0.5)
    assert (z.float() - exact).abs().max() < {torch.float16: 1e-4, torch.bfloat16: 0.1}[dtype] * exact.abs().max()
    wrapped = WrappedModel(opened.embed)
    wrapped.examine(images)
    assert (wrapped.faults, wrapped.differentiable) == ([], True)


def test_float16_stays_where_there_is_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    save(tmp_path, "vit", torch.float16)
    opened = open_model(f"hf:{tmp_path}")
    assert isinstance(opened.embed, nn.Module)
    assert {one.dtype for one in opened.embed.parameters()} == {torch.float16}
    assert any("computes in float16, as stored" in one for one in opened.remarks)


def test_a_pooler_without_weights_is_not_used(tmp_path: Path) -> None:
    save(tmp_path, "vit without pooler")
    with pytest.raises(HoldfastError, match="its files hold no weights of its pooler; possible: cls, mean"):
        open_model(f"hf:{tmp_path}", pooling="pooler")


@pytest.mark.parametrize(
    ("name", "pooling"), [("resnet", "cls"), ("swin", "cls"), ("siglip", "cls"), ("vit", "features")]
)
def test_a_pooling_that_a_model_has_not(name: str, pooling: str, tmp_path: Path) -> None:
    save(tmp_path, name)
    with pytest.raises(HoldfastError, match=f"cannot have pooling {pooling}: it has none; possible: .*mean"):
        open_model(f"hf:{tmp_path}", pooling=pooling)


def test_a_network_with_its_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = tf.ViTForImageClassification(tf.ViTConfig(**SMALL)).eval()
    for one in (whole, processor(tf, "ViT", **SQUARE)):
        one.save_pretrained(tmp_path)
    opened, pixels = open_model(f"hf:{tmp_path}"), torch.rand(2, 3, 32, 32)
    assert opened.about["pooling"] == "cls"  # the classifier's network has no pooler
    expected = whole.vit(pixel_values=(pixels - 0.5) / 0.5).last_hidden_state[:, 0]
    torch.testing.assert_close(opened.embed(pixels), expected)


# --- what cannot be opened


def config(folder: Path, **change: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | change))


def text_only(folder: Path) -> None:
    shutil.rmtree(folder)
    words = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    with quiet():
        tf.BertModel(tf.BertConfig(**words, intermediate_size=8)).save_pretrained(folder)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")


def fewer(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if "layernorm" not in k}, folder / "model.safetensors", {"format": "pt"})


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no such folder": (shutil.rmtree, "names no model: there is no such folder"),
    "no config": (lambda f: (f / "config.json").unlink(), "holds no model of transformers: it has no config.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds no weights: it has no .safetensors"),
    "a pickle": (pickled, "pytorch_model.bin is a pickle, which is not loaded: save it again as safetensors"),
    "a text model": (text_only, "holds a bert model, which takes no images"),
    "no processor": (lambda f: (f / "preprocessor_config.json").unlink(), "does not say how its model is shown images"),
    "unknown kind": (lambda f: config(f, model_type="vitt"), "has no model 'vitt'; a newer version may"),
    "no kind": (lambda f: config(f, model_type=None), "has no model None"),
    "code of its own": (
        lambda f: config(f, model_type="mine", auto_map={"AutoModel": "code.Net"}),
        "has no model 'mine'.*code that comes with a model is never run",
    ),
    "another size": (lambda f: config(f, hidden_size=64), "transformers cannot open"),
    "nonsense": (lambda f: config(f, hidden_size="wide"), "transformers cannot"),
    "another image": (lambda f: config(f, image_size=64), "transformers cannot open|fails on an image of 32 pixels"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "has no model None"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json"),
    "cut short": (lambda f: (f / "model.safetensors").write_bytes(b"\x20" + bytes(40)), "transformers cannot open"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors: it is empty"),
    "a pointer": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid x"),
        "Git LFS pointer",
    ),
    "some weights": (fewer, "lacks .* tensors of its model, such as .*layernorm"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_opened_says_so_in_one_line(fault: str, tmp_path: Path, refused: Refuse) -> None:
    folder = tmp_path / "m"
    save(folder, "vit")
    spoil, message = FAULTS[fault]
    spoil(folder)
    with pytest.raises(HoldfastError, match=message) as caught:
        open_model(f"hf:{folder}")
    assert "\n" not in str(caught.value)
    assert str(caught.value) in refused("evaluate", f"hf:{folder}", "--data", "digits")


def test_what_does_not_go_with_it(tmp_path: Path) -> None:
    save(tmp_path, "vit")
    with pytest.raises(HoldfastError, match="unknown pooling 'cslt'; did you mean 'cls'"):
        open_model(f"hf:{tmp_path}", pooling="cslt")
    with pytest.raises(HoldfastError, match="names the pooling cls already; leave out mean"):
        open_model(f"hf:{tmp_path}:cls", pooling="mean")
    assert open_model(f"hf:{tmp_path}:mean").about["pooling"] == "mean"
    assert open_model(f"hf:{tmp_path}:mean", pooling="mean").word == f"hf:{tmp_path}:mean"
    with pytest.raises(HoldfastError, match=r"brings its own weights; leave out w\.safetensors"):
        open_model(f"hf:{tmp_path}", weights="w.safetensors")
    with pytest.raises(HoldfastError, match="--pooling goes with hf: models"):
        open_model("zoo:digits-none-r", pooling="cls")


def test_the_library_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(HoldfastError, match=r"pip install 'holdfast\[hf\]'"):
        open_model("hf:x")


# --- on the Hub


def test_what_is_fetched_is_neither_code_nor_a_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, asked = pytest.importorskip("huggingface_hub"), list[Any]()
    save(tmp_path / "m", "vit")

    def snapshot(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.extend([repository, revision])
        files = ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "code.py", "pytorch_model.bin"]
        assert list(hub.utils.filter_repo_objects(files, allow_patterns=allow_patterns)) == files[:3]
        return str(tmp_path / "m")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    open_model("hf:owner/name@v2")
    assert asked == ["owner/name", "v2"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "owner/name cannot be fetched: it is gated: ask for access"),
        ("RepositoryNotFoundError", "there is no such repository, or it is private"),
        ("LocalEntryNotFoundError", "the Hub cannot be reached"),
        ("OfflineModeIsEnabled", "the Hub cannot be reached"),
    ],
)
@pytest.mark.parametrize("prefix", ["hf", "st"])
def test_a_model_that_cannot_be_fetched(prefix: str, kind: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    if prefix == "st":
        pytest.importorskip("sentence_transformers")

    def snapshot(*_: object, **__: object) -> None:
        raise type(kind, (OSError,), {})("some\nlines")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    with pytest.raises(HoldfastError, match=message) as caught:
        open_model(f"{prefix}:owner/name")
    assert "\n" not in str(caught.value)


# --- from end to end


def test_it_is_evaluated_and_said_what_it_is(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "m", "dinov2")
    options = ["--data", "digits", "--eps", "0.2", "--protocol", "worst", "--max-queries", "4", "--no-checks"]
    status, out, err = call("evaluate", "hf:m", "--pooling", "mean", *options)
    assert (status, err.count("Traceback")) == (0, 0)
    assert "note: the embedding is the mean over all places of the image (pooling mean)" in out
    (result,) = tmp_path.glob("evaluations/hf-m-mean/*/result.json")
    content = json.loads(result.read_text())
    assert content["model"]["pooling"] == "mean"
    assert (content["data"]["resize"], content["data"]["interpolation"]) == (36, "bicubic")


def test_an_index_knows_its_model_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "m", "dinov2")
    (tmp_path / "photos").mkdir()
    for i, picture in enumerate(pictures()):
        picture.save(tmp_path / "photos" / f"{i}.png")
    embed_files("photos", "hf:m", "i.npz", pooling="mean", quiet=True)
    monkeypatch.chdir(tmp_path / "photos")
    index = Index.load(tmp_path / "i.npz")
    opened = open_model(f"hf:{tmp_path / 'm'}", pooling="mean")
    assert index.preprocessing == opened.preprocessing
    again: Embed = model_of(index)
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(again(pixels), opened.embed(pixels))
