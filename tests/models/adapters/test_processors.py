"""How images are shown: as transformers does it, pixel for pixel, from files new and old; and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.models.adapters.processors import read_processor
from holdfast.models.preprocessing import Preprocessing
from holdfast.util.errors import HoldfastError
from tests.helpers.encoders import pictures, processor, shown, write_processor

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
SQUARE: dict[str, Any] = {"size": {"height": 30, "width": 30}}
CROPPED: dict[str, Any] = {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}}
SETTINGS = [
    ("ViT", SQUARE),
    ("ViT", SQUARE | {"resample": 3, "image_mean": MEAN, "image_std": STD}),
    ("ViT", SQUARE | {"do_normalize": False}),
    ("ViT", SQUARE | {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [60.0] * 3}),
    ("ViT", SQUARE | {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [0.5] * 3}),
    ("DeiT", {"size": {"height": 36, "width": 36}, "crop_size": {"height": 31, "width": 31}}),
    ("CLIP", CROPPED),
    ("CLIP", CROPPED | {"resample": 1}),
    ("CLIP", {"size": {"height": 30, "width": 30}, "do_center_crop": False}),
    ("ChineseCLIP", CROPPED | {"size": {"height": 37, "width": 37}}),
    ("Bit", CROPPED | {"image_mean": MEAN, "image_std": STD}),
    ("Siglip", SQUARE),
    ("Blip", SQUARE),
    ("Beit", SQUARE | {"do_center_crop": False}),
    ("Pvt", SQUARE),
    ("MobileNetV1", CROPPED),
    ("MobileNetV2", CROPPED),
    ("ConvNext", {"size": {"shortest_edge": 32}}),
    ("ConvNext", {"size": {"shortest_edge": 33}, "crop_pct": 0.95}),
    ("ConvNext", {"size": {"shortest_edge": 384}}),
]
OLD = [
    ("CLIP", {"size": 37, "crop_size": 32}),
    ("Bit", {"size": 37, "crop_size": 32}),
    ("ViT", {"size": 30}),
    ("DeiT", {"size": 36, "crop_size": 32}),
    ("ConvNext", {"size": 32}),
    ("MobileNetV2", {"size": 37, "crop_size": 32}),
]


def theirs(made: Any, found: Any) -> torch.Tensor:
    """What the library makes of the pictures, as levels of 8 bits."""
    values = made(pictures(), return_tensors="pt")["pixel_values"]
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (found.mean, found.std))
    return (values * std + mean) * 255


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_the_images_are_those_of_the_library(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    made = processor(pytest.importorskip("transformers"), name, **settings)
    made.save_pretrained(tmp_path)
    found = read_processor(tmp_path)
    levels, mine = theirs(made, found), shown(found.preprocessing, tmp_path) * 255
    assert torch.equal(levels.round(), mine.round())
    assert (levels - mine).abs().max() < 1e-3  # of 255: float32


@pytest.mark.parametrize("typed", ["image_processor_type", "feature_extractor_type"])
@pytest.mark.parametrize(("name", "settings"), OLD)
def test_an_old_file_leaves_to_the_class_what_it_does_not_say(
    name: str, settings: dict[str, Any], typed: str, tmp_path: Path
) -> None:
    made = processor(pytest.importorskip("transformers"), name, image_mean=MEAN, image_std=STD, **settings)
    suffix = "ImageProcessor" if typed.startswith("image") else "FeatureExtractor"
    said = {typed: name + suffix, "image_mean": MEAN, "image_std": STD, **settings}
    found = read_processor(write_processor(tmp_path, said))
    assert torch.equal(theirs(made, found).round(), (shown(found.preprocessing, tmp_path) * 255).round())


def test_a_processor_within_a_processor(tmp_path: Path) -> None:
    inside = write_processor(tmp_path, {**VALID}) / "preprocessor_config.json"
    expected = read_processor(tmp_path)
    (tmp_path / "processor_config.json").write_text(f'{{"image_processor": {inside.read_text()}, "other": 1}}')
    inside.unlink()
    assert read_processor(tmp_path) == expected


@pytest.mark.parametrize("suffix", ["", "Fast", "Pil"])
def test_every_backend_of_a_processor(suffix: str, tmp_path: Path) -> None:
    found = read_processor(write_processor(tmp_path, VALID | {"image_processor_type": f"ViTImageProcessor{suffix}"}))
    assert (found.preprocessing.size, found.preprocessing.channels, found.mean) == (30, 3, tuple(MEAN))


def test_grey_images(tmp_path: Path) -> None:
    found = read_processor(write_processor(tmp_path, VALID | {"image_mean": [0.5], "image_std": [0.5]}))
    assert found.preprocessing == Preprocessing(30, 30, 1)


VALID = {"image_processor_type": "ViTImageProcessor", "size": {"height": 30, "width": 30}}
VALID |= {"image_mean": MEAN, "image_std": STD}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_processor_type": "VitImageProcessor"}, "unknown image processor 'Vit'; did you mean 'ViT'"),
        ({"image_processor_type": "EfficientNetImageProcessor"}, "unknown image processor 'EfficientNet'"),
        ({"image_processor_type": None}, "image_processor_type"),
        ({"size": {"height": 30, "width": 40}}, "holdfast takes square images"),
        ({"size": {"shortest_edge": 30, "longest_edge": 40}}, "holdfast takes square images"),
        ({"size": {"shortest_edge": 30}}, "keep their shape and are not cropped"),
        ({"size": "large"}, "size"),
        ({"size": -3}, "size"),
        ({"size": 10**40}, "size"),
        ({"do_center_crop": True, "crop_size": 31}, "a crop of 31 from a side of 30 would be padded"),
        ({"do_center_crop": True}, "crop_size is None"),
        ({"do_resize": False}, "do_resize is false"),
        ({"do_pad": True}, "do_pad is true"),
        ({"image_std": [0.5, 0.0, 0.5]}, "std above 0"),
        ({"image_std": [0.5]}, "1 or 3 numbers each"),
        ({"image_mean": [0.1] * 4, "image_std": [0.1] * 4}, "1 or 3 numbers each"),
        ({"image_mean": "grey"}, "image_mean"),
        ({"image_mean": [float("nan")] * 3}, "image_mean"),
        ({"resample": 9}, "resample"),
        ({"rescale_factor": 0}, "rescale_factor"),
    ],
)
def test_what_holdfast_does_not_do_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match=message) as caught:
        read_processor(write_processor(tmp_path, VALID | change))
    assert "preprocessor_config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '"ViT"', "\x00", '{"image_processor": 3}'])
def test_a_file_that_says_nothing(text: str, tmp_path: Path) -> None:
    for name in ("processor_config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text(text)
        with pytest.raises(HoldfastError, match=r"config\.json"):
            read_processor(tmp_path)


@pytest.mark.parametrize("name", ["image_mean", "image_std", "size"])
def test_a_file_that_lacks_something(name: str, tmp_path: Path) -> None:
    content = {key: value for key, value in VALID.items() if key != name}
    with pytest.raises(HoldfastError, match=name):
        read_processor(write_processor(tmp_path, content))


def test_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match="does not say how its model is shown images: it has no prep"):
        read_processor(tmp_path)
