"""Run a bundle for an evaluation: all candidates above its lowest score, with stage times."""

from __future__ import annotations

import dataclasses
import time

import msgspec

from lineside_models.frame import Frame
from lineside_models.inspection import Timings
from lineside_models.inspector import Inspector
from lineside_models.postprocess import Candidates, decode, least_wanted
from lineside_models.preprocess import prepare
from lineside_models.reference.reference_set import composed
from lineside_runtime.session import Session


@dataclasses.dataclass(frozen=True, slots=True)
class EvaluationRun:
    """Candidates and timings of one frame.

    Attributes:
        candidates: Every find above the raw ``score_min``, before the thresholds of the verdict.
        timings: By stage, as on the line: decoding what a verdict needs, and not everything; of a frame in pieces the
            sum, and everything decoded.
    """

    candidates: Candidates
    timings: Timings
    used_device: str


def judge(session: Session, frame: Frame) -> EvaluationRun:
    """Runs one frame through the bundle that the session holds.

    Raises:
        ConfigError: The bundle's pre- or post-processing is not known here.
        DeviceError: Every device failed.
    """
    manifest = session.manifest
    if manifest.preprocess.slicing is not msgspec.UNSET:
        finding = Inspector(session).find([frame])[0]
        return EvaluationRun(finding.candidates, finding.timings, finding.prediction.used_device)
    started_ns = time.perf_counter_ns()
    tensor, letterbox = prepare(composed(frame.image, session.bundle), manifest.preprocess)
    prepared_ns = time.perf_counter_ns()
    prediction = session.infer({manifest.preprocess.input: tensor})
    answered_ns = time.perf_counter_ns()
    how = manifest.postprocess
    decode(prediction.outputs, how, [letterbox], least_score=least_wanted(how, len(manifest.labels)))
    decoded_ns = time.perf_counter_ns()
    timings = Timings(
        preprocess_ms=(prepared_ns - started_ns) / 1e6,
        inference_ms=(answered_ns - prepared_ns) / 1e6,
        postprocess_ms=(decoded_ns - answered_ns) / 1e6,
    )
    return EvaluationRun(decode(prediction.outputs, how, [letterbox])[0], timings, prediction.used_device)
