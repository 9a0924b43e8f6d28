"""Options that several commands share, each defined once."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineside.extras import needs
from lineside_runtime.errors import InputError
from lineside_runtime.wording import nearest

if TYPE_CHECKING:
    from lineside_converters.cluster.tasks import TaskCluster, TaskRunner
    from lineside_converters.thresholds.frames import FrameRequest

BUNDLE_HELP = "a bundle's folder, or the name of a shipped bundle"

Actions = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns


def bundle_path(given: str) -> Path:
    """Returns the path ``given``, or that of the shipped bundle of this name if there is no such path.

    Raises:
        InputNotFoundError: There is no such path, and it looks like a name; argparse hands this on.
    """
    from lineside_models import zoo  # `install-service` runs on a board without the shipped bundles

    return zoo.find(given)


def integers(text: str) -> tuple[int, ...]:
    """Reads ``192,224,256``."""
    return tuple(int(word) for word in text.split(","))


def number(text: str) -> float:
    """Reads a number; ``nan`` and ``inf`` are refused, because they pass most limits."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number such as 0.5, not {text!r}")
    return value


def seconds(text: str) -> float:
    """Reads a time limit of up to an hour."""
    value = number(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, at most 3600, not {text!r}")
    return value


class CommandParser(argparse.ArgumentParser):
    """A parser that reads every ``type=float`` by `number` and refuses what it does not know, also in its actions."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register("type", float, number)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Ends with this action's usage and the nearest option where argparse would print that of the program."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            near = _nearest(unknown[0].partition("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Names the nearest command or choice, too."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += _nearest(str(value), map(str, action.choices or ()))
            raise


def _nearest(word: str, known: Iterable[str]) -> str:
    names = {name.lstrip("-"): name for name in known}  # the dashes alone would make short options alike
    near = nearest(word.lstrip("-"), names)
    return f" (did you mean {names[near]}?)" if near else ""


def numbers(text: str) -> tuple[float, ...]:
    """Reads ``1.0,0.75,0.5``."""
    return tuple(number(word) for word in text.split(","))


def words(text: str) -> tuple[str, ...]:
    """Reads ``a,b,c``, with or without blanks."""
    return tuple(word.strip() for word in text.split(","))


def count(text: str) -> int:
    """Reads a number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number from 0, not {text!r}")
    return int(text)


def positive(text: str) -> int:
    """Reads a number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, not {text!r}")
    return int(text)


def add_bundle(parser: argparse._ActionsContainer, what: str = BUNDLE_HELP) -> None:
    """Adds the bundle that the command is about."""
    parser.add_argument("bundle", type=bundle_path, help=what)


def add_overwrite(parser: argparse._ActionsContainer) -> None:
    """Adds ``--overwrite`` of a command that writes a bundle."""
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")


def add_agent_config(parser: argparse._ActionsContainer) -> None:
    """Adds ``--config`` of a command that needs the agent's configuration."""
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="agent.toml")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds ``--json``."""
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, everything else on stderr")


def add_watch(parser: argparse.ArgumentParser) -> None:
    """Adds ``--watch`` and ``--json``, which exclude each other."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--watch", action="store_true", help="draw it again every second until Ctrl-C")
    form.add_argument("--json", action="store_true", help="one JSON object on stdout, everything else on stderr")


def add_terms(container: argparse._ActionsContainer) -> None:
    """Adds ``--licence`` and ``--data-terms``, which a bundle's manifest states."""
    container.add_argument("--licence", metavar="SPDX", help="licence of the weights, such as Apache-2.0")
    container.add_argument(
        "--data-terms",
        type=_terms,
        action="append",
        metavar="DATA=TERMS",
        help="terms of a data set that the model was trained on: an SPDX identifier, none (no licence stated) or "
        "research (research only); repeatable",
    )


def _terms(text: str) -> tuple[str, str]:
    name, _, terms = text.partition("=")
    if not name.strip() or not terms.strip():
        raise argparse.ArgumentTypeError("name and terms of a data set, such as parts=CC-BY-4.0")
    return name.strip(), terms.strip()


def add_hub(parser: argparse._ActionsContainer) -> None:
    """Adds ``--hub``."""
    parser.add_argument("--hub", type=Path, required=True, metavar="DIR", help="the hub's folder on this machine")


def add_frames(parser: argparse._ActionsContainer) -> None:
    """Adds the frames on which thresholds are chosen or fitted: a `FrameRequest`."""
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR", help="annotated datasets")
    parser.add_argument("--fold", default="train", help="fold of the data (default: %(default)s)")
    parser.add_argument(
        "--take",
        choices=("held", "all"),
        default="held",
        help="frames of a fold that the bundle was trained on: held out by training, or all (default: %(default)s)",
    )
    parser.add_argument(
        "--simulated",
        type=count,
        default=0,
        metavar="N",
        help="add so many clean simulator frames as good parts",
    )


