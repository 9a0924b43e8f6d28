"""Run in an environment of its own by `test_litert_maker`: a torch module through level 1 for a board with LiteRT.

Prints as JSON the forms that were made, and how near the ``.tflite`` file, run here by hand, is to the module on inputs
that the optimizer never saw.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn

from lineside_converters.optimizer import Optimizer


def module() -> nn.Module:
    """Returns a small network of strided, plain and depthwise convolutions that answers with a map of 10 channels.

    `litert_qdq` refuses its LeakyReLU: of two forms for LiteRT the optimizer would keep the faster one alone.
    """
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    width = 3
    for wider in (24, 48, 96):
        layers += [nn.Conv2d(width, wider, 3, 2, 1), nn.BatchNorm2d(wider), nn.ReLU6()]
        layers += [nn.Conv2d(wider, wider, 3, 1, 1, groups=wider), nn.LeakyReLU(0.1)]
        layers += [nn.Conv2d(wider, wider, 1), nn.ReLU6()]
        width = wider
    return nn.Sequential(*layers, nn.Conv2d(width, 10, 1)).eval()


def inputs(count: int, seed: int) -> list[np.ndarray]:
    """Returns smooth pictures ``(1, 3, 64, 64)``, each of another colour and grain."""
    rng = np.random.default_rng(seed)
    coarse = [rng.normal(rng.normal(0, 1, (1, 3, 1, 1)), rng.uniform(0.2, 1.5), (1, 3, 8, 8)) for _ in range(count)]
    return [np.kron(each, np.ones((8, 8))).astype(np.float32) for each in coarse]


def main(folder: Path) -> None:
    """Optimises, and compares by hand."""
    net = module()
    result = Optimizer(
        net, target_device="rpi4", optimization_level=1, frames=inputs(32, 0), out=folder / "bundle", name="small"
    ).run()
    (file,) = (each for each in result.bundle.manifest.variants if each.format == "tflite")
    interpreter = Interpreter(str(result.bundle.file(file.file)))
    interpreter.allocate_tensors()
    (given,), (asked,) = interpreter.get_input_details(), interpreter.get_output_details()
    wanted, found = [], []
    for picture in inputs(32, 1):
        scale, zero = given["quantization"]
        interpreter.set_tensor(given["index"], (picture / scale + zero).round().clip(-128, 127).astype(np.int8))
        interpreter.invoke()
        scale, zero = asked["quantization"]
        found.append((interpreter.get_tensor(asked["index"]).ravel().astype(np.float32) - zero) * scale)
        with torch.no_grad():
            wanted.append(net(torch.from_numpy(picture)).numpy().ravel())
    ours, theirs = (np.stack(each).reshape(len(wanted), 10, -1) for each in (wanted, found))
    a, b = (each - ours.mean((0, 2), keepdims=True) for each in (ours, theirs))
    kinds = {np.dtype(detail["dtype"]).name for detail in interpreter.get_tensor_details()}
    correlation = float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    forms = {each.name: each.kept for each in result.report.variants}
    print(json.dumps({"forms": forms, "correlation": correlation, "kinds": sorted(kinds)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
