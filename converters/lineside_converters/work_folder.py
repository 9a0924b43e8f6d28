"""Steps whose results are kept, so that a run that was killed resumes.

- A product is a folder ``<step>-<hash>``; the hash is of everything that goes into the step, so that another model,
  recipe, tool or frame makes another product and nothing stale is ever taken.
- It is put together under a hidden name, written to the disk and renamed: what stands there is whole.
- One process at a time works in a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import ConfigError, LinesideError
from lineside_runtime.files import file_lock, fsync_folder
from lineside_runtime.progress import TextListener
from lineside_runtime.system.packages import installed_version

TOOLS = ("lineside", "onnx", "onnxruntime", "openvino", "nncf", "ai-edge-quantizer", "pnnx", "numpy")
QUICK = "clean"
"""Name of the step that is too quick to keep a folder for."""

_LOCK = ".lock"
_HALF = ".half-"


class WorkFolder:
    """A folder of finished steps."""

    def __init__(self, folder: Path, report: TextListener) -> None:
        self._folder = folder
        self._report = report
        self._seen: set[Path] = set()
        self._tools = {name: installed_version(name) for name in TOOLS}

    @property
    def folder(self) -> Path:
        """The folder itself, for what isn't kept by its hash."""
        return self._folder

    def scratch(self, name: str) -> Path:
        """Returns a path for what is not kept: hidden, so that it is no folder of the user's."""
        return self._folder / f"{_HALF}{name}"

    def step(self, name: str, inputs: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """Returns the folder that a step has written, now or in an earlier run.

        Args:
            inputs: All that its product depends on, as values that JSON knows; files by their hash.
            make: Writes into an existing folder.
        """
        place = self._folder / f"{name}-{self._key(inputs)}"
        if place.is_dir():
            if place not in self._seen:
                self._report(f"{name}: done by an earlier run")
                self._seen.add(place)
            return place
        half = Path(tempfile.mkdtemp(prefix=f"{_HALF}{name}-", dir=self._folder))
        try:
            make(half)
            _sync(half)
            half.rename(place)
            self._seen.add(place)
        finally:
            shutil.rmtree(half, ignore_errors=True)
        fsync_folder(self._folder)
        return place

    def value(self, name: str, inputs: Mapping[str, Any], make: Callable[[], Any], kind: Any) -> Any:
        """Returns a step's product that is a value of ``kind`` and no file; see `step`."""

        def write(folder: Path) -> None:
            (folder / "value.json").write_bytes(msgspec.json.encode(make()))

        return decode_json((self.step(name, inputs, write) / "value.json").read_bytes(), type=kind)

    def _key(self, inputs: Mapping[str, Any]) -> str:
        data = msgspec.json.encode({"tools": self._tools, **inputs}, order="sorted")
        return hashlib.sha256(data).hexdigest()[:20]


@contextlib.contextmanager
def open_work_folder(folder: Path | None, report: TextListener) -> Iterator[WorkFolder]:
    """Opens a folder to work in; without one, a temporary one.

    Raises:
        ConfigError: Another process works there.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="lineside-optimizer-") as temporary:
            yield WorkFolder(Path(temporary), lambda text: None)
        return
    with _locked(folder):
        yield WorkFolder(folder, report)


@contextlib.contextmanager
def open_until_done(folder: Path, report: TextListener) -> Iterator[WorkFolder]:
    """Opens a folder to work in that is deleted once the work is done, and stays after an error or a kill.

    A call that is refused before it has done anything leaves none.

    Raises:
        ConfigError: Another process works there.
    """
    with _locked(folder):
        report(f"finished steps are kept in {folder} until all is done: after a kill the same call goes on there")
        try:
            yield WorkFolder(folder, report)
        except LinesideError:
            if not _worth_keeping(folder):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _worth_keeping(folder: Path) -> bool:
    """Returns whether a step has been finished that takes longer than reading the model does."""
    steps = [path for path in folder.iterdir() if "-" in path.name and path.is_dir() and any(path.iterdir())]
    return any(not path.name.startswith((f"{QUICK}-", _HALF)) for path in steps)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    action = "Another process works there: wait for it."
    refusal = ConfigError(f"work = {folder}", expected="a folder of one's own", action=action)
    with file_lock(folder / _LOCK, refusal=refusal):
        for half in folder.glob(f"{_HALF}*"):  # a killed run's
            shutil.rmtree(half, ignore_errors=True)
        yield


def file_hash(path: Path) -> str:
    """Returns the sha256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir():
            fsync_folder(path)
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
    fsync_folder(folder)
