"""Add a variant made by a vendor's compiler to a bundle, through the same gates.

The new bundle is another folder; the old one stays as it is. Outputs and accuracy are compared with the bundle's own
ONNX variant, the float one where it has one. What can't be run here is marked unproven, in the report and the manifest,
and the device measures it when the bundle is staged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import msgspec

from lineside_converters.bundles.packaging import CARD_NAME, THRESHOLDS_HEADING, check_place, rewrite_bundle
from lineside_converters.candidate import Candidate, CandidateVariant, EvaluatedVariant, SourceModel
from lineside_converters.context import Context
from lineside_converters.data.calibration_data import gather_inputs
from lineside_converters.formats import ENGINES, makers_for
from lineside_converters.gates.runner import run_gates
from lineside_converters.levels import level_options
from lineside_converters.options import LimitOptions
from lineside_converters.progress import ProgressReporter
from lineside_converters.reports.builder import shipped_figures
from lineside_converters.reports.page import PAGE_NAME, page
from lineside_converters.reports.report import REPORT_NAME, OptimizationReport, read_report, report_json
from lineside_converters.reports.report_parts import VariantFigures
from lineside_converters.targets import Target
from lineside_converters.tasks import task_of
from lineside_converters.work_folder import open_work_folder
from lineside_runtime import registry
from lineside_runtime.bundle import Bundle, Speed, Variant, files_of, open_bundle, time_now
from lineside_runtime.devices import DeviceKind
from lineside_runtime.errors import ConfigError, EngineMissingError, InputNotFoundError, UnsupportedModelError
from lineside_runtime.precision import Precision
from lineside_runtime.progress import TextListener

FRAMES = 64
"""On which outputs are compared, at most."""

UNPROVEN = "outputs, accuracy and speed unproven: no {engine} with a device of kind {kind} was here to run it"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VendorVariant:
    """A model made by a vendor's compiler.

    Attributes:
        file: Model file; weights in a file beside it are added too.
        level: Optimisation level that it stands for.
        requires: Version range of the engine; empty for any.
        name: Name of the variant; from engine and precision if empty.
    """

    file: Path
    engine: str
    kind: DeviceKind
    precision: Precision = "int8"
    level: int = 1
    requires: str = ""
    name: str = ""

    def candidate(self) -> CandidateVariant:
        """Returns it with its entry for the manifest.

        Raises:
            ConfigError: No such engine takes files.
            InputNotFoundError: The file, or its weights beside it, is missing.
        """
        if self.engine not in ENGINES:
            raise ConfigError("engine", expected=f"one of {', '.join(ENGINES)}", actual=self.engine)
        for name in files_of(ENGINES[self.engine].format, self.file.name):
            if not (self.file.parent / name).is_file():
                raise InputNotFoundError(f"no file at {self.file.parent / name}")
        name = self.name or f"{self.engine}-{self.precision}"
        variant = Variant(
            name=name,
            format=ENGINES[self.engine].format,
            file=f"{name}/{self.file.name}",
            level=self.level,
            precision=self.precision,
            device_kinds=(self.kind,),
            requires={ENGINES[self.engine].package: self.requires} if self.requires else {},
        )
        return CandidateVariant(variant=variant, engine=self.engine, file=self.file)


def compile_for_tensorrt(
    bundle: Bundle, source: Path, target: Path, *, data: Sequence[Path] = (), fold: str = "train", frames: object = None
) -> Path:
    """Compiles an INT8 ONNX file with the TensorRT of this machine, and returns ``target``.

    Args:
        bundle: Whose inputs give the sizes that the engine takes.
        frames: As for `add_variant`.

    Raises:
        EngineMissingError: TensorRT is not installed here.
        GraphError: The graph breaks a rule of TensorRT's, or it refuses it.
    """
    (maker,) = makers_for("tensorrt")
    if missing := maker.missing():
        found = maker.check_source(source)
        raise EngineMissingError(
            f"{missing}; {found.why if found else ''}",
            action="Run the command on the board, or on another one with the same kind of GPU and TensorRT.",
        )
    from lineside_converters.formats.tensorrt import compile_file

    return compile_file(
        source, target, gather_inputs(bundle.manifest, limit=FRAMES, frames=frames, data=data, fold=fold).calibration
    )


def add_variant(
    bundle: Bundle | Path,
    new: VendorVariant,
    out: Path,
    *,
    data: Sequence[Path] = (),
    fold: str = "train",
    frames: object = None,
    max_drop: float = 0.02,
    max_slowdown: float = 1.0,
    device_chooses: bool = False,
    version: str = "",
    overwrite: bool = False,
    report: TextListener = lambda text: None,
) -> Bundle:
    """Writes a new version of a bundle with one more variant; everything else stays, bit for bit.

    Args:
        frames: What outputs are compared on; as for `Optimizer`.
        max_drop: How much lower the task's metric may be.
        max_slowdown: Largest share of the ONNX variant's time; above 1 for a device that is to leave the CPU free.
        device_chooses: Let each device time the variants of the first level when the bundle is staged, for a variant
            that is faster on other processors than this one.
        version: Version of the new bundle; the old one's with its last number one higher if empty.

    Raises:
        ConvertError: The engine is here, and the variant fails a gate: there is no new bundle.
        InputError: Something is missing or in the way, or the bundle has such a variant already.
    """
    old = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    version = check_place(old, out, version=version, overwrite=overwrite)
    candidate = new.candidate()
    if candidate.variant.name in {variant.name for variant in old.manifest.variants}:
        raise ConfigError("name", expected="one that the bundle doesn't have", actual=candidate.variant.name)
    evaluated = None
    if _is_here(new):
        with open_work_folder(None, report) as work:
            context = Context(
                source=SourceModel.of(old.file(_reference(old, new.level).file), old.manifest),
                manifest=old.manifest,
                inputs=(inputs := gather_inputs(old.manifest, limit=FRAMES, frames=frames, data=data, fold=fold)),
                level=dataclasses.replace(level_options(1), precision=new.precision, max_slowdown=max_slowdown),
                target=_target(new),
                task=task_of(old.manifest, masks=inputs.masks),
                work=work,
                progress=ProgressReporter(report),
                limits=LimitOptions(max_drop=max_drop),
            )
            evaluation = run_gates(Candidate(model=context.source.model, variants=(candidate,)), context)
        evaluated = evaluation.accepted[0]
        figures = shipped_figures(evaluated)
    else:
        figures = _unproven(candidate, new)
        report(f"{candidate.variant.name}: {figures.why}")
    speed: Speed = "by_level" if device_chooses else old.manifest.speed if evaluated is not None else "unproven"
    return _write(old, candidate, evaluated, figures, out, speed=speed, version=version)


def _is_here(new: VendorVariant) -> bool:
    devices = registry.status(new.engine).devices
    return any(device.kind == new.kind and not device.emulated for device in devices)


def _target(new: VendorVariant) -> Target:
    source = "the vendor's compiler"
    return Target(name=new.kind, kind=new.kind, engines=(new.engine,), threads=1, here=True, source=source)


def _reference(old: Bundle, level: int) -> Variant:
    """Returns the ONNX variant to compare with: the float one if there is one, else one of the same level."""
    readable = sorted(
        (variant for variant in old.manifest.variants if variant.format == "onnx"),
        key=lambda variant: (variant.precision != "fp32", variant.level != level),
    )
    if not readable:
        raise UnsupportedModelError(
            f"{old.manifest.identity} has no ONNX variant to compare with",
            expected="a variant of format onnx",
            actual=[variant.name for variant in old.manifest.variants],
            action="Give the bundle that the Optimizer wrote.",
        )
    return readable[0]


def _unproven(candidate: CandidateVariant, new: VendorVariant) -> VariantFigures:
    return VariantFigures(
        name=candidate.variant.name,
        engine=new.engine,
        precision=new.precision,
        latency_ms=None,
        size_bytes=candidate.size_bytes,
        kept=True,
        why=UNPROVEN.format(engine=new.engine, kind=new.kind),
    )


def _write(
    old: Bundle,
    candidate: CandidateVariant,
    evaluated: EvaluatedVariant | None,
    figures: VariantFigures,
    out: Path,
    *,
    speed: Speed,
    version: str,
) -> Bundle:
    report = read_report(old.path)
    first = old.manifest.variants[0]
    ahead = evaluated is None or candidate.variant.device_kinds != ("cpu",) or _is_fastest(evaluated, report)
    ahead &= speed != "by_level" or candidate.variant.level == first.level  # the first one's level is what is timed
    variants = (candidate.variant, *old.manifest.variants) if ahead else (*old.manifest.variants, candidate.variant)
    manifest = msgspec.structs.replace(
        old.manifest, version=version, variants=variants, speed=speed, created_at=time_now()
    )
    notes = report.notes if evaluated is not None else (*report.notes, f"{figures.name}: {figures.why}")
    report = msgspec.structs.replace(report, variants=(*report.variants, figures), notes=notes)
    card, heading, thresholds = old.file(CARD_NAME).read_text().partition(THRESHOLDS_HEADING)
    card = f"{card.rstrip()}\n- {figures.name}: {figures.why}\n" + (f"\n{heading}{thresholds}" if heading else "")
    folder, model = PurePosixPath(candidate.variant.file).parent, candidate.file
    names = files_of(candidate.variant.format, model.name)
    files = {
        CARD_NAME: card.encode(),
        REPORT_NAME: report_json(report),
        PAGE_NAME: page(report).encode(),
        **{str(folder / name): (model.parent / name).read_bytes() for name in names},
    }
    return rewrite_bundle(old, out, manifest, files=files)


def _is_fastest(evaluated: EvaluatedVariant, report: OptimizationReport) -> bool:
    best = report.int8 or report.float
    return evaluated.figures.latency_ms < best.latency_ms
