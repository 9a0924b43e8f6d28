"""``lineside evolve``: frames that people relabelled, a better detector, its canary group; and nothing better."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import pytest

pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("optuna", reason="the train extra is not installed")

from lineside.cli import main
from lineside.commands.models.evolve import NOT_OFFERED
from lineside_converters.loading.training_run import facts_of_run
from lineside_converters.optimizer import Optimizer
from lineside_converters.reports.report import read_report
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.detection.trainer import export_detector, train_detector
from lineside_runtime.bundle import Bundle, open_bundle, write_manifest
from tests.converters.small_nets import SmallDetector
from tests.peers.processes import ChildProcess
from tests.peers.waiting import wait_for
from tests.worlds.annotated_sets import squares, write_coco
from tests.worlds.hub import query
from tests.worlds.site import GROUP, TIMEOUT_S, Site

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.usefixtures("short_gates")]

SIDE, FRAMES, FIRST = 64, 24, 100
SHORT = ["--epochs", "4", "--batch", "8", "--threads", "1", "--trials", "3", "--shortlist", "1", "--json"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_coco(tmp_path_factory.mktemp("data") / "squares", 60, side=SIDE)
    rows = [f"images/p{n // 2}-{'ab'[n % 2]}.png,{'val' if n // 2 % 3 == 2 else 'train'},p{n // 2}" for n in range(60)]
    (root / "folds.csv").write_text("\n".join(["image,fold,group", *rows]) + "\n")
    return root


@pytest.fixture(scope="module")
def detector(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A detector that finds the squares."""
    folder = tmp_path_factory.mktemp("detector")
    export_detector(SmallDetector().eval(), folder / "start.onnx")
    settings: dict[str, Any] = {"canvas_px": SIDE, "batch": 8, "threads": 1, "epochs": 12, "evaluate_every": 12}
    config = DetectorConfig(
        data=(data,), out=folder / "run", start=folder / "start.onnx", learning_rate=5e-3, **settings
    )
    train_detector(config, lambda _: None)
    made = Optimizer(
        folder / "run" / "float.onnx",
        out=folder / "bundle",
        data=data,
        memory=False,
        max_drop=1.0,
        name="squares",
        version="1.0.0",
        **facts_of_run(folder / "run"),
    ).run()
    return made.bundle


def blind(detector: Bundle, folder: Path) -> Bundle:
    """Returns the detector with thresholds that nothing reaches."""
    shutil.copytree(detector.path, folder)
    how = detector.manifest.postprocess
    changed = msgspec.structs.replace(how, params={**how.params, "thresholds": [0.9999, 0.9999]})
    return write_manifest(folder, msgspec.structs.replace(detector.manifest, postprocess=changed, files={}))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, frames=0, rate_hz=20.0, store={"keep_images": "all"}, groups=(GROUP,))
    for number in range(FRAMES):
        cv2.imwrite(str(tmp_path / "frames" / f"{number:04d}.png"), squares(FIRST + number, SIDE)[0])
    yield made
    made.end()


