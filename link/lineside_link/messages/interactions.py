"""Interactions of a device that recommends: what was shown and what was chosen. Device to hub.

The hub answers with `lineside_link.messages.ResultsAck`, as for results.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from lineside_link.messages.base import Message, Name, Text


class InteractionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One item that was shown to a user, or chosen by one.

    Attributes:
        seq: Position in the device's log; contiguous from 1 within the epoch.
        user_id: For whom; empty for nobody in particular.
        item_id: What was shown or chosen.
        at_ns: Unix time.
        label: 1 for chosen, 0 for shown. A shown item that is chosen has a row of each.
        answer: Number of the answer on the device; 0 for a choice that followed none.
        propensity: Probability with which the item was drawn into the answer; ``None`` if the answer did not have it.
        bundle: ``name@version`` of the bundle that answered.
    """

    seq: int
    user_id: Name = ""
    item_id: Name
    at_ns: int = 0
    label: Literal[0, 1]
    answer: int = 0
    propensity: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    bundle: Text = ""


class InteractionRows(Message, frozen=True, kw_only=True):
    """Rows of a device's log of interactions.

    Attributes:
        epoch: Identifies the device's database; a new database starts a new one.
        rows: In order of ``seq``.
        after: As in `lineside_link.messages.Results`; missing rows went beyond the limit of the log.
        through: See ``after``.
    """

    epoch: str
    rows: tuple[InteractionRow, ...]
    after: int = 0
    through: int = -1
