"""The runs of a sweep, here one at a time in each slot; a failure of one stops no other."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import local

from holdfast.sweep.execute import LOG, execute
from holdfast.sweep.plan import START, Planned
from holdfast.sweep.slots import Slot
from holdfast.util.errors import brief
from holdfast.util.progress import Progress
from holdfast.util.text import counted

SECONDS_BETWEEN_LOOKS = 1.0
Submit = Callable[[Planned], Future[str | None]]
"""Have a run done: in the end, None, or why some of it is left."""
Place = AbstractContextManager[Submit]
"""Where runs are done; what is under way when it is left ends with it."""


@contextmanager
def in_slots(slots: Sequence[Slot]) -> Iterator[Submit]:
    """This machine. However this process ends, those of the runs end with it."""
    worker, free = local(), list(slots)
    theirs, ours = os.pipe()
    pool = ThreadPoolExecutor(len(slots), initializer=lambda: setattr(worker, "slot", free.pop(0)))
    try:
        yield lambda run: pool.submit(lambda: execute(run, worker.slot, theirs))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        os.close(ours)
        pool.shutdown()
        os.close(theirs)


def carry_out(runs: Sequence[Planned], place: Place, *, quiet: bool = False) -> dict[Path, str]:
    """Train and evaluate every run that is not done; the folders of those that are still not, and why.

    However this process ends, the next call goes on from what was saved.
    """
    total = sum(run.steps() for run in runs)
    logged = {run.folder: _logged(run) for run in runs}
    futures: dict[Path, Future[str | None]] = {}

    def look() -> tuple[int, str]:
        """Optimiser steps made, all of those of a run that is over, and the state of the whole in a line."""
        over = {folder: left(future) for folder, future in futures.items() if future.done()}
        failed = sum(why is not None for why in over.values())
        parts = [f"{len(over) - failed} of {counted(len(runs), 'run')} done" + (f", {failed} failed" if failed else "")]
        made = sum(run.steps() for run in runs if run.folder in over)
        for run in runs:
            if run.folder not in over:
                log, steps = run.run.steps_file, run.steps()
                count = log.read_bytes().count(b"\n") if log.is_file() else 0
                made += min(count, steps)
                if _logged(run) > logged[run.folder]:
                    parts.append(f"{run.name}: {f'train {count}/{steps}' if count < steps else 'evaluate'}")
        return made, "; ".join(parts)

    with place as submit, Progress("sweep", total, look()[0], quiet=quiet) as progress:
        for first in (True, False):
            futures |= {run.folder: submit(run) for run in runs if (run.name == START) == first}
            while wait(futures.values(), SECONDS_BETWEEN_LOOKS).not_done:
                made, line = look()
                progress(made, total, line)
        progress.say(f"sweep: {look()[1]}")
    return {folder: why for folder, future in futures.items() if (why := left(future)) is not None}


def _logged(run: Planned) -> int:
    """How much is in the log of a run: more than before says that it is at work."""
    log = run.folder / LOG
    return log.stat().st_size if log.is_file() else 0


def left(future: Future[str | None]) -> str | None:
    """Why some of a run is left that is over; an error of a task on Ray has another for its cause."""
    error = future.exception()
    return brief(getattr(error, "cause", None) or error) if error else future.result()
