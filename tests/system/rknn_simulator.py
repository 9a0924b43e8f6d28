"""Runs our RKNN executable on the vendor's simulator, in the environment of its own that has it.

    python rknn_simulator.py MODEL.onnx INPUTS.npz FOLDER PLATFORM SHAPES

Converts the model with the vendor's converter, writes ``FOLDER/model.rknn`` and, for each set of inputs in INPUTS,
``FOLDER/answer-N.npz``; prints one JSON object last: what the file says of itself, and what each wrong input led to.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rknn.api import RKNN

from lineside_runtime.backends.rknn import Reasons, RknnBackend, RknnExecutable, read_rknn
from lineside_runtime.devices import Device
from lineside_runtime.errors import LinesideError


class Simulator(RknnBackend):
    """Our backend without the board's package: it lends the executable its map of errors."""

    def __init__(self) -> None:
        pass


def must(code: int, what: str) -> None:
    if code != 0:
        raise SystemExit(f"{what} gave {code}")


def convert(model: Path, out: Path, platform: str, shapes: dict[str, list[int]]) -> Any:
    toolkit = RKNN(verbose=False)
    must(toolkit.config(target_platform=platform), "config")
    must(toolkit.load_onnx(str(model), inputs=list(shapes), input_size_list=list(shapes.values())), "load_onnx")
    must(toolkit.build(do_quantization=False), "build")
    must(toolkit.export_rknn(str(out)), "export_rknn")
    must(toolkit.init_runtime(), "init_runtime")
    return toolkit


def refused(executable: RknnExecutable, inputs: dict[str, Any]) -> str:
    try:
        executable.run(inputs)
    except LinesideError as error:
        return type(error).__name__
    return "answered"


def main() -> None:
    model, data, folder, platform, shapes = sys.argv[1:]
    toolkit = convert(Path(model), Path(folder) / "model.rknn", platform, json.loads(shapes))
    facts = read_rknn(Path(folder) / "model.rknn")
    executable = RknnExecutable(toolkit, facts, Reasons())
    executable.attach(Simulator(), Device("npu"))
    arrays = np.load(data)
    names = [name for name, _ in facts.inputs]
    for number in range(len(arrays.files) // len(names)):
        inputs = {name: arrays[f"{name}-{number}"] for name in names}
        outputs: dict[str, Any] = dict(executable.run(inputs))
        np.savez(Path(folder) / f"answer-{number}.npz", **outputs)
    wrong = {
        "missing": refused(executable, {}),
        "shape": refused(executable, {**inputs, names[0]: inputs[names[0]][..., :2]}),
        "type": refused(executable, {**inputs, names[0]: inputs[names[0]].astype(object)}),
    }
    executable.close()
    closed = refused(executable, inputs)
    print(json.dumps({**{key: getattr(facts, key) for key in facts.__slots__}, "wrong": wrong, "closed": closed}))


main()
