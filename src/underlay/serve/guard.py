"""What stands before every route: request ids, the key, the size of bodies, and no detail of a defect going out.

Without a key the server answers this machine alone: `serve` binds no other address, and requests that call it by
another name are refused, so that a web page cannot reach it through a name of its own (DNS rebinding). There are no
CORS headers: other sites cannot read what it says, and a JSON body needs their browser to ask first.
"""

import hashlib
import hmac
import logging
import re
import uuid

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from underlay.serve.errors import ApiError, internal

OPEN_PATHS = frozenset({"/", "/live", "/ready"})
"""Served without a key: the page holds nothing of the model's."""
LARGEST_BODY = 1 << 20
LARGEST_HEADER = 1 << 16
"""Bytes."""
_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_PORT = re.compile(r":\d+$")

_log = logging.getLogger(__name__)


class Guard:
    """The middleware."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self._app = app
        self._key = None if api_key is None else _digest(api_key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req-{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal.response()(scope, receive, send_with_headers)
            return
        try:
            await self._app(scope, _capped(receive), send_with_headers)
        except Exception:
            _log.exception("request %s failed", request_id)
            if started:
                raise
            await internal(request_id).response()(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        if self._key is None:
            if _PORT.sub("", headers.get("host", "")).lower() not in _OWN_NAMES:
                return ApiError(403, "this server has no API key, so it answers its own machine alone", "wrong_host")
        elif scope["path"] not in OPEN_PATHS:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if not (scheme.lower() == "bearer" and hmac.compare_digest(_digest(given.encode("latin-1")), self._key)):
                message = "no valid API key; send it as 'Authorization: Bearer KEY'"
                return ApiError(401, message, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        if sum(len(key) + len(value) for key, value in scope["headers"]) > LARGEST_HEADER:
            return ApiError(431, f"the headers are larger than {LARGEST_HEADER} bytes", "headers_too_large")
        return None


def _digest(secret: bytes) -> bytes:
    # Digests are of one length, so that the comparison tells nothing about the key's.
    return hashlib.sha256(secret).digest()


def _capped(receive: Receive) -> Receive:
    """Refuse a body once it is too large, whatever length it was said to have."""
    read = 0

    async def receive_some() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read <= LARGEST_BODY:
            return message
        # A client that is still sending would not hear the answer: let it send some more, and keep none of it.
        while message.get("more_body") and read < 16 * LARGEST_BODY:
            message = await receive()
            read += len(message.get("body", b""))
        raise HTTPException(413, f"the body is larger than {LARGEST_BODY} bytes")

    return receive_some
