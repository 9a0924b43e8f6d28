"""`StoreCounts`: what the writer of the records has done."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(slots=True)
class StoreCounts:
    """Counts of the writer since the start, the only one that changes them.

    Attributes:
        recorded: Committed rows, without those in place of missing records.
        repeated: Frames that had a record already.
        lost: Records without room on disk and in memory.
        images_lost: Images that could not be written.
        images_late: Images that were kept after their record was written, and are to be sent.
        set_aside: Damaged databases that were renamed.
    """

    recorded: int = 0
    repeated: int = 0
    lost: int = 0
    images_lost: int = 0
    images_late: int = 0
    set_aside: int = 0
