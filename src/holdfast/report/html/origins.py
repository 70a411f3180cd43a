"""Where results come from: commands, settings, versions."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.report.files import Result
from holdfast.report.html.entries import setting_of
from holdfast.report.html.runs import sources

VERSIONS = ("python", "platform", "libraries", "git", "cuda", "devices", "threads", "processes")


def repeated(results: Sequence[Result]) -> list[dict[str, Any]]:
    """For each result its commands, its file, and tables of settings and versions."""
    return [_origin(result) for result in results]


def _origin(result: Result) -> dict[str, Any]:
    training = next(iter(sources([result])), None)
    trained_by = {} if training is None else training.environment()
    content = result.content
    measured_by = content.get("environment") or {}
    commands = {"Trained by": command(trained_by), "Evaluated by": command(measured_by)}
    return {
        "title": f"{result.name}, {setting_of(result).attack}",
        "file": "" if result.path is None else str(result.path),
        "commands": [(what, said) for what, said in commands.items() if said],
        "tables": [
            ("Settings of the evaluation", flat(content["settings"] | {"hash": content.get("hash")})),
            ("Model", flat({key: value for key, value in content["model"].items() if key != "training"})),
            ("Settings of the training", flat(result.training)),
            ("config.yaml", [] if training is None else [("", training.settings())]),
            ("Data", flat(content["data"])),
            ("Versions in training", flat(_versions(trained_by))),
            ("Versions in evaluation", flat(_versions(measured_by))),
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
