"""Optional packages, imported when first needed."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from holdfast.util.errors import HoldfastError


def require(module: str, extra: str) -> ModuleType:
    """The optional package ``module``, which the extra ``holdfast[extra]`` installs.

    Raises HoldfastError where it is absent, and where it is present but fails to import for whatever reason
    (torchvision built for another torch raises RuntimeError, for one).
    """
    try:
        return import_module(module)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        if _installed(module):
            state = f"{module} is installed but cannot be imported ({type(error).__name__}: {reason})"
            advice = "install versions that fit each other"
        else:
            state, advice = f"{module} is not installed", "install it"
        raise HoldfastError(f"{state}; {advice}: pip install 'holdfast[{extra}]' -c constraints.txt") from error


def _installed(module: str) -> bool:
    try:
        return find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False
