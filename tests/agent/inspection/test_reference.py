"""Comparison with a reference on the device: as a pushed bundle, and with the references of a recipe."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from lineside_agent.config import InspectConfig, parse_config
from lineside_agent.config.settings import read_settings
from lineside_agent.inspection.active_bundle import ActiveBundle
from lineside_agent.inspection.loaded_bundle import load
from lineside_models.frame import UInt8Array
from lineside_models.reference.learning import learn_reference
from lineside_models.reference.packaging import write_bundle
from lineside_runtime.bundle import Bundle
from lineside_runtime.errors import ConfigError
from tests.models.reference.boards import board, motion, photo, with_defect
from tests.models.reference.test_learning import good_frames
from tests.peers.waiting import wait_for
from tests.worlds.agent import AgentProcess, folder_camera, write_agent
from tests.worlds.site import Site

VERDICTS = {"0-good.png": "pass", "1-other.png": "fault", "2-bad.png": "reject", "3-good.png": "pass"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    learned = learn_reference(good_frames(3, 12))
    return write_bundle(learned, tmp_path_factory.mktemp("made") / "board-3", name="board-3")


def write_photos(folder: Path, seed: int) -> None:
    """Writes four photos: good, of another board, bad and shifted, good and rotated."""
    folder.mkdir(exist_ok=True, parents=True)
    images: list[UInt8Array] = [
        photo(board(seed), seed=7),
        photo(board(seed + 20), seed=8),
        photo(with_defect(board(seed)), motion((4, -3), 1), seed=9),
        photo(board(seed), motion((-2, 3), -2), seed=10),
    ]
    for name, image in zip(VERDICTS, images, strict=True):
        cv2.imwrite(str(folder / name), image)


def verdicts(agent: AgentProcess) -> dict[str, str]:
    return {row.part_id: row.verdict for row in agent.rows()}


def test_a_pushed_bundle_compares_and_a_frame_of_another_product_is_a_fault(tmp_path: Path, bundle: Bundle) -> None:
    site = Site(tmp_path, frames=0, rate_hz=5.0)
    try:
        write_photos(tmp_path / "frames", 3)
        site.start()
        site.push(bundle)
        site.wait_installed(bundle.manifest.identity)
        wait_for(lambda: len(site.results()) == len(VERDICTS), 120, what=lambda: f"{site.agent.status}")
        rows = {row.part_id: row for row in site.agent.rows()}
    finally:
        site.end()
    assert {name: row.verdict for name, row in rows.items()} == VERDICTS
    assert rows["1-other.png"].error.startswith("[2021] the frame does not show the reference")
    ((kind, score, *box),) = rows["2-bad.png"].detections
    assert (kind, score > 0.9) == ("difference", True)
    assert box[0] < 165 < box[2]


def test_a_recipe_brings_references_of_its_own(tmp_path: Path, bundle: Bundle) -> None:
    write_photos(tmp_path / "frames", 4)
    cv2.imwrite(str(tmp_path / "golden.png"), photo(board(4)))
    write_agent(
        tmp_path,
        bundle=str(bundle.path),
        camera=folder_camera(),
        exit_when_done=True,
        recipe=[{"name": "four", "inspect": {"reference": ["golden.png"]}}],
    )
    agent = AgentProcess(tmp_path)
    agent.start()
    assert agent.wait() == 0, agent.log
    assert verdicts(agent) == VERDICTS


def test_without_its_reference_no_part_is_inspected(tmp_path: Path, bundle: Bundle) -> None:
    write_photos(tmp_path / "frames", 3)
    write_agent(tmp_path, bundle=str(bundle.path), inspect={"reference": ["nowhere.png"]})
    agent = AgentProcess(tmp_path)
    agent.start()
    try:
        wait_for(lambda: f"reference {tmp_path / 'nowhere.png'}: No such file" in agent.log)
        assert not agent.rows()
    finally:
        agent.stop()


def test_a_hub_cannot_name_a_file_of_the_device() -> None:
    with pytest.raises(ConfigError, match="can't be set by a hub"):
        read_settings(b'[inspect]\nreference = ["/etc/golden.png"]\n')
    config = parse_config(
        b'device="a"\ngroup="g"\nfolder="s"\nbundle="b/c"\n[camera]\ntype="simulator"\n[inspect]\nreference=["x.png"]\n'
        b'[[recipe]]\nname="r"\ninspect.reference=["y.png"]\n',
        Path("/line"),
    )
    assert config.inspect.reference == ("/line/x.png",)
    assert config.recipe[0].inspect["reference"] == ["/line/y.png"]


def test_a_part_of_the_product_before_fails_no_bundle_and_a_wrong_reference_does(bundle: Bundle) -> None:
    active = ActiveBundle()
    loaded = load("factory", bundle, InspectConfig())
    try:
        active.swap(loaded)
        for reason in ("[2021] another product", "[2021] another product", ""):
            active.note_result(loaded, reason, refused=bool(reason))
        assert active.watch(3, 0.0) == ("", False)
        active.swap(loaded)
        for _ in range(3):
            active.note_result(loaded, "[2021] another product", refused=True)
        assert active.watch(3, 0.0) == ("[2021] another product", False)
    finally:
        loaded.close()
