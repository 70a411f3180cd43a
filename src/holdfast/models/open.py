"""A model by its name: in a module or file of the user's own, from timm, or in a folder that holdfast wrote."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.models.backbones import find_backbone
from holdfast.models.embedder import Embedder
from holdfast.models.weights import PREFIXES, load_weights
from holdfast.models.zoo import located
from holdfast.util.errors import HoldfastError, brief
from holdfast.util.extras import require
from holdfast.util.imports import FORMS, is_spec, load_attribute

ALLOWED = f"{FORMS}, timm:NAME, zoo:NAME, or a folder that holds config.json and model.safetensors"


def load_model(spec: str, weights: Path | None = None) -> Callable[[Tensor], Tensor]:
    """The model that ``spec`` names, from images (n, C, H, W) to vectors (n, D), with the tensors of ``weights``.

    ``spec`` is ``package.module:attribute`` (the working directory is searched first), ``path/to/file.py:attribute``,
    ``timm:NAME``, ``zoo:NAME``, or a folder that :meth:`.Embedder.save_pretrained` wrote. A class or function without
    required arguments is called and gives the model; any other callable is the model. ``weights`` is a ``.pth`` or
    ``.safetensors`` file that fits the module by name and shape; for timm, whose own pretrained weights are the
    default, the classifier's may differ. Code that ``spec`` names is run.

    Raises:
        HoldfastError: no such model, code that fails, or weights that do not fit.
    """
    if spec.startswith("timm:"):
        return _timm(spec, weights)
    if ((folder := located(spec)) / "config.json").is_file():
        if weights is not None:
            raise HoldfastError(f"{spec} brings its own weights; leave out {weights}")
        return Embedder.from_pretrained(folder).eval()
    if not is_spec(spec):
        raise HoldfastError(f"{spec!r} names no model; allowed: {ALLOWED}")
    model = _built(spec, load_attribute(spec))
    if weights is not None:
        if not isinstance(model, nn.Module):
            raise HoldfastError(f"{spec} is a {type(model).__name__}, not a torch module: it takes no weights")
        _load(model, weights)
    return model


def _built(spec: str, found: Any) -> Callable[[Tensor], Tensor]:
    if not isinstance(found, nn.Module) and callable(found):
        required = _required(found)
        if required and inspect.isclass(found):
            raise HoldfastError(f"{spec} needs {', '.join(required)}: name a function without arguments that builds it")
        if not required:
            try:
                found = found()
            except (Exception, SystemExit) as error:
                raise HoldfastError(
                    f"{spec}() raises {brief(error)}; what can be called without arguments builds "
                    "the model, and a model itself takes the images"
                ) from error
    if not callable(found):
        raise HoldfastError(f"{spec} gives a {type(found).__name__}, not a callable from images to vectors")
    model: Callable[[Tensor], Tensor] = found
    return model


def _required(function: Callable[..., Any]) -> list[str]:
    """The arguments that a call must give; one nameless where the signature is not known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return ["arguments"]
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [part.name for part in parameters if part.default is part.empty and part.kind not in optional]


def _load(module: nn.Module, path: Path, heads: tuple[str, ...] = ()) -> None:
    """Every tensor of the file into the module's of that name and shape; ``heads``, which it lacks, may be left over.

    Prefixes that wrappers leave are dropped, as :func:`.load_weights` does.
    """
    found = load_weights(module, path)
    tops = "|".join(map(re.escape, heads)) or "(?!)"
    head = re.compile(rf"(?:{'|'.join(map(re.escape, PREFIXES))})*(?:{tops})\.")
    differing = {
        "missing": found.missing,
        "unexpected": [name for name in found.unexpected if not head.match(name)],
        "of another shape": [name for name, _, _ in found.reshaped],
    }
    if any(differing.values()):
        listed = "; ".join(
            f"{len(names)} {kind} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
            for kind, names in differing.items()
            if names
        )
        raise HoldfastError(f"{path} does not fit the model: {listed}; give weights of this very network")


class Normalised(nn.Module):
    """``network`` on pixels (n, C, H, W) in [0, 1], of which it takes away ``mean`` and divides by ``std``."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, D); gray images are repeated for every channel of the network."""
        z: Tensor = self.network((images - self.mean) / self.std)
        return z


def _timm(spec: str, weights: Path | None) -> nn.Module:
    timm, name = require("timm", "timm"), spec.removeprefix("timm:")
    kind, facts = find_backbone(spec), timm.get_pretrained_cfg(name)
    if weights is None and not (facts and facts.has_weights):
        raise HoldfastError(f"timm has no pretrained weights of {name}; give a file with --weights")
    try:
        network = timm.create_model(name, num_classes=0, pretrained=weights is None)
    except Exception as error:
        advice = "without network, give a file with --weights" if weights is None else "name another network"
        raise HoldfastError(f"timm cannot build {name} ({brief(error)}); {advice}") from error
    if weights is not None:
        heads = facts.classifier if facts else None
        _load(network, weights, (heads,) if isinstance(heads, str) else tuple(heads or ()))
    return Normalised(network, kind.mean, kind.std).eval()
