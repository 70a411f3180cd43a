"""The model card: what an embedder is, what was measured, what that does not say, and how to load and repeat it."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from math import isfinite
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from holdfast import __version__
from holdfast.data import DATASETS
from holdfast.defense.recipes import parse_recipe
from holdfast.evaluation.protocols import PROTOCOLS
from holdfast.evaluation.result import Result
from holdfast.evaluation.settings import OF_ATTACKS, attack_named, parse_radius, resolve_settings
from holdfast.evaluation.words import PASSED, verdict_words
from holdfast.export.source import Source
from holdfast.models.backbones import is_code
from holdfast.report.tables import (
    format_bounded,
    format_count,
    format_radius,
    markdown,
    measures_of,
    setting_of,
)
from holdfast.runs.config import Config, starts_trained
from holdfast.runs.data import family_of
from holdfast.util.errors import HoldfastError
from holdfast.util.imports import CUSTOM
from holdfast.util.progress import format_duration
from holdfast.util.text import counted

TAGS = ["holdfast", "image-retrieval", "deep-metric-learning", "adversarial-robustness"]
DECIMALS = 4
"""Of the figures in the front matter."""
NORMS = {"linf": "each pixel by up to {}", "l2": "all pixels together by up to {} (Euclidean norm)"}
SIGHT = {
    "white-box": "knows the network and its gradients",
    "nes": "asks for embeddings only (NES)",
    "square": "asks for embeddings only (Square)",
}


def card(source: Source, precision: str = "float32") -> str:
    """The card in Markdown, with YAML front matter as the Hub reads it. precision: of the weights beside it."""
    templates = Environment(
        loader=PackageLoader("holdfast.export", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.globals["counted"] = counted
    model, config = source.embedder.config, source.config
    return templates.get_template("card.md.jinja").render(
        front=yaml.safe_dump(front(source), sort_keys=False, allow_unicode=True).strip(),
        version=__version__,
        source=source,
        model=model,
        coded=is_code(model.backbone),
        colours={1: "gray", 3: "colour"}.get(model.channels, f"{model.channels}-channel"),
        recipe=None if config.recipe == CUSTOM else parse_recipe(config.recipe),
        data=config.data.name,
        layout=DATASETS[config.data.name],
        on_test=config.validation.on_test,
        precision=precision,
        figures=figures(source.results),
        doubts=list(dict.fromkeys(words for result in source.results for words in verdict_words(result.verdict))),
        threats=[threat(result) for result in source.results],
        checks=[checks(result) for result in source.results],
        settings=markdown(["setting", "value"], list(settings(config))),
        cost=cost(source.cost),
        evaluations=[command(result, source.name, config) for result in source.results],
    )


def front(source: Source) -> dict[str, Any]:
    """The front matter: what the Hub files the model under, and every figure measured."""
    content = {"library_name": "holdfast", "pipeline_tag": "image-feature-extraction", "tags": TAGS}
    if not source.results:
        return content
    task = {"type": "image-feature-extraction", "name": "image retrieval"}
    results = [
        {
            "task": task.copy(),
            "dataset": {"type": result.dataset, "name": result.dataset},
            "metrics": [
                {"type": name, "value": round(value, DECIMALS), "name": f"{name} ({way(result)})"}
                for name in measures_of([result])
                if (value := result.number(name)) is not None and isfinite(value)
            ],
        }
        for result in source.results
    ]
    return {**content, "model-index": [{"name": source.name, "results": results}]}


def way(result: Result) -> str:
    """How a result was measured, in few words: ``strict, ε = 77/255, 32 steps``."""
    return setting_of(result).attack.removeprefix("protocol ")


def figures(results: tuple[Result, ...]) -> str:
    """One row per measure, one column per evaluation, with 95 % intervals where there are some."""
    rows = [
        [name, *(format_bounded(result, name) for result in results)]
        for name in measures_of(results)
        if any(result.number(name) is not None for result in results)
    ]
    return markdown(["", *map(way, results)], [*rows, ["verdict", *(result.verdict for result in results)]])


def threat(result: Result) -> str:
    """What the attacker of an evaluation may do and knows, and on how much it was tried."""
    settings, data = result.content["settings"], result.content["data"]
    if not (settings["attacks"] or settings.get("cascade")):
        return f"**{way(result)}**: no attack."
    reach, step = (format_radius(settings[key], settings["norm"]).removesuffix(" (l2)") for key in ("eps", "step"))
    knows = SIGHT[settings.get("gradient", "white-box")]
    if result.content["model"].get("surrogate"):
        knows = "sees another network only (transfer)"
    word = "from" if settings["step"] in (settings["eps"], 2 * settings["eps"]) else "of"
    restarts = f", {counted(settings['restarts'], 'restart')}" if settings.get("restarts") else ""
    how = (
        f"in {counted(settings['steps'], 'step')} {word} {step}{restarts}"
        if settings["attacks"]
        else "by the cascade alone"
    )
    return (
        f"**{way(result)}**: the attacker may change {NORMS[settings['norm']].format(reach)}, pixels being in [0, 1], "
        f"{how}, and {knows}. Attacked: {data['attacked']:,} of {counted(data['queries'], 'query')}, in a gallery of "
        f"{counted(data['gallery'], 'image')} of {counted(data['classes'], 'class')} that the attacker knows."
    )


def checks(result: Result) -> str:
    """A table of what was done to find out whether the scores can be trusted; empty where nothing was."""
    rows = [[one["name"], PASSED[one["passed"]], one["detail"]] for one in result.content.get("checks") or []]
    return markdown([way(result), "", "what was seen"], rows) if rows else ""


def settings(config: Config) -> Iterator[list[str]]:
    """What training was like, in a few rows; config.yaml has all of it."""
    yield ["recipe", f"`{config.recipe}`"]
    yield ["begun from", "pretrained weights" if starts_trained(config) else "random weights"]
    if config.recipe != CUSTOM and parse_recipe(config.recipe).perturbs:
        eps, step = (format_radius(value, config.pgd.norm) for value in (config.pgd.eps, config.pgd.step))
        yield ["adversary in training", f"ε = {eps}, {counted(config.pgd.steps, 'step')} of {step}"]
    warm = f"{config.warmup.epochs} plain, then " if config.warmup.epochs else ""
    most = "" if config.steps is None else f", at most {counted(config.steps, 'step')}"
    yield ["epochs", f"{warm}{config.optim.epochs}{most}"]
    yield ["batch", f"{config.batch.pairs} × {config.batch.per_class} images"]
    yield ["optimiser", f"{config.optim.name}, learning rate {config.optim.lr:g}, {config.optim.schedule}"]
    yield ["precision", config.precision]
    yield ["seed", f"{config.seed}"]


def cost(known: dict[str, float]) -> str:
    """What training took, in words; empty where that is not known."""
    words: dict[str, Callable[[float], str]] = {
        "steps": lambda value: counted(int(value), "step"),
        "passes": lambda value: f"{format_count(value)} images passed through the network",
        "seconds": lambda value: f"{format_duration(value)} in these steps",
    }
    return ", ".join(say(known[key]) for key, say in words.items() if known.get(key) is not None)


def _of_protocol(attack: str, protocol: str) -> bool:
    with suppress(HoldfastError):
        return bool(attack_named(attack, PROTOCOLS[protocol].attacks))
    return False


def _fixed(protocol: str) -> set[str]:
    """The settings that are no option of their own, or none that the protocol takes."""
    rules = PROTOCOLS[protocol]
    idle = set() if rules.attacks else {"step", "steps", "restarts"} if rules.cascade else OF_ATTACKS
    return {"protocol", "attacks", "cascade", "minimal_eps", "alpha"} | idle


def command(result: Result, name: str, config: Config) -> str:
    """The command that repeats an evaluation of a run ``runs/NAME``; what it needs, where no command does."""
    settings, protocol = result.content["settings"], result.content["protocol"]
    if own := [name for name in settings["attacks"] if not _of_protocol(name, protocol)]:
        return f"# {way(result)}: holdfast.evaluate(…, attacks=[…]) takes the author's own attack {', '.join(own)}"
    in_pixels = settings.get("norm", "linf") == "linf"
    fixed = _fixed(protocol) | ({"steps"} if settings.get("query_budget") else set())
    given = {key: settings[key] for key in {"eps", "norm", "gradient", "steps"} - fixed if key in settings}
    step = resolve_settings(family_of(config), protocol, **given).step
    usual = {**asdict(resolve_settings(family_of(config), protocol)), "step": step}
    words = [f"holdfast evaluate runs/{name}", f"--protocol {protocol}"]
    for key, value in settings.items():
        if key in fixed or value in (None, usual.get(key)):
            continue
        shown = f"{value}"
        if key in ("eps", "step") and in_pixels and parse_radius(fraction := format_radius(value, "linf")) == value:
            shown = fraction
        words.append(f"--{key.replace('_', '-')} {shown}")
    if list(usual["attacks"]) != list(settings["attacks"]):
        words += [f"--attack {attack}" for attack in settings["attacks"]]
    elif usual["cascade"] and not settings.get("cascade"):
        words += ["--quick"]
    words += ["--minimal-eps"] if settings.get("minimal_eps") else []
    words += ["--certify"] if settings.get("sigma") else []
    words += ["--transfer MODEL"] if result.content["model"].get("surrogate") else []
    words += ["--no-checks"] if settings["attacks"] and not result.content.get("checks") else []
    words += ["--best"] if result.content["model"].get("weights") == "best" else []
    return " ".join(words)
