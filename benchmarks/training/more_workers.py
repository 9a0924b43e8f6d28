"""The prediction of more workers from fewer, checked: four workers as predicted from two, and as measured.

Four workers on two cores compute at half the speed, which no prediction of a cluster can know. So the workers here
carry ResNet-18's parameters, but rest (sleep) for as long as their passes would take, and what they really do is what
is predicted: exchange gradients, beside the backward pass, over links that are shaped alike. Each number of workers has
namespaces of its own on a switch.
"""

from __future__ import annotations

from typing import Any

import msgspec

from benchmarks.smoke import SMOKE, scaled
from benchmarks.training.namespaces import link, missing, smoked
from lineside_converters.training.distributed.cost import CostReport, Figures, ScalingPrediction, report

FEWER, MORE = 2, 4
SCHEMES = scaled(("fp32", "bf16", "int8", "low-rank"), smoke=("fp32",))


def run() -> dict[str, Any]:
    """Measures both numbers of workers, and returns what was predicted beside what came."""
    absent = missing()
    if absent is not None:
        return {"left_out": absent}
    fewer = _measured(FEWER)
    more = fewer if SMOKE else _measured(MORE)
    found = {}
    for scheme in SCHEMES:
        predicted = next(each for each in fewer[scheme].predicted if each.workers == MORE)
        found[scheme] = _beside(fewer[scheme], predicted, more[scheme])
    return {"from_workers": FEWER, "workers": MORE, "schemes": found} | smoked()


def _measured(workers: int) -> dict[str, CostReport]:
    with link(workers) as cables:
        lines = cables.last_lines("-m", "benchmarks.training.more_workers_worker", ",".join(SCHEMES))
    rows = [msgspec.json.decode(line, type=dict[str, Figures]) for line in lines]
    return {scheme: report([row[scheme] for row in rows], epochs=1, restarts=0) for scheme in SCHEMES}


def _beside(fewer: CostReport, predicted: ScalingPrediction, more: CostReport) -> dict[str, Any]:
    return {
        "step_s": {"fewer": fewer.step_s, "predicted": predicted.step_s, "measured": more.step_s},
        "step_predicted_of_measured": predicted.step_s / more.step_s,
        "bytes_predicted_of_measured": predicted.bytes_per_step / more.bytes_per_step,
        "communication_share": {
            "fewer": fewer.communication_share,
            "predicted": predicted.communication_share,
            "measured": more.communication_share,
        },
        "samples_predicted_of_measured": predicted.samples_per_second / more.samples_per_second,
    }
