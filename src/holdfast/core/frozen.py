"""A network as an attacker sees it: fixed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


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
