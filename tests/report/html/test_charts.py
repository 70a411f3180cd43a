"""Axes and names of charts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.report.html.charts import Axis, Point, axis, line_chart
from holdfast.report.html.entries import without_shared_parts
from holdfast.report.html.sections.costs import frontier
from holdfast.util.text import shorten


@pytest.mark.parametrize(
    ("low", "high", "log", "texts"),
    [
        (0, 100, False, ["0", "25", "50", "75", "100"]),
        (-0.4, 0.1, False, ["-0.4", "-0.2", "0"]),
        (1, 40, True, ["1", "3", "10", "30"]),
        (2.0e6, 3.0e6, True, ["2M", "3M"]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, log: bool, texts: list[str]) -> None:
    one = Axis("", low, high, 10, 110, log)
    assert [text for _, text in one.ticks] == texts
    assert all(10 <= place <= 110 for place, _ in one.ticks)


def test_axes_have_room_for_every_value() -> None:
    for values in ([], [3.0], [0.0, 0.0], [-5.0, 120.0], [1e-9, 2e-9]):
        one = axis("", values, 0, 100, low=0, high=100)
        assert one.low < one.high
        assert all(one.low <= value <= one.high for value in values)
        assert one.ticks
    assert line_chart("", "", "", [], x="x", y="y", log=True).x.ticks


def test_what_all_names_have_in_common_is_left_out() -> None:
    long = ["act-r,steps=80,seed=0", "hm-s-m,steps=80,seed=0", "hm-s-m,steps=90,seed=0"]
    assert list(without_shared_parts(long).values()) == ["act-r,steps=80", "hm-s-m,steps=80", "hm-s-m,steps=90"]
    assert without_shared_parts(["act-r,seed=0"]) == {"act-r,seed=0": "act-r,seed=0"}
    assert without_shared_parts(["a", "a,b"]) == {"a": "a", "a,b": "a,b"}
    assert shorten("abcdefghij", 7) == "abc…hij"
    assert shorten("abcdefg", 7) == "abcdefg"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12), st.booleans())
def test_the_frontier_has_the_points_that_no_other_beats(places: list[tuple[int, int]], cheaper: bool) -> None:
    def beaten(point: tuple[int, int]) -> bool:
        return any(
            (x <= point[0] if cheaper else x >= point[0]) and y >= point[1] and (x, y) != point for x, y in places
        )

    best = sorted({point for point in places if not beaten(point)}, reverse=not cheaper)
    found = frontier([Point(x, y) for x, y in places], cheaper=cheaper)
    assert [[(point.x, point.y) for point in one.points] for one in found] == ([best] if len(best) > 1 else [])
