"""A connection or request → whether it may speak: loopback, our own page, the token, not for ever idle."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MOST_STRANGERS = 128  # connections that have shown no token
STRANGER_S = 10.0
_PROTOCOL = "token."  # a browser can send no header with a WebSocket, but a subprotocol
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Door:
    """Lets in who knows the token; keeps few connections of others, and none for long.

    Attributes:
        token: made anew by every console.
    """

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(24)
        self._strangers: dict[Any, float] = {}  # protocol → when it came, the oldest first

    def greet(self, server: web.Server) -> asyncio.Protocol:
        """Make the protocol of a new connection; the oldest stranger makes room for it."""
        protocol = server()
        while len(self._strangers) >= MOST_STRANGERS:
            self._show_out(next(iter(self._strangers)))
        self._strangers[protocol] = time.monotonic()
        return protocol

    def tidy(self) -> None:
        """Close the connections that have shown no token in time."""
        now_s = time.monotonic()
        for protocol, came_s in list(self._strangers.items()):
            is_closed = protocol.transport is None and now_s - came_s > 1.0
            if is_closed or now_s - came_s > STRANGER_S:
                self._show_out(protocol)

    def _show_out(self, protocol: Any) -> None:
        self._strangers.pop(protocol, None)
        if protocol.transport is not None:
            protocol.transport.abort()

    def knows(self, request: web.Request) -> bool:
        """Whether a request holds the token, as a bearer or as a WebSocket's subprotocol."""
        given = [request.headers.get("Authorization", "").removeprefix("Bearer ")]
        protocols = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        given += [p.strip().removeprefix(_PROTOCOL) for p in protocols]
        is_known = any(hmac.compare_digest(g.encode("utf-8", "surrogateescape"), self.token.encode()) for g in given)
        if is_known:
            self._strangers.pop(request.protocol, None)
        return is_known

    def middleware(self) -> Any:
        """Check each request, and give each answer the headers that keep other pages out."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            refusal = self._refusal(request)
            try:
                response = refusal or await handler(request)
            except web.HTTPException as error:
                response = problem(error.status, error.text or error.reason)
            if not response.prepared:
                response.headers.update(HEADERS)
            return response

        return check

    def _refusal(self, request: web.Request) -> web.Response | None:
        if request.host.rpartition(":")[0] not in LOOPBACK and request.host not in LOOPBACK:
            return problem(403, "this console answers on 127.0.0.1 only")
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"http://{request.host}":
            return problem(403, "another site's page may not speak to this console")
        if request.path.startswith("/api/") and not self.knows(request):
            return problem(401, "the token is wrong; open the address that the console printed when it started")
        return None


def subprotocols(request: web.Request) -> tuple[str, ...]:
    """The subprotocol that a WebSocket's answer repeats, or the browser closes it."""
    return tuple(p.strip() for p in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if p.strip())


def problem(status: int, text: str) -> web.Response:
    """Make an answer that says what is wrong."""
    return web.json_response({"error": text}, status=status)
