"""`CheckedSettings`: base of settings that check their values."""

from __future__ import annotations

import msgspec

from lineside_runtime.errors import TrainingError


class CheckedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings whose ``__post_init__`` checks each value with `_check`."""

    def _check(self, name: str, good: bool, expected: str) -> None:
        """Raises `TrainingError` with the field's name and value if it is not good."""
        if not good:
            raise TrainingError(
                f"{name} is not usable", expected=expected, actual=getattr(self, name), action="Give another value."
            )
