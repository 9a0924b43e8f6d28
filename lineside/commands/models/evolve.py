"""``lineside evolve``."""

from __future__ import annotations

import argparse
import shlex
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lineside.commands.train.training import Options
from lineside.console import inform, print_json, show, system_user
from lineside.extras import needs
from lineside.options import add_hub, add_json, add_terms
from lineside.secret_input import add_passphrase, passphrase
from lineside_runtime.errors import ConfigError

if TYPE_CHECKING:
    from lineside_converters.evolution import ComparedError, EvolutionReport
    from lineside_converters.training.detection.config import DetectorConfig
    from lineside_hub.relabel.new_frames import NewFrames
    from lineside_runtime.bundle import Bundle

NOT_OFFERED = 3
"""Exit status where nothing is better than what is deployed, or there is nothing new to learn from."""

EPOCHS, TRIALS, SHORTLIST = 20, 40, 4
DEPLOYED = "deployed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the hub, the data, and what training and search may cost."""
    parser.description = (
        "Retrains the detector that a group runs on frames that people have relabelled, searches for faster forms of "
        "it (level 3 of `lineside optimize`), and compares the result with the deployed bundle on frames that neither "
        "was trained on. If it is better, it is written to OUT/candidate, and the command that publishes it is "
        "printed: a person reads OUT/evolution.html and runs it. Nothing is signed or deployed here. The exit status "
        "is 3 if nothing is offered. After a kill the same call goes on."
    )
    add_hub(parser)
    parser.add_argument("--group", required=True, help="the group whose bundle is the deployed one")
    parser.add_argument(
        "--canary-group", metavar="GROUP", help="the group that the candidate is offered to (default: --group)"
    )
    parser.add_argument(
        "--relabelled",
        type=Path,
        metavar="DATASET",
        help="the dataset of `lineside relabel import` (default: relabelled in the hub's folder)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="candidate, report and finished steps")
    parser.add_argument(
        "--target", default="cpu", metavar="NAME", help="as of `lineside optimize` (default: %(default)s)"
    )
    parser.add_argument("--on", metavar="DEVICE", help="a device of the fleet that times both (default: this machine)")
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.02,
        metavar="D",
        help="of accuracy by conversion, and of verdicts for a faster network, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument("--version", metavar="V", help="of the candidate (default: the next one that is not published)")
    parser.add_argument(
        "--refuse",
        metavar="WHY",
        help="make nothing: refuse the candidate that an earlier call wrote to OUT. It is deleted and not offered "
        "again, and the hub's timeline says who refused it and why",
    )
    _add_effort(parser)
    add_terms(parser.add_argument_group("terms", "Added to those of the deployed bundle."))
    add_passphrase(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def _add_effort(parser: argparse.ArgumentParser) -> None:
    """Adds the settings of training and search."""
    with needs("convert"):
        from lineside_converters.training.detection.config import DetectorConfig
    options = Options(parser, DetectorConfig)
    options.add(
        "--data",
        "annotated data beside the relabelled frames, such as those of the first training; repeatable",
        type=Path,
        action="append",
        metavar="DIR",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file as of `lineside train detector`")
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help=f"of the retraining and of each network that is tuned (default: {EPOCHS})",
    )
    options.add("--minutes", "end each of these schedules after so many minutes", type=float, metavar="M")
    options.add("--batch", "pictures a step", type=int)
    options.add("--learning-rate", "peak learning rate of the retraining", type=float, metavar="R")
    options.add("--seed", "of everything random", type=int)
    options.add("--threads", "of torch", type=int)
    parser.add_argument(
        "--trials", type=int, default=TRIALS, metavar="N", help="networks that are tried (default: %(default)s)"
    )
    parser.add_argument(
        "--shortlist", type=int, default=SHORTLIST, metavar="N", help="of them tuned (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Makes and compares a candidate, prints the outcome, and returns 3 if nothing is offered."""
    with needs("convert"):
        from lineside_hub.config import folder_config
        from lineside_hub.relabel.importer import FOLDER
        from lineside_hub.relabel.new_frames import new_frames
        from lineside_hub.repository.repository import Repository
        from lineside_hub.rollouts.published_bundles import write_deployed
    if not 0 <= options.max_drop <= 1:
        raise ConfigError("max_drop", expected="0 to 1", actual=options.max_drop)
    if options.canary_group is not None:
        Repository.open(options.hub).roles.check_group(options.canary_group)
    if options.refuse is not None:
        return _refuse(options)
    relabelled = options.relabelled or Path(folder_config(options.hub).folder) / FOLDER
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lineside-evolve-")))
        deployed = write_deployed(options.hub, options.group, scratch / DEPLOYED)
        new = new_frames(relabelled, deployed.digest)
        if not new.count:
            return _nothing_new(options, deployed, relabelled)
        inform(f"relabelled frames that {deployed.manifest.identity} judged: {new.count}, changed: {new.corrected}")
        report = _evolve(options, deployed, relabelled, new)
    if options.json:
        print_json(report)
    else:
        _print(report, options.out)
    return 0 if report.offered else NOT_OFFERED


def _refuse(options: argparse.Namespace) -> int:
    """Withdraws the offered candidate, and notes that in the hub's timeline."""
    with needs("train"):
        from lineside_converters.evolution import refuse_candidate
    with needs("convert"):
        from lineside_hub.results.database import Database, TimelineEvent
    if not options.refuse.strip():
        raise ConfigError("--refuse", expected="the reason, for who reads the timeline", actual="nothing")
    with Database.open(options.hub) as database, database.transaction():
        report = refuse_candidate(options.out, f"{system_user()}: {options.refuse}")
        detail = f"for {options.canary_group or options.group}, beside {report.deployed}, by {report.refused}"
        event = TimelineEvent(at_ns=time.time_ns(), device="", kind="refused", bundle=report.candidate, detail=detail)
        database.add_event(event)
    if options.json:
        print_json(report)
    else:
        show(f"{report.candidate} is refused by {report.refused}")
    return 0


def _nothing_new(options: argparse.Namespace, deployed: Bundle, relabelled: Path) -> int:
    why = f"no frame in {relabelled} was judged by {deployed.manifest.identity}: there is nothing new to learn from"
    if options.json:
        print_json({"offered": False, "why": why, "deployed": deployed.manifest.identity})
    else:
        show(f"nothing is offered: {why}")
    return NOT_OFFERED


def _evolve(options: argparse.Namespace, deployed: Bundle, relabelled: Path, new: NewFrames) -> EvolutionReport:
    with needs("train"):
        from lineside.optimizer import device_clock
        from lineside_converters.evolution import EvolutionSettings, evolve, free_version
        from lineside_converters.options import Effort
        from lineside_converters.progress import ProgressReporter, progress_bars

    training = _training(options, relabelled)
    clock = options.on and device_clock(options.hub, options.on, passphrase=passphrase(options), say=inform)
    publish = ["lineside", "push", str(options.out / "candidate"), "--hub", str(options.hub)]
    with progress_bars() as count:
        return evolve(
            EvolutionSettings(
                deployed=deployed,
                training=training,
                out=options.out,
                effort=Effort(
                    epochs=training.epochs,
                    minutes=training.minutes,
                    batch=training.batch,
                    threads=training.threads,
                    trials=options.trials,
                    shortlist=options.shortlist,
                ),
                target=options.target,
                max_drop=options.max_drop,
                version=options.version
                or free_version(deployed, _published_versions(options.hub, deployed.manifest.name)),
                clock=clock or None,
                licence=options.licence,
                data_terms=dict(options.data_terms or ()),
                publish=shlex.join([*publish, "--group", options.canary_group or options.group]),
                notes=(
                    f"{new.count} relabelled frames that {deployed.manifest.identity} judged: {new.train} to learn "
                    f"from, {new.val} to judge on; a person changed {new.corrected}",
                ),
            ),
            ProgressReporter(inform, count),
        )


def _training(options: argparse.Namespace, relabelled: Path) -> DetectorConfig:
    """Returns the settings of the retraining: those of the file, overridden by options."""
    from lineside_converters.training.detection.config import DetectorConfig
    from lineside_converters.training.settings import read_settings

    given: dict[str, Any] = {
        name: value
        for name, value in vars(options).items()
        if name in DetectorConfig.__struct_fields__ and value is not None
    }
    if options.config is None:
        given = {"data": (), "epochs": EPOCHS, **given}
    if "data" in given:
        given["data"] = (relabelled, *given["data"])
        return read_settings(DetectorConfig, options.config, {**given, "out": options.out})
    settings = read_settings(DetectorConfig, options.config, {**given, "out": options.out})
    return msgspec.structs.replace(settings, data=(relabelled, *settings.data))


def _published_versions(hub: Path, name: str) -> set[str]:
    from lineside_hub.rollouts.published_bundles import list_published

    return {one.ref.version for one in list_published(hub) if one.ref.name == name}


def _print(report: EvolutionReport, out: Path) -> None:
    verdicts, latency = report.verdicts, report.latency
    show(f"{report.candidate} beside {report.deployed}, {verdicts.frames} frames of {verdicts.parts} parts")
    _print_error("escapes", verdicts.escapes)
    if verdicts.false_rejects is not None:
        _print_error("false rejects", verdicts.false_rejects)
    show(
        f"{latency.what} {latency.before_ms:.2f} → {latency.after_ms:.2f} ms, ratio {latency.ratio:.2f} "
        f"({latency.low:.2f} to {latency.high:.2f}) on {latency.where}"
    )
    for note in report.notes:
        show(f"note: {note}")
    refused = f"{report.candidate} was refused by {report.refused}; it was offered: " if report.refused else ""
    show(f"{'offered' if report.offered else 'nothing is offered'}: {refused}{report.why}")
    show(f"page: {out / 'evolution.html'}")
    if report.publish:
        show(f"to publish it: {report.publish}")
        show("to refuse it: the same command with --refuse WHY")


def _print_error(name: str, error: ComparedError) -> None:
    difference = error.difference
    show(
        f"{name} {error.before} → {error.after} of {error.of}, difference {100 * difference.value:+.1f} points "
        f"({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
    )
