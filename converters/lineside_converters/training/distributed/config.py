"""Settings of training on several workers, beside those of the training itself."""

from __future__ import annotations

from lineside_converters.settings import CheckedSettings

LAYOUT_NAMES = ("auto", "ddp", "zero1", "fsdp")
SCHEME_NAMES = ("auto", "fp32", "bf16", "int8", "int4", "low-rank", "local")


class ClusterConfig(CheckedSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Workers, and how they share the work.

    Attributes:
        workers: Processes, each with a part of every batch.
        min_workers: With fewer the run waits; with ``workers`` and fewer it goes on, and takes others in when they
            come. 0 for ``workers``.
        gpus: Whether each has a GPU of its own; untested, for want of two of them.
        address: Of a Ray cluster: ``auto``, ``host:port`` or ``ray://host:port``; empty starts Ray on this machine.
        storage: Folder or fsspec URL that every node reaches, for checkpoints; empty for the run's own folder, which
            serves one machine or a shared file system.
        sharding: ``auto``, ``ddp``, ``zero1`` or ``fsdp``.
        gradients: ``auto``, ``fp32``, ``bf16``, ``int8``, ``int4``, ``low-rank`` or ``local``.
        measured_shares: Whether a slow worker gets fewer rows of a batch. Which ones then depends on the clock, so
            that two runs with one seed are no longer the same.
        max_failures: How often the workers begin again from the last checkpoint after one has died.
    """

    workers: int
    min_workers: int = 0
    gpus: bool = False
    address: str = ""
    storage: str = ""
    sharding: str = "auto"
    gradients: str = "auto"
    measured_shares: bool = False
    max_failures: int = 3

    def __post_init__(self) -> None:
        self._check("workers", self.workers >= 1, "1 or more")
        self._check("min_workers", 0 <= self.min_workers <= self.workers, f"{self.workers} (workers) or fewer")
        self._check("max_failures", self.max_failures >= 0, "0 or more")
        self._check("sharding", self.sharding in LAYOUT_NAMES, f"one of {', '.join(LAYOUT_NAMES)}")
        self._check("gradients", self.gradients in SCHEME_NAMES, f"one of {', '.join(SCHEME_NAMES)}")
