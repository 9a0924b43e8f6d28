from __future__ import annotations

import json
import logging
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineside_models.datasets import load_dataset
from lineside_models.labels import LABELS, PCB, STEEL
from lineside_runtime.errors import DatasetError, InputNotFoundError


def _voc(*objects: tuple[str, int, int, int, int]) -> str:
    parts = [
        f"<object>\n<name>{name}</name>\n<bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
        "</bndbox>\n</object>\n"
        for name, a, b, c, d in objects
    ]
    return f"<annotation>\n<filename>x.jpg</filename>\n{''.join(parts)}</annotation>\n"


@pytest.fixture
def steel(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    for name in ("crazing_1", "patches_2", "scratches_3"):
        (tmp_path / "images" / f"{name}.jpg").write_bytes(b"jpeg")
        (tmp_path / "annotations" / f"{name}.xml").write_text(_voc((name.split("_")[0], 1, 2, 200, 30)))
    (tmp_path / "folds.csv").write_text(
        "image,class,fold\ncrazing_1.jpg,crazing,train\npatches_2.jpg,patches,val\nscratches_3.jpg,scratches,train\n"
    )
    return tmp_path


@pytest.fixture
def board(tmp_path: Path) -> Path:
    images, annotations = tmp_path / "PCBData/group7/7", tmp_path / "PCBData/group7/7_not"
    images.mkdir(parents=True)
    annotations.mkdir()
    for number in ("001", "002"):
        (images / f"{number}_test.jpg").write_bytes(b"jpeg")
        (annotations / f"{number}.txt").write_text("10 20 40 50 1\n5 6 25 36 6\n")
    (images / "001_temp.jpg").write_bytes(b"jpeg")
    (tmp_path / "folds.csv").write_text(
        "image,fold,template_included\ngroup7/7/001_test.jpg,a,1\ngroup7/7/002_test.jpg,b,0\n"
    )
    return tmp_path


def test_steel_boxes_become_exclusive_and_count_from_zero(steel: Path) -> None:
    dataset = load_dataset(steel, "val")
    (sample,) = dataset.samples
    assert dataset.name == "neu-det"
    assert dataset.labels == STEEL
    assert sample.part_id == "patches_2"
    assert sample.boxes.dtype == np.float32
    np.testing.assert_array_equal(sample.boxes, [[0, 1, 200, 30]])
    np.testing.assert_array_equal(sample.labels, [LABELS.index("patches")])


def test_folds_split_the_images_and_an_unknown_one_names_those_there_are(steel: Path) -> None:
    parts = [{sample.part_id for sample in load_dataset(steel, fold).samples} for fold in ("train", "val", "all")]
    assert parts[0] == {"crazing_1", "scratches_3"}
    assert parts[0] | parts[1] == parts[2]
    with pytest.raises(DatasetError, match=r"all or train or val.*got test") as caught:
        load_dataset(steel, "test")
    assert caught.value.code == 2008


def test_without_folds_csv_every_fold_is_everything_and_says_so(steel: Path, caplog: pytest.LogCaptureFixture) -> None:
    (steel / "folds.csv").unlink()
    with caplog.at_level(logging.WARNING, "lineside.datasets"):
        assert len(load_dataset(steel, "val").samples) == 3
    assert "no folds.csv" in caplog.text
    caplog.clear()
    assert len(load_dataset(steel).samples) == 3
    assert not caplog.records


def test_boards_are_read_with_their_types(board: Path) -> None:
    dataset = load_dataset(board)
    assert dataset.name == "deeppcb"
    assert dataset.labels == PCB
    assert [sample.part_id for sample in dataset.samples] == ["001_test", "002_test"]
    np.testing.assert_array_equal(dataset.samples[0].boxes, [[10, 20, 40, 50], [5, 6, 25, 36]])
    assert [LABELS[label] for label in dataset.samples[0].labels] == ["open", "pin-hole"]


def test_clean_templates_come_on_request_and_stay_in_their_fold(board: Path) -> None:
    clean = [sample for sample in load_dataset(board, "a", with_clean=True).samples if not len(sample.labels)]
    assert [sample.part_id for sample in clean] == ["001_temp"]
    assert clean[0].boxes.shape == (0, 4)
    assert len(load_dataset(board, "b", with_clean=True).samples) == 1


def test_a_set_with_types_beside_those_of_steel_has_its_own_in_every_fold(steel: Path) -> None:
    (steel / "annotations" / "crazing_1.xml").write_text(_voc(("rust", 1, 1, 5, 5)))
    for fold in ("train", "val"):
        dataset = load_dataset(steel, fold)
        assert (dataset.name, dataset.labels) == ("voc", ("patches", "rust", "scratches"))
        assert dataset.vocabulary == dataset.labels
    assert load_dataset(steel, "val").samples[0].labels.tolist() == [0]


CRAZED = _voc(("crazing", 1, 1, 5, 5))
BOMB = '<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z SYSTEM "file:///etc/passwd">]><annotation><object><name>&z;</name></object></annotation>'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<annotation>\n<object>\n", "line 3"),
        (_voc(("crazing", 9, 1, 5, 5)), "line 6.*a box"),
        (CRAZED.replace("<xmax>5</xmax>", "<xmax>wide</xmax>"), "line 6.*numbers"),
        (CRAZED.replace("<ymin>1</ymin>", ""), "line 6.*numbers"),
        ("<html></html>", "root element annotation"),
        (BOMB, "line 1"),
        (" " * (1 << 20) + "<annotation/>", "too large"),
    ],
    ids=range(7),
)
def test_damaged_xml_names_file_and_line(steel: Path, text: str, says: str) -> None:
    (steel / "annotations" / "crazing_1.xml").write_text(text)
    with pytest.raises(DatasetError, match=rf"(?s)crazing_1\.xml.*{says}"):
        load_dataset(steel, "train")


