from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import cast, get_args

import cv2
import numpy as np
import pytest

from lineside_agent import config as settings
from lineside_agent.cameras import Camera, LostFrame, Shot, open_camera
from lineside_agent.cameras.folder import FolderCamera
from lineside_agent.cameras.opencv import V4l2Camera, VideoCamera
from lineside_agent.cameras.registry import KINDS
from lineside_agent.cameras.simulator import SimulatorCamera
from lineside_agent.config.cameras import BaseCameraConfig
from lineside_models import simulator
from lineside_models.frame import Frame
from lineside_models.simulator import Kind, SimulatedFrame, render
from lineside_runtime.errors import CameraError, ConfigError
from tests.worlds.bundles import bright, dark


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    frames = tmp_path / "frames"
    (frames / "sub").mkdir(parents=True)
    cv2.imwrite(str(frames / "b.png"), dark())
    cv2.imwrite(str(frames / "a.JPG"), bright())
    cv2.imwrite(str(frames / "sub" / "c.bmp"), dark())
    (frames / "notes.txt").write_text("no image")
    return frames


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (96, 96))
    for number in range(6):
        writer.write(np.full((96, 96, 3), 40 * number, np.uint8))
    writer.release()
    return path


def names(shots: list[Shot]) -> list[str]:
    return [shot.part_id for shot in shots]


def test_folder_gives_each_image_once_by_name(folder: Path) -> None:
    shots = list(FolderCamera(folder).frames())
    assert names(shots) == ["a.JPG", "b.png", "sub/c.bmp"]
    assert [shot.sequence for shot in shots] == [0, 1, 2]
    assert all(isinstance(shot, Frame) and shot.image.shape == (96, 96, 3) for shot in shots)
    assert all(shot.captured_at_ns > 1.7e18 for shot in shots)


def test_folder_goes_on_where_it_was_left(folder: Path) -> None:
    assert names(list(FolderCamera(folder).frames(start_at=2))) == ["sub/c.bmp"]
    assert list(FolderCamera(folder).frames(start_at=3)) == []


def test_folder_loops_when_told_to(folder: Path) -> None:
    shots = list(itertools.islice(FolderCamera(folder, loop=True).frames(start_at=2), 3))
    assert [(shot.sequence, shot.part_id) for shot in shots] == [(2, "sub/c.bmp"), (3, "a.JPG"), (4, "b.png")]


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "the file is empty"), (b"GIF8", ""), (b"\x89PNG\r\n\x1a\nrubbish", "")]
)
def test_damaged_image_is_a_lost_frame_with_a_reason_for_people(folder: Path, content: bytes, words: str) -> None:
    (folder / "b.png").write_bytes(content)
    shot = list(FolderCamera(folder).frames())[1]
    assert isinstance(shot, LostFrame)
    assert (shot.sequence, shot.part_id) == (1, "b.png")
    assert shot.reason.startswith("b.png: ") and words in shot.reason
    assert "OpenCV" not in shot.reason and "error:" not in shot.reason


