"""Result files of evaluations: found, read, and checked to be what they say."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import StrictBool, StrictStr
from typing_extensions import TypedDict

from holdfast.util.errors import HoldfastError, nearest
from holdfast.util.validate import Measured, OneOf, Whole, check, read_json

BENIGN = ("R@1", "R@2", "mAP", "NMI")
SCORES = ("CA+", "CA-", "QA+", "QA-", "TMA", "ES:D", "ES:R", "LTM", "GTM", "GTT")
FORMAT = "holdfast-evaluation-1"
NAME = "result.json"
DEPTH = 4
LEAST, ROBUST, RRS, MINIMAL, INDEX = "least R@1", "robust R@1", "RRS", "minimal eps", "index"
MEDIAN = "median minimal ε"
"""The column of :data:`MINIMAL`."""
SAMPLE = "sample R@1"
"""R@1 without attack of the queries that were attacked."""
CERTIFIED = "certified R@1 at "
"""What the columns of certified R@1 begin with; then comes the L2 radius."""
MEASURED = ("ERS", RRS, LEAST, ROBUST)
COST = ("passes", "seconds")
ARRIVED = 1.0
"""Points of 100 that a longer attack may take away from a score that has arrived."""
ENOUGH = 30
"""The fewest attacked queries of a verdict: of fewer, even a share of 0 may be one above 11 % (Clopper–Pearson, 95 %),
and one of 50 % anything from 31 to 69 %."""


class _Bounds(TypedDict, total=False):
    value: Measured
    low: Measured
    high: Measured
    kept: Whole | None
    queries: Whole | None


class _Stage(TypedDict):
    name: StrictStr
    tried: Whole
    broke: Whole
    passes: Whole


class _Robust(_Bounds, total=False):
    converged: StrictBool | None
    stages: list[_Stage]


class _Radius(_Bounds):
    radius: Measured
    linf: Measured
    attacked: _Bounds | None


class _Certified(TypedDict):
    sigma: Measured
    draws: Whole
    largest: Measured
    abstained: Whole
    radii: list[_Radius]


class _Minimal(TypedDict):
    queries: Whole
    beyond: Whole
    quartiles: list[Measured]
    curve: list[list[Measured]]
    each: list[list[Measured]]


class _Data(TypedDict):
    name: StrictStr
    attacked: NotRequired[Measured]


class _Training(TypedDict, total=False):
    settings: dict[str, Any] | None
    passes: Measured
    seconds: Measured


class _Model(TypedDict, total=False):
    recipe: StrictStr | None
    backbone: StrictStr | None
    weights: StrictStr | None
    chosen_on: StrictStr | None
    hash: StrictStr | None
    surrogate: StrictStr | None
    seed: Whole | None
    training_steps: Whole | None
    training: _Training | None


class _Settings(TypedDict, total=False):
    eps: Measured
    steps: Measured
    norm: StrictStr | None
    gradient: StrictStr
    precision: StrictStr
    index: StrictStr | None
    attacks: list[StrictStr]


Content = TypedDict(
    "Content",
    {
        "format": Annotated[str, OneOf([FORMAT])],
        "name": StrictStr,
        "model": _Model,
        "data": _Data,
        "protocol": StrictStr,
        "settings": _Settings,
        "benign": dict[str, Measured],
        "collapsed": StrictBool,
        "columns": dict[str, _Bounds | None],
        "ERS": NotRequired[_Bounds | None],
        "RRS": NotRequired[_Bounds | None],
        "robust R@1": NotRequired[_Robust | None],
        "least R@1": NotRequired[_Bounds | None],
        "sample R@1": NotRequired[_Bounds | None],
        "further": NotRequired[dict[str, Measured]],
        "certified": NotRequired[_Certified | None],
        "minimal eps": NotRequired[_Minimal | None],
        "index": NotRequired[dict[str, Any] | None],
        "checks": NotRequired[list[dict[str, Any]]],
        "trusted": NotRequired[StrictBool | None],
    },
)
"""What is read of a result file; there may be more."""


@dataclass(frozen=True)
class Result:
    """One evaluation: the file it lies in, if any, and all that stands there."""

    path: Path | None
    content: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of the evaluation, usually that of the run."""
        return str(self.content["name"])

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        return str(self.content["data"]["name"])

    @property
    def protocol(self) -> str:
        """The name of the protocol, and where the attacks were not its own: ``strict, square, bfloat16, transfer``."""
        settings = self.content["settings"]
        others = [settings.get("gradient", "white-box"), settings.get("precision", "float32"), settings.get("index")]
        others += ["transfer"] if self.content["model"].get("surrogate") else []
        named = (one for one in others if one not in ("white-box", "float32", None))
        return ", ".join([self.content["protocol"], *named])

    @property
    def steps(self) -> int | None:
        """The steps of the ten attacks, or of those asked for; None where none of them was made, or it is not known."""
        return self.content["settings"].get("steps") if self._scored else None

    @property
    def eps(self) -> float | None:
        """The radius of the attacks, in units of their norm; None where nothing was attacked, or it is not known."""
        settings = self.content["settings"]
        return settings.get("eps") if self._scored or settings.get("cascade") else None

    @property
    def norm(self) -> str | None:
        """The norm of the radius; None where it is not known."""
        return self.content["settings"].get("norm")  # type: ignore[no-any-return]

    @property
    def _scored(self) -> bool:
        """Whether there were attacks beside the cascade."""
        return bool(self.content["settings"].get("attacks", self.content["columns"]))

    @property
    def sampled(self) -> bool:
        """Whether fewer queries were attacked than R@1 is of."""
        attacked, queries = self.content["data"].get("attacked"), self.content["benign"].get("queries")
        return bool(attacked and queries and attacked < queries)

    @property
    def training(self) -> dict[str, Any]:
        """How the model was trained: ``settings``, ``steps``, ``passes``, ``seconds``; empty where it is not known."""
        return self.content["model"].get("training") or {}

    @property
    def chosen_on_test(self) -> bool:
        """Whether these are a run's best weights, chosen on this test set, as in all runs that do not say it."""
        if "chosen_on" in self.content["model"]:
            return bool(self.content["model"]["chosen_on"] == self.dataset)
        settings = self.training.get("settings") or {}
        best = self.content["model"].get("weights") == "best"
        here = settings.get("data.name", self.dataset) == self.dataset
        return best and here and bool(settings.get("validation.on_test", True))

    @property
    def certified(self) -> dict[str, Any] | None:
        """Certified R@1 at each L2 radius, as :func:`.certified_recall` has it; None where nothing was certified."""
        return self.content.get("certified")

    @property
    def verdict(self) -> str:
        """``ok``, or what speaks against the numbers: COLLAPSED, UNTRUSTED, CHOSEN ON TEST, unchecked, too few
        queries, not converged, upper bound.

        Queries are too few where fewer than :data:`ENOUGH` were attacked. Scores are marked as upper bounds where the
        attacks had no gradients, or those of another model.
        """
        model = self.content["model"]
        transferred = (model.get("surrogate") or model.get("hash")) != model.get("hash")
        trusted, attacked = self.content.get("trusted"), self.content["data"].get("attacked")
        doubts = ["COLLAPSED"] if self.content["collapsed"] else []
        doubts += ["unchecked"] if trusted is None else [] if trusted else ["UNTRUSTED"]
        doubts += ["CHOSEN ON TEST"] if self.chosen_on_test else []
        doubts += ["too few queries"] if attacked and attacked < ENOUGH else []
        doubts += ["not converged"] if self._measured("robust R@1").get("converged") is False else []
        doubts += ["upper bound"] if attacked and (self.black_box or transferred) else []
        return ", ".join(doubts) or "ok"

    @property
    def black_box(self) -> bool:
        """Whether the attacks queried the model without gradients."""
        return bool(self.content["settings"].get("gradient", "white-box") != "white-box")

    @property
    def asked(self) -> float | None:
        """How many model queries the attacks took per attacked image; None where that was not counted."""
        asked, attacked = self.content.get("cost", {}).get("asked"), self.content["data"].get("attacked")
        return asked / attacked if asked and attacked else None

    @property
    def minimal_eps(self) -> dict[str, Any] | None:
        """The smallest ε found to break each query, as :func:`.minimal_eps` has it; None where it was not sought."""
        return self.content.get(MINIMAL)

    @property
    def extras(self) -> list[str]:
        """The columns that only some results have: R@1 of the sample, certified R@1 at each radius, minimal ε."""
        sample = [SAMPLE] if self.sampled and self._measured(SAMPLE) else []
        return [*sample, *self._certified, *([MEDIAN] if self.minimal_eps else [])]

    def counts(self, column: str) -> tuple[int, int] | None:
        """Of how many queries a share is, after those that count in it; None where it does not say."""
        kept, queries = (self._measured(column).get(name) for name in ("kept", "queries"))
        return None if kept is None or queries is None else (int(kept), int(queries))

    def arrived(self, column: str) -> bool | None:
        """Whether four times the steps take at most :data:`ARRIVED` points off a score; None where not tried."""
        further = self.further(column)
        return None if further is None else further <= ARRIVED

    def further(self, column: str) -> float | None:
        """How many points of 100 four times the steps take away from a score of the ten, on some images."""
        return self.content.get("further", {}).get(column)  # type: ignore[no-any-return]

    def number(self, column: str) -> float | None:
        """R@1, mAP, a score, ERS, ..., image ``passes`` and ``seconds`` of training, or one of :attr:`extras`.

        None where it is not known.
        """
        value: float | None
        if column in BENIGN:
            value = self.content["benign"].get(column)
        elif column in COST:
            value = self.training.get(column)
        else:
            value = self._measured(column).get("value")
        return value

    def interval(self, column: str) -> tuple[float, float] | None:
        """The bounds of a score, of ERS or of robust R@1, where it has them."""
        low, high = (self._measured(column).get(bound) for bound in ("low", "high"))
        return None if low is None or high is None else (low, high)

    def _measured(self, column: str) -> dict[str, float | None]:
        if column in SCORES:
            return self.content["columns"].get(column) or {}
        if column == MEDIAN:
            return {"value": self._median} if self.minimal_eps else {}
        if column == SAMPLE:
            return self.content.get(SAMPLE) or self._tried
        return self._certified.get(column) or self.content.get(column) or {}

    @property
    def _median(self) -> float:
        """The median of minimal ε; infinite where it is beyond the radius."""
        return inf if (median := (self.minimal_eps or {})["quartiles"][1]) is None else float(median)

    @property
    def _certified(self) -> dict[str, dict[str, Any]]:
        """Certified R@1 by its columns, such as ``certified R@1 at 0.25``."""
        return {f"{CERTIFIED}{one['radius']:g}": one for one in (self.certified or {"radii": []})["radii"]}

    @property
    def _tried(self) -> dict[str, float | None]:
        """``sample R@1`` of a result that does not say it: what was left for the first stage of the cascade."""
        robust = self.content.get(ROBUST) or {}
        queries, stages = robust.get("queries"), robust.get("stages")
        if not queries or not stages:
            return {}
        kept = stages[0]["tried"]
        return {"value": 100 * kept / queries, "kept": kept, "queries": queries}