@pytest.mark.parametrize(
    "line", ["1 2 3 4", "1 2 3 4 7", "1 2 3 4 0", "1 2 3 4 -1", "1 2 three 4 1", "9 2 3 4 1", "1 2 3 4 5 6"]
)
def test_damaged_text_names_file_and_line(board: Path, line: str) -> None:
    (board / "PCBData/group7/7_not/002.txt").write_text(f"10 20 40 50 1\n\n{line}\n")
    with pytest.raises(DatasetError, match=r"002\.txt: line 3"):
        load_dataset(board)


def test_missing_images_and_annotations_are_named(steel: Path) -> None:
    for name in ("annotations/patches_2.xml", "images/patches_2.jpg"):
        (steel / name).rename(steel / "away")
        with pytest.raises(DatasetError, match=Path(name).name.replace(".", r"\.")):
            load_dataset(steel, "val")
        (steel / "away").rename(steel / name)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (b"picture,fold\na.jpg,train\n", "line"),
        (b"image,fold\n../secret.jpg,train\n", "line"),
        (b"image,fold\ncrazing_1.jpg,\n", "line"),
        ("image,fold\nriß.jpg,train\n".encode("latin-1"), ".*expected a CSV file in UTF-8"),
        (b"image,fold\n" + b"x" * 200_000, ".*expected a CSV file in UTF-8"),
    ],
    ids=range(5),
)
def test_a_damaged_folds_csv_is_refused(steel: Path, table: bytes, says: str) -> None:
    (steel / "folds.csv").write_bytes(table)
    with pytest.raises(DatasetError, match=rf"folds\.csv: {says}"):
        load_dataset(steel, "train")


def test_an_unknown_layout_an_empty_set_and_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError):
        load_dataset(tmp_path / "nowhere")
    (tmp_path / "photos").mkdir()
    with pytest.raises(DatasetError, match=r"PCBData.*got photos"):
        load_dataset(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    with pytest.raises(DatasetError, match="no annotated image"):
        load_dataset(tmp_path)


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_for_an_annotation_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    (root / "images").mkdir()
    (root / "annotations").mkdir()
    (root / "images" / "a.jpg").write_bytes(b"jpeg")
    (root / "annotations" / "a.xml").write_bytes(data)
    try:
        load_dataset(root)
    except DatasetError as error:
        assert "a.xml" in str(error)


def picture(path: Path, *, height: int = 40, width: int = 60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    return path


def test_other_peoples_pascal_voc_brings_its_own_names_and_folds(tmp_path: Path) -> None:
    for name, kind in (("a", "cat"), ("b", "dog")):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "Annotations" / f"{name}.xml").write_text(_voc((kind, 1, 1, 5, 5)))
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("b\n")
    everything, val = load_dataset(tmp_path), load_dataset(tmp_path, "val")
    assert (everything.name, everything.labels) == ("voc", ("cat", "dog"))
    assert [sample.part_id for sample in val.samples] == ["b"]
    with pytest.raises(DatasetError, match="all or val"):
        load_dataset(tmp_path, "test")


def coco_file(**changes: object) -> bytes:
    content = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}],
        "categories": [{"id": 3, "name": "dent"}, {"id": 9, "name": "hole"}],
        "annotations": [
            {"image_id": 7, "category_id": 9, "bbox": [2, 3, 10, 5]},
            {"image_id": 7, "category_id": 3, "bbox": [0, 0, 60, 40], "iscrowd": 1},
        ],
    }
    return json.dumps({**content, **changes}).encode()


