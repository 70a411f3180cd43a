"""Optional packages, imported when first needed, and kept quiet."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from types import ModuleType

from holdfast.util.errors import HoldfastError, brief


def require(module: str, extra: str) -> ModuleType:
    """The optional package ``module``, which the extra ``holdfast[extra]`` installs.

    Raises HoldfastError where it is absent, and where it is present but fails to import for whatever reason
    (torchvision built for another torch raises RuntimeError, for one).
    """
    try:
        return import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
            state, advice = f"{module} is not installed", "install it"
        else:
            state = f"{module} is installed but cannot be imported ({brief(error)})"
            advice = "install versions that fit each other"
        raise HoldfastError(f"{state}; {advice}: pip install 'holdfast[{extra}]' -c constraints.txt") from error


def faiss_said(error: Exception) -> str:
    """What an error of faiss says, without the place in its source."""
    text = brief(error).partition(": ")[2]
    said = text.rpartition(".cpp:")[2].partition(": ")[2] or text
    return said.rpartition("failed: ")[2]


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing is printed, warned of or logged inside: they tell much that the user can do nothing about."""
    before, nowhere = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
