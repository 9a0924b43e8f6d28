"""Choose which replica of a model gets the next call.

Pure: it holds numbers, no thread and no clock. Whoever uses it from several threads locks it.

- The first `START_CALLS` calls follow the start shares to the letter (0.6 is six of ten), so that all are measured.
- Then a call goes where it is expected to be finished first: the calls that wait there and its own, times the measured
  service time. A lone caller so gets the fastest device, and many callers use all of them.
- A replica that is passed over for long is given a call again, or a device that has recovered would never be noticed:
  so seldom that it costs at most `PROBE_COST` of the time.
- A replica whose start share is 0 is given nothing while another one can answer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

START_CALLS = 20
EWMA_WEIGHT = 0.2
OUTLIER = 4.0  # a call counts at most as this many mean ones: one hiccup moves the mean by 0.6, a real change in three
PROBE_COST = 0.01
SHARE_WINDOW = 50  # calls over which `ReplicaLoad.share` is a moving mean


class ReplicaLoad(msgspec.Struct, eq=False):
    """What is known of one replica.

    Attributes:
        start_share: Share of the calls that it is given at first, 0 to 1.
        workers: How many calls it serves at once.
        service_ms: Moving mean of the time of one call in the engine; 0 before the first.
        measured: How many calls went into it.
        waiting: Calls that it was given and has not answered.
        share: Share of the last calls that it was given, a moving mean.
    """

    start_share: float = 1.0
    workers: int = 1
    service_ms: float = 0.0
    measured: int = 0
    waiting: int = 0
    share: float = 0.0
    _credit: float = 0.0
    _last: int = 0

    def measure(self, service_ms: float) -> None:
        """Takes in the time of one call; the first one is cold, and is replaced by the second."""
        self.measured += 1
        if self.measured <= 2:
            self.service_ms = service_ms
        else:
            step = min(service_ms, OUTLIER * self.service_ms) - self.service_ms
            self.service_ms += EWMA_WEIGHT * step

    @property
    def finish_ms(self) -> float:
        """When a call given now is expected to be answered; 0 if nothing was measured yet."""
        return (self.waiting // self.workers + 1) * self.service_ms


def start_shares(kinds: Sequence[str], gpu_ratio: float) -> list[float]:
    """Returns the shares that devices of these kinds begin with: the GPUs have ``gpu_ratio``, the others the rest."""
    gpus = sum(kind == "gpu" for kind in kinds)
    others = len(kinds) - gpus
    if not gpus or not others:
        return [1 / len(kinds)] * len(kinds)
    return [gpu_ratio / gpus if kind == "gpu" else (1 - gpu_ratio) / others for kind in kinds]


class Balancer:
    """Spreads calls over replicas.

    Attributes:
        loads: One a replica, in the order of preference.
    """

    def __init__(self, loads: Sequence[ReplicaLoad]) -> None:
        """Takes the replicas; each one's ``share`` begins at its start share."""
        self.loads = tuple(loads)
        self._given = 0
        for load in self.loads:
            load.share = load.start_share

    def give(self, out: Collection[int] = ()) -> tuple[int, int]:
        """Gives a call to a replica and counts it as waiting there.

        Returns:
            The index of the replica that would have been best, and of the one that was given the call: another one only
            if the best is out. If all are out it is the best.
        """
        self._given += 1
        wanted = self._best(self._usable(()))
        chosen = wanted if wanted not in out else self._best(self._usable(out) or [wanted])
        self._count(chosen)
        return wanted, chosen

    def take(self, index: int) -> None:
        """Notes that a replica has a call that was first given to another one."""
        self.loads[index].waiting += 1

    def end(self, index: int) -> None:
        """Notes that a replica is done with a call, answered or not."""
        self.loads[index].waiting -= 1

    def _usable(self, out: Collection[int]) -> list[int]:
        there = [i for i in range(len(self.loads)) if i not in out]
        return [i for i in there if self.loads[i].start_share > 0] or there

    def _best(self, usable: list[int]) -> int:
        if len(usable) == 1:
            return usable[0]
        if self._given <= START_CALLS:
            return self._by_share(usable)
        due = self._due(usable)
        return min(usable, key=lambda i: self.loads[i].finish_ms) if due is None else due

    def _by_share(self, usable: list[int]) -> int:
        """Smooth weighted round robin: the largest credit is next, and of equals the last."""
        total = sum(self.loads[i].start_share for i in usable) or 1.0
        for i in usable:
            self.loads[i]._credit += self.loads[i].start_share / total
        chosen = max(reversed(usable), key=lambda i: round(self.loads[i]._credit, 9))
        self.loads[chosen]._credit -= 1
        return chosen

    def _due(self, usable: list[int]) -> int | None:
        """Returns a replica that is to be measured: one that never was, or not for long."""
        fastest_ms = min((self.loads[i].service_ms for i in usable if self.loads[i].measured), default=0.0)
        for i in usable:
            load = self.loads[i]
            if load.waiting:
                continue
            if not load.measured:
                return i
            if (self._given - load._last) * fastest_ms * PROBE_COST > load.service_ms:
                return i
        return None

    def _count(self, chosen: int) -> None:
        for i, load in enumerate(self.loads):
            load.share += ((i == chosen) - load.share) / SHARE_WINDOW
        self.loads[chosen].waiting += 1
        self.loads[chosen]._last = self._given
