"""Image encoders of sentence-transformers: against :meth:`encode` of the library; and what cannot be opened."""

import json
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from holdfast.data.pixels import to_image
from holdfast.models.open import open_model
from holdfast.models.wrapped import WrappedModel
from holdfast.util.errors import HoldfastError
from holdfast.util.extras import quiet
from tests.helpers.encoders import SMALL, pictures, processor, shown, slope_error

library: Any = pytest.importorskip("sentence_transformers")
tf: Any = pytest.importorskip("transformers")
modules: Any = pytest.importorskip("sentence_transformers.base.modules")
Pooling: Any = pytest.importorskip("sentence_transformers.sentence_transformer.modules").Pooling


def save(folder: Path, pooling: str = "mean", dense: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    """A ViT with a module that pools, and perhaps one more, in a folder and as it is in the library."""
    torch.manual_seed(0)
    inner = folder.parent / f"{folder.name}-inner"
    with quiet():
        tf.ViTModel(tf.ViTConfig(**SMALL)).to(dtype).save_pretrained(inner)
        processor(tf, "ViT", size={"height": 32, "width": 32}, resample=3).save_pretrained(inner)
        parts = [modules.Transformer(str(inner)), Pooling(32, pooling)]
        parts += [modules.Dense(32, 12)] if dense else []
        model = library.SentenceTransformer(modules=parts, device="cpu")
        model.save(str(folder))
    return model


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_an_encoder_embeds_as_the_library_does(pooling: str, dense: bool, tmp_path: Path) -> None:
    model = save(tmp_path / "m", pooling, dense)
    opened = open_model(f"st:{tmp_path / 'm'}")
    assert opened.about["library"] == f"sentence-transformers {library.__version__}"
    assert opened.about["pooling"] == "Transformer, Pooling" + ", Dense" * dense
    assert opened.preprocessing is not None
    images = shown(opened.preprocessing, tmp_path)
    resized = find_spec("torchvision") is not None  # transformers would resize with it, and otherwise
    given = [to_image(one) for one in images] if resized else pictures()
    theirs = model.encode(given, convert_to_tensor=True, show_progress_bar=False)
    torch.testing.assert_close(opened.embed(images), theirs, rtol=1e-5, atol=1e-6)
    assert (theirs - theirs[0]).abs().max() > 1e-3
    wrapped = WrappedModel(opened.embed)
    wrapped.examine(images)
    assert (wrapped.faults, wrapped.differentiable) == ([], True)


def test_gradients_from_the_pixels_are_those_of_finite_differences(tmp_path: Path) -> None:
    save(tmp_path / "m", dense=True)
    embed = open_model(f"st:{tmp_path / 'm'}").embed
    assert isinstance(embed, nn.Module)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert slope_error(embed.double(), images) < 1e-4


def test_float16_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    save(tmp_path / "m", dtype=torch.float16)
    opened = open_model(f"st:{tmp_path / 'm'}")
    assert any("stored in float16; without a GPU" in one for one in opened.remarks)
    assert opened.embed(torch.rand(2, 3, 32, 32)).dtype == torch.float32


def text_only(folder: Path) -> None:
    shutil.rmtree(folder)
    inner = folder.parent / "words"
    words = {"vocab_size": 5, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    inner.mkdir()
    (inner / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nword\n")
    with quiet():
        tf.BertModel(tf.BertConfig(**words, intermediate_size=8)).save_pretrained(inner)
        tf.BertTokenizerFast(str(inner / "vocab.txt")).save_pretrained(inner)
        parts = [modules.Transformer(str(inner)), Pooling(8)]
        library.SentenceTransformer(modules=parts, device="cpu").save(str(folder))


def listed(folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    content = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(change(content)))


def pickled(folder: Path) -> None:
    (folder / "2_Dense" / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, folder / "2_Dense" / "pytorch_model.bin")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no such folder": (shutil.rmtree, "names no model: there is no such folder"),
    "no modules": (lambda f: (f / "modules.json").unlink(), r"it has no modules\.json"),
    "no list": (lambda f: (f / "modules.json").write_text("3"), r"modules\.json"),
    "an empty list": (lambda f: listed(f, lambda _: []), "lists no modules"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"holds no weights: it has no \.safetensors"),
    "a pickle": (pickled, r"pytorch_model\.bin is a pickle, which is not loaded"),
    "a text model": (text_only, "takes no images"),
    "no processor": (
        lambda f: (f / "preprocessor_config.json").unlink(),
        "sentence-transformers cannot open|does not say|takes no images",
    ),
    "code from elsewhere": (
        lambda f: listed(f, lambda parts: [parts[0], parts[1] | {"type": "os.path.Pooling"}]),
        "sentence-transformers cannot open",
    ),
    "cut short": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 40), "sentence-transformers cannot open"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_opened_says_so_in_one_line(fault: str, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    save(folder, dense=True)
    spoil, message = FAULTS[fault]
    spoil(folder)
    with pytest.raises(HoldfastError, match=message) as caught:
        open_model(f"st:{folder}")
    assert "\n" not in str(caught.value)


def test_the_library_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(HoldfastError, match=r"pip install 'holdfast\[st\]'"):
        open_model("st:x")


def test_what_does_not_go_with_it() -> None:
    with pytest.raises(HoldfastError, match=r"brings its own weights; leave out w\.safetensors"):
        open_model("st:x", weights="w.safetensors")
    with pytest.raises(HoldfastError, match="--pooling goes with hf: models"):
        open_model("st:x", pooling="cls")
