"""How the API reference reads this house's docstrings: references become code, and described fields become a list."""

import re
from collections.abc import Collection
from typing import Any

import griffe

REFERENCE = re.compile(r":(?:attr|class|data|func|meth|mod):`[.~]?([^`]+)`")


class Docstrings(griffe.Extension):
    """Markdown out of docstrings."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite the docstrings of the package that was read."""
        rewrite(pkg)


def rewrite(thing: griffe.Object) -> None:
    """Make Markdown of the docstrings of a module, class or function and of all in it."""
    if thing.docstring:
        arguments = [parameter.name for parameter in thing.parameters] if hasattr(thing, "parameters") else []
        thing.docstring.value = markdown(thing.docstring.value, {*thing.members, *arguments})
    for member in thing.members.values():
        if not member.is_alias:
            rewrite(member)


def markdown(text: str, names: Collection[str] = ()) -> str:
    """``text`` with references as code, and paragraphs that describe ``names``, as ``eps, step: …``, as lists."""
    text = REFERENCE.sub(r"`\1`", text)
    if not names:
        return text
    name = f"(?:{'|'.join(map(re.escape, names))})"
    return "\n\n".join(_listed(paragraph, rf"({name}(?:, {name})*): ") for paragraph in text.split("\n\n"))


def _listed(paragraph: str, field: str) -> str:
    if not re.match(field, paragraph):
        return paragraph
    items = re.sub(rf"(?:^|\n|(?<=\.) ){field}", r"\n- **\1**: ", paragraph).strip()
    return re.sub(r"\n(?!- )\s*", "\n  ", items)
