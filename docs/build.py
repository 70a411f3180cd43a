"""Build the documentation site into site/; a warning is an error. ``make docs`` runs it.

The pages are those of docs/, and experiments/README.md. They link to each other as the files lie in the checkout, so
they are gathered in build/pages first, where links between the two places are changed to what they are on the site.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
DOCS, PAGES, SITE = ROOT / "docs", ROOT / "build" / "pages", ROOT / "site"
BESIDE = (".svg", ".png", ".css", ".html")
EXPERIMENTS = "experiments.md"
COLOUR = re.compile(r"\x1b\[[\d;]*m")


def gathered() -> dict[str, str]:
    """The pages, by their place on the site."""
    pages = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
    elsewhere = re.compile(r"\]\(((?:\.\./)*)\.\./experiments/README\.md")
    pages = {name: elsewhere.sub(rf"](\1{EXPERIMENTS}", text) for name, text in pages.items()}
    experiments = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    return {**pages, EXPERIMENTS: experiments.replace("](../docs/", "](")}


def listed() -> set[str]:
    """The pages in the nav of mkdocs.yml."""
    return set(re.findall(r"^ +- .+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))


class References(HTMLParser):
    """What a page links to and loads: ``found``, pairs of a tag and an address."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the addresses of a tag."""
        self.found += [(tag, value) for name, value in attrs if name in ("src", "href") and value]


def faults(site: Path) -> Iterator[str]:
    """What zensical does not look for: files that are missing, and what a page loads from elsewhere."""
    for page in sorted(site.rglob("*.html")):
        for tag, address in References(page.read_text(encoding="utf-8")).found:
            parts = urlsplit(address)
            if parts.netloc:
                if tag != "a":
                    yield f"{page.relative_to(site)} loads {address}"
            elif parts.path and not parts.scheme:
                place = site if parts.path.startswith("/") else page.parent
                target = (place / unquote(parts.path).lstrip("/")).resolve()
                if not (target.exists() and target.is_relative_to(site)):
                    yield f"{page.relative_to(site)} leads to {address}, which is not there"


def main() -> None:
    """Gather the pages and build the site; leave with a message and status 1 where something is wrong."""
    pages, nav = gathered(), listed()
    for problem, names in {
        "pages that are not in its nav": pages.keys() - nav,
        "no such page": nav - pages.keys(),
    }.items():
        if names:
            sys.exit(f"mkdocs.yml: {problem}: {', '.join(sorted(names))}")
    for folder in (PAGES, SITE):
        shutil.rmtree(folder, ignore_errors=True)
    for name, text in pages.items():
        place = PAGES / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    for file in DOCS.rglob("*"):
        if file.suffix in BESIDE:
            shutil.copy(file, PAGES / file.relative_to(DOCS))
    command = [Path(sys.executable).with_name("zensical"), "build", "--clean", "--strict"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(COLOUR.sub("", built.stdout + built.stderr))
    sys.exit(built.returncode or "\n".join(faults(SITE)) or None)


if __name__ == "__main__":
    main()
