"""From an operator's word beside the line to a data set: real processes, a real broker, plain JSON in the middle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lineside.cli import main
from lineside_models.datasets import load_dataset
from tests.peers import wait_for
from tests.worlds.site import Site

pytestmark = pytest.mark.peer


def test_a_verdict_that_an_operator_calls_wrong_is_corrected_and_can_be_learned_from(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = ["--hub", str(site.hub_folder)]

    def told(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*arguments, "--json"]) == 0
        said: dict[str, Any] = json.loads(capsys.readouterr().out)
        return said

    keep = tmp_path / "keep.toml"
    keep.write_text("[store]\nkeep_images = 'all'\n")
    told("push", "--config", str(keep), *hub, "--group", "line")
    wait_for(lambda: told("fleet", "results", *hub, "--with-frame")["results"], 60, what="frames at the hub")
    part = "0001.png"  # the bright one, which the model rejects
    marked = told("agent", "mark", part, "--config", str(site.agent.config_path), "--wrong", "--note", "it is the lamp")
    assert marked["has_frame"]
    export = ["relabel", "export", *hub, "--bundle", str(tmp_path / "bundle")]

    def goes_out() -> bool:
        out = tmp_path / "out"
        return main([*export, "--verdict", "wrong", "--out", str(out)]) == 0

    wait_for(goes_out, 60, what="the mark and its frame at the hub")
    path = tmp_path / "out" / "annotations.json"
    content = json.loads(path.read_text())
    (image,) = content["images"]
    assert (image["part_id"], image["note"], image["device"]) == (part, "it is the lamp", "cam-1")
    assert content["annotations"]
    content["annotations"] = []
    path.write_text(json.dumps(content))
    dataset = tmp_path / "set"
    done = told("relabel", "import", str(tmp_path / "out"), *hub, "--into", str(dataset), "--by", "anna")
    assert done["new"] == 1
    assert done["confusion"] == {"bright": {"-": done["boxes"]["deleted"]}}
    (sample,) = load_dataset(dataset).samples
    assert (len(sample.boxes), sample.path.read_bytes()[:4]) == (0, b"\x89PNG")
    again = [*export, "--verdict", "wrong", "--out", str(tmp_path / "again")]
    assert main(again) == 1, "what was corrected goes out no more"
