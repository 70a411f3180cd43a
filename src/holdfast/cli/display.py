"""What the command line prints: tables and results, as text that also reads well in a file."""

from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from holdfast.evaluation.words import PASSED
from holdfast.report.tables import format_radius
from holdfast.util.errors import printable
from holdfast.util.progress import format_duration
from holdfast.util.text import console, plain

if TYPE_CHECKING:
    from holdfast.evaluation.result import Result
    from holdfast.export.verify import Compared
    from holdfast.search.lookup import Answer
    from holdfast.sweep.dispatch import Board
    from holdfast.sweep.plan import Planned

WIDTH_OF_A_FILE = 200


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    screen = console()
    grid = Table(show_header=any(columns), box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(plain(cell)) for cell in row))
    if not screen.is_terminal:
        screen.width = max(screen.width, WIDTH_OF_A_FILE)
    screen.print(plain(title), style="italic", highlight=False, markup=False)
    screen.print(grid)


def number(value: object) -> str:
    """A float with three decimals, anything else as it is."""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def result(found: "Result") -> None:
    """Print an evaluation: benign metrics, scores with their intervals, checks, and the verdict."""
    content = found.content
    settings, data = content["settings"], content["data"]
    benign = {**content["benign"], **content["gauges"]}
    table(f"{found.name} on {data['name']}: images as they are", ["", ""], [[k, number(v)] for k, v in benign.items()])
    if content["columns"]:
        rows = [
            [name, _value(one), _interval(one), one["unit"], str(one["queries"])]
            for name, one in content["columns"].items()
        ]
        for name in ("robust R@1", "ERS"):
            if one := content[name]:
                rows.append([name, _value(one), _interval(one), one.get("unit", ""), ""])
        reach = format_radius(settings["eps"], settings["norm"])
        title = f"attacked by protocol {found.protocol}: ε = {reach}, {settings['steps']} steps"
        table(title, ["", "value", "95 % interval", "what it is", "images"], rows)
    if content["checks"]:
        rows = [[PASSED[one["passed"]], one["name"], one["detail"]] for one in content["checks"]]
        table("can these scores be trusted?", ["", "check", "what was seen"], rows)
    for remark in content["model"].get("remarks", []):
        print(f"note: {remark}")
    print(f"verdict: {found.verdict}")
    if found.path is not None:
        print(f"written to {found.path}")


def curve(results: "Sequence[Result]") -> None:
    """Print the scores of evaluations at several radii, one row each."""
    names = list(results[0].content["columns"])
    rows = [
        [
            format_radius(one.content["settings"]["eps"], one.content["settings"]["norm"]),
            *(_value(one.content["columns"][name]) for name in names),
            one.verdict,
        ]
        for one in results
    ]
    table(f"{results[0].name}: scores by ε", ["ε", *names, "verdict"], rows)


def comparison(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a result beside published rows, with where they were published below."""
    place = list(header).index("source")
    shorter = [[*row[:place], *row[place + 1 :]] for row in (header, *rows)]
    table("beside the published rows", shorter[0], shorter[1:])
    for source in dict.fromkeys(row[place] for row in rows if "published" in row):
        print(f"published in: {source}")


def answers(found: "Sequence[Sequence[Answer]]") -> None:
    """Print what was found for queries, a table for each."""
    for group in found:
        rows = [[str(one.rank), f"{one.distance:.4f}", printable(one.label), printable(one.path)] for one in group]
        table(printable(group[0].query), ["rank", "distance", "label", "path"], rows)


def compared(found: "Sequence[Compared]") -> None:
    """Print how far an exported model is from the run it is of."""
    rows = [
        [
            "as in the run" if one.ok else "DIFFERS",
            one.what,
            *("" if value is None else f"{value:.2f}" for value in (one.before, one.after)),
            f"{one.difference:.1e}",
            f"{one.allowed:g}",
        ]
        for one in found
    ]
    table("the exported model beside the run", ["", "", "run", "exported", "difference", "allowed"], rows)


def planned(runs: "Sequence[Planned]", seconds: Sequence[float], slots: int) -> None:
    """Print what a sweep has to do, and how long it takes where so many runs are at work at a time."""
    rows = []
    for run, left in zip(runs, seconds, strict=True):
        step, total = run.run.place().step, run.steps()
        evaluations = ", ".join(one.protocol for one in run.missing())
        training = "trained" if run.trained() else f"{step} of {total} steps" if step else f"{total} steps"
        rows.append([run.sweep, run.name, training, evaluations or "–", format_duration(left)])
    table("what is to be done", ["sweep", "run", "training", "evaluations to make", "time left"], rows)
    ways = f", {slots} at a time" if slots > 1 else ""
    total_time = format_duration(sum(left for left in seconds if not isnan(left)) / slots)
    print(f"runs: {len(runs)}; about {total_time}{ways}; start-up, validations and checks of evaluations not counted")


def swept(board: "Board") -> None:
    """Print what came of a sweep."""
    rows = [["done", run.sweep, run.name, ""] for run in board.done]
    rows += [["left", run.sweep, run.name, "another process is at work on it, or on its start"] for run in board.left]
    for run in board.runs:
        if reason := board.failed.get(run.folder):
            log = run.folder / "log.txt"
            rows.append(["FAILED", run.sweep, run.name, f"{reason} ({log})" if log.exists() else reason])
    table("sweep", ["", "sweep", "run", ""], rows)


def _value(one: dict[str, float]) -> str:
    return f"{one['value']:.3f}"


def _interval(one: dict[str, float]) -> str:
    return f"{one['low']:.3f} to {one['high']:.3f}"