def add_pool(parser: argparse.ArgumentParser) -> None:
    """Adds the plants that compute together (``pool``), and the key of this one (``key``)."""
    parser.add_argument("--pool", type=Path, required=True, metavar="FILE", help="pool.toml: broker and plants")
    parser.add_argument(
        "--key", type=Path, required=True, metavar="FILE", help="private key of lineside fleet pool key"
    )


def add_good_parts(parser: argparse._ActionsContainer, *, frames: int, how_many: str) -> None:
    """Adds frames of good parts to learn from (``source``, ``fold``, ``frames``), and bad ones to check (``check``).

    Args:
        how_many: The least and the recommended number, for people.
    """
    parser.add_argument(
        "--source",
        required=True,
        nargs="+",
        metavar="S",
        help="good parts: a folder of photos, a video, a dataset with a folder of good ones, or a camera as "
        "for `lineside camera test`, such as: v4l2 index=0",
    )
    parser.add_argument("--fold", default="all", help="of a dataset with folds (default: %(default)s)")
    parser.add_argument(
        "--frames",
        type=count,
        default=frames,
        metavar="N",
        help=f"number of frames, {how_many}; evenly spread, or the next N of a camera (default: %(default)s)",
    )
    parser.add_argument(
        "--check",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="photos of bad parts, only to check how many are found; repeatable",
    )


def add_tasks(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds the cores of a Ray cluster: a `TaskCluster`.

    Args:
        what: One task of the work, for people.
    """
    group = parser.add_argument_group(
        "on a cluster (Ray)", f"Without --workers one process does the work. A task is {what}, on a core of its own."
    )
    group.add_argument("--workers", type=positive, metavar="N", help="tasks that run at once")
    group.add_argument(
        "--address",
        default="",
        metavar="A",
        help="a Ray cluster: auto, host:port or ray://host:port, whose nodes reach all files by the same paths "
        "(default: Ray is started on this machine)",
    )
    group.add_argument(
        "--max-failures",
        type=count,
        default=3,
        metavar="N",
        help="how often a task is run again after its process has died (default: %(default)s)",
    )


def task_cluster(options: argparse.Namespace) -> TaskCluster | None:
    """Returns the cores that the options of `add_tasks` name; ``None`` for one process.

    Raises:
        InputError: There is an address and no number of workers.
        MissingExtraError: Ray isn't installed.
    """
    if options.workers is None:
        if options.address:
            raise InputError("--address without --workers", expected="--workers N")
        return None
    with needs("ray"):
        import ray  # noqa: F401  # a missing extra is reported before anything begins

        from lineside_converters.cluster.tasks import TaskCluster
    return TaskCluster(workers=options.workers, address=options.address, max_failures=options.max_failures)


@contextlib.contextmanager
def cluster_tasks(options: argparse.Namespace) -> Iterator[TaskRunner]:
    """Yields what runs the tasks that the options of `add_tasks` ask for; what Ray prints goes to stderr."""
    from lineside_converters.cluster.tasks import open_tasks

    cluster = task_cluster(options)
    with contextlib.redirect_stdout(sys.stderr), open_tasks(cluster) as tasks:
        yield tasks


def frame_request(options: argparse.Namespace, **more: Any) -> FrameRequest:
    """Returns the frames that the options of `add_frames` choose; ``more`` are other fields of the request."""
    from lineside_converters.thresholds.frames import FrameRequest

    return FrameRequest(data=options.data, fold=options.fold, take=options.take, simulated=options.simulated, **more)


def add_good_class(parser: argparse.ArgumentParser, default: Any = None) -> None:
    """Adds the classes of a classifier that mean a good part; by default their names decide."""
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--good-class",
        dest="good_classes",
        action="append",
        default=default,
        metavar="NAME",
        help="a class that means a good part; repeatable (default: by its name, such as good, ok, free)",
    )
    chosen.add_argument(
        "--no-good-class",
        dest="good_classes",
        action="store_const",
        const=(),
        default=default,
        help="every class is a defect, whatever its name",
    )


def add_min_metric(parser: Any) -> None:
    """Adds the least accuracy of a model that becomes a bundle."""
    parser.add_argument(
        "--min-metric",
        type=float,
        metavar="M",
        help="least top-1, mAP@0.5 or mean IoU, 0 to 1; 0 accepts any model, which report and card state and "
        "`lineside push` refuses (default: clearly better than one that always gives the same answer)",
    )
