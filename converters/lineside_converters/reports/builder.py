"""Build ``report.json`` from what a run measured."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lineside_converters.gates.disagreement import (
    DisagreeingFrame,
    ModelJudgement,
    confusion_of,
    disagreeing_frames,
    judgement_of,
)
from lineside_converters.gates.runner import CandidateEvaluation, EvaluatedVariant, RejectedVariant, Terms
from lineside_converters.quantization.search import QuantizationChoice
from lineside_converters.quantization.static import hash_feeds
from lineside_converters.reports.frames import draw_frames
from lineside_converters.reports.page import beside, write_page
from lineside_converters.reports.report import CalibrationFacts, OptimizationReport, SourceFacts, this_machine
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


def notes_of(terms: Terms) -> list[str]:
    """Returns what a reader has to know of the calibration and of the accuracy figures."""
    calibration = [DRAWN_CALIBRATION] if terms.recipe.quantizes and terms.inputs.drawn_for_other_labels else []
    return calibration + _notes_of_accuracy(terms)


def _notes_of_accuracy(terms: Terms) -> list[str]:
    if terms.metric is not None:
        return []
    if terms.task is None or not terms.inputs.judged:
        return [NOT_MEASURED]
    return [SIMULATED_ONLY] if terms.inputs.simulated_truth else []


def report_of(
    terms: Terms,
    source: SourceFacts,
    proof: CandidateEvaluation,
    chosen: QuantizationChoice,
    differing: Sequence[DisagreeingFrame],
    *,
    layers: tuple[LayerChoice, ...],
    training: Mapping[str, Any],
) -> OptimizationReport:
    """Returns the report of a run.

    Args:
        terms: What had to be proved.
        source: The model that it was made of.
        proof: What was measured.
        chosen: How it was quantised.
        differing: Frames on which the two models disagree.
        layers: What became of each layer.
        training: The training's own record.
    """
    best, int8 = proof.accepted[0], terms.recipe.quantizes
    unproven = [gate.detail for gate in best.gates if gate.status == "unproven"]
    for note in unproven:
        log.warning("%s: %s", terms.manifest.identity, note)
    return OptimizationReport(
        model=terms.manifest.identity,
        made_at=terms.manifest.created_at,
        level=terms.recipe.level,
        recipe=_recipe(terms, chosen),
        source=source,
        machine=this_machine(terms.target.threads),
        timed_on=best.timed_on,
        float=proof.reference if int8 else best.figures,
        int8=best.figures if int8 else None,
        time_ratio=best.ratio,
        calibration=_calibration(terms, chosen) if int8 else None,
        gates=best.gates,
        accuracy_on=terms.inputs.evaluation_source if best.drop is not None and terms.metric is None else "",
        notes=(*notes_of(terms), *_not_held(chosen, terms), *proof.notes, *unproven),
        training=dict(training),
        metric=_metric(terms, best),
        layers=layers,
        confusion=confusion_of(_judgement(terms, proof)) if best.answers else None,
        disagreements=tuple(one.said for one in differing[:DISAGREEMENTS_MAX]),
        variants=(*(shipped_figures(one) for one in proof.accepted), *(_left_out(one) for one in proof.rejected)),
    )


def disagreements_of(terms: Terms, proof: CandidateEvaluation) -> list[DisagreeingFrame]:
    """Returns the judged frames on which the source model and the fastest variant disagree."""
    return disagreeing_frames(_judgement(terms, proof)) if proof.accepted[0].answers else []


def write_pictures(
    bundle: Path, report: OptimizationReport, terms: Terms, differing: Sequence[DisagreeingFrame]
) -> None:
    """Writes the page with the frames beside the bundle: a data set's pictures may not be shipped inside it."""
    whole = isinstance(terms.task, ClassificationTask)
    write_page(beside(bundle), report, draw_frames(differing, terms.inputs.judged, whole=whole))


def _judgement(terms: Terms, proof: CandidateEvaluation) -> ModelJudgement:
    return judgement_of(terms.manifest, proof.truths, proof.answers, proof.accepted[0].answers)


def _recipe(terms: Terms, chosen: QuantizationChoice) -> str:
    if not terms.recipe.quantizes:
        return terms.recipe.name
    corrected = ", biases corrected" if chosen.plan.corrected else ""
    return f"{terms.recipe.name}, {terms.target.activation.upper()}, {chosen.plan.method}{corrected}"


def _calibration(terms: Terms, chosen: QuantizationChoice) -> CalibrationFacts:
    feeds = terms.inputs.calibration
    return CalibrationFacts(
        frames=len(feeds),
        sha256=hash_feeds(feeds),
        source=terms.inputs.calibration_source,
        method=chosen.plan.method,
    )


def _not_held(chosen: QuantizationChoice, terms: Terms) -> list[str]:
    if chosen.held or chosen.tuning_drop is None or terms.task is None:  # then the parity gate decides
        return []
    decided = "the judged frames" if terms.inputs.judged else "the agreement of the outputs"
    return [
        f"on the tuning frames the metric drops by {chosen.tuning_drop:.4f}, more than {terms.max_drop:g}, whatever "
        f"stays in float; {decided} decided"
    ]


def _metric(terms: Terms, best: EvaluatedVariant) -> MetricChange | None:
    if best.drop is None:
        return None
    return MetricChange(
        name=terms.task.metric if terms.task is not None and terms.metric is None else "the caller's metric",
        before=best.drop.before,
        after=best.drop.after,
        low=best.drop.low,
        high=best.drop.high,
        confidence=best.drop.confidence,
        frames=best.drop.frames,
    )


def shipped_figures(one: EvaluatedVariant) -> VariantFigures:
    """Returns what the report says of a variant that ships."""
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


def _left_out(one: RejectedVariant) -> VariantFigures:
    return VariantFigures(
        name=one.name,
        engine=one.engine,
        precision=one.precision,
        latency_ms=one.latency_ms,
        size_bytes=one.size_bytes,
        kept=False,
        why=one.why,
    )
