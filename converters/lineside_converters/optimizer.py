"""`Optimizer`: a float model in, a smaller one out, with the proof that it is no worse."""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec

from lineside_converters.card import write_card
from lineside_converters.compress.cleanup import clean_graph
from lineside_converters.compress.quantize import check_tensors, hash_tensors, quantize
from lineside_converters.material import Material, gather
from lineside_converters.package import build_bundle, check_free
from lineside_converters.proving import THREADS, Proof, prove
from lineside_converters.recipes import Recipe, recipe_for
from lineside_converters.report import CalibrationFacts, Figures, Report, now, this_machine
from lineside_converters.source import SourceModel, open_source
from lineside_models.frame import Frame
from lineside_models.preprocess import prepare
from lineside_models.vision.facts import from_arguments
from lineside_runtime.bundle import Bundle, Manifest, Postprocess, Preprocess, Variant, write_manifest
from lineside_runtime.devices import DeviceKind
from lineside_runtime.errors import ConfigError

log = logging.getLogger("lineside.convert")

REQUIRES = {"onnxruntime": ">=1.20", "openvino": ">=2025.0"}
"""Engines that run the ONNX files that are written here; the oldest of each that the project supports."""

SIMULATED_ONLY = "accuracy was compared on drawn frames of the line simulator only, not on real ones; give data"
NOT_MEASURED = "accuracy was not measured: no annotated frames of this model's types; give data"


@dataclasses.dataclass(frozen=True, slots=True)
class OptimizeResult:
    """What came out.

    Attributes:
        bundle: The new bundle, opened.
        float_figures: Of the source model.
        int8_figures: Of the INT8 model on the same frames; ``None`` at level 0.
        report: All that was measured; also the bundle's ``report.json``.
    """

    bundle: Bundle
    float_figures: Figures
    int8_figures: Figures | None
    report: Report


