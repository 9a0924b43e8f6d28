"""Combine several bundles into one, whose models inspect one part and give one verdict.

The result is one artifact: pushed, signed, fetched, tried and rolled back as any other bundle. Each model keeps its own
manifest, golden input, card and report in ``models/NAME``, byte for byte.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec

from lineside_converters.bundles.packaging import CARD_NAME, LABELS_NAME
from lineside_models import zoo
from lineside_runtime.bundle import (
    MANIFEST_NAME,
    STATED_TERMS,
    Bundle,
    Manifest,
    ModelEntry,
    ModelRole,
    Postprocess,
    Preprocess,
    open_bundle,
    time_now,
    write_manifest,
)
from lineside_runtime.bundle.archive import unpack_archive
from lineside_runtime.bundle.install import check_target, install_bundle, staging_folder
from lineside_runtime.config_errors import config_error
from lineside_runtime.decoding import decode_toml
from lineside_runtime.errors import BundleFormatError, ConfigError, InputNotFoundError
from lineside_runtime.files import write_atomic

FOLDER = "models"
TERMS_MAX = 100


class CombinedModel(ModelRole, frozen=True, kw_only=True):
    """One ``[[model]]`` table: a bundle, and how it takes part.

    Attributes:
        bundle: Its folder or ``.lsb`` file, relative to this file, or the name of a shipped bundle.
    """

    bundle: str

    @property
    def entry(self) -> ModelEntry:
        """Its place in the manifest."""
        role = {name: getattr(self, name) for name in ModelRole.__struct_fields__}
        return ModelEntry(**role, path=f"{FOLDER}/{self.name}")


class Combination(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file of ``lineside bundle combine``.

    Attributes:
        model: Its models, in the order in which they run.
    """

    name: str
    version: str = "1.0.0"
    model: tuple[CombinedModel, ...]


def read_combination(path: Path) -> Combination:
    """Reads the TOML file that describes the bundle.

    Raises:
        InputNotFoundError: There is no such file.
        ConfigError: Not TOML, an unknown key, a wrong type or a value out of range; the message names the path.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputNotFoundError(f"{path}: {error.strerror}", action="Give a TOML file with [[model]].") from error
    try:
        combination = decode_toml(data, type=Combination)
    except msgspec.ValidationError as error:
        raise config_error(error, Combination, decode_toml(data), where=str(path)) from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    if len(combination.model) < 2:
        raise ConfigError(f"{path}: $.model", expected="two or more [[model]] tables", actual=len(combination.model))
    return combination


def combine(combination: Combination, base: Path, out: Path, *, overwrite: bool = False) -> Bundle:
    """Writes the bundle's folder; it appears under its name when it is whole.

    Args:
        base: Folder at which relative paths of bundles start.

    Raises:
        InputNotFoundError: A bundle is not there.
        InputError: Something stands at ``out``, and it is no bundle or ``overwrite`` was not said.
        BundleError: A bundle is damaged, or the models do not fit each other.
        ConfigError: A model takes no image or has no golden input, or ``types`` names another type than the model has.
    """
    check_target(out, overwrite=overwrite)
    with staging_folder(out) as folder, tempfile.TemporaryDirectory(prefix="lineside-combine-") as scratch:
        parts = [(model, _copy(model, base, folder, Path(scratch))) for model in combination.model]
        manifests = {model.name: manifest for model, manifest in parts}
        for model, manifest in parts:
            _check(model, manifest, manifests)
        made = _manifest(combination, manifests)
        write_atomic(folder / LABELS_NAME, msgspec.json.format(msgspec.json.encode(made.labels), indent=1))
        write_atomic(folder / CARD_NAME, _card(combination, manifests).encode())
        try:
            write_manifest(folder, made)
            open_bundle(folder)
        except BundleFormatError as error:  # of the roles: each bundle was opened before
            action = "Correct the [[model]] tables."
            raise BundleFormatError(
                error.message, expected=error.expected, actual=error.actual, action=action
            ) from error
        install_bundle(folder, out)
    return open_bundle(out, verify=False)


def _copy(model: CombinedModel, base: Path, folder: Path, scratch: Path) -> Manifest:
    place = base / model.bundle
    source = place if place.exists() else zoo.find(model.bundle)
    if source.suffix == ".lsb" and source.is_file():
        source = unpack_archive(source, scratch / model.name).path
    bundle = open_bundle(source)
    target = folder / FOLDER / model.name
    for relative in (*bundle.manifest.files, MANIFEST_NAME):
        path = target / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, (bundle.path / relative).read_bytes())
    return bundle.manifest


def _check(model: CombinedModel, manifest: Manifest, manifests: dict[str, Manifest]) -> None:
    what = f"$.model[{model.name}]"
    if manifest.several:
        raise ConfigError(f"{what}: {manifest.identity} has several models itself", expected="a bundle of one model")
    if manifest.preprocess.colour == "none" or manifest.golden is None:
        raise ConfigError(
            f"{what}: {manifest.identity} can't take part",
            expected="a model of images with a golden input",
            action="Make the bundle with lineside optimize, learn-good or learn-reference.",
        )
    before = manifests.get(model.of)
    if before is not None and (strange := set(model.types) - set(before.labels)):
        raise ConfigError(f"{what}.types: {model.of} has no type {min(strange)!r}", expected=", ".join(before.labels))


def _manifest(combination: Combination, manifests: dict[str, Manifest]) -> Manifest:
    hand_on = {model.of for model in combination.model}
    judges = [manifests[model.name] for model in combination.model if model.name not in hand_on]
    manifest = Manifest(
        name=combination.name,
        version=combination.version,
        created_at=time_now(),
        labels=tuple(dict.fromkeys(label for judge in judges for label in judge.labels)),
        inputs=(),
        outputs=(),
        preprocess=Preprocess(input="", colour="none"),
        postprocess=Postprocess(name="models"),
        variants=(),
        models=tuple(model.entry for model in combination.model),
    )
    terms = _terms(list(manifests.values()))
    return msgspec.structs.replace(manifest, **terms)


def _terms(manifests: list[Manifest]) -> dict[str, object]:
    """Returns licence and terms of data of all models; what one does not state is not stated of all."""
    found: dict[str, object] = {}
    licences = list(dict.fromkeys(manifest.licence for manifest in manifests))
    if all(licences):
        joined = " AND ".join(map(str, licences))
        found["licence"] = joined if len(joined) <= TERMS_MAX else "see the models"
    if all(manifest.data_terms for manifest in manifests):
        data: dict[str, str] = {}
        for manifest in manifests:
            for name, terms in (manifest.data_terms or {}).items():
                if data.get(name) not in STATED_TERMS:
                    data[name] = terms
        found["data_terms"] = data
    return found


def _card(combination: Combination, manifests: dict[str, Manifest]) -> str:
    rows = []
    hand_on = {model.of for model in combination.model}
    for model in combination.model:
        takes = f"boxes of {model.of}" if model.of else "the frame"
        judges = "no: the next one inspects its boxes" if model.name in hand_on else "yes"
        card = f"[card]({FOLDER}/{model.name}/{CARD_NAME})"
        rows.append(f"| {model.name} | {manifests[model.name].identity} | {takes} | {judges} | {card} |")
    return "\n".join(
        [
            f"# {combination.name} {combination.version}",
            "",
            "Several models inspect one part and give one verdict: bad if one of those that judge finds a defect.",
            "",
            "| model | bundle | takes | judges | |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )
