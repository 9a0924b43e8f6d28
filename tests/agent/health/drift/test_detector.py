"""A camera that loses focus or light, or a wave of defects, raises the alarm in time; clean frames raise none."""

from __future__ import annotations

import numpy as np
import pytest

from lineside_agent.health.drift.descriptors import Descriptors, describe
from lineside_agent.health.drift.detector import DriftDetector, DriftSettings
from tests.agent.health.drift.frames import RENDERED, TYPES, blurred, clean, darker, drawn, images, judgement

RULES = DriftSettings()
CLEAN_FRAMES = 10_000


def learned(seed: int = 1, *, bad: float = 0.03) -> DriftDetector:
    watch = DriftDetector(RULES)
    rng = np.random.default_rng(seed)
    for frame in drawn(RULES.reference_frames, seed):
        watch.add_frame(frame)
        watch.add_verdict(judgement(rng, bad=bad), TYPES)
    return watch


def test_sharpness_falls_with_focus_and_not_with_light_and_brightness_with_light() -> None:
    for image, before in zip(images()[:20], clean()[:20], strict=True):
        soft, dark = describe(blurred(image, 1.0)), describe(darker(image, 0.6))
        assert soft.sharpness < before.sharpness - 0.1
        assert soft.brightness == pytest.approx(before.brightness, abs=2)
        assert dark.sharpness == pytest.approx(before.sharpness, abs=0.02)
        assert dark.brightness == pytest.approx(0.6 * before.brightness, abs=1)
        assert dark.contrast == pytest.approx(0.6 * before.contrast, abs=1)


def test_a_grey_frame_looks_like_the_same_one_in_three_equal_colours_whatever_its_size() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (2, 3), (97, 640), (1200, 1600)):
        grey = rng.integers(0, 255, (height, width), dtype=np.uint8)
        before = grey.copy()
        assert describe(grey) == describe(np.repeat(grey[..., None], 3, 2))
        assert (grey == before).all()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ten_thousand_clean_frames_raise_no_alarm(seed: int) -> None:
    """At the default of one in a million the chance is 1 % at most that one of these does, for each seed."""
    watch = learned(seed)
    rng = np.random.default_rng(100 + seed)
    for frame in drawn(CLEAN_FRAMES, 200 + seed):
        watch.add_frame(frame)
        watch.add_verdict(judgement(rng, bad=0.03), TYPES)
        assert watch.alarms() == ()
    assert max(test.value for _, test in watch.tests()) > 0, "the tests were on"


def frames_until(watch: DriftDetector, name: str, spoil: object, *, most: int) -> int:
    """How many frames it takes until an alarm of this name is on."""
    assert callable(spoil)
    rng = np.random.default_rng(5)
    for number in range(1, most + 1):
        watch.add_frame(describe(spoil(images()[int(rng.integers(RENDERED))], number)))
        if name in watch.alarms():
            return number
    pytest.fail(f"no alarm {name} within {most} frames, but {watch.alarms()}")


def test_a_lens_that_slowly_loses_focus_raises_the_alarm() -> None:
    """The blur grows by 0.01 pixels a frame: at 100 frames it is 1 pixel, which takes crazing away."""
    assert frames_until(learned(), "sharpness-low", lambda image, n: blurred(image, 0.01 * n), most=100) > 20


def test_a_lens_that_was_knocked_raises_the_alarm_at_once() -> None:
    assert frames_until(learned(), "sharpness-low", lambda image, _: blurred(image, 1.5), most=25) > 5


def test_a_lamp_that_slowly_dies_raises_the_alarm() -> None:
    """It loses a thousandth a frame; the simulator's boards differ in brightness more than that, in contrast less."""
    assert frames_until(learned(), "contrast-low", lambda image, n: darker(image, 1 - 0.001 * n), most=250) > 20


def test_a_cover_on_the_lens_is_far_from_everything_learned() -> None:
    watch = learned()
    frames_until(watch, "distance-high", lambda image, _: np.zeros_like(image), most=25)


def test_a_wave_of_defects_raises_the_alarm_and_says_of_which_type() -> None:
    watch, rng = learned(), np.random.default_rng(9)
    number = 0
    while not {"bad-high", "type:pitted"} <= set(watch.alarms()):
        watch.add_verdict(judgement(rng, bad=0.3, kind="pitted"), TYPES)
        number += 1
        assert number <= 100
    assert "type:scratches" not in watch.alarms()
    while watch.alarms():
        watch.add_verdict(judgement(rng, bad=0.0), TYPES)
        number += 1
    assert number < 1000, "the alarm ends when the wave is over"


def test_a_model_that_finds_nothing_any_more_raises_the_alarm() -> None:
    watch, rng = learned(bad=0.3), np.random.default_rng(9)
    for _ in range(200):
        watch.add_verdict(judgement(rng, bad=0.0), TYPES)
    assert watch.alarms() == ("bad-low",)


def test_a_share_of_bad_parts_that_is_given_counts_instead_of_the_learned_one() -> None:
    watch, rng = DriftDetector(DriftSettings(bad_share=0.01)), np.random.default_rng(9)
    for _ in range(RULES.reference_frames + 400):
        watch.add_verdict(judgement(rng, bad=0.1), TYPES)
    assert watch.alarms() == ("bad-high",)


def test_another_bundle_is_learned_anew_and_the_camera_is_not() -> None:
    watch, rng = learned(), np.random.default_rng(9)
    for _ in range(200):
        watch.add_verdict(judgement(rng, bad=0.9), TYPES)
    assert "bad-high" in watch.alarms()
    watch.add_verdict(judgement(rng, bad=0.9, bundle="new"), TYPES)
    assert watch.alarms() == ()
    assert watch.learned.verdicts is None
    assert watch.learned.frames is not None
    for _ in range(RULES.reference_frames + 500):
        watch.add_verdict(judgement(rng, bad=0.9, bundle="new"), TYPES)
    assert watch.alarms() == (), "nine of ten is what the new one says from the start"


def test_a_still_camera_may_change_by_a_little_and_not_by_more() -> None:
    """Frames differ by a tenth of a grey value: each later one is beyond all that were learned, and not far away."""

    def frames(count: int, light: float) -> list[Descriptors]:
        rng = np.random.default_rng(int(100 * light))
        return [
            Descriptors(*(np.array([light * 120, light * 30, -1.0]) + rng.normal(0, [0.1, 0.05, 0.005])))
            for _ in range(count)
        ]

    for light, alarms in ((0.97, False), (1.03, False), (0.88, True), (1.12, True)):
        watch = DriftDetector(RULES)
        for frame in frames(RULES.reference_frames, 1.0) + frames(100, light):
            watch.add_frame(frame)
        assert bool(watch.alarms()) is alarms, (light, watch.alarms())


def test_a_picture_that_never_changes_can_be_learned() -> None:
    watch = DriftDetector(RULES)
    for _ in range(RULES.reference_frames + 1000):
        watch.add_frame(clean()[0])
    assert watch.alarms() == ()
    watch.add_frame(clean()[1])
    assert max(test.value for _, test in watch.tests()) > 0
