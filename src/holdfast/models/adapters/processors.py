"""``preprocessor_config.json``: how a library of Hugging Face shows a model images, read without that library."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from pydantic import Field
from typing_extensions import TypedDict

from holdfast.data.resizing import Resizing
from holdfast.models.preprocessing import Preprocessing
from holdfast.util.errors import HoldfastError, unknown, within
from holdfast.util.validate import Count, Number, Positive, Text, check, read_json

FILES = ("preprocessor_config.json", "processor_config.json")
"""Where it says so; in the second one under ``image_processor``."""

PerChannel = Annotated[list[Number], Field(min_length=1)]


@dataclass(frozen=True)
class Kind:
    """What an image processor does where its file does not say: squashed or by the shorter side, cropped, resampled."""

    fit: str
    crops: bool
    resample: Image.Resampling = Image.Resampling.BICUBIC


KINDS = {
    **dict.fromkeys(("CLIP", "ChineseCLIP", "Bit"), Kind("shortest", crops=True)),
    **dict.fromkeys(("Siglip", "Blip", "Beit", "Pvt"), Kind("squash", crops=False)),
    **dict.fromkeys(("MobileNetV1", "MobileNetV2"), Kind("shortest", True, Image.Resampling.BILINEAR)),
    **dict.fromkeys(("ViT", "DINOv3ViT"), Kind("squash", False, Image.Resampling.BILINEAR)),
    **{"DeiT": Kind("squash", crops=True), "ConvNext": Kind("shortest", crops=False)},
}
"""By the name of the processor's class, without ImageProcessor or FeatureExtractor."""
CONVNEXT_CROPS_BELOW = 384


class _Config(TypedDict, total=False):
    image_processor_type: Text
    feature_extractor_type: Text
    size: Count | dict[str, Count] | list[Count]
    crop_size: Count | dict[str, Count] | list[Count]
    crop_pct: Positive | None
    resample: Annotated[int, Field(ge=0, le=5)]
    do_center_crop: bool | None
    do_resize: bool | None
    do_rescale: bool | None
    do_normalize: bool | None
    do_pad: bool | None
    rescale_factor: Positive
    image_mean: PerChannel
    image_std: PerChannel


@dataclass(frozen=True)
class Processor:
    """How images are shown: what is done to their pixels beforehand, and what lies inside the model."""

    preprocessing: Preprocessing
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_processor(folder: Path) -> Processor:
    """What a model's folder says. Raises HoldfastError where it says nothing, or what holdfast does not do."""
    found = [folder / name for name in FILES if (folder / name).is_file()]
    if not found:
        raise HoldfastError(f"{folder} does not say how its model is shown images: it has no {FILES[0]}")
    content = read_json(found[0])
    if isinstance(content, dict) and found[0].name == FILES[1]:
        content = content.get("image_processor")
    check(_Config, content, str(found[0]))
    with within(found[0]):
        return _processor(content)


def _processor(config: dict[str, Any]) -> Processor:
    said = config.get("image_processor_type") or config.get("feature_extractor_type") or ""
    name = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", said)
    if name not in KINDS:
        raise unknown("image processor", name, KINDS)
    for key, wanted in {"do_resize": True, "do_pad": False}.items():
        if (value := config.get(key)) not in (None, wanted):
            raise HoldfastError(f"{key} is {str(value).lower()}: images are to be resized to one size, and not padded")
    mean, std = _statistics(config)
    return Processor(_preprocessing(name, KINDS[name], config, len(mean)), mean, std)


def _preprocessing(name: str, kind: Kind, config: dict[str, Any], channels: int) -> Preprocessing:
    fit, side = _side("size", config.get("size"), kind.fit)
    crops = config.get("do_center_crop")
    size = (
        _side("crop_size", config.get("crop_size"), "squash")[1] if (kind.crops if crops is None else crops) else None
    )
    if name == "ConvNext" and side < CONVNEXT_CROPS_BELOW:
        size, side = size or side, int(side / (config.get("crop_pct") or 224 / 256))
    elif name == "ConvNext":
        fit = "squash"
    if size is None and fit != "squash":
        raise HoldfastError("images keep their shape and are not cropped: holdfast takes square ones only")
    if size is not None and size > side:
        raise HoldfastError(f"a crop of {size} from a side of {side} would be padded: holdfast takes whole images only")
    resampling = Image.Resampling(config.get("resample", kind.resample)).name.lower()
    return Preprocessing(size or side, side, channels, Resizing(resampling, fit))


def _side(what: str, value: Any, fit: str) -> tuple[Any, int]:
    """How an image is fitted, and to which side."""
    match value:
        case int():
            return fit, value
        case [int(height), int(width)] if height == width:
            return "squash", height
        case {"height": int(height), "width": int(width)} if height == width:
            return "squash", height
        case {"shortest_edge": int(side), **others} if not others:
            return "shortest", side
    raise HoldfastError(f"{what} is {value}: holdfast takes square images, or the middle of those of a shortest_edge")


def _statistics(config: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of pixels in [0, 1], whatever they are scaled by before."""
    scale = 255 * config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) is not False else 255.0
    if config.get("do_normalize") is False:
        return (0.0,) * 3, (1 / scale,) * 3
    absent = [name for name in ("image_mean", "image_std") if name not in config]
    if absent:
        raise HoldfastError(f"it lacks {' and '.join(absent)}")
    mean, std = config["image_mean"], config["image_std"]
    if len(mean) != len(std) or len(mean) not in (1, 3) or not all(one > 0 for one in std):
        raise HoldfastError(f"image_mean {mean} and image_std {std} are 1 or 3 numbers each, std above 0")
    return tuple(one / scale for one in mean), tuple(one / scale for one in std)
