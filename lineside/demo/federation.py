"""Federated training on one machine: ``python -m lineside.demo.federation FOLDER``.

Five plants with frames of the line simulator train a small detector together. One plant is killed in between. Somebody
curious reads all that the coordinator receives, and at the end it is printed what that shows of a plant.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tomli_w

from lineside.console import inform, show
from lineside.demo.processes import Processes
from lineside_hub.federation import envelopes
from lineside_hub.federation.training_coordinator import FederationState, read_federation
from lineside_hub.federation.training_round import quantized_update, read_weights
from lineside_hub.federation.vector_transfer import upload_name
from lineside_hub.simulate.processes import free_port, listening
from lineside_link.aggregation.identity import make_key, public_hex, write_key
from lineside_link.client.client import LinkClient
from lineside_link.config import LinkConfig
from lineside_link.messages import RepoResponse, decode_framed
from lineside_link.topics import Topics
from lineside_models.labels import STEEL
from lineside_models.simulator.dataset import write_frames
from lineside_runtime.errors import DemoError

PLANTS = tuple(f"plant-{number}" for number in range(1, 6))
KILLED = PLANTS[-1]
WATCHED = PLANTS[0]
FRAMES, ROUNDS, STEPS = 36, 4, 6
SITE = "pool"
WAIT_S = 600.0


def run_demo(folder: Path) -> None:
    """Runs the demo.

    Args:
        folder: For all files; replaced.

    Raises:
        DemoError: A step did not happen, or the curious reader saw what it must not see.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for number, name in enumerate(("first", *PLANTS)):
        first_seed = 3_000_000 + 1000 * number
        write_frames(folder / f"frames-{name}", "steel", FRAMES, first_seed=first_seed, size=(96, 96), defects=2)
    config = {"data": ["frames-first"], "architecture": "lite0-short@16", "labels": list(STEEL), "canvas_px": 96}
    (folder / "first.toml").write_text(tomli_w.dumps({**config, "batch": 8, "epochs": 1, "threads": 1}))
    link = LinkConfig(url=f"mqtt://127.0.0.1:{free_port()}", site=SITE)
    pool, coordinator = folder / "pool.toml", folder / "coordinator"
    _write_pool(folder, link)
    with Processes(folder / "logs") as processes:
        port = int(link.url.rpartition(":")[2])
        processes.start("broker", "hub", "broker", "--port", str(port))
        processes.wait_for("the broker", lambda: listening(port), timeout_s=60)
        inform("first weights, on frames that belong to no plant")
        _end(processes, "first", "train", "detector", "--config", folder / "first.toml", "--out", folder / "first")
        size = ("--rounds", ROUNDS, "--steps", STEPS)
        _end(processes, "init", "federate", "init", "--start", folder / "first", "--out", coordinator, *size)
        reader = CuriousReader(link)
        inform(f"{len(PLANTS)} plants join")
        for name in PLANTS:
            own = ("--plant", name, "--key", folder / f"{name}.key", "--data", folder / f"frames-{name}")
            rest = ("--root", coordinator / "root.json", "--out", folder / name, "--threads", 1)
            processes.start(name, *map(str, ("federate", "join", "--pool", pool, *own, *rest)))
        common = ("--pool", pool, "--key", folder / "coordinator.key", "--timeout", 10)
        run = ("federate", "run", "--federation", coordinator, *common)
        _end(processes, "round 1", *run, "--rounds", 1)
        inform(f"{KILLED} is killed")
        processes.kill(KILLED)
        _end(processes, "rounds 2 to 4", *run)
        state = read_federation(coordinator)
        reader.close()
    _report(folder, state, reader.vectors())


def _write_pool(folder: Path, link: LinkConfig) -> None:
    public = {}
    for name in ("coordinator", *PLANTS):
        key = make_key()
        write_key(key, folder / f"{name}.key")
        public[name] = public_hex(key)
    table = {"coordinator": public.pop("coordinator"), "link": {"url": link.url, "site": link.site}, "plants": public}
    (folder / "pool.toml").write_text(tomli_w.dumps(table))


