"""The thread in which the engine runs, and the way between it and the server's event loop.

Requests go in through a queue; after each step all that happened goes back to the loop in one call. The engine is
touched by this thread alone, so handlers never wait for it and it never waits for them. What else is to be done to it,
such as loading an adapter, goes in through the same queue and is done between two steps.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Generic, TypeVar

from underlay.errors import UserError
from underlay.generate import ParameterError, Reply, Request, ServingEngine, TokenEvent
from underlay.serve.errors import ApiError, refuse

STALLED = 60.0
"""Seconds without a step, while there is work, after which the engine counts as stuck."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Job:
    """Requests that came in one call, and what happens to them."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self.handles: list[Reply] = []
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

    def start(self, engine: ServingEngine) -> None:
        """Hand the requests to the engine; in its thread. Raises UserError at the first that it refuses."""
        for request in self.requests:
            self.handles.append(engine.submit(request))
        if self._cancelled:  # it may have come before there were handles
            self.cancel()

    def put(self, item: tuple[int, TokenEvent] | ApiError) -> None:
        """Pass on an event, or why there will be none; in the event loop."""
        self._events.put_nowait(item)


class _Errand(Generic[T]):
    """A function to be run in the engine's thread, and who waits for what it returns."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.function = function
        self.result: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def run(self) -> Callable[[], None]:
        """Run it; returns what tells the one who waits, to be called in the event loop."""
        try:
            value = self.function()
        except Exception as error:  # noqa: BLE001 - whoever waits is to hear of it, whatever it is
            failure = error  # the name goes with the clause
            return lambda: self._tell(lambda: self.result.set_exception(failure))
        return lambda: self._tell(lambda: self.result.set_result(value))

    def _tell(self, tell: Callable[[], None]) -> None:
        if not self.result.done():  # who waited may have gone
            tell()


class Worker:
    """Runs an engine in a thread of its own."""

    def __init__(self, engine: ServingEngine, queue_size: int) -> None:
        self.engine = engine
        self.capacity = engine.slots + queue_size
        """Most requests that may be on their way at the same time."""
        self.draining = False
        """Whether new requests are turned away because the server is about to stop."""
        self._open = 0
        self._inbox: queue.SimpleQueue[Job | _Errand[Any] | None] = queue.SimpleQueue()
        self._owners: dict[Reply, tuple[Job, int]] = {}
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

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function in the engine's thread, between two steps, and return what it returns; in the event loop.

        Raises what it raises, and ApiError 503 while the server stops.
        """
        if self.draining or not self.alive:
            raise ApiError(503, "the server is shutting down", "shutting_down")
        errand = _Errand(function)
        self._inbox.put(errand)
        return await errand.result

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
                item = self._inbox.get(block=not self._owners)
            except queue.Empty:
                return True
            if item is None:
                return False
            if isinstance(item, _Errand):
                self._call(lambda tell: tell(), item.run())
                continue
            try:
                item.start(self.engine)
            except Exception as error:  # noqa: BLE001 - a request that is refused must not end the server
                item.cancel()  # those before it, in the same call
                self._call(self._refused, (item, _refusal(error)))
            self._owners |= {handle: (item, number) for number, handle in enumerate(item.handles)}

    def _owner(self, event: TokenEvent) -> tuple[Job, int]:
        return self._owners.pop(event.handle) if event.finish else self._owners[event.handle]

    def _fail(self) -> None:
        jobs = {job: None for job, _ in self._owners.values()}
        for handle in self._owners:
            handle.cancel()
        self._owners.clear()
        self._call(self._failed, list(jobs))
        self.engine.step()  # lets go of the cancelled, and has nothing else to do

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

    def _failed(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._open -= job.open
            job.open = 0
            job.put(_failure())

    def _refused(self, refused: tuple[Job, ApiError]) -> None:
        job, error = refused
        self._open -= job.open - len(job.handles)
        job.open = len(job.handles)
        job.put(error)


def _refusal(error: Exception) -> ApiError:
    """What the client is told of a request that passed its check, but that the engine did not take after all."""
    if isinstance(error, ParameterError):  # such as an adapter that was unloaded meanwhile
        return refuse(error, "model" if error.parameter == "adapter" else None)
    if isinstance(error, UserError):
        return ApiError(400, str(error), "invalid_value")
    _log.error("the engine did not take a request", exc_info=error)
    return _failure()


def _failure() -> ApiError:
    return ApiError(500, "generation failed; the server's log tells more", "internal_error")
