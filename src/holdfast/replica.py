"""The network as an attack runs it: a copy that shares the weights and leaves out what only training needs."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from holdfast.frozen import frozen

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}
"""By name: the dtype that a network runs in under autocast."""

Fold = tuple[str, str]
"""The names of a convolution and of the BatchNorm that alone follows it."""


class Replica:
    """A copy of a network, in evaluation mode and without parameter gradients: same embeddings, cheaper passes.

    BatchNorm is folded into the convolutions before it, and images run through them channels last. With ``precision``,
    a dtype to run under autocast in, the weights of convolutions and linear layers are held in it: autocast would
    convert them again at each of the many passes of an attack. Other weights share their memory with the module; what
    else it has learnt since is taken over by :meth:`refresh`. A module that cannot be copied is used itself, frozen.
    """

    def __init__(self, module: nn.Module, precision: torch.dtype | None = None) -> None:
        self.module, self.precision = module, precision
        self._copy()

    def __call__(self, images: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, D); gradients flow to the images."""
        with torch.autocast(images.device.type, self.precision, self.precision is not None), frozen(self.network):
            z: Tensor = self.network(images)
        return z

    def refresh(self) -> None:
        """Take over the present weights and statistics of the module."""
        tensors = _tensors(self.module)
        if tensors.keys() != self.names:
            self._copy()
        elif self.network is not self.module:
            self._take_over(tensors)

    def _copy(self) -> None:
        tensors = _tensors(self.module)
        self.names = tensors.keys()
        shared = {id(x): nn.Parameter(x.detach(), False) for x in tensors.values() if isinstance(x, nn.Parameter)}
        try:
            self.network, traced = deepcopy(self.module, dict(shared)), deepcopy(self.module, dict(shared))
        except Exception:  # whatever a stranger's module raises: uncopied it runs as well
            self.network = self.module
            return
        self.folds = list(_folds(traced))
        for _, norm in self.folds:
            self.network.set_submodule(norm, nn.Identity())
        self.reduced = {
            f"{name}.{part}"
            for name, layer in self.network.named_modules()
            if self.precision is not None and isinstance(layer, (*CONVOLUTIONS, nn.Linear))
            for part in ("weight", "bias")
        }
        self._take_over(tensors)

    def _take_over(self, tensors: dict[str, Tensor]) -> None:
        for name, own in _tensors(self.network).items():
            if name in tensors:
                own.data = self._held(name, tensors[name])
        for convolution, norm in self.folds:
            self._fold(convolution, norm)

    def _fold(self, convolution: str, norm: str) -> None:
        conv, bn, folded = self._part(convolution), self._part(norm), self.network.get_submodule(convolution)
        with torch.no_grad():
            fused = fuse_conv_bn_weights(
                conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
            )
        folded.weight, folded.bias = (
            nn.Parameter(self._held(f"{convolution}.{part}", value), False)
            for part, value in zip(("weight", "bias"), fused, strict=True)
        )

    def _part(self, name: str) -> Any:
        return self.module.get_submodule(name)

    def _held(self, name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if name in self.reduced and tensor.dtype == torch.float32:
            tensor = tensor.to(self.precision)
        return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _folds(module: nn.Module, prefix: str = "") -> Iterator[Fold]:
    """The convolutions with nothing but a BatchNorm behind them, in the largest parts whose forward can be traced."""
    if not any(isinstance(part, NORMS) for part in module.modules()):
        return
    try:
        graph = fx.Tracer().trace(module)
    except Exception:  # data-dependent control flow, and whatever else a forward trips over
        for name, child in module.named_children():
            yield from _folds(child, f"{prefix}{name}.")
        return
    calls = [node for node in graph.nodes if node.op == "call_module"]
    targets = [node.target for node in calls]
    for node in calls:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        conv, norm = module.get_submodule(str(before.target)), module.get_submodule(str(node.target))
        once = targets.count(before.target) == targets.count(node.target) == 1
        if once and type(conv) in CONVOLUTIONS and type(norm) in NORMS and norm.running_mean is not None:
            yield f"{prefix}{before.target}", f"{prefix}{node.target}"
