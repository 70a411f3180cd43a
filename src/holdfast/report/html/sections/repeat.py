"""Commands, settings and versions: what it takes to repeat the results."""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from holdfast.evaluation.result import Result
from holdfast.report.groups import Pairs, flat
from holdfast.report.html.checkpoints import folder_of
from holdfast.report.tables import setting_of
from holdfast.runs.folder import Run
from holdfast.util.errors import HoldfastError
from holdfast.util.validate import fit, read_json

VERSIONS = ("python", "platform", "libraries", "git", "cuda", "devices", "threads", "processes")


def fill(results: Sequence[Result]) -> dict[str, Any]:
    """What ``repeat.html.j2`` shows: how each model was trained, and its evaluations by command."""
    models: dict[tuple[str, Path | None, str], dict[str, Any]] = {}
    for result in results:
        folder = folder_of(result)
        model = result.name, folder, str(result.content["model"].get("hash"))
        if model not in models:
            models[model] = {"title": result.name, "training": _training(result, folder), "commands": {}}
        environment = result.content.get("environment")
        environment = environment if isinstance(environment, dict) else {}
        commands = models[model]["commands"]
        commands.setdefault(command(environment), []).append(_evaluation(result, environment))
    return {"models": list(models.values())}


def _training(result: Result, folder: Path | None) -> dict[str, Any]:
    environment, settings = dict[str, Any](), flat(result.training)
    if folder is not None:
        with suppress(HoldfastError):
            environment = fit(dict[str, Any], read_json(folder / "environment.json"))
        settings = [("config.yaml", Run(folder).config_file.read_text(encoding="utf-8", errors="replace"))]
    return {
        "command": command(environment),
        "tables": [("Training settings", settings), ("Training versions", _versions(environment))],
    }


def _evaluation(result: Result, environment: Mapping[str, Any]) -> dict[str, Any]:
    content = result.content
    model = {name: value for name, value in content["model"].items() if name != "training"}
    used = flat({"settings": content["settings"], "model": model, "data": content["data"]})
    return {
        "title": str(setting_of(result)),
        "file": "" if result.path is None else str(result.path),
        "tables": [("Settings, model, data and versions", used + _versions(environment))],
    }


def command(environment: Mapping[str, Any]) -> str:
    """The command of an environment as one types it; empty where it is not known."""
    words = environment.get("command")
    return shlex.join(map(str, words)) if isinstance(words, list) else ""


def _versions(environment: Mapping[str, Any]) -> Pairs:
    return flat({name: environment[name] for name in VERSIONS if name in environment})
