"""A hub with results of the shipped detector on simulator frames, as they came from two devices."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import tomli_w

from lineside_hub.config import HubConfig, load_config
from lineside_hub.results.database import Database
from lineside_hub.results.frames.rows import ResultKey, StoredFrame, open_rows
from lineside_hub.results.frames.storage import frame_blobs
from lineside_hub.results.streams import read_batch
from lineside_hub.results.writer import ResultsSink
from lineside_link.messages import ResultRow, Results, encode
from lineside_models import zoo
from lineside_models.frame import Frame
from lineside_models.inspector import Inspector
from lineside_models.simulator import render
from lineside_runtime.bundle import open_bundle
from lineside_runtime.session import Session
from tests.worlds.hub import make_database

PARTS = 6
"""The last of them has no frame at the hub."""

CLEAN = (1, 4)
"""Parts without a defect."""


def inspected() -> tuple[list[ResultRow], list[bytes]]:
    """Rows and images of the parts, judged by the shipped detector."""
    bundle = open_bundle(zoo.path("surface-12"))
    rows, images = [], []
    with Session(bundle) as session:
        inspector = Inspector(session)
        for number in range(PARTS):
            image = render("steel", 40 + number, defects=0 if number in CLEAN else 2).image
            verdict = inspector.inspect(Frame(image=image, part_id=f"lot{number // 2}-{number}", sequence=number))
            rows.append(
                ResultRow(
                    seq=number + 1,
                    part_id=verdict.part_id,
                    captured_at_ns=(1_764_000_000 + number) * 10**9,
                    verdict="pass" if verdict.passed else "reject",
                    detections=tuple((one.type, one.score, *one.box) for one in verdict.detections),
                    bundle=verdict.bundle,
                    bundle_sha256=bundle.digest,
                    width=verdict.width,
                    height=verdict.height,
                )
            )
            images.append(bytes(cv2.imencode(".png", image)[1].tobytes()))
    return rows, images


def make_hub(folder: Path, rows: list[ResultRow], images: list[bytes], *, device: str = "cam-1") -> HubConfig:
    """A hub's folder that holds them, without a repository: the bundle is a shipped one."""
    folder.mkdir()
    link = {"url": "mqtt://127.0.0.1:1883", "site": "test"}
    (folder / "hub.toml").write_text(tomli_w.dumps({"folder": ".", "link": link}))
    config = load_config(folder / "hub.toml")
    make_database(folder)
    add(config, rows, images, device=device)
    return config


def add(config: HubConfig, rows: list[ResultRow], images: list[bytes], *, device: str) -> None:
    """What a device sends, in the hub's own tables."""
    with Database.open(Path(config.folder)) as database:
        with database.transaction():
            ResultsSink(database).write([read_batch(device, encode(Results(epoch="e", rows=tuple(rows))))])
        frames, place = open_rows(config, database), frame_blobs(config)
        for row, data in list(zip(rows, images, strict=True))[: PARTS - 1]:
            digest = hashlib.sha256(data).hexdigest()
            place.write(digest, data)
            frames.add(StoredFrame(ResultKey(device, "e", row.seq), digest, len(data)), 1)
        frames.close()
