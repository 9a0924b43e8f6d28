"""Write a bundle, completely or not at all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from lineside_converters.reports.page import PAGE_NAME, page
from lineside_converters.reports.report import REPORT_NAME, OptimizationReport, report_json
from lineside_models.frame import Frame
from lineside_models.golden import record, record_text
from lineside_models.nlp.extraction.sample_contract import GOLDEN_TEXT
from lineside_models.simulator import render
from lineside_runtime.bundle import (
    Bundle,
    Golden,
    Manifest,
    TextForm,
    check_relative,
    files_of,
    open_bundle,
    write_manifest,
)
from lineside_runtime.bundle.install import check_target, install_bundle, staging_folder
from lineside_runtime.config import Config
from lineside_runtime.errors import BundleFormatError, ConfigError
from lineside_runtime.files import write_atomic
from lineside_runtime.session import Session

LABELS_NAME = "labels.json"
CARD_NAME = "model_card.md"
THRESHOLDS_HEADING = "## Thresholds"
"""What begins the part of a model card that is written anew with other thresholds."""

GOLDEN_SEED = 12
"""A steel frame of the simulator with three defects: nobody's data, so that any bundle may carry it."""


def golden_frame() -> Frame:
    """Returns the frame that bundles carry as their golden input."""
    return Frame(image=render("steel", GOLDEN_SEED, defects=3).image, source="simulator", part_id="golden")


def build_bundle(
    out: Path,
    *,
    manifest: Manifest,
    models: Mapping[str, Path],
    report: OptimizationReport,
    card: str,
    frame: Frame | None = None,
    files: Mapping[str, Path] = MappingProxyType({}),
    engine: str = "ort",
    overwrite: bool = False,
) -> Bundle:
    """Writes a bundle's folder.

    It is put together under a temporary name beside ``out`` and renamed when it is whole and was read back. A
    process that is killed meanwhile leaves that hidden folder and nothing at ``out``.

    Args:
        manifest: Its ``files`` and ``golden`` are made here.
        models: Model file of every variant, by the variant's ``file``.
        report: What becomes ``report.json`` and, without pictures, ``report.html``.
        frame: The golden input; the simulator's if not given. A data set's frame may not be shipped.
        files: What the pre-processing needs, by its path in the bundle.

    Returns:
        The bundle, opened and verified.

    Raises:
        InputError: Something stands at ``out``, and it is no bundle or ``overwrite`` was not said.
        BundleFormatError: The manifest names a file that isn't given.
        DiskFullError: There is no room; nothing half-written remains.
        DeviceError: The first variant doesn't run here, so that there is no golden output.
    """
    check_target(out, overwrite=overwrite)
    with staging_folder(out) as folder:
        _copy_models(folder, manifest, models)
        for relative, source in files.items():
            check_relative(relative)
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / relative, source.read_bytes())
        write_atomic(folder / LABELS_NAME, msgspec.json.format(msgspec.json.encode(manifest.labels), indent=1))
        write_atomic(folder / CARD_NAME, card.encode())
        write_atomic(folder / REPORT_NAME, report_json(report))
        write_atomic(folder / PAGE_NAME, page(report).encode())
        golden = _record_golden(folder, manifest, golden_frame() if frame is None else frame, engine)
        write_manifest(folder, msgspec.structs.replace(manifest, golden=golden))
        open_bundle(folder)
        install_bundle(folder, out)
    return open_bundle(out, verify=False)


def _copy_models(folder: Path, manifest: Manifest, models: Mapping[str, Path]) -> None:
    for variant in manifest.variants:
        check_relative(variant.file)
        if variant.file not in models:
            raise BundleFormatError(f"no model for the variant {variant.name!r}", expected=variant.file)
        target, model = folder / variant.file, models[variant.file]
        target.parent.mkdir(parents=True, exist_ok=True)
        names = zip(files_of(variant.format, target.name), files_of(variant.format, model.name), strict=True)
        for name, source in names:
            write_atomic(target.parent / name, (model.parent / source).read_bytes())
        if variant.weights and not (folder / variant.weights).exists():
            write_atomic(folder / variant.weights, (model.parent / Path(variant.weights).name).read_bytes())


def _record_golden(folder: Path, manifest: Manifest, frame: Frame, engine: str) -> Golden | None:
    """Records the first variant's outputs; a model that takes neither image nor text has no golden input."""
    reads_text = isinstance(manifest.preprocess.text, TextForm)
    if manifest.preprocess.colour == "none" and not reads_text:
        return None
    unproved = write_manifest(folder, msgspec.structs.replace(manifest, golden=None))
    with Session(unproved, Config(engines=(engine,))) as session:
        return record_text(session, folder, GOLDEN_TEXT) if reads_text else record(session, folder, frame)


def rewrite_bundle(bundle: Bundle, out: Path, manifest: Manifest, *, files: Mapping[str, bytes]) -> Bundle:
    """Writes a bundle again with another manifest; every file that is not given stays, bit for bit.

    Args:
        bundle: The old one; it stays as it is.
        out: A folder that `check_place` has let pass.
        manifest: Its ``files`` are made here.
        files: Other or more files, by path in the bundle.

    Raises:
        BundleError: The old bundle is damaged.
        DiskFullError: There is no room; nothing half-written remains.
    """
    with staging_folder(out) as folder:
        for relative in bundle.manifest.files.keys() - files.keys():
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.file(relative), folder / relative)
        for relative, content in files.items():
            check_relative(relative)
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / relative, content)
        write_manifest(folder, manifest)
        open_bundle(folder)
        install_bundle(folder, out)
    return open_bundle(out, verify=False)


def check_place(bundle: Bundle, out: Path, *, version: str = "", overwrite: bool = False) -> str:
    """Checks that a new version of a bundle can be written, before any work is done for it.

    Returns:
        The new bundle's version.

    Raises:
        InputError: Something stands at ``out``.
        ConfigError: The old version has no last number to raise, or the new one is the old one; or ``out`` is the old
            bundle's folder.
    """
    version = version or next_version(bundle.manifest.version)
    if version == bundle.manifest.version:
        raise ConfigError(
            "version", expected="another one than the old bundle's", actual=version, action="Give another."
        )
    if out.exists() and out.samefile(bundle.path):
        raise ConfigError("out", expected="another folder than the old bundle's", actual=out, action="Give another.")
    check_target(out, overwrite=overwrite)
    return version


def next_version(version: str) -> str:
    """Returns the version with its last number one higher: ``1.0.0`` → ``1.0.1``; without a number, ``.1`` is added."""
    found = re.fullmatch(r"(.*?)(\d+)(\D*)", version)
    return f"{found[1]}{int(found[2]) + 1}{found[3]}" if found else f"{version}.1"
