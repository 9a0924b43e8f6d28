"""``lineside federate init|join|run|show``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.console import inform, print_json, show
from lineside.extras import needs
from lineside.options import add_json, add_pool, positive
from lineside_runtime.errors import InputError, InputNotFoundError

if TYPE_CHECKING:
    from lineside_hub.federation.differential_privacy import PrivacySettings
    from lineside_hub.federation.training_coordinator import FederationState


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Trains one detector on the frames of several plants. The frames stay where they are; a plant sends the change "
        "of its weights, masked so that only the sum of all plants can be read. docs/guides/federate.md has the steps."
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_init(actions.add_parser("init", help="make the coordinator's folder from a first model"))
    _add_join(actions.add_parser("join", help="take part with this plant's frames until the training is over"))
    _add_run(actions.add_parser("run", help="run the rounds, as the coordinator; goes on after a kill"))
    shown = actions.add_parser("show", help="list the rounds of the coordinator's folder")
    _add_folder(shown)
    add_json(shown)
    shown.set_defaults(run=_show)


def _add_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--start",
        type=Path,
        required=True,
        metavar="RUN",
        help="folder of a finished lineside train detector --architecture A; its frames may be drawn ones, its types "
        "are those that all plants annotate",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder for the coordinator")
    parser.add_argument("--rounds", type=positive, default=20, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--steps", type=positive, default=50, metavar="N", help="steps of a plant in a round (default: %(default)s)"
    )
    parser.add_argument(
        "--local-norms",
        action="store_true",
        help="batch norms stay at each plant (FedBN): for plants whose images look different",
    )
    parser.add_argument(
        "--outer-rate",
        type=float,
        default=1.0,
        metavar="R",
        help="factor on the mean change, up to 2 (default: %(default)g)",
    )
    parser.add_argument(
        "--outer-momentum",
        type=float,
        default=0.0,
        metavar="M",
        help="Nesterov momentum of the mean change, such as 0.9 with --outer-rate 0.7 (default: %(default)g, the plain "
        "average)",
    )
    private = parser.add_argument_group(
        "differential privacy",
        "All three or none; needs --local-norms and lineside[federate]. The unit is a plant with all its frames, so "
        "that few plants get much noise: docs/privacy.md has figures.",
    )
    private.add_argument(
        "--clip",
        type=float,
        metavar="C",
        help="largest L2 norm of a plant's change in a round; a larger one is scaled down",
    )
    private.add_argument(
        "--noise", type=float, metavar="Z", help="deviation of the noise of a sum, in terms of C, such as 4"
    )
    private.add_argument(
        "--delta", type=float, metavar="D", help="probability with which epsilon need not hold, such as 1e-5"
    )
    parser.set_defaults(run=_init)


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--federation", type=Path, required=True, metavar="DIR", help="folder of federate init")


def _add_join(parser: argparse.ArgumentParser) -> None:
    add_pool(parser)
    parser.add_argument("--plant", required=True, metavar="NAME", help="of this plant, as in pool.toml")
    parser.add_argument("--root", type=Path, required=True, metavar="FILE", help="root.json of federate init")
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, metavar="DIR", help="this plant's annotated images"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for this plant's state and its result")
    parser.add_argument("--threads", type=positive, default=2, metavar="N", help="of torch (default: %(default)s)")
    parser.add_argument(
        "--max-epsilon",
        type=float,
        metavar="E",
        help="take part only in a training with differential privacy of at most this epsilon",
    )
    parser.set_defaults(run=_join)


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser)
    add_pool(parser)
    parser.add_argument("--rounds", type=positive, metavar="N", help="return after so many rounds (default: all)")
    parser.add_argument(
        "--training-timeout",
        type=float,
        default=3600.0,
        metavar="S",
        help="so long plants may train in a round if too few have ended; when enough have, the others get as long "
        "again as these took (default: %(default)g)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="so long each further step waits for plants that do not answer (default: %(default)g)",
    )
    add_json(parser)
    parser.set_defaults(run=_run)


def _init(options: argparse.Namespace) -> int:
    with needs("train"):
        from lineside.commands.federate.detector_training import begin_federation
        from lineside_hub.federation.training_coordinator import ROOT_NAME
    privacy = _privacy(options)
    settings = begin_federation(
        options.start,
        options.out,
        rounds=options.rounds,
        steps=options.steps,
        local_norms=options.local_norms,
        outer_rate=options.outer_rate,
        outer_momentum=options.outer_momentum,
        privacy=privacy,
    )
    show(f"{len(settings.shared)} tensors are shared; types: {', '.join(settings.labels)}")
    if privacy is not None:
        show(_private(privacy))
    show(f"give {options.out / ROOT_NAME} and pool.toml to each plant")
    return 0


def _privacy(options: argparse.Namespace) -> PrivacySettings | None:
    """Returns the privacy that the options ask for.

    Raises:
        InputError: Some of them are missing.
    """
    given = {name: getattr(options, name) for name in ("clip", "noise", "delta")}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return None
    if not options.local_norms:
        missing.append("--local-norms")
    if missing:
        raise InputError(
            "differential privacy that is half configured",
            expected="--clip, --noise, --delta and --local-norms",
            actual=f"no {', '.join(missing)}",
            action="Add what is missing, or leave out --clip, --noise and --delta for a training without it.",
        )
    from lineside_hub.federation.differential_privacy import private_settings

    return private_settings(**given, rounds=options.rounds)


def _private(privacy: PrivacySettings) -> str:
    return (
        f"differential privacy of a plant: epsilon {privacy.epsilon:.2f} at delta {privacy.delta:g} for up to "
        f"{privacy.sums} sums, noise of {privacy.noise:g} times the bound {privacy.clip:g}"
    )


def _join(options: argparse.Namespace) -> int:
    with needs("train"):
        from lineside.commands.federate.detector_training import DetectorTraining
        from lineside_hub.federation.pool_config import load_pool
        from lineside_hub.federation.training_plant import TrainingPlant
        from lineside_link.aggregation.identity import read_key
    if not options.root.is_file():
        raise InputNotFoundError(f"no file at {options.root}", action="Ask the coordinator for root.json.")
    plant = TrainingPlant(
        load_pool(options.pool),
        options.plant,
        read_key(options.key),
        root=options.root.read_bytes(),
        folder=options.out,
        training=DetectorTraining(
            options.plant, options.data, options.out, threads=options.threads, on_progress=inform
        ),
        epsilon_max=options.max_epsilon,
        on_progress=inform,
    )
    inform(f"{options.plant} waits for rounds")
    try:
        plant.run()
    finally:
        plant.close()
    return 0


def _run(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.federation.pool_config import load_pool
        from lineside_hub.federation.training_coordinator import TrainingCoordinator
        from lineside_link.aggregation.identity import read_key
    coordinator = TrainingCoordinator(
        options.federation,
        load_pool(options.pool),
        read_key(options.key),
        training_timeout_s=options.training_timeout,
        step_timeout_s=options.timeout,
        on_progress=inform,
    )
    state = coordinator.state
    if not state.finished:
        at = f"round {len(state.rounds) + 1} of {state.settings.rounds}"
        inform(f"{at}: waits for plants to train it, for up to {options.training_timeout:g} s")
    _print(coordinator.run(options.rounds), as_json=options.json)
    return 0


def _show(options: argparse.Namespace) -> int:
    with needs("convert"):
        from lineside_hub.federation.training_coordinator import read_federation
    _print(read_federation(options.federation), as_json=options.json)
    return 0


def _print(state: FederationState, *, as_json: bool) -> None:
    if as_json:
        print_json(state)
        return
    show(f"{len(state.rounds)} of {state.settings.rounds} rounds; weights of {state.weights_bytes:,} bytes")
    if state.settings.privacy is not None:
        show(_private(state.settings.privacy))
    show("round  plants  accuracy before  seconds      bytes a plant")
    for each in state.rounds:
        score = "-" if each.score is None else f"{each.score:.3f}"
        count = (each.sent_bytes + each.received_bytes) // len(each.plants)
        show(f"{each.number:>5}  {len(each.plants):>6}  {score:>15}  {each.seconds:>7.1f}  {count:>17,}")
    if state.result_score is not None:
        show(f"result: mean accuracy on the plants' held-out shares {state.result_score:.3f}")
