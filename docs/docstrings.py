"""How the API reference reads this house's docstrings: references become code, and described fields become a list."""

import re
from typing import Any

import griffe

REFERENCE = re.compile(r":(?:attr|class|data|func|meth|mod):`[.~]?([^`]+)`")
FIELD = re.compile(r"((?:``)?\w+(?:``)?(?:(?:, | and )(?:``)?\w+(?:``)?)*): ")


class Docstrings(griffe.Extension):
    """Markdown out of docstrings."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of whatever was read."""
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """``text`` with references as code, and each paragraph that describes fields by name as a list."""
    text = REFERENCE.sub(r"`\1`", text)
    return "\n\n".join(map(_listed, text.split("\n\n")))


def _listed(paragraph: str) -> str:
    lines = paragraph.split("\n")
    if not FIELD.match(lines[0]):
        return paragraph
    return "\n".join(FIELD.sub(r"- **\1**: ", line, count=1) if FIELD.match(line) else f"  {line}" for line in lines)