def find(paths: Iterable[Path | str]) -> list[Result]:
    """The results in the given files, and in the ``result.json`` up to four folders below the given folders.

    In the order of the paths, each file once. Raises HoldfastError for a path that does not exist, for a file that
    is no result, and where there is no result at all.
    """
    given = [Path(path).expanduser() for path in paths]
    found: dict[Path, Path] = {}
    for path in given:
        for file in _below(path):
            found.setdefault(file.resolve(), file)
    if not found:
        where = ", ".join(map(str, given[:3])) + (", …" if len(given) > 3 else "")
        place = f"in {where}" if given else "given"
        raise HoldfastError(f"no {NAME} {place}; make one with: holdfast evaluate RUN --protocol strict")
    return [read(file) for file in found.values()]


def _below(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for depth in range(DEPTH + 1) for file in path.glob("*/" * depth + NAME) if file.is_file())
    if path.exists():
        return [path]
    raise HoldfastError(
        f"there is no file or folder {path}{nearest(path)} (expected a {NAME} or a folder with some in it)"
    )


def read(path: Path) -> Result:
    """The result in a file. Raises HoldfastError where there is none."""
    content = read_json(path)
    check(Content, content, f"{path} is no result of 'holdfast evaluate'")
    if "stages" not in (content.get("robust R@1") or {"stages": []}):
        content["least R@1"] = content.pop("robust R@1")  # what the name stood for before there was a cascade
    return Result(path, content)
