"""What a step sees: both domains, the same every time, nothing of what is held out."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

import torch

from lineside_converters.training.data.batches import Mixer, collate
from lineside_converters.training.data.framing import PCB
from lineside_converters.training.data.framing import STEEL as STEEL_FRAMING
from lineside_converters.training.data.samples import Domain, hold_out, load_domain, simulate_pictures
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.detection.data import canvases_per_domain, steps_per_epoch
from lineside_models.datasets import Sample
from lineside_models.labels import STEEL
from lineside_models.simulator import Kind
from lineside_runtime.errors import DatasetError, TrainingError
from tests.worlds.annotated_sets import write_boards, write_strips

pytestmark = pytest.mark.torch
Domains = tuple[Domain, ...]


def settings(**more: Any) -> DetectorConfig:
    return DetectorConfig(
        data=(Path("steel"), Path("pcb")), out=Path("out"), **({"canvas_px": 64, "batch": 8, "pcb_share": 0.5} | more)
    )


@pytest.fixture(scope="module")
def domains() -> Domains:
    made = []
    counts: dict[Kind, int] = {"steel": 8, "pcb": 4}
    for name, count in counts.items():
        pictures = tuple(simulate_pictures(name, count))
        made.append(
            Domain(
                name,
                train=tuple(p for p in pictures if len(p.boxes)),
                clean=tuple(p for p in pictures if not len(p.boxes)),
                held=(),
                simulated=pictures,
                framing=STEEL_FRAMING if name == "steel" else PCB,
            )
        )
    return tuple(made)


def mixer(domains: Domains, **more: Any) -> Mixer:
    config = settings(**more)
    return Mixer(domains, canvases_per_domain(config, domains), config=config)


def sample(part: str, *labels: int) -> Sample:
    boxes = np.tile(np.array([[1, 1, 9, 9]], np.float32), (len(labels), 1))
    return Sample(path=Path(f"{part}.jpg"), boxes=boxes, labels=np.array(labels, np.int64), part_id=part)


def test_every_batch_holds_both_domains_and_boxes_stay_on_the_canvas(domains: Domains) -> None:
    batch = mixer(domains).batch(0, mosaics=True)
    assert batch.images.shape == (8, 1, 64, 64)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert float(batch.images.min()) >= -1 and float(batch.images.max()) <= 1.01
    steel, pcb = batch.labels[:4], batch.labels[4:]
    assert (steel[steel >= 0] < len(STEEL)).all()
    assert (pcb[pcb >= 0] >= len(STEEL)).all()
    maker = mixer(domains, batch=16)
    for step in range(10):
        batch = maker.batch(step, mosaics=True)
        boxes = batch.boxes[batch.labels >= 0]
        assert boxes.min() >= 0 and boxes.max() <= 64
        assert (boxes[:, 2:] - boxes[:, :2]).min() >= 4


def test_most_board_crops_show_a_defect_and_some_show_none(domains: Domains) -> None:
    maker = mixer(domains, batch=16, simulated_share=0.0)
    shown = torch.cat([(maker.batch(step, mosaics=False).labels[8:] >= 0).any(1) for step in range(12)]).float()
    assert 0.6 < float(shown.mean()) < 0.97


def test_a_step_sees_the_same_batch_in_every_run_also_of_a_stream_that_starts_in_the_middle(domains: Domains) -> None:
    first, again = (mixer(domains).batch(5, mosaics=True) for _ in range(2))
    assert torch.equal(first.images, again.images) and torch.equal(first.boxes, again.boxes)
    assert not torch.equal(first.images, mixer(domains, seed=1).batch(5, mosaics=True).images)
    assert not torch.equal(first.images, mixer(domains).batch(6, mosaics=True).images)
    late = mixer(domains).stream(3, mosaics_at=lambda step: True)
    for step, batch in enumerate(itertools.islice(late, 3), 3):
        assert torch.equal(batch.images, mixer(domains).batch(step, mosaics=True).images)
    late.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


def test_one_lap_shows_every_picture_once_and_simulated_frames_come_as_often_as_asked(domains: Domains) -> None:
    steel, rng = domains[0], np.random.default_rng(0)
    maker = mixer(domains, simulated_share=0.0)
    seen = [id(maker._pick(steel, rng, number)) for number in range(len(steel.train))]
    assert sorted(seen) == sorted(id(p) for p in steel.train)
    steel = Domain("steel", domains[0].train[:1], (), (), domains[0].simulated, STEEL_FRAMING)
    maker = mixer((steel,), simulated_share=0.25)
    real = sum(maker._pick(steel, rng, number) is steel.train[0] for number in range(2000))
    # The one real picture is also among the simulated ones.
    assert real / 2000 == pytest.approx(0.75 + 0.25 / len(steel.simulated), abs=0.04)


def test_the_share_of_boards_decides_no_domain_is_left_out_and_an_epoch_is_one_pass_over_the_larger_set(
    domains: Domains,
) -> None:
    assert canvases_per_domain(settings(batch=24, pcb_share=1 / 3), domains) == (16, 8)
    assert canvases_per_domain(settings(batch=8, pcb_share=0.0), domains) == (7, 1)
    assert canvases_per_domain(settings(batch=8, pcb_share=1.0), domains) == (1, 7)
    assert canvases_per_domain(settings(batch=8), domains[:1]) == (8,)
    assert steps_per_epoch((4, 4), domains) == -(-len(domains[0].train) // 4)
    with pytest.raises(TrainingError, match="one domain"):
        canvases_per_domain(settings(), (domains[0], domains[0]))
    clean = next(p for d in domains for p in (*d.clean, *d.train) if p.image.shape == (200, 200))
    labels = collate([clean]).labels  # padded with -1
    assert labels.shape[1] >= 1 and ((labels >= 0).sum(1) == len(clean.boxes)).all()


def test_a_board_and_its_template_stay_on_one_side() -> None:
    samples = [
        sample(f"{n}_{kind}", *([6 + n % 6] if kind == "test" else [])) for n in range(40) for kind in ("test", "temp")
    ]
    held, rest = hold_out(samples, share=0.1)
    assert len(held) == 8 and len(held) + len(rest) == 80
    stems = [{s.part_id.split("_")[0] for s in side} for side in (held, rest)]
    assert not stems[0] & stems[1]


def test_every_type_is_held_out_alike_and_always_the_same_parts() -> None:
    samples = [sample(f"part{n}", n % 6) for n in range(300)]
    held, _ = hold_out(samples, share=0.08)
    counts = np.bincount([int(s.labels[0]) for s in held], minlength=6)
    assert len(held) == pytest.approx(300 * 0.08, abs=3)
    assert counts.min() >= 3 and counts.max() <= 5
    shuffled = [samples[i] for i in np.random.default_rng(0).permutation(300)]
    assert {s.part_id for s in hold_out(shuffled, share=0.08)[0]} == {s.part_id for s in held}


def test_folders_become_domains(tmp_path: Path) -> None:
    steel = load_domain(write_strips(tmp_path / "a", {"train": 6}), held_share=0.3, simulate=False)
    boards = load_domain(write_boards(tmp_path / "b", {"train": 6}), held_share=0.3, simulate=False)
    assert (steel.name, boards.name) == ("steel", "pcb")
    assert len(steel.train) + len(steel.held) == 6 and not steel.clean and not steel.simulated
    assert len(boards.train) + len(boards.clean) + len(boards.held) == 12
    assert all(p.image.shape == (640, 640) for p in boards.train + boards.clean + boards.held)


def test_a_folder_with_one_part_and_an_image_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="too few"):
        load_domain(write_strips(tmp_path / "one", {"train": 1}), held_share=0.1, simulate=False)
    write_strips(tmp_path / "a", {"train": 4})
    (tmp_path / "a" / "images" / "s2.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"s2\.png"):
        load_domain(tmp_path / "a", held_share=0.3, simulate=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch", 3), ("canvas_px", 100), ("minutes", 0), ("epochs", 0), ("held_share", 0.0), ("pcb_share", 1.5),
     ("simulated_share", -0.1), ("learning_rate", 1.0), ("evaluate_every", 0), ("threads", 0)],
)  # fmt: skip
def test_settings_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(TrainingError, match=name) as caught:
        settings(**{name: value})
    assert caught.value.actual == value


def test_settings_travel_without_this_machines_paths() -> None:
    config = DetectorConfig(data=(Path("/home/me/neu-det"),), out=Path("/home/me/run"))
    assert config.as_dict()["data"] == ["neu-det"]
    assert "/home" not in str(config.as_dict())
