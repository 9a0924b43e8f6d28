"""What was pushed to this device and does not run, from ``status.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

ArtifactKind = Literal["bundle", "configuration", "agent"]

KEYS: dict[ArtifactKind, tuple[str, str, str]] = {
    "bundle": ("state", "wanted", "error"),
    "configuration": ("configuration_state", "configuration_wanted", "configuration_error"),
    "agent": ("agent_state", "agent_wanted", "agent_error"),
}
"""Keys with the deployment's state, what was pushed, and why it does not run."""


class PushedProblem(NamedTuple):
    """Something that was pushed and does not run.

    Attributes:
        name: Such as ``surface-12@2.5.0``; empty if the status has none.
        error: Why, with the code of the error.
        is_refused: Whether it was given up; otherwise it is still fetched, tried again or on trial.
    """

    kind: ArtifactKind
    name: str
    error: str
    is_refused: bool

    @property
    def text(self) -> str:
        """Name and error."""
        return f"{self.name}: {self.error}" if self.name else self.error


def pushed_problems(status: Mapping[str, Any]) -> Iterator[PushedProblem]:
    """Yields each one, the bundle first."""
    for kind, (state, wanted, error) in KEYS.items():
        if status.get(error):
            is_refused = status.get(state) in ("failed", "rolled_back")
            yield PushedProblem(kind, str(status.get(wanted) or ""), str(status[error]), is_refused)
