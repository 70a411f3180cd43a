"""The page: a header, and the sections in order."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from holdfast import __version__
from holdfast.evaluation.result import Result
from holdfast.report.html.checkpoints import checkpoints
from holdfast.report.html.entries import by_setting, entries
from holdfast.report.html.sections import checks, costs, glance, radii, rankings, repeat, scores, table, training
from holdfast.util.errors import HoldfastError

SECTIONS = {
    "glance": "At a glance",
    "table": "All numbers",
    "scores": "The ten scores",
    "costs": "Robustness against cost",
    "radii": "By attack radius",
    "training": "Training",
    "rankings": "Ranked lists, clean and under attack",
    "checks": "Can the scores be trusted?",
    "repeat": "How to repeat it",
}
"""The titles, in order, by the name of the module and of the template."""


def page(results: Sequence[Result], root: str | Path | None, pictures: int) -> str:
    """The results as one HTML page.

    root: where the data set is now, if not where it was in training. pictures: how many queries of each data set are
    shown with their ranked lists; with 0 neither models nor images are read. What cannot be read is said on the page.
    Raises HoldfastError for a negative number of pictures.
    """
    if pictures < 0:
        raise HoldfastError(f"--pictures must be at least 0, not {pictures}")
    found = entries(results)
    settings = by_setting(found)
    weights = checkpoints([entry.result for entry in found])
    filled = {
        "glance": glance.fill(results, settings),
        "table": table.fill(found, settings),
        "scores": scores.fill(settings),
        "costs": costs.fill(settings),
        "radii": radii.fill(found),
        "training": training.fill(weights),
        "rankings": rankings.fill(weights, pictures, root),
        "checks": checks.fill(results),
        "repeat": repeat.fill(results),
    }
    templates = Environment(
        loader=PackageLoader("holdfast.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [
        {"id": name, "title": title, "body": templates.get_template(f"{name}.html.j2").render(filled[name])}
        for name, title in SECTIONS.items()
        if filled[name]
    ]
    datasets = list(dict.fromkeys(result.dataset for result in results))
    models = {entry.group.name for entry in found}
    return templates.get_template("page.html.j2").render(
        title=f"Retrieval under attack: {', '.join(datasets)}",
        lead=f"{_count(len(results), 'evaluation')} of {_count(len(models), 'model')}: how well they retrieve clean "
        "images, how much of that is left when an attacker changes the images a little, and whether the numbers can be "
        "trusted.",
        sections=shown,
        version=__version__,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
