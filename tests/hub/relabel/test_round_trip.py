"""Frames go out as COCO, come back corrected by somebody else's code, and are a data set to train on."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from lineside_hub.config import HubConfig
from lineside_hub.relabel.export import FrameExport, export
from lineside_hub.relabel.importer import ImportReport, correct_frame, import_corrections
from lineside_hub.relabel.reviews import mark
from lineside_hub.relabel.selection import Selection, select_results
from lineside_hub.results.sql import runner
from lineside_link.messages import ResultRow
from lineside_models.datasets import load_dataset
from lineside_models.labels import LABELS
from lineside_runtime.errors import ConfigError, DatasetError, InputNotFoundError
from tests.hub.relabel.detector_results import CLEAN, PARTS, add

Judged = tuple[list[ResultRow], list[bytes]]
Edit = Callable[[dict[str, Any]], object]


def send_out(hub: HubConfig, folder: Path, verdict: Any = "all", **choice: Any) -> FrameExport:
    return export(hub, Selection(verdict=verdict, **choice), folder)


def edit(folder: Path, change: Edit) -> None:
    """What a tool does: it reads the file and writes another one, with ``json`` alone."""
    path = folder / "annotations.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def take_in(folder: Path, into: Path, **options: Any) -> ImportReport:
    return import_corrections(folder, into=into, by="anna", **options)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_pycocotools_reads_the_models_boxes_on_the_frames_of_the_line(
    hub: HubConfig, judged: Judged, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = send_out(hub, tmp_path / "out")
    rows, images = judged
    assert (done.images, done.without_frame, done.missing, done.labels) == (PARTS - 1, 1, 0, LABELS)
    coco = COCO(str(tmp_path / "out" / "annotations.json"))
    assert [each["name"] for each in coco.loadCats(coco.getCatIds())] == list(LABELS)
    found = {each["part_id"]: each for each in coco.loadImgs(coco.getImgIds())}
    assert sum(len(row.detections) for row in rows[: PARTS - 1]) == len(coco.getAnnIds()) > 0
    for row, data in list(zip(rows, images, strict=True))[: PARTS - 1]:
        entry = found[row.part_id]
        assert (entry["device"], entry["bundle"], entry["bundle_sha256"]) == ("cam-1", row.bundle, row.bundle_sha256)
        assert (tmp_path / "out" / "images" / entry["file_name"]).read_bytes() == data
        ours = coco.loadAnns(coco.getAnnIds(imgIds=entry["id"]))
        for annotation, (label, score, x1, y1, x2, y2) in zip(ours, row.detections, strict=True):
            assert coco.loadCats(annotation["category_id"])[0]["name"] == label
            assert annotation["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.02)
            assert annotation["score"] == pytest.approx(score, abs=1e-4)
    capsys.readouterr()


def test_what_people_changed_becomes_a_data_set_a_history_and_a_confusion(hub: HubConfig, tmp_path: Path) -> None:
    send_out(hub, tmp_path / "out")
    wanted: dict[str, list[list[float]]] = {}

    def change(content: dict[str, Any]) -> None:
        """Deletes the first box, gives the second another type, adds one to a clean part; as CVAT, with new ids."""
        boxes = content["annotations"]
        del boxes[0]
        boxes[0]["category_id"] = 1 + (boxes[0]["category_id"] % 6)
        clean = next(each for each in content["images"] if each["part_id"] == f"lot0-{CLEAN[0]}")
        boxes.append({"id": 9000, "image_id": clean["id"], "category_id": 3, "bbox": [10, 20, 30, 40], "area": 1200})
        for number, image in enumerate(content["images"]):
            image["file_name"] = f"upload/{number}-{image['file_name']}"
        for number, box in enumerate(boxes):
            box["id"] = 500 + number
            box.pop("score", None)
            name = next(each["file_name"] for each in content["images"] if each["id"] == box["image_id"])[-68:]
            wanted.setdefault(name, []).append([box["category_id"] - 1, *box["bbox"]])

    edit(tmp_path / "out", change)
    total = sum(map(len, wanted.values()))
    done = take_in(tmp_path / "out", tmp_path / "set", val_share=0.5)
    assert done.boxes == {"kept": total - 2, "moved": 0, "type": 1, "added": 1, "deleted": 1}
    assert done.confusion["-"] == {LABELS[2]: 1}
    assert sum(done.confusion[each].get("-", 0) for each in done.confusion) == 1
    assert (done.new, done.corrected, done.unchanged, done.left_out) == (PARTS - 1, 0, 0, 0)
    assert sum(done.folds.values()) == PARTS - 1
    everything = load_dataset(tmp_path / "set")
    assert (everything.labels, len(everything.samples)) == (LABELS, PARTS - 1)
    for sample in everything.samples:
        boxes = sample.boxes.copy()
        boxes[:, 2:] -= boxes[:, :2]
        read = sorted([int(label), *box] for label, box in zip(sample.labels, boxes.tolist(), strict=True))
        assert np.allclose(read, sorted(wanted.get(sample.path.name, [])), atol=0.02)
    lines = [json.loads(line) for line in (tmp_path / "set" / "corrections.jsonl").read_text().splitlines()]
    assert {line["by"] for line in lines} == {"anna"}
    assert len({line["image"]["part_id"] for line in lines}) == PARTS - 1


def test_importing_twice_changes_nothing_and_another_correction_adds_to_the_history(
    hub: HubConfig, tmp_path: Path
) -> None:
    send_out(hub, tmp_path / "out")
    take_in(tmp_path / "out", tmp_path / "set")
    before = files(tmp_path / "set")
    again = take_in(tmp_path / "out", tmp_path / "set")
    assert (again.new, again.corrected, again.unchanged) == (0, 0, PARTS - 1)
    assert files(tmp_path / "set") == before
    edit(tmp_path / "out", lambda content: content["annotations"].pop())
    third = take_in(tmp_path / "out", tmp_path / "set")
    assert (third.new, third.corrected, third.unchanged) == (0, 1, PARTS - 2)
    assert len((tmp_path / "set" / "corrections.jsonl").read_text().splitlines()) == PARTS
    assert len(load_dataset(tmp_path / "set").samples) == PARTS - 1


def test_an_import_that_was_killed_half_way_is_healed_by_the_next(hub: HubConfig, tmp_path: Path) -> None:
    send_out(hub, tmp_path / "out")
    take_in(tmp_path / "out", tmp_path / "set")
    whole = files(tmp_path / "set")
    shutil.rmtree(tmp_path / "set" / "annotations")
    (tmp_path / "set" / "folds.csv").unlink()
    take_in(tmp_path / "out", tmp_path / "set")
    assert files(tmp_path / "set") == whole


KILL_AT = """
import os, signal, sys
from pathlib import Path
from lineside_hub.relabel import collection, importer
calls, at, write = 0, int(sys.argv[3]), collection.write_atomic
def killed(path, data):
    global calls
    calls += 1
    if calls == at:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, data)
