"""The thread in which the engine runs, and the way between it and the server's event loop.

Requests go in through a queue; after each step all that happened goes back to the loop in one call. The engine is
touched by this thread alone, so handlers never wait for it and it never waits for them.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from underlay.generate import Engine, Handle, ParameterError, Request, TokenEvent
from underlay.serve.errors import ApiError, refuse

STALLED = 60.0
"""Seconds without a step, while there is work, after which the engine counts as stuck."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Job:
    """Requests that came in one call, and what happens to them."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self.handles: list[Handle] = []
        self.open = len(requests)
        """Requests that have not ended yet."""
        self._events: asyncio.Queue[tuple[int, TokenEvent] | ApiError] = asyncio.Queue()
        self._cancelled = False

    async def events(self) -> AsyncIterator[tuple[int, TokenEvent]]:
        """What happens, as (number of the request, event), until all have ended. Raises ApiError where they cannot."""
        ended = 0
        while ended < len(self.requests):
            item = await self._events.get()
            if isinstance(item, ApiError):
                raise item
            if item[1].finish == "cancelled":
                raise ApiError(503, "the server is shutting down", "shutting_down")
            if item[1].finish == "failed":
                raise ApiError(500, f"the answer failed: {item[1].handle.error}", "generation_failed")
            ended += item[1].finish is not None
            yield item

    def cancel(self) -> None:
        """Free what the requests hold within one step; harmless once they have ended."""
        self._cancelled = True
        for handle in self.handles:
            handle.cancel()

    def start(self, engine: Engine) -> None:
        """Hand the requests to the engine; in its thread. Raises what the engine does; `handles` are those it took."""
        for request in self.requests:
            self.handles.append(engine.submit(request))
        if self._cancelled:  # it may have come before there were handles
            self.cancel()

    def put(self, item: tuple[int, TokenEvent] | ApiError) -> None:
        """Pass on an event, or a failure; in the event loop."""
        self._events.put_nowait(item)


class Worker:
    """Runs an engine in a thread of its own."""

    def __init__(self, engine: Engine, queue_size: int) -> None:
        self.engine = engine
        self.capacity = engine.slots + queue_size
        """Most requests that may be on their way at the same time."""
        self.draining = False
        """Whether new requests are turned away because the server is about to stop."""
        self._open = 0
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._owners: dict[Handle, tuple[Job, int]] = {}
        self._last_step = time.monotonic()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def ready(self) -> bool:
        """Whether a request sent now would be answered."""
        stuck = self._open > 0 and time.monotonic() - self._last_step > STALLED
        return self.alive and not self.draining and not stuck

    def start(self) -> None:
        """Begin; in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Cancel what is under way and end the thread."""
        self.draining = True
        self._inbox.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def submit(self, requests: Sequence[Request]) -> Job:
        """Queue requests, which `engine.check` has let pass; in the event loop.

        Raises ApiError 503 while the server stops, 429 where the queue is full.
        """
        if self.draining or not self.alive:
            raise ApiError(503, "the server is shutting down", "shutting_down")
        if self._open + len(requests) > self.capacity:
            raise ApiError(429, "too many requests are waiting; try again", "queue_full", headers={"Retry-After": "1"})
        if self._open == 0:
            self._last_step = time.monotonic()  # idle is not stuck
        self._open += len(requests)
        job = Job(requests)
        self._inbox.put(job)
        return job

    def _run(self) -> None:
        while self._receive():
            try:
                events = self.engine.step()
            except Exception:  # noqa: BLE001 - it is logged, and told to the clients
                # One defect must not end the server: what was under way fails, the next request finds an empty engine.
                _log.exception("the engine failed")
                self._fail()
                continue
            self._last_step = time.monotonic()
            if events:
                self._call(self._deliver, [(*self._owner(event), event) for event in events])
        for handle in self._owners:
            handle.cancel()
        self._call(self._deliver, [(*self._owner(event), event) for event in self.engine.step()])

    def _receive(self) -> bool:
        """Take in what has come, waiting for it where there is nothing to do. False: it is time to stop."""
        while True:
            try:
                job = self._inbox.get(block=not self._owners)
            except queue.Empty:
                return True
            if job is None:
                return False
            try:
                job.start(self.engine)
            except ParameterError as error:  # what could be honoured when it was checked may not be any more
                self._refuse(job, refuse(error))
            except Exception:  # noqa: BLE001 - it is logged, and told to the client
                _log.exception("the engine took no request")
                self._refuse(job, _broken())
            self._owners |= {handle: (job, number) for number, handle in enumerate(job.handles)}

    def _owner(self, event: TokenEvent) -> tuple[Job, int]:
        return self._owners.pop(event.handle) if event.finish else self._owners[event.handle]

    def _refuse(self, job: Job, error: ApiError) -> None:
        """Let go of a job that the engine did not take, or not wholly."""
        job.cancel()
        self._call(self._refused, (job, len(job.requests) - len(job.handles), error))

    def _fail(self) -> None:
        jobs = {job: None for job, _ in self._owners.values()}
        for handle in self._owners:
            handle.cancel()
        self._owners.clear()
        self.engine.step()  # lets go of the cancelled, and has nothing else to do
        self._call(self._failed, list(jobs))

    def _call(self, function: Callable[[T], None], argument: T) -> None:
        """Run a function in the event loop."""
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, argument)

    def _deliver(self, batch: list[tuple[Job, int, TokenEvent]]) -> None:
        for job, number, event in batch:
            if event.finish is not None:
                job.open -= 1
                self._open -= 1
            job.put((number, event))

    def _refused(self, refused: tuple[Job, int, ApiError]) -> None:
        job, never_taken, error = refused
        job.open -= never_taken
        self._open -= never_taken
        job.put(error)

    def _failed(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._open -= job.open
            job.open = 0
            job.put(_broken())


def _broken() -> ApiError:
    return ApiError(500, "generation failed; the server's log tells more", "internal_error")
