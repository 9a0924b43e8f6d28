"""Write the bundle with its report and model card."""

from __future__ import annotations

import dataclasses

import msgspec

from lineside_converters.bundles.packaging import build_bundle
from lineside_converters.candidate import Candidate, CandidateVariant
from lineside_converters.context import Context
from lineside_converters.gates.baseline import baseline_gate
from lineside_converters.reports.builder import build_report, disagreements_of, write_pictures
from lineside_converters.reports.model_card import write_card
from lineside_converters.stages.load import bundle_folder
from lineside_converters.stages.widths import with_narrower


def package(candidate: Candidate, context: Context) -> Candidate:
    """Writes the bundle, and the page with frames beside it. A model below the baseline leaves no bundle."""
    evaluation, options = candidate.evaluated, context.model
    disagreements = disagreements_of(context, evaluation)
    report = build_report(candidate, context, disagreements)
    gate = baseline_gate(report, min_metric=context.limits.min_metric)
    context.progress.report(f"baseline: {gate.status}: {gate.detail}")
    report = msgspec.structs.replace(report, gates=(*report.gates, gate))
    variants = _shipped(candidate, context)
    if candidate.narrower:
        variants = with_narrower(variants, candidate, context)
    fitted = candidate.pruning.postprocess if candidate.pruning is not None else None
    manifest = msgspec.structs.replace(
        context.manifest,
        postprocess=fitted or context.manifest.postprocess,
        variants=tuple(one.variant for one in variants),
        speed="unproven" if evaluation.accepted[0].unproven else "measured",
    )
    bundle = build_bundle(
        bundle_folder(context.manifest, context.level, options),
        manifest=manifest,
        models={one.variant.file: one.file for one in variants},
        report=report,
        card=write_card(manifest, report, given=options.card or context.source.card),
        files=context.source.files,
        engine=variants[0].engine,
        overwrite=options.overwrite,
    )
    write_pictures(bundle.path, report, context, disagreements)
    return dataclasses.replace(candidate, report=report, bundle=bundle)


def _shipped(candidate: Candidate, context: Context) -> list[CandidateVariant]:
    """Returns the variants of the bundle; where speed is unproven, with the float model for the device to choose."""
    accepted = candidate.evaluated.accepted
    variants = [one.candidate for one in accepted]
    measured = all(gate.status == "passed" for one in accepted for gate in one.gates)
    if measured or not context.level.quantizes:
        return variants
    return [*variants, candidate.float_variant(context.target.kind)]
