"""Map a function over items: in this process, or as Ray tasks of one core each.

The results are those of the plain loop, in the order of the items. A task whose process or node dies is run again
elsewhere; an error that the function raises is not tried again and is raised here as the loop would raise it.

::

    with open_tasks(TaskCluster(workers=4)) as tasks:
        squares = tasks.map(square, range(100))
"""

from __future__ import annotations

import contextlib
import itertools
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Final, NamedTuple, TypeVar

from lineside_converters.cluster.connection import connect
from lineside_converters.settings import CheckedSettings
from lineside_runtime.errors import ClusterError, LinesideError

T = TypeVar("T")
R = TypeVar("R")


class TaskCluster(CheckedSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Cores that tasks run on.

    Attributes:
        workers: Tasks that run at once at most, each on a core of its own.
        address: Of a Ray cluster: ``auto``, ``host:port`` or ``ray://host:port``; empty starts Ray on this machine.
            Every node must reach data and bundles by the same path.
        max_failures: How often a task is run again after its process or node has died.
    """

    workers: int
    address: str = ""
    max_failures: int = 3

    def __post_init__(self) -> None:
        self._check("workers", self.workers >= 1, "1 or more")
        self._check("max_failures", self.max_failures >= 0, "0 or more")


class TaskRunner:
    """Runs tasks one after the other in this process.

    Attributes:
        workers: Tasks that run at once.
    """

    workers: int = 1

    def map(
        self, function: Callable[[T], R], items: Sequence[T], *, on_done: Callable[[int, R], None] = lambda *_: None
    ) -> list[R]:
        """Returns the function's result for each item, in the order of the items.

        Args:
            function: Of one item. It is pickled for a cluster, once, with what it is bound to; its results and the
                items too. It must not depend on what another item's call has left in the process.
            on_done: Told the number of an item and its result, in the order in which they are finished, in this thread.

        Raises:
            LinesideError: As the function does.
            ClusterError: A task's process or node died more often than is allowed.
        """
        found = []
        for number, item in enumerate(items):
            found.append(function(item))
            on_done(number, found[-1])
        return found

    def parts(self, count: int) -> list[range]:
        """Returns consecutive ranges that divide ``count`` items among the workers, several for each."""
        pieces = min(count, 1 if self.workers == 1 else self.workers * PARTS_PER_WORKER)
        bounds = [count * piece // pieces for piece in range(pieces + 1)] if pieces else []
        return [range(begin, end) for begin, end in itertools.pairwise(bounds)]


PARTS_PER_WORKER = 3
"""More even the load of workers of different speed; each costs the opening of a bundle."""

ALONE: Final = TaskRunner()
"""No cluster."""


class _Failure(NamedTuple):
    """Error of a task, with its traceback there."""

    error: LinesideError
    trace: str


class RayTaskRunner(TaskRunner):
    """Runs tasks on Ray."""

    def __init__(self, ray: Any, cluster: TaskCluster) -> None:
        self._ray, self.workers = ray, cluster.workers
        # no retry after the function's own error: it would end so again
        self._call = ray.remote(_call).options(
            num_cpus=1, max_retries=cluster.max_failures, retry_exceptions=False, scheduling_strategy="SPREAD"
        )

    def map(
        self, function: Callable[[T], R], items: Sequence[T], *, on_done: Callable[[int, R], None] = lambda *_: None
    ) -> list[R]:
        """Returns the function's result for each item; see `TaskRunner.map`."""
        shared = self._ray.put(function)
        found: dict[int, R] = {}
        running: dict[Any, int] = {}
        waiting = iter(enumerate(items))
        try:
            while True:
                while len(running) < self.workers and (following := next(waiting, None)) is not None:
                    running[self._call.remote(shared, following[1])] = following[0]
                if not running:
                    return [found[number] for number in range(len(found))]
                for reference in self._ray.wait(list(running))[0]:
                    number = running.pop(reference)
                    found[number] = self._result(reference)
                    on_done(number, found[number])
        finally:
            for reference in running:
                self._ray.cancel(reference, force=True)

    def _result(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            result = self._ray.get(reference)
        except errors.RayTaskError:  # also an instance of the class that the function raised
            raise
        except errors.RayError as error:
            raise ClusterError(
                "a task on the cluster has failed",
                expected="a result",
                actual=(str(error).strip().splitlines() or [type(error).__name__])[0],
                action="Its process or node died again and again: look at the memory of the nodes; "
                "--max-failures says how many deaths are borne.",
            ) from error
        if isinstance(result, _Failure):
            raise result.error from RuntimeError(result.trace)
        return result


def _call(function: Callable[[T], R], item: T) -> R | _Failure:
    """Calls the function in a task; an error of lineside's is returned, as Ray would put a traceback into its text."""
    try:
        return function(item)
    except LinesideError as error:
        return _Failure(error, traceback.format_exc())


@contextlib.contextmanager
def open_tasks(cluster: TaskCluster | None) -> Iterator[TaskRunner]:
    """Yields a runner of tasks: the plain loop without a cluster, else Ray, which is left or ended afterwards.

    Raises:
        ClusterError: Ray can't be reached or started.
    """
    if cluster is None:
        yield ALONE
        return
    with ExitStack() as stack:
        yield RayTaskRunner(connect(cluster.address, cluster.workers, stack), cluster)
