"""Make a detector whose weights rest on the line simulator alone: `surface-starter`.

The shipped `surface-12` has learned NEU-DET, whose authors state no licence, DeepPCB, which is for research only, and
ImageNet's photographs. This one has its network, narrower, and its twelve types; it begins with random weights and sees
frames that lineside draws itself. Nothing is downloaded, and a hub with ``data_terms = "refuse"`` takes it.

Drawn frames are no substitute for photographs: the detector is a start for training on parts of one's own
(``lineside train detector --start``), and shows a whole line at work where no data may be used.

Magnetic-tile is left out: its authors welcome its use and state no licence.

``python -m lineside_converters.bundles.starter OUT`` draws, trains, optimizes, chooses the thresholds and writes the
bundle. Ended early, it goes on from what stands in ``OUT.work``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from lineside_converters.bundles.builder_command import run_builder
from lineside_converters.loading.training_run import facts_of_run
from lineside_converters.optimizer import Optimizer
from lineside_converters.thresholds import FrameRequest, RejectTolerance, decide, write_bundle
from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.detection.trainer import train_detector
from lineside_converters.training.initial_weights import FACTS
from lineside_converters.training.progress import TrainingProgress
from lineside_converters.training.run_folder import resumed_or_begun
from lineside_models.labels import LABELS
from lineside_models.simulator import Kind
from lineside_models.simulator.dataset import write_frames
from lineside_runtime.bundle import Bundle, open_bundle
from lineside_runtime.bundle.install import check_target
from lineside_runtime.config import Config

NAME, VERSION = "surface-starter", "1.0.0"
UNDECIDED = "0.9.0"
"""Version before the thresholds are chosen."""

TERMS = {"line simulator": "Apache-2.0"}
FOLDERS: dict[str, Kind] = {"strip": "steel", "boards": "pcb"}
LEARNED_SEED, CHOSEN_SEED = 1_000_000, 3_000_000
"""First seeds of the frames that the network learns, and of those that the thresholds are chosen on."""

FALSE_REJECTS = 0.01
"""Share of the good drawn frames that the thresholds may reject."""

BAD_SHARE = 0.5
"""Assumed share of bad parts. The thresholds follow from the good frames, since a line's share is not known yet."""

_CARD = """# surface-starter

Finds the twelve types of defect of `surface-12` in grey images of hot-rolled steel strip and of bare circuit boards. A
start for training on parts of your own, and a detector for trials where no data with unclear terms may be used.

- **Data**: frames of lineside's line simulator alone, drawn from seeds; the network began with random weights. No
  photograph went into it.
- **Figures**: those below are of drawn frames. Photographs of real surfaces differ from drawings: expect to train it
  further before it judges anything.
- **Thresholds**: chosen for {false_rejects:.0%} false rejects on further drawn frames, not on photographs.
- **Made again**: `python -m lineside_converters.bundles.starter OUT`. The same seed draws the same frames.
"""


class StarterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the build.

    Attributes:
        strip: Drawn frames of strip to learn from; one in five is good.
        boards: Drawn frames of boards.
        chosen_share: Frames that the thresholds are chosen on, as a share of those that are learned.
        good: Good frames beside these.
        minutes: Wall time of the training; ``None`` for all its epochs.
        min_metric: As of `lineside optimize`.
    """

    strip: int = 2400
    boards: int = 500
    chosen_share: float = 0.2
    good: int = 1000
    architecture: str = "lite0-short@48"
    batch: int = 16
    epochs: int = 60
    minutes: float | None = 45.0
    threads: int = 2
    seed: int = 0
    level: int = 1
    min_metric: float | None = None


def build_starter(
    out: Path,
    settings: StarterSettings | None = None,
    *,
    overwrite: bool = False,
    on_progress: Callable[[str], None] = lambda text: None,
) -> Bundle:
    """Builds the bundle.

    Args:
        out: Its folder; ``<out>.work`` beside it keeps the frames and the training.
        settings: The default ones if not given.
        overwrite: Whether a bundle that stands there is replaced.
        on_progress: Told in words what is done.

    Raises:
        InputError: Something stands at ``out``.
        LinesideError: A gate of the optimizer is not passed.
    """
    settings = settings or StarterSettings()
    check_target(out, overwrite=overwrite)
    work = out.with_name(f"{out.name}.work")
    learned = _drawn(work / "learned", settings, LEARNED_SEED, 1.0, "train")
    chosen_on = _drawn(work / "chosen", settings, CHOSEN_SEED, settings.chosen_share, "val")
    on_progress("frames drawn")
    run = _train(work / "run", learned, settings, on_progress)
    undecided = work / "undecided"
    Optimizer(
        run / "float.onnx",
        target_device="cpu",
        optimization_level=settings.level,
        out=undecided,
        data=learned,
        fold="train",
        min_metric=settings.min_metric,
        name=NAME,
        version=UNDECIDED,
        card=_CARD.format(false_rejects=FALSE_REJECTS),
        licence="Apache-2.0",
        data_terms=TERMS,
        overwrite=True,
        on_progress=on_progress,
        **facts_of_run(run),
    ).run()
    request = FrameRequest(data=chosen_on, fold="val", take="all", simulated=settings.good)
    tolerance = RejectTolerance(share=FALSE_REJECTS, bad_share=BAD_SHARE)
    decision = decide(open_bundle(undecided), request, tolerance, config=Config(threads=1))
    return write_bundle(open_bundle(undecided), decision, out, version=VERSION, overwrite=overwrite)


def _drawn(folder: Path, settings: StarterSettings, first_seed: int, share: float, fold: str) -> tuple[Path, ...]:
    """Draws what is not there yet; returns a data set for each kind of surface."""
    for name, kind in FOLDERS.items():
        if not (folder / name / "folds.csv").is_file():  # which is written last
            count = max(2, round(share * getattr(settings, name)))
            write_frames(folder / name, kind, count, first_seed=first_seed, fold=fold)
    return tuple(folder / name for name in FOLDERS)


def _train(out: Path, data: tuple[Path, ...], settings: StarterSettings, on_progress: Callable[[str], None]) -> Path:
    if (out / FACTS).is_file():
        return out
    config = DetectorConfig(
        data=data,
        out=out,
        labels=LABELS,
        architecture=settings.architecture,
        random_weights=True,
        framing={"strip": "scale", "boards": "cut"},
        batch=settings.batch,
        epochs=settings.epochs,
        minutes=settings.minutes,
        threads=settings.threads,
        seed=settings.seed,
    )

    def report(step: TrainingProgress) -> None:
        if step.held:
            on_progress(f"step {step.step}, loss {step.loss:.3f}")

    train_detector(resumed_or_begun(config), report)
    return out


def _build(out: Path, *, minutes: float, threads: int, overwrite: bool) -> Bundle:
    settings = StarterSettings(minutes=minutes, threads=threads)
    return build_starter(out, settings, overwrite=overwrite, on_progress=_print_progress)


def _print_progress(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    of_training = [
        ("minutes", float, StarterSettings().minutes, "of training"),
        ("threads", int, StarterSettings().threads, "of torch"),
    ]
    sys.exit(run_builder(_build, __doc__, of_training))
