"""The page on a socket, until it is stopped."""

import asyncio
import errno
import logging
import socket
from contextlib import suppress
from ipaddress import ip_address

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from holdfast.explorer.guard import is_loopback
from holdfast.explorer.jobs import Jobs
from holdfast.explorer.scene import Scene
from holdfast.explorer.server import application
from holdfast.util.errors import HoldfastError

PATIENCE = 30.0
"""Seconds in which a request has to arrive whole, its body included."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises HoldfastError where there is none to be had."""
    if not 0 <= port < 2**16:
        raise HoldfastError(f"--port is a number from 0 (any free one) to 65535, not {port}")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise HoldfastError(
                f"port {port} is in use; give another with --port, or --port 0 for a free one"
            ) from error
        reason = getattr(error, "strerror", None) or str(error)
        raise HoldfastError(f"cannot listen on {host}, port {port}: {reason}") from error


def address_of(listener: socket.socket) -> tuple[str, bool]:
    """Where a browser finds a socket, and whether only one on this machine does."""
    host, port = listener.getsockname()[:2]
    shown = "localhost" if ip_address(host).is_unspecified else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}", is_loopback(host)


class Impatient(H11Protocol):
    """A connection that is closed where a request does not arrive whole in time."""

    deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a request."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Go on waiting, unless the request is whole."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._let_be()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._let_be()
        elif self.deadline is None:
            self.deadline = self.loop.call_later(PATIENCE, self.transport.abort)

    def _let_be(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None


def settings(app: ASGIApp) -> uvicorn.Config:
    """How an application is served."""
    return uvicorn.Config(
        app,
        http=Impatient,
        log_level=logging.WARNING,
        lifespan="off",
        timeout_graceful_shutdown=2,
        limit_concurrency=256,
        server_header=False,
    )


def serve(scene: Scene, listener: socket.socket) -> None:
    """Serve a scene on a socket until interrupted; what is under way then is stopped."""
    jobs = Jobs()
    url, loopback = address_of(listener)
    print(f"explore at {url}  (Ctrl+C stops it)", flush=True)
    try:
        with suppress(KeyboardInterrupt):
            uvicorn.Server(settings(application(scene, jobs, loopback=loopback))).run(sockets=[listener])
    finally:
        jobs.close()
