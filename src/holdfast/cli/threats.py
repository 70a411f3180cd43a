"""What ``corrupt``, ``verify`` and the threats of ``attack`` print."""

from typing import TYPE_CHECKING, Any, Literal

from holdfast.cli import display
from holdfast.report.tables import format_radius
from holdfast.util.text import counted

if TYPE_CHECKING:
    from holdfast.evaluation.result import Result

WHEN: tuple[Literal["before", "after"], ...] = ("before", "after")
RECALLS: tuple[Literal["clean", "untrained", "attacked"], ...] = ("clean", "untrained", "attacked")


def corruptions(result: "Result") -> None:
    """Print R@1 by kind and severity, a table for each side, and what is left on the average."""
    from holdfast.threats.corruption import MEASURES, SIDES, corruptions_of, mean_of  # noqa: PLC0415

    found = corruptions_of(result)
    assert found is not None
    severities = sorted({cell["severity"] for cell in found["cells"]})
    clean = ", ".join(f"{name} {_number(value)}" for name, value in {**found["clean"]}.items())
    size = f"{counted(found['queries'], 'query')}, {found['gallery']:,} in the gallery"
    print(f"{result.name} on {result.dataset}, {size}; clean: {clean}")
    for side, words in SIDES.items():
        cells = [cell for cell in found["cells"] if cell["side"] == side]
        rows = []
        for kind in [*dict.fromkeys(cell["kind"] for cell in cells), "mean"]:
            alike = [cell for cell in cells if kind in (cell["kind"], "mean")]
            by_severity = [[cell for cell in alike if cell["severity"] == one] for one in severities]
            means = [_number(mean_of(some, "values", "R@1")) for some in by_severity]
            ends = [
                text
                for name in MEASURES
                for text in (_number(mean_of(alike, "values", name)), _number(mean_of(alike, "ratios", name), 3))
            ]
            rows.append([kind, *means, *ends])
        if cells:
            columns = ["R@1, % at severity", *map(str, severities), "mean", "of clean", "mAP", "of clean"]
            display.table(words, columns, rows)
    _end(result)


def verification(result: "Result") -> None:
    """Print the threshold, the rates clean and under attack, and how little it takes."""
    from holdfast.threats.verification import WORDS, verification_of  # noqa: PLC0415

    found = verification_of(result)
    assert found is not None
    pairs = f"{counted(found['genuine'], 'genuine pair')}, {counted(found['impostors'], 'impostor pair')}"
    print(f"{result.name} on {result.dataset}: {pairs}; accepted: nearer than {found['threshold']:.4f}")
    accepted = f"TAR {_number(found['TAR']['value'])} % at FAR {_number(found['far'], 4)}"
    print(f"clean: {accepted}, EER {_number(found['EER'])} %")
    rows, most = [], format_radius(result.eps, result.norm)
    for name, one in found["attacks"].items():
        median = one["smallest"]["quartiles"][1]
        least = f"> {most}" if median is None else format_radius(median, result.norm)
        rate = "TAR" if name == "dodging" else "FAR"
        shares = [f"{_number(one[when]['value'])} ({one[when]['kept']} of {one[when]['queries']})" for when in WHEN]
        bounds = f"{_number(one['after']['low'])} to {_number(one['after']['high'])}"
        rows.append([WORDS.get(name, name), rate, *shares, bounds, _number(one["EER"]), least])
    columns = ["attack", "rate, %", "clean", "attacked", "95 % interval", "EER", "median minimal ε"]
    display.table(f"the probe attacked, ε = {most}", columns, rows)
    _end(result)


def hub(result: "Result") -> None:
    """Print how many queries poisons take, and what a detector sees of them."""
    from holdfast.threats.hub import FLAGGED, hubs_of  # noqa: PLC0415

    found = hubs_of(result)
    assert found is not None
    made = f"made on {counted(found['made_on'], 'query')}, read on {found['read_on']:,} others"
    natural = ", ".join(f"{name} {_number(value)} %" for name, value in found["natural"].items())
    print(f"{result.name} on {result.dataset}: hubs {made}, ε = {format_radius(result.eps, result.norm)}")
    print(f"the best natural item: {natural}")
    rows = []
    for count, one in enumerate([found["clean"], *found["poisoned"]]):
        hits = [_number(value) for value in one["hits"].values()]
        z = " ".join(_number(value) for value in one["z"])
        rows.append(
            [str(count), *hits, _number(one["recall"]), z, _number(one["natural_z"]), str(one["natural_flagged"])]
        )
    flagged = f"natural items with z > {FLAGGED:g}"
    columns = ["poisons", *found["natural"], "R@1", "their z", "highest natural z", flagged]
    display.table("queries that have a poison among their first results, in %", columns, rows)
    print("z: robust z-score of weighted reverse-neighbour counts, by which a detector tells hubs")
    _end(result)


def shared(result: "Result", threat: str) -> None:
    """Print R@1 under one perturbation or patch for all queries."""
    from holdfast.threats.shared import shared_of  # noqa: PLC0415

    found = shared_of(result, threat)
    assert found is not None
    made = f"made on {counted(found['made_on'], 'query')}, read on {found['read_on']:,} others"
    size = f"ε = {format_radius(result.eps, result.norm)}" if threat == "universal" else "any pixels"
    rows = []
    for name in RECALLS:
        one = found["recall"][name]
        bounds = f"{_number(one['low'])} to {_number(one['high'])}"
        rows.append([name, _number(one["value"]), bounds, f"{one['kept']} of {one['queries']}"])
    columns = [threat, "R@1, %", "95 % interval", "queries"]
    display.table(f"{result.name} on {result.dataset}: {made}, {size}", columns, rows)
    _end(result)


def _end(result: "Result") -> None:
    for remark in result.content["model"]["remarks"]:
        print(f"note: {remark}")
    if result.path is not None:
        print(f"written to {result.path}")


def _number(value: Any, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
