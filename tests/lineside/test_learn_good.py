"""``lineside learn-good``, and what its bundle does in the other commands."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy

from lineside.cli import main
from lineside.demo.strip_frames import write_frames
from lineside.inspection.good_frames import PhotoReader, bad_frames, good_frames, marked_frames
from lineside_models.simulator import render
from lineside_runtime.errors import ConfigError, DatasetError

GOOD = 12
TRIES = 4


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head of marked defects that show clearly needs a quarter of the steps."""
    monkeypatch.setattr("lineside_models.anomaly.defect_head.STEPS", 100)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("boards")
    rows = ["image,fold"]
    for kind in ("good", "stain"):
        (root / kind).mkdir()
        for number in range(GOOD + TRIES if kind == "good" else TRIES):
            image = render("steel", seed=number + 100 * (kind == "stain"), defects=0).image.copy()
            if kind == "stain":
                cv2.circle(image, (120, 90), 4 + 6 * number, (250,) * 3, -1)
            assert cv2.imwrite(str(root / kind / f"{number:02d}.png"), image)
            rows.append(f"{kind}/{number:02d}.png,{'train' if kind == 'good' and number < GOOD else 'val'}")
    (root / "folds.csv").write_text("\n".join(rows) + "\n")
    return root


def test_masks_beside_photos_are_no_parts(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), np.full((40, 40), 100 + number, np.uint8))
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((40, 40), np.uint8))
    photos = PhotoReader()
    for found in (good_frames([str(tmp_path)], 9, photos), bad_frames([tmp_path], photos)):
        assert [Path(frame.source).name for frame in found] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [Path(one.frame.source).name for one in marked_frames([tmp_path], photos)] == ["0.jpg", "1.jpg", "2.jpg"]
    assert not photos.copies


def test_the_fold_of_plain_photos_is_that_of_their_table_and_never_ignored(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((40, 40), 100 + number, np.uint8))
    with pytest.raises(DatasetError, match="no folds"):
        list(good_frames([str(tmp_path)], 9, PhotoReader(), fold="train"))
    (tmp_path / "folds.csv").write_text("image,fold\n0.png,train\n2.png,val\n")
    found = good_frames([str(tmp_path)], 9, PhotoReader(), fold="train")
    assert [Path(frame.source).name for frame in found] == ["0.png"]
    for given in ({"fold": "train"}, {"parts": "lot"}):
        with pytest.raises(ConfigError, match=f"--{next(iter(given))}.*a folder"):
            good_frames([str(tmp_path / "0.png")], 9, PhotoReader(), **given)