def told(capsys: pytest.CaptureFixture[str], *arguments: str | Path, status: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([str(word) for word in arguments]) == status
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def call_of(site: Site, data: Path, out: Path) -> list[str]:
    words = ["evolve", "--hub", site.hub_folder, "--group", GROUP, "--data", data, "--out", out, *SHORT]
    return [str(word) for word in words]


def relabel(hub: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exports all frames, gives each the boxes that were drawn, and imports them."""
    told(capsys, "relabel", "export", "--hub", hub, "--out", folder, "--verdict", "all", "--json")
    content = json.loads((folder / "annotations.json").read_text())
    types = {each["name"]: each["id"] for each in content["categories"]}
    content["annotations"] = []
    for image in content["images"]:
        _, boxes, kinds = squares(FIRST + int(Path(image["part_id"]).stem), SIDE)
        for (x1, y1, x2, y2), kind in zip(boxes, kinds, strict=True):
            one = {"id": len(content["annotations"]) + 1, "image_id": image["id"], "bbox": [x1, y1, x2 - x1, y2 - y1]}
            content["annotations"].append(one | {"category_id": types["flash" if kind else "dent"], "iscrowd": 0})
    (folder / "annotations.json").write_text(json.dumps(content))
    told(capsys, "relabel", "import", folder, "--hub", hub, "--by", "a", "--val-share", "0.4", "--json")


def inspect_all(site: Site, bundle: Bundle) -> None:
    """Starts the site with this bundle, and waits until the hub has all frames."""
    site.broker.start()
    site.hub.start()
    site.agent.start()
    site.wait_state("active", site.push(bundle))
    wait_for(
        lambda: query(site.hub_folder, "SELECT count(*) FROM frames")[0][0] >= FRAMES,
        TIMEOUT_S,
        what=lambda: f"all frames at the hub\n{site.agent.log[-2000:]}",
    )


def test_relabelled_frames_become_a_better_detector_that_a_person_gives_to_the_canary_group(
    site: Site, detector: Bundle, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inspect_all(site, blind(detector, tmp_path / "blind"))
    relabel(site.hub_folder, tmp_path / "export", capsys)
    out = tmp_path / "evolved"
    call = call_of(site, data, out)
    killed = ChildProcess([sys.executable, "-m", "lineside", *call], tmp_path / "evolve.log")
    killed.start()
    try:
        wait_for(lambda: not killed.alive or [*out.glob("work/retrained-*/checkpoint.pt")], 3 * TIMEOUT_S)
    finally:
        killed.kill()
    assert [*out.glob("work/retrained-*/checkpoint.pt")], killed.log
    found = told(capsys, *call)
    candidate = open_bundle(out / "candidate")
    assert found["offered"] and found["candidate"] == candidate.manifest.identity == "squares@1.0.1"
    assert found["verdicts"]["escapes"]["after"] < found["verdicts"]["escapes"]["before"]
    assert [each["source"] for each in found["verdicts"]["sources"]] == ["relabelled", "squares"]
    learned = read_report(candidate.path).training["pruning"]["data"]
    assert set(learned) == {"relabelled", "squares"}  # the search learned boxes, not the network's answers alone
    page = (out / "evolution.html").read_text()
    assert found["publish"] in page and "escapes" in page and "<svg" in page
    assert json.loads((out / "evolution.json").read_text()) == found
    again = told(capsys, *call)
    assert {**again, "made_at": ""} == {**found, "made_at": ""}  # nothing is made twice
    assert not query(site.hub_folder, "SELECT * FROM rollouts WHERE value LIKE '%1.0.1%'")  # nobody has signed it yet
    refuse_a_copy(site, call, out, capsys)
    pushed = told(capsys, *shlex.split(found["publish"])[1:], "--json")
    site.wait_state("active", pushed["gen"])
    site.wait_installed("squares@1.0.1")
    nothing = told(capsys, *call, status=NOT_OFFERED)
    assert "nothing new" in nothing["why"]


def refuse_a_copy(site: Site, call: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refuses a copy of what is offered: it is gone and stays so, and the hub says who refused it."""
    copy = out.with_name("refused")
    shutil.copytree(out, copy)
    call = [str(copy) if word == str(out) else word for word in call]
    refused = told(capsys, *call, "--refuse", "too few dents in it")
    assert refused["refused"].startswith("system user ") and not refused["publish"]
    assert not (copy / "candidate").exists()
    page = (copy / "evolution.html").read_text()
    assert "Refused: system user" in page and "lineside push" not in page
    [(bundle, detail)] = query(site.hub_folder, "SELECT bundle, detail FROM events WHERE kind = 'refused'")
    assert bundle == "squares@1.0.1" and detail.endswith(f"by {refused['refused']}")
    again = told(capsys, *call, status=NOT_OFFERED)
    assert again["refused"] == refused["refused"] and not (copy / "candidate").exists()
    assert main([*call, "--refuse", "twice"]) == 1


def test_nothing_is_offered_that_is_not_better(
    site: Site, detector: Bundle, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inspect_all(site, detector)
    relabel(site.hub_folder, tmp_path / "export", capsys)
    out = tmp_path / "evolved"
    call = call_of(site, data, out)
    found = told(capsys, *call, "--learning-rate", "1e-6", "--epochs", "1", status=NOT_OFFERED)
    assert not found["offered"] and not found["publish"] and not (out / "candidate").exists()
    assert "Not offered" in (out / "evolution.html").read_text()
    empty = tmp_path / "other"
    empty.mkdir()
    (empty / "notes.txt").write_text("mine")
    for wrong in (
        ["--out", empty],
        ["--max-drop", "2"],
        ["--relabelled", tmp_path / "nowhere"],
        ["--group", "none"],
        ["--canary-group", "none"],
    ):
        assert main([str(word) for word in [*call, *wrong]]) == 1
