"""C2F2, the network of the paper for 28-pixel images."""

from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.models.backbones.base import Backbone
from holdfast.util.errors import HoldfastError


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


BACKBONE = Backbone(C2F2, summary="2 conv + 2 linear layers for small images (28 px)", fixed_size=True)
