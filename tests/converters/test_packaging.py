"""A bundle is there whole or not at all."""

from __future__ import annotations

import importlib.resources
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from lineside_converters.bundles.packaging import build_bundle, golden_frame, next_version
from lineside_converters.reports.report import (
    ModelFigures,
    OptimizationReport,
    SourceFacts,
    read_report,
    this_machine,
)
from lineside_models import golden
from lineside_models.frame import Frame
from lineside_models.labels import LABELS
from lineside_runtime.bundle import Bundle, open_bundle, time_now
from lineside_runtime.bundle.install import staging_folder
from lineside_runtime.errors import BundleFormatError, InputError, LinesideError
from lineside_runtime.files import scratch_folder
from lineside_runtime.session import Session
from tests.converters import nets
from tests.peers.waiting import wait_for


def report(model: str = "cells@1.0.0") -> OptimizationReport:
    return OptimizationReport(
        model=model,
        made_at=time_now(),
        level=0,
        recipe="as given",
        source=SourceFacts(name="net.onnx", sha256="0" * 64, size_bytes=1),
        machine=this_machine(1),
        float=ModelFigures(latency_ms=1.0, latency_p95_ms=2.0, size_bytes=3),
        notes=("accuracy was not measured",),
    )


def build(folder: Path, out: Path, data: bytes | None = None, **options: Any) -> Bundle:
    model = folder / "net.onnx"
    model.write_bytes(nets.cell_detector() if data is None else data)
    manifest = nets.manifest()
    return build_bundle(
        out,
        manifest=manifest,
        models={manifest.variants[0].file: model},
        report=report(),
        card="# cells\n",
        **options,
    )


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_bundle_holds_all_that_the_design_names(tmp_path: Path) -> None:
    made = build(tmp_path, tmp_path / "cells")
    assert set(made.manifest.files) >= {
        "labels.json",
        "model_card.md",
        "report.json",
        "report.html",
        "onnx-fp32/model.onnx",
    }
    assert json.loads((made.path / "labels.json").read_text()) == list(LABELS)
    assert read_report(made.path) == msgspec.structs.replace(report(), made_at=read_report(made.path).made_at)
    assert made.manifest.golden is not None
    assert made.manifest.golden.variant == "onnx-fp32"
    assert hidden(tmp_path) == []
    assert made.path.stat().st_mode & 0o777 == 0o755


def test_the_golden_input_is_drawn_or_given_and_gives_the_golden_output(tmp_path: Path) -> None:
    assert golden_frame().source == "simulator"
    np.testing.assert_array_equal(golden_frame().image, golden_frame().image)
    image, _ = nets.cells_picture(3)
    made = build(tmp_path, tmp_path / "cells", frame=Frame(image=image))
    assert made.manifest.golden is not None
    stored = cv2.imread(str(made.path / made.manifest.golden.frame), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(stored, image)
    for each in (made, build(tmp_path, tmp_path / "a" / "b" / "cells")):  # folders above it are made
        opened = open_bundle(each.path)
        assert opened.digest == each.digest
        with Session(opened) as session:
            assert min(golden.replay(session, opened).cosine.values()) > 0.9999


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_nothing_that_is_no_bundle_is_touched(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "cells"
    if kind == "folder":
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")
    elif kind == "file":
        out.write_text("years of work")
    else:
        build(tmp_path, tmp_path / "elsewhere")
        out.symlink_to(tmp_path / "elsewhere")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(InputError, match="in the way"):
        build(tmp_path, out, overwrite=True)
    assert set(before) <= {path.name for path in tmp_path.rglob("*")}
    assert hidden(tmp_path) == []


def test_a_bundle_is_replaced_only_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "cells"
    first = build(tmp_path, out)
    with pytest.raises(InputError, match="already") as caught:
        build(tmp_path, out, nets.cell_detector(bar=150))
    assert "overwrite=True" in caught.value.action
    assert open_bundle(out).digest == first.digest
    second = build(tmp_path, out, nets.cell_detector(bar=150), overwrite=True)
    assert open_bundle(out).digest == second.digest != first.digest
    assert hidden(tmp_path) == []


def test_a_model_that_does_not_run_or_is_missing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BundleFormatError, match="onnx-fp32"):
        build_bundle(tmp_path / "cells", manifest=nets.manifest(), models={}, report=report(), card="")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LinesideError):
        build(tmp_path, tmp_path / "cells", b"not a model")
    assert not (tmp_path / "cells").exists()
    assert hidden(tmp_path) == []


