"""Named arrays in one file, ``.npz`` or ``.safetensors``: replaced whole, read without running code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.torch import save
from torch import Tensor

from holdfast.util.atomic import replacing
from holdfast.util.errors import HoldfastError

Arrays = Mapping[str, Any]
"""Arrays by name."""


def write_arrays(path: Path, arrays: Arrays) -> None:
    """The whole file, or none of it and a HoldfastError; the same arrays give the same bytes."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of these names. Raises HoldfastError where the file is absent, damaged or another one."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in names}
    except Exception as error:  # a damaged file makes numpy raise nearly anything
        raise HoldfastError(f"{path} does not hold {', '.join(names)} ({type(error).__name__})") from error


def save_safetensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write ``tensors`` to ``path``: the whole file, or none of it and a HoldfastError.

    Tensors may share memory, be views, or lie on any device; each is written out in full.
    """
    plain: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        dense = tensor.detach().cpu().contiguous()
        storage = dense.untyped_storage().data_ptr()
        plain[name] = dense.clone() if storage in storages else dense
        storages.add(storage)
    with replacing(path) as temporary:
        temporary.write_bytes(save(plain, dict(metadata)))
