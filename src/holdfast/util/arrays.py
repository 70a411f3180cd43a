"""Named arrays in one ``.npz`` file: replaced whole, read without running code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.models.weights import replacing
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
