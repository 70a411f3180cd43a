"""Run folders that evaluations lie in."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.evaluation.result import Result
from holdfast.runs.folder import Run


@dataclass(frozen=True)
class Source:
    """A run folder, which of its weights were evaluated, and the evaluations of these."""

    folder: Path
    best: bool
    results: tuple[Result, ...]

    @property
    def run(self) -> Run:
        """The files of the run."""
        return Run(self.folder)

    @property
    def name(self) -> str:
        """That of its evaluations."""
        return self.results[0].name

    def environment(self) -> dict[str, Any]:
        """What ``environment.json`` says of the training; empty where there is none that can be read."""
        try:
            content = json.loads((self.folder / "environment.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def settings(self) -> str:
        """The text of ``config.yaml``."""
        return self.run.config_file.read_text(encoding="utf-8", errors="replace")


def folder_of(result: Result) -> Path | None:
    """The run folder of ``RUN/evaluations/NAME/result.json``; None where the file lies elsewhere."""
    if result.path is None:
        return None
    evaluations = result.path.resolve().parent.parent
    inside = evaluations.name == "evaluations" and (evaluations.parent / "config.yaml").is_file()
    return evaluations.parent if inside else None


def sources(results: Iterable[Result]) -> list[Source]:
    """The run folders of results, in their order, each once for the last and once for the best weights."""
    found: dict[tuple[Path, bool], list[Result]] = {}
    for result in results:
        if (folder := folder_of(result)) is not None:
            best = result.content["model"].get("weights") == "best"
            found.setdefault((folder, best), []).append(result)
    return [Source(*key, tuple(known)) for key, known in found.items()]
