"""What README and docs show works as written: examples, tutorials, commands, links, and the reference of the API."""

import re
import runpy
import shlex
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import typer

import holdfast
from holdfast.attacks import ATTACKS
from holdfast.attacks.feedback import FEEDBACK
from holdfast.cli import app, main
from holdfast.data import DATASETS
from holdfast.defense.recipes import parse_recipe
from holdfast.evaluation.protocols import CASCADE, PROTOCOLS
from holdfast.evaluation.settings import attack_named, parse_radii, parse_radius
from holdfast.models.backbones import find_backbone
from holdfast.runs.config import resolve_config
from holdfast.threats import THREATS
from holdfast.util.errors import pick
from tests.helpers.onnx import EXPORTS, REASON
from tests.helpers.pages import DOCS, PAGES, ROOT, TYPED, anchors, blocks, commands, lines, links, words

SHOWN = [(page, command) for page, text in PAGES.items() for command in sorted(set(commands(text)))]
CODED = [page for page in PAGES.keys() - TYPED if any(one.language == "python" for one in blocks(PAGES[page]))]

LOOKED_UP: dict[str, Callable[[Any], Any]] = {
    "recipe": parse_recipe,
    "protocol": lambda value: pick("protocol", value, PROTOCOLS),
    "attack": lambda value: FEEDBACK.get(value) or value in THREATS or attack_named(value, ATTACKS),
    "data": lambda value: pick("data set", value, DATASETS),
    "backbone": find_backbone,
    "eps": parse_radius,
    "eps_curve": parse_radii,
    "step": parse_radius,
    "files": lambda value: Path(value).name == "NAME.yaml" or (ROOT / value).stat(),
}
"""What an argument of the command line is looked up by, to see whether it exists."""


def name(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


def run(code: str, page: Path, names: dict[str, Any]) -> None:
    exec(compile(code, str(page), "exec"), names)


def skip_without_onnx(page: Path) -> None:
    if "--format onnx" in PAGES[page] and not EXPORTS:
        pytest.skip(REASON)


def some_of(real: Path, data: Path) -> None:
    """The real data sets, of CUB-200-2011 only the first eight classes."""
    data.mkdir()
    for folder in real.iterdir():
        (data / folder.name).symlink_to(folder)
    images = (real / "CUB_200_2011" / "images.txt").read_text().splitlines(keepends=True)[:400]
    (data / "CUB_200_2011").unlink()
    (data / "CUB_200_2011").mkdir()
    for path in (real / "CUB_200_2011").iterdir():
        (data / "CUB_200_2011" / path.name).symlink_to(path)
    (data / "CUB_200_2011" / "images.txt").unlink()
    (data / "CUB_200_2011" / "images.txt").write_text("".join(images))


@pytest.mark.usefixtures("short_attacks")
@pytest.mark.parametrize("page", sorted(CODED), ids=name)
def test_examples_run_and_print_what_the_page_shows(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    skip_without_onnx(page)
    monkeypatch.chdir(tmp_path)
    found = blocks(PAGES[page])
    if any('"data/' in block.code for block in found):
        some_of(request.getfixturevalue("real_data"), tmp_path / "data")
    for block, after in zip_longest(found, found[1:]):
        if block.language == "python":
            run(block.code, page, {"__name__": "__main__"})
            printed = capsys.readouterr().out
            if after is not None and after.language == "text" and "evaluate(" not in block.code:  # attacks are short
                assert printed == after.code


@pytest.mark.usefixtures("short_attacks")
@pytest.mark.parametrize("page", sorted(TYPED), ids=name)
def test_a_page_works_as_typed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "pytorch_metric_learning" in PAGES[page]:
        pytest.importorskip("pytorch_metric_learning")
    if "from transformers" in PAGES[page]:
        pytest.importorskip("transformers")
    skip_without_onnx(page)
    monkeypatch.chdir(tmp_path)
    session: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(PAGES[page]):
        if block.file:
            Path(block.file).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            run(block.code, page, session)
        elif block.language == "bash":
            for line in lines(block.code):
                type_in(line)


def type_in(line: str) -> None:
    """Carry out a line of a shell block, in this process."""
    program, *arguments = shlex.split(line)
    if program == "source":  # the environment, which the tests are in
        return
    if program == "python":
        runpy.run_path(arguments[0], run_name="__main__")
        return
    assert program == "holdfast", line
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert not stop.value.code, line


def look_up(command: str) -> None:
    """Parse a command without carrying it out, and look up what it names."""
    given = parsed(words(command))
    for argument, look in LOOKED_UP.items():
        values = given.get(argument) or []
        for value in values if isinstance(values, list | tuple) else [values]:
            look(value)
    if given.get("changes"):
        resolve_config({"data.name": given["data"] or "digits"}, assignments=given["changes"])


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What the command line makes of the words, by the arguments of the verb's function."""
    verb, *rest = arguments
    if verb in ("--help", "--version"):
        return {}
    command = pick("verb", verb, typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    options = {spelling: option for option in command.params for spelling in option.opts}
    if rest and rest[-1].startswith("--") and not pick("option", rest[-1], options).is_flag:
        rest.pop()  # an option that is only named
    return dict(command.make_context(verb, rest).params) if rest else {}


@pytest.mark.parametrize(("page", "command"), SHOWN, ids=name)
def test_a_command_parses_and_names_what_exists(page: Path, command: str) -> None:
    look_up(command)


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("holdfast hardn", "hardn"),
        ("holdfast train --recipee none-r", "recipee"),
        ("holdfast train --recipes", "recipes"),
        ("holdfast train --recipe hm-s-lgaa", "lgaa"),
        ("holdfast train --recipe none-r --data nosuch", "nosuch"),
        ("holdfast train --set pgd.epss=1", "epss"),
        ("holdfast evaluate runs/x --protocol strictest", "strictest"),
        ("holdfast evaluate runs/x --attack qz", "qz"),
        ("holdfast evaluate runs/x --eps 8:255", "8:255"),
        ("holdfast sweep experiments/nosuch.yaml", "nosuch.yaml"),
    ],
)
def test_a_command_that_would_not_work_is_found(command: str, fault: str) -> None:
    with pytest.raises(Exception, match=fault):
        look_up(command)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for file, anchor in links(PAGES[page]):
        target = (page.parent / file if file else page).resolve()
        assert target.exists(), file
        if anchor:
            assert anchor in anchors(PAGES[target]), f"{file}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_scripts_and_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^    |`)make ([a-z][\w-]*)", PAGES[page], re.MULTILINE):
        assert re.search(rf"\b{target}\b", makefile), target
    for script in re.findall(r"python (examples/\w+\.py)", PAGES[page]):
        assert (ROOT / script).is_file(), script
    for module in re.findall(r"python -m (benchmarks(?:\.\w+)?)", PAGES[page]):
        place = ROOT / module.replace(".", "/")
        assert place.is_dir() or place.with_suffix(".py").is_file(), module


