"""One frame, one verdict: of the library, of the command and of the agent, each as it is installed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import pytest

from lineside.cli import main
from lineside.vision import QualityInspector
from lineside_models import zoo
from lineside_models.simulator import render
from tests.worlds.agent import AgentProcess, write_agent

Verdict = tuple[bool, list[str], list[float]]
"""Whether the part passed, the types that were found, and their scores."""


def verdict(passed: bool, detections: Iterable[tuple[str, float]]) -> Verdict:
    """Returns a verdict, with types and scores in one order."""
    found = sorted(detections)
    return passed, [name for name, _ in found], [score for _, score in found]


def assert_same(one: dict[str, Verdict], other: dict[str, Verdict]) -> None:
    """Fails if verdict or types of a part differ, or scores by more than 0.01: engines round differently."""
    assert {part: found[:2] for part, found in one.items()} == {part: found[:2] for part, found in other.items()}
    for part, (_, _, scores) in one.items():
        assert other[part][2] == pytest.approx(scores, abs=0.01)


def test_library_command_and_agent_give_the_same_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for seed in range(12):
        picture = render("steel" if seed % 4 < 2 else "pcb", seed, defects=seed % 2)
        cv2.imwrite(str(frames / f"{seed:02d}.png"), picture.image)

    with QualityInspector() as inspector:
        paths = sorted(map(str, frames.iterdir()))
        library = {
            each.part_id: verdict(each.passed, ((d.type, d.score) for d in each.detections))
            for each in inspector.predict(paths)
        }

    assert main(["inspect", str(frames), "--json"]) in (0, 1)
    said = json.loads(capsys.readouterr().out)["inspections"]
    command = {
        each["part_id"]: verdict(each["passed"], ((d["type"], d["score"]) for d in each["detections"])) for each in said
    }

    write_agent(tmp_path, bundle=str(zoo.path("surface-12")), exit_when_done=True)
    agent = AgentProcess(tmp_path)
    agent.start()
    assert agent.wait() == 0, agent.log
    device = {
        Path(row.part_id).stem: verdict(row.verdict == "pass", ((d[0], d[1]) for d in row.detections))
        for row in agent.rows()
    }

    assert_same(library, command)
    assert_same(library, device)
    assert {passed for passed, _, _ in library.values()} == {True, False}
