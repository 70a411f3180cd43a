"""What files and requests hold: text of bounded size, plain data, and from it values of the right types.

A reader returns what it is asked for, or raises HoldfastError with one line that names the place, the value, and what
is allowed there. Types say what fits: dataclasses and TypedDicts of the types below, of pydantic's strict ones, and of
``Literal``.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from io import StringIO
from itertools import accumulate, islice
from math import isfinite
from numbers import Real
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import yaml
from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, StrictFloat, StrictInt, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from holdfast.util.errors import HoldfastError, printable, shown, unknown, within

MAX_YAML_BYTES, MAX_JSON_BYTES, MAX_LOG_BYTES = 2**20, 2**26, 2**30
MAX_LEVELS, MAX_YAML_NODES, MAX_DIGITS = 100, 100_000, 1000

Value = TypeVar("Value")


def _number(value: Any) -> float:
    if isinstance(value, str | Real) and not isinstance(value, bool):
        with suppress(ValueError, ArithmeticError):
            text = str(value).lower()
            top, slash, bottom = text.partition("/")
            number = float(Fraction(top) / Fraction(bottom) if slash and "e" not in text else value)
            if isfinite(number):
                return number
    raise ValueError("a finite number or a fraction such as 8/255")


def _text(value: Any) -> str:
    if isinstance(value, str | int | float) and not isinstance(value, bool) and "\0" not in str(value):
        return str(value)
    raise ValueError("text")


@dataclass(frozen=True, eq=False)
class OneOf:
    """``Annotated[str, OneOf(names)]`` is one of the names, such as those of a table."""

    names: Iterable[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.literal_schema([*self.names])


Number = Annotated[float, BeforeValidator(_number)]
"""A finite number, or its text: YAML reads ``1e-4`` as text."""
Amount = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Measured = Annotated[StrictFloat, Field(ge=-1e30, le=1e30)] | None
Whole = Annotated[StrictInt, Field(ge=0, lt=2**63)]
Count = Annotated[StrictInt, Field(ge=1, lt=2**63)]
Text = Annotated[str, BeforeValidator(_text)]
"""Text without null characters, or a number: YAML reads ``007`` as one."""
Texts = Annotated[tuple[Text, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
"""Several, or one by itself."""

TYPES = {
    **{"int_type": "a whole number", "float_type": "a finite number", "finite_number": "a finite number"},
    **{"bool_type": "true or false", "string_type": "text", "list_type": "a list", "tuple_type": "a list"},
    **{"dict_type": "a mapping", "too_short": "a list with something in it"},
}
LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def fit(kind: type[Value], data: Any, where: str = "") -> Value:
    """Plain data as a ``kind``, such as a dataclass, which knows all keys. Errors begin with ``where: ``."""
    value: Value = _validated(kind, data, where, "forbid")
    return value


def check(kind: Any, data: Any, where: str = "") -> None:
    """Raise HoldfastError where data do not fit a ``kind``, such as a TypedDict; they may have further keys."""
    _validated(kind, data, where, "ignore")


def parse_numbers(text: str | None, where: str) -> tuple[float, ...] | None:
    """Numbers with commas between them; None for None."""
    return None if text is None else tuple(fit(list[Number], text.split(","), where))


def read_json(path: Path) -> Any:
    """What a JSON file holds; NaN and infinities are None."""
    return parse_json(_content(path, MAX_JSON_BYTES), str(path), lambda name: None)


def read_lines(kind: Any, path: Path, remedy: str = "remove its folder to start over") -> list[dict[str, Any]]:
    """The lines of a JSONL file, each of them a ``kind``; none of a file that is not there.

    A last line cut short by a kill is left out. remedy: what to do about a damaged file.
    """
    if not path.exists():
        return []
    *whole, _ = _content(path, MAX_LOG_BYTES).split(b"\n")
    with within(f"{path} is damaged; {remedy}"):
        lines = [parse_json(line, f"line {i}") for i, line in enumerate(whole, start=1)]
        for i, line in enumerate(lines, start=1):
            check(kind, line, f"line {i}")
    return lines


def read_csv(kind: Any, path: Path, remedy: str) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, each of them a ``kind``; none of a file that is not there."""
    if not path.exists():
        return []
    content = _content(path, MAX_LOG_BYTES)
    with within(f"{path} is damaged; {remedy}"):
        try:
            rows = list(csv.DictReader(StringIO(content.decode(), newline="")))
        except (UnicodeDecodeError, csv.Error) as error:
            raise HoldfastError(str(error)) from None
        for i, row in enumerate(rows, start=1):
            check(kind, row, f"row {i}")
    return rows


def read_yaml(path: Path) -> dict[Any, Any]:
    """The mapping in a YAML file; empty where the file is."""
    tree = parse_yaml(_content(path, MAX_YAML_BYTES), str(path))
    return {} if tree is None else fit(dict[Any, Any], tree, str(path))