def test_coco_is_read_by_fold_without_its_crowds(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "val2017" / f"{name}.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_bytes(coco_file())
    dataset = load_dataset(tmp_path, "val")
    assert (dataset.name, dataset.labels, dataset.vocabulary) == ("coco", ("dent", "hole"), ("dent", "hole"))
    first, second = dataset.samples
    np.testing.assert_array_equal(first.boxes, [[2, 3, 12, 8]])
    assert first.labels.tolist() == [1]
    assert len(second.labels) == 0


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"{", "no COCO file"),
        (coco_file(annotations=[{"image_id": 1, "category_id": 9, "bbox": [0, 0, 1, 1]}]), r"annotations\[0\]"),
        (coco_file(annotations=[{"image_id": 7, "category_id": 9, "bbox": [0, 0, -1, 1]}]), "a box"),
        (coco_file(images=[{"id": 7, "file_name": "../../etc/passwd"}], annotations=[]), "below"),
        (coco_file(images=[{"id": 7, "file_name": "none.jpg"}], annotations=[]), "none.jpg is missing"),
        (coco_file(images=[], annotations=[]), "no annotated image"),
        (coco_file(annotations=[{"image_id": 7, "category_id": 9, "segmentation": [[1, 1, 9, 1, 9, 9]]}]), "no bbox"),
        (coco_file(images=[{"id": 7, "file_name": "a.jpg"}, {"id": 7, "file_name": "b.jpg"}]), "image id 7 .*twice"),
        (coco_file(images=[{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "a.jpg"}]), "a.jpg is .*twice"),
        (coco_file(categories=[{"id": 9, "name": "dent"}, {"id": 9, "name": "hole"}]), "category id 9 .* twice"),
    ],
)
def test_damaged_coco_is_named(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_bytes(data)
    with pytest.raises(DatasetError, match=says):
        load_dataset(tmp_path, "val")


def test_types_whose_names_are_alike_are_warned_of_and_blanks_around_a_name_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "instances_all.json"
    with caplog.at_level(logging.WARNING, "lineside.datasets"):
        file.write_bytes(coco_file(categories=[{"id": 9, "name": "dent "}, {"id": 3, "name": "dent"}]))
        assert load_dataset(tmp_path).labels == ("dent",)
        assert not caplog.records
        file.write_bytes(coco_file(categories=[{"id": 9, "name": "Oil_spot"}, {"id": 3, "name": "oil spot"}]))
        assert load_dataset(tmp_path).labels == ("Oil_spot", "oil spot")
    assert "Oil_spot and oil spot are different types" in caplog.text


def test_a_coco_image_that_shows_a_crowd_alone_is_no_good_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "annotations").mkdir()
    crowd = {"image_id": 7, "category_id": 3, "bbox": [0, 0, 60, 40], "iscrowd": 1}
    (tmp_path / "annotations" / "instances_all.json").write_bytes(coco_file(annotations=[crowd]))
    with caplog.at_level(logging.WARNING, "lineside.datasets"):
        assert [sample.part_id for sample in load_dataset(tmp_path).samples] == ["b"]
    assert "1 image left out" in caplog.text


def yolo(root: Path, text: str, names: str = "names: [dent, hole]\n") -> Path:
    picture(root / "images" / "val" / "a.jpg")
    picture(root / "images" / "val" / "empty.jpg")
    (root / "labels" / "val").mkdir(parents=True)
    (root / "labels" / "val" / "a.txt").write_text(text)
    (root / "data.yaml").write_text(names)
    return root