def test_truncated_image_is_lost_or_read_but_never_ends_the_run(folder: Path) -> None:
    data = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(data[: len(data) // 2])
    assert names(list(FolderCamera(folder).frames())) == ["a.JPG", "b.png", "sub/c.bmp"]


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_folder_without_images_says_so(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "empty":
        path.mkdir()
    with pytest.raises(CameraError) as caught:
        list(FolderCamera(path).frames())
    assert caught.value.code == 2009


def test_video_gives_each_frame_once_and_goes_on_where_it_was_left(video: Path) -> None:
    whole = list(VideoCamera(video).frames())
    assert [shot.sequence for shot in whole] == list(range(6))
    assert names(whole)[2] == "line.avi-000002"
    rest = list(VideoCamera(video).frames(start_at=4))
    assert [shot.sequence for shot in rest] == [4, 5]
    for again, before in zip(rest, whole[4:], strict=True):
        assert isinstance(again, Frame)
        assert isinstance(before, Frame)
        np.testing.assert_array_equal(again.image, before.image)


def test_video_loops_with_new_numbers(video: Path) -> None:
    shots = list(itertools.islice(VideoCamera(video, loop=True).frames(start_at=5), 3))
    assert [shot.sequence for shot in shots] == [5, 6, 7]


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.avi").write_bytes(b"rubbish")
    with pytest.raises(CameraError) as caught:
        list(VideoCamera(tmp_path / "no.avi").frames())
    assert caught.value.code == 2009


def test_camera_that_is_not_there_says_so() -> None:
    with pytest.raises(CameraError):
        list(V4l2Camera(settings.V4l2CameraConfig(index=63)).frames())


def test_simulator_gives_the_same_parts_again_and_names_what_draws_them() -> None:
    first = list(itertools.islice(SimulatorCamera(7).frames(), 4))
    again = list(itertools.islice(SimulatorCamera(7).frames(start_at=2), 2))
    assert names(first)[2:] == names(again)
    assert [shot.sequence for shot in again] == [2, 3]
    _, kind, seed = again[0].part_id.split("-")
    assert isinstance(again[0], Frame)
    np.testing.assert_array_equal(render(cast(Kind, kind), int(seed)).image, again[0].image)


def test_new_files_have_the_numbers_after_those_given_wherever_they_sort(folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert names(list(FolderCamera(folder, state=state).frames())) == ["a.JPG", "b.png", "sub/c.bmp"]
    for name in ("0.png", "z.png", "aa.png"):
        cv2.imwrite(str(folder / name), dark())
    again = FolderCamera(folder, state=state)
    assert [(shot.sequence, shot.part_id) for shot in again.frames(start_at=3)] == [
        (3, "0.png"),
        (4, "aa.png"),
        (5, "z.png"),
    ]
    assert names(list(again.frames(start_at=1)))[:2] == ["b.png", "sub/c.bmp"]


def test_number_that_was_cut_off_by_a_power_cut_is_given_again(folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    list(FolderCamera(folder, state=state).frames())
    (file,) = (state / "numbers").iterdir()
    data = file.read_bytes()
    file.write_bytes(data[:-4])
    cv2.imwrite(str(folder / "0.png"), dark())
    assert names(list(FolderCamera(folder, state=state).frames())) == ["a.JPG", "b.png", "0.png", "sub/c.bmp"]


def test_numbers_of_two_sources_are_kept_apart(folder: Path, tmp_path: Path) -> None:
    list(FolderCamera(folder, name="one", state=tmp_path).frames())
    cv2.imwrite(str(folder / "0.png"), dark())
    assert names(list(FolderCamera(folder, name="two", state=tmp_path).frames()))[0] == "0.png"


def test_simulator_draws_no_frame_that_it_doesn_t_give(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def noted(kind: Kind, seed: int) -> SimulatedFrame:
        drawn.append(seed)
        return render(kind, seed)

    monkeypatch.setattr(simulator, "render", noted)
    (shot,) = itertools.islice(SimulatorCamera(7).frames(start_at=1_000_001), 1)
    assert (shot.sequence, len(drawn)) == (1_000_001, 1)
    assert shot.part_id.startswith("sim-pcb-")


def test_foreign_errors_become_camera_errors() -> None:
    class Broken(Camera):
        def _frames(self, start_at: int) -> Iterator[LostFrame]:
            yield LostFrame("x", start_at, "p", 0, "first")
            raise OSError("the cable is out")

    frames = Broken("x", finite=False).frames()
    assert isinstance(next(frames), LostFrame)
    with pytest.raises(CameraError, match="cable") as caught:
        next(frames)
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("config", "kind", "source"),
    [
        (settings.FolderCameraConfig(path=Path("/f")), FolderCamera, "folder:/f"),
        (settings.VideoCameraConfig(path=Path("/v.mp4"), name="shift-2"), VideoCamera, "shift-2"),
        (settings.V4l2CameraConfig(index=1), V4l2Camera, "v4l2:1"),
        (settings.SimulatorCameraConfig(seed=3), SimulatorCamera, "simulator:3"),
    ],
)
def test_configuration_chooses_the_camera(config: settings.CameraConfig, kind: type, source: str) -> None:
    camera = open_camera(config)
    assert type(camera) is kind
    assert camera.source == source
    assert camera.finite is (kind is not V4l2Camera)


def test_every_table_of_a_camera_has_one_entry_in_the_registry() -> None:
    assert {kind.config for kind in KINDS} == set(get_args(settings.CameraConfig))
    assert len(KINDS) == len({kind.config.type_name() for kind in KINDS})


def test_unknown_kind_of_camera_is_an_error() -> None:
    class OtherCameraConfig(BaseCameraConfig, frozen=True, kw_only=True, tag="other", tag_field="type"):
        pass

    with pytest.raises(ConfigError, match="no camera for OtherCameraConfig"):
        open_camera(cast("settings.CameraConfig", OtherCameraConfig()))
