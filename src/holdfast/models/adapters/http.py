"""``http://host/path``: an endpoint that takes images and answers vectors, and gives no gradients.

One request is a POST of JSON, ``{"images": ["…", …]}``, each image a PNG of 8 bits in base64, grey or RGB. The answer
is JSON as well, ``{"embeddings": [[0.1, …], …]}``: one vector for each image, in their order, all of one length.
"""

import json
import os
import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from email.message import Message
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from io import BytesIO
from pathlib import Path
from ssl import SSLCertVerificationError
from time import monotonic, sleep
from typing import Annotated, Any
from urllib.parse import urlsplit

import numpy as np
import torch
from pydantic import Field, StrictFloat
from torch import Tensor
from typing_extensions import TypedDict

from holdfast.data.pixels import to_image
from holdfast.models.adapters.base import OpenedModel, named
from holdfast.util.errors import HoldfastError, brief, printable, shown
from holdfast.util.text import counted
from holdfast.util.validate import check, parse_json

MOST = 64
"""Images in a request; half of them wherever the endpoint answers 413."""
SECONDS = 60.0
"""That an answer may take."""
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try, where the endpoint fails or is busy."""
PATIENCE = 60.0
"""Seconds that are waited at most where it says how long it is busy."""
BYTES_PER_IMAGE = 2**20
"""Of an answer."""
TOKEN = "HOLDFAST_TOKEN"
"""The environment variable whose value is sent as a bearer token."""
REMARK = "images are sent as PNGs of 8 bits: pixels, and so perturbations, are whole multiples of 1/255"


class _Answer(TypedDict):
    embeddings: list[Annotated[list[Annotated[StrictFloat, Field(ge=-1e30, le=1e30)]], Field(min_length=1)]]


class Endpoint:
    """Images (n, C, H, W) in [0, 1] to the vectors (n, D) that an endpoint answers with, float32, on the CPU.

    Pixels are rounded to multiples of 1/255. Images that are the same within a call are sent once.
    """

    eight_bits = True
    exact = False

    def __init__(self, address: str) -> None:
        wrong = HoldfastError(f"{shown(address)} is no address: give http://host:port/path or https://host/path")
        try:
            parts = urlsplit(address)
            port = parts.port
        except ValueError:
            raise wrong from None
        if not parts.hostname or port == 0 or not re.fullmatch(r"[!-~]+", address):
            raise wrong
        if parts.username is not None:
            raise HoldfastError(f"an address has no user and password in it: give a token as {TOKEN}")
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self.name = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self.path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.connection = kind(parts.hostname, port, timeout=SECONDS)
        self.most = MOST

    def __call__(self, images: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, D)."""
        files = [png(image) for image in images.detach()]
        new = list(dict.fromkeys(files))
        found = dict(zip(new, self.ask(new, _Answer, "embeddings"), strict=True))
        widths = {len(vector) for vector in found.values()}
        if len(widths) > 1:
            raise HoldfastError(f"{self.name} answers with vectors of {min(widths)} and of {max(widths)} numbers")
        return torch.from_numpy(np.array([found[file] for file in files], np.float32))

    def ask(self, files: list[bytes], kind: Any, name: str, **more: Any) -> Iterator[Any]:
        """What the endpoint answers to each of some PNGs, in their order, request by request.

        An answer is a ``kind``, which holds one value for each image under ``name``. more: what else a request says.
        """
        said = f"{self.name} does not answer with {name}"
        while files:
            part = files[: self.most]
            answer = self._ask(part, more)
            if answer is None:
                self.most = len(part) // 2
                continue
            content = parse_json(answer, f"what {self.name} answers", _refused)
            check(kind, content, said)
            if len(content[name]) != len(part):
                raise HoldfastError(f"{said}: there are {len(content[name])} for {counted(len(part), 'image')}")
            yield from content[name]
            files = files[len(part) :]

    def _ask(self, files: list[bytes], more: dict[str, Any]) -> bytes | None:
        """The answer, after as many tries as it takes; None where there are too many images in the request."""
        body = json.dumps({"images": [b64encode(file).decode() for file in files], **more}).encode()
        for wait in (*WAITS, None):
            asked = 0.0
            try:
                status, headers, answer = self._post(body, BYTES_PER_IMAGE * len(files))
            except (OSError, HTTPException) as error:
                self.connection.close()
                if isinstance(error, SSLCertVerificationError):
                    raise HoldfastError(f"{self.name} has no certificate to trust ({brief(error)})") from error
                fault = brief(error)
            else:
                if status == 200:
                    return answer
                if status == 413 and len(files) > 1:
                    return None
                fault = self._refusal(status, headers, answer)
                asked = min(PATIENCE, _seconds(headers))
            if wait is not None:
                sleep(max(wait, asked))
        raise HoldfastError(
            f"{self.name} gives no answer in {counted(len(WAITS) + 1, 'try', 'tries')} ({fault}): is it running?"
        )

    def _refusal(self, status: int, headers: Message, answer: bytes) -> str:
        """What the endpoint says in place of an answer. Raises HoldfastError where it would say so again."""
        text = printable(" ".join(answer[:500].decode(errors="replace").split()))[:200]
        said = f"status {status}{f': {text}' if text else ''}"
        if 300 <= status < 400:
            place = printable(headers.get("Location", "nowhere"))[:200]
            raise HoldfastError(f"{self.name} sends us on to {place}: give that address, if you trust it")
        if status != 429 and status < 500:
            raise HoldfastError(f"{self.name} refuses the images ({said})")
        return said

    def _post(self, body: bytes, most: int) -> tuple[int, Message, bytes]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token := os.environ.get(TOKEN, "").strip():
            if not re.fullmatch(r"[!-~]+", token):
                raise HoldfastError(f"{TOKEN} is no token: it has characters that cannot be sent")
            headers["Authorization"] = f"Bearer {token}"
        until = monotonic() + SECONDS
        self.connection.request("POST", self.path, body, headers)
        response = self.connection.getresponse()
        answer = self._read(response, most, until)
        response.close()  # so that the connection can be used again
        return response.status, response.headers, answer

    def _read(self, response: HTTPResponse, most: int, until: float) -> bytes:
        parts, size = [], 0
        while part := response.read1(2**16):
            parts.append(part)
            size += len(part)
            if size > most:
                self.connection.close()
                raise HoldfastError(f"{self.name} answers with more than {most:,} bytes")
            if monotonic() > until:
                raise TimeoutError(f"an answer takes more than {SECONDS:g} s")
        return b"".join(parts)


def open_http(word: str, weights: Path | None = None, best: bool = False) -> OpenedModel:
    """An endpoint does not say what size it takes: the data set or ``--size`` does. Nothing is asked of it yet.

    Raises HoldfastError for what is no address. What stands behind a ``?`` is sent, and kept in no result.
    """
    if weights is not None:
        raise HoldfastError(f"{word} has its own weights; leave out {weights}")
    endpoint = Endpoint(word)
    opened = named(endpoint.name, endpoint, None, None)
    name = opened.name.removeprefix("https---").removeprefix("http---")
    return replace(opened, name=name, black_box=True, remarks=(REMARK,))


def png(image: Tensor) -> bytes:
    """An image (C, H, W) in [0, 1] as a PNG of 8 bits."""
    file = BytesIO()
    to_image(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _seconds(headers: Message) -> float:
    """How long an endpoint asks to be left alone."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isdecimal() and len(text) < 10 else 0.0
