"""An address of PostgreSQL, as its own tools take it, and a connection that reads and survives the server's restart."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from time import sleep
from typing import Any
from urllib.parse import unquote

from holdfast.models.adapters import http
from holdfast.util.errors import HoldfastError, brief, printable, shown, unknown
from holdfast.util.extras import require
from holdfast.util.text import counted

SCHEMES = ("postgresql", "postgres")
PLACES = ("host", "hostaddr", "port", "dbname", "options")
"""Parameters that say what is searched, and how: results keep them. The others may be secret."""
OWN = ("table", "column", "id", "distance")
"""Parameters that are holdfast's: libpq does not know them, and is not given them."""
DEFAULTS = {
    "connect_timeout": "10",  # seconds
    "tcp_user_timeout": "60000",  # milliseconds
    "client_encoding": "utf8",
    "fallback_application_name": "holdfast",
}
"""Of a connection, where the address does not say otherwise."""
NO_SETTING = ("42602", "42704")
"""Codes by which a server warns that it drops a setting which an extension does not know."""


@dataclass(frozen=True)
class Address:
    """A server and a database.

    name: without user, password and whatever else may be secret. uri: whole, for libpq. own: the parameters that are
    holdfast's, by name. passed: the names of the others.
    """

    name: str
    uri: str = field(repr=False)
    own: Mapping[str, str]
    passed: Sequence[str]


def parse_address(word: str) -> Address:
    """``postgresql://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETER=VALUE&…``, split as libpq does.

    Raises HoldfastError where it cannot be read, and tells no part of it, since a password may be anywhere in it.
    """
    _, slashes, rest = word.partition("://")
    user, at, tail = rest.partition("@")
    if not at or "/" in user:
        user, at, tail = "", "", rest
    place, _, query = tail.partition("?")
    ports = [host.rpartition("]")[2].partition(":")[2] for host in place.partition("/")[0].split(",")]
    parts = [part.partition("=") for part in query.split("&") if part]
    sound = slashes and "@" not in tail and all(equals for _, equals, _ in parts)
    if not sound or not all(re.fullmatch("[0-9]*", port) for port in ports):
        raise unreadable()
    if empty := [key for key, _, value in parts if key in OWN and not value]:
        raise HoldfastError(f"parameter {empty[0]!r} of a search in PostgreSQL has no value")
    named = [(unquote(key), value.replace("=", "%3D")) for key, _, value in parts]
    passed = [(key, value) for key, value in named if key not in OWN]
    own = [key for key, _ in named if key in OWN]
    if twice := [key for key in OWN if own.count(key) > 1]:
        raise HoldfastError(
            f"parameter {twice[0]!r} of a search in PostgreSQL is given {counted(own.count(twice[0]), 'time')}"
        )

    def joined(end: list[tuple[str, str]]) -> str:
        return "".join(f"{'&' if i else '?'}{key}={value}" for i, (key, value) in enumerate(end))

    return Address(
        f"postgresql://{place}" + joined([one for one in named if one[0] in (*PLACES, *OWN)]),
        f"postgresql://{user}{at}{place}{joined(passed)}",
        {key: unquote(value) for key, value in named if key in OWN},
        [key for key, _ in passed],
    )


def unreadable() -> HoldfastError:
    """The error for an address that libpq could not read."""
    return HoldfastError(
        "postgresql:… is no address of PostgreSQL: give postgresql://USER@HOST:PORT/DATABASE?table=TABLE, "
        "with @, /, : and & inside a user or a password as %40, %2F, %3A and %26"
    )


class Database:
    """A connection that reads, opened again where it is lost. ``with`` closes it.

    Raises HoldfastError where it cannot be opened.
    """

    def __init__(self, address: Address) -> None:
        self.psycopg = require("psycopg", "pgvector")
        self.name = address.name.partition("?")[0]
        known = [one.keyword.decode() for one in self.psycopg.pq.Conninfo.get_defaults()] + ["ssl"]
        if wrong := [key for key in address.passed if key not in known]:
            near = get_close_matches(wrong[0], [*OWN, *known], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise HoldfastError(
                f"unknown parameter {shown(wrong[0])}{hint} (allowed: {', '.join(OWN)}, and those of libpq)"
            )
        try:
            self.settings = DEFAULTS | self.psycopg.conninfo.conninfo_to_dict(address.uri)
        except (self.psycopg.Error, ValueError):
            raise unreadable() from None
        self.dropped: list[str] = []
        try:
            self.connection = self._connect()
        except (self.psycopg.Error, ValueError) as error:
            raise HoldfastError(f"{self.name} cannot be opened ({_said(error)})") from None

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def rows(self, query: Any, *parameters: object) -> list[tuple[Any, ...]]:
        """What a query finds, in a transaction of its own that cannot write; repeated where the connection is lost.

        Raises HoldfastError too where the server drops a setting of the address.
        """
        for wait in (*http.WAITS, None):
            try:
                if self.connection.closed:
                    self.connection = self._connect()
                with self.connection.transaction():
                    found = list(self.connection.execute(query, parameters).fetchall())
                if self.dropped:
                    raise self._unknown_setting(self.dropped[0])
                return found
            except self.psycopg.Error as error:
                if not self.connection.closed:
                    raise HoldfastError(f"{self.name} refuses the search ({brief(error)})") from None
                fault = _said(error)
            if wait is not None:
                sleep(wait)
        raise HoldfastError(
            f"{self.name} gives no answer in {counted(len(http.WAITS) + 1, 'try', 'tries')} ({fault}): is it running?"
        )

    def _connect(self) -> Any:
        connection = self.psycopg.connect(**self.settings, autocommit=True, prepare_threshold=None)
        connection.read_only = True
        connection.add_notice_handler(self._note)
        return connection

    def _note(self, notice: Any) -> None:
        if notice.severity_nonlocalized == "WARNING" and notice.sqlstate in NO_SETTING:
            self.dropped += re.findall('"(.+?)"', notice.message_primary or "")[:1]

    def _unknown_setting(self, name: str) -> HoldfastError:
        beginning = name.partition(".")[0] + "."
        known = self.connection.execute("SELECT name FROM pg_settings WHERE starts_with(name, %s)", [beginning])
        return unknown("setting of PostgreSQL", name, [str(one) for (one,) in known.fetchall()])


def _said(error: Exception) -> str:
    """What kept a connection from being opened, in one line; of several hosts, the first."""
    lines = [line.strip("- \t") for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return printable(lines[1] if len(lines) > 1 and lines[0].startswith("Multiple") else lines[0])
