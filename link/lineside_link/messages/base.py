"""Shared parts of messages: version, bounded texts, errors."""

from __future__ import annotations

from typing import Annotated

import msgspec

VERSION = 1
"""Version that this release writes; it reads ``VERSION - 1`` to ``VERSION + 1``."""

Name = Annotated[str, msgspec.Meta(max_length=256)]
"""A name, identifier or hash in a message."""

Text = Annotated[str, msgspec.Meta(max_length=4096)]
"""A text for people in a message."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages.

    Attributes:
        v: Version of the messages that the sender writes.
    """

    v: int = VERSION


TEXT_MAX = 2000
"""Largest number of characters of each text of a `Problem`; hub and device cut longer ones."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error in a message: `lineside_runtime.errors.LinesideError.as_dict`, read back.

    Attributes:
        code: Stable number of the error, as in ``docs/reference/errors.md``.
        error: Name of its class.
        message: What happened.
        expected: What would have been right, if known.
        actual: What was found instead.
        action: What to do.
    """

    code: int
    error: str
    message: str
    expected: str | None = None
    actual: str | None = None
    action: str = ""

    @property
    def text(self) -> str:
        """Code and message."""
        return f"[{self.code}] {self.message}"

    @property
    def full_text(self) -> str:
        """Code, message, what would have been right, and what was found."""
        return f"[{self.code}] {self.explanation}"

    @property
    def explanation(self) -> str:
        """Message, what would have been right, and what was found."""
        expected = f"; expected {self.expected}" if self.expected else ""
        actual = f", got {self.actual}" if self.actual else ""
        return f"{self.message}{expected}{actual}"

    def __post_init__(self) -> None:
        for name in ("error", "message", "expected", "actual", "action"):
            text: str | None = getattr(self, name)
            if text is not None and len(text) > TEXT_MAX:
                msgspec.structs.force_setattr(self, name, f"{text[: TEXT_MAX - 1]}…")
