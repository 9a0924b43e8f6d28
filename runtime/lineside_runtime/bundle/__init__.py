"""The bundle: a folder that holds a model in all that is needed to run, judge and trust it.

::

    surface-12/
    ├── manifest.json      `Manifest`; names every other file with size and sha256
    ├── labels.json        the class names, in the order of the model's outputs
    ├── model_card.md      what the model is for, and what not
    ├── report.json        how it was made and measured
    ├── golden/            an input and the outputs that its maker measured
    └── onnx-int8/model.onnx   one folder a variant

Opening a bundle never runs code from it: JSON is read into strict structs, arrays are read with pickle
forbidden, every path stays inside the folder, and every size is bounded before anything is read.
A ``.lsb`` file is the same folder as one uncompressed zip (`archive`).
"""

from __future__ import annotations

from lineside_runtime.bundle.folder import (
    Bundle,
    open_bundle,
    time_now,
    write_manifest,
)
from lineside_runtime.bundle.manifest import (
    CHUNK_BYTES,
    FILES_MAX,
    MANIFEST_MAX_BYTES,
    MANIFEST_NAME,
    MODELS_MAX,
    NAME,
    STATED_TERMS,
    FileEntry,
    FileList,
    Format,
    Golden,
    Manifest,
    ModelEntry,
    ModelRole,
    Postprocess,
    Speed,
    Stage,
    Variant,
    check_relative,
    describe_bytes,
    files_of,
    parse_manifest,
    sample_inputs,
)
from lineside_runtime.bundle.preprocessing import Preprocess, Reference, ReferenceImage, Rows, Slicing, TextForm
from lineside_runtime.bundle.verification import verify_file

__all__ = [
    "CHUNK_BYTES",
    "FILES_MAX",
    "MANIFEST_MAX_BYTES",
    "MANIFEST_NAME",
    "MODELS_MAX",
    "NAME",
    "STATED_TERMS",
    "Bundle",
    "FileEntry",
    "FileList",
    "Format",
    "Golden",
    "Manifest",
    "ModelEntry",
    "ModelRole",
    "Postprocess",
    "Preprocess",
    "Reference",
    "ReferenceImage",
    "Rows",
    "Slicing",
    "Speed",
    "Stage",
    "TextForm",
    "Variant",
    "check_relative",
    "describe_bytes",
    "files_of",
    "open_bundle",
    "parse_manifest",
    "sample_inputs",
    "time_now",
    "verify_file",
    "write_manifest",
]
