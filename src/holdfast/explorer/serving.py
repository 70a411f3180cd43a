"""The page on a socket, until it is stopped."""

import errno
import logging
import socket
from contextlib import suppress
from ipaddress import ip_address

import uvicorn

from holdfast.explorer.guard import is_loopback
from holdfast.explorer.jobs import Jobs
from holdfast.explorer.scene import Scene
from holdfast.explorer.server import application
from holdfast.util.errors import HoldfastError


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


def serve(scene: Scene, listener: socket.socket) -> None:
    """Serve a scene on a socket until interrupted; what is under way then is stopped."""
    jobs = Jobs()
    url, loopback = address_of(listener)
    config = uvicorn.Config(
        application(scene, jobs, loopback=loopback),
        log_level=logging.WARNING,
        lifespan="off",
        timeout_graceful_shutdown=2,
        limit_concurrency=256,
        server_header=False,
    )
    print(f"explore at {url}  (Ctrl+C stops it)", flush=True)
    try:
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        jobs.close()
