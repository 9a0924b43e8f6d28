"""Files out of other people's wheels, unpacked under ``.wheels/``, which git ignores; nothing of them is run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HOME = Path(__file__).parents[2] / ".wheels"


def unpacked(requirement: str) -> Path:
    """Returns the folder of a wheel's files, fetched if it isn't there.

    Args:
        requirement: Such as ``magika==1.0.3``: a version, so that the same files come each time.

    Raises:
        subprocess.CalledProcessError: The registry has no such wheel; pip's words are on stderr.
    """
    folder = HOME / requirement.replace("==", "-")
    if folder.is_dir():
        return folder
    HOME.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOME) as work:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        command = [*pip, "--only-binary", ":all:", "--dest", work, requirement]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = Path(work).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(Path(work) / "files")  # members outside the folder are put inside it by zipfile itself
        shutil.move(Path(work) / "files", folder)
    return folder
