"""One plant of `test_federation` as a process of its own: ``python -m tests.system.federation_plant FOLDER NAME``."""

from __future__ import annotations

import sys
from pathlib import Path

from lineside_hub.federation.pool_config import load_pool
from lineside_hub.federation.training_plant import TrainingPlant
from lineside_link.aggregation.identity import read_key
from tests.hub.federation.federations import DrawnTraining


def run_plant(folder: Path, name: str) -> None:
    """Takes part until the training is over, with changes that follow from the plant's name and the round."""
    plant = TrainingPlant(
        load_pool(folder / "pool.toml"),
        name,
        read_key(folder / f"{name}.key"),
        root=(folder / "federation" / "metadata" / "1.root.json").read_bytes(),
        folder=folder / f"training-{name}",
        training=DrawnTraining(name),
        on_progress=lambda line: print(line, flush=True),
    )
    try:
        plant.run()
    finally:
        plant.close()


if __name__ == "__main__":
    run_plant(Path(sys.argv[1]), sys.argv[2])