collection.write_atomic = killed
importer.import_corrections(Path(sys.argv[1]), into=Path(sys.argv[2]), by="anna")
"""


def test_killed_at_any_write_the_history_is_whole_and_the_next_import_ends_it(hub: HubConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    send_out(hub, out)
    take_in(out, tmp_path / "whole")
    whole = set(files(tmp_path / "whole"))
    writes = len(whole) - 1  # the lock is none
    for at in (1, 3, writes - 2, writes):
        place = tmp_path / f"at-{at}"
        command = [sys.executable, "-c", KILL_AT, str(out), str(place), str(at)]
        assert subprocess.run(command, timeout=120, check=False).returncode == -signal.SIGKILL
        assert take_in(out, place).images == PARTS - 1
        assert set(files(place)) == whole
        lines = (place / "corrections.jsonl").read_text().splitlines()
        assert len({json.loads(line)["image"]["sha256"] for line in lines}) == len(lines) == PARTS - 1
        assert len(load_dataset(place).samples) == PARTS - 1


def test_frames_of_one_group_stay_in_one_fold_and_where_they_are(
    hub: HubConfig, judged: Judged, tmp_path: Path
) -> None:
    send_out(hub, tmp_path / "out")
    take_in(tmp_path / "out", tmp_path / "set", val_share=0.4, group=r"^(lot\d+)")

    def folds() -> dict[str, str]:
        lines = (tmp_path / "set" / "folds.csv").read_text().splitlines()[1:]
        return {line.split(",")[0]: ",".join(line.split(",")[1:]) for line in lines}

    first = folds()
    assert len({entry.split(",")[1] for entry in first.values()}) == 3
    assert len(set(first.values())) == 3, "one fold a group"
    assert {entry.split(",")[0] for entry in first.values()} == {"train", "val"}
    train = {sample.path.name for sample in load_dataset(tmp_path / "set", "train").samples}
    assert train == {name for name, entry in first.items() if entry.startswith("train")}
    rows, images = judged
    decoded = (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in images)
    other = [np.flipud(image) for image in decoded if image is not None]
    assert len(other) == len(images)
    add(hub, rows, [bytes(cv2.imencode(".png", image)[1].tobytes()) for image in other], device="cam-2")
    send_out(hub, tmp_path / "more", device="cam-2")
    take_in(tmp_path / "more", tmp_path / "set")
    assert len(folds()) == 2 * len(first)
    assert first.items() <= folds().items()
    assert len(set(folds().values())) == 3
    with pytest.raises(ConfigError, match="can't be changed"):
        take_in(tmp_path / "more", tmp_path / "set", val_share=0.1)


def test_the_hub_remembers_what_was_corrected_and_has_the_images_for_a_file_alone(
    hub: HubConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    send_out(hub, out)
    alone = tmp_path / "from-a-tool.json"
    shutil.copy(out / "annotations.json", alone)
    with pytest.raises(InputNotFoundError, match=r"export\.json"):
        take_in(alone, tmp_path / "set")
    done = import_corrections(alone, hub=hub, by="ben")
    assert done.dataset == Path(hub.folder) / "relabelled"
    assert len(load_dataset(done.dataset).samples) == PARTS - 1
    with pytest.raises(InputNotFoundError, match="none of the 1 chosen results has a frame"):
        send_out(hub, tmp_path / "again")
    assert send_out(hub, tmp_path / "again", again=True).images == PARTS - 1


def boxes_at_hub(hub: HubConfig, sha256: str) -> tuple[str, str]:
    """Boxes of a frame, as JSON, and who gave them."""
    with runner(hub) as run:
        text = "SELECT v.boxes, v.corrected_by FROM reviews v JOIN frames f ON f.device = v.device AND f.seq = v.seq"
        [found] = run(f"{text} WHERE f.sha256 = :sha256", {"sha256": sha256})
    return found[0], found[1]


@pytest.mark.parametrize("into", ["set", None])
def test_importing_again_keeps_what_another_person_corrected_in_the_browser_since(
    hub: HubConfig, tmp_path: Path, into: str | None
) -> None:
    out, place = tmp_path / "out", tmp_path / into if into else None
    send_out(hub, out)
    first = import_corrections(out, hub=hub, into=place, by="anna")
    sha256 = next((out / "images").iterdir()).stem
    correct_frame(hub, sha256, [("patches", 1.0, 2.0, 30.0, 40.0)], by="ben")
    said, dataset = boxes_at_hub(hub, sha256), files(first.dataset)
    again = import_corrections(out, hub=hub, into=place, by="anna")
    assert (again.new, again.corrected, again.kept_at_hub, again.replaced_at_hub) == (0, 0, 1, 0)
    assert boxes_at_hub(hub, sha256) == said == ('[["patches",1.0,2.0,30.0,40.0]]', "ben")
    assert files(first.dataset) == dataset
    send_out(hub, tmp_path / "later", again=True)
    last = import_corrections(tmp_path / "later", hub=hub, into=place, by="anna")
    assert (last.kept_at_hub, last.replaced_at_hub, boxes_at_hub(hub, sha256)[1]) == (0, 0, "anna")


def test_boxes_that_are_confirmed_after_a_mark_take_the_frame_out_of_the_queue_but_an_older_file_does_not(
    hub: HubConfig, tmp_path: Path
) -> None:
    send_out(hub, tmp_path / "out")
    part = json.loads((tmp_path / "out" / "annotations.json").read_text())["images"][0]["part_id"]
    import_corrections(tmp_path / "out", hub=hub, by="anna")
    mark(hub, part, wrong=True, by="ben")
    import_corrections(tmp_path / "out", hub=hub, by="anna")
    assert send_out(hub, tmp_path / "marked", verdict="wrong").images == 1
    assert import_corrections(tmp_path / "marked", hub=hub, by="anna").unchanged == 1
    assert select_results(hub, Selection(verdict="wrong")) == []


def test_an_import_says_that_it_replaces_what_another_person_corrected_since_the_export(
    hub: HubConfig, tmp_path: Path
) -> None:
    send_out(hub, tmp_path / "out")
    sha256 = next((tmp_path / "out" / "images").iterdir()).stem
    correct_frame(hub, sha256, [("patches", 1.0, 2.0, 30.0, 40.0)], by="ben")
    done = import_corrections(tmp_path / "out", hub=hub, into=tmp_path / "set", by="anna")
    assert (done.new, done.replaced_at_hub, done.kept_at_hub) == (PARTS - 1, 1, 0)
    assert boxes_at_hub(hub, sha256)[1] == "anna"


def test_a_hub_that_had_no_part_in_an_import_gets_the_boxes_by_the_next(hub: HubConfig, tmp_path: Path) -> None:
    send_out(hub, tmp_path / "out")
    take_in(tmp_path / "out", tmp_path / "set")
    assert len(select_results(hub, Selection(verdict="all"))) == PARTS - 1
    done = take_in(tmp_path / "out", tmp_path / "set", hub=hub)
    assert (done.unchanged, done.kept_at_hub) == (PARTS - 1, 0)
    assert select_results(hub, Selection(verdict="all")) == []


def test_a_person_says_which_verdict_was_wrong(hub: HubConfig, judged: Judged, tmp_path: Path) -> None:
    rejected = [row.part_id for row in judged[0][: PARTS - 1] if row.verdict == "reject"]
    passed = next(row.part_id for row in judged[0] if row.verdict == "pass")
    assert [one.part_id for one in select_results(hub, Selection(verdict="bad"))] == rejected
    with pytest.raises(InputNotFoundError):
        send_out(hub, tmp_path / "none", verdict="wrong")
    seen = mark(hub, passed, wrong=True, note="scratch at the rim", by="anna")
    assert (seen.verdict, seen.has_frame) == ("pass", True)
    done = send_out(hub, tmp_path / "out", verdict="bad")
    images = json.loads((tmp_path / "out" / "annotations.json").read_text())["images"]
    assert (done.marked, images[0]["part_id"], images[0]["note"]) == (1, passed, "scratch at the rim")
    assert [one.part_id for one in select_results(hub, Selection(verdict="wrong"))] == [passed]
    mark(hub, passed, wrong=False, by="anna")
    assert select_results(hub, Selection(verdict="wrong")) == []
    with pytest.raises(InputNotFoundError, match="no result of part"):
        mark(hub, "nobody", wrong=True, by="anna")
    add(hub, judged[0], judged[1], device="cam-2")
    with pytest.raises(ConfigError, match="2 results"):
        mark(hub, passed, wrong=True, by="anna")
    assert mark(hub, passed, wrong=True, device="cam-2", by="anna").device == "cam-2"


def test_a_limit_takes_what_a_person_called_wrong_before_newer_frames(hub: HubConfig, tmp_path: Path) -> None:
    oldest, *_, newest = (one.part_id for one in select_results(hub, Selection(verdict="all")))
    mark(hub, oldest, wrong=True, by="anna")
    done = send_out(hub, tmp_path / "out", limit=2)
    images = json.loads((tmp_path / "out" / "annotations.json").read_text())["images"]
    assert (done.marked, [image["part_id"] for image in images]) == (1, [oldest, newest])


def _of_other(content: dict[str, Any]) -> None:
    content["images"][0]["file_name"] = hashlib.sha256(b"other").hexdigest() + ".png"


DAMAGE: dict[str, tuple[Edit, str]] = {
    "an unknown image": (_of_other, "not exported from here"),
    "a name without a hash": (lambda c: c["images"][0].update(file_name="a.png"), "file_name"),
    "another size": (lambda c: c["images"][0].update(width=100, height=100), "another size"),
    "a box outside": (lambda c: c["annotations"][0].update(bbox=[190, 0, 20, 20]), "outside its image"),
    "an empty box": (lambda c: c["annotations"][0].update(bbox=[5, 5, 0, 9]), "empty or outside"),
    "a box that is no number": (lambda c: c["annotations"][0].update(bbox=[float("nan"), 0, 9, 9]), "no COCO file"),
    "a crowd": (lambda c: c["annotations"][0].update(iscrowd=1), "no crowd"),
    "an unknown type": (lambda c: [each.update(name=each["name"] + "?") for each in c["categories"]], "not known"),
    "a category that isn't there": (lambda c: c["annotations"][0].update(category_id=99), "category_id"),
    "an image that isn't there": (lambda c: c["annotations"][0].update(image_id=99), "image_id"),
    "an annotation twice": (lambda c: c["annotations"].append(c["annotations"][0]), "annotation 1 is there twice"),
    "an image id twice": (lambda c: c["images"][1].update(id=1), "image 1 is there twice"),
    "an image twice": (lambda c: c["images"].append({**c["images"][0], "id": 77}), "is there twice"),
    "no annotations": (lambda c: c.pop("annotations"), "no COCO file"),
}


def test_what_is_wrong_with_a_corrected_file_is_said_and_nothing_is_written(hub: HubConfig, tmp_path: Path) -> None:
    send_out(hub, tmp_path / "out")
    whole = (tmp_path / "out" / "annotations.json").read_bytes()
    for what, (change, said) in DAMAGE.items():
        (tmp_path / "out" / "annotations.json").write_bytes(whole)
        edit(tmp_path / "out", change)
        with pytest.raises(DatasetError, match=said) as caught:
            take_in(tmp_path / "out", tmp_path / "set")
        assert caught.value.code == 2008, what
        assert not (tmp_path / "set").exists(), what


@pytest.mark.parametrize("prefix", ["../../../", "/etc/", "images/../../", "\\..\\", "a\0/"])
def test_a_name_that_climbs_out_of_its_folder_reads_and_writes_nothing_there(
    hub: HubConfig, tmp_path: Path, prefix: str
) -> None:
    """Only the hash in a name counts: the file is the exported one, wherever the name says that it lies."""
    send_out(hub, tmp_path / "out")
    name = next((tmp_path / "out" / "images").iterdir()).name
    (tmp_path / name).write_bytes(b"somebody else's file")
    before = {path for path in tmp_path.rglob("*") if tmp_path / "out" not in (path, *path.parents)}

    def change(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["file_name"] = prefix + image["file_name"]

    edit(tmp_path / "out", change)
    assert take_in(tmp_path / "out", tmp_path / "set").images > 0
    after = {path for path in tmp_path.rglob("*") if tmp_path / "out" not in (path, *path.parents)}
    assert all(path == tmp_path / "set" or tmp_path / "set" in path.parents for path in after - before)
    assert (tmp_path / name).read_bytes() == b"somebody else's file"


@pytest.mark.parametrize("options", [{"val_share": 1.5}, {"group": "("}])
def test_settings_out_of_range_make_nothing(hub: HubConfig, tmp_path: Path, options: dict[str, Any]) -> None:
    send_out(hub, tmp_path / "out")
    with pytest.raises(ConfigError):
        take_in(tmp_path / "out", tmp_path / "set", **options)
    assert not (tmp_path / "set").exists()


def test_an_image_that_was_changed_or_is_gone_is_refused(hub: HubConfig, tmp_path: Path) -> None:
    send_out(hub, tmp_path / "out")
    path = next((tmp_path / "out" / "images").iterdir())
    image = cv2.imread(str(path))
    assert image is not None
    cv2.imwrite(str(path), image // 2)
    with pytest.raises(DatasetError, match="was changed"):
        take_in(tmp_path / "out", tmp_path / "set")
    path.unlink()
    with pytest.raises(InputNotFoundError, match="is gone"):
        take_in(tmp_path / "out", tmp_path / "set")
    assert not (tmp_path / "set").exists()
    assert take_in(tmp_path / "out", tmp_path / "set", hub=hub).new == PARTS - 1


def test_a_type_that_people_add_is_taken_when_they_say_so(hub: HubConfig, tmp_path: Path) -> None:
    send_out(hub, tmp_path / "out")

    def change(content: dict[str, Any]) -> None:
        content["categories"].append({"id": 50, "name": "dent"})
        content["annotations"][0]["category_id"] = 50

    edit(tmp_path / "out", change)
    with pytest.raises(DatasetError, match="'dent' is not known"):
        take_in(tmp_path / "out", tmp_path / "set")
    assert take_in(tmp_path / "out", tmp_path / "set", new_types=["dent"]).boxes["type"] == 1
    assert load_dataset(tmp_path / "set").labels == (*LABELS, "dent")


def test_images_that_nobody_looked_at_are_left_out_and_not_taken_for_good(hub: HubConfig, tmp_path: Path) -> None:
    send_out(hub, tmp_path / "out")

    def change(content: dict[str, Any]) -> None:
        gone = content["images"].pop()["id"]
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] != gone]

    edit(tmp_path / "out", change)
    done = take_in(tmp_path / "out", tmp_path / "set")
    assert (done.images, done.left_out, len(load_dataset(done.dataset).samples)) == (PARTS - 2, 1, PARTS - 2)


def test_a_folder_with_something_else_in_it_is_left_alone(hub: HubConfig, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(DatasetError, match="there already"):
        send_out(hub, tmp_path / "out")
    send_out(hub, tmp_path / "other")
    with pytest.raises(DatasetError, match="didn't make"):
        take_in(tmp_path / "other", tmp_path / "out")
    assert files(tmp_path / "out") == {"mine.txt": b"mine"}


def test_an_image_whose_content_is_rotten_at_the_hub_is_counted_and_left_out(hub: HubConfig, tmp_path: Path) -> None:
    victim = next(path for path in (Path(hub.folder) / "frames").rglob("*") if path.is_file())
    victim.write_bytes(victim.read_bytes()[:-1])
    done = send_out(hub, tmp_path / "out")
    assert (done.images, done.missing) == (PARTS - 2, 1)
    assert victim.name not in (tmp_path / "out" / "annotations.json").read_text()
