"""A slimmable classifier beside trainings of each of its widths alone: accuracy, cost, and size on disk.

x-sdd, grey, cross-validated inside its train fold by part: each network is trained on three quarters of the parts, of
which a share chooses the checkpoint, and judged on the last quarter. All trainings have the same number of epochs. The
cost is processor time of one thread. Its baseline is an ordinary training of the whole network, whose first stages are
folded and frozen as always. Both run in turns of a few seconds, so that a slow minute of the machine meets both.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import multiprocessing
import shutil
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
import torch
from torch import Tensor, nn

from benchmarks.converters.pruning.common import data_set, print_progress
from benchmarks.smoke import SMOKE, kept, scaled
from lineside_converters.graph.cleanup import clean_graph
from lineside_converters.graph.shared_weights import align_weights, store_together
from lineside_converters.quantization.static import quantize
from lineside_converters.training.classification.config import ClassifierConfig
from lineside_converters.training.classification.data import ClassifierInput, read_all
from lineside_converters.training.classification.objective import classify, shown, to_tensor
from lineside_converters.training.classification.trainer import ClassifierTrainer
from lineside_converters.training.data.samples import part_of
from lineside_converters.training.slimmable.settings import graph_of
from lineside_link.transfer.deltas import make
from lineside_models.datasets import load_dataset
from lineside_models.networks.detector import INPUT

HOME = kept(".search")
WIDTHS = scaled((1.0, 0.75, 0.5, 0.35), smoke=(1.0, 0.5))
FOLDS = scaled((1, 2), smoke=(0,))
QUARTERS = 4
SIDE, EPOCHS, BATCH = scaled((64, 40, 32), smoke=(32, 1, 32))
RESNET_WIDTH = scaled(None, smoke=0.25)
"""Of a ResNet-18 in place of an EfficientNet-Lite0: its groups are found sooner."""
CALIBRATED_ON = 24
AT_ONCE = 2
TURN_S = 3.0
LOOK = ClassifierInput(SIDE)
BARS = {"points": 1.0, "cost": 1.5, "size": 1.1}


def fold_folder(number: int) -> Path:
    """Returns a copy of the data set's train fold whose val fold is one quarter of its parts."""
    target = HOME / f"fold-{number}"
    if target.is_dir():
        return target
    source = data_set("x-sdd")
    half = target.with_name(f"{target.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    samples = load_dataset(source, "train").samples
    parts = sorted({part_of(sample): int(sample.labels[0]) for sample in samples}.items(), key=lambda each: each[::-1])
    quarter = {part: at % QUARTERS for at, (part, _) in enumerate(parts)}
    rows = []
    for sample in samples:
        name = sample.path.relative_to(source)
        (half / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sample.path, half / name)
        rows.append((name.as_posix(), "val" if quarter[part_of(sample)] == number else "train"))
    with (half / "folds.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "fold"), *rows])
    half.rename(target)
    return target


def train_all() -> None:
    """Trains what is missing for each fold."""
    for fold in FOLDS:
        fold_folder(fold)
    alone = [(fold, (width,)) for width in WIDTHS if width != 1 for fold in FOLDS]
    if SMOKE:  # the imports of a process take longer than its training
        for job in (*itertools.product(FOLDS, (WIDTHS, ())), *alone):
            trained(*job)
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(train_in_turns, FOLDS))
    with ProcessPoolExecutor(AT_ONCE, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in [pool.submit(trained, *job) for job in alone]:
            future.result()


def train_in_turns(fold: int) -> None:
    """Trains all widths of a fold, and the whole network as always, in two processes of which one runs at a time."""
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=trained, args=(fold, widths), daemon=True) for widths in (WIDTHS, ())]
    running = []
    try:
        for process in processes:
            process.start()
            running.append((process, stopped := psutil.Process(process.pid)))
            stopped.suspend()
        while running:
            for pair in tuple(running):
                process, stopped = pair
                stopped.resume()
                process.join(TURN_S)
                if process.exitcode is None:
                    stopped.suspend()
                else:
                    running.remove(pair)
    finally:
        for process, _ in running:
            process.kill()
    if codes := [process.exitcode for process in processes if process.exitcode]:
        raise RuntimeError(f"a training of fold {fold} ended with {codes[0]}")


