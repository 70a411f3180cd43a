"""Networks by name: normalised pixels (B, channels, H, W) -> (B, dim), before the L2 normalisation."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.models import resnet
from holdfast.util.errors import HoldfastError, unknown
from holdfast.util.extras import require

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A kind of network.

    ``build(dim, channels, size)`` makes one with fresh weights. ``mean`` and ``std`` of its input pixels are in
    the units of [0, 1], one per channel it was meant for. With ``fixed_size`` it takes size x size pixels only.
    """

    build: Callable[[int, int, int], nn.Module]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    summary: str
    fixed_size: bool = False


class C2F2(nn.Module):
    """Two 5x5 convolutions and two linear layers, (B, channels, size, size) -> (B, dim).

    Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR 2018.
    Pooling comes before ReLU: the two commute, and fewer values are rectified.
    """

    def __init__(self, dim: int, channels: int, size: int) -> None:
        super().__init__()
        if size < 4:
            raise HoldfastError(f"c2f2 halves its input twice and needs images of at least 4 pixels, got {size}")
        self.conv1 = nn.Conv2d(channels, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc1 = nn.Linear(64 * (size // 4) ** 2, 1024)
        self.fc2 = nn.Linear(1024, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = F.relu(self.fc1(x.flatten(1)))
        z: Tensor = self.fc2(x)
        return z


BACKBONES: dict[str, Backbone] = {
    "c2f2": Backbone(C2F2, (0.0,), (1.0,), "2 conv + 2 linear layers for small images (28 px)", fixed_size=True),
    "resnet18": Backbone(
        resnet.resnet18, IMAGENET_MEAN, IMAGENET_STD, "ResNet-18, 11 M parameters, takes ImageNet weights"
    ),
    "resnet34": Backbone(
        resnet.resnet34, IMAGENET_MEAN, IMAGENET_STD, "ResNet-34, 22 M parameters, takes ImageNet weights"
    ),
    "resnet50": Backbone(
        resnet.resnet50, IMAGENET_MEAN, IMAGENET_STD, "ResNet-50, 25 M parameters, takes ImageNet weights"
    ),
}


def find_backbone(name: str) -> Backbone:
    """The backbone called ``name``: one of :data:`BACKBONES`, or ``timm:NAME`` where timm is installed."""
    if name in BACKBONES:
        return BACKBONES[name]
    if name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"))
    raise unknown("backbone", name, [*BACKBONES, "timm:NAME"])


def build_backbone(name: str, dim: int, channels: int, size: int) -> nn.Module:
    """A fresh network ``name`` for (B, channels, size, size) pixels, giving (B, dim)."""
    for what, value in (("dim", dim), ("channels", channels), ("size", size)):
        if not isinstance(value, int) or value < 1:
            raise HoldfastError(f"{what} of a backbone is a positive whole number, got {value!r}")
    return find_backbone(name).build(dim, channels, size)


def _timm(name: str) -> Backbone:
    timm = require("timm", "timm")
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(f'timm:{match}' for match in near)}?" if near else ""
        raise HoldfastError(f"timm {timm.__version__} has no model {name!r}{hint}; timm.list_models() lists them")
    try:
        facts = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise HoldfastError(f"timm:{name}: {error}") from error
    mean, std = (facts.mean, facts.std) if facts else (IMAGENET_MEAN, IMAGENET_STD)
    fixed_size = bool(facts and facts.fixed_input_size)

    def build(dim: int, channels: int, size: int) -> nn.Module:
        options = {"img_size": size} if fixed_size and size != facts.input_size[-1] else {}
        try:
            network: nn.Module = timm.create_model(name, num_classes=dim, in_chans=channels, **options)
        except Exception as error:
            wanted = f"dim {dim}, {channels} channels, size {size}"
            raise HoldfastError(f"timm cannot build {name} for {wanted}: {error}") from error
        return network

    return Backbone(build, tuple(mean), tuple(std), f"{name} of timm", fixed_size)
