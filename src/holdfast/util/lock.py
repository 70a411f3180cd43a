"""One process at a time writes into a folder, or a file: another one is told who is at work there.

The system lets go of a lock when its process ends, however it ends. Whoever takes one removes what killed processes
left. Reading needs no lock.
"""

import errno
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from holdfast.util.atomic import TEMPORARY
from holdfast.util.errors import HoldfastError, printable

LOCK = ".lock"
"""In a folder that is being written; ``.NAME.lock`` stands beside a file."""
TRIES, PAUSE = 10, 0.05
"""Before another process is said to be at work: one that was killed holds its lock until it is gone."""
FAR = 2**30
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF}
NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def working_in(folder: str | Path | None) -> Iterator[None]:
    """Be the only process that writes into a folder, which is made where there is none; None: nothing is written.

    A folder that this made is removed again if nothing is in it. Folders below have locks of their own. Raises
    HoldfastError where another process is at work, and where the folder cannot be made.
    """
    if folder is None:
        yield
        return
    folder = Path(folder)
    with _held(folder / LOCK, f"in {folder}"):
        _remove(_temporaries(folder))
        yield


@contextmanager
def writing(file: str | Path | None) -> Iterator[None]:
    """:func:`working_in` for one file, or for a folder that takes its place as a whole."""
    if file is None:
        yield
        return
    file = Path(file)
    with _held(file.with_name(f".{file.name}{LOCK}"), f"on {file}"):
        mine = re.compile(re.escape(f".{file.name}.") + r"[0-9a-f]{8}\.tmp")
        _remove(path for path in file.parent.iterdir() if mine.fullmatch(path.name))
        yield


def tidy(folder: Path) -> None:
    """Remove what a killed process left in a folder, unless another is at work there."""
    if (folder / LOCK).exists():
        with suppress(HoldfastError), working_in(folder):
            pass


@contextmanager
def _held(file: Path, place: str) -> Iterator[None]:
    made = not file.parent.exists()
    try:
        descriptor = _taken(file, place)
    except OSError as error:
        reason = os.strerror(errno.ENOTDIR) if isinstance(error, FileExistsError) else error.strerror
        raise HoldfastError(f"cannot write {file.parent}: {reason or error}") from error
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):
                file.unlink()
            os.close(descriptor)
        if made:
            with suppress(OSError):
                file.parent.rmdir()


def _taken(file: Path, place: str) -> int | None:
    """The open lock file; None where nothing can be written, and where the file system knows no locks."""
    tries = 0
    while True:
        descriptor = _opened(file)
        if descriptor is None:
            return None
        try:
            if not _lock(descriptor):
                tries += 1
                if tries == TRIES:
                    raise HoldfastError(f"another process ({_told(descriptor)}) is at work {place}")
                time.sleep(PAUSE)
            elif _same(descriptor, file):
                with suppress(OSError):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, _me().encode())
                descriptor, mine = -1, descriptor
                return mine
        except OSError as error:
            if error.errno in WITHOUT_LOCKS:
                return None
            raise
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _opened(file: Path) -> int | None:
    for left in reversed(range(TRIES)):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            return os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the process before removed the folder, or it can never be made, as in /proc
            if not left:
                raise
        except OSError as error:
            if error.errno not in NOT_WRITABLE or not file.parent.is_dir():
                raise
            break
    with suppress(FileNotFoundError):
        return os.open(file, os.O_RDONLY)  # the lock of another user
    return None


def _lock(descriptor: int) -> bool:
    """Whether this open file now has the lock; closing it gives it back."""
    try:
        if sys.platform == "win32":
            import msvcrt  # noqa: PLC0415

            os.lseek(descriptor, FAR, os.SEEK_SET)  # others cannot read what is locked
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl  # noqa: PLC0415

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _same(descriptor: int, file: Path) -> bool:
    """Whether the open file is still the one in its place: the process before removes it."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _me() -> str:
    return f"pid {os.getpid()}, host {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}"


def _told(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return printable(os.read(descriptor, 200).decode(errors="replace")) or "of which nothing is known"


def _temporaries(folder: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        place = Path(here)
        if place != folder and (place / LOCK).exists():  # looked for after its files, which are made after the lock
            folders.clear()
            continue
        yield from (place / name for name in files if TEMPORARY.fullmatch(name))


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