class Optimizer:
    """Compresses a model and packages it if it passes its gates.

    ::

        result = Optimizer(model_path="detector.onnx", target_device="cpu", optimization_level=1).run()
        print(result.bundle.path, result.int8_figures)
    """

    def __init__(
        self,
        model_path: Path | str,
        target_device: str = "cpu",
        optimization_level: int = 1,
        *,
        out: Path | str | None = None,
        frames: Iterable[Frame] | Path | None = None,
        data: Path | str | Sequence[Path | str] | None = None,
        fold: str = "train",
        max_drop: float = 0.02,
        version: str | None = None,
        name: str | None = None,
        labels: Sequence[str] | None = None,
        preprocess: Preprocess | Mapping[str, Any] | None = None,
        postprocess: Postprocess | Mapping[str, Any] | None = None,
        card: str = "",
        training: Mapping[str, Any] | None = None,
        trust: bool = False,
        overwrite: bool = False,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        """Checks the arguments; nothing is read yet.

        Args:
            model_path: A bundle's folder, a ``.lsb``, ``.onnx`` or ``.pt`` file.
            target_device: Kind of device that it is for: ``cpu``, ``gpu`` or ``npu``. One that isn't here is not
                measured on, and the report says so.
            optimization_level: 0 cleans the float graph, 1 makes it INT8.
            out: Folder of the new bundle; ``<name>-<version>-<precision>`` in the working folder if not given.
            frames: Frames of the line to calibrate on, or a folder of photos; else images of ``data``, else the line
                simulator's.
            data: Folder with annotated images, or several, to compare accuracy on.
            fold: Of ``data``.
            max_drop: How much lower the mean average precision may be, 0 to 1.
            version: Of the new bundle; the source's with its last number one higher if not given.
            name: Of the new bundle; the source's if not given, without ``-float`` where it is INT8.
            labels: Class names of a bare ``.onnx`` or ``.pt``, in the order of its outputs.
            preprocess: How an image becomes the input of a bare model.
            postprocess: How the outputs of a bare model become detections.
            card: Text of the model card; the source bundle's if not given. The figures of this build are added.
            training: What the training says of itself, for ``report.json``; the source bundle's if not given.
            trust: Read a ``.pt`` although reading it can run code from it: only for files that you made yourself.
            overwrite: Whether a bundle that stands at ``out`` is replaced.
            on_progress: Told in words what is going on.

        Raises:
            ConfigError: A value out of range.
            ConvertError: This release has no such level.
        """
        self._model_path = Path(model_path)
        self._kind = _checked_kind(target_device)
        self._recipe = recipe_for(optimization_level)
        self._out = None if out is None else Path(out)
        self._frames = frames
        folders: Sequence[Path | str] = () if data is None else (data,) if isinstance(data, (str, Path)) else data
        self._data = tuple(Path(folder) for folder in folders)
        self._fold = fold
        if isinstance(max_drop, bool) or not isinstance(max_drop, (int, float)) or not 0 <= max_drop <= 1:
            raise ConfigError("max_drop", expected="a number 0 to 1", actual=repr(max_drop))
        self._max_drop = float(max_drop)
        self._version, self._name = version, name
        self._facts = from_arguments(labels, preprocess, postprocess)
        self._card, self._training = card, training
        self._trust, self._overwrite = trust, overwrite
        self._say = on_progress or log.info

    def run(self) -> OptimizeResult:
        """Opens, cleans, calibrates, quantises, proves and packages. A gate that isn't passed leaves no bundle.

        Raises:
            InputError: The model or the frames can't be used.
            GraphError: The model's graph can't be read or quantised.
            CalibrationError: There is no usable frame to calibrate on.
            ParityGateError: The outputs differ too much from the source model's.
            AccuracyGateError: Accuracy drops by more than ``max_drop``.
            SpeedGateError: The new model is slower.
        """
        recipe = self._recipe
        with tempfile.TemporaryDirectory(prefix="lineside-optimizer-") as folder:
            work = Path(folder)
            source = open_source(self._model_path, work, given=self._facts, trust=self._trust)
            manifest = self._manifest(source)
            out = self._out or Path(f"{manifest.name}-{manifest.version}-{recipe.precision}")
            check_free(out, overwrite=self._overwrite)
            self._say(f"{source.facts.name}: level {recipe.level}, {recipe.name}")
            material = self._gather(manifest)
            model = work / "clean.onnx"
            clean_graph(source.model, model)
            calibration = None
            if recipe.calibration is not None:
                model, calibration = self._quantize(model, work / "int8.onnx", manifest, material)
            candidate = _trial(work / "candidate", manifest, model)
            proof = prove(
                source.bundle,
                candidate,
                material,
                recipe,
                max_drop=self._max_drop,
                device_kind=self._kind,
                say=self._say,
            )
            report = self._report(manifest, source, material, proof, calibration)
            bundle = build_bundle(
                out,
                manifest=manifest,
                models={manifest.variants[0].file: model},
                report=report,
                card=write_card(manifest, report, given=self._card or source.card),
                overwrite=self._overwrite,
            )
        self._say(f"wrote {bundle.path}")
        return OptimizeResult(bundle, report.float, report.int8, report)

    def _manifest(self, source: SourceModel) -> Manifest:
        recipe, name = self._recipe, source.manifest.name
        kinds: tuple[DeviceKind, ...] = ("cpu",) if self._kind == "cpu" else (self._kind, "cpu")
        variant = Variant(
            name=recipe.variant,
            format="onnx",
            file=f"{recipe.variant}/model.onnx",
            level=recipe.level,
            precision=recipe.precision,
            device_kinds=kinds,
            requires=REQUIRES,
        )
        return msgspec.structs.replace(
            source.manifest,
            name=self._name or (name if recipe.precision == "fp32" else name.removesuffix("-float")),
            version=self._version or next_version(source.manifest.version),
            created_at=now(),
            variants=(variant,),
            golden=None,
            files={},
        )

    def _gather(self, manifest: Manifest) -> Material:
        limit = self._recipe.calibration_frames
        material = gather(labels=manifest.labels, limit=limit, frames=self._frames, data=self._data, fold=self._fold)
        for note in _notes(material):
            log.warning("%s: %s", manifest.identity, note)
        return material

    def _quantize(
        self, clean: Path, target: Path, manifest: Manifest, material: Material
    ) -> tuple[Path, CalibrationFacts]:
        recipe = self._recipe
        method = recipe.calibration or "minmax"
        tensors = [prepare(frame.image, manifest.preprocess)[0] for frame in material.calibration]
        check_tensors(tensors)
        self._say(f"calibrate on {material.calibration_source}")
        quantize(
            clean,
            target,
            input_name=manifest.preprocess.input,
            tensors=tensors,
            method=method,
            float_convs=recipe.float_convs,
        )
        return target, CalibrationFacts(
            frames=len(tensors), sha256=hash_tensors(tensors), source=material.calibration_source, method=method
        )

    def _report(
        self,
        manifest: Manifest,
        source: SourceModel,
        material: Material,
        proof: Proof,
        calibration: CalibrationFacts | None,
    ) -> Report:
        recipe: Recipe = self._recipe
        unproven = [gate.detail for gate in proof.gates if gate.status == "unproven"]
        for note in unproven:
            log.warning("%s: %s", manifest.identity, note)
        return Report(
            model=manifest.identity,
            made_at=manifest.created_at,
            level=recipe.level,
            recipe=recipe.name,
            source=source.facts,
            machine=this_machine(THREADS),
            float=proof.reference if recipe.precision == "int8" else proof.candidate,
            int8=proof.candidate if recipe.precision == "int8" else None,
            calibration=calibration,
            gates=proof.gates,
            accuracy_on=material.judged_source,
            notes=(*_notes(material), *unproven),
            training=dict(source.training if self._training is None else self._training),
        )


def next_version(version: str) -> str:
    """Returns the version with its last number one higher: ``1.0.0`` → ``1.0.1``; without a number, ``.1`` is added."""
    found = re.fullmatch(r"(.*?)(\d+)(\D*)", version)
    return f"{found[1]}{int(found[2]) + 1}{found[3]}" if found else f"{version}.1"


def _notes(material: Material) -> list[str]:
    if not material.judged:
        return [NOT_MEASURED]
    return [SIMULATED_ONLY] if material.simulated_truth else []


def _trial(folder: Path, manifest: Manifest, model: Path) -> Bundle:
    """Returns an unproved bundle around the model, to be measured as it would run."""
    target = folder / manifest.variants[0].file
    target.parent.mkdir(parents=True)
    shutil.copyfile(model, target)
    return write_manifest(folder, manifest)


def _checked_kind(target_device: object) -> DeviceKind:
    for kind in get_args(DeviceKind):
        if target_device == kind:
            return kind  # type: ignore[no-any-return]
    raise ConfigError("target_device", expected=f"one of {get_args(DeviceKind)}", actual=repr(target_device))
