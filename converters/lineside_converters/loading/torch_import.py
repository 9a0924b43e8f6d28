"""Read a ``.pt`` file or module: state dicts of known networks only, and no code.

torch is imported here and only when a ``.pt`` or a module is read.
"""

from __future__ import annotations

import pickle
import re
import shutil
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from lineside_converters.loading.yolo_checkpoint import export_yolo, is_yolo_checkpoint
from lineside_models.labels import LABELS
from lineside_models.vision.model_facts import METADATA_KEY, ModelFacts, from_sidecar
from lineside_runtime.errors import (
    InputNotFoundError,
    LinesideError,
    MissingExtraError,
    MissingModelFactsError,
    UnsafeModelError,
    UnsupportedModelError,
)
from lineside_runtime.tensors import Array

if TYPE_CHECKING:
    import torch

PT_MAX_BYTES = 1 << 30

_WRAPPERS = ("state_dict", "model_state_dict", "ema", "model")
"""Keys under which training scripts keep the weights in a checkpoint."""

_NAMES = ("arch", "model_name", "architecture")
"""Keys under which they keep the network's name; timm's is the first."""


def import_pt(path: Path, trust: bool = False, *, given: ModelFacts | None = None, architecture: str = "") -> Path:
    """Exports a ``.pt`` file to ONNX.

    Args:
        path: A state dict of a known architecture, also under ``state_dict`` or ``model`` in a checkpoint; or what
            ``ultralytics`` trained, where its program is here.
        trust: Read a pickled module although reading it runs code from it: only for files that you made yourself.
        given: What the caller says of its input; that of the sidecar if not given.
        architecture: Name of the network in torchvision or timm, where the caller says it.

    Returns:
        An ONNX file in a new temporary folder, which the caller removes. With the labels of lineside's own detector
        its metadata says how to prepare its input and read its output.

    Raises:
        InputNotFoundError: There is no such file.
        MissingExtraError: torch is not installed.
        UnsafeModelError: Reading the file could run code, and ``trust`` was not said.
        UnsupportedModelError: A kind of file or an architecture that lineside doesn't know.
        ConvertError: It cannot be exported, or the graph computes something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputNotFoundError(f"no model at {path}", action="Give a .pt file.")
    if path.stat().st_size > PT_MAX_BYTES:
        raise UnsupportedModelError(
            f"{path} is too large", expected=f"{PT_MAX_BYTES} bytes at most", actual=path.stat().st_size
        )
    if is_yolo_checkpoint(path):
        return _export_yolo(path, trust)
    _refuse_archives(path)
    model = _model_of(_load(path, trust), path, architecture)
    folder = Path(tempfile.mkdtemp(prefix="lineside-import-"))
    try:
        return _export(model, folder / f"{path.stem}.onnx", (given or ModelFacts()).over(from_sidecar(path)))
    except LinesideError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _export_yolo(path: Path, trust: bool) -> Path:
    if not trust:
        raise UnsafeModelError(
            f"{path} is a pickled module of ultralytics",
            expected="an ONNX file, or a plain state dict",
            action=f"Run yolo export model={path.name} format=onnx and give the .onnx file, or say trust=True "
            "(--trust) if you made the file yourself.",
        )
    folder = Path(tempfile.mkdtemp(prefix="lineside-import-"))
    try:
        return export_yolo(path, folder)
    except LinesideError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def import_module(module: torch.nn.Module, target: Path, given: ModelFacts, example: Array | None = None) -> Path:
    """Exports a torch module to ONNX.

    Args:
        module: It, with its weights; its definition runs, as it is the caller's own.
        given: What the caller says of its input and output.
        example: An input; made from the pre-processing if not given.

    Returns:
        ``target``; its metadata says how to prepare its input and read its output, as far as that is known.

    Raises:
        MissingModelFactsError: Neither the caller nor the module says what its input looks like.
        ConvertError: It cannot be exported, or the graph computes something else.
    """
    import torch

    from lineside_converters.loading.architectures import INPUT, facts_of
    from lineside_converters.loading.onnx_export import export_onnx

    preprocess = given.preprocess or facts_of(module, 1).preprocess
    if example is None and (preprocess is None or preprocess.colour == "none"):
        raise MissingModelFactsError(
            f"{type(module).__name__} doesn't say what its input looks like",
            expected="preprocess=… with a size, or frames=[array, …] of the model's own inputs",
        )
    if example is None and preprocess is not None:
        height, width = preprocess.size or (preprocess.min_side, preprocess.min_side)
        example = np.zeros((1, 1 if preprocess.colour == "grey" else 3, height, width), np.float32)
    tensor = torch.from_numpy(np.array(example))
    with torch.no_grad():
        made = module.eval()(tensor)
    outputs = list(made) if isinstance(made, (tuple, list)) else [made]
    if not all(isinstance(one, torch.Tensor) for one in outputs):
        raise UnsupportedModelError(
            f"{type(module).__name__} returns {type(made).__name__}",
            expected="a tensor or a tuple of tensors",
            action="Wrap it in a module that returns tensors.",
        )
    classes = outputs[0].shape[1] if len(outputs) == 1 and outputs[0].ndim == 2 else 0
    export_onnx(
        module,
        target,
        example=tensor,
        input_name=(preprocess.input if preprocess else "") or INPUT,
        output_names=[f"output{number}" if number else "output" for number in range(len(outputs))],
        dynamic_axes={},
    )
    _write_facts(target, given.over(facts_of(module, classes) if classes else ModelFacts()))
    return target


def _write_facts(target: Path, facts: ModelFacts) -> None:
    import onnx

    graph = onnx.load(target)
    known = {key: value for key, value in msgspec.to_builtins(facts).items() if value is not None}
    if known:
        graph.metadata_props.add(key=METADATA_KEY, value=msgspec.json.encode(known).decode())
        onnx.save(graph, target)


def _missing_torch(path: Path) -> LinesideError:
    return MissingExtraError(
        f"{path} needs torch, which is not installed", action="Run pip install 'lineside[train]', or give an ONNX file."
    )


def _refuse_archives(path: Path) -> None:
    """Refuses TorchScript and ``torch.export`` archives by their members' names, without opening them in torch."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            inside = {name.partition("/")[2] or name for name in archive.namelist()}
    except zipfile.BadZipFile as error:
        raise UnsupportedModelError(f"{path} is a damaged archive", expected="a state dict in a .pt file") from error
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        kind = "a TorchScript archive, which holds code"
    elif any(name.endswith("serialized_exported_program.json") or name == "archive_format" for name in inside) or any(
        name.startswith("models/") for name in inside
    ):
        # torch.export.load falls back to unpickling whatever is inside
        kind = "an exported program (torch.export), which torch reads with pickle"
    else:
        return
    raise UnsupportedModelError(
        f"{path} is {kind}",
        expected="a state dict in a .pt file",
        action="Save the weights with torch.save(model.state_dict(), path), or export the model to ONNX.",
    )


