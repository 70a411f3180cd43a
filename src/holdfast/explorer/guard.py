"""What stands between the page and the rest of the web: which requests are answered, and what answers carry."""

from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
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
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
NOT_OURS = JSONResponse({"error": "only the page itself may ask for this"}, 403)


class Guard:
    """An application behind checks of Host and Origin; no answer may be read by, or shown in, a page of another origin.

    loopback: it listens on this machine only, so that a request naming a host other than this machine or the address
    it reached comes from a page whose name was made to point here (DNS rebinding), and is refused. What changes
    something must come from the page itself.
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
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        app = self.app if scope["method"] in SAFE or _own(Headers(scope=scope)) else NOT_OURS
        if self.loopback:
            app = TrustedHostMiddleware(app, [*LOOPBACK, scope["server"][0]], www_redirect=False)
        await app(scope, receive, sealed)


def is_loopback(name: str) -> bool:
    """Whether a host name or address is this machine's own for certain."""
    with suppress(ValueError):
        return name == "localhost" or ip_address(name).is_loopback
    return False


def _own(headers: Headers) -> bool:
    """Whether a request comes from a page of the host it names."""
    with suppress(ValueError):
        origin = urlsplit(headers.get("origin", "")).netloc
        return origin != "" and origin == headers.get("host")
    return False
