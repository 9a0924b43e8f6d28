"""Make a model's candidates: one form for each engine of the target."""

from __future__ import annotations

from pathlib import Path

from lineside_converters.formats import ConversionRequest, FormatMaker, makers_for
from lineside_converters.gates.runner import CandidateVariant, RejectedVariant, Terms
from lineside_converters.progress import ProgressReporter
from lineside_converters.quantization.search import QuantizationPlan
from lineside_converters.quantization.static import hash_feeds
from lineside_converters.work_folder import WorkFolder, file_hash
from lineside_runtime import registry
from lineside_runtime.bundle import Variant
from lineside_runtime.devices import DeviceKind
from lineside_runtime.errors import ConvertError

FORMS = 1
"""Number of what the makers write: one higher where a change of theirs makes other files of the same model."""

EVERY_BOARD = "ort"
"""The engine that every board has, for which a form is made where none can be made for the target's own."""


def make_forms(
    terms: Terms, plan: QuantizationPlan, int8: Path | None, work: WorkFolder, progress: ProgressReporter
) -> tuple[list[CandidateVariant], list[RejectedVariant]]:
    """Writes a form for each maker of the target's engines.

    Args:
        terms: Whose target and recipe it is.
        plan: Which layers stay in float.
        int8: The INT8 model; ``None`` where nothing is quantised.
        work: Keeps what was made.
        voice: Told what was made.

    Returns:
        What was made, in the order of the target's engines, and what couldn't be made with the reason.
    """
    made: list[CandidateVariant] = []
    absent: list[RejectedVariant] = []
    for engine in terms.target.engines:
        makers = makers_for(engine)
        if not makers:
            absent.append(_only_the_vendor(engine))
        for maker in makers:
            if not _superfluous(maker, terms):
                _make_one(maker, terms, plan, int8, work, made, absent, progress)
    if not made:
        for maker in makers_for(EVERY_BOARD):
            if not _superfluous(maker, terms):
                _make_one(maker, terms, plan, int8, work, made, absent, progress)
    return made, absent


def _superfluous(maker: FormatMaker, terms: Terms) -> bool:
    """Returns whether it is for other devices, or the one float ONNX file serves the engine as well."""
    if maker.kinds and terms.target.kind not in maker.kinds:
        return True
    if maker.precision == "fp16" and maker.format == "onnx":
        return not terms.recipe.quantizes
    reads = registry.may_read(maker.engine, "onnx", terms.target.kind)
    return not terms.recipe.quantizes and maker.format != "onnx" and reads


def _make_one(
    maker: FormatMaker,
    terms: Terms,
    plan: QuantizationPlan,
    int8: Path | None,
    work: WorkFolder,
    made: list[CandidateVariant],
    absent: list[RejectedVariant],
    progress: ProgressReporter,
) -> None:
    precision = maker.precision_of(terms.recipe)
    why = maker.missing()
    if not why:
        try:
            file = _step(maker, terms, plan, int8, work)
        except ConvertError as error:
            why = str(error)
        else:
            progress.say(f"{maker.name}-{precision}: made")
            made.append(CandidateVariant(variant=_variant(maker, terms, file), engine=maker.engine, file=file))
            return
    progress.say(f"{maker.name}-{precision}: left out: {why}")
    absent.append(RejectedVariant(name=f"{maker.name}-{precision}", engine=maker.engine, precision=precision, why=why))


def _step(maker: FormatMaker, terms: Terms, plan: QuantizationPlan, int8: Path | None, work: WorkFolder) -> Path:
    names: list[str] = []

    def make(folder: Path) -> None:
        request = ConversionRequest(
            clean=terms.clean,
            int8=int8,
            manifest=terms.manifest,
            feeds=terms.inputs.calibration,
            float_nodes=frozenset(plan.float_nodes),
            activation=terms.target.activation,
            folder=folder,
        )
        names.append(maker.make(request).name)

    inputs = {
        "maker": (maker.target, FORMS),
        "clean": file_hash(terms.clean),
        "int8": int8 and file_hash(int8),
        "feeds": hash_feeds(terms.inputs.calibration),
        "plan": plan,
        "activation": terms.target.activation,
    }
    folder = work.step(maker.name, inputs, make)
    return next(path for path in sorted(folder.iterdir()) if path.suffix != ".bin")


def _variant(maker: FormatMaker, terms: Terms, file: Path) -> Variant:
    precision = maker.precision_of(terms.recipe)
    name = f"{maker.name}-{precision}"
    wanted: tuple[DeviceKind, ...] = ("cpu",) if terms.target.kind == "cpu" else (terms.target.kind, "cpu")
    kinds = tuple(kind for kind in wanted if registry.may_read(maker.engine, maker.format, kind))
    requires = {maker.package: maker.requires}
    if maker.format == "onnx":
        requires["openvino"] = ">=2025.0"  # it reads the same file
    return Variant(
        name=name,
        format=maker.format,
        file=f"{name}/{file.name}",
        level=terms.recipe.level,
        precision=precision,
        device_kinds=kinds or wanted,
        requires=requires,
    )


def float_form(terms: Terms) -> CandidateVariant:
    """Returns the cleaned float model as a form for the engine that every board has."""
    kinds: tuple[DeviceKind, ...] = ("cpu",) if terms.target.kind == "cpu" else (terms.target.kind, "cpu")
    variant = Variant(
        name="onnx-fp32", format="onnx", file="onnx-fp32/model.onnx", level=0, precision="fp32", device_kinds=kinds
    )
    return CandidateVariant(variant=variant, engine=EVERY_BOARD, file=terms.clean)


def _only_the_vendor(engine: str) -> RejectedVariant:
    return RejectedVariant(
        name=engine,
        engine=engine,
        precision="int8",
        why=f"only the vendor's compiler makes models for {engine}: compile the ONNX variant with it, and join what it "
        "writes to the bundle with `lineside bundle add-variant`",
    )
