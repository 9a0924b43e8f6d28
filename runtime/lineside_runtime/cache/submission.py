"""Answer a submitted call from the cache, or keep the devices' answer there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from functools import partial

from lineside_runtime.cache.key import inputs_digest
from lineside_runtime.cache.placement import CachedPlacement
from lineside_runtime.serving.submit import LinkedFuture
from lineside_runtime.serving.types import Prediction
from lineside_runtime.tensors import Array


def submit_through_cache(
    cached: CachedPlacement,
    inputs: Mapping[str, Array],
    *,
    give: Callable[[], Future[Prediction]],
    on_hit: Callable[[Prediction], None],
) -> Future[Prediction]:
    """Answers at once from the cache, or gives the call to the devices and keeps their answer.

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
    outer = LinkedFuture(inner)
    inner.add_done_callback(partial(_settle, outer, cached, digest, inputs))
    return outer


def _settle(
    outer: LinkedFuture,
    cached: CachedPlacement,
    digest: bytes | None,
    inputs: Mapping[str, Array],
    inner: Future[Prediction],
) -> None:
    """Ends the outer future; the answer is stored first, so that nobody can write to it before that."""
    try:
        answer = cached.keep(digest, inputs, inner.result())
    except CancelledError:
        outer.confirm_cancelled()
    except BaseException as error:  # noqa: BLE001  the caller's: a future swallows what its callbacks raise
        outer.set_exception(error)
    else:
        outer.set_result(answer)
