"""A work folder resumes a run, also one of an earlier release: steps and what their hashes cover stay the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lineside_converters.optimizer import Optimizer
from lineside_converters.work_folder import WorkFolder
from lineside_models.frame import Frame
from lineside_models.simulator import render
from tests.converters import nets

FRAMES = [Frame(image=render("steel", seed).image, sequence=seed) for seed in range(3)]
MAKER = ["lineside_converters.formats.onnx_qdq:make", 2]
CALIBRATED = {
    "activation": "u8s8", "clean": "#", "feeds": "#", "float": ["conv0"], "method": "minmax", "per_channel": True,
}  # fmt: skip


def made(int8: str | None, float_nodes: list[str], why: str) -> tuple[str, dict[str, Any]]:
    plan = {"corrected": False, "float_nodes": float_nodes, "method": "minmax", "why": why}
    hashed = {"activation": "u8s8", "clean": "#", "feeds": "#", "int8": int8, "maker": MAKER, "plan": plan}
    return "onnx", hashed


STEPS: dict[int, list[tuple[str, dict[str, Any]]]] = {
    0: [("clean", {"source": "#"}), made(None, [], "level 0")],
    1: [
        ("clean", {"source": "#"}),
        ("int8", CALIBRATED),
        ("tuned", CALIBRATED | {"labels": list(nets.FACTS.labels or ()), "tuning": 0}),
        ("int8", CALIBRATED),
        made("#", ["conv0"], "quantised"),
    ],
}
"""By level, what earlier releases hashed for each step, but for the number of the makers; files and inputs as ``#``."""


def optimizer(tmp_path: Path, level: int, said: list[str]) -> Optimizer:
    model = tmp_path / "model.onnx"
    model.write_bytes(nets.convnet())
    how: dict[str, Any] = {"work": tmp_path / "work", "overwrite": True, "max_drop": 1.0}
    return Optimizer(model, "cpu", level, out=tmp_path / "out", frames=FRAMES, on_progress=said.append, **how)


@pytest.mark.parametrize("level", STEPS)
def test_steps_are_hashed_as_earlier_releases_did_and_a_resumed_run_repeats_none_and_writes_the_same_files(
    level: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    seen: list[tuple[str, dict[str, Any]]] = []
    step = WorkFolder.step

    def noted(self: WorkFolder, name: str, inputs: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        plain = re.sub(r'"[0-9a-f]{64}"', '"#"', msgspec.json.encode(inputs).decode()).replace('"u8s7"', '"u8s8"')
        seen.append((name, json.loads(plain)))
        return step(self, name, inputs, make)

    with monkeypatch.context() as watched:
        watched.setattr(WorkFolder, "step", noted)
        first = optimizer(tmp_path, level, said).run().bundle.manifest.files
    assert seen == STEPS[level]
    kept = {path.name for path in (tmp_path / "work").iterdir()}
    said.clear()
    second = optimizer(tmp_path, level, said).run().bundle.manifest.files
    assert {path.name for path in (tmp_path / "work").iterdir()} == kept
    assert sum("earlier run" in line for line in said) >= len({name for name, _ in STEPS[level]})
    for name in first.keys() - {"report.json", "report.html", "model_card.md"}:  # which hold what was measured
        assert first[name].sha256 == second[name].sha256
    assert first.keys() == second.keys()


def test_folders_of_the_user_in_the_work_folder_stay(tmp_path: Path) -> None:
    own = [tmp_path / "work" / name / "notes.txt" for name in ("source", "trial", "widths")]
    for path in own:
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    optimizer(tmp_path, 0, []).run()
    assert [path.read_text() for path in own] == ["mine"] * 3
