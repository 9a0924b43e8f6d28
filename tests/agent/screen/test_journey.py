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


def test_a_marked_reject_is_first_in_the_export_of_the_hub(tmp_path: Path, bundle: Bundle) -> None:
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
        box = {"box": [1.0, 2.0, 30.0, 40.0], "type": "other"}
        mark = {"source": reject["source"], "sequence": reject["sequence"], "kind": "missed_defect", "box": box}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/mark", json.dumps(mark).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert json.load(answer)["has_image"]
        wait_for(lambda: query(site.hub_folder, "SELECT count(*) FROM frames")[0][0] == 3)
        wait_for(lambda: query(site.hub_folder, "SELECT count(*) FROM reviews WHERE wrong = 1")[0][0] == 1)
    finally:
        site.end()
    hub = load_config(site.hub_folder / "hub.toml")
    made = export(hub, Selection(verdict="wrong"), tmp_path / "out", bundle=bundle.path)
    assert (made.images, made.marked) == (1, 1)
    (image,) = json.loads((tmp_path / "out" / "annotations.json").read_text())["images"]
    assert (image["part_id"], image["note"]) == (reject["part_id"], "missed defect: other at 1 2 30 40 (local)")
