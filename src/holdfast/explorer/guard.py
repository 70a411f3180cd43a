"""What stands between the page and the rest of the web: which requests are answered, and what answers carry."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
SAFE = ("GET", "HEAD")


class Guard:
    """An application behind checks of Host and Origin; no answer may be read by, or shown in, a page of another origin.

    loopback: it listens on this machine only, so that a request naming another host comes from a page whose name was
    made to point here (DNS rebinding), and is refused. What changes something must come from the page itself.
    """

    def __init__(self, app: ASGIApp, loopback: bool) -> None:
        self.app, self.loopback = app, loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        app = self.app if refusal is None else JSONResponse({"error": refusal}, 403)
        await app(scope, receive, sealed)

    def _refusal(self, method: str, headers: Headers) -> str | None:
        host = headers.get("host", "")
        if self.loopback and not is_loopback(_name(host)):
            return f"this server listens on this machine only and does not answer to the host {host!r}"
        if method not in SAFE and (not host or _place(headers.get("origin", "")) != host):
            return "only the page itself may ask for this"
        return None


def is_loopback(name: str) -> bool:
    """Whether a host name or address is this machine's own for certain."""
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """The host of a Host header, lower case, without port and brackets; empty where it is no such thing."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _place(origin: str) -> str:
    """``host:port`` of an origin."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