def trained(fold: int, widths: tuple[float, ...]) -> dict[str, Any]:
    """Returns the run folder of a training and its cost, or those of an earlier call."""
    name = "-".join(f"{width:g}" for width in widths) or "ordinary"
    out = HOME / f"{SIDE}px-{EPOCHS}" / f"fold-{fold}-{name}"
    done = out / "cost.json"
    if done.exists():
        return dict(json.loads(done.read_text()), folder=out)
    config = ClassifierConfig(
        data=(fold_folder(fold),),
        out=out,
        epochs=EPOCHS,
        batch=BATCH,
        side_px=SIDE,
        threads=1,
        widths=widths,
        width=RESNET_WIDTH,
        evaluate_every=max(1, EPOCHS // 4),
        seed=fold,
        overwrite=True,
    )
    print_progress(f"training fold {fold}, {name}")
    began, began_cpu_s = time.monotonic(), time.process_time()
    trainer = ClassifierTrainer(config, lambda _: None)
    trainer.train()
    cost = {"cpu_s": time.process_time() - began_cpu_s, "elapsed_s": time.monotonic() - began}
    trainer.finish()
    done.write_text(json.dumps(cost))
    print_progress(f"trained in {cost['cpu_s']:.0f} s of processor time")
    return dict(cost, folder=out)


def right(fold: int, graph: Path) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Returns for each picture of the judged quarter whether a graph names its class."""
    crops = read_all([fold_folder(fold)], labels_of(graph.parent), look=LOOK, fold="val")
    return np.asarray(classify(GraphModule(graph), crops, LOOK) == crops.labels)


def labels_of(run: Path) -> tuple[str, ...]:
    """Returns the classes of a finished run."""
    return tuple(json.loads((run / "training.json").read_text())["labels"])


class GraphModule(nn.Module):
    """ONNX file with one input and one output as a module, on one thread."""

    def __init__(self, path: Path) -> None:
        """Loads the file."""
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(self, image: Tensor) -> Tensor:
        """Runs the file."""
        return torch.from_numpy(self._session.run(None, {INPUT: image.contiguous().numpy()})[0])


def points(ours: list[bool], theirs: list[bool]) -> dict[str, Any]:
    """Returns the difference of two top-1 figures in points, with its paired interval of 95 %."""
    apart = np.array(ours, float) - np.array(theirs, float)
    half = 1.96 * apart.std(ddof=1) / math.sqrt(len(apart))
    mean = apart.mean()
    return {"points": round(100 * mean, 2), "low": round(100 * (mean - half), 2), "high": round(100 * (mean + half), 2)}


def sizes(run: Path, fold: int) -> dict[str, Any]:
    """Returns the bytes of the INT8 forms of all widths together, and of the widest alone; as they are and sent."""
    folder = run / "int8"
    folder.mkdir(exist_ok=True)
    graphs: dict[str, Path] = {}
    crops = read_all([fold_folder(fold)], labels_of(run), look=LOOK, fold="train")
    some = to_tensor(shown(crops, LOOK)[:: max(1, len(crops.images) // CALIBRATED_ON)], LOOK).numpy()
    feeds = [{INPUT: each[None]} for each in some]
    for width in WIDTHS:
        name = Path(graph_of(width, WIDTHS[0])).stem
        clean, int8 = folder / f"{name}.clean.onnx", folder / f"{name}.onnx"
        clean_graph(run / f"{name}.onnx", clean)
        quantize(clean, int8, feeds=feeds)
        if width != WIDTHS[0]:
            align_weights(int8, folder / "float.onnx", int8)
        graphs[f"{width:g}.onnx"] = int8
    together = folder / "together"
    together.mkdir(exist_ok=True)
    store_together(graphs, together)
    alone = (folder / "float.onnx").read_bytes()
    all_widths = [path.read_bytes() for path in sorted(together.iterdir())]
    sent = sum(len(make("zstd", b"", content)) for content in all_widths)
    return {
        "widest_bytes": len(alone),
        "all_bytes": sum(len(content) for content in all_widths),
        "widest_sent_bytes": len(make("zstd", b"", alone)),
        "all_sent_bytes": sent,
        "separate_bytes": sum(path.stat().st_size for path in graphs.values()),
    }


def run() -> dict[str, Any]:
    """Trains the missing networks, and compares all."""
    HOME.mkdir(parents=True, exist_ok=True)
    found: dict[float, tuple[list[bool], list[bool]]] = {width: ([], []) for width in WIDTHS}
    costs: list[tuple[float, float]] = []
    train_all()
    for fold in FOLDS:
        slim, ordinary = trained(fold, WIDTHS), trained(fold, ())
        costs.append((slim["cpu_s"], ordinary["cpu_s"]))
        for width in WIDTHS:
            own = ordinary if width == 1 else trained(fold, (width,))
            found[width][0].extend(right(fold, slim["folder"] / graph_of(width, WIDTHS[0])).tolist())
            found[width][1].extend(right(fold, own["folder"] / "float.onnx").tolist())
    rows = [
        {
            "width": width,
            "slimmable_top1": round(float(np.mean(ours)), 4),
            "own_top1": round(float(np.mean(theirs)), 4),
            **points(ours, theirs),
        }
        for width, (ours, theirs) in found.items()
    ]
    size = sizes(trained(FOLDS[0], WIDTHS)["folder"], FOLDS[0])
    ratios = [slim / ordinary for slim, ordinary in costs]
    return {
        "baseline": "a training of each width alone, and for the cost an ordinary training of the whole network",
        "sizes": {"side_px": SIDE, "epochs": EPOCHS, "batch": BATCH, "folds": len(FOLDS), "judged": len(found[1.0][0])},
        "smoke": SMOKE,
        "widths": rows,
        "worst_points": min(row["points"] for row in rows),
        "cost": {"ratio": round(float(np.mean(ratios)), 3), "per_fold": [round(each, 3) for each in ratios]},
        "cpu_s": [{"slimmable": round(a, 1), "ordinary": round(b, 1)} for a, b in costs],
        "bytes": size,
        "file_ratio": round(size["all_bytes"] / size["widest_bytes"], 4),
        "sent_ratio": round(size["all_sent_bytes"] / size["widest_sent_bytes"], 4),
        "bars": BARS,
    }
