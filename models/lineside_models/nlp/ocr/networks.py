"""The networks of text recognition: shipped bundles, each opened as a `Session`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lineside_models import zoo
from lineside_models.nlp.ocr.character_head import read_head
from lineside_runtime.bundle import open_bundle
from lineside_runtime.config import Config
from lineside_runtime.session import Session

NetworkName = Literal["text-detection", "text-orientation", "text-lines"]

HEAD_FILE = "head/head.binpb"
"""In the bundle ``text-lines``: its last layer."""


class OcrModel:
    """One of the networks in a `Session`; any number of threads may call it.

    Args:
        name: ``text-detection`` finds lines of text, ``text-orientation`` tells which of them stand upside down,
            ``text-lines`` reads them.
        config: Where it may run; `Config()` if ``None``.
        folder: Holds the bundles; the shipped ones if ``None``.

    Raises:
        InputNotFoundError: This installation lacks the bundle.
    """

    def __init__(self, name: NetworkName, config: Config | None = None, folder: Path | None = None) -> None:
        self.session = Session(open_bundle(folder / name if folder is not None else zoo.path(name)), config)

    def __call__(self, tensor: Any) -> Any:
        """Returns the network's only output for its only input."""
        return next(iter(self.session.predict(tensor).values()))

    def close(self) -> None:
        """Frees the network."""
        self.session.close()


class RecognitionModel(OcrModel):
    """The network that reads lines, without its last layer.

    Raises:
        InputNotFoundError: As for `OcrModel`.
        BundleFormatError: The last layer is damaged.
    """

    def __init__(self, config: Config | None = None, folder: Path | None = None) -> None:
        super().__init__("text-lines", config, folder)
        self.head = read_head(self.session.bundle.file(HEAD_FILE).read_bytes())
