"""``lineside bundle show|verify|pack|unpack|from-run|add-variant|refit|mirror|split|combine``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lineside.commands.bundle import add_variant, combine, mirror, refit, split
from lineside.commands.bundle.tensorrt_source import tensorrt_sources
from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import add_bundle, add_good_class, add_json, add_min_metric, add_overwrite, add_terms
from lineside_boards import profile
from lineside_models.verdict.good_classes import rule_of
from lineside_runtime import registry
from lineside_runtime.bundle import STATED_TERMS, Bundle, Manifest, Reference, Variant, open_bundle
from lineside_runtime.bundle.archive import pack_archive, unpack_archive
from lineside_runtime.errors import InputNotFoundError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    show = actions.add_parser("show", help="show the facts of a bundle", description="Prints the facts of a bundle.")
    add_bundle(show)
    add_json(show)
    show.set_defaults(run=run_show)
    verify = actions.add_parser(
        "verify", help="compare every file with the manifest", description="Compares every file with the manifest."
    )
    add_bundle(verify)
    add_json(verify)
    verify.set_defaults(run=run_verify)
    pack = actions.add_parser(
        "pack", help="pack a bundle into one .lsb file", description="Packs a bundle into one file."
    )
    add_bundle(pack)
    pack.add_argument("archive", type=Path, help="the .lsb file to write")
    pack.set_defaults(run=run_pack)
    unpack = actions.add_parser(
        "unpack", help="unpack a .lsb file into a new folder", description="Unpacks and verifies a .lsb file."
    )
    unpack.add_argument("archive", type=Path, help="the .lsb file")
    unpack.add_argument("bundle", type=Path, help="the new folder")
    unpack.set_defaults(run=run_unpack)
    made = actions.add_parser(
        "from-run",
        help="make a bundle of a training run",
        description="Makes a bundle of a folder that `lineside train` wrote, through the optimizer's gates.",
    )
    made.add_argument("training", type=Path, help="the run's folder")
    made.add_argument("bundle", type=Path, help="the new folder")
    made.add_argument("--name", required=True, help="name of the model")
    made.add_argument("--version", default="1.0.0", help="of the bundle (default: %(default)s)")
    made.add_argument("--level", type=int, default=1, help="0: float; 1: INT8 (default: %(default)s)")
    made.add_argument(
        "--data",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="annotated data to calibrate and compare accuracy on; repeatable; default: frames of the line simulator",
    )
    made.add_argument("--fold", default="train", help="of the data (default: %(default)s)")
    add_min_metric(made)
    add_good_class(made)
    add_terms(made)
    made.add_argument("--card", type=Path, metavar="FILE", help="text at the beginning of the model card")
    add_overwrite(made)
    made.set_defaults(run=run_from_run)
    for action in (add_variant, refit, mirror, split, combine):
        action.add(actions)


NOTHING = "nothing in this bundle"
_COMPILE = (
    "compile an ONNX form with the vendor's compiler, then `lineside bundle add-variant BUNDLE FILE --engine {engine} "
    "--device npu --out NEW`"
)
_COMPILE_VARIANT = "`lineside bundle add-variant BUNDLE {name} --engine tensorrt --device gpu --out NEW`"
_OPTIMIZE = "`lineside optimize BUNDLE --target BOARD --out NEW`"

HOW_TO_MAKE = {
    "hailo": _COMPILE.format(engine="hailo"),
    "rknn": _COMPILE.format(engine="rknn"),
    "imx500": _COMPILE.format(engine="imx500"),
    "tensorrt": f"{_OPTIMIZE} on such a board compiles it there, for that kind of GPU (untested on hardware)",
    "litert": "`lineside bundle add-variant BUNDLE ONNX --engine litert --device cpu --out NEW` translates an INT8 "
    "ONNX form",
    "ncnn": f"{_OPTIMIZE} with a board that has ncnn",
    "openvino": f"{_OPTIMIZE} with x86-openvino",
    "ort": f"{_OPTIMIZE} with any board",
}
"""How a bundle gets a form for an engine that has none in it."""


def run_show(options: argparse.Namespace) -> int:
    bundle = open_bundle(options.bundle, verify=False)
    if options.json:
        boards, absent = variants_by_board(bundle), how_to_make(bundle)
        sources = tensorrt_sources(bundle) if "tensorrt" in absent else {}
        print_json(
            {
                "digest": bundle.digest,
                "manifest": bundle.manifest,
                "boards": boards,
                "no_form_for": absent,
                "tensorrt_sources": {name: {"suits": one.suits, "why": one.why} for name, one in sources.items()},
            }
        )
    else:
        _print_summary(bundle)
    return 0


def _print_summary(bundle: Bundle) -> None:
    manifest = bundle.manifest
    show(f"{manifest.identity}  ({manifest.task}, {manifest.size_bytes / 1e6:.2f} MB, made {manifest.created_at})")
    show(f"digest   {bundle.digest}")
    show(f"labels   {', '.join(manifest.labels)}")
    for spec in manifest.inputs:
        show(f"input    {spec.describe()}")
    for spec in manifest.outputs:
        show(f"output   {spec.describe()}")
    if isinstance(reference := manifest.preprocess.reference, Reference):
        count = len(reference.images)
        show(f"compares with {f'the best of its references: {count}' if count else 'references that are given to it'}")
    if not manifest.several:
        show(f"decoder  {manifest.postprocess.name}")
    if rule := rule_of(manifest.postprocess, manifest.labels):
        show(f"verdict  {rule}")
    for variant in manifest.variants:
        kinds = "/".join(variant.device_kinds)
        show(f"variant  {variant.name}: {variant.format} {variant.precision}, level {variant.level}, for {kinds}")
        for stage in variant.stages:
            show(f"stage    {variant.name}:{stage.name}: {stage.share:.0%} of the compute")
    for entry in manifest.several:
        takes = f"up to {entry.boxes_max} boxes of {entry.of}" if entry.of else "the frame"
        show(f"model    {entry.name}: {bundle.open_model(entry).manifest.identity}, takes {takes}")
    _print_boards(bundle)
    show(f"licence  {manifest.licence or 'not stated'}")
    show(f"data     {terms_of_data(manifest)}")
    golden = (
        "of each model" if manifest.several else "yes" if manifest.golden else "none: the health check only loads it"
    )
    show(f"golden   {golden}")


def variants_by_board(bundle: Bundle) -> dict[str, dict[str, list[str]]]:
    """Returns what each supported board can run: its engines, best first, with the names of their variants.

    A variant of one of several models is named ``MODEL/VARIANT``.
    """
    variants = [(variant.name, variant) for variant in bundle.manifest.variants]
    for entry in bundle.manifest.several:
        variants += [(f"{entry.name}/{one.name}", one) for one in bundle.open_model(entry).manifest.variants]
    return {
        board: {
            engine: [name for name, variant in variants if _may_run(engine, variant)]
            for engine in profile.load(board).engines.order
        }
        for board in profile.names()
    }


def _may_run(engine: str, variant: Variant) -> bool:
    return any(registry.may_read(engine, variant.format, kind) for kind in variant.device_kinds)


def _print_boards(bundle: Bundle) -> None:
    """Prints what each board can run; boards for which that is the same share a line."""
    absent = how_to_make(bundle)
    sources = tensorrt_sources(bundle) if "tensorrt" in absent else {}
    suited = [name for name, source in sources.items() if source.suits]
    compiled = {"tensorrt": f"compiled there of {' or '.join(suited)}"} if suited else {}
    same: dict[str, list[str]] = {}
    for board, engines in variants_by_board(bundle).items():
        by_names: dict[str, list[str]] = {}
        for engine, names in engines.items():
            by_names.setdefault(", ".join(names) or compiled.get(engine, NOTHING), []).append(engine)
        text = "; ".join(f"{', '.join(on)}: {names}" for names, on in by_names.items())
        same.setdefault(text, []).append(board)
    for text, boards in same.items():
        show(f"on       {', '.join(boards)}: {text}")
    if suited:
        absent["tensorrt"] = f"{_COMPILE_VARIANT.format(name=suited[0])}, or {absent['tensorrt']}"
    for engine, text in absent.items():
        show(f"no form  for {engine}: {text}")
    for name, source in sources.items():
        show(f"tensorrt {name}: {source.why}")


def how_to_make(bundle: Bundle) -> dict[str, str]:
    """Returns the engines of supported boards for which the bundle has no form, and how it gets one."""
    by_board = variants_by_board(bundle).values()
    absent = {engine for engines in by_board for engine, names in engines.items() if not names}
    return {engine: HOW_TO_MAKE.get(engine, "") for engine in sorted(absent)}


def terms_of_data(manifest: Manifest) -> str:
    """Returns the terms of the data that a bundle was trained on, as a line."""
    if not manifest.data_terms:
        return "not stated"
    return ", ".join(f"{name}: {STATED_TERMS.get(terms, terms)}" for name, terms in manifest.data_terms.items())


def run_verify(options: argparse.Namespace) -> int:
    """Compares every file with the manifest; the error names the first that differs."""
    bundle = open_bundle(options.bundle)
    if options.json:
        print_json({"bundle": bundle.manifest.identity, "digest": bundle.digest, "files": len(bundle.manifest.files)})
    else:
        show(f"{bundle.manifest.identity}: all {len(bundle.manifest.files)} files are as the manifest says")
    return 0


def run_pack(options: argparse.Namespace) -> int:
    pack_archive(open_bundle(options.bundle), options.archive)
    inform(f"wrote {options.archive}")
    return 0


def run_unpack(options: argparse.Namespace) -> int:
    """Unpacks and verifies an archive."""
    bundle = unpack_archive(options.archive, options.bundle)
    inform(f"unpacked {bundle.manifest.identity} into {options.bundle}")
    return 0


def run_from_run(options: argparse.Namespace) -> int:
    """Makes a bundle of a training run."""
    with needs("convert"):
        from lineside_converters.loading.training_run import GRAPH, facts_of_run
        from lineside_converters.optimizer import Optimizer
    if options.card is not None and not options.card.is_file():
        raise InputNotFoundError(f"{options.card} is not there", action="Write the model card's text there first.")
    result = Optimizer(
        options.training / GRAPH,
        optimization_level=options.level,
        out=options.bundle,
        name=options.name,
        version=options.version,
        card=options.card.read_text() if options.card is not None else "",
        data=options.data,
        fold=options.fold,
        good_classes=options.good_classes,
        min_metric=options.min_metric,
        licence=options.licence,
        data_terms=dict(options.data_terms) if options.data_terms else None,
        overwrite=options.overwrite,
        on_progress=inform,
        **facts_of_run(options.training),
    ).run()
    inform(f"wrote {result.bundle.path}, and {result.page.name} beside it")
    show(result.bundle.path)
    return 0
