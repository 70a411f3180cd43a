"""Text: numbers with what they count."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.util.text import counted

SOURCE = Path(__file__).parents[2] / "src" / "holdfast"
PLURAL = re.compile(r" (?:[a-z-]+ )?(?!this\b|class\b|less\b|pass\b|was\b|has\b)[a-z-]+s\b")


@pytest.mark.parametrize(
    ("number", "noun", "shown"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (1280, "query", "1,280 queries"),
        (1, "query", "1 query"),
        (2, "class", "2 classes"),
        (3, "batch", "3 batches"),
        (2, "day", "2 days"),
        (2, "noisy copy", "2 noisy copies"),
    ],
)
def test_a_number_agrees_with_its_noun(number: int, noun: str, shown: str) -> None:
    assert counted(number, noun) == shown


def test_a_plural_of_its_own() -> None:
    assert [counted(i, "query is", "queries are") for i in (1, 2)] == ["1 query is", "2 queries are"]


def lengths_before_plurals(code: str) -> Iterator[int]:
    """Lines of f-strings in which a length stands right before a plural."""
    for text in ast.walk(ast.parse(code)):
        if not isinstance(text, ast.JoinedStr):
            continue
        for value, after in zip(text.values, text.values[1:], strict=False):
            length = isinstance(value, ast.FormattedValue) and "len(" in ast.unparse(value.value)
            spelled = length and "counted(" not in ast.unparse(value)
            if spelled and isinstance(after, ast.Constant) and PLURAL.match(str(after.value)):
                yield text.lineno


def test_no_length_is_written_before_a_plural_by_hand() -> None:
    assert list(lengths_before_plurals('f"{len(x):,} links lead"; f"{counted(len(x), \'link\')} leads"')) == [1]
    found = {path: list(lengths_before_plurals(path.read_text(encoding="utf-8"))) for path in SOURCE.rglob("*.py")}
    assert {str(path.relative_to(SOURCE)): at for path, at in found.items() if at} == {}
