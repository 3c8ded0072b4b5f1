"""Listening: which addresses may be bound, and how to stop without dropping what is under way."""

import ipaddress
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from underlay.errors import UserError
from underlay.serve.guard import LARGEST_HEADER
from underlay.serve.worker import Worker

GRACE = 30
"""Seconds that answers under way are given to end."""


class Server(uvicorn.Server):
    """Turns new requests away once told to stop, and ends with the last answer; a second Ctrl-C ends it at once."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                h11_max_incomplete_event_size=LARGEST_HEADER,
                timeout_graceful_shutdown=GRACE,
                server_header=False,
                log_level="warning",
            )
        )
        self._worker: Worker = app.state.worker

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop."""
        self._worker.draining = True
        super().handle_exit(sig, frame)


def listen(app: FastAPI, host: str, port: int) -> socket.socket:
    """Bind an address. Raises UserError where it is taken, or open to others while the app has no API key."""
    if not (app.state.has_key or _loopback(host)):
        raise UserError(f"host {host}: others could reach this server; give it an API key, or bind 127.0.0.1")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on {host}, port {port}: {getattr(error, 'strerror', None) or error}") from error


def serve(
    app: FastAPI, host: str = "127.0.0.1", port: int = 8000, listening: Callable[[str], None] | None = None
) -> None:
    """Serve until Ctrl-C or SIGTERM; port 0 takes any that is free. `listening` is told the URL.

    Raises UserError where the address cannot be bound, or should not be.
    """
    bound = listen(app, host, port)
    if listening is not None:
        shown = f"[{host}]" if ":" in host else host
        listening(f"http://{shown}:{bound.getsockname()[1]}/")
    with bound:
        Server(app).run(sockets=[bound])


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
