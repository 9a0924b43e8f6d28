"""Build ``report.json`` from what a run measured."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec
import onnx

from lineside_converters.candidate import (
    Candidate,
    CandidateEvaluation,
    EvaluatedVariant,
    NarrowVariant,
    RejectedVariant,
)
from lineside_converters.context import Context
from lineside_converters.gates.checks import CALLERS_METRIC
from lineside_converters.gates.disagreement import (
    DisagreeingFrame,
    ModelJudgement,
    confusion_of,
    disagreeing_frames,
    judgement_of,
)
from lineside_converters.graph.macs import count_macs
from lineside_converters.quantization.plan import QuantizationChoice
from lineside_converters.quantization.static import KINDS, Feed, hash_feeds
from lineside_converters.reports.frames import draw_frames
from lineside_converters.reports.page import beside, write_page
from lineside_converters.reports.report import CalibrationFacts, OptimizationReport, this_machine
from lineside_converters.reports.report_parts import LayerChoice, MetricChange, VariantFigures
from lineside_converters.tasks import ClassificationTask

log = logging.getLogger("lineside.convert")

DISAGREEMENTS_MAX = 100
"""Frames that the report names, the surest first."""

SIMULATED_ONLY = "accuracy was compared on drawn frames of the line simulator only, not on real ones; give data"
NOT_MEASURED = "accuracy was not measured: no annotated frames of this model's types; give data"

DRAWN_CALIBRATION = (
    "calibrated on drawn frames of the line simulator, which this model was not made for: its INT8 form may lose "
    "accuracy on your own; give images of the line (--images or --data)"
)


def notes_of(context: Context) -> list[str]:
    """Returns the limits of the calibration and of the accuracy figures, as sentences."""
    inputs = context.inputs
    notes = [DRAWN_CALIBRATION] if context.level.quantizes and inputs.drawn_for_other_labels else []
    if context.limits.metric is not None:
        return notes
    if context.task is None or not inputs.evaluation:
        return [*notes, NOT_MEASURED]
    return [*notes, SIMULATED_ONLY] if inputs.simulated_truth else notes


def build_report(
    candidate: Candidate, context: Context, disagreements: Sequence[DisagreeingFrame]
) -> OptimizationReport:
    """Returns the report of a candidate that has been through the gates."""
    evaluation, pruning, int8 = candidate.evaluated, candidate.pruning, context.level.quantizes
    best = evaluation.accepted[0]
    unproven = [gate.detail for gate in best.gates if gate.status == "unproven"]
    for note in unproven:
        log.warning("%s: %s", context.manifest.identity, note)
    notes = (*notes_of(context), *_not_held(candidate.quantization, context), *evaluation.notes, *unproven)
    given = context.model.training
    training = dict(context.source.training if given is None else given)
    return OptimizationReport(
        model=context.manifest.identity,
        made_at=context.manifest.created_at,
        level=context.level.level,
        recipe=_recipe(candidate, context),
        source=context.source.facts,
        machine=this_machine(context.target.threads),
        timed_on=best.timed_on,
        float=evaluation.reference if int8 else best.figures,
        int8=best.figures if int8 else None,
        time_ratio=best.ratio,
        calibration=_calibration(candidate, context) if int8 else None,
        gates=best.gates,
        accuracy_on=_accuracy_on(context) if best.drop is not None else "",
        notes=notes if pruning is None else (*notes, *pruning.notes),
        training=training if pruning is None else {**training, **pruning.training},
        metric=_metric(context, best),
        layers=layer_choices(candidate, context.inputs.calibration[0]),
        curves=() if pruning is None else pruning.curves,
        candidates=() if pruning is None else pruning.candidates,
        hypervolumes=() if pruning is None else pruning.hypervolumes,
        confusion=confusion_of(_judgement(context, evaluation)) if best.answers else None,
        disagreements=tuple(one.row for one in disagreements[:DISAGREEMENTS_MAX]),
        variants=(
            *(shipped_figures(one) for one in evaluation.accepted),
            *(_narrow_figures(one) for one in candidate.narrower),
            *(_rejected_figures(one) for one in evaluation.rejected),
        ),
    )


def disagreements_of(context: Context, evaluation: CandidateEvaluation) -> list[DisagreeingFrame]:
    """Returns the evaluation frames on which the source model and the fastest variant disagree."""
    return disagreeing_frames(_judgement(context, evaluation)) if evaluation.accepted[0].answers else []


def write_pictures(
    bundle: Path, report: OptimizationReport, context: Context, disagreements: Sequence[DisagreeingFrame]
) -> None:
    """Writes the page with the frames beside the bundle: a data set's pictures may not be shipped inside it."""
    whole = isinstance(context.task, ClassificationTask)
    write_page(beside(bundle), report, draw_frames(disagreements, context.inputs.evaluation, whole=whole))


