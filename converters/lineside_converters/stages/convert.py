"""Convert the model for each engine of the target."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lineside_converters.candidate import FALLBACK_ENGINE, Candidate, CandidateVariant, RejectedVariant, with_cpu
from lineside_converters.context import Context
from lineside_converters.formats import ENGINES, ConversionRequest, FormatMaker, makers_for
from lineside_converters.quantization.static import hash_feeds
from lineside_converters.work_folder import file_hash
from lineside_runtime import registry
from lineside_runtime.bundle import Variant
from lineside_runtime.errors import ConvertError

FORMS = 2
"""Number of what the makers write: one higher where a change of theirs makes other files of the same model."""


def convert(candidate: Candidate, context: Context) -> Candidate:
    """Adds a variant for each maker of the target's engines, in their order, and the reason where one can't be made.

    Where none can be made for these, one is made for the engine that every board has.
    """
    results: list[CandidateVariant | RejectedVariant] = []
    for engine in context.target.engines:
        results += convert_for(engine, candidate, context) if makers_for(engine) else [_only_the_vendor(engine)]
    if not any(isinstance(one, CandidateVariant) for one in results):
        results += convert_for(FALLBACK_ENGINE, candidate, context)
    return dataclasses.replace(
        candidate,
        variants=tuple(one for one in results if isinstance(one, CandidateVariant)),
        rejected=tuple(one for one in results if isinstance(one, RejectedVariant)),
    )


def convert_for(engine: str, candidate: Candidate, context: Context) -> list[CandidateVariant | RejectedVariant]:
    """Returns the variants that the makers of one engine make, or the reasons why they can't."""
    makers = [maker for maker in makers_for(engine) if _is_needed(maker, context)]
    return [_make(maker, candidate, context) for maker in makers]


def _is_needed(maker: FormatMaker, context: Context) -> bool:
    """Returns whether it is for the target's kind of device, and the one float ONNX file does not serve as well."""
    if maker.kinds and context.target.kind not in maker.kinds:
        return False
    if context.level.quantizes:
        return True
    if maker is not makers_for(maker.engine)[0]:
        return False
    return maker.file.format == "onnx" or not registry.may_read(maker.engine, "onnx", context.target.kind)


def _make(maker: FormatMaker, candidate: Candidate, context: Context) -> CandidateVariant | RejectedVariant:
    precision = maker.precision_of(context.level)
    name, why = f"{maker.name}-{precision}", maker.missing()
    if not why:
        try:
            file = _file(maker, candidate, context)
        except ConvertError as error:
            why = str(error)
        else:
            context.progress.report(f"{name}: made")
            return CandidateVariant(variant=_variant(maker, name, file, context), engine=maker.engine, file=file)
    elif candidate.int8 is not None and (source := maker.check_source(candidate.int8)):
        why = f"{why}; {source.why}"
    context.progress.report(f"{name}: left out: {why}")
    return RejectedVariant(name=name, engine=maker.engine, precision=precision, why=why)


def _file(maker: FormatMaker, candidate: Candidate, context: Context) -> Path:
    plan, feeds, activation = candidate.quantization.plan, context.inputs.calibration, context.target.activation

    def make(folder: Path) -> None:
        maker.make(
            ConversionRequest(
                clean=candidate.model,
                int8=candidate.int8,
                manifest=context.manifest,
                feeds=feeds,
                float_nodes=frozenset(plan.float_nodes),
                activation=activation,
                folder=folder,
            )
        )

    inputs = {
        "maker": (maker.target, FORMS),
        "clean": file_hash(candidate.model),
        "int8": candidate.int8 and file_hash(candidate.int8),
        "feeds": hash_feeds(feeds),
        "plan": plan,
        "activation": activation,
    }
    folder = context.work.step(maker.name, inputs, make)
    return next(path for path in sorted(folder.iterdir()) if path.suffix != ".bin")


def _variant(maker: FormatMaker, name: str, file: Path, context: Context) -> Variant:
    wanted = with_cpu(context.target.kind)
    kinds = tuple(kind for kind in wanted if registry.may_read(maker.engine, maker.file.format, kind))
    requires = {maker.file.package: maker.file.requires}
    if maker.file.format == "onnx":
        requires["openvino"] = ENGINES["openvino"].requires  # it reads the same file
    return Variant(
        name=name,
        format=maker.file.format,
        file=f"{name}/{file.name}",
        level=context.level.level,
        precision=maker.precision_of(context.level),
        device_kinds=kinds or wanted,
        requires=requires,
    )


def _only_the_vendor(engine: str) -> RejectedVariant:
    return RejectedVariant(
        name=engine,
        engine=engine,
        precision="int8",
        why=f"only the vendor's compiler makes models for {engine}: compile the ONNX variant with it, and join what it "
        "writes to the bundle with `lineside bundle add-variant`",
    )
