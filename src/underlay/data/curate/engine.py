"""Where the work on stretches of a corpus is done: in this process, in several on this machine, or by Ray.

Results come in the order of the stretches, so what is made of them is the same everywhere.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

from underlay.data.corpus import Unit
from underlay.errors import UserError
from underlay.plan.machine import cores

R = TypeVar("R")
Setup = Callable[[], Callable[[Unit], R]]
"""Called once in each process; what it returns is called with each stretch. Both can be pickled."""
_WORTH_A_PROCESS = 8
"""Stretches for each further process: starting one takes seconds."""


class Engine(Protocol):
    """Works on stretches of a corpus."""

    def map(self, setup: Setup[R], units: Sequence[Unit]) -> Iterator[R]:
        """The results for all stretches, in their order."""


class Local:
    """As many processes on this machine as pay."""

    def __init__(self, processes: int | None = None) -> None:
        """Use that many; by default as many as there are processors, and fewer for little work."""
        self._processes = processes

    def map(self, setup: Setup[R], units: Sequence[Unit]) -> Iterator[R]:
        """The results for all stretches, in their order; only a few are held at once."""
        processes = self._processes or min(cores(), len(units) // _WORTH_A_PROCESS)
        if processes < 2:
            yield from map(setup(), units)
            return
        waiting: deque[Future[R]] = deque()
        with ProcessPoolExecutor(processes, get_context("spawn"), _begin, (setup,)) as pool:
            for unit in units:
                waiting.append(pool.submit(_work, unit))
                if len(waiting) > 2 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


_setup: list[Setup[Any]] = []
"""Of a process that works for `Local`."""


def _begin(setup: Setup[Any]) -> None:
    _setup[:] = [cache(setup)]  # called with the first stretch: what goes wrong in it is then told


def _work(unit: Unit) -> Any:
    return _setup[0]()(unit)


class Ray:
    """A Ray cluster, or this machine where none is named; the corpus must lie where all its machines can read it."""

    def __init__(self, address: str | None = None) -> None:
        """Join the cluster at `address`. Raises UserError where Ray is not installed or cannot be reached."""
        ray = _ray()
        if not ray.is_initialized():
            try:
                ray.init(address=address, log_to_driver=False, include_dashboard=False)
            except (ConnectionError, ValueError) as error:
                raise UserError(f"--engine ray: no cluster at {address}: {str(error).splitlines()[0]}") from error

    def map(self, setup: Setup[R], units: Sequence[Unit]) -> Iterator[R]:
        """The results for all stretches, in their order."""
        ray = _ray()
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        items = ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units))
        processes = max(1, min(len(units), int(ray.cluster_resources().get("CPU", 1)) - 1))
        results = items.map(_Remote, fn_constructor_args=(setup,), concurrency=processes)
        for row in results.iter_rows():
            yield row["result"]


def _ray() -> Any:
    """Ray, whose types are not known where it is not installed. Raises UserError where it is not."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("--engine ray: Ray is not installed; pip install 'underlay[ray]'") from error
    return ray


class _Remote:
    """A process of Ray's that works on stretches."""

    def __init__(self, setup: Setup[Any]) -> None:
        self._work = setup()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"result": self._work(row["unit"])}
