"""Networks with BatchNorm as nobody would leave it, and what it computes from its tensors alone."""

from torch import Tensor, nn


def scattered(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, with random statistics and affine parts."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return network.eval()


def batchnorm(state: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    """What the BatchNorm of a name makes of ``x`` (B, C, H, W) in evaluation mode."""
    mean, var, weight, bias = (
        state[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + eps).sqrt() * weight + bias
