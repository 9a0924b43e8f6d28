"""Runs in Olive's own environment: quantises an ONNX file with Olive's static pass.

python quantize_olive.py MODEL FRAMES.npy INPUT OUT.onnx {default,best}

``default`` is the pass as it comes (S8S8, one scale a tensor); ``best`` is what Olive's options can say of what is
known to be fastest on x86 (U8S8, one scale a channel).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from olive.data.registry import Registry
from olive.workflows import run

FRAMES: dict[str, object] = {}
OPTIONS = {"default": {}, "best": {"activation_type": "uint8", "precision": "int8", "per_channel": True}}


class Frames:
    """What Olive calibrates on: pairs of an input and an unused label."""

    def __init__(self, input_name: str, frames: np.ndarray) -> None:
        self._input, self._frames = input_name, frames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], int]:
        return {self._input: self._frames[index : index + 1]}, 0


@Registry.register_dataset()
def lineside_frames(**_: object) -> Frames:
    return Frames(*FRAMES["given"])  # type: ignore[misc]


def main(model: str, frames: str, input_name: str, out: str, how: str) -> None:
    FRAMES["given"] = (input_name, np.load(frames))
    with tempfile.TemporaryDirectory() as folder:
        run(
            {
                "input_model": {"type": "OnnxModel", "model_path": model},
                "systems": {
                    "here": {
                        "type": "LocalSystem",
                        "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
                    }
                },
                "data_configs": [
                    {
                        "name": "frames",
                        "type": "DummyDataContainer",
                        "load_dataset_config": {"type": "lineside_frames"},
                    }
                ],
                "passes": {"int8": {"type": "OnnxStaticQuantization", "data_config": "frames", **OPTIONS[how]}},
                "host": "here",
                "target": "here",
                "output_dir": folder,
                "cache_dir": f"{folder}/cache",
                "evaluate_input_model": False,
            }
        )
        made = max(Path(folder).rglob("*.onnx"), key=lambda path: ("cache" not in path.parts, path.stat().st_mtime))
        shutil.copyfile(made, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
