"""``lineside config mask``: from a painted file to what a hub signs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside.cli import main
from lineside_agent.config import load_rules
from lineside_models.verdict.regions import Region


def test_a_painted_mask_becomes_toml_that_an_agent_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[10:30, 20:60] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    assert main(["config", "mask", str(tmp_path / "mask.png"), "--kind", "ignore", "--types", "open"]) == 0
    (tmp_path / "mask.toml").write_text(capsys.readouterr().out)
    (region,) = load_rules(tmp_path / "mask.toml").regions
    assert region == Region.from_png(tmp_path / "mask.png", "ignore", types=["open"])


def test_a_mask_that_is_too_large_to_be_signed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 400), np.uint8)
    cv2.imwrite(str(tmp_path / "noise.png"), noise)
    assert main(["config", "mask", str(tmp_path / "noise.png"), "--kind", "ignore"]) == 1
    assert "fewer pixels" in capsys.readouterr().err
