"""What a value may be, and what is said of one that it may not be."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import pytest
from pydantic import Field, StrictBool
from typing_extensions import TypedDict

from holdfast.util.errors import HoldfastError
from holdfast.util.validate import (
    Amount,
    Count,
    Measured,
    Number,
    OneOf,
    Positive,
    Text,
    Whole,
    check,
    fit,
    parse_json,
    parse_yaml,
    read_csv,
    read_json,
    read_lines,
    read_yaml,
)


@dataclass(frozen=True)
class Inner:
    rate: Amount = 0.1
    clip: Positive | None = None
    mean: tuple[Number, ...] | None = None
    kind: Literal["constant", "linear"] = "constant"


@dataclass(frozen=True)
class Outer:
    name: Text = "a"
    size: Annotated[Whole, Field(ge=2)] = 2
    count: Count | None = None
    fast: StrictBool = False
    norm: Annotated[str, OneOf({"linf": 1, "l2": 2})] | None = None
    inner: Inner = field(default_factory=Inner)
    rows: list[Inner] | None = None


class Line(TypedDict):
    step: Whole
    loss: NotRequired[Measured]


def test_plain_data_become_values() -> None:
    tree = {"name": 7, "size": 3, "norm": "l2", "inner": {"rate": "1/4", "clip": 2, "mean": [0, "1e-1"]}, "rows": [{}]}
    assert fit(Outer, tree) == Outer("7", 3, norm="l2", inner=Inner(0.25, 2.0, (0.0, 0.1)), rows=[Inner()])


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([], r"f: it holds \[\], not a mapping of name, size, count, fast, norm, inner, rows"),
        ({"nam": 1}, r"f: unknown setting 'nam'; did you mean 'name'\? \(allowed: name, size, .*, rows\)"),
        (
            {"inner": {"rat": 1}},
            r"f: unknown setting 'inner\.rat'; did you mean 'inner\.rate'\? \(allowed: inner\.rate",
        ),
        ({"rows": [{}, {"clips": 1}]}, r"f: unknown setting 'rows\.1\.clips'; did you mean 'rows\.1\.clip'\?"),
        (
            {"inner": {"kind": "lineal"}},
            r"f: unknown value of inner\.kind 'lineal'; did you mean 'linear'\? \(allowed: c",
        ),
        ({"norm": "l3"}, r"f: unknown value of norm 'l3'; did you mean 'l2'\? \(allowed: linf, l2\)"),
        ({"inner": {"mean": [1, "x"]}}, r"f: inner\.mean\.1 takes a finite number or a fraction .*, not 'x'"),
        ({"inner": {"clip": 0}}, r"f: inner\.clip is above 0, not 0"),
        ({"size": 1}, "f: size is at least 2, not 1"),
        ({"size": 2**63}, "f: size is below 9223372036854775808, not 9223372036854775808"),
        ({"count": "many"}, "f: count takes a whole number or null, not 'many'"),
        ({"fast": 1}, "f: fast takes true or false, not 1"),
        ({"rows": {}}, r"f: rows takes a list or null, not \{\}"),
        ({"name": "x" * 999, "size": ["x" * 999]}, r"f: size takes a whole number, not \['x{198}…$"),
        ({"size": 16**5000}, "not a number of thousands of digits"),
    ],
)
def test_what_does_not_fit_is_named_with_what_is_allowed(tree: Any, message: str) -> None:
    with pytest.raises(HoldfastError, match=message) as caught:
        fit(Outer, tree, "f")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Amount, -1, r"a radius: it is at least 0, not -1"),
        (Count, 0, r"a radius: it is at least 1, not 0"),
        *(
            (Number, value, "a radius: it holds .*, not a finite number or a fraction such as 8/255")
            for value in (
                "x",
                "8/0",
                "1e9/3",
                "8/x",
                "nan",
                "-inf",
                float("nan"),
                float("inf"),
                10**400,
                f"{10**400}/1",
            )
        ),
        (Annotated[str, OneOf(["linf", "l2"])], "l1", r"a radius: unknown value 'l1'; .*\(allowed: linf, l2\)"),
    ],
)
def test_a_value_without_a_key_is_called_it(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(HoldfastError, match=f"^{message}"):
        fit(kind, value, "a radius")


def test_data_that_are_checked_may_have_further_keys() -> None:
    check(Line, {"step": 1, "other": [1]})
    with pytest.raises(HoldfastError, match="f: step is missing"):
        check(Line, {"loss": 1.0}, "f")
    with pytest.raises(HoldfastError, match="f: loss takes a finite number or null, not '1'"):
        check(Line, {"step": 1, "loss": "1"}, "f")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: {c: 1, c: 2}", "f has the key 'c' twice in one mapping"),
        (b"a: " + b"[" * 200_000, "f is nested deeper than 100 levels"),
        (b"a: &a [*a]", "f is nested deeper than 100 levels"),
        (b"a: &a [1]\nb: &b " + b"[*a]" + b"\nc: [" + b"*b, " * 40_000 + b"]", "f holds more than 100,000 values"),
        (b"a: " + b"9" * 1001, "f holds a number of more than 1,000 digits"),
        (b"a: {b: [}", "f is not YAML: .*line 1"),
        (b"a: !!int ''", "f is not YAML: "),
        (b"a: 2020-13-45", "f is not YAML: "),
        (b"a: \x00", "f is not YAML: "),
        (b"a: !!python/object/apply:os.system [ls]", "f is not YAML: "),
        (b"a: \xff", "f is not YAML: 'utf-8' codec"),
    ],
)
def test_yaml_is_bounded(content: bytes, message: str) -> None:
    with pytest.raises(HoldfastError, match=message):
        parse_yaml(content, "f")


def test_yaml_may_have_anchors_and_merges() -> None:
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: [*a]}", "f")["b"] == {"x": 1, "y": [{"x": 1}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "f is not JSON: Expecting"),
        (b"[" * 200_000, "f is not JSON: maximum recursion"),
        (b"[" * 101 + b"]" * 101, "f is nested deeper than 100 levels"),
        (b"9" * 5000, "f is not JSON: .*5000 digits"),
        (b'"\xff"', "f is not JSON: 'utf-8' codec"),
        (b'"\0"', "f is not JSON: Invalid control character"),
    ],
)
def test_json_is_bounded(content: bytes, message: str) -> None:
    with pytest.raises(HoldfastError, match=message):
        parse_json(content, "f")


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    assert parse_json("[-Infinity]", "f") == [-float("inf")]
    (tmp_path / "a.json").write_text("[NaN, Infinity]")
    assert read_json(tmp_path / "a.json") == [None, None]


def test_a_file_is_not_read_without_end(tmp_path: Path) -> None:
    for name, size in (("a.yaml", 2**20), ("a.json", 2**26)):
        with (tmp_path / name).open("wb") as file:
            os.truncate(file.fileno(), size + 1)
        with pytest.raises(HoldfastError, match=f"{name} has more than the {size // 2**20} MB that are read"):
            read_yaml(tmp_path / name) if size == 2**20 else read_json(tmp_path / name)
    with pytest.raises(HoldfastError, match=r"cannot read .*none\.json: No such file"):
        read_json(tmp_path / "none.json")


def test_a_file_of_settings_holds_a_mapping_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("# nothing\n")
    assert read_yaml(file) == {}
    file.write_text("- a\n- b\n")
    with pytest.raises(HoldfastError, match=r"a\.yaml: it holds \['a', 'b'\], not a mapping"):
        read_yaml(file)
    with pytest.raises(HoldfastError, match=r"cannot read .*: Is a directory"):
        read_yaml(tmp_path)


def test_lines_and_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"step": 1}\n{"step": 2, "more": "\\ud800"}\n{"st')
    assert read_lines(Line, tmp_path / "a.jsonl") == [{"step": 1}, {"step": 2, "more": "\ud800"}]
    assert read_lines(Line, tmp_path / "none.jsonl") == read_csv(Line, tmp_path / "none.csv", "") == []
    (tmp_path / "a.jsonl").write_text(json.dumps({"step": 1}) + "\n[]\n")
    with pytest.raises(
        HoldfastError, match=r"a\.jsonl is damaged; remove its .*: line 2: it holds \[\], not a mapping"
    ):
        read_lines(Line, tmp_path / "a.jsonl")
    for content in (b"\xff\xfe\n", b"\0\0\0\n"):
        (tmp_path / "a.jsonl").write_bytes(content)
        with pytest.raises(HoldfastError, match=r"a\.jsonl is damaged; remove .* to start over"):
            read_lines(Line, tmp_path / "a.jsonl")
    (tmp_path / "a.csv").write_bytes(b"step\n1\n")
    with pytest.raises(
        HoldfastError, match=r"a\.csv is damaged; move it away: row 1: step takes a whole number, not '1'"
    ):
        read_csv(Line, tmp_path / "a.csv", "move it away")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(HoldfastError, match=r"config\.yaml is a pipe, not a file"):
        read_yaml(tmp_path / "config.yaml")
