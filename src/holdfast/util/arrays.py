"""Named arrays in one file, ``.npz`` or ``.safetensors``: replaced whole, read without running code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import numpy as np
import numpy.typing as npt
from safetensors.torch import save
from torch import Tensor

from holdfast.util.atomic import replacing
from holdfast.util.errors import HoldfastError

Arrays = Mapping[str, Any]
"""Arrays by name."""


PLACEHOLDERS = {
    b"version https://git-lfs": "it is a Git LFS pointer, not the file itself: fetch that with 'git lfs pull'",
    **dict.fromkeys(
        (b"<!doctype html", b"<html", b"<?xml"), "it is a web page, not the file: download the file itself"
    ),
}
"""How files begin that lie where another was to be."""


def check_whole(path: Path) -> None:
    """Raise HoldfastError where a file is empty or a placeholder, or an archive that unfolds to more than it holds."""
    with path.open("rb") as file:
        head = file.read(1024).lstrip().lower()
    said = [what for start, what in PLACEHOLDERS.items() if head.startswith(start)]
    if not path.stat().st_size:
        said = ["it is empty"]
    elif is_zipfile(path):
        with ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                said = ["it unfolds to more bytes than it has"]
    if said:
        raise HoldfastError(said[0])


def write_arrays(path: Path, arrays: Arrays) -> None:
    """The whole file, or none of it and a HoldfastError; the same arrays give the same bytes."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of these names. Raises HoldfastError where the file is absent, damaged or another one."""
    try:
        check_whole(path)
        with np.load(path, allow_pickle=False) as content:
            return {name: np.asarray(content[name]) for name in names}
    except HoldfastError as error:
        raise HoldfastError(f"{path} does not hold {', '.join(names)}: {error}") from None
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
