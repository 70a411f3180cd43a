"""What the command line prints: tables and results, as text that also reads well in a file."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast.report.tables import radius

if TYPE_CHECKING:
    from holdfast.report import Result

WIDTH_OF_A_FILE = 200
MARKS = {True: "passed", False: "FAILED", None: "not done"}


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    console = Console()
    grid = Table(show_header=any(columns), box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*map(Text, row))
    if not console.is_terminal:
        console.width = max(console.width, WIDTH_OF_A_FILE)
    console.print(title, style="italic", highlight=False, markup=False)
    console.print(grid)


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
        reach = radius(settings["eps"], settings["norm"])
        title = f"attacked by protocol {found.protocol}: ε = {reach}, {settings['steps']} steps"
        table(title, ["", "value", "95 % interval", "what it is", "images"], rows)
    if content["checks"]:
        rows = [[MARKS[one["passed"]], one["name"], one["detail"]] for one in content["checks"]]
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
            radius(one.content["settings"]["eps"], one.content["settings"]["norm"]),
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


def _value(one: dict[str, float]) -> str:
    return f"{one['value']:.3f}"


def _interval(one: dict[str, float]) -> str:
    return f"{one['low']:.3f} to {one['high']:.3f}"
