"""Code of the user's own, by the name of its module or file."""

import sys
from importlib import import_module, invalidate_caches
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from holdfast.util.errors import HoldfastError, brief, nearest, unknown

FORMS = "package.module:attribute, path/to/file.py:attribute"
CUSTOM = "custom"
"""What the settings call an object that was given in place of a name."""


def is_spec(spec: str) -> bool:
    """Whether ``spec`` has the form ``package.module:attribute`` or ``path/to/file.py:attribute``."""
    where, _, name = spec.rpartition(":")
    parts = [name] if where.endswith(".py") else [name, *where.split(".")]
    return all(part.isidentifier() for part in parts)


def is_absent(name: str) -> bool:
    """Whether there is no top-level module of this name, here or installed. Nothing is imported."""
    here = [Path(name), Path(f"{name}.py")]
    return name.isidentifier() and not any(path.exists() for path in here) and find_spec(name) is None


def load_module(where: str) -> ModuleType:
    """The module ``package.module`` (the working directory is searched first) or ``path/to/file.py``. Its code is run.

    Raises HoldfastError where there is none, or its code fails.
    """
    path = Path(where if where.endswith(".py") else where.replace(".", "/") + ".py")
    by_path = where.endswith(".py")
    folder = str(path.parent.resolve() if by_path else Path.cwd())
    if by_path and not path.is_file():
        raise HoldfastError(f"no file {where}{nearest(path)}")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    invalidate_caches()
    try:
        return _run(path) if by_path else import_module(where)
    except (Exception, SystemExit) as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent and not by_path and f"{where}.".startswith(f"{absent}."):
            raise HoldfastError(f"no module {where!r} here or installed{nearest(path)}; allowed: {FORMS}") from error
        raise HoldfastError(f"{where} cannot be imported: it raises {brief(error)}") from error


def _run(path: Path) -> ModuleType:
    spec = spec_from_file_location(f"_holdfast_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_attribute(spec: str) -> Any:
    """What such a spec names; its code is run. Raises HoldfastError where it names nothing."""
    where, _, name = spec.rpartition(":")
    module = load_module(where)
    if not hasattr(module, name):
        shown = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown(f"attribute of {where}", name, shown)
    return getattr(module, name)