def _end(processes: Processes, name: str, *arguments: object) -> None:
    """Runs a command to its end."""
    inform(f"{name}: lineside {' '.join(map(str, arguments[:2]))}")
    processes.run(name, *map(str, arguments), timeout_s=WAIT_S)


class CuriousReader:
    """Reads what plants send to the coordinator, as its operator or the broker's could."""

    def __init__(self, link: LinkConfig) -> None:
        topics = Topics(link.site)
        self._lock = threading.Lock()
        self._orders: dict[str, tuple[str, ...]] = {}
        self._chunks: dict[str, bytes] = {}
        self._client = LinkClient(link, "curious")
        self._client.subscribe(topics.pool_answer("+", "+"), self._on_answer)
        for name in PLANTS:
            self._client.subscribe(topics.repo_response(upload_name(name)), self._on_chunk, qos=0)
        self._client.start()

    def close(self) -> None:
        """Disconnects."""
        self._client.close()

    def vectors(self) -> dict[str, bytes]:
        """Returns the last vector of each plant."""
        with self._lock:
            return {
                plant: b"".join(self._chunks[name] for name in order)
                for plant, order in self._orders.items()
                if all(name in self._chunks for name in order)
            }

    def _on_answer(self, topic: str, data: bytes) -> None:
        found = envelopes.envelope.decode(data)
        if found.chunks:
            with self._lock:
                self._orders[topic.rpartition("/")[2]] = found.chunks

    def _on_chunk(self, _topic: str, data: bytes) -> None:
        _, body = decode_framed(data, RepoResponse)
        with self._lock:
            self._chunks[hashlib.sha256(body).hexdigest()] = bytes(body)


def _report(folder: Path, state: FederationState, vectors: Mapping[str, bytes]) -> None:
    for each in state.rounds:
        show(f"round {each.number}: {', '.join(each.plants)}; accuracy before it {each.score}; {each.seconds:.0f} s")
    show(f"result: mean accuracy on the held-out shares {state.result_score}")
    last, shared = state.rounds[-1], state.settings.shared
    if WATCHED not in vectors or KILLED in last.plants:
        raise DemoError("the curious reader has no vector of the last round", action=f"Read {folder / 'logs'}.")
    plain = {name: _numbers(folder / name, shared, last.exponents) for name in last.plants}
    total = np.sum(list(plain.values()), axis=0)
    exact = hashlib.sha256(total.astype("<i8").tobytes()).hexdigest() == last.sum_sha256
    seen = np.frombuffer(vectors[WATCHED], "<i2").astype(np.int64)
    show()
    show(f"What the curious hub saw of {WATCHED} in round {last.number}: {len(seen):,} numbers, for example")
    show(f"  masked  {seen[:8].tolist()}")
    show(f"  its own {plain[WATCHED][:8].tolist()}  (never sent)")
    counts = np.bincount(np.frombuffer(vectors[WATCHED], np.uint8), minlength=256) / len(vectors[WATCHED])
    show(f"  entropy of the masked bytes: {-np.sum(counts * np.log2(counts)):.4f} of 8 bits")
    likeness = float(np.corrcoef(seen, plain[WATCHED])[0, 1])
    show(f"  correlation with what {WATCHED} would have sent unmasked: {likeness:+.4f}")
    show(f"  the sum of {len(last.plants)} plants is that of their own numbers, to the last bit: {exact}")
    if not exact or abs(likeness) > 0.02:
        raise DemoError("the sum is not exact, or a masked vector looks like the plain one")


def _numbers(plant: Path, shared: Sequence[str], exponents: Sequence[int]) -> npt.NDArray[np.int64]:
    return quantized_update(read_weights(next((plant / "updates").glob("*.npz"))), shared, exponents)


if __name__ == "__main__":
    run_demo(Path(sys.argv[1]))
