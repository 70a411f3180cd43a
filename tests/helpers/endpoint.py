"""An endpoint on this machine that takes images and answers vectors, and that fails as it is told to."""

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Thread
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from holdfast.core.batching import fixed_batch
from holdfast.search.nearest import by_torch

Reply = tuple[int, dict[str, str], bytes]


class Server(ThreadingHTTPServer):
    """``model`` answers, unless ``replies`` holds what is answered first; ``None`` there hangs up.

    received: the images of each request that reached the model. headers: of every request.
    """

    daemon_threads = True

    def __init__(self, model: Callable[[Tensor], Tensor], most: int = 1000) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.most = model, most
        self.replies: list[Reply | None] = []
        self.received: list[Tensor] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, body: bytes) -> Reply:
        content = json.loads(body)
        files = [b64decode(one, validate=True) for one in content["images"]]
        if len(files) > self.most:
            return 413, {}, b"too many"
        arrays = [np.array(Image.open(BytesIO(file))) for file in files]
        pixels = np.stack([one[None] if one.ndim == 2 else one.transpose(2, 0, 1) for one in arrays])
        images = torch.from_numpy(pixels).float() / 255
        self.received.append(images)
        return self.told(images, content)

    def told(self, images: Tensor, content: dict[str, Any]) -> Reply:
        with torch.no_grad():
            z = fixed_batch(self.model, images)
        return vectors(z.tolist())

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing is printed."""


class SearchServer(Server):
    """Answers with the ids of the nearest items, vectors (N, D) of the model."""

    items = torch.empty(0)

    def told(self, images: Tensor, content: dict[str, Any]) -> Reply:
        with torch.no_grad():
            found = by_torch(self.items, fixed_batch(self.model, images), min(content["k"], len(self.items)))[1]
        return ids(found.tolist())


def vectors(z: Any) -> Reply:
    return 200, {}, json.dumps({"embeddings": z}).encode()


def ids(found: Any) -> Reply:
    return 200, {}, json.dumps({"ids": found}).encode()


@contextmanager
def serving(model: Callable[[Tensor], Tensor], most: int = 1000) -> Iterator[Server]:
    with _running(Server(model, most)) as server:
        yield server


@contextmanager
def serving_search(model: Callable[[Tensor], Tensor], items: Tensor) -> Iterator[SearchServer]:
    server = SearchServer(model)
    server.items = items
    with _running(server):
        yield server


@contextmanager
def _running(server: Server) -> Iterator[Server]:
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and content go out together

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.headers.append(dict(self.headers))
        self.server.paths.append(self.path)
        reply = self.server.replies.pop(0) if self.server.replies else self.server.answer(body)
        if reply is None:
            self.close_connection = True
            return
        status, headers, content = reply
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""
