"""The page and what it asks for, as a Starlette application."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from secrets import token_urlsafe
from typing import Annotated, Any, NotRequired

from pydantic import Field, StrictFloat, StrictStr
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp
from typing_extensions import TypedDict

from holdfast.evaluation.settings import AttackSettings, resolve_settings
from holdfast.explorer import uploads
from holdfast.explorer.attacking.course import budget
from holdfast.explorer.attacking.offers import BUDGET, OFFERS, attack, settled
from holdfast.explorer.attacking.pictures import png
from holdfast.explorer.attacking.query import clean
from holdfast.explorer.guard import Guard
from holdfast.explorer.jobs import BusyError, Job, Jobs
from holdfast.explorer.scene import Query, Scene
from holdfast.util.errors import HoldfastError
from holdfast.util.validate import OneOf, Whole, fit, parse_json

STATIC = Path(str(files("holdfast.explorer"))) / "static"
PAGE = 48
"""Images on one page of the gallery."""

STEPS = 1000
"""Of one attack, at most."""

SMALL = 2**14
"""Bytes of a request that is no upload."""

CLIENT = "x-holdfast-client"
STATUS: dict[type[Exception], int] = {BusyError: 409, uploads.TooLargeError: 413}

Levels = Annotated[StrictFloat, Field(ge=0, le=255)]


class AttackRequest(TypedDict):
    """What ``POST /api/attacks`` takes; ``eps`` and ``step`` in units of 1/255."""

    query: StrictStr
    attack: Annotated[str, OneOf(OFFERS)]
    label: NotRequired[Whole | None]
    template: NotRequired[StrictStr | None]
    eps: NotRequired[Levels]
    step: NotRequired[Levels]
    steps: NotRequired[Annotated[Whole, Field(le=STEPS)]]
    seed: NotRequired[Whole]


class Site:
    """The answers to what the page asks for."""

    def __init__(self, scene: Scene, jobs: Jobs) -> None:
        self.scene, self.jobs = scene, jobs
        self.uploads: uploads.Shelf[Query] = uploads.Shelf()
        self.key = token_urlsafe(6)  # in the addresses of images, so that a browser keeps none of another scene
        self.defaults = resolve_settings(scene.table.family)

    def page(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    def about(self, request: Request) -> Response:
        scene = self.scene
        return JSONResponse(
            {
                "key": self.key,
                "data": scene.table.name,
                "size": scene.pixels.size,
                "queries": len(scene.rows),
                "gallery": len(scene.system.gallery.ids),
                "classes": list(scene.labels.items()),
                "models": [{"name": model.name, "about": model.about} for model in scene.models],
                "index": scene.index,
                "attacks": [
                    offer.plain(name) for name, offer in OFFERS.items() if offer.indexed or scene.index is None
                ],
                "defaults": budget(self.defaults),
                "limits": {"bytes": uploads.BYTES, "steps": STEPS, "page": PAGE},
            }
        )

    def images(self, request: Request) -> Response:
        page = _whole(request.query_params.get("page", "0"), "page")
        rows = self.scene.search(request.query_params.get("search", "")[:200])
        shown = [self.scene.about(row) for row in rows[PAGE * page : PAGE * (page + 1)]]
        return JSONResponse({"images": shown, "total": len(rows), "page": page, "pages": -(-len(rows) // PAGE)})

    def image(self, request: Request) -> Response:
        return _png(png(self.scene.read(request.path_params["row"])))

    def query(self, request: Request) -> Response:
        query = self._query(request.path_params["key"], request.query_params.get("label"))
        found = clean(self.scene, query)
        return JSONResponse({"label": query.label, "class": self.scene.title(query.label), "models": found})

    async def upload(self, request: Request) -> Response:
        data = await uploads.body(request.stream())
        return JSONResponse(await run_in_threadpool(self._take, data))

    def uploaded(self, request: Request) -> Response:
        query = self.uploads.get(request.path_params["name"])
        if query is None:
            raise HTTPException(404, "this upload is no longer kept: upload it again")
        return _png(png(query.image))

    async def attack(self, request: Request) -> Response:
        body = await uploads.body(request.stream(), SMALL)
        asked = fit(AttackRequest, parse_json(body, "the request"), "the request")
        query = await run_in_threadpool(self._query, asked["query"], asked.get("label"))
        resolved = self._budget(asked, await run_in_threadpool(self._template, asked.get("template")))
        scene = self.scene
        job = self.jobs.submit(_client(request), lambda tell: attack(scene, query, resolved, tell))
        return JSONResponse(self._described(job), 202)

    def job(self, request: Request) -> Response:
        return JSONResponse(self._described(self._job(request)))

    def cancel(self, request: Request) -> Response:
        job = self._job(request)
        if job.client != _client(request):
            raise HTTPException(403, "this attack is another page's")
        self.jobs.cancel(job)
        return JSONResponse(self._described(job))

    def leave(self, request: Request) -> Response:
        self.jobs.leave(_client(request))
        return JSONResponse({})

    def result(self, request: Request) -> Response:
        job, name = self._job(request), request.path_params["name"]
        files = job.result.files if job.result else {}
        if name not in files:
            raise HTTPException(404, "there is no such image")
        return _png(files[name])

    def _take(self, data: bytes) -> dict[str, Any]:
        seen, size, remarks = uploads.taken(data, self.scene.pixels)
        query, nearest = self.scene.ask_with(seen)
        return {
            "key": f"upload-{self.uploads.add(query)}",
            "label": query.label,
            "class": self.scene.title(query.label),
            "nearest": self.scene.about(nearest),
            "remarks": remarks,
            "pixels": list(size),
        }

    def _query(self, key: str, label: Any) -> Query:
        if not key.startswith("upload-"):
            return self.scene.ask(_whole(key, "image"))
        query = self.uploads.get(key.removeprefix("upload-"))
        if query is None:
            raise HoldfastError("this upload is no longer kept: upload it again")
        if label is None:
            return query
        chosen = _whole(label, "class")
        if chosen not in self.scene.labels:
            raise HoldfastError(f"the gallery has no class {chosen}")
        return replace(query, label=chosen)

    def _template(self, key: str | None) -> Query | None:
        """The image that another is compared with; an upload has an id beside that of the other."""
        if key is None:
            return None
        found = self._query(key, None)
        return replace(found, id=found.id + 1) if key.startswith("upload-") else found

    def _budget(self, asked: AttackRequest, template: Query | None) -> AttackSettings:
        given: dict[str, Any] = {key: value for key, value in asked.items() if key in BUDGET}
        given |= {key: given[key] / 255 for key in ("eps", "step") if key in given}
        return settled(asked["attack"], self.scene.table.family, given, template)

    def _job(self, request: Request) -> Job:
        job = self.jobs.find(request.path_params["job"])
        if job is None:
            raise HTTPException(404, "this attack is no longer kept: attack again")
        return job

    def _described(self, job: Job) -> dict[str, Any]:
        return {
            "id": job.id,
            "state": job.state,
            "position": self.jobs.position(job),
            "progress": job.progress,
            "message": job.message,
            "result": job.result.report if job.result else None,
        }


def application(scene: Scene, jobs: Jobs, *, loopback: bool = True) -> ASGIApp:
    """The application that serves a scene. loopback: it listens on this machine only."""
    site = Site(scene, jobs)
    routes = [
        Route("/", site.page),
        Route("/api/scene", site.about),
        Route("/api/images", site.images),
        Route("/api/queries/{key}", site.query),
        Route("/api/uploads", site.upload, methods=["POST"]),
        Route("/api/attacks", site.attack, methods=["POST"]),
        Route("/api/jobs/{job}", site.job),
        Route("/api/jobs/{job}/cancel", site.cancel, methods=["POST"]),
        Route("/api/leave", site.leave, methods=["POST"]),
        Route("/images/{row:int}.png", site.image),
        Route("/uploads/{name}.png", site.uploaded),
        Route("/results/{job}/{name}.png", site.result),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    handlers = dict.fromkeys((HoldfastError, HTTPException, ClientDisconnect, Exception), _failed)
    return Guard(Starlette(routes=routes, exception_handlers=handlers), loopback)


def _failed(request: Request, error: Exception) -> Response:
    status, said = 500, "something broke here; the terminal that serves this page says more"
    if isinstance(error, HTTPException):
        status, said = error.status_code, error.detail
    elif isinstance(error, HoldfastError | ClientDisconnect):
        status, said = STATUS.get(type(error), 400), str(error)
    return JSONResponse({"error": said}, status)


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})


def _client(request: Request) -> str:
    name = request.headers.get(CLIENT, "")
    if not 8 <= len(name) <= 64:
        raise HoldfastError(f"the header {CLIENT} names the page that asks, in 8 to 64 characters")
    return name


def _whole(value: Any, what: str) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise HoldfastError(f"{what} is a whole number, not {text[:40]!r}")
    return int(text)
