"""One process at a time in a folder: who holds it, and what a killed one leaves."""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from holdfast.util.atomic import temporary_for
from holdfast.util.errors import HoldfastError
from holdfast.util.lock import LOCK, tidy, working_in, writing

Hold = Callable[[Path], AbstractContextManager[None]]


@contextmanager
def another(hold: Hold, place: Path) -> Iterator[int]:
    """The id of a process that holds a place and has half a file there, and is killed at the end."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with hold(place):
            temporary_for(place / "x" if place.is_dir() else place).write_text("half")
            os.write(tell, b"1")
            while True:
                signal.pause()
    assert os.read(ready, 1) == b"1"
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(tell)


@pytest.mark.parametrize(("hold", "word"), [(working_in, "in"), (writing, "on")])
def test_a_second_process_is_told_of_the_first_and_takes_over_once_it_is_dead(
    hold: Hold, word: str, tmp_path: Path
) -> None:
    place = tmp_path / "a[b]"
    with another(hold, place) as child:
        with (
            pytest.raises(
                HoldfastError, match=rf"^another process \(pid {child}, host .+, since \d.+\) is at work {word} "
            ),
            hold(place),
        ):
            pass
        assert list(tmp_path.rglob("*.tmp")), "a refused one touches nothing"
    with hold(place):
        assert not list(tmp_path.rglob("*.tmp"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_files_beside_each_other_have_locks_of_their_own(tmp_path: Path) -> None:
    with another(writing, tmp_path / "a.npz"), writing(tmp_path / "b.npz"), writing(tmp_path / "npz"):
        assert len(list(tmp_path.glob(".a.npz.*.tmp"))) == 1


def test_what_another_process_writes_below_is_left_alone(tmp_path: Path) -> None:
    below = tmp_path / "evaluations" / "strict"
    with another(working_in, below):
        stale = temporary_for(tmp_path / "evaluations" / "x")
        stale.write_text("half")
        with working_in(tmp_path):
            assert len(list(below.glob(".*.tmp"))) == 1
            assert not stale.exists()
            tidy(below)
        assert len(list(below.glob(".*.tmp"))) == 1
    tidy(below)
    assert list(below.iterdir()) == []


def test_a_lock_file_says_what_it_likes(tmp_path: Path) -> None:
    with another(working_in, tmp_path):
        (tmp_path / LOCK).write_bytes(b"\x1b[2J\xff" + b"x" * 1000)
        with pytest.raises(HoldfastError, match=r"\(\\x1b\[2J.x{1,200}\) is at work") as caught, working_in(tmp_path):
            pass
    assert "\x1b" not in str(caught.value)


def test_nothing_needs_no_lock() -> None:
    with working_in(None), writing(None):
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HoldfastError, match=r"cannot write .*file"), working_in(tmp_path / "file"):
        pass


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc here")
@pytest.mark.parametrize("hold", [working_in, writing])
def test_a_folder_that_never_comes_to_be(hold: Hold) -> None:
    """Making it fails as if another process had just removed it."""
    with pytest.raises(HoldfastError, match=r"^cannot write /proc/x.*: No such file"), hold(Path("/proc/x/y")):
        pass


def test_where_nothing_can_be_written_nobody_is_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies there may still be read."""

    def read_only(file: Path, flags: int, *_: int) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        with working_in(tmp_path):
            assert list(tmp_path.iterdir()) == []
