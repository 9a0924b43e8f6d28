"""Submitted calls: worker threads, deadlines, and who takes over."""

from lineside_runtime.serving.submit.counters import SubmitCounters, SubmitCounts
from lineside_runtime.serving.submit.dispatcher import Dispatcher
from lineside_runtime.serving.submit.linked_future import LinkedFuture

__all__ = ["Dispatcher", "LinkedFuture", "SubmitCounters", "SubmitCounts"]
