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


def finds(detections: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Returns types and scores in one order."""
    return sorted((name, round(score, 3)) for name, score in detections)


def test_library_command_and_agent_give_the_same_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for seed in range(12):
        picture = render("steel" if seed % 4 < 2 else "pcb", seed, defects=seed % 2)
        cv2.imwrite(str(frames / f"{seed:02d}.png"), picture.image)

    with QualityInspector() as inspector:
        paths = sorted(map(str, frames.iterdir()))
        library = {
            each.part_id: (each.passed, finds((d.type, d.score) for d in each.detections))
            for each in inspector.predict(paths)
        }

    assert main(["inspect", str(frames), "--json"]) in (0, 1)
    said = json.loads(capsys.readouterr().out)["inspections"]
    command = {
        each["part_id"]: (each["passed"], finds((d["type"], d["score"]) for d in each["detections"])) for each in said
    }

    write_agent(tmp_path, bundle=str(zoo.path("surface-12")), exit_when_done=True)
    agent = AgentProcess(tmp_path)
    agent.start()
    assert agent.wait() == 0, agent.log
    device = {
        Path(row.part_id).stem: (row.verdict == "pass", finds((d[0], d[1]) for d in row.detections))
        for row in agent.rows()
    }

    assert library == command == device
    assert {passed for passed, _ in library.values()} == {True, False}
