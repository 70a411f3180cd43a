"""The zoo: trained embedders that come with a checkout, in folders as ``holdfast export RUN --format hub`` writes them.

``zoo:NAME`` stands for such a folder wherever a run folder or a model is named.
"""

import os
from pathlib import Path

from holdfast.util.errors import HoldfastError, unknown

PREFIX = "zoo:"
VARIABLE = "HOLDFAST_ZOO"


def home() -> Path:
    """The folder of the entries: ``$HOLDFAST_ZOO``, else ``zoo/`` of the checkout, else ``zoo/`` here.

    Raises HoldfastError where there is none.
    """
    given = os.environ.get(VARIABLE)
    source = Path(__file__).resolve().parents[2]
    places = [Path(given)] if given else [*([source.parent / "zoo"] if source.name == "src" else []), Path("zoo")]
    for place in places:
        if place.is_dir():
            return place
    tried = " or ".join(map(str, places))
    raise HoldfastError(f"there is no zoo at {tried}; set {VARIABLE} to the folder that holds its entries")


def names() -> list[str]:
    """The entries, by name."""
    folders = (path.parent.name for path in home().glob("*/config.yaml"))
    return sorted(name for name in folders if not name.startswith("."))


def find(name: str) -> Path:
    """The folder of an entry; for an unknown one a HoldfastError with the nearest."""
    if name not in (known := names()):
        if not known:
            raise HoldfastError(f"no zoo entry {name!r}: {home()} holds none; see 'holdfast export --format hub'")
        raise unknown("zoo entry", name, known)
    return home() / name


def is_entry(spec: str | Path) -> bool:
    """Whether ``spec`` is of the form ``zoo:NAME``."""
    return str(spec).startswith(PREFIX)


def located(spec: str | Path) -> Path:
    """The folder that ``zoo:NAME`` stands for; any other path as it is."""
    return find(str(spec).removeprefix(PREFIX)) if is_entry(spec) else Path(spec)
