"""The HTML page taken apart, and what every page must be."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

from holdfast.report import find, html_text

VOID = {"meta", "img", "link", "base", "embed", "input"}
LIMIT = 5_000_000


class Page(HTMLParser):
    """A page taken apart: its elements with their attributes, what is inside what, and texts by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.source = text
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), [name for name, _ in self.open]))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), [name for name, _ in self.open]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1][0] == tag, f"</{tag}> closes <{self.open[-1][0]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1][0] if self.open else "", data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]

    def inside(self, tag: str) -> list[str]:
        return [" ".join(text.split()) for name, text in self.texts if name == tag and text.strip()]

    @property
    def text(self) -> str:
        return " ".join(" ".join(data.split()) for name, data in self.texts if name not in ("style", "title"))

    @property
    def sections(self) -> list[str | None]:
        return [attributes["id"] for attributes in self.of("section")]


def sound(text: str) -> Page:
    """A page, after all that every page has been found to be."""
    page = Page(text)
    assert len(text.encode()) < LIMIT
    for tag, attributes, _ in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
        assert (attributes.get("src") or "data:image/png;base64,").startswith("data:image/png;base64,")
        assert not {"srcset", "data", "poster", "background", "action"} & attributes.keys()
    assert not re.search(r"@import|url\(|https?://", "".join(page.inside("style")))
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(attributes["href"])[1:] for attributes in page.of("a")]
    assert set(links) <= set(ids)
    assert {section for section in page.sections if section} <= set(links)
    for attributes in page.of("svg"):
        assert attributes.get("aria-hidden") or (attributes.get("role") == "img" and attributes.get("aria-label"))
    drawings = [one for one in page.of("svg") if one.get("role") == "img"]
    titles = [around for tag, _, around in page.elements if tag == "title" and around[-1] == "svg"]
    assert len(drawings) == len(titles) == len(page.of("figcaption")) == len(page.of("figure"))
    assert all("figure" in around for around in titles)
    assert all(attributes.get("alt") for attributes in page.of("img"))
    levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b", " ".join(paths(page)))
    return page


def paths(page: Page) -> Iterator[str]:
    for attributes in page.of("path"):
        yield from (attributes.get("d") or "", attributes.get("transform") or "")


def page_of(*files: Path, **options: Any) -> Page:
    return sound(html_text(find(files), **{"pictures": 0, **options}))
