"""The sums that a plant has allowed, so that two sums of one thing never show one plant's numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from lineside_runtime.decoding import JsonDecoder
from lineside_runtime.errors import AggregationError, ConfigError
from lineside_runtime.files import write_atomic


class AllowedSum(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sum that a plant has allowed."""

    round: str
    plants: tuple[str, ...]


class AllowedSums:
    """The sums that a plant has allowed, by what they are of, in a file.

    A coordinator that asks twice, once with a plant and once without, could subtract. So a plant allows sums of one
    thing, such as a day, of the same plants only.

    Args:
        path: The file; made when the first sum is allowed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        data = path.read_bytes() if path.exists() else b"{}"
        try:
            self._sums: dict[str, AllowedSum] = JsonDecoder(dict[str, AllowedSum]).decode(data)
        except msgspec.DecodeError as error:
            raise ConfigError(
                f"{path} can't be read: {error}",
                action="Restore it: without it a coordinator could ask for the same sums again, and subtract.",
            ) from error

    def check(self, subjects: Iterable[str], plants: Sequence[str]) -> None:
        """Checks that no subject was summed before with other plants.

        Raises:
            AggregationError: One was.
        """
        for subject in subjects:
            before = self._sums.get(subject)
            if before is not None and set(before.plants) != set(plants):
                raise AggregationError(
                    f"{subject} was answered in round {before.round} with other plants: two sums would show one "
                    "plant's",
                    expected=", ".join(before.plants),
                    actual=", ".join(plants),
                    action="Ask for something else, or again when the same plants take part.",
                )

    def add(self, subjects: Iterable[str], round_name: str, plants: Sequence[str]) -> None:
        """Notes the subjects, on the disk, before the sum is allowed."""
        self._sums |= dict.fromkeys(subjects, AllowedSum(round_name, tuple(plants)))
        write_atomic(self._path, msgspec.json.format(msgspec.json.encode(self._sums), indent=1), mode=0o600)