@pytest.fixture(scope="module")
def learned(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A bundle that was checked on the bad parts, and what was said on stdout and stderr."""
    place = tmp_path_factory.mktemp("made") / "boards"
    given = ["learn-good", "--source", str(data), "--fold", "train", "--frames", "12", "--check", str(data / "stain")]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main([*given, "--out", str(place)]) == 0
    return place, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def bundle(learned: tuple[Path, str, str]) -> Path:
    return learned[0]


def test_it_learns_from_the_good_ones_of_the_fold(bundle: Path) -> None:
    report = json.loads((bundle / "report.json").read_text())
    assert report["frames"] == GOOD
    assert len(report["left_out"]) == GOOD
    assert main(["bundle", "verify", str(bundle)]) == 0


def test_evaluate_gives_the_auroc_that_scipy_gives_of_inspects_scores(
    bundle: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["evaluate", str(bundle), "--data", str(data), "--fold", "val", "--json", "--html", str(page)]) == 0
    result = json.loads(capfd.readouterr().out)
    assert (result["frames"], result["good"]) == (2 * TRIES, TRIES)
    good = [str(data / "good" / f"{number:02d}.png") for number in range(GOOD, GOOD + TRIES)]
    assert main(["inspect", *good, str(data / "stain"), "--model", str(bundle), "--json"]) == 0
    verdicts = json.loads(capfd.readouterr().out)["inspections"]
    scores = [one["anomaly_score"] for one in verdicts]
    wanted = scipy.stats.mannwhitneyu(scores[TRIES:], scores[:TRIES]).statistic / TRIES**2
    assert result["auroc"] == pytest.approx(wanted, abs=1e-9)
    assert result["recall"] == np.mean([not one["passed"] for one in verdicts[TRIES:]])
    assert result["per_class"]["stain"]["auroc"] == result["auroc"]
    rejected = [not one["passed"] for one in verdicts]
    found, (good,) = (
        result["good_or_bad"]["recall"],
        {one["rejected"] for one in result["good_or_bad"]["false_rejects"]},
    )
    assert (found["rejected"], good) == (sum(rejected[TRIES:]), sum(rejected[:TRIES]))
    wrong = TRIES - sum(rejected[TRIES:]) + sum(rejected[:TRIES])
    assert len(result["worst_frames"]) == wrong
    text = page.read_text()
    assert text.index("escapes") < text.index("AUROC")
    assert text.count("data:image/jpeg;base64,") == 2 * wrong


def test_a_drawn_frame_shows_heat_where_the_stain_is(bundle: Path, data: Path, tmp_path: Path) -> None:
    stained = data / "stain" / "01.png"
    assert main(["inspect", str(stained), "--model", str(bundle), "--draw", str(tmp_path / "drawn")]) == 0
    (drawn,) = (tmp_path / "drawn").iterdir()
    picture, frame = cv2.imread(str(drawn)), cv2.imread(str(stained))
    assert picture is not None
    assert frame is not None
    factor = picture.shape[1] // frame.shape[1]  # small frames are enlarged, below a banner
    below = picture[picture.shape[0] - factor * frame.shape[0] :: factor, ::factor].astype(int)
    changed = np.abs(below - frame).sum(axis=2)
    assert changed[85:95, 130:138].mean() > 3 * changed[-20:, :20].mean()


def test_wrong_wishes_are_told(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert main(["learn-good", "--out", str(tmp_path / "x"), *arguments]) == 1
        return capfd.readouterr().err

    assert "[2002] nocamera is not there, and no kind of camera" in said("--source", "nocamera")
    assert "[2002]" in said("--source", str(tmp_path / "nowhere.mp4"))
    assert "[2001]" in said("--source", str(data), "--frames", "0")
    assert "too few different pictures" in said("--source", str(data), "--frames", "3")
    assert "[2008]" in said("--source", str(data), "--fold", "test")
    assert "[2001]" in said("--source", "nocamera", "key=1")
    assert not (tmp_path / "x").exists()


def test_bad_parts_are_judged_and_what_passes_is_said(
    data: Path, learned: tuple[Path, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, err = learned
    assert "of 4 bad parts found (stain)" in out
    assert "12 parts: the threshold is high" in err and err.count("warning: ") == 1
    given = ["learn-good", "--source", str(data), "--fold", "train", "--frames", "12"]
    assert main([*given, "--out", str(tmp_path / "b"), "--check", str(data / "good"), "--json"]) == 0
    said = capsys.readouterr()
    assert "bad parts of good pass: this model doesn't find these defects" in said.err
    report = json.loads((tmp_path / "b" / "report.json").read_text())
    assert report["checked"]["frames"] == GOOD + TRIES
    assert len(report["checked"]["passed"]) > GOOD
    assert json.loads(said.out)["checked"] == report["checked"]
    assert "bad parts (good) were found" in (tmp_path / "b" / "model_card.md").read_text()
    assert main([*given, "--out", str(tmp_path / "c"), "--check", str(tmp_path / "nowhere")]) == 1
    assert "no folder of bad parts" in capsys.readouterr().err and not (tmp_path / "c").exists()


def test_copies_of_a_frame_are_no_further_parts(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = tmp_path / "twice"
    twice.mkdir()
    for path in sorted((data / "good").iterdir()):
        for name in (path.name, f"copy-{path.name}"):
            (twice / name).write_bytes(path.read_bytes())
    reports = []
    for source in (data / "good", twice):
        out = tmp_path / f"made-{source.name}"
        assert main(["learn-good", "--source", str(source), "--out", str(out), "--json"]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    for key in ("frames", "parts"):
        assert reports[0][key] == reports[1][key] == GOOD + TRIES
    assert reports[0]["bar"] == pytest.approx(reports[1]["bar"], rel=0.05)  # frames come in another order
    assert main(["learn-good", "--source", str(twice), "--out", str(tmp_path / "made"), "--frames", "20"]) == 0
    assert "10 frames left out: copies of others" in capsys.readouterr().out


def test_good_parts_that_differ_widely_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(20):
        image = render("pcb", seed=number, defects=0).image  # each another board
        assert cv2.imwrite(str(tmp_path / f"{number:02d}.png"), image)
    bundle = tmp_path / "made"
    assert main(["learn-good", "--source", str(tmp_path), "--frames", "20", "--out", str(bundle)]) == 0
    assert "the good parts differ widely" in capsys.readouterr().err
    assert "good parts differ widely" in (bundle / "model_card.md").read_text()


def test_a_bundle_is_extended_at_a_changeover(
    bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    new.mkdir()
    for number in range(5):
        image = np.roll(render("pcb", seed=3, defects=0).image, number, axis=1)
        assert cv2.imwrite(str(new / f"{number}.png"), image)
    damaged = [new / "1-cut.png", new / "9-empty.png"]
    for path in damaged:
        path.write_bytes((new / "0.png").read_bytes()[:100] if path == damaged[0] else b"")
    given = ["learn-good", "--source", str(new), "--add", str(bundle), "--out", str(tmp_path / "both")]
    assert main(given) == 1, "damaged photos are a finding; the bundle is made"
    said = capsys.readouterr()
    assert [line.split(" is not")[0] for line in said.err.splitlines() if line.startswith("not read: ")] == [
        f"not read: [2003] {path}" for path in damaged
    ]
    assert "2 photos not read and left out" in said.out
    assert "5 frames added, " in said.out
    assert "5 of them were rejected before; 0 are when their part is left out" in said.out
    for path in damaged:
        path.unlink()
    assert main(["inspect", str(new), "--model", str(tmp_path / "both"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["rejected"] == 0
    assert main([*given[:-1], str(tmp_path / "x"), "--quantile", "0.9"]) == 1
    assert "--quantile with --add" in capsys.readouterr().err
    assert main([*given[:-1], str(tmp_path / "x"), "--bad", str(data / "stain")]) == 1
    assert "--bad with --add" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("short_training")
def test_marked_bad_parts_are_learned_with_boxes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marked = tmp_path / "marked"
    marked.mkdir()
    rows = ["image,class,x1,y1,x2,y2"]
    for path in sorted((data / "stain").iterdir()):
        (marked / path.name).write_bytes(path.read_bytes())
        rows.append(f"{path.name},stain,100,70,140,110")
    (marked / "boxes.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "out"
    given = ["learn-good", "--source", str(data), "--fold", "train", "--frames", "12", "--out", str(out)]
    assert main([*given, "--bad", str(marked)]) == 0
    capsys.readouterr()
    assert json.loads((out / "report.json").read_text())["marked"] == TRIES
    assert main(["inspect", str(data / "stain"), "--model", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["rejected"] == TRIES
    assert "bad parts were marked" in (out / "model_card.md").read_text()


def test_the_page_shows_the_strangest_frames_first(bundle: Path, data: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["inspect", str(data / "stain"), str(data / "good"), "--model", str(bundle), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.count("<figure>") == GOOD + 2 * TRIES
    assert text.index('class="bad">rejected</span> 03') < text.index('class="good">passed')


def test_the_demo_finds_the_bad_parts_and_passes_the_good_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ``make demo-learn-good`` does it."""
    write_frames(tmp_path)
    bundle, page = str(tmp_path / "bundle"), tmp_path / "report.html"
    assert main(["learn-good", "--source", str(tmp_path / "good"), "--out", bundle]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "new"), "--model", bundle, "--page", str(page), "--json"]) == 0
    verdicts = json.loads(capsys.readouterr().out)["inspections"]
    missed = [one["part_id"] for one in verdicts if one["passed"] == one["part_id"].startswith("bad")]
    assert len(missed) <= 1
    assert page.read_text().count("data:image/jpeg") == len(verdicts) == 24


@pytest.mark.usefixtures("short_training")
def test_marked_types_are_named_in_verdicts(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Photos in a folder for each type are marked; the bundle names what looks like one of them."""
    marked, new = tmp_path / "marked", tmp_path / "new"
    for kind in ("spot", "stripes"):
        (marked / kind).mkdir(parents=True)
        for number in range(6):
            image = render("steel", seed=500 + number, defects=0).image.copy()
            left, top = 20 + 18 * number, 110 - 15 * number
            if kind == "spot":
                cv2.circle(image, (left + 20, top + 20), 18, (250,) * 3, -1)
            else:
                image[top : top + 40 : 6, left : left + 40] = 0
            folder = marked / kind if number < 5 else new
            folder.mkdir(exist_ok=True)
            assert cv2.imwrite(str(folder / f"{kind}-{number}.png"), image)
    out = tmp_path / "typed"
    given = ["learn-good", "--source", str(data), "--fold", "train", "--frames", "12", "--bad", str(marked)]
    assert main([*given, "--out", str(out)]) == 0
    assert json.loads((out / "labels.json").read_text()) == ["anomaly", "spot", "stripes"]
    assert "named spot, stripes" in (out / "model_card.md").read_text()
    capfd.readouterr()
    assert main(["inspect", str(new), "--model", str(out), "--json"]) == 0
    verdicts = json.loads(capfd.readouterr().out)["inspections"]
    found = [one["detections"][0]["type"] for one in verdicts]
    assert found == ["spot", "stripes"]
    assert main(["evaluate", str(out), "--data", str(data), "--fold", "val", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["auroc"] > 0.8