@pytest.mark.parametrize("names", ["names: [dent, hole]\n", "names:\n  0: dent\n  1: hole\n"])
def test_yolo_boxes_become_pixels(tmp_path: Path, names: str) -> None:
    dataset = load_dataset(yolo(tmp_path, "1 0.5 0.5 0.5 0.25\n", names), "val")
    assert (dataset.name, dataset.labels) == ("yolo", ("dent", "hole"))
    assert {sample.part_id: len(sample.labels) for sample in dataset.samples} == {"a": 1, "empty": 0}
    np.testing.assert_allclose(dataset.samples[0].boxes, [[15, 15, 45, 25]])


def test_a_yolo_outline_becomes_its_enclosing_box_and_a_confidence_is_no_part_of_the_box(tmp_path: Path) -> None:
    outline = "1 0.25 0.5 0.5 0.25 0.75 0.5 0.5 0.75"
    dataset = load_dataset(yolo(tmp_path, f"{outline}\n0 0.5 0.5 0.5 0.25 0.9\n"), "val")
    np.testing.assert_allclose(dataset.samples[0].boxes, [[15, 10, 45, 30], [15, 15, 45, 25]])
    assert dataset.samples[0].labels.tolist() == [1, 0]


def test_yolo_keypoints_behind_a_box_are_no_outline(tmp_path: Path) -> None:
    text = "1 0.5 0.5 0.5 0.25 0.1 0.2 0.3 0.4\n"
    root = yolo(tmp_path, text, "names: [dent, hole]\nkpt_shape: [2, 2]\n")
    np.testing.assert_allclose(load_dataset(root, "val").samples[0].boxes, [[15, 15, 45, 25]])


@pytest.mark.parametrize(
    "text",
    [
        "1 0.5 0.5\n",
        "x 0 0 1 1\n",
        "7 0.5 0.5 0.1 0.1\n",
        "0 0.5 0.5 -0.1 0.1\n",
        "0 0.2 0.2 0.4 0.2 0.4 0.4 0.2\n",
        "0 0.2 0.2 0.4 0.2 0.4 0.4 x\n",
    ],
)
def test_damaged_yolo_names_file_and_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(DatasetError, match=r"a\.txt: line 1"):
        load_dataset(yolo(tmp_path, text), "val")


@pytest.mark.parametrize("names", ["nc: 2\n", "names: 3\n", "{", "names:\n  1: dent\n"])
def test_yolo_without_names_is_refused(tmp_path: Path, names: str) -> None:
    with pytest.raises(DatasetError):
        load_dataset(yolo(tmp_path, "", names), "val")


def test_a_folder_a_class_with_folds_of_either_kind(tmp_path: Path) -> None:
    for kind in ("bad", "good"):
        for number in range(2):
            picture(tmp_path / "flat" / kind / f"{number}.png")
            picture(tmp_path / "divided" / ("train", "val")[number] / kind / f"{number}.png")
    (tmp_path / "flat" / "folds.csv").write_text("image,fold\nbad/0.png,train\ngood/1.png,val\n")
    for root in ("flat", "divided"):
        dataset = load_dataset(tmp_path / root, "val")
        assert (dataset.name, dataset.labels, dataset.boxed) == ("folders", ("bad", "good"), False)
        assert 1 in {int(sample.labels[0]) for sample in dataset.samples}
    assert len(load_dataset(tmp_path / "divided").samples) == 4
    with pytest.raises(DatasetError, match="all or train or val"):
        load_dataset(tmp_path / "divided", "test")


