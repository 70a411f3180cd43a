"""One line of progress for long work: a live bar in a terminal, now and then a plain line elsewhere."""

import time
from math import isnan
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from holdfast.util.text import console, plain

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """``with Progress("training", total) as progress: progress.advance("loss 0.1")``; silent when ``quiet``."""

    def __init__(self, title: str, total: int, done: int = 0, *, quiet: bool = False) -> None:
        self.title, self.total, self.done = plain(title), total, done
        self.quiet = quiet
        self.console = console()
        self.bar: Bar | None = None
        self.spoke = self.began = time.monotonic()
        self.begun_at = done

    def __enter__(self) -> Self:
        if not self.quiet and self.console.is_terminal:
            title, note = (TextColumn(f"{{task.{what}}}", markup=False) for what in ("description", "fields[note]"))
            numbers = BarColumn(), MofNCompleteColumn(), TaskProgressColumn(), TimeRemainingColumn()
            self.bar = Bar(title, *numbers, note, console=self.console)
            self.task = self.bar.add_task(self.title, total=self.total, completed=self.done, note="")
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def advance(self, note: str = "", by: int = 1) -> None:
        """So much more is done; less where work was lost to a kill, and the speed is measured from there."""
        self.done += by
        if self.quiet:
            return
        if self.bar:
            self.bar.update(self.task, completed=self.done, note=plain(note))
            return
        now = time.monotonic()
        if self.done < self.begun_at:
            self.begun_at, self.began = self.done, now
        if now - self.spoke >= SECONDS_BETWEEN_LINES or (by and self.done == self.total):
            self.spoke = now
            made = self.done - self.begun_at
            left = f", {(self.total - self.done) * (now - self.began) / made:.0f} s left" if made > 0 else ""
            print(plain(f"{self.title}: {self.done}/{self.total}{left}. {note}".rstrip()), flush=True)

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """So much is done: what functions with a progress callback call."""
        self.advance(note, by=done - self.done)

    def say(self, text: str) -> None:
        """A line that stays."""
        if not self.quiet:
            (self.bar.console if self.bar else self.console).print(
                plain(text), highlight=False, markup=False, soft_wrap=True
            )


def format_duration(seconds: float) -> str:
    """``2 h 05 min``, ``12 min``, ``40 s``; ``?`` for NaN."""
    if isnan(seconds):
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
