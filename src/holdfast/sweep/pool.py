"""The runs of a sweep, one at a time in each slot; a failure of one stops no other."""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import local

from holdfast.sweep.execute import execute
from holdfast.sweep.plan import START, Planned
from holdfast.sweep.slots import Slot
from holdfast.util.progress import Progress
from holdfast.util.text import counted

SECONDS_BETWEEN_LOOKS = 1.0


def carry_out(runs: Sequence[Planned], slots: Sequence[Slot], *, quiet: bool = False) -> dict[Path, str]:
    """Train and evaluate every run that is not done; the folders of those that are still not, and why.

    However this process ends, those of the runs end with it, and the next call goes on from what they saved.
    """
    total = sum(run.steps() for run in runs)
    futures: dict[Path, Future[str | None]] = {}
    worker, free = local(), list(slots)
    theirs, ours = os.pipe()
    pool = ThreadPoolExecutor(len(slots), initializer=lambda: setattr(worker, "slot", free.pop(0)))
    try:
        with Progress("sweep", total, _look(runs, futures)[0], quiet=quiet) as progress:
            for first in (True, False):
                for run in runs:
                    if (run.name == START) == first:
                        futures[run.folder] = pool.submit(lambda run: execute(run, worker.slot, theirs), run)
                while wait(futures.values(), SECONDS_BETWEEN_LOOKS).not_done:
                    made, line = _look(runs, futures)
                    progress(made, total, line)
            progress.say(f"sweep: {_look(runs, futures)[1]}")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        os.close(ours)
        pool.shutdown()
        os.close(theirs)
    return {folder: why for folder, future in futures.items() if (why := future.result()) is not None}


def _look(runs: Sequence[Planned], futures: dict[Path, Future[str | None]]) -> tuple[int, str]:
    """Optimiser steps made, all of those of a run that is over, and the state of the whole in a line."""
    over = {folder: future.result() for folder, future in futures.items() if future.done()}
    failed = sum(why is not None for why in over.values())
    parts = [f"{len(over) - failed} of {counted(len(runs), 'run')} done" + (f", {failed} failed" if failed else "")]
    made = 0
    for run in runs:
        log, steps = run.run.steps_file, run.steps()
        count = log.read_bytes().count(b"\n") if run.folder not in over and log.is_file() else 0
        made += steps if run.folder in over else min(count, steps)
        if run.folder in futures and futures[run.folder].running():
            parts.append(f"{run.name}: {f'train {count}/{steps}' if count < steps else 'evaluate'}")
    return made, "; ".join(parts)
