"""Events, actions and levels of the handshake with the line."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Literal

Verdict = Literal["pass", "reject", "fault"]

CHANGING_OVER = "changing over to recipe"
"""Prefix of a reason not to be ready that is no error: another product follows."""

STARTING = "starting"
"""The first reason not to be ready."""

NO_BUNDLE = "no bundle runs"
"""A reason not to be ready. Right after `STARTING` it is part of every start and no error; later it is one."""


class Code(enum.IntEnum):
    """Reason of a part's answer: the handshake's ResultCode."""

    NONE = 0
    PASS = 1
    REJECT = 2
    NOT_JUDGED = 3
    LATE = 4
    BUSY = 5
    NOT_READY = 6
    NO_FRAME = 7
    CHALLENGE_PASSED = 8
    STOPPED = 9
    UNSURE = 10
    BAD_TRIGGER = 11

    @property
    def verdict(self) -> Verdict:
        """Verdict for the line: everything but a pass means reject."""
        return "pass" if self is Code.PASS else "reject" if self in (Code.REJECT, Code.UNSURE) else "fault"


REFUSALS = frozenset((Code.BUSY, Code.NOT_READY, Code.STOPPED, Code.BAD_TRIGGER))
"""Codes of parts that were refused at their trigger, or at the agent's end; they do not change any more."""


class Fault(enum.IntEnum):
    """Why the operator must attend to the agent."""

    NONE = 0
    LATE = 1
    CHALLENGE = 2
    RESULTS_NOT_TAKEN = 3
    RECIPE = 4
    ENCODER = 5
    GATE = 6


PART_ID_MAX = 128
"""Longest part id, in characters."""


def part_id_problem(part_id: str) -> str:
    """Returns why a line's part id is refused, empty if it is accepted: at most `PART_ID_MAX` printable characters."""
    if len(part_id) > PART_ID_MAX:
        return f"a part id of {len(part_id)} characters, at most {PART_ID_MAX} are allowed"
    return "" if part_id.isprintable() else "a part id with characters that can't be printed"


@dataclasses.dataclass(frozen=True, slots=True)
class DefectSummary:
    """The defects of a part, as the line is told; empty without defects.

    Attributes:
        type: Of the defect with the highest score.
        number: Of this type, 1 to 255, for protocols of numbers; 0 without defects.
        count: Defects in the images of all cameras.
        score: The highest one, 0 to 1.
        camera: Camera of the defect with the highest score.
        camera_number: Its place among the cameras, from 1; 0 without defects.
    """

    type: str = ""
    number: int = 0
    count: int = 0
    score: float = 0.0
    camera: str = ""
    camera_number: int = 0


NO_DEFECTS = DefectSummary()


# Events.


@dataclasses.dataclass(frozen=True, slots=True)
class Triggered:
    """A part is in front of the camera.

    Attributes:
        input: Name of the input, for the debounce.
        tag: The line's own number of the trigger, returned with the result; 0 for none.
        edge: Whether it is an edge of a level, which can bounce.
        missed: Whether the part has passed already, as the line finds out only now: it is answered and not inspected.
        malformed: Why the line's message is no valid trigger; empty if it is one. The part is answered and not
            inspected.
    """

    input: str
    part_id: str = ""
    tag: int = 0
    edge: bool = False
    missed: bool = False
    malformed: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class PartInspected:
    """The pipeline has a result, or says why there can be none."""

    number: int
    code: Code
    defects: DefectSummary = NO_DEFECTS
    reason: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class PartAcknowledged:
    """The line's acknowledge input went on or off."""

    on: bool


@dataclasses.dataclass(frozen=True, slots=True)
class ResetPressed:
    """The operator's reset."""


@dataclasses.dataclass(frozen=True, slots=True)
class ChallengeRequested:
    """A shift begins: the known bad parts follow."""


@dataclasses.dataclass(frozen=True, slots=True)
class Availability:
    """Whether parts can be inspected at all.

    Attributes:
        problem: Why not; empty if they can.
    """

    problem: str


@dataclasses.dataclass(frozen=True, slots=True)
class Encoder:
    """The encoder's count, modulo 2^32."""

    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Tick:
    """Only time has passed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Retiring:
    """The agent is to end: no further part is inspected, those under way are, and the gate fires for each of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stopped:
    """The agent ends."""


@dataclasses.dataclass(frozen=True, slots=True)
class RecipeRuns:
    """A recipe runs from the next part on.

    Attributes:
        number: Its number for Modbus.
        gate_delay_s: Delay of the gate for its parts; ``None`` for that of the settings.
        gate_counts: The same in counts of the encoder.
        deadline_s: From trigger to answer for its parts; ``None`` for that of the settings.
    """

    name: str
    number: int
    gate_delay_s: float | None = None
    gate_counts: int | None = None
    deadline_s: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class RecipeRefused:
    """The recipe that the line requested cannot run."""

    reason: str


Event = (
    Triggered
    | PartInspected
    | PartAcknowledged
    | ResetPressed
    | ChallengeRequested
    | Availability
    | Encoder
    | Tick
    | Retiring
    | Stopped
    | RecipeRuns
    | RecipeRefused
)


@dataclasses.dataclass(frozen=True, slots=True)
class SelectRecipe:
    """Another product follows. No event of the handshake: the recipe is loaded first.

    Attributes:
        recipe: Its name or its number.
        input: Who requests it.
        answer: Takes why it cannot run, empty if it runs; ``None`` for a line, which sees a fault instead.
    """

    recipe: str | int
    input: str
    answer: Callable[[str], None] | None = None


# Actions.


@dataclasses.dataclass(frozen=True, slots=True)
class BeginPart:
    """Take a frame and inspect it.

    Attributes:
        at_s: Time of the trigger.
        deadline_s: Time of the answer at the latest.
    """

    number: int
    part_id: str
    at_s: float
    deadline_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class TriggerAnswer:
    """Tell the line, and record it.

    Attributes:
        tag: Number that this input gave the trigger.
        deadline_s: Time after which a pass is no pass any more.
        took_s: From trigger to answer.
        reason: Details beyond the code; may be empty.
        defects: Of a rejected part.
    """

    number: int
    part_id: str
    input: str
    tag: int
    code: Code
    at_s: float
    deadline_s: float
    took_s: float
    challenge: bool = False
    reason: str = ""
    defects: DefectSummary = NO_DEFECTS


@dataclasses.dataclass(frozen=True, slots=True)
class LineState:
    """The levels that a line sees."""

    ready: bool = False
    busy: bool = False
    result_valid: bool = False
    passed: bool = False
    fault: Fault = Fault.NONE
    gate: bool = False
    challenge: bool = False
    result: TriggerAnswer | None = None
    recipe: str = ""
    recipe_number: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class ShowState:
    """Set the levels."""

    state: LineState


@dataclasses.dataclass(frozen=True, slots=True)
class LogLine:
    """Write a line into the log."""

    text: str
    is_error: bool = True


Action = BeginPart | TriggerAnswer | ShowState | LogLine
