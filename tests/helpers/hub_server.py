"""The few endpoints of the Hugging Face Hub that fetching and uploading a folder need, on this machine alone."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

GATED = "own/gated"


class Hub(ThreadingHTTPServer):
    """Repositories by name: revisions by name, each the files by path; ``created``: what was asked of new ones."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.created: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.fetched: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, repository: str, revision: str) -> dict[str, bytes] | None:
        """By the name of a revision, or by its commit."""
        revisions = self.repositories.get(repository, {})
        return next((files for name, files in revisions.items() if revision in (name, commit(name))), None)


def commit(revision: str) -> str:
    return hashlib.sha1(revision.encode()).hexdigest()


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        if found := re.match(r"/api/models/(\w+/[\w.-]+)/(?:revision|tree)/([^/?]+)(\?|$)", self.path):
            self._about(found[1], found[2], "/tree/" in self.path)
        elif found := re.match(r"/(\w+/[\w.-]+)/resolve/(\w+)/(.+)", self.path):
            self._file(found[1], found[2], found[3])
        else:
            self._error(404, "")

    do_HEAD = do_GET  # noqa: N815

    def _about(self, repository: str, revision: str, tree: bool) -> None:
        files = self.server.files(repository, revision)
        if repository == GATED:
            self._error(403, "GatedRepo")
        elif repository not in self.server.repositories:
            self._error(401, "RepoNotFound")
        elif files is None:
            self._error(404, "RevisionNotFound")
        elif tree:
            self._json([{"type": "file", "path": k, "size": len(v), "oid": _tag(v)} for k, v in files.items()])
        else:
            names = [{"rfilename": name} for name in files]
            self._json({"id": repository, "sha": commit(revision), "siblings": names})

    def _file(self, repository: str, revision: str, name: str) -> None:
        content = (self.server.files(repository, revision) or {}).get(name)
        if content is None:
            self._error(404, "EntryNotFound")
            return
        if self.command == "GET":
            self.server.fetched.append(name)
        self._send(200, content, {"ETag": f'"{_tag(content)}"', "X-Repo-Commit": revision, "Accept-Ranges": "bytes"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            self.server.created.append(asked)
            name = f"{asked['organization']}/{asked['name']}"
            if name == GATED:
                return self._error(403, "")
            self.server.repositories.setdefault(name, {"main": {}})
            return self._json({"url": f"{self.server.address}/{name}", "name": name})
        if "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            return self._json(
                {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
            )
        if found := re.match(r"/api/models/(\w+/[\w.-]+)/commit/(\w+)", self.path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repositories[found[1]][found[2]][line["value"]["path"]] = content
            made = commit(found[2])
            where = f"{self.server.address}/{found[1]}/commit/{made}"
            return self._json({"success": True, "commitUrl": where, "commitOid": made})
        return self._error(404, "")

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": f"refused: {code}"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


def _tag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
