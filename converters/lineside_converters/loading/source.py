"""Open any model that the `Optimizer` accepts, as a float model with its facts."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnx

from lineside_converters.candidate import SourceModel
from lineside_converters.graph.cleanup import load_graph
from lineside_converters.graph.dequantize import dequantize, is_quantized
from lineside_converters.graph.mirror import is_mirrored
from lineside_converters.graph.query_selection import SELECTED, without_selection
from lineside_converters.loading.torch_import import import_pt
from lineside_converters.loading.training_run import GRAPH, facts_of_run, run_of
from lineside_converters.reports.report import REPORT_NAME, SourceFacts, read_report
from lineside_converters.training.slimmable.settings import graphs_of_run
from lineside_converters.work_folder import file_hash
from lineside_models.vision.model_facts import ModelFacts
from lineside_models.vision.onnx_bundle import name_of, wrap_generic, wrap_onnx
from lineside_runtime.backends.ort.backend import read_onnx
from lineside_runtime.bundle import Bundle, TextForm, Variant, open_bundle, write_manifest
from lineside_runtime.bundle.archive import unpack_archive
from lineside_runtime.errors import (
    BundleFormatError,
    ConfigError,
    InputNotFoundError,
    MissingModelFactsError,
    UnknownHeadError,
    UnsupportedModelError,
)
from lineside_runtime.session import ARCHIVE_SUFFIX
from lineside_runtime.tensors import Array

if TYPE_CHECKING:
    import torch

log = logging.getLogger("lineside.convert")

CARD_NAME = "model_card.md"
_CARD_MAX_BYTES = 1 << 20


def open_source(
    model: Path | torch.nn.Module,
    work: Path,
    *,
    given: ModelFacts,
    trust: bool,
    frames: object = None,
    architecture: str = "",
    from_int8: bool = False,
    good_classes: Sequence[str] | None = None,
) -> SourceModel:
    """Opens a model of any kind that lineside reads.

    Args:
        model: A bundle's folder, ``.lsb``, ``.onnx`` or ``.pt``, a finished training run, or a torch module.
        work: A folder for temporary files; emptied first.
        given: What a bare model doesn't say.
        trust: As for `import_pt`.
        frames: What the caller gives to calibrate on. Where these are the model's own inputs, a bare model needs to say
            nothing of itself: its outputs are the caller's.
        architecture: As for `import_pt`.
        from_int8: Whether the weights of a static INT8 variant serve where a bundle has no float model: enough for
            other INT8 variants, and for nothing else.
        good_classes: As for `with_good_classes`, for what is no bundle yet.

    Raises:
        InputNotFoundError: There is no such file.
        ConfigError: Facts are given for a bundle.
        UnsupportedModelError: A file of another kind, or a bundle without a float ONNX variant.
        MissingModelFactsError: A bare model doesn't say how to prepare its input or read its output.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    if not isinstance(model, Path):
        return _from_module(model, work, given, own_input(frames), good_classes)
    if (run := run_of(model)) is not None:
        return _from_run(run, work, given, model.name, good_classes)
    if model.is_dir():
        bundle = open_bundle(model)
        if (run := _run_beside(bundle)) is not None:
            log.warning("%s has no float model: its training run in %s has", bundle.manifest.identity, run)
            return _from_run(run, work, given, run.name, good_classes)
        _refuse_facts(given, bundle)
        return _from_bundle(bundle, model.name, work if from_int8 else None)
    if not model.is_file():
        raise InputNotFoundError(f"no model at {model}", action="Give a bundle, an .onnx or a .pt file.")
    if model.suffix == ARCHIVE_SUFFIX:
        bundle = unpack_archive(model, work / "archive")
        _refuse_facts(given, bundle)
        return _from_bundle(bundle, model.name, work if from_int8 else None)
    if model.suffix in (".pt", ".pth"):
        exported = import_pt(model, trust, given=given, architecture=architecture)
        try:
            wrapped = wrap_onnx(exported, work / "wrapped", given, origin=model, good_classes=good_classes)
            return _from_bundle(wrapped, model.name)
        finally:
            shutil.rmtree(exported.parent, ignore_errors=True)
    if model.suffix == ".onnx":
        return _from_bundle(_wrap(model, work / "wrapped", given, own_input(frames), good_classes), model.name)
    raise UnsupportedModelError(f"model {model}", expected="a bundle's folder, .lsb, .onnx or .pt")


