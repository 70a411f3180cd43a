"""The network as an attack runs it: a copy that shares the weights and leaves out what only training needs."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}
"""By name: the dtype that a network runs in under autocast."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ALIKE = 5e-3
"""How far off a copy may embed, in units of the largest number: more than rounding, less than a mistake."""

Fold = tuple[str, str]
"""The names of a convolution and of the BatchNorm that alone follows it."""


def autocast(precision: torch.dtype | None, device: torch.device) -> torch.autocast:
    """Autocast in a precision; for None, none."""
    return torch.autocast(device.type, precision, precision is not None)


@contextmanager
def frozen(module: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode and no parameter gradients inside, every module and parameter as it was afterwards.

    Gradients still flow to the pixels.
    """
    before: list[tuple[Any, str, bool]] = [(part, "training", part.training) for part in module.modules()]
    before += [(parameter, "requires_grad", parameter.requires_grad) for parameter in module.parameters()]
    try:
        for thing, name, _ in before:
            setattr(thing, name, False)
        yield module
    finally:
        for thing, name, value in before:
            setattr(thing, name, value)


class FusedNetwork:
    """A copy of a network, in evaluation mode and without parameter gradients: same embeddings, cheaper passes.

    BatchNorm is folded into the convolutions before it, and images run through them channels last. With ``precision``,
    a dtype to run under autocast in, the weights of convolutions and linear layers are held in it: autocast would
    convert them again at each of the many passes of an attack. Other weights share their memory with the module.

    module: from images to embeddings. like: some images, on which the copy must embed as the module does; a module
        that has no such copy is used itself, so attack inside :meth:`frozen`.

    :meth:`refresh` takes over what the weights and statistics of the module have become, not its other attributes.
    """

    def __init__(self, module: nn.Module, like: Tensor, precision: torch.dtype | None = None) -> None:
        self.module, self.like, self.precision = module, like[:2].detach().clone(), precision
        self._copy()

    def __call__(self, images: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, D); gradients flow to the images."""
        with autocast(self.precision, images.device):
            z: Tensor = self.network(images)
        return z

    def frozen(self) -> AbstractContextManager[nn.Module]:
        """The network is fixed inside, be it the copy or the module itself."""
        return frozen(self.network)

    def refresh(self) -> None:
        """Take over the present weights and statistics of the module."""
        if set(tensors := _tensors(self.module)) != self.names:
            self._copy()
        elif self.network is not self.module:
            self._take_over(tensors)

    def _copy(self) -> None:
        tensors = _tensors(self.module)
        self.names, self.network, self.reduced = set(tensors), self.module, frozenset[str]()
        with torch.no_grad(), autocast(None, self.like.device), frozen(self.module):
            try:
                wanted = self.module(self.like.clone()).clone()
                self._build(tensors)
                same = _alike(wanted, self.network(self.like.clone()))
            except (Exception, SystemExit):  # whatever a stranger's module raises: uncopied it runs as well
                same = False
        if not same:
            self.network = self.module
        elif self.precision is not None:
            self._reduce(tensors)

    def _build(self, tensors: dict[str, Tensor]) -> None:
        shared = {id(x): nn.Parameter(x.detach(), False) for x in tensors.values() if isinstance(x, nn.Parameter)}
        self.folds = list(_folds(deepcopy(self.module, dict(shared)).eval()))
        gone = {id(self.module.get_submodule(norm)): nn.Identity() for _, norm in self.folds}
        self.network = deepcopy(self.module, {**shared, **gone}).eval().requires_grad_(False)
        if not {*map(id, self.network.modules())}.isdisjoint(map(id, self.module.modules())):
            raise ValueError("the copy holds parts of the module")
        self._take_over(tensors)

    def _reduce(self, tensors: dict[str, Tensor]) -> None:
        """Hold in the precision what autocast would convert, unless the network uses it outside of autocast as well."""
        self.reduced = frozenset(
            f"{name}.{part}"
            for name, layer in self.network.named_modules(remove_duplicate=False)
            if type(layer) in (*CONVOLUTIONS, nn.Linear)
            for part in ("weight", "bias")
        )
        self._take_over(tensors)
        try:
            with torch.no_grad():
                self(self.like.clone())
        except (Exception, SystemExit):  # a part that switches autocast off cannot use the other dtype
            self.reduced = frozenset()
            self._take_over(tensors)

    def _take_over(self, tensors: dict[str, Tensor]) -> None:
        for name, own in _tensors(self.network).items():
            if name in tensors:
                own.data = self._held(name, tensors[name])
        for convolution, norm in self.folds:
            self._fold(convolution, norm)

    def _fold(self, convolution: str, norm: str) -> None:
        conv, bn = self._part(convolution), self._part(norm)
        with torch.no_grad():
            fused = fuse_conv_bn_weights(
                conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
            )
        folded = self.network.get_submodule(convolution)
        folded.weight, folded.bias = (
            nn.Parameter(self._held(f"{convolution}.{part}", value), False)
            for part, value in zip(("weight", "bias"), fused, strict=True)
        )

    def _part(self, name: str) -> Any:
        return self.module.get_submodule(name)

    def _held(self, name: str, tensor: Tensor) -> Tensor:
        tensor, (layer, _, part) = tensor.detach(), name.rpartition(".")
        if name in self.reduced and tensor.dtype == torch.float32:
            tensor = tensor.to(self.precision)
        in_images = tensor.ndim == 4 and part == "weight" and type(self._part(layer)) is nn.Conv2d
        return tensor.to(memory_format=torch.channels_last) if in_images else tensor


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all their names."""
    parameters = module.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(module.named_buffers(remove_duplicate=False))}


def _alike(wanted: Tensor, found: Tensor) -> bool:
    return wanted.shape == found.shape and bool((wanted - found).abs().max() <= ALIKE * wanted.abs().max())


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