def test_a_list_or_a_table_of_labels_numbers_the_models_outputs(tmp_path: Path) -> None:
    picture(tmp_path / "data" / "a b.jpg")
    (tmp_path / "dataset.txt").write_text("./data/a b.jpg, 300\n\n")
    dataset = load_dataset(tmp_path)
    assert dataset.numbered and not dataset.boxed
    assert dataset.samples[0].labels.tolist() == [300]
    (tmp_path / "dataset.txt").write_text("../secret.jpg, 300\n")
    with pytest.raises(DatasetError, match="line 1"):
        load_dataset(tmp_path)
    (tmp_path / "dataset.txt").unlink()
    picture(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels.csv").write_text("image,class_index\na.jpg,31\n")
    assert load_dataset(tmp_path).samples[0].labels.tolist() == [31]
    (tmp_path / "labels.csv").write_text("image,class_index\na.jpg,frog\n")
    with pytest.raises(DatasetError, match="class_index"):
        load_dataset(tmp_path)


def boxed_set(
    root: Path, layout: str, box: tuple[float, float, float, float], stated: tuple[int, int] = (60, 40)
) -> Path:
    """Writes an image of 60 × 40 pixels with one box ``x1, y1, x2, y2`` (x2 and y2 exclusive)."""
    x1, y1, x2, y2 = box
    width, height = stated
    picture(root / "images" / "a.png")
    if layout == "boxes":
        (root / "boxes.csv").write_text(f"image,class,x1,y1,x2,y2\nimages/a.png,dent,{x1},{y1},{x2},{y2}\n")
    elif layout == "voc":
        (root / "annotations").mkdir()
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        text = _voc(("dent", int(x1) + 1, int(y1) + 1, int(x2), int(y2))).replace("</filename>", f"</filename>{size}")
        (root / "annotations" / "a.xml").write_text(text)
    elif layout == "coco":
        (root / "annotations").mkdir()
        content = coco_file(
            images=[{"id": 7, "file_name": "a.png", "width": width, "height": height}],
            annotations=[{"image_id": 7, "category_id": 3, "bbox": [x1, y1, x2 - x1, y2 - y1]}],
        )
        (root / "annotations" / "instances_val.json").write_bytes(content)
    elif layout == "deeppcb":
        image = picture(root / "PCBData/group7/7/1_test.png")
        (root / "PCBData/group7/7_not").mkdir()
        image.rename(image.with_suffix(".jpg"))
        (root / "PCBData/group7/7_not" / "1.txt").write_text(f"{x1} {y1} {x2} {y2} 1\n")
    else:
        (root / "labels").mkdir()
        (root / "classes.txt").write_text("dent\n")
        cx, cy, w, h = (x1 + x2) / 120, (y1 + y2) / 80, (x2 - x1) / 60, (y2 - y1) / 40
        (root / "labels" / "a.txt").write_text(f"0 {cx} {cy} {w} {h}\n")
    return root


@pytest.mark.parametrize("layout", ["boxes", "voc", "coco", "deeppcb", "yolo"])
@pytest.mark.parametrize("box", [(50, 30, 110, 70), (5000, 5000, 5050, 5050), (-3, 2, 20, 20)])
def test_a_box_outside_of_its_image_is_refused_and_told(
    tmp_path: Path, layout: str, box: tuple[int, int, int, int]
) -> None:
    root = boxed_set(tmp_path, layout, box)
    with pytest.raises(DatasetError, match=r"outside of its image; expected a box within 60 × 40.*scale the boxes"):
        load_dataset(root)


@pytest.mark.parametrize("layout", ["boxes", "voc", "coco", "deeppcb", "yolo"])
def test_a_box_that_rounding_puts_a_pixel_outside_is_clipped(tmp_path: Path, layout: str) -> None:
    root = boxed_set(tmp_path, layout, (-1, 2, 61, 41) if layout != "yolo" else (-0.9, 2, 60.9, 40.9))
    np.testing.assert_allclose(load_dataset(root).samples[0].boxes, [[0, 2, 60, 40]], atol=1e-4)


@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_another_stated_size_than_the_files_is_warned_of(
    tmp_path: Path, layout: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = boxed_set(tmp_path, layout, (2, 2, 20, 20), stated=(120, 80))
    load_dataset(root)
    assert "1 image state another size than the file has, such as a.png: 120 × 80, the file 60 × 40" in caplog.text


def test_a_photo_turned_by_its_exif_data_has_the_turned_size(tmp_path: Path) -> None:
    root = boxed_set(tmp_path, "boxes", (2, 2, 38, 58))
    data = cv2.imencode(".jpg", np.zeros((40, 60, 3), np.uint8))[1].tobytes()
    exif = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    turned = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    (root / "images" / "a.png").write_bytes(turned)
    np.testing.assert_array_equal(load_dataset(root).samples[0].boxes, [[2, 2, 38, 58]])
