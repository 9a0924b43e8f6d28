"""The federation of `benchmarks.hub.federated_peer` as an app of Flower, run by its processes and by nobody else."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from lineside_converters.training.plant_training import PlantTrainer, Weights, read_first_weights

client_app = ClientApp()
server_app = ServerApp()


def _record(weights: Weights) -> ArrayRecord:
    return ArrayRecord(OrderedDict((name, torch.from_numpy(value)) for name, value in weights.items()))


def _weights(record: Any) -> Weights:
    return {name: value.numpy() for name, value in record.to_torch_state_dict().items()}


@client_app.train()  # type: ignore[untyped-decorator]
def train(message: Message, context: Context) -> Message:
    """Trains a round at one plant; returns its weights."""
    start = read_first_weights(Path(os.environ["FIRST"]))
    shared, given = _weights(message.content["arrays"]), context.node_config
    trainer = PlantTrainer(
        start.settings, start.labels, data=[Path(str(given["data"]))], out=Path(str(given["out"])), threads=1
    )
    found = trainer.train(
        {**start.weights, **shared},
        tuple(shared),
        number=int(message.content["config"]["server-round"]),
        rounds=int(os.environ["ROUNDS"]),
        steps=int(os.environ["STEPS"]),
    )
    if found is None:
        raise RuntimeError("a round ended without an answer")
    new = {name: shared[name] + change for name, change in found[0].items()}
    content = RecordDict({"arrays": _record(new), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content=content, reply_to=message)


@server_app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Averages the plants' weights in each round, and writes the last ones."""
    start, plants = read_first_weights(Path(os.environ["FIRST"])), int(os.environ["PLANTS"])
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=plants, min_available_nodes=plants)
    first = _record({name: start.weights[name] for name in start.shared})
    result = strategy.start(grid=grid, initial_arrays=first, num_rounds=int(os.environ["ROUNDS"]))
    path = Path(os.environ["RESULT"])
    with path.with_suffix(".part").open("wb") as file:
        np.savez(file, **_weights(result.arrays))  # type: ignore[arg-type]
    path.with_suffix(".part").rename(path)
