"""``lineside relabel export|import|report|mark``."""

from __future__ import annotations

import argparse
import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import add_hub, add_json, bundle_path, positive
from lineside_runtime.wording import counted

if TYPE_CHECKING:
    from lineside_hub.relabel.importer import ImportReport

SELECTS = ("newest", "random", "informative")
VERDICTS = ("unsure", "reject", "wrong", "all")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_export(actions)
    _add_import(actions)
    _add_report(actions)
    _add_mark(actions)


def _add_export(actions: Any) -> None:
    export = actions.add_parser(
        "export",
        help="export frames for people to correct, as COCO with the model's boxes",
        description="Writes the frames of results into a folder: images/, and annotations.json in COCO's format with "
        "the model's boxes and scores, for annotation tools. Results that a person marked as wrong are first and "
        "always included; corrected ones are left out.",
    )
    add_hub(export)
    export.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    export.add_argument(
        "--verdict",
        choices=(*VERDICTS, "bad"),
        metavar=f"{{{','.join(VERDICTS)}}}",
        default="unsure",
        help="reject (or bad): a defect was found, or no verdict was possible; wrong: only results that a person "
        "marked (default: %(default)s)",
    )
    export.add_argument("--device", default="", help="only of this device")
    export.add_argument("--since", metavar="TIME", help="captured then or later: 2026-11-24, 90m, 2h or 7d ago")
    export.add_argument("--limit", type=positive, metavar="N", help="at most N, chosen by --select")
    export.add_argument(
        "--select",
        choices=SELECTS,
        default="newest",
        help="which N: the newest; random ones; or informative, those whose correction teaches most: unsure ones that "
        "differ from each other, rare types first, and 15 %% at random (default: %(default)s)",
    )
    export.add_argument("--seed", type=int, default=0, metavar="S", help="of --select (default: %(default)s)")
    export.add_argument("--again", action="store_true", help="also corrected frames")
    _add_bundle(export)
    add_json(export)
    export.set_defaults(run=run_export)


def _add_import(actions: Any) -> None:
    load = actions.add_parser(
        "import",
        help="import a corrected COCO file into a dataset for training",
        description="Checks a corrected COCO file and creates or extends a dataset for `lineside train` and "
        "`lineside evaluate`. Images that are not in the file are ignored, images without a box are good parts. A "
        "repeat changes nothing.",
    )
    load.add_argument("source", type=Path, metavar="FOLDER|FILE", help="the exported folder, or the corrected file")
    load.add_argument("--hub", type=Path, metavar="DIR", help="the hub's folder, which stores the corrections")
    load.add_argument(
        "--into", type=Path, metavar="DATASET", help="the dataset (default: relabelled in the hub's folder)"
    )
    load.add_argument("--by", default="", metavar="NAME", help="who corrected (default: you)")
    load.add_argument(
        "--new-type", action="append", default=[], metavar="NAME", help="a type that is new to the model; repeatable"
    )
    load.add_argument(
        "--val-share", type=float, metavar="S", help="for a new dataset: share of the parts in fold val (default: 0.2)"
    )
    load.add_argument(
        "--group",
        metavar="REGEX",
        help="in a new dataset: pattern in a part's id, such as its lot, that keeps parts together (default: the id)",
    )
    _add_bundle(load)
    add_json(load)
    load.set_defaults(run=run_import)


def _add_report(actions: Any) -> None:
    report = actions.add_parser(
        "report",
        help="disagreement of model and people over all corrections",
        description="Prints what people changed: boxes kept, moved, added and deleted, and the confusion of types.",
    )
    report.add_argument("dataset", type=Path, metavar="DATASET", help="that `relabel import` made")
    add_json(report)
    report.set_defaults(run=run_report)


def _add_mark(actions: Any) -> None:
    mark = actions.add_parser(
        "mark",
        help="mark the verdict on a part as wrong",
        description="Marks a result of a part, so that the next export selects it.",
    )
    mark.add_argument("part", metavar="PART_ID")
    add_hub(mark)
    which = mark.add_mutually_exclusive_group(required=True)
    which.add_argument("--wrong", action="store_true", help="the verdict is wrong")
    which.add_argument("--right", action="store_true", help="the verdict is right: removes the mark")
    mark.add_argument("--note", default="", help="for the person who corrects it")
    mark.add_argument("--device", default="", help="which of several devices that saw the part")
    mark.add_argument("--newest", action="store_true", help="the last of several results")
    mark.add_argument("--by", default="", metavar="NAME", help="who marks it (default: you)")
    add_json(mark)
    mark.set_defaults(run=run_mark)


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bundle",
        type=bundle_path,
        metavar="BUNDLE",
        help="a bundle whose types are used, if the hub does not know those of the results",
    )


