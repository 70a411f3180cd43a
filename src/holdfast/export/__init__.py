"""An embedder leaves the house: as ONNX, a torch program, a folder for the Hub, or what its own library reads."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from holdfast.core.fused import PRECISIONS
from holdfast.core.pgd import Embed
from holdfast.data import Pixels
from holdfast.evaluation.result import NAME
from holdfast.evaluation.settings import resolve_settings
from holdfast.export import folder, native, onnx, program
from holdfast.export.benchmark import check_benchmark
from holdfast.export.source import Source, open_run
from holdfast.export.verify import Compared, compared
from holdfast.models.backbones import is_code
from holdfast.runs.config import Config, is_encoder
from holdfast.runs.data import family_of, pixels_of, table_of
from holdfast.util.atomic import replacing
from holdfast.util.errors import HoldfastError, pick
from holdfast.util.lock import writing

HOME = Path("exports")
"""Where exports go that are given no other place."""


@dataclass(frozen=True)
class Format:
    """A way out: the ending of its file (a folder has none), how it is written, read back, and put into its place."""

    ending: str
    write: Callable[[Source, Path], None]
    load: Callable[[Path], Embed]
    placing: Callable[[Path], AbstractContextManager[Path]] = replacing


FORMATS = {
    "onnx": Format(".onnx", onnx.write, onnx.load),
    "torch": Format(".pt2", program.write, program.load),
    "hub": Format("", folder.write, folder.load, folder.merging),
    "native": Format("", native.write, folder.load, folder.merging),
}


class DifferenceError(HoldfastError):
    """What was exported is not what was trained; ``found`` says where."""

    def __init__(self, found: list[Compared]) -> None:
        wrong = "; ".join(f"{one.what}: {one.difference:.2g}, allowed {one.allowed:g}" for one in found if not one.ok)
        super().__init__(f"what was exported differs from the run, and was not kept ({wrong})")
        self.found = found


def export(
    run: str | Path,
    form: str,
    out: str | Path | None = None,
    *,
    best: bool = False,
    precision: str = "float32",
    verify: bool = False,
    queries: int = 16,
    root: str | Path | None = None,
    benchmark: str | None = None,
) -> tuple[Path, list[Compared], list[str]]:
    """Export the embedder of a run; where it lies now, what was compared, and notes on what was not, or was left out.

    Args:
        run: a run folder, an exported folder, or ``zoo:NAME``.
        form: ``onnx``, ``torch``, ``hub``, or ``native``: what the library that an encoder came from loads.
        out: by default in ``exports/``, under the name of the run.
        best: the weights of the best validation.
        precision: of the weights in a folder for the Hub, ``float32`` or ``bfloat16``.
        verify: compare before it takes its place; see :func:`.verify.compared`.
        queries: attacked for that.
        root: where the data set lies now.
        benchmark: for the Hub, the data set that lists the scores, ``OWNER/NAME``; see :mod:`.benchmark`.

    Raises HoldfastError, before any work, for what cannot be exported, and DifferenceError for what came out otherwise.
    """
    way = pick("format", form, FORMATS)
    pick("precision", precision, PRECISIONS)
    if precision != "float32" and form != "hub":
        raise HoldfastError(f"precision {precision!r} goes with format 'hub'; {form} holds float32")
    if benchmark is not None and form != "hub":
        raise HoldfastError(f"benchmark {benchmark!r} goes with format 'hub'")
    listed = None if benchmark is None else check_benchmark(benchmark)
    source = open_run(run, best)
    place = HOME / f"{source.name}{'-best' if best else ''}{way.ending}" if out is None else Path(out)
    _check(place, form, way, source)
    source = replace(source, name=place.resolve().name.removesuffix(way.ending))
    if form == "hub" and is_encoder(source.origin):
        raise HoldfastError(
            f"{source.config.model.backbone} is a model that came from elsewhere: --format native gives it back to that"
        )
    resolve_settings(family_of(source.config), max_queries=queries)
    pixels, reason = _pixels(source.config, root) if verify else (None, "")
    write, load = way.write, way.load
    if form == "hub":
        own = source.embedder.backbone if is_code(source.embedder.config.backbone) else None
        write, load = partial(folder.write, precision=precision, benchmark=listed), partial(folder.load, backbone=own)
    if form == "native":
        load = partial(native.load, source=source)
    with writing(place.resolve()), way.placing(place) as temporary:
        write(source, temporary)
        found = []
        if verify:
            found = compared(source.embedder, load(temporary), pixels, precision=precision, queries=queries)
            if not all(one.ok for one in found):
                raise DifferenceError(found)
    notes = [reason] if reason else []
    if source.earlier:
        notes.append(f"left out, of earlier weights by their cost of training: {', '.join(source.earlier)}")
    return place, found, notes


def _check(place: Path, form: str, way: Format, source: Source) -> None:
    """Refuse what is something else than an earlier export."""
    if way.ending:
        if place.suffix != way.ending:
            raise HoldfastError(f"format {form} is a file that ends in {way.ending}, not {place}")
        if place.is_dir():
            raise HoldfastError(f"{place} is a folder; format {form} is a file")
    elif place.exists() and not place.is_dir():
        raise HoldfastError(f"{place} is a file; format {form} is a folder")
    elif form == "native" and place.is_dir() and any(place.iterdir()):
        raise HoldfastError(f"{place} is not empty; give another --out")
    elif place.is_dir() and any(place.iterdir()):
        if (place / "environment.json").exists():
            raise HoldfastError(f"{place} is a run folder; give another --out")
        if not all((place / name).is_file() for name in ("config.json", "config.yaml")):
            raise HoldfastError(f"{place} is not empty and no earlier export; give another --out")
        carried = {result.path.parent.name for result in source.results if result.path is not None}
        if left := {path.parent.name for path in place.glob(f"evaluations/*/{NAME}")} - carried:
            raise HoldfastError(f"{place} holds evaluations of other weights, such as {min(left)}; give another --out")


def _pixels(config: Config, root: str | Path | None) -> tuple[Pixels | None, str]:
    """The run's test set, or why there is none; where it is said to lie it has to lie."""
    if root is not None:
        config = replace(config, data=replace(config.data, root=str(root)))
    try:
        return pixels_of(config, table_of(config).test()), ""
    except HoldfastError as error:
        if root is not None:
            raise
        return None, f"only generated images were compared, and no attack was made: {error}"