def layer_choices(candidate: Candidate, feed: Feed) -> tuple[LayerChoice, ...]:
    """Returns the precision of each layer and its reason; empty where nothing is quantized.

    Args:
        feed: One input, to count multiplications.
    """
    if candidate.int8 is None:
        return ()
    chosen, graph = candidate.quantization, onnx.load(candidate.int8).graph
    scaled = {output for node in graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    left = {node.name for node in graph.node if node.op_type in KINDS and not scaled.issuperset(node.input[:2])}
    harms = {harm.node: harm.share for harm in chosen.harms}

    def why(name: str) -> str:
        if name not in left:
            return "quantised"
        if name in chosen.plan.float_nodes:
            return chosen.plan.why if name in harms else "first convolution"
        return "can't be quantised"

    return tuple(
        LayerChoice(
            name=layer.name,
            kind=layer.kind,
            precision="fp32" if layer.name in left else "int8",
            why=why(layer.name),
            macs=layer.macs,
            harm=harms.get(layer.name),
        )
        for layer in count_macs(onnx.load(candidate.model), feed)
    )


def _judgement(context: Context, evaluation: CandidateEvaluation) -> ModelJudgement:
    return judgement_of(context.manifest, evaluation.truths, evaluation.answers, evaluation.accepted[0].answers)


def _recipe(candidate: Candidate, context: Context) -> str:
    if not context.level.quantizes:
        return context.level.name
    plan = candidate.quantization.plan
    corrected = ", biases corrected" if plan.corrected else ""
    return f"{context.level.name}, {context.target.activation.upper()}, {plan.method}{corrected}"


def _calibration(candidate: Candidate, context: Context) -> CalibrationFacts:
    feeds = context.inputs.calibration
    return CalibrationFacts(
        frames=len(feeds),
        sha256=hash_feeds(feeds),
        source=context.inputs.calibration_source,
        method=candidate.quantization.plan.method,
    )


def _not_held(chosen: QuantizationChoice, context: Context) -> list[str]:
    if chosen.held or chosen.tuning_drop is None or context.task is None:  # then the parity gate decides
        return []
    decided = "the judged frames" if context.inputs.evaluation else "the agreement of the outputs"
    return [
        f"on the tuning frames the metric drops by {chosen.tuning_drop:.4f}, more than {context.limits.max_drop:g}, "
        f"whatever stays in float; {decided} decided"
    ]


def _accuracy_on(context: Context) -> str:
    """Returns what accuracy was measured on; empty where the caller measured it."""
    limits = context.limits
    return "" if limits.metric is not None and not limits.metric_name else context.inputs.evaluation_source


def _metric(context: Context, best: EvaluatedVariant) -> MetricChange | None:
    if best.drop is None:
        return None
    task = context.task if context.limits.metric is None else None
    return MetricChange(
        name=(context.limits.metric_name or CALLERS_METRIC) if task is None else task.metric,
        before=best.drop.before,
        after=best.drop.after,
        low=best.drop.low,
        high=best.drop.high,
        confidence=best.drop.confidence,
        frames=best.drop.frames,
    )


def shipped_figures(one: EvaluatedVariant) -> VariantFigures:
    """Returns the report's entry of a variant that ships."""
    change = 0.0 if one.drop is None else one.drop.drop
    accuracy = "" if one.drop is None else f", accuracy {'rises' if change < 0 else 'drops'} by {abs(change):.4f}"
    elsewhere = ", which is not the target: the device measures for itself" if one.unproven else ""
    where = one.timed_on or f"{one.place}{elsewhere}"
    return VariantFigures(
        name=one.candidate.variant.name,
        engine=one.candidate.engine,
        precision=one.candidate.variant.precision,
        latency_ms=one.figures.latency_ms,
        size_bytes=one.candidate.size_bytes,
        kept=True,
        why=f"{1 / one.ratio:.2f} times as fast as the source model in onnxruntime, measured on {where}; "
        f"least correlation of an output {one.correlation:.4f}{accuracy}",
    )


def _narrow_figures(one: NarrowVariant) -> VariantFigures:
    figures = shipped_figures(one.evaluated)
    metric = "" if one.metric is None else f", {one.metric:.4f} of the metric"
    why = f"width {one.width:g}: {one.speedup:.2f} times as fast as the widest network's{metric}"
    return msgspec.structs.replace(figures, why=why)


def _rejected_figures(one: RejectedVariant) -> VariantFigures:
    return VariantFigures(
        name=one.name,
        engine=one.engine,
        precision=one.precision,
        latency_ms=one.latency_ms,
        size_bytes=one.size_bytes,
        kept=False,
        why=one.why,
    )
