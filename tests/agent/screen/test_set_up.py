"""Figures of a camera, and where regions that are drawn at the screen go."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from lineside_agent.cameras.base import Camera, Shot
from lineside_agent.cameras.reader import FrameQueue, Reader
from lineside_agent.config import AgentConfig, FolderCameraConfig, InspectConfig, RecipeConfig, read_settings
from lineside_agent.deployment.artifacts.configuration import FollowedConfiguration
from lineside_agent.deployment.events import DesiredChanged
from lineside_agent.deployment.local_request import LocalRequests
from lineside_agent.deployment.machine import BundleMachine, ConfigurationMachine
from lineside_agent.inspection.recipes import Recipes
from lineside_agent.screen.set_up.access import SetUpAccess
from lineside_agent.screen.set_up.camera_view import CameraView, figures_of
from lineside_agent.screen.set_up.learning_process import ACCEPTED, BUNDLE, write_moved
from lineside_agent.screen.set_up.region_editor import EditedRegion, RegionEditor
from lineside_link.messages import ConfigRef, Desired
from lineside_models.anomaly.extension import read_model
from lineside_models.frame import Frame
from lineside_models.simulator import render
from lineside_models.verdict.regions import Region
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.errors import ConfigError, FetchError, InputNotFoundError

SQUARE = ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9))


def test_focus_falls_with_blur_and_hardly_moves_with_light() -> None:
    sharp = np.asarray(render("pcb", 1).image)
    focus = figures_of(sharp).focus
    blurred = [figures_of(cv2.GaussianBlur(sharp, (0, 0), sigma)).focus for sigma in (1.0, 2.0, 4.0)]
    assert focus > blurred[0] > blurred[1] > blurred[2]
    dark = figures_of((sharp // 2).astype(np.uint8)).focus
    assert dark == pytest.approx(focus, rel=0.1)
    half = sharp.copy()
    half[:, 320:] = cv2.GaussianBlur(sharp, (0, 0), 6.0)[:, 320:]
    left, right = figures_of(half, (0, 0, 0.4, 1)).focus, figures_of(half, (0.6, 0, 1, 1)).focus
    assert left > 3 * right
    assert figures_of(half, (0.5, 0.5, 0.5, 0.5)).focus >= 0  # an area without a size


def test_exposure_counts_pixels_that_have_no_detail_left() -> None:
    image = np.full((100, 100, 3), 128, np.uint8)
    image[:10] = (0, 0, 255)  # one channel is enough to be too bright
    image[10:30] = 0
    figures = figures_of(image)
    assert (figures.over, figures.under) == (0.1, 0.2)
    assert sum(figures.histogram) == pytest.approx(1.0, abs=1e-3)
    assert figures_of(np.full((50, 60), 255, np.uint8)).over == 1.0


class _TenFrames(Camera):
    def __init__(self) -> None:
        super().__init__("cam", finite=True)

    def _frames(self, start_at: int) -> Iterator[Shot]:
        for number in range(start_at, 10):
            image = np.full((40, 60), 20 * number, np.uint8)
            at_ns = 10**18 + 10**8 * number
            yield Frame(image=image, source="cam", sequence=number, part_id=str(number), captured_at_ns=at_ns)


def test_a_look_takes_no_frame_from_the_line_and_none_is_kept_for_nobody() -> None:
    stop = threading.Event()
    queue = FrameQueue(20, stop)
    reader = Reader(_TenFrames(), queue, stop)
    view = CameraView(reader)
    reader.run(0)
    assert reader.watch() is None  # nobody had looked
    assert view.look((0, 0, 1, 1)).figures is None
    reader = Reader(_TenFrames(), FrameQueue(20, stop), stop)
    view = CameraView(reader)
    view.look((0, 0, 1, 1))
    reader.run(0)
    look = view.look((0, 0, 1, 1))
    assert (look.number, look.width, look.height) == (9, 60, 40)
    assert view.picture(9)[:2] == b"\xff\xd8"
    with pytest.raises(InputNotFoundError):
        view.picture(8)
    assert len(queue.drain()) == 10


def editor(
    tmp_path: Path, *, has_hub: bool = False, recipe: tuple[RecipeConfig, ...] = ()
) -> tuple[RegionEditor, list[DesiredChanged], SetUpAccess]:
    camera = FolderCameraConfig(path=tmp_path)
    agent = AgentConfig(device="d", folder=tmp_path, camera=camera, bundle=tmp_path, recipe=recipe)
    deployed: list[DesiredChanged] = []
    access = SetUpAccess(
        readers=(),
        configuration=FollowedConfiguration(agent),
        recipes=Recipes(tmp_path, recipe),
        requests=LocalRequests(tmp_path),
        machine=BundleMachine,
        deploy=deployed.append,
    )
    return RegionEditor(access, camera, several=False, has_hub=has_hub), deployed, access


def test_without_a_hub_regions_are_deployed_over_agent_toml(tmp_path: Path) -> None:
    made, deployed, access = editor(tmp_path)
    result = made.save([EditedRegion(kind="inspect", polygon=SQUARE)], (480, 640), "Sara")
    assert (result.place, result.toml) == ("device", "")
    (event,) = deployed
    assert event.origin == "local" and event.desired is not None and event.desired.config is not None
    assert event.desired.config.target == "local:Sara"
    asked = ConfigurationMachine(local_desired=event.desired)
    assert access.requests.holds(event.desired.config, asked)
    forged = ConfigurationMachine(group_desired=event.desired, wanted=event.desired.config)  # the topic is not signed
    assert not access.requests.holds(event.desired.config, forged)
    given = read_settings(access.requests.fetch_configuration(event.desired.config))
    assert msgspec.convert(given["inspect"]["regions"], tuple[Region, ...])[0].polygon == SQUARE
    with pytest.raises(FetchError):
        access.requests.fetch_configuration(ConfigRef(target="local:Sara", sha256="0" * 64))
    for bad in (
        [EditedRegion(kind="ignore", polygon=((0, 0), (1, 0), (1, 1), (0, 1)))],
        [EditedRegion(kind="inspect")],
    ):
        with pytest.raises(ConfigError):
            made.save(bad, (480, 640), "Sara")
    assert len(deployed) == 1


def test_with_a_hub_the_editor_changes_nothing_and_gives_what_the_hub_signs(tmp_path: Path) -> None:
    made, deployed, access = editor(tmp_path, has_hub=True)
    mask = bytes(cv2.imencode(".png", np.full((8, 8), 255, np.uint8))[1])
    signed = msgspec.toml.encode({"inspect": {"confidence_threshold": 0.7}, "store": {"keep_images": "all"}})
    ref = ConfigRef(target="g/config-1.toml", sha256=hashlib.sha256(signed).hexdigest())
    path = access.configuration.path(ref.sha256)
    path.parent.mkdir()
    path.write_bytes(signed)
    access.configuration.machine = ConfigurationMachine(installed=ref, installed_slot=ref.sha256, state="active")
    access.configuration.effective = msgspec.structs.replace(
        access.configuration.local,
        inspect=InspectConfig(
            regions=(
                Region(kind="inspect", mask=mask, types=("dent",)),
                Region(kind="ignore", polygon=((0.0, 0.0), (64.0, 0.0), (64.0, 48.0)), units="px"),
            )
        ),
    )
    assert made.status((480, 640))["regions"][1]["polygon"] == [(0.0, 0.0), (0.1, 0.0), (0.1, 0.1)]
    edited = [EditedRegion(kind="inspect", kept=0), EditedRegion(kind="ignore", polygon=SQUARE, kept=1)]
    result = made.save(edited, (480, 640), "Sara")
    assert (result.place, deployed) == ("hub", [])
    given = read_settings(result.toml.encode())
    assert given["inspect"]["confidence_threshold"] == 0.7 and given["store"] == {"keep_images": "all"}
    kept, drawn = msgspec.convert(given["inspect"]["regions"], tuple[Region, ...])
    assert (kept.mask, kept.types, drawn.polygon) == (mask, ("dent",), SQUARE)


def test_regions_of_a_recipe_go_to_agent_toml(tmp_path: Path) -> None:
    recipe = (RecipeConfig(name="A", inspect={"regions": [{"kind": "inspect", "polygon": SQUARE}]}),)
    made, deployed, _ = editor(tmp_path, recipe=recipe)
    assert made.regions()[0].polygon == SQUARE
    result = made.save([EditedRegion(kind="inspect", polygon=SQUARE[:3])], (480, 640), "Sara")
    assert (result.place, deployed) == ("file", []) and "of A" in result.toml


def test_a_local_request_has_the_hubs_generation_and_counts_as_newer_each_time(tmp_path: Path) -> None:
    requests = LocalRequests(tmp_path)
    event = requests.add_configuration(b"", "Sara", after=Desired(epoch=3, gen=9))
    assert event.desired is not None
    assert (event.desired.epoch, event.desired.gen, event.desired.bundle) == (3, 9, None)
    assert event.desired.generation_of("config") > 9


def test_a_threshold_that_a_person_moved_changes_which_parts_pass(tmp_path: Path, learnt: Bundle) -> None:
    shutil.copytree(learnt.path, tmp_path / BUNDLE)
    known = read_model(learnt)
    write_moved(tmp_path, "learned-d", "2", "Sara", 0.8)
    moved = open_bundle(tmp_path / ACCEPTED)
    model = read_model(moved)
    assert moved.manifest.identity == "learned-d@2"
    assert model.threshold.value > known.threshold.value
    steepness, offset = known.threshold.calibration
    assert 1 / (1 + np.exp(-(steepness * model.threshold.value + offset))) == pytest.approx(0.8, abs=1e-3)
    steepness, offset = model.threshold.calibration
    assert steepness * model.threshold.value + offset == pytest.approx(0.0, abs=1e-5)  # a score of 0.5
    assert np.array_equal(model.banks[0].entries, known.banks[0].entries)
    with pytest.raises(ConfigError):
        write_moved(tmp_path, "learned-d", "3", "Sara", 0.01)
