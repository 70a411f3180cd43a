"""Work that is done one piece at a time: a queue, one worker, cancelling, and clients that may go away."""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from holdfast.util.errors import HoldfastError, brief

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
        self._changed = threading.Condition(threading.RLock())
        self._closed = False
        self._worker = threading.Thread(target=self._run, name="attacks", daemon=True)
        self._worker.start()

    def submit(self, client: str, work: Work) -> Job:
        """Put work at the end of the queue.

        Raises :class:`BusyError` for a client's second job, and where too many wait.
        """
        with self._changed:
            self._forget()
            waiting = [job for job in self._jobs.values() if not job.over]
            if any(job.client == client and not job.stopped for job in waiting):
                raise BusyError("an attack of this page is under way: wait for it, or cancel it")
            if len(waiting) > WAITING:
                raise BusyError(f"{len(waiting)} attacks are waiting already: try again later")
            job = Job(client, work, self.clock())
            self._jobs[job.id] = job
            self._changed.notify_all()
            return job

    def find(self, name: str) -> Job | None:
        """A job by its id, whose client is seen to be there; None where there is no such job, or no longer."""
        with self._changed:
            job = self._jobs.get(name)
            if job is not None:
                job.seen = self.clock()
            return job

    def position(self, job: Job) -> int:
        """How many jobs are to be finished before this one starts."""
        with self._changed:
            ahead = list(self._jobs.values())
            return sum(not one.over for one in ahead[: ahead.index(job)]) if job in ahead else 0

    def cancel(self, job: Job) -> None:
        """Stop a job: at once where it waits, at its next word where it runs."""
        with self._changed:
            job.stopped = True
            if job.state == "queued":
                job.state = "cancelled"

    def leave(self, client: str) -> None:
        """The client is gone: its jobs are stopped and forgotten."""
        with self._changed:
            for job in [job for job in self._jobs.values() if job.client == client]:
                self.cancel(job)
                if job.over:
                    del self._jobs[job.id]

    def close(self) -> None:
        """Stop everything."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                job.stopped = True
            self._changed.notify_all()
        self._worker.join(timeout=10)

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

    def _next(self) -> Job | None:
        with self._changed:
            while not self._closed:
                self._forget()
                for job in self._jobs.values():
                    if job.state == "queued":
                        job.state = "running"
                        return job
                self._changed.wait()
        return None

    def _run(self) -> None:
        while (job := self._next()) is not None:
            state, result, message = _carried_out(job, self._gone)
            with self._changed:
                job.result, job.message, job.state = result, message, state  # the state last: it is read without a lock


def _carried_out(job: Job, gone: Callable[[Job], bool]) -> tuple[str, Any, str]:
    """The state a job ends in, its result, and what went wrong."""

    def tell(progress: Any) -> None:
        if gone(job):
            raise Cancelled
        job.progress = progress

    try:
        return "done", job.work(tell), ""
    except Cancelled:
        return "cancelled", None, ""
    except HoldfastError as error:
        return "failed", None, str(error)
    except Exception as error:
        logging.getLogger(__name__).exception("an attack failed")
        return "failed", None, f"the attack failed ({brief(error)}); the terminal that serves this page says more"
