"""Events, actions and levels of the handshake with the line."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Literal

Verdict = Literal["pass", "reject", "fault"]

CHANGING_OVER = "changing over to recipe"
"""Begins a reason not to be ready that is no error: another product follows."""

STARTING = "starting"
"""What comes first."""

NO_BUNDLE = "no bundle runs"
"""A reason not to be ready. Right behind `STARTING` it is the way of every start and no error; later it is one."""


class Code(enum.IntEnum):
    """Why a part was answered as it was: the handshake's ResultCode."""

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
        """What the line is told: everything but a pass means reject."""
        return "pass" if self is Code.PASS else "reject" if self in (Code.REJECT, Code.UNSURE) else "fault"


REFUSALS = frozenset((Code.BUSY, Code.NOT_READY, Code.STOPPED, Code.BAD_TRIGGER))
"""Of parts that were refused at their trigger, or when the agent ended: nothing that comes later changes that."""


class Fault(enum.IntEnum):
    """Why the line must look after the agent."""

    NONE = 0
    LATE = 1
    CHALLENGE = 2
    RESULTS_NOT_TAKEN = 3
    RECIPE = 4


PART_ID_MAX = 128
"""Characters of a part id."""


def part_id_problem(part_id: str) -> str:
    """Returns why a line's part id can't be taken, empty if it can: at most `PART_ID_MAX` printable characters."""
    if len(part_id) > PART_ID_MAX:
        return f"a part id of {len(part_id)} characters, at most {PART_ID_MAX} are allowed"
    return "" if part_id.isprintable() else "a part id with characters that can't be printed"


@dataclasses.dataclass(frozen=True, slots=True)
class DefectSummary:
    """What was found on a part, as the line is told it; empty if nothing was.

    Attributes:
        type: Of the defect with the highest score.
        number: Of this type, 1 to 255, for protocols of numbers; 0 if nothing was found.
        count: Defects in the images of all cameras.
        score: The highest one, 0 to 1.
        camera: Name of the camera that saw the defect with the highest score.
        camera_number: Its place among the cameras, from 1; 0 if nothing was found.
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
        input: What saw it, for the debounce.
        part_id: As the line calls it; may be empty.
        tag: The line's own number of the trigger, given back with the result; 0 for none.
        edge: Whether it is an edge of a level, which can bounce.
        missed: Whether its part has passed already, as its line finds out only now: it is answered and not judged.
        malformed: Why the line's message is no valid trigger; empty if it is one. The part is answered and not judged.
    """

    input: str
    part_id: str = ""
    tag: int = 0
    edge: bool = False
    missed: bool = False
    malformed: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class PartJudged:
    """The pipeline has an answer."""

    number: int
    code: Code
    defects: DefectSummary = NO_DEFECTS


@dataclasses.dataclass(frozen=True, slots=True)
class PartAcknowledged:
    """The line's acknowledge input went on or off."""

    on: bool


@dataclasses.dataclass(frozen=True, slots=True)
class ResetPressed:
    """The operator's reset."""


@dataclasses.dataclass(frozen=True, slots=True)
class ChallengeAsked:
    """A shift begins: the known bad parts follow."""


@dataclasses.dataclass(frozen=True, slots=True)
class Availability:
    """Whether parts can be judged at all.

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
    """Nothing but time has passed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Retiring:
    """The agent is to end: no further part is judged, those under way are, and the gate fires for each of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stopped:
    """The agent ends."""


@dataclasses.dataclass(frozen=True, slots=True)
class RecipeRuns:
    """A recipe runs from the next part on.

    Attributes:
        name: Of the recipe.
        number: By which Modbus asks for it.
        gate_delay_s: Where its parts meet the gate, in time; ``None`` for where the settings say.
        gate_counts: The same in counts of the encoder.
    """

    name: str
    number: int
    gate_delay_s: float | None = None
    gate_counts: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class RecipeRefused:
    """The recipe that the line asked for can't run."""

    reason: str


Event = (
    Triggered
    | PartJudged
    | PartAcknowledged
    | ResetPressed
    | ChallengeAsked
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
    """Another product follows. It is no event of this machine: its recipe is loaded first.

    Attributes:
        recipe: Its name or its number.
        input: Who asks.
        answer: Takes why it can't run, empty if it runs; ``None`` for a line, which hears of it by its fault.
    """

    recipe: str | int
    input: str
    answer: Callable[[str], None] | None = None


# Actions.


@dataclasses.dataclass(frozen=True, slots=True)
class BeginPart:
    """Take a frame and judge it.

    Attributes:
        number: Of the trigger.
        part_id: As the line calls it; may be empty.
        at_s: When it was triggered.
        deadline_s: When it must be answered.
    """

    number: int
    part_id: str
    at_s: float
    deadline_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class TriggerAnswer:
    """Tell the line, and keep a record.

    Attributes:
        number: Of the trigger.
        part_id: As the line calls it; may be empty.
        input: What saw it.
        tag: The number that this input gave it.
        code: Why.
        at_s: When it was triggered.
        deadline_s: When the answer loses its worth.
        took_s: From trigger to answer.
        challenge: Whether it was a challenge part.
        reason: More than the code says; may be empty.
        defects: What was found, of a part that is rejected.
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
    """Tell people."""

    text: str
    is_error: bool = True


Action = BeginPart | TriggerAnswer | ShowState | LogLine
