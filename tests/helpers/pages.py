"""The pages for readers as the tests see them: their code, the commands they show, their links and anchors."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NAMES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "experiments/README.md", "zoo/README.md")
FILES = [*(ROOT / name for name in NAMES), *sorted(DOCS.rglob("*.md"))]
PAGES = {file: file.read_text(encoding="utf-8") for file in FILES}
TYPED = {page for page in PAGES if page.parent == DOCS / "tutorials"} | {ROOT / "README.md"}
"""Pages whose blocks, shell and Python, work in order as they stand."""

FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHOWN = re.compile(r"^    (holdfast .+)", re.MULTILINE)
INLINE = re.compile(r"`(holdfast [^`]+)`")
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)", re.MULTILINE)
REFERENCE = re.compile(r"^::: (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it is to be saved as (or nothing), and what is in it."""

    language: str
    file: str
    code: str


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for language, rest, code in FENCE.findall(text):
        title = re.search(r'title="(.+?)"', rest)
        found.append(Block(language, title[1] if title else "", code))
    return found


def lines(script: str) -> list[str]:
    """The commands of a shell script, without comments; a backslash at its end continues a line."""
    joined = script.replace("\\\n", " ").splitlines()
    return [" ".join(line.partition(" # ")[0].split()) for line in joined if line.strip() and line[0] != "#"]


def commands(text: str) -> list[str]:
    """Every ``holdfast`` command that a page shows: in a shell block, indented, or within a sentence."""
    rest = FENCE.sub("", text)
    shown = [line for block in blocks(text) if block.language == "bash" for line in lines(block.code)]
    shown += [line for part in SHOWN.findall(rest.replace("\\\n", " ")) for line in lines(part)]
    return [line for line in [*shown, *INLINE.findall(rest)] if line.startswith("holdfast ")]


def words(command: str) -> list[str]:
    """The words after ``holdfast``, without those that stand for something left out."""
    return [word for word in shlex.split(command)[1:] if word != "…"]


def prose(text: str) -> str:
    """A page without what is code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ {4}.*$", "", FENCE.sub("", text), flags=re.MULTILINE))


def links(text: str) -> Iterator[tuple[str, str]]:
    """The file and the anchor of every link within the checkout; either may be empty."""
    for target in LINK.findall(prose(text)):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            yield file, anchor


def anchors(text: str) -> set[str]:
    """What ``#…`` may name on a page: its headings, and what the API reference has there."""
    without = FENCE.sub("", text)
    headings = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in HEADING.findall(without))
    return {re.sub(r"[-\s]+", "-", heading) for heading in headings} | set(REFERENCE.findall(text))
