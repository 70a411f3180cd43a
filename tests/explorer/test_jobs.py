"""The queue: one at a time, in order, stopped when asked or when nobody asks any more, and never growing."""

import re
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.explorer.jobs import KEPT, WAITING, BusyError, Cancelled, Job, Jobs, Tell
from holdfast.util.errors import HoldfastError
from tests.helpers.waiting import until


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    jobs = Jobs()
    yield jobs
    jobs.close()


class Held:
    """Work that goes on until it is let go, and tells its steps."""

    def __init__(self) -> None:
        self.begun, self.go, self.steps = threading.Event(), threading.Event(), 0

    def __call__(self, tell: Tell) -> str:
        self.begun.set()
        while not self.go.is_set():
            tell(self.steps)
            self.steps += 1
            self.go.wait(0.002)
        return "made"


def test_work_is_done_in_order_one_at_a_time(jobs: Jobs) -> None:
    first, order, running = Held(), list[int](), list[int]()

    def work(i: int) -> Callable[[Tell], int]:
        def do(tell: Tell) -> int:
            running.append(i)
            assert running == [i]
            order.append(i)
            running.remove(i)
            return i

        return do

    held = jobs.submit("client", first)
    first.begun.wait()
    later = [jobs.submit(f"client {i}", work(i)) for i in range(5)]
    assert held.state == "running"
    assert [job.state for job in later] == ["queued"] * 5
    assert [jobs.position(job) for job in (held, *later)] == [0, 1, 2, 3, 4, 5]
    until(lambda: held.progress is not None and held.progress > 2)
    first.go.set()
    until(lambda: all(job.over for job in later))
    assert (held.state, held.result) == ("done", "made")
    assert [job.result for job in later] == order == [0, 1, 2, 3, 4]
    assert jobs.position(later[-1]) == 0


def test_a_client_has_one_attack_at_a_time_and_another_client_its_own(jobs: Jobs) -> None:
    first = Held()
    job = jobs.submit("one", first)
    with pytest.raises(BusyError, match="under way"):
        jobs.submit("one", Held())
    assert jobs.submit("two", lambda tell: 2).state == "queued"
    jobs.cancel(job)
    again = jobs.submit("one", lambda tell: 3)
    until(lambda: again.over)
    assert job.state == "cancelled"
    assert again.result == 3


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_at_its_next_word(jobs: Jobs) -> None:
    first, second = Held(), Held()
    running, waiting = jobs.submit("one", first), jobs.submit("two", second)
    first.begun.wait()
    jobs.cancel(waiting)
    assert waiting.state == "cancelled"
    jobs.cancel(running)
    until(lambda: running.state == "cancelled")
    after = jobs.submit("three", lambda tell: "made")
    until(lambda: after.over)
    assert after.state == "done"
    assert not second.begun.is_set()
    jobs.cancel(after)
    assert (after.state, after.result) == ("done", "made")


def test_who_leaves_frees_the_worker_and_takes_the_results_along(jobs: Jobs) -> None:
    done = jobs.submit("one", lambda tell: "made")
    until(lambda: done.over)
    first = Held()
    running = jobs.submit("one", first)
    first.begun.wait()
    other = jobs.submit("two", lambda tell: "other")
    jobs.leave("one")
    until(lambda: running.over and other.over)
    assert running.state == "cancelled"
    assert jobs.find(done.id) is None
    assert jobs.find(other.id) is other


def test_who_asks_no_more_is_gone() -> None:
    now = [0.0]
    jobs = Jobs(lease=90, clock=lambda: now[0])
    first, second = Held(), Held()
    running, waiting, asking = (
        jobs.submit(name, work) for name, work in (("a", first), ("b", second), ("c", lambda tell: 1))
    )
    first.begun.wait()
    now[0] = 89
    assert jobs.find(running.id) is running
    assert jobs.find(asking.id) is asking
    now[0], told = 100, first.steps
    until(lambda: first.steps > told + 1)
    assert running.state == "running"
    assert jobs.find(asking.id) is asking
    now[0] = 180
    until(lambda: running.over and asking.over)
    assert [job.state for job in (running, waiting, asking)] == ["cancelled", "cancelled", "done"]
    assert not second.begun.is_set()
    jobs.close()


def test_only_so_many_wait_and_only_so_many_results_are_kept(jobs: Jobs) -> None:
    first = Held()
    jobs.submit("first", first)
    first.begun.wait()
    waiting = [jobs.submit(str(i), lambda tell: None) for i in range(WAITING)]
    with pytest.raises(BusyError, match="waiting already"):
        jobs.submit("one more", Held())
    first.go.set()
    until(lambda: all(job.over for job in waiting))
    for i in range(KEPT):
        job = jobs.submit(f"later {i}", lambda tell: None)
        until(lambda job=job: job.over)  # type: ignore[misc]
    assert sum(jobs.find(job.id) is not None for job in waiting) <= 1
    assert jobs.find(job.id) is job


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (HoldfastError("steps is at most 9"), "steps is at most 9"),
        (ZeroDivisionError("no\nway"), r"the attack failed \(ZeroDivisionError: no\); the terminal"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_what_goes_wrong_is_said_and_the_next_job_runs(error: Exception, said: str, jobs: Jobs) -> None:
    def fail(tell: Tell) -> None:
        raise error

    job = jobs.submit("one", fail)
    until(lambda: job.over)
    assert job.state == "failed"
    assert re.search(said, job.message)
    assert "Traceback" not in job.message
    after = jobs.submit("one", lambda tell: 1)
    until(lambda: after.over)
    assert after.state == "done"


def test_closing_stops_what_runs_and_starts_nothing_more() -> None:
    jobs, first, second = Jobs(), Held(), Held()
    running, waiting = jobs.submit("one", first), jobs.submit("two", second)
    first.begun.wait()
    jobs.close()
    assert running.state == "cancelled"
    assert not second.begun.is_set()
    assert waiting.stopped


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["submit", "cancel", "leave", "find"])), max_size=40))
@settings(max_examples=25)
def test_in_whatever_order_clients_act_all_jobs_come_to_an_end(acts: list[tuple[int, str]]) -> None:
    jobs, mine = Jobs(), dict[int, Job]()
    made: list[Job] = []

    def work(tell: Tell) -> str:
        for step in range(3):
            tell(step)
        return "made"

    for client, act in acts:
        if act == "submit":
            try:
                mine[client] = jobs.submit(str(client), work)
                made.append(mine[client])
            except BusyError:
                assert client in mine
        elif act == "leave":
            jobs.leave(str(client))
        elif client in mine:
            jobs.cancel(mine[client]) if act == "cancel" else jobs.find(mine[client].id)
    until(lambda: all(job.over for job in made))
    assert all((job.state == "done") == (job.result == "made") for job in made)
    assert all(job.stopped for job in made if job.state == "cancelled")
    jobs.close()


def test_a_job_that_ends_in_a_word_of_its_own_is_not_mistaken(jobs: Jobs) -> None:
    def stop(tell: Tell) -> None:
        raise Cancelled

    job = jobs.submit("one", stop)
    until(lambda: job.over)
    assert (job.state, job.message) == ("cancelled", "")