def _refuse_facts(given: ModelFacts, bundle: Bundle) -> None:
    """Refuses facts of a bare model for a bundle, which has its own.

    Raises:
        ConfigError: There are some.
    """
    names = [name for name, value in msgspec.structs.asdict(given).items() if value is not None]
    if names:
        raise ConfigError(
            names[0],
            expected=f"nothing: the manifest of {bundle.manifest.identity} says it",
            actual=getattr(given, names[0]),
            action="Leave it out, or give the bare model's file.",
        )


def own_input(frames: object) -> Array | Mapping[str, Array] | None:
    """Returns the first of the model's own inputs; ``None`` if frames or images were given, or nothing."""
    first = frames if isinstance(frames, np.ndarray) else None
    if isinstance(frames, Sequence) and not isinstance(frames, (str, bytes)) and frames:
        first = frames[0]
    if isinstance(first, Mapping) or (isinstance(first, np.ndarray) and first.dtype != np.uint8):
        return first
    return None


def _from_run(run: Path, work: Path, given: ModelFacts, name: str, good_classes: Sequence[str] | None) -> SourceModel:
    """Opens a run's graph, which has the weights of its ``best.pt``; the bundle gets the run's name."""
    known = facts_of_run(run)
    training = known.pop("training")
    facts = given.over(ModelFacts(**known))
    bundle = wrap_onnx(run / GRAPH, work / "wrapped", facts, good_classes=good_classes)
    named = msgspec.structs.replace(bundle.manifest, name=name_of(run.resolve().stem))
    source = _from_bundle(Bundle(bundle.path, named, bundle.digest), name)
    graphs = graphs_of_run(run, [each["width"] for each in training.get("widths", [])])
    return dataclasses.replace(source, training=training, narrower=dict(list(graphs.items())[1:]))


def _from_module(
    module: torch.nn.Module,
    work: Path,
    given: ModelFacts,
    own: Array | Mapping[str, Array] | None,
    good_classes: Sequence[str] | None,
) -> SourceModel:
    from lineside_converters.loading.torch_import import import_module

    example = next(iter(own.values())) if isinstance(own, Mapping) else own
    target = work / f"{type(module).__name__.lower()}.onnx"
    import_module(module, target, given, example)
    return _from_bundle(_wrap(target, work / "wrapped", given, own, good_classes), target.name)


def _wrap(model: Path, folder: Path, given: ModelFacts, own: object, good_classes: Sequence[str] | None) -> Bundle:
    """Wraps a bare model; as a generic one if it has no facts and the model's own inputs are given."""
    try:
        return _with_all_queries(wrap_onnx(model, folder, given, good_classes=good_classes))
    except (MissingModelFactsError, UnsupportedModelError, UnknownHeadError):
        if own is None or given != ModelFacts():
            raise
        return wrap_generic(model, folder)


def _with_all_queries(bundle: Bundle) -> Bundle:
    """Returns the bundle of a transformer that selects its best queries without that selection; any other as it is."""
    if bundle.manifest.postprocess != SELECTED:
        return bundle
    file = bundle.file(bundle.manifest.variants[0].file)
    graph = load_graph(file)
    reading = without_selection(graph)
    if reading is None:
        return bundle
    onnx.save(graph, file)
    outputs = read_onnx(file).outputs
    return write_manifest(bundle.path, msgspec.structs.replace(bundle.manifest, outputs=outputs, postprocess=reading))


