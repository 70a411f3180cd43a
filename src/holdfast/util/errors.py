"""Errors a user can act on: each names the value, what is allowed, and the nearest match."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

Value = TypeVar("Value")


class HoldfastError(ValueError):
    """Something the user gave cannot be used; the message says what, what is allowed, and what comes nearest."""


def brief(error: BaseException) -> str:
    """An error of somebody else's code in one line."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def plain(name: str) -> str:
    """A name in one line that can be printed, whatever characters it has."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def unknown(kind: str, name: object, allowed: Iterable[str]) -> HoldfastError:
    """The error for a ``name`` that is none of the ``allowed`` ones of its ``kind``."""
    names = list(allowed)
    begun = [one for one in names if len(one) > 2 and str(name).startswith(one)]
    near = begun or get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return HoldfastError(f"unknown {kind} {name!r}{hint} (allowed: {', '.join(names)})")


def pick(kind: str, name: str, table: Mapping[str, Value]) -> Value:
    """``table[name]``, or a :class:`HoldfastError` that lists the names of the table."""
    if name not in table:
        raise unknown(kind, name, table)
    return table[name]
