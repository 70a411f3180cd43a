"""``holdfast gate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from holdfast.evaluation.result import Result


def gate(  # noqa: PLR0917
    new: Annotated[Path, typer.Argument(help="The result to decide on: result.json, or the folder of one.")],
    baseline: Annotated[Path | None, typer.Option(help="The result of before, for --max-drop.")] = None,
    max_drop: Annotated[
        list[str] | None, typer.Option(metavar="SCORE=NUMBER", help='"robust R@1=2": no drop by more; repeatable.')
    ] = None,
    least: Annotated[
        list[str] | None, typer.Option("--min", metavar="SCORE=NUMBER", help='"robust R@1=30": no less; repeatable.')
    ] = None,
    rule_out: Annotated[float, typer.Option(help="A pass rules out a drop of so many points of 100.")] = 5.0,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here.")] = None,
    summary: Annotated[Path | None, typer.Option(help="Add a table in Markdown to this file.")] = None,
    badge: Annotated[Path | None, typer.Option(help="Write JSON for a badge of shields.io here.")] = None,
) -> None:
    """Decide by rules whether a model may replace another: exit 0 for pass, 1 for fail, 2 for cannot tell."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.gate import written  # noqa: PLC0415
    from holdfast.gate.decide import decide  # noqa: PLC0415
    from holdfast.gate.rules import parse_max_drops, parse_mins  # noqa: PLC0415
    from holdfast.util.atomic import write_json, write_text  # noqa: PLC0415
    from holdfast.util.errors import HoldfastError  # noqa: PLC0415

    rules = [*parse_max_drops(max_drop or ()), *parse_mins(least or ())]
    if rule_out <= 0:
        raise HoldfastError(f"--rule-out is above 0, not {rule_out:g}")
    for option, path in {"--junit": junit, "--summary": summary, "--badge": badge}.items():
        if path is not None and path.is_dir():
            raise HoldfastError(f"{option} {path} is a folder: give a file")
    decision = decide(_one(new), None if baseline is None else _one(baseline), rules, rule_out)
    if junit is not None:
        write_text(junit, written.junit(decision))
    if summary is not None:
        with summary.open("a", encoding="utf-8") as file:
            file.write(written.summary(decision))
    if badge is not None:
        write_json(badge, written.badge(decision))
    display.table(f"gate: {decision.verdict}", *written.table(decision))
    raise typer.Exit(decision.verdict.value)


def _one(path: Path) -> "Result":
    from holdfast.report import find  # noqa: PLC0415
    from holdfast.util.errors import HoldfastError  # noqa: PLC0415
    from holdfast.util.text import counted  # noqa: PLC0415

    results = find([path])
    if len(results) > 1:
        raise HoldfastError(
            f"{path} has {counted(len(results), 'result')}; name one of them, such as {results[0].path}"
        )
    return results[0]
