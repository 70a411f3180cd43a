"""A search on this machine that answers images with ids, to be attacked by its answers alone.

    python examples/search_server.py zoo:digits-none-r --port 8000
    holdfast attack --search http://127.0.0.1:8000/search --data digits --eps 0.2 --attack rank-feedback --budget 300

The items are the gallery of the model's test set, or of ``--data`` and ``--root``; their ids are their places in it,
from 0. ``--save FILE`` writes them as a faiss file as well, for ``--search faiss:FILE``.
"""

import argparse
import json
from base64 import b64decode
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from holdfast.core.batching import fixed_batch
from holdfast.data import Pixels
from holdfast.models.embedding import embed_dataset
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.search.nearest import by_torch
from holdfast.util.extras import require

Search = Callable[[Tensor, int], list[list[int]]]


class Server(ThreadingHTTPServer):
    """Answers ``{"images": [PNG in base64, …], "k": 10}`` with ``{"ids": [[3, 17, …], …]}``."""

    def __init__(self, search: Search, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.search, self.lock = search, Lock()


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        arrays = [np.array(Image.open(BytesIO(b64decode(one)))) for one in body["images"]]
        pixels = np.stack([one[None] if one.ndim == 2 else one.transpose(2, 0, 1) for one in arrays])
        try:
            with self.server.lock:
                ids = self.server.search(torch.from_numpy(pixels).float() / 255, body["k"])
            status, answer = 200, json.dumps({"ids": ids}).encode()
        except ValueError as error:  # images that the model does not take
            status, answer = 400, str(error).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


def search_in(embed: Callable[[Tensor], Tensor], pixels: Pixels) -> tuple[Search, Tensor]:
    """An exact search in the gallery of a test set, and the vectors of its items."""
    items = embed_dataset(embed, pixels, torch.device("cpu")).gallery.embeddings

    def search(images: Tensor, k: int) -> list[list[int]]:
        with torch.no_grad():
            rows = by_torch(items, fixed_batch(embed, images), min(k, len(items)))[1]
        return [[int(row) for row in near] for near in rows]

    return search, items


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="as of 'holdfast evaluate'")
    parser.add_argument("--data", help="data set; by default that of the model's run")
    parser.add_argument("--root", type=Path, help="where it lies")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--save", type=Path, help="write the items as a faiss file as well")
    options = parser.parse_args(arguments)
    model = open_model(options.model)
    search, items = search_in(model.embed, load_test_set(model, data=options.data, root=options.root))
    if options.save:
        faiss = require("faiss", "faiss")
        index = faiss.IndexFlatL2(items.shape[1])
        index.add(items.numpy())
        faiss.write_index(index, str(options.save))
    server = Server(search, options.port)
    print(f"{len(items):,} items at http://127.0.0.1:{server.server_port}/search; Ctrl+C ends it", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