def parse_json(content: str | bytes, where: str, constant: Callable[[str], Any] = float) -> Any:
    """Plain data from JSON. constant: what becomes of ``NaN``, ``Infinity`` and ``-Infinity``."""
    try:
        text = content if isinstance(content, str) else content.decode()
        data = json.loads(text, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise HoldfastError(f"{where} is not JSON: {error}") from None
    if text.count("[") + text.count("{") > MAX_LEVELS:
        _bounded(data, _values, where, MAX_JSON_BYTES)
    return data


def parse_yaml(content: str | bytes, where: str) -> Any:
    """Plain data from YAML. No key may be twice in a mapping, and aliases may not grow."""
    try:
        text = content if isinstance(content, str) else content.decode()
        if max(accumulate(1 if one in "[{" else -1 for one in re.findall(r"[][{}]", text)), default=0) > MAX_LEVELS:
            raise HoldfastError(f"{where} is nested deeper than {MAX_LEVELS} levels")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _bounded(node, lambda one: _nodes(one, where), where, MAX_YAML_NODES)
        return None if node is None else loader.construct_document(node)
    except HoldfastError:
        raise
    except Exception as error:  # tags that do not fit their values make PyYAML raise nearly anything
        raise HoldfastError(f"{where} is not YAML: {' '.join(str(error).split())}") from None


def _content(path: Path, most: int) -> bytes:
    try:
        if path.is_fifo() and path.parts[1:2] != ("dev",):  # which the shell's <(…) lies in
            raise HoldfastError(f"{path} is a pipe, not a file")
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise HoldfastError(f"cannot read {path}: {error.strerror or error}") from None
    if len(content) > most:
        raise HoldfastError(f"{path} has more than the {most // 2**20} MB that are read")
    return content


def _bounded(root: Any, parts: Callable[[Any], Iterable[Any]], where: str, most: int) -> None:
    """Refuse a tree that is too deep, or too large where its aliases are written out."""
    level, left = [root], most
    for _ in range(MAX_LEVELS):
        level = list(islice((part for one in level for part in parts(one)), left + 1))
        left -= len(level)
        if left < 0:
            raise HoldfastError(f"{where} holds more than {most:,} values")
        if not level:
            return
    raise HoldfastError(f"{where} is nested deeper than {MAX_LEVELS} levels")


def _values(data: Any) -> Iterable[Any]:
    return data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()


def _nodes(node: yaml.Node | None, where: str) -> Iterable[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        counts = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for (_, key), count in counts.most_common(1):
            if count > 1:
                raise HoldfastError(f"{where} has the key {shown(key)} twice in one mapping")
        return [part for pair in node.value for part in pair]
    if isinstance(node, yaml.ScalarNode) and node.tag.endswith((":int", ":float")) and len(node.value) > MAX_DIGITS:
        raise HoldfastError(f"{where} holds a number of more than {MAX_DIGITS:,} digits")
    return node.value if isinstance(node, yaml.SequenceNode) else []


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _validated(kind: Any, data: Any, where: str, extra: Literal["forbid", "ignore"]) -> Any:
    try:
        return _adapter(kind).validate_python(data, extra=extra)
    except ValidationError as error:
        begin = where and f"{where}: "
        raise HoldfastError(f"{begin}{_fault(kind, error.errors(include_url=False)[0])}") from None


def _fault(kind: Any, error: ErrorDetails) -> str:
    *parents, name = error["loc"] or ("",)
    prefix = "".join(f"{printable(str(part))}." for part in parents)
    key, value, context = f"{prefix}{printable(str(name))}", error["input"], error.get("ctx", {})
    for sign, words in LIMITS.items():
        if sign in context:
            return f"{key or 'it'} is {words} {str(context[sign]).removesuffix('.0')}, not {shown(value)}"
    match error["type"]:
        case "missing":
            return f"{key} is missing"
        case "unexpected_keyword_argument" | "extra_forbidden":
            return str(unknown("setting", key, [f"{prefix}{one}" for one in get_type_hints(_at(kind, *parents))]))
        case "literal_error":
            allowed = [one.strip("'") for one in re.split(", | or ", context["expected"])]
            return str(unknown(f"value of {key}" if key else "value", value, allowed))
        case "dataclass_type":
            wanted = f"a mapping of {', '.join(get_type_hints(_at(kind, *error['loc'])))}"
        case "string_pattern_mismatch":
            wanted = f"text that matches {context['pattern']}"
        case "value_error":
            wanted = str(context["error"])
        case other:
            wanted = TYPES.get(other, error["msg"])
    wanted += " or null" if NoneType in get_args(_at(kind, *error["loc"])) else ""
    return f"{key} takes {wanted}, not {shown(value)}" if key else f"it holds {shown(value)}, not {wanted}"


def _at(kind: Any, *keys: int | str) -> Any:
    """The type at a place in another type."""
    for key in keys:
        if NoneType in get_args(kind):
            kind = next(one for one in get_args(kind) if one is not NoneType)
        inner = [one for one in get_args(kind) if one is not Ellipsis]
        kind = inner[-1] if inner else get_type_hints(kind)[str(key)]
    return kind
