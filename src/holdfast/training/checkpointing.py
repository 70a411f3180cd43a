"""Gradient checkpointing: blocks keep what they are given, and compute again backwards what they made of it.

Chen et al., *Training Deep Nets with Sublinear Memory Cost*, 2016; :func:`torch.utils.checkpoint.checkpoint`.
Libraries that have a switch of their own for it use it in training mode alone, and attacks run in evaluation mode.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from holdfast.util.errors import HoldfastError


def checkpoint_blocks(network: nn.Module, name: str) -> None:
    """Have the blocks of a network compute again what their backward pass needs; results and names stay the same.

    A copy of the network does so too. What a training step and an attack keep of an image is then what the blocks are
    given, and all of one block at a time. BatchNorm takes note of a batch once. name: of the network, in the
    HoldfastError where it has no blocks.
    """
    blocks = blocks_of(network)
    if not blocks:
        raise HoldfastError(
            f"model.gradient_checkpointing: {name} has no blocks, modules with parts of their own in a Sequential or "
            "ModuleList, to compute again: leave it out"
        )
    for block in blocks:
        block.forward = partial(_passed, block, block.forward)


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The modules in a Sequential or ModuleList that have parts of their own, and no other such module in them."""
    lists = [module for module in network.modules() if isinstance(module, nn.Sequential | nn.ModuleList)]
    found = [
        child
        for one in lists
        for child in one.children()
        if not isinstance(child, nn.ModuleList) and any(True for _ in child.children())
    ]
    return [block for block in found if not any(other in found for other in block.modules() if other is not block)]


def _passed(block: nn.Module, forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*given, **named)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _again(block)

    return checkpoint(forward, *given, use_reentrant=False, context_fn=contexts, **named)


@contextmanager
def _again(block: nn.Module) -> Iterator[None]:
    """BatchNorm takes no note of what passes inside: it has seen it before."""
    norms: list[Any] = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        yield
    finally:
        for norm, momentum, counter in before:
            norm.momentum, norm.num_batches_tracked = momentum, counter
