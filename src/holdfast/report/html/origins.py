"""Where results come from: commands, settings, versions."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.report.files import Result
from holdfast.report.html.entries import setting_of
from holdfast.report.html.runs import folder_of, sources

VERSIONS = ("python", "platform", "libraries", "git", "cuda", "devices", "threads", "processes")


def repeated(results: Sequence[Result]) -> list[dict[str, Any]]:
    """For each model its name, how it was trained, and for each of its evaluations how that was made."""
    by_model: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        by_model.setdefault((result.name, folder_of(result), str(result.content["model"].get("hash"))), []).append(
            result
        )
    return [
        {"title": name, "training": _training(known[0]), "evaluations": [_evaluation(result) for result in known]}
        for (name, *_), known in by_model.items()
    ]


def _training(result: Result) -> dict[str, Any]:
    source = next(iter(sources([result])), None)
    environment = {} if source is None else source.environment()
    settings = flat(result.training) if source is None else [("config.yaml", source.settings())]
    return {
        "command": command(environment),
        "tables": [("Settings of the training", settings), ("Versions in training", flat(_versions(environment)))],
    }


def _evaluation(result: Result) -> dict[str, Any]:
    content, environment = result.content, result.content.get("environment")
    environment = environment if isinstance(environment, dict) else {}
    model = {name: value for name, value in content["model"].items() if name != "training"}
    return {
        "title": str(setting_of(result)),
        "file": "" if result.path is None else str(result.path),
        "command": command(environment),
        "tables": [
            (
                "Settings, model, data and versions",
                [
                    *flat({"settings": content["settings"], "model": model, "data": content["data"]}),
                    *flat(_versions(environment)),
                ],
            )
        ],
    }


def command(environment: Mapping[str, Any]) -> str:
    """The command of an environment as one types it; empty where it is not known."""
    words = environment.get("command")
    return shlex.join(map(str, words)) if isinstance(words, list) else ""


def flat(settings: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """Settings as pairs of dotted names and texts."""
    pairs: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            pairs += flat(value, f"{above}{name}.")
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            pairs.append((f"{above}{name}", shown))
    return pairs


def _versions(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {name: environment[name] for name in VERSIONS if name in environment}