def _load(path: Path, trust: bool) -> Any:
    try:
        import torch
    except ImportError as error:
        raise _missing_torch(path) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # asks to report pickle protocols to torch's makers
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not trust:
            raise UnsafeModelError(
                f"{path} holds more than weights",
                expected="a plain state dict",
                actual=_what_it_wants(error),
                action="Save the weights with torch.save(model.state_dict(), path), give an ONNX file, or say "
                "trust=True (--trust) if you made the file yourself.",
            ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, UnicodeDecodeError) as error:
        raise UnsupportedModelError(f"{path} cannot be read as a .pt file", actual=_first_line(error)) from error
    return _load_trusted(path)


def _load_trusted(path: Path) -> Any:
    """Unpickles the whole file; only after the caller has declared it trusted."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ImportError) as error:
        raise UnsupportedModelError(f"{path} cannot be read as a .pt file", actual=_first_line(error)) from error


def _what_it_wants(error: Exception) -> str:
    found = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
    if found is not None:
        return found[1]
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "global" in line]
    return lines[0][:300] if lines else _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _model_of(loaded: Any, path: Path, architecture: str) -> torch.nn.Module:
    import torch

    from lineside_models.networks import ARCHITECTURES

    if isinstance(loaded, torch.nn.Module):  # only reached with trust
        return loaded.eval()
    stated = next((str(loaded[key]) for key in _NAMES if isinstance(loaded, dict) and key in loaded), "")
    for key in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), torch.nn.Module):  # only with trust
            net: torch.nn.Module = loaded[key]
            return net.float().eval()
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise UnsupportedModelError(
            f"{path} is no state dict",
            expected=f"the weights of one of {sorted(ARCHITECTURES)}, or of a network of torchvision or timm",
            actual=type(loaded).__name__,
            action="Save the weights with torch.save(model.state_dict(), path), or export the model to ONNX.",
        )
    return _network_of(loaded, path, stated, architecture)


def _network_of(weights: dict[str, Any], path: Path, stated: str, architecture: str) -> torch.nn.Module:
    from lineside_converters.loading.architectures import named_network, network_of
    from lineside_models.networks import from_state_dict, is_known

    plain = {name.removeprefix("module."): tensor for name, tensor in weights.items()}  # DataParallel's prefix
    if architecture:
        return named_network(architecture, plain)
    try:
        return from_state_dict(plain)
    except UnsupportedModelError as error:
        found = None if is_known(plain) else network_of(path, plain, stated)
        if found is None:
            raise UnsupportedModelError(
                error.message,
                expected=f"{error.expected}, or those of a network of torchvision or timm",
                actual=error.actual,
                action=error.action,
            ) from error
        return found


def _export(model: torch.nn.Module, target: Path, given: ModelFacts) -> Path:
    from lineside_converters.training.detection import bundle_facts as facts
    from lineside_converters.training.detection.trainer import export_detector
    from lineside_models.networks.detector import SurfaceDetector

    if not isinstance(model, SurfaceDetector):
        return import_module(model, target, given)
    export_detector(model, target)
    if model.num_classes == len(LABELS):
        known = ModelFacts(labels=LABELS, preprocess=facts.PREPROCESS, postprocess=facts.postprocess())
        _write_facts(target, known)
    return target
