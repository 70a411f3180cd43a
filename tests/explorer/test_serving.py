"""The socket of the page: a free port, one in use, and where a browser finds it."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

pytest.importorskip("uvicorn", reason="the explorer needs the extra serve")

import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from holdfast.explorer import serving
from holdfast.explorer.serving import address_of, listen, settings
from holdfast.util.errors import HoldfastError
from tests.helpers.waiting import GUARD, until


def test_a_free_port_is_found_and_one_in_use_is_refused(tmp_path: Path, refused: Any) -> None:
    with listen("127.0.0.1", 0) as listener:
        url, loopback = address_of(listener)
        port = int(url.rpartition(":")[2])
        assert (url, loopback) == (f"http://127.0.0.1:{port}", True)
        with pytest.raises(HoldfastError, match=f"port {port} is in use; give another with --port"):
            listen("127.0.0.1", port)
        assert f"port {port} is in use" in refused("explore", tmp_path, "--port", str(port))
    with listen("0.0.0.0", 0) as listener:
        assert not address_of(listener)[1]


@pytest.mark.parametrize("host", ["no.such.host.invalid", "", "256.1.1.1", "x" * 300])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(HoldfastError, match="cannot listen on"):
        listen(host, 0)


@pytest.mark.parametrize("port", [-1, 70000])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(HoldfastError, match=rf"0 \(any free one\) to 65535, not {port}"):
        listen("127.0.0.1", port)


WHOLE = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
Connect = Callable[[], socket.socket]


class Slow:
    """An application that answers with the body that it got, once it may."""

    def __init__(self) -> None:
        self.asked, self.may_answer = threading.Event(), threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await Request(scope, receive).body()
        self.asked.set()
        await run_in_threadpool(self.may_answer.wait, GUARD)
        await PlainTextResponse(body)(scope, receive, send)


@contextmanager
def served(app: Slow, patience: float) -> Iterator[tuple[Connect, Any]]:
    """What connects to an application that is served as the page is, and its connections."""
    server = uvicorn.Server(settings(app))
    with patch.object(serving, "PATIENCE", patience), listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield lambda: socket.create_connection(listener.getsockname(), GUARD), server.server_state.connections
        server.should_exit = True
        thread.join(GUARD)


@pytest.mark.parametrize("half", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", WHOLE[:-1]])
def test_a_request_that_never_comes_whole_is_given_up(half: bytes) -> None:
    with served(Slow(), 0.05) as (connect, _), closing(connect()) as one, suppress(ConnectionResetError):
        one.sendall(half)
        assert not one.recv(1)


def test_an_answer_may_take_longer_and_the_next_request_is_waited_for_again() -> None:
    app = Slow()
    with served(app, GUARD) as (connect, connections), closing(connect()) as one:
        until(lambda: connections)
        (connection,) = connections
        until(lambda: connection.deadline)
        one.sendall(WHOLE)
        assert app.asked.wait(GUARD)
        assert connection.deadline is None
        app.may_answer.set()
        assert one.recv(1000).startswith(b"HTTP/1.1 200 OK")
        one.sendall(WHOLE[:9])
        until(lambda: connection.deadline)
