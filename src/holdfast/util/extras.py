"""Optional packages, imported when first needed."""

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
