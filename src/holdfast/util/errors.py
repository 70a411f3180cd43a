"""Errors a user can act on: each names the value, what is allowed, and the nearest match."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")


class HoldfastError(ValueError):
    """Something the user gave cannot be used; the message says what, what is allowed, and what comes nearest.

    common: all processes of a group raise it alike, so that one of them need say it.
    """

    common = False


@contextmanager
def within(place: object) -> Iterator[None]:
    """Let a HoldfastError inside begin with ``place: ``."""
    try:
        yield
    except HoldfastError as error:
        raise HoldfastError(f"{printable(str(place))}: {error}") from None


@contextmanager
def foreign(what: str, advice: str) -> Iterator[None]:
    """Let what somebody else's code raises inside, or its exit, become the HoldfastError ``what (error); advice``.

    HoldfastErrors, an interrupt, and the lack of memory go through.
    """
    try:
        yield
    except HoldfastError:
        raise
    except (Exception, SystemExit) as error:
        if lacks_memory(error):
            raise
        raise HoldfastError(f"{what} ({brief(error)}); {advice}") from error


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, of the machine or of a GPU."""
    known = ("out of memory", "not enough memory", "allocate memory")
    said = isinstance(error, RuntimeError) and any(words in str(error).lower() for words in known)
    return said or isinstance(error, MemoryError)


def brief(error: BaseException) -> str:
    """An error of somebody else's code in one line; of ours, its message."""
    if isinstance(error, HoldfastError):
        return str(error)
    text = printable(next(iter(str(error).splitlines()), ""))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def printable(name: str) -> str:
    """A name in one line that can be printed, whatever characters it has."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def shown(value: object) -> str:
    """A value in one line, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # of an integer of more than 4,300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}…"


def nearest(path: Path) -> str:
    """``; did you mean PATH?``: what lies beside the first part of an absent path that is absent itself; or nothing."""
    while not path.parent.is_dir():
        path = path.parent
    near = get_close_matches(path.name, sorted(entry.name for entry in path.parent.iterdir()), n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def unknown(kind: str, name: object, allowed: Iterable[str]) -> HoldfastError:
    """The error for a ``name`` that is none of the ``allowed`` ones of its ``kind``."""
    names, text = list(allowed), name if isinstance(name, str) else shown(name)
    begun = [one for one in names if len(one) > 2 and text.startswith(one)]
    near = begun or get_close_matches(text[:200], names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return HoldfastError(f"unknown {kind} {shown(name)}{hint} (allowed: {', '.join(names)})")


def pick(kind: str, name: str, table: Mapping[str, Value]) -> Value:
    """``table[name]``, or a :class:`HoldfastError` that lists the names of the table."""
    if name not in table:
        raise unknown(kind, name, table)
    return table[name]
