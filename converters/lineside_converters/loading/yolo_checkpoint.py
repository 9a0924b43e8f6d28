"""Export a ``.pt`` that ``ultralytics`` trained, by its own program.

Such a file is a pickled module: reading it runs code, and only ``ultralytics`` knows the classes in it. So its own
program, ``yolo``, writes the ONNX file, in a process of its own; it is found beside this Python or on the path, and may
live in another environment. lineside doesn't depend on it: its licence is AGPL-3.0.

Source: https://docs.ultralytics.com/modes/export/ (arguments), https://docs.ultralytics.com/quickstart/ (environment).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from lineside_runtime.errors import ConvertError, MissingExtraError

PROGRAM = "yolo"
OPSET = 17
EXPORT_MAX_S = 900.0

_MARK = b"ultralytics.nn"
_PICKLE_MAX_BYTES = 16 << 20


def is_yolo_checkpoint(path: Path) -> bool:
    """Returns whether ultralytics wrote a file, from the class names in it; it is not unpickled."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if not names:
            return False
        with archive.open(names[0]) as file:
            return _MARK in file.read(_PICKLE_MAX_BYTES)


def export_yolo(path: Path, folder: Path) -> Path:
    """Runs ``yolo`` to export the file at the size that it was trained at.

    Args:
        path: The checkpoint; it isn't touched.

    Returns:
        The ONNX file in ``folder``; what `ultralytics` writes into it says how frames go in.

    Raises:
        MissingExtraError: There is no ``yolo`` here.
        ConvertError: It fails.
    """
    program = shutil.which(PROGRAM, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        raise MissingExtraError(
            f"{path} was trained by ultralytics, which is not installed",
            expected=f"its program {PROGRAM!r} beside this Python or on the path",
            action=f"Run {PROGRAM} export model={path.name} format=onnx where it is, and give lineside the .onnx file.",
        )
    shutil.copyfile(path, folder / path.name)
    command = [program, "export", f"model={path.name}", "format=onnx", f"opset={OPSET}", "simplify=False"]
    # It would install packages by itself, and keep settings in the home folder.
    quiet = {"YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(folder / "settings"), "YOLO_OFFLINE": "true"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **quiet},
            capture_output=True,
            text=True,
            timeout=EXPORT_MAX_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(path, str(error)) from error
    made = folder / f"{path.stem}.onnx"
    if done.returncode or not made.is_file():
        raise _failed(path, "; ".join((done.stderr or done.stdout).strip().splitlines()[-2:])[:400])
    return made


def _failed(path: Path, why: str) -> ConvertError:
    return ConvertError(
        f"{PROGRAM} can't export {path}",
        expected="an ONNX file",
        actual=why,
        action=f"Run {PROGRAM} export model={path.name} format=onnx by hand, and give lineside the .onnx file.",
    )
