"""``onnx:FILE``: a network in onnxruntime on the CPU, which gives no gradients (extra ``onnx``)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast.core.batching import fixed_batch
from holdfast.models.adapters.base import OpenedModel, named
from holdfast.models.preprocessing import Preprocessing
from holdfast.util.errors import HoldfastError, brief, nearest, printable, shown
from holdfast.util.extras import require

PRECISIONS = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(double)": np.float64}
OUTPUT = "embeddings"
"""Of several outputs the one that counts."""
ASSUMED = (
    "the ONNX file does not say what pixels it takes: they are given as they are, in [0, 1]; if it wants them "
    "normalised, give --mean and --std"
)


class OnnxNetwork:
    """What an ``.onnx`` file computes: images (n, C, H, W) in [0, 1] to vectors (n, D), on the CPU.

    ``mean`` and ``std``: of pixels in units of [0, 1], (1 or C, 1, 1), where the network takes them normalised.
    """

    mean: Tensor | None = None
    std: Tensor | None = None

    def __init__(self, path: Path) -> None:
        runtime = require("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise HoldfastError(f"onnxruntime cannot open {path} ({brief(error)})") from error
        self.input, self.shape = _input(path, self.session.get_inputs())
        self.output = _output(path, self.session.get_outputs())
        meta = self.session.get_modelmeta().custom_metadata_map
        self.facts: Mapping[str, str] = {name: printable(text)[:200] for name, text in meta.items()}

    def __call__(self, images: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, D)."""
        batch = self.shape[0]
        if isinstance(batch, int):
            return fixed_batch(self._run, images, width=batch)
        return self._run(images)

    def _run(self, images: Tensor) -> Tensor:
        pixels = images.detach().cpu()
        if self.mean is not None and self.std is not None:
            pixels = (pixels - self.mean) / self.std
        (z,) = self.session.run([self.output], {self.input.name: pixels.numpy().astype(PRECISIONS[self.input.type])})
        return torch.from_numpy(z)

    @property
    def own(self) -> bool:
        """Whether ``holdfast export`` wrote the file: mean and std are inside."""
        return "holdfast" in self.facts

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The size and channels that the input's shape fixes, or holdfast's metadata; None without a size."""
        _, channels, height, _ = self.shape
        said = [self.facts.get(name, "") for name in ("size", "channels")] if self.own else ["", ""]
        size, colours = (int(one) if one.isdecimal() and len(one) < 6 else 0 for one in said)
        size, colours = (one if isinstance(one, int) else other for one, other in ((height, size), (channels, colours)))
        return Preprocessing(size, channels=colours or 3) if size else None


def open_onnx(word: str, weights: Path | None = None, best: bool = False) -> OpenedModel:
    """Size and channels are those of the input's shape, where it fixes them.

    Raises HoldfastError where there is no such file, or it takes anything but images.
    """
    path = Path(word.removeprefix("onnx:"))
    if weights is not None:
        raise HoldfastError(f"{word} brings its own weights; leave out {weights}")
    if not path.is_file():
        raise HoldfastError(f"there is no file {path}{'' if path.exists() else nearest(path)}")
    network = OnnxNetwork(path)
    opened = named(word, network, None, network.preprocessing)
    said = {name: network.facts[name] for name in ("recipe", "backbone") if network.own and name in network.facts}
    remarks = () if network.own else (ASSUMED,)
    return replace(opened, name=path.stem, about={**opened.about, **said}, black_box=True, remarks=remarks)


def normalised_by(opened: OpenedModel, mean: Sequence[float] | None, std: Sequence[float] | None) -> OpenedModel:
    """The same, given ``(pixels - mean) / std``, one value for all channels or one for each.

    Raises HoldfastError for any model but an ONNX file that leaves it open.
    """
    if not isinstance(opened.embed, OnnxNetwork) or opened.embed.own:
        raise HoldfastError(
            f"--mean and --std go with onnx:FILE that holdfast did not write; {opened.name} has its own inside"
        )
    network = opened.embed
    channels = network.shape[1] if isinstance(network.shape[1], int) else 3
    given = {"mean": mean, "std": std}
    for name, values in given.items():
        if values is None or len(values) not in (1, channels) or not all(np.isfinite(values)):
            raise HoldfastError(
                f"--mean and --std are numbers in units of [0, 1], one or {channels} each, as 0.485,0.456,0.406; "
                f"{name} is {shown(values)}"
            )
    if min(std or ()) <= 0:
        raise HoldfastError(f"--std is above 0, not {shown(std)}")
    network.mean, network.std = (torch.tensor(values).view(-1, 1, 1) for values in given.values())
    about = {**opened.about, **{name: list(values or ()) for name, values in given.items()}}
    return replace(opened, about=about, remarks=())


def _input(path: Path, inputs: Sequence[Any]) -> tuple[Any, list[Any]]:
    """The one input, and its shape (n, C, H, W), an int where that is fixed."""
    listed = ", ".join(f"{printable(one.name)} {one.type} {shown(one.shape)}" for one in inputs) or "none"
    wrong = HoldfastError(f"{path} takes {listed}; holdfast gives one tensor(float) of images (n, C, H, W)")
    if len(inputs) != 1 or inputs[0].type not in PRECISIONS or len(inputs[0].shape) != 4:
        raise wrong
    _, channels, height, width = inputs[0].shape
    if isinstance(channels, int) and channels not in (1, 3):
        raise wrong
    if isinstance(height, int) and isinstance(width, int) and height != width:
        raise HoldfastError(f"{path} takes images of {height}x{width} pixels, and holdfast gives square ones only")
    return inputs[0], inputs[0].shape


def _output(path: Path, outputs: Sequence[Any]) -> str:
    names = [one.name for one in outputs]
    if len(names) > 1 and OUTPUT not in names:
        listed = ", ".join(map(printable, names))
        raise HoldfastError(f"{path} gives {listed}: keep one of them, or name the one that counts {OUTPUT!r}")
    return OUTPUT if OUTPUT in names else str(names[0])
