"""The queue: one at a time, in order, stopped when asked or when nobody asks any more, and never growing."""

import re
from collections.abc import Callable, Iterator
from queue import Queue
from threading import Event

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.explorer.jobs import KEPT, WAITING, BusyError, Cancelled, Job, Jobs, Tell
from holdfast.util.errors import HoldfastError
from tests.helpers.explorer_runs import finish
from tests.helpers.waiting import GUARD


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    jobs = Jobs()
    yield jobs
    jobs.close()


class Held:
    """Work that tells the steps it is given, and ends where it is given none."""

    def __init__(self) -> None:
        self.begun, self.asked, self.told = Event(), Queue[int | None](), Queue[int]()

    def __call__(self, tell: Tell) -> str:
        self.begun.set()
        while (step := self.asked.get(timeout=GUARD)) is not None:
            tell(step)
            self.told.put(step)
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
    later = [jobs.submit(f"client {i}", work(i)) for i in range(5)]
    first.asked.put(3)
    assert first.told.get(timeout=GUARD) == held.progress == 3
    assert held.state == "running"
    assert [job.state for job in later] == ["queued"] * 5
    assert [jobs.position(job) for job in (held, *later)] == [0, 1, 2, 3, 4, 5]
    first.asked.put(None)
    finish(jobs)
    assert (held.state, held.result) == ("done", "made")
    assert [job.result for job in later] == order == [0, 1, 2, 3, 4]
    assert jobs.position(later[-1]) == 0


def test_a_client_has_one_attack_at_a_time_and_another_client_its_own(jobs: Jobs) -> None:
    first = Held()
    job = jobs.submit("one", first)
    with pytest.raises(BusyError, match="under way"):
        jobs.submit("one", Held())
    assert jobs.submit("two", lambda tell: 2).state == "queued"
    assert first.begun.wait(GUARD)
    jobs.cancel(job)
    again = jobs.submit("one", lambda tell: 3)
    first.asked.put(0)
    finish(jobs)
    assert job.state == "cancelled"
    assert again.result == 3


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_at_its_next_word(jobs: Jobs) -> None:
    first, second = Held(), Held()
    running, waiting = jobs.submit("one", first), jobs.submit("two", second)
    assert first.begun.wait(GUARD)
    jobs.cancel(waiting)
    assert waiting.state == "cancelled"
    jobs.cancel(running)
    assert running.state == "running"
    first.asked.put(0)
    after = jobs.submit("three", lambda tell: "made")
    finish(jobs)
    assert (running.state, after.state) == ("cancelled", "done")
    assert not second.begun.is_set()
    jobs.cancel(after)
    assert (after.state, after.result) == ("done", "made")


def test_who_leaves_frees_the_worker_and_takes_the_results_along(jobs: Jobs) -> None:
    done, first = jobs.submit("one", lambda tell: "made"), Held()
    finish(jobs)
    running = jobs.submit("one", first)
    assert first.begun.wait(GUARD)
    other = jobs.submit("two", lambda tell: "other")
    jobs.leave("one")
    first.asked.put(0)
    finish(jobs)
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
    now[0] = 89
    assert jobs.find(running.id) is running
    assert jobs.find(asking.id) is asking
    now[0] = 100
    first.asked.put(1)
    assert first.told.get(timeout=GUARD) == 1, "it goes on"
    assert jobs.find(asking.id) is asking
    now[0] = 180
    first.asked.put(2)
    finish(jobs)
    assert [job.state for job in (running, waiting, asking)] == ["cancelled", "cancelled", "done"]
    assert not second.begun.is_set()
    jobs.close()


def test_only_so_many_wait_and_only_so_many_results_are_kept(jobs: Jobs) -> None:
    first, last = Held(), Event()
    jobs.submit("first", first)
    assert first.begun.wait(GUARD)
    waiting = [jobs.submit(str(i), lambda tell: None) for i in range(WAITING - 1)]
    waiting.append(jobs.submit("last", lambda tell: last.set()))
    with pytest.raises(BusyError, match="waiting already"):
        jobs.submit("one more", Held())
    first.asked.put(None)
    assert last.wait(GUARD)
    for i in range(KEPT):
        job = jobs.submit(f"later {i}", lambda tell: None)
        finish(jobs)
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
    after = jobs.submit("two", lambda tell: 1)
    finish(jobs)
    assert (job.state, after.state) == ("failed", "done")
    assert re.search(said, job.message)
    assert "Traceback" not in job.message


def test_closing_stops_what_runs_and_starts_nothing_more() -> None:
    jobs, begun, second = Jobs(), Event(), Held()

    def endless(tell: Tell) -> None:
        while True:
            tell(0)
            begun.set()

    running, waiting = jobs.submit("one", endless), jobs.submit("two", second)
    assert begun.wait(GUARD)
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
    finish(jobs)
    assert all(job.over for job in made)
    assert all((job.state == "done") == (job.result == "made") for job in made)
    assert all(job.stopped for job in made if job.state == "cancelled")
    jobs.close()


def test_a_job_that_ends_in_a_word_of_its_own_is_not_mistaken(jobs: Jobs) -> None:
    def stop(tell: Tell) -> None:
        raise Cancelled

    job = jobs.submit("one", stop)
    finish(jobs)
    assert (job.state, job.message) == ("cancelled", "")
