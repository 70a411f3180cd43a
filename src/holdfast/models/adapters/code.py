"""A model in a module or file of the user's own: ``package.module:attribute``, ``path/to/file.py:attribute``."""

import inspect
from collections.abc import Callable
from math import inf, isfinite
from pathlib import Path
from typing import Any

from torch import nn

from holdfast.core.pgd import Embed
from holdfast.models.adapters.base import Normalised, OpenedModel, named
from holdfast.models.preprocessing import Preprocessing
from holdfast.models.weights import load_exactly
from holdfast.util.errors import HoldfastError, brief
from holdfast.util.imports import load_attribute


def open_code(word: str, weights: Path | None = None, best: bool = False) -> OpenedModel:
    """A class or function without required arguments is called and gives the model; any other callable is the model.

    ``weights`` fit the module by name and shape. Attributes ``size`` (pixels a side) and ``channels`` of the model say
    how it is shown images, ``mean`` and ``std`` what they are normalised by; see :func:`normalised`. Raises
    HoldfastError where there is no such model, its code fails, or weights do not fit.
    """
    model = _built(word, load_attribute(word))
    if weights is not None:
        if not isinstance(model, nn.Module):
            raise HoldfastError(f"{word} is a {type(model).__name__}, not a torch module: it takes no weights")
        load_exactly(model, weights)
    embed, remarks = normalised(model)
    return named(word, embed, weights, said_by(model), remarks)


def normalised(model: Embed) -> tuple[Embed, tuple[str, ...]]:
    """The model with its attributes ``mean`` and ``std`` inside, where it has both as lists of numbers; and a remark.

    Tensors of these names are left alone: a module that holds such normalises by itself. Raises HoldfastError where
    only one of them is a list, or they are not a number for each channel.
    """
    said: dict[str, Any] = {name: getattr(model, name, None) for name in ("mean", "std")}
    lists = {name: value for name, value in said.items() if isinstance(value, list | tuple)}
    if not lists:
        return model, ()
    told, channels = " and ".join(f"{name} {value}" for name, value in lists.items()), getattr(model, "channels", 3)
    if len(lists) < 2 or not isinstance(model, nn.Module):
        raise HoldfastError(f"the model has {told}: a torch module has both, or none, and is given pixels in [0, 1]")
    if not all(len(one) == channels and all(isinstance(x, int | float) for x in one) for one in lists.values()):
        raise HoldfastError(f"the model has {told}: they are a number for each of its {channels} channels")
    mean, std = lists.values()
    if not all(isfinite(one) for one in mean) or not all(0 < one < inf for one in std):
        raise HoldfastError(f"the model has {told}: they are finite, and std is above 0")
    return Normalised(model, mean, std).train(model.training), (f"pixels are normalised by the model's {told}",)


def said_by(model: object) -> Preprocessing | None:
    """The preprocessing that a model's attributes ``size`` and ``channels`` say; None without a size."""
    size, channels = getattr(model, "size", None), getattr(model, "channels", 3)
    if not isinstance(size, int) or channels not in (1, 3):
        return None
    return Preprocessing(size, channels=channels)


def _built(spec: str, found: Any) -> Embed:
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
    model: Embed = found
    return model


def _required(function: Callable[..., Any]) -> list[str]:
    """The arguments that a call must give; one nameless where the signature is not known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return ["arguments"]
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [part.name for part in parameters if part.default is part.empty and part.kind not in optional]
