from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from lineside_models.frame import Frame
from lineside_models.inspection import Detection, Inspection
from lineside_models.vision import ImageInspector
from lineside_models.vision.image_inspector import AHEAD
from lineside_runtime.config import Config
from lineside_runtime.errors import BadInputFormatError
from tests.models.small_detector import detector_bundle

CORES = len(os.sched_getaffinity(0))
SIDES = (32, 40, 48, 64)


def picture(number: int) -> np.ndarray:
    """A grey part of one of four sizes; every third has a bright spot."""
    image = np.full((SIDES[number % 4], SIDES[number % 4]), 120, np.uint8)
    image[:16] = 116  # an even frame is a fault
    if number % 3 == 0:
        image[8:16, 8:16] = 250
    return image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(40):
        cv2.imwrite(str(folder / f"{number:03d}.png"), picture(number))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return detector_bundle(tmp_path / "bundle").path


def told(verdicts: list[Inspection]) -> list[tuple[str, bool, tuple[Detection, ...]]]:
    return [(one.part_id, one.passed, one.detections) for one in verdicts]


def test_many_images_get_the_verdicts_that_each_gets_alone(bundle: Path, photos: Path) -> None:
    with ImageInspector(bundle, None) as inspector:
        alone = [inspector.predict(path)[0] for path in sorted(photos.iterdir())]
        together = inspector.predict(photos)
    assert told(together) == told(alone)
    assert [one.sequence for one in together] == list(range(40))
    assert [one.passed for one in together] == [number % 3 != 0 for number in range(40)]
    assert all(one.timings.inference_ms > 0 and one.timings.preprocess_ms > 0 for one in together)


@pytest.mark.parametrize(
    "config", [Config(threads=1), Config(threads=64), Config(cores=(min(os.sched_getaffinity(0)),))]
)
def test_the_verdicts_don_t_depend_on_how_many_threads_there_are(bundle: Path, photos: Path, config: Config) -> None:
    with ImageInspector(bundle, None) as default, ImageInspector(bundle, None, config=config) as other:
        assert told(default.predict(photos)) == told(other.predict(photos))


def test_the_first_file_that_is_no_image_is_named_after_the_verdicts_before_it(bundle: Path, photos: Path) -> None:
    (photos / "019.png").write_bytes(b"no picture")
    (photos / "030.png").write_bytes(b"nor this")
    got: list[Inspection] = []
    with ImageInspector(bundle, None, batch_size=1) as inspector:
        with pytest.raises(BadInputFormatError, match=r"019\.png"):
            got.extend(inspector.stream(photos))
        assert [one.sequence for one in got] == list(range(19))
        assert len(inspector.predict(sorted(photos.iterdir())[:10])) == 10  # and goes on


@pytest.mark.parametrize("config", [Config(), Config(threads=64)], ids=["a batch a core", "one batch at a time"])
def test_an_endless_source_is_taken_only_a_little_ahead(bundle: Path, config: Config) -> None:
    taken = itertools.count()
    source = (Frame(image=picture(1), sequence=next(taken)) for _ in range(5000))  # as good as endless
    with ImageInspector(bundle, None, config=config) as inspector:
        verdicts = list(itertools.islice(inspector.stream(source), 50))
    assert [one.sequence for one in verdicts] == list(range(50))
    assert next(taken) <= 50 + (CORES + 1) * (AHEAD + 4)


def test_what_gives_the_images_may_fail_and_a_stream_that_nobody_reads_on_leaves_no_thread(bundle: Path) -> None:
    def source() -> Iterator[NDArray[np.uint8]]:
        for number in range(21):
            yield picture(number)
        raise OSError("the cable is out")

    got: list[Inspection] = []
    with ImageInspector(bundle, None, batch_size=1) as inspector:
        with pytest.raises(OSError, match="cable"):
            got.extend(inspector.stream(source()))
        assert len(got) == 21
        stream = inspector.stream(source())
        next(stream)
        assert isinstance(stream, Generator)
        stream.close()
        assert not [one for one in threading.enumerate() if one.name.startswith("lineside-inspect")]


def test_a_session_that_was_reloaded_answers_many_images_too(bundle: Path, photos: Path, tmp_path: Path) -> None:
    other = detector_bundle(tmp_path / "other", gain=-1.0, version="2").path
    with ImageInspector(bundle, None) as inspector:
        assert {one.bundle for one in inspector.predict(photos)} == {inspector.session.manifest.identity}
        inspector.session.reload(other)
        verdicts = inspector.predict(photos)
        assert {one.bundle for one in verdicts} == {inspector.session.manifest.identity}
        assert told(verdicts) == told([inspector.predict(path)[0] for path in sorted(photos.iterdir())])
