"""Work that is done one piece at a time: a queue, one worker, cancelling, and clients that may go away."""

import logging
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import takewhile
from threading import RLock
from typing import Any

from holdfast.util.errors import HoldfastError, brief
from holdfast.util.text import counted

WAITING = 32
"""Jobs that may wait."""

KEPT = 32
"""Finished jobs whose results are kept; the oldest go first."""

LEASE = 90.0
"""Seconds after which a client that asks for its job no more is taken to be gone; browsers let hidden tabs ask once a
minute."""

Tell = Callable[[Any], None]
"""Says how far a job is; raises :class:`Cancelled` where it should stop."""

Work = Callable[[Tell], Any]


class Cancelled(Exception):  # noqa: N818 (no error)
    """Nobody waits for the job any more."""


class BusyError(HoldfastError):
    """A job that is not taken: the client has one, or too many are waiting."""


@dataclass(eq=False)
class Job:
    """One client's work.

    state: ``queued``, ``running``, ``done``, ``failed`` or ``cancelled``. progress: what it last told. result: of a job
    that is done. message: why it failed. seen: when the client last asked.
    """

    client: str
    work: Work
    seen: float
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    state: str = "queued"
    progress: Any = None
    result: Any = None
    message: str = ""
    stopped: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing more becomes of it."""
        return self.state in ("done", "failed", "cancelled")


class Jobs:
    """A queue and the thread that works it off. lease: in seconds, on the ``clock``."""

    def __init__(self, lease: float = LEASE, clock: Callable[[], float] = time.monotonic) -> None:
        self.lease, self.clock = lease, clock
        self._jobs: dict[str, Job] = {}
        self._lock = RLock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="attacks")

    def submit(self, client: str, work: Work) -> Job:
        """Put work at the end of the queue.

        Raises :class:`BusyError` for a client's second job, and where too many wait.
        """
        with self._lock:
            self._forget()
            waiting = [job for job in self._jobs.values() if not job.over]
            if any(job.client == client and not job.stopped for job in waiting):
                raise BusyError("an attack of this page is under way: wait for it, or cancel it")
            if len(waiting) > WAITING:
                raise BusyError(f"{counted(len(waiting), 'attack is', 'attacks are')} waiting already: try again later")
            job = Job(client, work, self.clock())
            self._jobs[job.id] = job
            self._worker.submit(self._carry_out_next)
            return job

    def find(self, name: str) -> Job | None:
        """A job by its id, whose client is seen to be there; None where there is no such job, or no longer."""
        with self._lock:
            job = self._jobs.get(name)
            if job is not None:
                job.seen = self.clock()
            return job

    def position(self, job: Job) -> int:
        """How many jobs are to be finished before this one starts."""
        with self._lock:
            return sum(not one.over for one in takewhile(lambda one: one is not job, self._jobs.values()))

    def cancel(self, job: Job) -> None:
        """Stop a job: at once where it waits, at its next word where it runs."""
        with self._lock:
            job.stopped = True
            if job.state == "queued":
                job.state = "cancelled"

    def leave(self, client: str) -> None:
        """The client is gone: its jobs are stopped and forgotten."""
        with self._lock:
            for job in [job for job in self._jobs.values() if job.client == client]:
                self.cancel(job)
                if job.over:
                    del self._jobs[job.id]

    def close(self) -> None:
        with self._lock:
            for job in self._jobs.values():
                job.stopped = True
        self._worker.shutdown(cancel_futures=True)

    def _forget(self) -> None:
        """Cancel what waits for clients that are gone, and drop the oldest results."""
        for job in self._jobs.values():
            if job.state == "queued" and self._gone(job):
                job.state = "cancelled"
        finished = [job.id for job in self._jobs.values() if job.over]
        for name in finished[: max(0, len(finished) - KEPT)]:
            del self._jobs[name]

    def _gone(self, job: Job) -> bool:
        return job.stopped or self.clock() - job.seen > self.lease

    def _carry_out_next(self) -> None:
        """Carry out the first job that waits, if one still does; the worker is called once for each that was taken."""
        with self._lock:
            self._forget()
            job = next((job for job in self._jobs.values() if job.state == "queued"), None)
            if job is None:
                return
            job.state = "running"

        def tell(progress: Any) -> None:
            if self._gone(job):
                raise Cancelled
            job.progress = progress

        state = "failed"
        try:
            job.result, state = job.work(tell), "done"
        except Cancelled:
            state = "cancelled"
        except HoldfastError as error:
            job.message = str(error)
        except Exception as error:
            logging.getLogger(__name__).exception("an attack failed")
            job.message = f"the attack failed ({brief(error)}); the terminal that serves this page says more"
        job.state = state  # the last: it is read without a lock
