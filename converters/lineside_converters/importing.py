"""Reading somebody's ``.pt`` file: a plain state dict of a network that lineside knows, and nothing that could run.

torch is imported here and only when a ``.pt`` is read.
"""

from __future__ import annotations

import pickle
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lineside_models.labels import LABELS
from lineside_runtime.errors import (
    InputNotFoundError,
    LinesideError,
    MissingExtraError,
    UnsafeModelError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    import torch

PT_MAX_BYTES = 1 << 30

_WRAPPERS = ("state_dict", "model_state_dict", "ema", "model")
"""Keys under which training scripts keep the weights in a checkpoint."""


def import_pt(path: Path, trust: bool = False) -> Path:
    """Exports a ``.pt`` file to ONNX.

    Args:
        path: A state dict of a known architecture, also under ``state_dict`` or ``model`` in a checkpoint.
        trust: Read a pickled module although reading it runs code from it: only for files that you made yourself.

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
    _refuse_archives(path)
    model = _model_of(_load(path, trust), path)
    folder = Path(tempfile.mkdtemp(prefix="lineside-import-"))
    return _export(model, folder / f"{path.stem}.onnx")


def _missing_torch(path: Path) -> LinesideError:
    return MissingExtraError(
        f"{path} needs torch, which is not installed", action="Run pip install 'lineside[train]', or give an ONNX file."
    )


def _refuse_archives(path: Path) -> None:
    """Tells TorchScript and ``torch.export`` archives by their members' names, without opening them in torch."""
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
                f"{path} holds more than weights", expected="a plain state dict", actual=_what_it_wants(error)
            ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, UnicodeDecodeError) as error:
        raise UnsupportedModelError(f"{path} cannot be read as a .pt file", actual=_first_line(error)) from error
    return _load_trusted(path)


def _load_trusted(path: Path) -> Any:
    """Reads the file with all that is in it; only after the caller has said that the file is his own."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ImportError) as error:
        raise UnsupportedModelError(f"{path} cannot be read as a .pt file", actual=_first_line(error)) from error


def _what_it_wants(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "global" in line]
    return lines[0][:300] if lines else _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _model_of(loaded: Any, path: Path) -> torch.nn.Module:
    import torch

    from lineside_models.networks import ARCHITECTURES, from_state_dict

    if isinstance(loaded, torch.nn.Module):  # only reached with trust
        return from_state_dict(loaded.state_dict())
    for key in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise UnsupportedModelError(
            f"{path} is no state dict",
            expected=f"the weights of one of {sorted(ARCHITECTURES)}",
            actual=type(loaded).__name__,
            action="Save the weights with torch.save(model.state_dict(), path), or export the model to ONNX.",
        )
    return from_state_dict(loaded)


def _export(model: torch.nn.Module, target: Path) -> Path:
    import onnx

    from lineside_converters.training import facts
    from lineside_converters.training.detector import export_detector
    from lineside_models.networks.detector import SurfaceDetector
    from lineside_models.vision.facts import METADATA_KEY, ModelFacts

    if not isinstance(model, SurfaceDetector):
        raise UnsupportedModelError(f"no exporter for {type(model).__name__}", action="Export the model to ONNX.")
    export_detector(model, target)
    if model.num_classes == len(LABELS):
        known = ModelFacts(labels=LABELS, preprocess=facts.PREPROCESS, postprocess=facts.postprocess())
        graph = onnx.load(target)
        graph.metadata_props.add(key=METADATA_KEY, value=msgspec.json.encode(known).decode())
        onnx.save(graph, target)
    return target
