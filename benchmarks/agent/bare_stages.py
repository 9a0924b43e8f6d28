"""The stages of an inspection, one after the other in a bare loop: no agent, no session, no record::

    python -m benchmarks.agent.bare_stages FOLDER BUNDLE

Decoding is OpenCV, the engine a bare ``InferenceSession`` with one thread and the options that ours has; what lies
between is `lineside_models`' own, called directly. After it has seen every picture once it prints a line. Then each
line of its stdin is a number of seconds: it loops for so long, and prints the frames, and milliseconds of processor
time a frame by stage. Until the next line it waits, so that it can take turns with others.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from lineside_models import preprocess, zoo
from lineside_models.postprocess import decode
from lineside_models.verdict.decision import VerdictPolicy
from lineside_models.verdict.rules import BUNDLES_OWN
from lineside_runtime.backend import LoadOptions
from lineside_runtime.backends.ort.session import session_options
from lineside_runtime.bundle import open_bundle

STAGES = ("decode", "preprocess", "infer", "postprocess")


def main() -> int:
    """Runs the loops."""
    folder, name = Path(sys.argv[1]), sys.argv[2]
    bundle = open_bundle(zoo.path(name))
    manifest = bundle.manifest
    model = bundle.path / manifest.variants[0].file
    options = session_options(LoadOptions(threads=1))
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    decider = VerdictPolicy(manifest, BUNDLES_OWN)
    paths = sorted(folder.iterdir())
    clock = time.thread_time

    def look(path: Path) -> list[float]:
        """Returns the processor time before and after each stage of one frame."""
        marks = [clock()]
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
        marks.append(clock())
        tensor, letterbox = preprocess.prepare(np.asarray(image, np.uint8), manifest.preprocess)
        marks.append(clock())
        found = session.run(outputs, {manifest.preprocess.input: tensor})
        marks.append(clock())
        answers = dict(zip(outputs, found, strict=True))
        (candidates,) = decode(answers, manifest.postprocess, [letterbox], least_score=decider.least_score)
        decider.decide(candidates, tensor.shape[2:])
        marks.append(clock())
        return marks

    for path in paths:
        look(path)
    print("ready", flush=True)
    count = 0
    for line in sys.stdin:
        sums, first, end_s = dict.fromkeys(STAGES, 0.0), count, time.monotonic() + float(line)
        while count == first or time.monotonic() < end_s:
            marks = look(paths[count % len(paths)])
            count += 1
            for stage, before, after in zip(STAGES, marks, marks[1:], strict=False):
                sums[stage] += after - before
        frames = count - first
        mean_ms = {stage: 1000 * total / frames for stage, total in sums.items()}
        print(json.dumps({"frames": frames, **mean_ms}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
