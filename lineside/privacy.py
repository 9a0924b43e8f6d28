"""``lineside.privacy``: what devices, servers and plants compute together without showing their numbers.

`EncryptedHead` asks a server that cannot read what it computes with. Several plants add up their counts with
`run_round` (the coordinator) and `PlantService` (each plant), find the worst of them with `run_comparison`, and train
with `TrainingCoordinator` and `TrainingPlant`. Who may be dishonest, and what leaks anyway: docs/privacy.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lineside.extras import needs
from lineside_runtime.encrypted import EncryptedHead

if TYPE_CHECKING:
    from lineside_hub.federation.comparison.rounds import run_comparison
    from lineside_hub.federation.pool_config import load_pool
    from lineside_hub.federation.pool_rounds import PlantService, run_round
    from lineside_hub.federation.quality_counts import QualityQuestion
    from lineside_hub.federation.training_coordinator import TrainingCoordinator
    from lineside_hub.federation.training_plant import TrainingPlant
    from lineside_link.aggregation.identity import read_key

__all__ = [
    "EncryptedHead",
    "PlantService",
    "QualityQuestion",
    "TrainingCoordinator",
    "TrainingPlant",
    "load_pool",
    "read_key",
    "run_comparison",
    "run_round",
]

_FEDERATION = "lineside_hub.federation"
_MODULES = {
    "PlantService": f"{_FEDERATION}.pool_rounds",
    "QualityQuestion": f"{_FEDERATION}.quality_counts",
    "TrainingCoordinator": f"{_FEDERATION}.training_coordinator",
    "TrainingPlant": f"{_FEDERATION}.training_plant",
    "load_pool": f"{_FEDERATION}.pool_config",
    "read_key": "lineside_link.aggregation.identity",
    "run_comparison": f"{_FEDERATION}.comparison.rounds",
    "run_round": f"{_FEDERATION}.pool_rounds",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'lineside.privacy' has no attribute {name!r}")
    with needs("convert"):  # the hub, which no device has
        module = importlib.import_module(_MODULES[name])
    return getattr(module, name)
