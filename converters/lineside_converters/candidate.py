"""The model on its way through the stages of the optimizer, and its variants on their way through the gates.

A `CandidateVariant` has been converted, an `EvaluatedVariant` has passed the gates, a `RejectedVariant` has not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lineside_converters.data.calibration_data import AnnotatedFrame
from lineside_converters.gates.loaded_models import ExecutionPlace
from lineside_converters.gates.statistics import Drop
from lineside_converters.quantization.plan import NOT_QUANTIZED, QuantizationChoice
from lineside_converters.reports.report import GateResult, ModelFigures, OptimizationReport, SourceFacts
from lineside_converters.reports.report_parts import Hypervolume, SearchPoint, SensitivityCurve
from lineside_converters.work_folder import file_hash
from lineside_models.postprocess import Candidates
from lineside_runtime.bundle import Bundle, Manifest, Postprocess, Variant, files_of
from lineside_runtime.devices import DeviceKind
from lineside_runtime.errors import LinesideError

FALLBACK_ENGINE = "ort"
"""The engine that every board has."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SourceModel:
    """The float model to start from.

    Attributes:
        facts: Name, hash and size for the report.
        card: Text of its model card; empty if it has none.
        training: What its own report says of its training.
        files: What the pre-processing needs beside the model, by its path in a bundle.
        narrower: Float graphs of the same network with a share of its channels, by that share, falling.
    """

    model: Path
    manifest: Manifest
    facts: SourceFacts
    card: str = ""
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    files: dict[str, Path] = dataclasses.field(default_factory=dict)
    narrower: dict[float, Path] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, model: Path, manifest: Manifest, name: str = "", **more: Any) -> SourceModel:
        """Returns a source model with the facts of its file; ``name`` is that of the file if it is not given."""
        facts = SourceFacts(name=name or model.name, sha256=file_hash(model), size_bytes=model.stat().st_size)
        return cls(model=model, manifest=manifest, facts=facts, **more)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CandidateVariant:
    """The model converted for one engine, not evaluated yet.

    Attributes:
        variant: Its entry in the manifest.
    """

    variant: Variant
    engine: str
    file: Path

    @property
    def size_bytes(self) -> int:
        """Size of the model's file and of the weights beside it."""
        files = files_of(self.variant.format, self.file.name)
        return sum((self.file.parent / name).stat().st_size for name in files)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedVariant:
    """A variant that passed the gates.

    Attributes:
        gates: Results of the gates; ``unproven`` where one could not be measured here.
        ratio: Median share of the source model's time in ONNX Runtime, same threads, same inputs, interleaved.
        correlation: Least correlation of an output with the source model's.
        drop: Drop of the task's metric; ``None`` if it was not measured.
        answers: Its answers to the evaluation frames.
        timed_on: The device that timed it, if that is not this machine.
    """

    candidate: CandidateVariant
    place: ExecutionPlace
    figures: ModelFigures
    gates: tuple[GateResult, ...]
    ratio: float
    correlation: float
    drop: Drop | None
    answers: Sequence[Candidates]
    timed_on: str = ""

    @property
    def unproven(self) -> bool:
        """Whether a gate could not be measured, because the target is not here."""
        return any(gate.status == "unproven" for gate in self.gates)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RejectedVariant:
    """A variant that is not shipped.

    Attributes:
        why: The measured reason, or why it could not be made.
        error: The gate that it failed; ``None`` if it could not be made, or another is faster.
        latency_ms: Latency of a frame; ``None`` if it was not timed.
        size_bytes: Size of its files; 0 if there are none.
    """

    name: str
    engine: str
    precision: str
    why: str
    error: LinesideError | None = None
    latency_ms: float | None = None
    size_bytes: int = 0

    @classmethod
    def of(
        cls, candidate: CandidateVariant, why: str | LinesideError, latency_ms: float | None = None
    ) -> RejectedVariant:
        """Returns the rejection of a converted variant."""
        return cls(
            name=candidate.variant.name,
            engine=candidate.engine,
            precision=candidate.variant.precision,
            why=str(why),
            error=why if isinstance(why, LinesideError) else None,
            latency_ms=latency_ms,
            size_bytes=candidate.size_bytes,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NarrowVariant:
    """A narrower network that passed the gates.

    Attributes:
        evaluated: Its INT8 form.
        width: Share of the channels.
        metric: The task's metric of the form; ``None`` if it was not measured.
        speedup: Speed in ONNX Runtime in terms of the widest network's INT8 form, measured in turn.
    """

    evaluated: EvaluatedVariant
    width: float
    metric: float | None
    speedup: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CandidateEvaluation:
    """Results of the gates.

    Attributes:
        reference: Figures of the source model in ONNX Runtime.
        accepted: Variants that may be shipped, fastest first; never empty.
        rejected: The others, with the reasons.
        truths: What is truly in the evaluation frames, without their images.
        answers: The source model's answers to them.
        notes: What a reader has to know of how it was measured.
    """

    reference: ModelFigures
    accepted: tuple[EvaluatedVariant, ...]
    rejected: tuple[RejectedVariant, ...]
    truths: Sequence[AnnotatedFrame]
    answers: Sequence[Candidates]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class PruningResult:
    """What levels 2 and 3 make before the model is quantized.

    Attributes:
        model: The float graph with fewer channels, trained again.
        curves: Sensitivity of its layers, for the report.
        training: Record of the fine-tuning.
        notes: What a reader has to know.
        postprocess: How its outputs are read, where scores and thresholds were fitted anew.
        candidates: All networks that level 3 measured.
    """

    model: Path
    curves: tuple[SensitivityCurve, ...]
    training: dict[str, Any]
    notes: tuple[str, ...] = ()
    postprocess: Postprocess | None = None
    candidates: tuple[SearchPoint, ...] = ()
    hypervolumes: tuple[Hypervolume, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The model between two stages; each stage returns an extended copy.

    Attributes:
        model: The float graph that the next stage starts from: as given, cleaned, then pruned.
        int8: Its quantized form as QDQ ONNX; ``None`` at level 0.
        variants: One for each converter of the target's engines.
        rejected: Variants that could not be made.
        evaluation: Results of the gates.
        narrower: Narrower networks that passed them, the widest first.
        report: What the bundle's ``report.json`` says.
    """

    model: Path
    pruning: PruningResult | None = None
    quantization: QuantizationChoice = NOT_QUANTIZED
    int8: Path | None = None
    variants: tuple[CandidateVariant, ...] = ()
    rejected: tuple[RejectedVariant, ...] = ()
    evaluation: CandidateEvaluation | None = None
    narrower: tuple[NarrowVariant, ...] = ()
    report: OptimizationReport | None = None
    bundle: Bundle | None = None

    @property
    def evaluated(self) -> CandidateEvaluation:
        """Results of the gates, for the following stages."""
        if self.evaluation is None:
            raise RuntimeError("this stage stands behind the gates")
        return self.evaluation

    def float_variant(self, kind: DeviceKind) -> CandidateVariant:
        """Returns the float graph as a variant for a kind of device."""
        variant = Variant(
            name="onnx-fp32",
            format="onnx",
            file="onnx-fp32/model.onnx",
            level=0,
            precision="fp32",
            device_kinds=with_cpu(kind),
        )
        return CandidateVariant(variant=variant, engine=FALLBACK_ENGINE, file=self.model)


def with_cpu(kind: DeviceKind) -> tuple[DeviceKind, ...]:
    """Returns the kinds of device of a variant: the target's, and the CPU behind it."""
    return ("cpu",) if kind == "cpu" else (kind, "cpu")
