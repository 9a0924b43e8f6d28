"""``lineside bundle add-variant``."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import get_args

from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import Actions, add_bundle, add_json, add_overwrite
from lineside_runtime.bundle import Bundle, Variant, open_bundle
from lineside_runtime.devices import DeviceKind
from lineside_runtime.errors import InputNotFoundError
from lineside_runtime.precision import Precision

FROM_ONNX = ("litert", "tensorrt")
"""Engines whose file is made here of an INT8 ONNX file."""


def add(actions: Actions[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "add-variant",
        help="add a variant from a vendor's compiler",
        description="Writes a new bundle with one more variant, through the gates if its engine is installed here. "
        "For --engine litert and --engine tensorrt the file may also be an INT8 ONNX variant of the bundle, by its "
        "name: its own weights and scales are translated for LiteRT, or compiled by the TensorRT of this machine.",
    )
    add_bundle(parser)
    parser.add_argument(
        "file",
        type=Path,
        help="output of the vendor's compiler (.hef, .rknn, .rpk, .tflite, .plan, …), an INT8 .onnx file, or the name "
        "of an INT8 ONNX variant",
    )
    parser.add_argument("--engine", required=True, metavar="NAME", help="that runs it, as in `lineside devices`")
    parser.add_argument("--device", required=True, choices=get_args(DeviceKind), help="kind of device that runs it")
    parser.add_argument("--precision", default="int8", choices=get_args(Precision), help="default: %(default)s")
    parser.add_argument(
        "--level", type=int, metavar="N", help="of the variant (default: that of the variant that FILE names, else 1)"
    )
    parser.add_argument("--requires", default="", metavar="RANGE", help="versions of the engine, such as '>=4.20,<5'")
    parser.add_argument("--name", default="", help="of the variant (default: engine and precision)")
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="annotated data to compare accuracy on; repeatable",
    )
    parser.add_argument("--fold", default="train", help="which fold of the data (default: %(default)s)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="photos to compare outputs on")
    parser.add_argument(
        "--max-drop", type=float, default=0.02, metavar="D", help="of the metric (default: %(default)s)"
    )
    parser.add_argument(
        "--max-slowdown", type=float, default=1.0, metavar="R", help="share of the ONNX variant's time (%(default)s)"
    )
    parser.add_argument(
        "--device-chooses",
        action="store_true",
        help="each device times the variants of the first level when the bundle is staged, and takes the fastest: for "
        "a variant that is faster on other processors",
    )
    parser.add_argument("--version", default="", help="of the new bundle (default: the old one's, last number + 1)")
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder of the new bundle")
    add_overwrite(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_converters.reports.report import read_report
    bundle = open_bundle(options.bundle)
    if named := named_variant(bundle, options.file, options.engine):
        options.file = bundle.file(named.file)
    if options.level is None:
        options.level = named.level if named else 1
    compiler = partial(_compiled, bundle, options=options)
    with model_file(options.file, options.engine, compiler) as file:
        made = _add(options, file)
    if options.json:
        variants = read_report(made.path).variants
        print_json(
            {"bundle": str(made.path), "digest": made.digest, "speed": made.manifest.speed, "variants": variants}
        )
    else:
        show(made.path)
    return 0


def named_variant(bundle: Bundle, file: Path, engine: str) -> Variant | None:
    """Returns the ONNX variant of the bundle that is called what is given as a file, for an engine that takes one."""
    if engine not in FROM_ONNX or file.exists():
        return None
    return next((one for one in bundle.manifest.variants if one.format == "onnx" and one.name == str(file)), None)


@contextmanager
def model_file(file: Path, engine: str, compiler: Callable[[Path, Path], Path] | None = None) -> Iterator[Path]:
    """Gives the file that the engine reads: the given one, or what an ONNX file is translated or compiled to.

    Args:
        compiler: Writes TensorRT's engine of the first file into the second one.

    Raises:
        InputNotFoundError: There is no such ONNX file.
        MissingExtraError: The translator is not installed.
        EngineMissingError: TensorRT is not installed.
    """
    if file.suffix != ".onnx" or engine not in FROM_ONNX:
        yield file
        return
    if not file.is_file():
        raise InputNotFoundError(f"no file at {file}")
    with tempfile.TemporaryDirectory() as folder:
        if compiler is not None and engine == "tensorrt":
            yield compiler(file, Path(folder) / "model.plan")
            return
        with needs("litert"):
            from lineside_converters.formats.litert_qdq import translate_file
        yield translate_file(file, Path(folder) / "model.tflite")


def _compiled(bundle: Bundle, source: Path, target: Path, options: argparse.Namespace) -> Path:
    from lineside_converters.formats.vendor_variant import compile_for_tensorrt

    return compile_for_tensorrt(bundle, source, target, data=options.data, fold=options.fold, frames=options.images)


def _add(options: argparse.Namespace, file: Path) -> Bundle:
    from lineside_converters.formats.vendor_variant import VendorVariant, add_variant

    return add_variant(
        options.bundle,
        VendorVariant(
            file=file,
            engine=options.engine,
            kind=options.device,
            precision=options.precision,
            level=options.level,
            requires=options.requires,
            name=options.name,
        ),
        options.out,
        data=options.data,
        fold=options.fold,
        frames=options.images,
        max_drop=options.max_drop,
        max_slowdown=options.max_slowdown,
        device_chooses=options.device_chooses,
        version=options.version,
        overwrite=options.overwrite,
        report=inform,
    )
