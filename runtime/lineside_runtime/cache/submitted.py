"""`submitted`: a submitted call behind the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial

from lineside_runtime.cache.cached import Cached
from lineside_runtime.cache.key import inputs_digest
from lineside_runtime.placement import Prediction
from lineside_runtime.tensors import Array


def submitted(
    cached: Cached,
    inputs: Mapping[str, Array],
    *,
    give: Callable[[], Future[Prediction]],
    on_hit: Callable[[Prediction], None],
) -> Future[Prediction]:
    """Answers at once from the cache, or gives the call to the devices and keeps their answer.

    Args:
        cached: The placement behind the cache.
        inputs: Array by input name, checked.
        give: Gives the call to the devices.
        on_hit: Told of an answer from the cache before its future is returned.

    Raises:
        LinesideError: What ``give`` raises.
    """
    digest = inputs_digest(inputs)
    found = cached.find(digest)
    if found is not None:
        on_hit(found)
        done: Future[Prediction] = Future()
        done.set_result(found)
        return done
    inner = give()
    outer = _Answer(inner)
    inner.add_done_callback(partial(outer.settle, cached, digest, inputs))
    return outer


class _Answer(Future[Prediction]):
    """What the caller holds: done after the answer is kept, so that it can't be written to before that.

    Written here because `concurrent.futures` has no future that follows another one.
    """

    def __init__(self, inner: Future[Prediction]) -> None:
        super().__init__()
        self._inner = inner

    def cancel(self) -> bool:
        """Cancels the call if it waits; says no if a device runs it."""
        return not self.done() and self._inner.cancel()

    def running(self) -> bool:
        """Says whether a device runs it."""
        return not self.done() and (self._inner.running() or self._inner.done())

    def settle(
        self, cached: Cached, digest: bytes | None, inputs: Mapping[str, Array], inner: Future[Prediction]
    ) -> None:
        """Takes over how the call ended."""
        if inner.cancelled():
            super().cancel()
            self.set_running_or_notify_cancel()
            return
        error = inner.exception()
        if error is not None:
            self.set_exception(error)
            return
        self.set_result(cached.keep(digest, inputs, inner.result()))
