"""Networks as no training leaves them."""

from torch import nn


def scattered(network: nn.Module) -> nn.Module:
    """In evaluation mode, with BatchNorm as nobody would leave it: statistics and affine part drawn at random."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return network.eval()
