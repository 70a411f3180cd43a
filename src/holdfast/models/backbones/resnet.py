"""ResNets with the parameter names that ImageNet weights in circulation use (conv1, layer1.0.conv1, fc, ...).

He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016. A bottleneck strides in its 3x3
convolution, as the published weights expect.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.models.adapters.base import IMAGENET_MEAN, IMAGENET_STD
from holdfast.models.backbones.base import Backbone


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """The projection of a block's input, where its shape differs from the output's."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class Basic(nn.Module):
    """Two 3x3 convolutions around a shortcut: (B, inputs, H, W) -> (B, width, H / stride, W / stride)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut.

    (B, inputs, H, W) -> (B, 4 width, H / stride, W / stride).
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1, self.bn1 = _conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


Block = type[Basic] | type[Bottleneck]


def _stage(block: Block, inputs: int, width: int, count: int, stride: int) -> nn.Sequential:
    """``count`` blocks in a row, of which the first changes the shape."""
    first = block(inputs, width, stride)
    return nn.Sequential(first, *(block(width * block.expansion, width, 1) for _ in range(count - 1)))


class ResNet(nn.Module):
    """Normalised pixels (B, channels, H, W) -> (B, dim), for any H and W.

    ``counts`` has the number of residual blocks in each of the four stages.
    """

    def __init__(self, block: Block, counts: tuple[int, int, int, int], dim: int, channels: int) -> None:
        super().__init__()
        grow = block.expansion
        self.conv1, self.bn1 = _conv(channels, 64, 7, 2), nn.BatchNorm2d(64)
        self.layer1 = _stage(block, 64, 64, counts[0], 1)
        self.layer2 = _stage(block, 64 * grow, 128, counts[1], 2)
        self.layer3 = _stage(block, 128 * grow, 256, counts[2], 2)
        self.layer4 = _stage(block, 256 * grow, 512, counts[3], 2)
        self.fc = nn.Linear(512 * grow, dim)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        z: Tensor = self.fc(x.mean((2, 3)))
        return z


def _backbone(name: str, millions: int, block: Block, counts: tuple[int, int, int, int]) -> Backbone:
    summary = f"{name}, {millions} M parameters, takes ImageNet weights"
    return Backbone(lambda dim, channels, _: ResNet(block, counts, dim, channels), IMAGENET_MEAN, IMAGENET_STD, summary)


RESNET18 = _backbone("ResNet-18", 11, Basic, (2, 2, 2, 2))
RESNET34 = _backbone("ResNet-34", 22, Basic, (3, 4, 6, 3))
RESNET50 = _backbone("ResNet-50", 25, Bottleneck, (3, 4, 6, 3))
