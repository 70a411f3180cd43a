"""Any model by one word."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.core.pgd import Embed
from holdfast.models import hub, zoo
from holdfast.models.adapters.base import OpenedModel
from holdfast.models.adapters.code import normalised, open_code, said_by
from holdfast.models.adapters.folder import open_folder
from holdfast.models.adapters.hf import open_hf, parted
from holdfast.models.adapters.http import open_http
from holdfast.models.adapters.onnx import normalised_by, open_onnx
from holdfast.models.adapters.open_clip import open_open_clip
from holdfast.models.adapters.program import open_program
from holdfast.models.adapters.st import open_st
from holdfast.models.adapters.timm import open_timm
from holdfast.models.preprocessing import Preprocessing
from holdfast.util.errors import HoldfastError
from holdfast.util.imports import FORMS, is_absent, is_spec

ALLOWED = (
    "a run folder, zoo:NAME, the folder of a saved embedder, OWNER/NAME on the Hub, timm:NAME, hf:ID-or-folder, "
    f"st:ID-or-folder, open_clip:ARCH:PRETRAINED, program:FILE.pt2, onnx:FILE, http://host/path, {FORMS}"
)


Adapter = Callable[[str, Path | None, bool], OpenedModel]
"""From a word, a file of weights and the wish for a run's best weights to an opened model."""

ADAPTERS: dict[str, Adapter] = {
    "zoo": open_folder,
    "timm": open_timm,
    "hf": open_hf,
    "st": open_st,
    "open_clip": open_open_clip,
    "program": open_program,
    "onnx": open_onnx,
    "http": open_http,
    "https": open_http,
}
"""By what stands before the colon of a word."""


def open_model(
    model: str | Path | Embed | OpenedModel,
    *,
    weights: str | Path | None = None,
    size: int | None = None,
    resize: int | None = None,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    best: bool = False,
    pooling: str | None = None,
) -> OpenedModel:
    """The model that a word names, or an object of one's own, ready to embed.

    Args:
        model: a run folder, ``zoo:NAME``, the folder of a saved embedder, ``OWNER/NAME`` on the Hub, ``timm:NAME``,
            ``hf:ID-or-folder[:POOLING]``, ``st:ID-or-folder``, ``open_clip:ARCH:PRETRAINED-or-file``,
            ``program:FILE.pt2``, ``onnx:FILE``, ``http://host/path``, ``package.module:attribute`` or
            ``path/to/file.py:attribute`` (whose code is run), or any callable from images (n, C, H, W) in [0, 1] to
            vectors (n, D).
        weights: a ``.safetensors`` or ``.pth`` file for a network that a word names.
        size: side of the images in pixels, where the model does not say it or another is wanted; a run has its own.
        resize: side before the centre crop, likewise.
        channels: 1 or 3, likewise.
        mean: that an ONNX file from elsewhere wants taken away from pixels, in units of [0, 1], one value for all
            channels or one for each.
        std: that it wants them divided by then, likewise.
        best: the weights of a run's best validation.
        pooling: of ``hf:``, what becomes the embedding: ``pooler``, ``cls`` or ``mean``; by default the model's own.

    Raises HoldfastError where there is no such model, or what is given does not go with it.
    """
    given: dict[str, Any] = {"size": size, "resize": resize, "channels": channels}
    said = {name: value for name, value in given.items() if value is not None}
    if not isinstance(model, str | Path):
        if not callable(model) and not isinstance(model, OpenedModel):
            raise HoldfastError(f"a model is a word, a path, or a callable from images to vectors, not {model!r}")
        opened = model if isinstance(model, OpenedModel) else _object(model)
        if weights is not None or best or pooling is not None:
            raise HoldfastError(f"{opened.name} is a model already: it takes neither weights, best nor pooling")
    else:
        opened = _adapter(str(model), pooling)(str(model), None if weights is None else Path(weights), best)
    if mean is not None or std is not None:
        opened = normalised_by(opened, mean, std)
    if best and opened.folder is None:
        raise HoldfastError(f"{model} is no run folder, and only a run has best weights: leave out --best")
    if opened.folder is not None and said:
        raise HoldfastError(f"--{next(iter(said))} goes with other models; the run {opened.word} has its own")
    if said and "size" not in said and opened.preprocessing is None:
        raise HoldfastError(f"--{next(iter(said))} needs --size as well: {opened.name} does not say what size it takes")
    return replace(opened, preprocessing=replace(opened.preprocessing or Preprocessing(), **said)) if said else opened


def _object(model: Embed) -> OpenedModel:
    embed, remarks = normalised(model)
    return OpenedModel(embed, "model", preprocessing=said_by(model), remarks=remarks)


def _adapter(text: str, pooling: str | None) -> Adapter:
    prefix, colon, _ = text.partition(":")
    if pooling is not None:
        if not colon or prefix != "hf":
            raise HoldfastError(f"--pooling goes with hf: models; {text} has its own")
        return partial(open_hf, pooling=pooling)
    if colon and prefix in ADAPTERS:
        return ADAPTERS[prefix]
    if (text and Path(text).is_dir()) or (not is_spec(text) and hub.ID.fullmatch(text)):
        return open_folder
    near = get_close_matches(prefix, ADAPTERS, n=1) if colon else []
    if is_spec(text) and not (near and is_absent(prefix)):
        return open_code
    found = "it is a file, not a folder" if Path(text).is_file() else "no folder has this name"
    hint = f"; did you mean {near[0]}:{text.partition(':')[2]}?" if near else ""
    raise HoldfastError(f"{text!r} names no model, and {found}{hint}; allowed: {ALLOWED}")


def lasting(word: str) -> str:
    """``word`` as it names the same model from any working directory, where it names a folder or file."""
    where, _, name = word.rpartition(":")
    if where.endswith(".py"):
        return f"{Path(where).resolve()}:{name}"
    place, pooling = parted(word) if word.startswith("hf:") else ("", None)
    if pooling is not None and Path(place).exists():
        return f"hf:{Path(place).resolve()}:{pooling}"
    if where.partition(":")[0] in ADAPTERS.keys() - {"zoo", "timm"} and Path(name).exists():
        return f"{where}:{Path(name).resolve()}"
    return str(Path(word).resolve()) if Path(word).is_dir() and not zoo.is_entry(word) else word
