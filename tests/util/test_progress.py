"""Progress of long work: a bar in a terminal, plain lines elsewhere, nothing when quiet."""

import io

import pytest
from rich.console import Console

from holdfast.util import progress as module
from holdfast.util.progress import Progress, format_duration


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_elsewhere_a_plain_line_now_and_then_and_one_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("training", 100) as progress:
        for _ in range(100):
            clock.now += 1
            progress.advance("loss 0.1")
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "training: 30/100, 70 s left. loss 0.1",
        "training: 60/100, 40 s left. loss 0.1",
        "training: 90/100, 10 s left. loss 0.1",
        "training: 100/100, 0 s left. loss 0.1",
    ]
    assert not err


def test_what_was_done_before_does_not_count_as_speed(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("training", 1000, done=900) as progress:
        clock.now += 40
        progress.advance(by=20)
    assert capsys.readouterr().out == "training: 920/1000, 160 s left.\n"


def test_lines_are_said_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("x", 1) as progress:
        progress.say("recipe HM[S,g_LGA]&ICS [bold]" + "long " * 60 + "line")
    assert capsys.readouterr().out == "recipe HM[S,g_LGA]&ICS [bold]" + "long " * 60 + "line\n"


def test_quiet_is_silent(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("x", 2, quiet=True) as progress:
        clock.now += 1000
        progress.advance("a")
        progress.say("b")
        progress.advance("c")
    assert progress.done == 2
    assert capsys.readouterr() == ("", "")


def test_in_a_terminal_a_bar_that_ends_also_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(module, "console", lambda: Console(file=screen, force_terminal=True, width=120))
    progress = Progress("training", 8, done=2)

    def work() -> None:
        with progress:
            progress.advance("loss 0.125")
            progress.say("a line that stays")
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert progress.bar is not None
    assert progress.bar.finished is False
    assert not progress.bar.live.is_started
    shown = screen.getvalue()
    assert "a line that stays" in shown
    assert "3/8" in shown
    assert "loss 0.125" in shown


def test_a_finished_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(module, "console", lambda: Console(file=screen, force_terminal=True, width=120))
    with Progress("embedding", 3) as progress:
        progress.advance(by=2)
        progress.advance()
    assert progress.bar is not None
    assert progress.bar.finished
    assert "100%" in screen.getvalue()


def test_what_was_lost_to_a_kill_says_nothing_of_the_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("training", 100, done=50) as progress:
        clock.now += 40
        progress(40, 100)
        clock.now += 40
        progress(51, 100)
    assert capsys.readouterr().out == "training: 40/100.\ntraining: 51/100, 178 s left.\n"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (3569, "59 min"), (3590, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations_have_the_unit_that_fits(seconds: float, shown: str) -> None:
    assert format_duration(seconds) == shown


def test_an_unknown_duration_is_a_question_mark() -> None:
    assert format_duration(float("nan")) == "?"
