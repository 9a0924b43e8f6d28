"""All drift tests on one sequence of frames. Pure.

- The first frames are learned. Then each test asks whether the share of frames with one property has risen: dark,
  bright, of low or high contrast, blurred, over-sharp, far from the reference; rejected, not rejected, unsure, nearly a
  defect, and each type of defect.
- The allowed false alarms are divided: half of them among the tests of frames, half among those of verdicts, with the
  types that have not occurred so far.
- The verdicts are learned anew for each bundle; the frames are not, since they depend on the camera.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from lineside_agent.health.drift.cusum import Cusum, upper_share
from lineside_agent.health.drift.descriptors import Descriptors
from lineside_agent.health.drift.reference import (
    RISK,
    DriftVerdict,
    FrameReference,
    VerdictReference,
    distance,
    learn_frames,
    learn_verdicts,
)

FRAME_TESTS = (*(f"{name}-{end}" for name in Descriptors._fields for end in ("low", "high")), "distance-high")
VERDICT_TESTS = ("bad-high", "bad-low", "unsure-high", "near-miss-high")

RECENT = 50
"""Length of the running means, in frames."""


@dataclasses.dataclass(frozen=True, slots=True)
class DriftSettings:
    """Sensitivity of the tests.

    Attributes:
        reference_frames: Frames that are learned first.
        false_alarm_frames: Mean number of frames to a false alarm, at least, of all tests together.
        odds_ratio: Rise of a share's odds that the tests look for.
        bad_share: Normal share of bad parts; ``None`` for the learned one.
    """

    reference_frames: int = 500
    false_alarm_frames: float = 1e6
    odds_ratio: float = 3.0
    bad_share: float | None = None


class DriftState(msgspec.Struct, kw_only=True):
    """What is kept over a restart.

    Attributes:
        frames: Reference of the frames; ``None`` while it is learned.
        verdicts: Reference of the verdicts; ``None`` while it is learned.
        samples: Frames learned so far.
        judged: Verdicts learned so far.
        alarms: Since when each test is in alarm, in nanoseconds since 1970, by name.
    """

    frames: FrameReference | None = None
    verdicts: VerdictReference | None = None
    samples: list[tuple[float, float, float]] = []
    judged: list[DriftVerdict] = []
    alarms: dict[str, int] = {}


class DriftDetector:
    """Detects drift of one camera and of the bundle behind it.

    Attributes:
        learned: The references, as far as they are known.
        recent: Running means of the descriptors and of the share of bad parts, by name.
    """

    def __init__(self, rules: DriftSettings, learned: DriftState | None = None) -> None:
        self.learned = learned or DriftState()
        self.recent: dict[str, float] = {}
        self._rules = rules
        self._types: tuple[str, ...] = ()
        self._frame_tests: dict[str, Cusum] = {}
        self._verdict_tests: dict[str, Cusum] = {}
        self._mean, self._precision = np.zeros(3), np.zeros((3, 3))
        self._resumed = set(self.learned.alarms)  # alarms from before a restart whose tests have not begun again
        if self.learned.frames is not None:
            self._begin_frames(self.learned.frames)
        self._resumed = self._resumed - set(FRAME_TESTS) if self.learned.verdicts is not None else set()

    def tests(self) -> Iterator[tuple[str, Cusum]]:
        """Yields every active test with its name."""
        yield from self._frame_tests.items()
        yield from self._verdict_tests.items()

    def alarms(self) -> tuple[str, ...]:
        """Returns the names of the tests that are in alarm, those from before a restart included."""
        return (*(name for name, test in self.tests() if test.alarm), *sorted(self._resumed))

    def clear(self) -> None:
        """Ends every alarm; the references stay."""
        self._resumed.clear()
        for _, test in self.tests():
            test.clear()

    def add_frame(self, frame: Descriptors) -> None:
        """Takes the descriptors of a frame."""
        for name, value in zip(Descriptors._fields, frame, strict=True):
            self._average(name, value)
        known = self.learned.frames
        if known is None:
            self.learned.samples.append((frame.brightness, frame.contrast, frame.sharpness))
            if len(self.learned.samples) >= self._rules.reference_frames:
                known = learn_frames([Descriptors(*sample) for sample in self.learned.samples])
                self.learned.frames, self.learned.samples = known, []
                self._begin_frames(known)
            return
        tests = self._frame_tests
        for number, (name, value) in enumerate(zip(Descriptors._fields, frame, strict=True)):
            tests[f"{name}-low"].step(value < known.low[number].bound)
            tests[f"{name}-high"].step(value > known.high[number].bound)
        far = distance(np.array(frame), self._mean, self._precision)
        tests["distance-high"].step(far > known.distance.bound)

    def add_verdict(self, verdict: DriftVerdict, types: Sequence[str]) -> None:
        """Takes the verdict on a frame; ``types`` are all defect types of its bundle."""
        self._average("bad", float(not verdict.passed and not verdict.unsure))
        known = self.learned.verdicts
        if known is not None and known.bundle != verdict.bundle:
            known = self.learned.verdicts = None
            self._resumed.clear()
        if known is None:
            self._learn(verdict)
            return
        if not self._verdict_tests or self._types != tuple(types):
            self._begin_verdicts(known, tuple(types))
        tests = self._verdict_tests
        tests["bad-high"].step(not verdict.passed and not verdict.unsure)
        tests["bad-low"].step(verdict.passed or verdict.unsure)
        tests["unsure-high"].step(verdict.unsure)
        tests["near-miss-high"].step(verdict.near_miss > known.near_miss.bound)
        for name in self._types:
            tests[f"type:{name}"].step(name in verdict.types)

    def _learn(self, verdict: DriftVerdict) -> None:
        self._verdict_tests = {}
        judged = self.learned.judged = [one for one in self.learned.judged if one.bundle == verdict.bundle]
        judged.append(verdict)
        if len(judged) >= self._rules.reference_frames:
            self.learned.verdicts, self.learned.judged = learn_verdicts(judged), []

    def _average(self, name: str, value: float) -> None:
        before = self.recent.get(name, value)
        self.recent[name] = before + (value - before) / RECENT

    def _begin_frames(self, known: FrameReference) -> None:
        self._mean, self._precision = np.array(known.mean), np.array(known.precision)
        tails = [tail for pair in zip(known.low, known.high, strict=True) for tail in pair] + [known.distance]
        shares = 2 * len(FRAME_TESTS)
        named = zip(FRAME_TESTS, tails, strict=True)
        self._frame_tests = {name: self._test(tail.count, tail.frames, shares) for name, tail in named}
        self._resume(self._frame_tests)

    def _begin_verdicts(self, known: VerdictReference, types: tuple[str, ...]) -> None:
        self._types = types
        frames, well, near = known.frames, self._rules.bad_share, known.near_miss
        shares = 2 * (len(VERDICT_TESTS) + len(types))
        bad = self._test(known.bad, frames, shares) if well is None else self._test_of(well, shares)
        good = self._test(frames - known.bad, frames, shares) if well is None else self._test_of(1 - well, shares)
        unsure, miss = self._test(known.unsure, frames, shares), self._test(near.count, near.frames, shares)
        self._verdict_tests = dict(zip(VERDICT_TESTS, (bad, good, unsure, miss), strict=True))
        counts = {name: known.types.get(name, 0) for name in types}
        self._verdict_tests |= {f"type:{name}": self._test(count, frames, shares) for name, count in counts.items()}
        self._resume(self._verdict_tests)
        self._resumed.clear()  # what is left is of a type that the bundle no longer has

    def _resume(self, tests: dict[str, Cusum]) -> None:
        for name in self._resumed & tests.keys():
            tests[name].resume()

    def _test(self, count: int, frames: int, shares: int) -> Cusum:
        return self._test_of(upper_share(count, frames, risk=RISK / shares), shares)

    def _test_of(self, share: float, shares: int) -> Cusum:
        limit = math.log(self._rules.false_alarm_frames * shares)
        return Cusum(share, odds_ratio=self._rules.odds_ratio, limit=limit)
