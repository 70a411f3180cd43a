"""What README and docs show works as written: examples, tutorials, commands, links, and the reference of the API."""

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

import holdfast
from holdfast.attacks import ATTACKS
from holdfast.backbones import find_backbone
from holdfast.budget import attack_named, radii, radius
from holdfast.cli import app, main
from holdfast.config import resolve
from holdfast.data import DATASETS
from holdfast.protocols import PROTOCOLS
from holdfast.recipes import parse
from tests.pages import DOCS, PAGES, ROOT, TUTORIALS, anchors, blocks, commands, lines, links, words

SHOWN = sorted({(page, command) for page in PAGES for command in commands(page.read_text(encoding="utf-8"))})
CODED = [
    page for page in PAGES if page not in TUTORIALS and any(b.language == "python" for b in blocks(page.read_text()))
]


def name(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


def run(code: str, page: Path, names: dict[str, Any]) -> None:
    exec(compile(code, str(page), "exec"), names)


@pytest.mark.parametrize("page", CODED, ids=name)
def test_examples_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    found = [block.code for block in blocks(page.read_text(encoding="utf-8")) if block.language == "python"]
    if any('"data/' in code for code in found):
        (tmp_path / "data").symlink_to(request.getfixturevalue("real_data"))
    for code in found:
        run(code, page, {"__name__": "__main__"})


@pytest.mark.parametrize("page", TUTORIALS, ids=name)
def test_a_tutorial_works_as_typed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    session: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.file:
            Path(block.file).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            run(block.code, page, session)
        elif block.language == "bash":
            for line in lines(block.code):
                type_in(line)


def type_in(line: str) -> None:
    """Carry out a line of a shell block."""
    program, *arguments = shlex.split(line)
    if program == "python":
        runpy.run_path(arguments[0], run_name="__main__")
        return
    assert program == "holdfast", line
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert not stop.value.code, line


@pytest.mark.parametrize(("page", "command"), SHOWN, ids=name)
def test_a_command_parses_and_names_what_exists(page: Path, command: str) -> None:
    given = parsed(words(command))
    for option, look in LOOKED_UP.items():
        values = given.get(option)
        for value in values if isinstance(values, list | tuple) else [values]:
            if value is not None:
                look(value)
    if "files" in given:
        assert all(file.name == "NAME.yaml" or (ROOT / file).is_file() for file in given["files"])
    if given.get("changes"):
        resolve({"data.name": given["data"] or "digits"}, assignments=given["changes"])


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What the command line makes of the words, by the names of its functions' arguments; nothing is carried out."""
    program: Any = typer.main.get_command(app)
    verb, *rest = arguments
    if verb == "--help":
        return {}
    command = program.commands[verb]
    if rest and rest[-1].startswith("--"):  # an option that is only named
        assert any(rest[-1] in option.opts for option in command.params), rest[-1]
        rest.pop()
    return dict(command.make_context(verb, rest).params) if rest else {}


LOOKED_UP: dict[str, Any] = {
    "recipe": parse,
    "protocol": PROTOCOLS.__getitem__,
    "attack": lambda value: attack_named(value, ATTACKS),
    "data": DATASETS.__getitem__,
    "backbone": find_backbone,
    "eps": radius,
    "eps_curve": radii,
    "step": lambda value: radius(value, "step"),
}


@pytest.mark.parametrize(
    "command",
    [
        "holdfast hardn",
        "holdfast train --recipee none-r",
        "holdfast evaluate runs/x --protocol strictest",
        "holdfast evaluate runs/x --attack qz",
        "holdfast train --set pgd.epss=1",
        "holdfast train --recipe hm-s-lga-ics --data nosuch",
        "holdfast sweep experiments/nosuch.yaml",
    ],
)
def test_a_command_that_would_not_work_is_found(command: str) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011
        test_a_command_parses_and_names_what_exists(ROOT, command)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for file, anchor in links(page.read_text(encoding="utf-8")):
        target = page.parent / file if file else page
        assert target.exists(), file
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{file}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_scripts_and_targets_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text() + (ROOT / "Makefile").read_text().replace("$(PAPER)", "")
    for target in re.findall(r"(?:^    |`)make ([a-z][\w-]*)", text, re.MULTILINE):
        assert re.search(rf"\b{target}\b", makefile), target
    for script in re.findall(r"python (examples/\w+\.py)", text):
        assert (ROOT / script).is_file(), script
    for module in re.findall(r"python -m (benchmarks(?:\.\w+)?)", text):
        place = ROOT / module.replace(".", "/")
        assert place.is_dir() or place.with_suffix(".py").is_file(), module


def test_every_public_name_is_in_the_reference() -> None:
    shown = re.findall(r"^::: holdfast\.(\w+)$", (DOCS / "api" / "names.md").read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(holdfast.__all__)


def test_faults_of_a_page_are_found() -> None:
    fenced = '```python title="x.py"\n[no](link.md)\n```\n'
    page = f"text [a](b.md#c) `[no](link.md)`\n{fenced}    holdfast train \\\n        --x 1  # y\n"
    assert list(links(page)) == [("b.md", "c")]
    assert commands(page) == ["holdfast train --x 1"]
    (block,) = blocks(page)
    assert (block.language, block.file, block.code) == ("python", "x.py", "[no](link.md)\n")
    assert anchors("# A `b`: C & d?\n::: holdfast.PGD\n") == {"a-b-c-d", "holdfast.PGD"}
