"""Waiting for what another thread or process does: the only clock of the tests, and it only gives up."""

import os
import select
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

GUARD = 600.0
"""Seconds until a test gives up."""


def until(true: Callable[[], Any], alive: Callable[[], bool] = lambda: True) -> None:
    """Wait for something; ``alive``: whether it can still come."""
    end = time.monotonic() + GUARD
    while not true():
        assert alive(), "it can come no more"
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


class Gate:
    """Where other processes stop and say so, until all go on: two pipes with names, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("there", "go"):
            os.mkfifo(folder / name)
        self._there, self._go = (os.open(folder / name, os.O_RDWR) for name in ("there", "go"))

    def stop(self) -> str:
        """Code that stops the process that runs it."""
        there, go = (str(self.folder / name) for name in ("there", "go"))
        return f"open({there!r}, 'wb', 0).write(b'x'); open({go!r}, 'rb', 0).read(1)"

    def halt(self) -> None:
        """Stop here; in a process that was forked."""
        exec(self.stop())

    def arrived(self) -> None:
        """Wait for the next process to stop; where none comes, all go on."""
        if not select.select([self._there], [], [], GUARD)[0]:
            self.open()
            raise AssertionError("no process came")
        os.read(self._there, 1)

    def open(self) -> None:
        """Nobody stops any more."""
        os.write(self._go, bytes(1000))

    def close(self) -> None:
        os.close(self._there)
        os.close(self._go)


def forked(work: Callable[[], Any]) -> ForkProcess:
    """A copy of this process at work, in a session of its own."""

    def alone() -> None:
        os.setsid()
        work()

    process = get_context("fork").Process(target=alone)
    process.start()
    return process
