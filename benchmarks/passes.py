"""The passes that a piece of work makes through a network, and the same passes made by the bare network."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from holdfast.models.embedder import Embedder

Kind = Literal["forward", "pixels", "training"]


@dataclass
class Pass:
    """So many images through the network: ``forward`` only, or backward as well, to the ``pixels`` in evaluation mode
    or, for ``training``, to the parameters."""

    images: int
    kind: Kind


@contextmanager
def recorded() -> Iterator[list[Pass]]:
    """The passes of embedders, and of copies of them, that are made inside.

    A pass with a graph is a forward one until something goes backward through it.
    """
    passes: list[Pass] = []

    def note(module: nn.Module, arguments: Any, z: Any) -> None:
        if not isinstance(module, Embedder):
            return
        one = Pass(len(z), "forward")
        passes.append(one)
        if z.requires_grad:
            z.register_hook(Backward(one, any(p.requires_grad for p in module.parameters())))

    handle = register_module_forward_hook(note)
    try:
        yield passes
    finally:
        handle.remove()


@dataclass(frozen=True)
class Backward:
    """Called when something goes backward through a pass."""

    one: Pass
    learning: bool

    def __call__(self, gradient: Tensor) -> None:
        self.one.kind = "training" if self.learning else "pixels"


def replay(passes: Sequence[Pass], embedder: Embedder, dtype: torch.dtype) -> Callable[[], None]:
    """Work to be timed: the bare network makes the same passes, on noise, and nothing else.

    Passes without parameter gradients go through the network as it is, in evaluation mode and cast to the dtype;
    those of training through a float32 network, under autocast for another dtype, with one backward for all.
    """
    fixed, learner = copy.deepcopy(embedder).eval().requires_grad_(False), copy.deepcopy(embedder).train()
    fixed.backbone.to(dtype)
    device = embedder.mean.device
    config = embedder.config
    noise = torch.rand(max(one.images for one in passes), config.channels, config.size, config.size, device=device)

    def work() -> None:
        learner.zero_grad()
        for one in passes:
            if one.kind == "forward":
                with torch.no_grad():
                    fixed(noise[: one.images])
            elif one.kind == "pixels":
                pixels = noise[: one.images].clone().requires_grad_()
                torch.autograd.grad(fixed(pixels).sum(), pixels)
        trained = [noise[: one.images] for one in passes if one.kind == "training"]
        if not trained:
            return
        with nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype):
            total = torch.stack([learner(images).sum() for images in trained]).sum()
        total.backward()  # type: ignore[no-untyped-call]

    return work
