"""A future that follows others; `concurrent.futures` has none."""

from __future__ import annotations

from concurrent.futures import Future

from lineside_runtime.serving.types import Prediction


class LinkedFuture(Future[Prediction]):
    """A future for the caller where a device's answer is processed further; its maker ends it.

    Attributes:
        inner: The submitted call that it waits for now; ``None`` before the first.
    """

    def __init__(self, inner: Future[Prediction] | None = None) -> None:
        super().__init__()
        self.inner = inner

    def cancel(self) -> bool:
        """Cancels the call if it waits; returns false if a device runs it."""
        return self.inner is not None and not self.done() and self.inner.cancel()

    def running(self) -> bool:
        """Says whether a device runs it, or its answer is being dealt with."""
        return self.inner is not None and not self.done() and (self.inner.running() or self.inner.done())

    def confirm_cancelled(self) -> None:
        """Marks it as cancelled, once the call that it follows has been."""
        super().cancel()
        self.set_running_or_notify_cancel()
