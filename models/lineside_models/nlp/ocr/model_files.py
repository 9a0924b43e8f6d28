"""PP-OCR's networks, taken as files from the package ``rapidocr``, each opened as a `Session`.

The package is never imported: only its ONNX files are read. They are licensed under Apache 2.0 (``MODEL_LICENSES.md``
in the package).
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from pathlib import Path
from typing import Any, Literal

from lineside_models.nlp.ocr.character_head import CharacterHead, cut_head
from lineside_runtime.config import Config
from lineside_runtime.errors import MissingExtraError, UnsupportedModelError
from lineside_runtime.session import Session

Role = Literal["det", "cls", "rec"]

PACKAGE = "rapidocr"


def model_file(role: Role) -> Path:
    """Returns the network of a role.

    Args:
        role: ``det`` finds lines of text, ``cls`` tells which of them stand upside down, ``rec`` reads them.

    Raises:
        MissingExtraError: The package is not installed, or has no such file.
    """
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = sorted(str(one.locate()) for one in files if one.suffix == ".onnx" and f"_{role}_" in one.name)
    if not found:
        raise MissingExtraError(
            f"no network for text recognition ({role})",
            expected=f"the package {PACKAGE} with its models",
            action="Run: pip install 'lineside[documents]'",
        )
    return Path(found[-1])


class OcrModel:
    """One of the networks in a `Session`; any number of threads may call it.

    Args:
        role: As for `model_file`.
        config: Where it may run; `Config()` if ``None``.

    Raises:
        MissingExtraError: As for `model_file`.
        UnsupportedModelError: It is another network than PP-OCR's.
    """

    def __init__(self, role: Role, config: Config | None = None) -> None:
        from lineside_models.vision.onnx_bundle import wrap_generic

        self._folder = tempfile.TemporaryDirectory(prefix="lineside-ocr-")  # a bundle is a folder of its own
        folder = Path(self._folder.name)
        self.session = Session(wrap_generic(self._network(model_file(role), folder), folder / "bundle"), config)

    def __call__(self, tensor: Any) -> Any:
        """Returns the network's only output for its only input."""
        return next(iter(self.session.predict(tensor).values()))

    def close(self) -> None:
        """Frees the network."""
        self.session.close()
        self._folder.cleanup()

    def _network(self, path: Path, _: Path) -> Path:
        return path


class RecognitionModel(OcrModel):
    """The network that reads lines, without its last layer.

    Attributes:
        head: That layer.
    """

    head: CharacterHead

    def __init__(self, config: Config | None = None) -> None:
        super().__init__("rec", config)

    def _network(self, path: Path, folder: Path) -> Path:
        try:
            body, self.head = cut_head(path.read_bytes())
        except ValueError as error:
            raise UnsupportedModelError(f"{path.name}: {error}", expected="an ONNX file") from error
        out = folder / path.name
        out.write_bytes(body)
        return out
