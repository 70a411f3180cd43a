"""Tiny encoders with random weights, saved as their libraries save them, and pictures of several shapes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from holdfast.core.pgd import Embed
from holdfast.data import Table
from holdfast.models.preprocessing import Preprocessing

SHAPES = ((53, 81), (60, 75), (67, 67), (74, 63), (40, 33), (31, 90))
SMALL: dict[str, Any] = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    **{"image_size": 32, "patch_size": 8, "initializer_range": 0.3},
}


def pictures() -> list[Image.Image]:
    """Images of several shapes, smooth on the left and noise on the right."""
    generator, found = np.random.default_rng(0), []
    for height, width in SHAPES:
        smooth = np.linspace(0, 255, height * width * 3).reshape(height, width, 3)
        noise = generator.integers(0, 256, (height, width, 3))
        found.append(Image.fromarray(np.where(np.arange(width)[:, None] < width // 2, smooth, noise).astype(np.uint8)))
    return found


def shown(preprocessing: Preprocessing, folder: Path) -> Tensor:
    """The pictures as holdfast shows them to a model, read from files: (n, C, size, size)."""
    paths = tuple(folder / f"{i}.png" for i in range(len(SHAPES)))
    for path, picture in zip(paths, pictures(), strict=True):
        picture.save(path)
    table = Table.build("pictures", paths, [0, 0, 1, 1, 2, 2], ["test"] * len(paths))
    images, readable = preprocessing.pixels(table).read(torch.arange(len(paths)))
    assert readable.all()
    return images


STRIDE = 1e-7
"""Of finite differences in float64: so short that hardly any ReLU turns within it."""


def slope_error(embed: Embed, images: Tensor) -> float:
    """How far the gradient of an embedding from the pixels is from finite differences, as a share of these.

    ``embed`` is to compute in float64.
    """
    generators = torch.Generator().manual_seed(0)
    pixels = images[:2].double().requires_grad_()
    z = embed(pixels)
    weights = torch.randn(z.shape, generator=generators, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((z * weights).sum(), pixels)
    worst = 0.0
    for _ in range(4):
        direction = torch.randn(pixels.shape, generator=generators, dtype=torch.float64)
        with torch.no_grad():
            ahead, behind = (((embed(pixels + h * direction)) * weights).sum() for h in (STRIDE, -STRIDE))
        slope = ((ahead - behind) / (2 * STRIDE)).item()
        worst = max(worst, abs((gradient * direction).sum().item() - slope) / abs(slope))
    return worst


def processor(library: Any, name: str, **settings: Any) -> Any:
    """An image processor of transformers that works with Pillow alone."""
    kind = getattr(library, f"{name}ImageProcessorPil", None) or getattr(library, f"{name}ImageProcessor")
    return kind(**settings)


def write_processor(folder: Path, content: dict[str, Any]) -> Path:
    """A folder that says how images are shown, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder
