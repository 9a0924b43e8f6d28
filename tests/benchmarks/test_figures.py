"""Tables that are rendered from result files, in a tree with one page of each kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.figures.__main__ import main
from benchmarks.figures.blocks import blocks
from benchmarks.models.accuracy import identity_of
from benchmarks.provenance import collect, sources_sha256
from benchmarks.registry import RESULTS
from lineside_models import zoo
from lineside_runtime.bundle import open_bundle

DETECTOR = {
    "sizes": {
        kind: {
            **{
                name: {"p5": 4.1, "p50": 4.5, "p95": 4.9}
                for name in ("int8_ms", "float_ms", "preprocess_ms", "decode_nms_ms")
            },
            "speedup_int8": 2.127,
        }
        for kind in ("steel", "pcb")
    },
    "file_ratio": 0.213,
}
PAGE = """# Detector

<!-- figures: detector -->
<!-- end figures -->

After the table; the other figures are in `benchmarks/results/{detector,others}.json`.
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository whose page shows one result, rendered."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "detector.md").write_text(PAGE)
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "fast.py").write_text("SPEED = 1\n")
    write_result(tmp_path, "detector", DETECTOR)
    write_result(tmp_path, "others", {})
    assert main(["--root", str(tmp_path)]) == 0
    return tmp_path


def write_result(tree: Path, name: str, content: dict[str, Any]) -> None:
    folder = tree / "benchmarks" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content))


def with_provenance(tree: Path, content: dict[str, Any]) -> dict[str, Any]:
    found = collect("python -m benchmarks detector", ["engine"])
    fields = {name: getattr(found, name) for name in found.__struct_fields__}
    sources = {"paths": ["engine"], "sha256": sources_sha256(["engine"], root=tree)}
    return {"provenance": {**fields, "sources": sources, "commit": "0123456789abcdef", "dirty": False}, **content}


def test_a_page_that_was_rendered_passes(tree: Path) -> None:
    text = (tree / "docs" / "detector.md").read_text()

    assert main(["--check", "--root", str(tree)]) == 0
    assert "| strip, 224 px | 4.50 (4.10 to 4.90) |" in text
    assert "2.13 ×" in text
    assert "commit not recorded, **stale**" in text
    assert text.endswith(PAGE.partition("<!-- end figures -->")[2])


def test_one_changed_digit_of_a_page_or_a_result_is_found_and_a_cited_result_that_is_gone(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tree / "docs" / "detector.md"
    text = page.read_text()
    page.write_text(text.replace("2.13 ×", "2.14 ×", 1))
    assert main(["--check", "--root", str(tree)]) == 1
    said = capsys.readouterr().err
    assert "docs/detector.md: block detector differs" in said and "2.14 ×" in said and "2.13 ×" in said
    page.write_text(text)
    write_result(tree, "detector", {**DETECTOR, "file_ratio": 0.214})
    assert main(["--check", "--root", str(tree)]) == 1
    assert "docs/detector.md: block detector differs" in capsys.readouterr().err
    for name in ("detector", "others"):
        (tree / "benchmarks" / "results" / f"{name}.json").unlink()
    assert main(["--check", "--root", str(tree)]) == 1
    said = capsys.readouterr().err
    assert all(f"docs/detector.md: cites {name}.json, which does not exist" in said for name in ("detector", "others"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("figures: detector", "figures: detektor"), "unknown block detektor"),
        (("<!-- end figures -->", ""), "block detector is not closed"),
        (("<!-- figures: detector -->", ""), "a block ends that did not begin"),
        (("<!-- figures: detector -->", "<!-- figures detector -->"), "malformed marker"),
    ],
)
def test_a_wrong_marker_is_found(
    tree: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], problem: str
) -> None:
    page = tree / "docs" / "detector.md"
    page.write_text(page.read_text().replace(*change))

    for arguments in (["--check"], []):
        assert main([*arguments, "--root", str(tree)]) == 1
        said = capsys.readouterr().err
        assert "docs/detector.md" in said
        assert problem in said


def test_a_result_of_another_shape_names_the_key(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_result(tree, "detector", {"sizes": {"steel": {"int8_ms": "4.5"}}})

    assert main(["--check", "--root", str(tree)]) == 1
    assert "docs/detector.md: block detector: benchmarks/results/detector.json.sizes.steel.int8_ms: no key 'p5'" in (
        capsys.readouterr().err
    )


def test_a_figure_is_stale_when_the_measured_code_has_changed(tree: Path) -> None:
    page = tree / "docs" / "detector.md"
    write_result(tree, "detector", with_provenance(tree, DETECTOR))
    assert main(["--root", str(tree)]) == 0
    assert "commit `0123456`." in page.read_text()
    assert "stale" not in page.read_text()

    (tree / "engine" / "fast.py").write_text("SPEED = 2\n")

    assert main(["--check", "--root", str(tree)]) == 1
    assert main(["--root", str(tree)]) == 0
    assert "commit `0123456`, **stale**" in page.read_text()


def test_a_result_that_was_never_measured_or_left_out_is_said_with_the_reason(tree: Path) -> None:
    (tree / "docs" / "device_loss.md").write_text("<!-- figures: device_loss -->\n<!-- end figures -->\n")
    for reason in ("one core only", ["one core only"]):
        write_result(tree, "detector", {"left_out": reason})
        assert main(["--root", str(tree)]) == 0
        assert "Not measured: one core only." in (tree / "docs" / "detector.md").read_text()
    assert "Not measured: `python -m benchmarks device_loss`" in (tree / "docs" / "device_loss.md").read_text()
    assert main(["--check", "--root", str(tree)]) == 0


def test_a_changed_model_card_is_described_in_its_manifest(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tree / "zoo" / "patch-features"
    shutil.copytree(zoo.path("patch-features"), bundle)
    card = bundle / "model_card.md"
    card.write_text(f"{card.read_text()}\n<!-- figures: detector -->\n<!-- end figures -->\n")
    before = json.loads((bundle / "manifest.json").read_bytes())

    assert main(["--check", "--root", str(tree)]) == 1
    assert "zoo/patch-features/model_card.md: manifest.json describes another file" in capsys.readouterr().err
    assert main(["--root", str(tree)]) == 0

    assert main(["--check", "--root", str(tree)]) == 0
    assert "2.13 ×" in card.read_text()
    open_bundle(bundle, verify=True)
    after = json.loads((bundle / "manifest.json").read_bytes())
    assert {**after, "files": None} == {**before, "files": None}
    assert [name for name in after["files"] if after["files"][name] != before["files"][name]] == ["model_card.md"]


@pytest.mark.parametrize("detector", ["surface-12", "surface-12, onnx-int8", "surface-12-float", "surface-starter"])
def test_the_figures_on_the_model_cards_are_of_the_shipped_weights(detector: str) -> None:
    result = RESULTS / "accuracy.json"
    if not result.exists():
        pytest.skip("the accuracy was not measured: python -m benchmarks accuracy")
    found = json.loads(result.read_bytes())["detectors"][detector]

    assert found["sha256"] == identity_of(zoo.path(found["bundle"].partition("@")[0]), found["variant"])


def test_every_block_has_a_renderer_with_a_summary() -> None:
    assert all(each.render.__doc__ for each in blocks().values())
