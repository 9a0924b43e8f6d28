"""Submitted calls: worker threads, deadlines, and who takes over."""

from lineside_runtime.submit.dispatcher import Dispatcher
from lineside_runtime.submit.following import Following
from lineside_runtime.submit.tally import SubmitCounts, Tally

__all__ = ["Dispatcher", "Following", "SubmitCounts", "Tally"]
