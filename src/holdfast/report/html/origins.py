"""Where results come from: commands, settings, versions."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.evaluation.result import Result
from holdfast.report.html.entries import setting_of
from holdfast.report.html.runs import folder_of, sources

VERSIONS = ("python", "platform", "libraries", "git", "cuda", "devices", "threads", "processes")


def repeated(results: Sequence[Result]) -> list[dict[str, Any]]:
    """For each model its name, how it was trained, and by command the evaluations that were made of it."""
    by_model: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        by_model.setdefault((result.name, folder_of(result), str(result.content["model"].get("hash"))), []).append(
            result
        )
    return [
        {"title": name, "training": _training(known[0]), "commands": _by_command(known)}
        for (name, *_), known in by_model.items()
    ]


def _by_command(results: Sequence[Result]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        found.setdefault(command(_environment(result)), []).append(_evaluation(result))
    return found


def _training(result: Result) -> dict[str, Any]:
    source = next(iter(sources([result])), None)
    environment = {} if source is None else source.environment()
    settings = flat(result.training) if source is None else [("config.yaml", source.settings())]
    return {
        "command": command(environment),
        "tables": [("Settings of the training", settings), ("Versions in training", flat(_versions(environment)))],
    }


def _evaluation(result: Result) -> dict[str, Any]:
    content = result.content
    model = {name: value for name, value in content["model"].items() if name != "training"}
    used = flat({"settings": content["settings"], "model": model, "data": content["data"]})
    return {
        "title": str(setting_of(result)),
        "file": "" if result.path is None else str(result.path),
        "tables": [("Settings, model, data and versions", used + flat(_versions(_environment(result))))],
    }


def _environment(result: Result) -> dict[str, Any]:
    environment = result.content.get("environment")
    return environment if isinstance(environment, dict) else {}


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