def _run_beside(bundle: Bundle) -> Path | None:
    """Returns the training run around or beside a bundle without a float model, if it is what the bundle was made of.

    The hash of the float model in the bundle's report proves that it is.
    """
    source = None if _floats(bundle) else _source_of(bundle)
    if source is None:
        return None
    around = bundle.path.resolve().parent
    for place in (around, around / Path(source.name).name):
        run = run_of(place)
        if run is not None and file_hash(run / GRAPH) == source.sha256:
            return run
    return None


def _floats(bundle: Bundle) -> list[Variant]:
    return [v for v in bundle.manifest.variants if v.format == "onnx" and v.precision == "fp32"]


def _from_bundle(bundle: Bundle, name: str, work: Path | None = None) -> SourceModel:
    """Returns a bundle's float model.

    Args:
        work: Folder for the float form of its INT8 weights, where it has no float model.
    """
    floats = _floats(bundle)
    if not floats and work is not None and (stored := _quantized(bundle)) is not None:
        log.warning("%s has no float model: the float form of %s serves", bundle.manifest.identity, stored.name)
        model = work / "dequantized.onnx"
        dequantize(bundle.file(stored.file), model)
        file = "onnx-fp32/model.onnx"
        variant = msgspec.structs.replace(stored, name="onnx-fp32", file=file, level=0, precision="fp32")
        alone = msgspec.structs.replace(bundle.manifest, variants=(variant,))
        return SourceModel.of(model, alone, name, card=_card_of(bundle), training=_training_of(bundle))
    if not floats:
        raise UnsupportedModelError(
            f"{bundle.manifest.identity} has no float model to start from",
            expected="a variant of format onnx and precision fp32",
            actual=[f"{v.name}: {v.format} {v.precision}" for v in bundle.manifest.variants],
            action=f"Give the float model that it was made of{_made_of(bundle)}.",
        )
    model = bundle.file(floats[0].file)
    alone = msgspec.structs.replace(bundle.manifest, variants=(floats[0],))
    form = bundle.manifest.preprocess.text
    files = {form.tokenizer: bundle.file(form.tokenizer)} if isinstance(form, TextForm) else {}
    return SourceModel.of(model, alone, name, card=_card_of(bundle), training=_training_of(bundle), files=files)


def _quantized(bundle: Bundle) -> Variant | None:
    """Returns the INT8 variant whose weights can be read back as floats; ``None`` if there is none."""
    for variant in bundle.manifest.variants:
        if variant.format == "onnx" and not variant.stages and not is_mirrored(variant):
            return variant if is_quantized(load_graph(bundle.file(variant.file))) else None
    return None


def _made_of(bundle: Bundle) -> str:
    """Returns the name of a bundle's source, from its report."""
    source = _source_of(bundle)
    return f": {source.name}" if source is not None else ""


def _source_of(bundle: Bundle) -> SourceFacts | None:
    """Returns the source facts in a bundle's report; ``None`` if it has no report of ours."""
    if REPORT_NAME not in bundle.manifest.files:
        return None
    try:
        return read_report(bundle.path).source
    except BundleFormatError:
        return None


def _training_of(bundle: Bundle) -> dict[str, Any]:
    if REPORT_NAME not in bundle.manifest.files:
        return {}
    try:
        return read_report(bundle.path).training
    except BundleFormatError as error:  # a bundle of another maker may bring a report of its own kind
        log.warning("%s: its report is not taken over: %s", bundle.manifest.identity, error.message)
        return {}


def _card_of(bundle: Bundle) -> str:
    """Returns a bundle's model card without a heading that is the bundle's name: the new model has its own."""
    entry = bundle.manifest.files.get(CARD_NAME)
    if entry is None or entry.size > _CARD_MAX_BYTES:
        return ""
    return bundle.file(CARD_NAME).read_text(errors="replace").removeprefix(f"# {bundle.manifest.name}\n").lstrip()
