"""The page: a header, and the sections in order."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from holdfast import __version__
from holdfast.evaluation.result import Result
from holdfast.report.html.checkpoints import checkpoints
from holdfast.report.html.entries import by_setting, entries
from holdfast.report.html.sections import (
    certified,
    checks,
    corruptions,
    costs,
    glance,
    minimal,
    poisons,
    radii,
    rankings,
    repeat,
    scores,
    table,
    training,
    verification,
)
from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted

ATTACKED = (
    "how well they retrieve clean images, how much of that is left when an attacker changes the images a little, and "
    "whether the numbers can be trusted"
)
CLEAN = "how well they retrieve images; nothing was attacked"
"""What a page is about, with attacks and without."""


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
    weights = checkpoints([entry.group.first for entry in found])
    sections = {
        "glance": ("At a glance", glance.fill(results, settings)),
        "table": ("All numbers", table.fill(found, settings)),
        "scores": ("The ten scores", scores.fill(settings)),
        "costs": ("Robustness against cost", costs.fill(settings)),
        "radii": ("By attack radius", radii.fill(found)),
        "minimal": ("How little it takes", minimal.fill(found)),
        "certified": ("Certified R@1", certified.fill(results)),
        "corruptions": ("Natural corruptions", corruptions.fill(results)),
        "verification": ("Verification under attack", verification.fill(results)),
        "poisons": ("Hubs, and one perturbation for all", poisons.fill(results)),
        "training": ("Training", training.fill(weights)),
        "rankings": ("Ranked lists, clean and under attack", rankings.fill(weights, pictures, root)),
        "checks": ("Can the scores be trusted?", checks.fill(results)),
        "repeat": ("How to repeat it", repeat.fill(results)),
    }
    templates = environment()
    shown = [
        Section(name, title, templates.get_template(f"{name}.html.j2").render(filled))
        for name, (title, filled) in sections.items()
        if filled
    ]
    datasets = list(dict.fromkeys(result.dataset for result in results))
    attacked = any(result.eps is not None or result.certified for result in results)
    models = {entry.group.name for entry in found}
    count = f"{counted(len(results), 'evaluation')} of {counted(len(models), 'model')}"
    title = f"{'Retrieval under attack' if attacked else 'Retrieval'}: {', '.join(datasets)}"
    return whole(title, f"{count}: {ATTACKED if attacked else CLEAN}.", shown)


class Section(NamedTuple):
    """A part of a page: its anchor, its heading, and HTML."""

    id: str
    title: str
    body: str


def environment() -> Environment:
    """The templates of pages; what is filled in is escaped."""
    templates = Environment(
        loader=PackageLoader("holdfast.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals["counted"] = counted
    return templates


def whole(title: str, lead: str, sections: Sequence[Section], script: str = "") -> str:
    """A page of sections. script: the name of a template that is its only script; empty for a page without one."""
    return (
        environment()
        .get_template("page.html.j2")
        .render(title=title, lead=lead, sections=sections, version=__version__, script=script)
    )
