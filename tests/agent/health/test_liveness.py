"""When the watchdog is fed: by completed frames, and while there are none for a good reason."""

from __future__ import annotations

import pytest

from lineside_agent.health.watchdog import CAMERA_PATIENCE_S, FAULTS_MAX, STUCK_S, LivenessMonitor, ProgressSample


def test_frames_that_come_through_feed() -> None:
    pulse = LivenessMonitor()
    assert all(
        pulse.check(ProgressSample(given=n + 5, judged=n, faults=0, loaded=True), float(n)) for n in range(1, 50)
    )


def test_frame_that_does_not_come_through_starves() -> None:
    pulse = LivenessMonitor()
    assert pulse.check(ProgressSample(given=3, judged=2, faults=0, loaded=True), 0.0)
    assert not pulse.check(ProgressSample(given=3, judged=2, faults=0, loaded=True), 0.5)
    assert not pulse.check(
        ProgressSample(given=9, judged=2, faults=0, loaded=True), 1.0
    )  # the camera's progress is none
    assert not pulse.is_ill  # a frame may take a while
    assert pulse.check(ProgressSample(given=9, judged=3, faults=0, loaded=True), 1.5)


def test_frame_that_stays_away_makes_ill_until_one_comes() -> None:
    pulse = LivenessMonitor()
    for second in range(int(STUCK_S) + 2):
        pulse.check(ProgressSample(given=2, judged=1, faults=0, loaded=True), float(second))
    assert (pulse.is_stuck, pulse.is_ill) == (True, True)
    pulse.check(ProgressSample(given=2, judged=2, faults=0, loaded=True), 20.0)
    assert (pulse.is_stuck, pulse.is_ill) == (False, False)


@pytest.mark.parametrize(
    "seen",
    [
        ProgressSample(given=2, judged=2, faults=0, loaded=True),  # no part on the line
        ProgressSample(given=2, judged=0, faults=0, loaded=False),  # no bundle yet: frames wait at the camera
        ProgressSample(given=2, judged=0, faults=0, loaded=True, excused=True),  # the disk is full and the source waits
    ],
)
def test_rightful_silence_is_fed_by_the_loop(seen: ProgressSample) -> None:
    pulse = LivenessMonitor()
    assert all(pulse.check(seen, float(second)) for second in range(100))


def test_camera_that_never_comes_back_starves() -> None:
    pulse = LivenessMonitor()
    idle = ProgressSample(given=2, judged=2, faults=0, loaded=True, camera_since_s=10.0)
    assert pulse.check(idle, 10.0 + CAMERA_PATIENCE_S)
    assert not pulse.check(idle, 11.0 + CAMERA_PATIENCE_S)


def test_nothing_but_faults_is_ill_though_alive() -> None:
    pulse = LivenessMonitor()
    assert pulse.check(ProgressSample(given=FAULTS_MAX, judged=FAULTS_MAX, faults=FAULTS_MAX, loaded=True), 0.0)
    assert pulse.is_ill
    pulse.check(ProgressSample(given=FAULTS_MAX + 1, judged=FAULTS_MAX + 1, faults=FAULTS_MAX, loaded=True), 1.0)
    assert not pulse.is_ill