CHILD = """
import os, sys
from pathlib import Path
from tests.converters.test_packaging import build
for line in sys.stdin:  # each builds in a process of its own, without the imports of another
    folder, process = Path(line.strip()), os.fork()
    while process == 0:
        build(folder, folder / "cells", overwrite=True)
    print(process, flush=True)
    os.waitpid(process, 0)
    print("ended", flush=True)
"""


def is_at(folder: Path, mark: str) -> bool:
    return any(folder.glob(f".cells.{mark}"))


def test_killed_at_any_moment_it_leaves_a_whole_bundle_or_none(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        # At another stage of the first or a later build each time.
        for number, mark in enumerate(("*.tmp", "*.tmp/golden", "*.tmp/manifest.json", "*.old")):
            (folder := tmp_path / str(number)).mkdir()
            print(folder, file=child.stdin, flush=True)
            process = int(child.stdout.readline())
            try:
                wait_for(partial(is_at, folder, mark), what="a build")
            finally:
                os.kill(process, signal.SIGKILL)
            assert child.stdout.readline() == "ended\n"
            if (folder / "cells").exists():
                open_bundle(folder / "cells")
            else:  # between the two renames of a replacement only the old one stands, aside; it is whole as well
                for aside in folder.glob(".cells.*.old"):
                    open_bundle(aside)


def test_reports_of_the_first_schema_are_read_and_of_another_kind_or_a_newer_one_are_refused(tmp_path: Path) -> None:
    old = read_report(Path(str(importlib.resources.files("lineside_models") / "zoo" / "surface-12")))
    assert old.int8 is not None
    plain = json.loads(msgspec.json.encode(report()))
    path = tmp_path / "report.json"
    for text, said in ((json.dumps(plain).replace('"level"', '"lewel"'), ""), ('{"schema": 99, "new": 1}', "newer")):
        path.write_text(text)
        with pytest.raises(BundleFormatError, match=said or None) as caught:
            read_report(tmp_path)
    assert caught.value.actual == 99
    with pytest.raises(BundleFormatError):
        read_report(tmp_path / "nowhere")
    for name in ("metric", "layers", "curves", "candidates", "hypervolumes", "confusion", "disagreements", "variants"):
        del plain[name]
    path.write_text(json.dumps({**plain, "schema": 1}))
    assert (read_report(tmp_path).schema, read_report(tmp_path).layers) == (1, ())


def test_the_machine_is_described() -> None:
    machine = this_machine(3)
    assert machine.cpu
    assert machine.threads == 3
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert set(machine.tools) >= {"onnx", "onnxruntime", "numpy"}


@pytest.mark.parametrize(
    ("before", "after"),
    [("1.0.0", "1.0.1"), ("1.0.9", "1.0.10"), ("0", "1"), ("2.0-rc3", "2.0-rc4"), ("1.0-arm", "1.1-arm"), ("x", "x.1")],
)
def test_versions_go_up(before: str, after: str) -> None:
    assert next_version(before) == after


def test_what_a_killed_process_left_is_removed_and_what_it_moved_aside_comes_back(tmp_path: Path) -> None:
    dead, aside, out = tmp_path / ".made.abcdefgh.tmp", tmp_path / ".made.abcdefgh.old", tmp_path / "made"
    dead.mkdir()
    (dead / "half").write_bytes(b"x")
    aside.mkdir()
    with staging_folder(out) as first, staging_folder(out) as second:
        assert first.is_dir() and second.is_dir()
        assert out.is_dir() and {path.name for path in tmp_path.iterdir()} == {out.name, first.name, second.name}


def test_an_old_bundle_that_a_killed_replacement_left_beside_the_new_one_is_removed(tmp_path: Path) -> None:
    aside, living, out = tmp_path / ".made.abcdefgh.old", tmp_path / ".made.ijklmnop.old", tmp_path / "made"
    for folder in (aside, living, out):
        folder.mkdir()
        (folder / "whose").write_text(folder.name)
    with scratch_folder(out) as replacing:
        living.rename(replacing.with_suffix(".old"))  # of a process that lives
        with staging_folder(out):
            assert not aside.exists()
            assert replacing.with_suffix(".old").exists()
    assert (out / "whose").read_text() == "made"