def run_export(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.config import folder_config
        from lineside_hub.fleet.listing import check_known
        from lineside_hub.relabel.export import export
        from lineside_hub.relabel.selection import Selection
    from lineside_link.result_table import moment

    config = folder_config(options.hub)
    if options.device:
        check_known(config, options.device)
    choice = Selection(
        verdict={"reject": "bad"}.get(options.verdict, options.verdict),
        device=options.device,
        since_ns=moment(options.since) if options.since else None,
        limit=options.limit,
        select=options.select,
        seed=options.seed,
        again=options.again,
    )
    done = export(config, choice, options.out, bundle=options.bundle, on_progress=inform)
    if options.json:
        print_json(done)
        return 0
    with_boxes = f"{counted(done.images, 'image')} with {counted(done.boxes, 'box', 'boxes')}"
    inform(f"{with_boxes} of the model in {done.folder}; {done.marked} called wrong")
    if done.without_frame:
        inform(f"{done.without_frame} more results have no frame at the hub")
    if done.missing:
        inform(f"{done.missing} frames are gone at the hub, or damaged")
    inform(
        f"correct {done.folder / 'annotations.json'} with a tool, save it there as COCO, then: lineside relabel import"
    )
    return 0


def run_import(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.config import folder_config
        from lineside_hub.relabel.importer import import_corrections
    done = import_corrections(
        options.source,
        hub=folder_config(options.hub) if options.hub is not None else None,
        into=options.into,
        by=options.by or getpass.getuser(),
        new_types=options.new_type,
        bundle=options.bundle,
        val_share=options.val_share,
        group=options.group,
    )
    if options.json:
        print_json(done)
    else:
        _print(done)
    return 0


def _print(done: ImportReport) -> None:
    folds = ", ".join(f"{count} in {fold}" for fold, count in done.folds.items())
    show(f"{done.dataset}: {folds}")
    show(f"{done.images} images: {done.new} new, {done.corrected} corrected again, {done.unchanged} as before")
    if done.replaced_at_hub:
        show(f"{done.replaced_at_hub} of them were corrected by others at the hub since the export: these boxes count")
    if done.kept_at_hub:
        show(f"{done.kept_at_hub} of them got other boxes at the hub since the export, and keep those")
        inform("to change them again, correct them in the browser, or export them with --again")
    if done.left_out:
        show(f"{done.left_out} exported images are not in the file and count as not looked at")
    if done.repeated_boxes:
        show(f"{done.repeated_boxes} boxes were there twice")
    _print_changes(done.boxes, done.confusion)
    if done.new + done.corrected and not any(count for kind, count in done.boxes.items() if kind != "kept"):
        inform("no box was changed: if the file was imported before it was corrected, correct it and import it again")


def _print_changes(boxes: dict[str, int], confusion: dict[str, dict[str, int]]) -> None:
    show("boxes: " + ", ".join(f"{count} {kind}" for kind, count in boxes.items()))
    for model, persons in confusion.items():
        counts = ", ".join(f"{person} {count}" for person, count in persons.items())
        show(f"  the model said {model:<18} people say {counts}")


def run_report(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.relabel.report import report
    done = report(options.dataset)
    if options.json:
        print_json(done)
        return 0
    show(
        f"{done.dataset}: {done.images} images, {done.good} of them without a box; model and people agree on "
        f"{done.agreed:.0%}"
    )
    for name, counts in (("fold", done.folds), ("by", done.people), ("bundle", done.bundles)):
        show(f"{name}: " + ", ".join(f"{count} {key or '-'}" for key, count in counts.items()))
    _print_changes(done.boxes, done.confusion)
    return 0


def run_mark(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.config import folder_config
        from lineside_hub.relabel.reviews import mark
    seen = mark(
        folder_config(options.hub),
        options.part,
        wrong=options.wrong,
        device=options.device,
        newest=options.newest,
        note=options.note,
        by=options.by or getpass.getuser(),
    )
    if options.json:
        print_json(seen)
        return 0
    what = "wrong" if options.wrong else "right"
    inform(f"{seen.verdict} on part {options.part} by {seen.device} is {what}")
    if options.wrong and not seen.has_frame:
        inform("its frame is not at the hub: no export can bring it")
    return 0
