"""From a touch at the operator screen to the frame that a person corrects: agent, broker and hub as processes."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from lineside_hub.config import load_config
from lineside_hub.relabel.export import export
from lineside_hub.relabel.selection import Selection
from lineside_runtime.bundle import Bundle
from tests.peers import free_port, wait_for
from tests.worlds.hub import query
from tests.worlds.site import Site


def test_what_people_mark_is_in_the_export_of_the_hub_with_its_image(tmp_path: Path, bundle: Bundle) -> None:
    port = free_port()
    screen = {"port": port}
    site = Site(tmp_path, frames=6, rate_hz=20.0, bundle=str(bundle.path), screen=screen)
    site.start()
    try:
        site.wait_synced()

        def rejects() -> list[dict[str, Any]]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/rejects", timeout=20) as answer:
                found: list[dict[str, Any]] = json.load(answer)
            return found

        wait_for(lambda: len(rejects()) == 3)
        reject = rejects()[1]
        missed = {"box": [1.0, 2.0, 30.0, 40.0], "type": "other"}
        marks = ((reject["sequence"], missed), (reject["sequence"] + 1, None))  # a reject and the good part behind it
        for sequence, box in marks:
            mark = {"source": reject["source"], "sequence": sequence, "kind": "missed_defect", "box": box}
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/mark", json.dumps(mark).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=20) as answer:
                assert json.load(answer)["has_image"]
        wait_for(lambda: query(site.hub_folder, "SELECT count(*) FROM frames")[0][0] == 4)
        wait_for(lambda: query(site.hub_folder, "SELECT count(*) FROM reviews WHERE wrong = 1")[0][0] == 2)
    finally:
        site.end()
    hub = load_config(site.hub_folder / "hub.toml")
    made = export(hub, Selection(verdict="wrong"), tmp_path / "out", bundle=bundle.path)
    assert (made.images, made.marked) == (2, 2)
    images = json.loads((tmp_path / "out" / "annotations.json").read_text())["images"]
    found = {(image["part_id"], image["verdict"]): image["note"] for image in images}
    assert found == {
        (reject["part_id"], "reject"): "missed defect: other at 1 2 30 40 (local)",
        (f"{reject['sequence'] + 1:04d}.png", "pass"): "missed defect (local)",
    }
