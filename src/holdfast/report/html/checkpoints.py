"""Run folders that evaluations lie in."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from holdfast.evaluation.result import Result
from holdfast.runs.folder import Run


@dataclass(frozen=True)
class Checkpoint:
    """The last weights of a run, or the best, and their evaluations. name: no other checkpoint on the page has it."""

    name: str
    run: Run
    best: bool
    results: tuple[Result, ...]


def folder_of(result: Result) -> Path | None:
    """The run folder of ``RUN/evaluations/NAME/result.json``; None where the file lies elsewhere."""
    if result.path is None:
        return None
    evaluations = result.path.resolve().parent.parent
    inside = evaluations.name == "evaluations" and (evaluations.parent / "config.yaml").is_file()
    return evaluations.parent if inside else None


def checkpoints(results: Iterable[Result]) -> list[Checkpoint]:
    """The checkpoints that were evaluated, in the order of the results."""
    by_weights: dict[tuple[Path, bool], list[Result]] = {}
    for result in results:
        if (folder := folder_of(result)) is not None:
            best = result.content["model"].get("weights") == "best"
            by_weights.setdefault((folder, best), []).append(result)
    found, taken = [], Counter[str]()
    for (folder, best), known in by_weights.items():
        name = known[0].name
        taken[name] += 1
        unique = name if taken[name] == 1 else f"{name} #{taken[name]}"
        found.append(Checkpoint(unique, Run(folder), best, tuple(known)))
    return found
