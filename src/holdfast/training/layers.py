"""Layers of a network in the order in which images pass through them."""

import re
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.util.errors import HoldfastError

WRAPPERS = re.compile(r"^(?:backbone\.|network\.|visual\.|vision_model\.|\d+\.(?:auto_)?model\.)*")
"""What stands before the name of a network's own parts."""
HEAD = "head"
"""What the last layer can be called by, whatever its name."""


def layers_of(network: nn.Module, images: Tensor) -> list[list[str]]:
    """The parameters that learn and that embeddings depend on, by name, layer by layer from pixels to embedding.

    A layer is a numbered block such as ``encoder.layer.3``, else a part at the top such as ``conv1``. One layer comes
    before another if more operations lie between it and the embedding, on the longest way.

    images: (n, C, H, W) that the network takes; they are passed in evaluation mode.
    """
    training = {module: module.training for module in network.modules()}
    try:
        with torch.enable_grad():
            steps = _steps_back(network.eval()(images))
    finally:
        for module, mode in training.items():
            module.training = mode
    nearest: dict[str, int] = {}
    members: dict[str, list[str]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and id(parameter) in steps:
            layer = layer_of(name)
            members.setdefault(layer, []).append(name)
            nearest[layer] = min(steps[id(parameter)], nearest.get(layer, steps[id(parameter)]))
    return [members[layer] for layer in sorted(members, key=lambda layer: -nearest[layer])]


def _steps_back(z: Tensor) -> dict[int, int]:
    """By the id of each parameter that an embedding depends on, how many operations lie in between, at the most."""
    into, ahead = Counter[Any](), [z.grad_fn]
    seen = set(ahead)
    while ahead:
        for node in _before(ahead.pop()):
            into[node] += 1
            if node not in seen:
                seen.add(node)
                ahead.append(node)
    steps, ready, found = {z.grad_fn: 0}, [z.grad_fn], dict[int, int]()
    while ready:
        node = ready.pop()
        if (parameter := getattr(node, "variable", None)) is not None:
            found[id(parameter)] = steps[node]
        for before in _before(node):
            steps[before] = max(steps[node] + 1, steps.get(before, 0))
            into[before] -= 1
            if not into[before]:
                ready.append(before)
    return found


def _before(node: Any) -> list[Any]:
    """The operations whose results an operation took."""
    return [] if node is None else [one for one, _ in node.next_functions if one is not None]


def layer_of(name: str) -> str:
    """The layer that a parameter belongs to, by its name."""
    inside = WRAPPERS.sub("", name)
    found = re.match(r".*?\.\d+(?=\.)|[^.]*", inside)
    return found[0] if found else inside


def freeze_others(network: nn.Module, parts: Sequence[str], images: Tensor) -> None:
    """Let only these parts of a network learn: modules or parameters by name, such as ``layer4`` or ``fc.bias``.

    ``head``, where no part is called so, is the last layer that images pass through. images: (n, C, H, W) that the
    network takes.
    """
    names = [name for name, _ in network.named_parameters()]
    chosen = list(parts)
    if HEAD in chosen and not any(_within(name, HEAD) for name in names):
        chosen.remove(HEAD)
        chosen += layers_of(network, images)[-1]
    for part in chosen:
        if not any(_within(name, part) for name in names):
            known = {name.rsplit(".", i)[0] for name in names for i in range(name.count(".") + 1)}
            near = "".join(f"; did you mean {one!r}?" for one in get_close_matches(part, sorted(known), n=1))
            top = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
            raise HoldfastError(f"model.trainable: the network has no part {part!r}{near} (its parts: {top})")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(any(_within(name, part) for part in chosen))


def _within(name: str, part: str) -> bool:
    return f"{name}.".startswith(f"{part}.")