@pytest.mark.parametrize("page", [DOCS / "architecture.md", ROOT / "CONTRIBUTING.md"], ids=name)
def test_named_source_files_exist(page: Path) -> None:
    named = re.findall(r"(?:^    |`)((?:\w+/)+(?:\w+\.\w+)?)(?=`| )", PAGES[page], re.MULTILINE)
    roots = ROOT, ROOT / "src" / "holdfast"
    assert named
    assert [file for file in named if not any((root / file).exists() for root in roots)] == []


def test_the_page_on_the_cascade_lists_its_stages_in_order() -> None:
    page = (DOCS / "concepts" / "cascade.md").read_text(encoding="utf-8")
    listed: list[str] = []
    for cell in re.findall(r"^\| (`[^|]+) \|", page.partition("## Why these")[0], re.M):
        names = re.findall(r"`([^`]+)`", cell)
        if " to " in cell:
            (stem, first), (_, last) = (name.rsplit("-", 1) for name in names)
            names = [f"{stem}-{i}" for i in range(int(first), int(last) + 1)]
        listed += names
    assert listed == [stage.name for stage in CASCADE]
    assert f"in {len(listed)} stages" in (DOCS / "concepts" / "robust.md").read_text(encoding="utf-8")


def test_every_public_name_is_in_the_reference() -> None:
    shown = re.findall(r"^::: holdfast\.(\w+)$", PAGES[DOCS / "api" / "names.md"], re.MULTILINE)
    assert sorted(shown) == sorted(holdfast.__all__)


def test_a_page_is_read_as_a_reader_would() -> None:
    fenced = '```python title="x.py"\n[no](link.md)\n```\n'
    page = f"text [a](b.md#c) `[no](link.md)`\n{fenced}    holdfast train \\\n        --x 1  # y\n"
    assert list(links(page)) == [("b.md", "c")]
    assert commands(page) == ["holdfast train --x 1"]
    (block,) = blocks(page)
    assert (block.language, block.file, block.code) == ("python", "x.py", "[no](link.md)\n")
    assert anchors("# A `b`: C & d?\n::: holdfast.PGD\n") == {"a-b-c-d", "holdfast.PGD"}
    with pytest.raises(NameError):
        run("undefined_name", ROOT, {})
