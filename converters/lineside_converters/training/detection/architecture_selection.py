"""Choose among a few architectures: short training, INT8 latency, held-out accuracy."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lineside_converters.training.detection.config import DetectorConfig
from lineside_converters.training.detection.data import DetectionData, load_detection_data
from lineside_converters.training.detection.int8.accuracy import held_map50, latencies_ms, quantise
from lineside_converters.training.detection.trainer import DetectorResult, train_detector
from lineside_converters.training.loop import mean_figure
from lineside_converters.training.progress import OnProgress
from lineside_converters.training.run_folder import TRIALS, TRIALS_FOLDER, check_run_folder, resumed_or_begun
from lineside_converters.training.settings import write_settings
from lineside_runtime.decoding import decode_json
from lineside_runtime.errors import TrainingError
from lineside_runtime.files import write_atomic
from lineside_runtime.progress import TextListener


class ArchitectureTrial(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements of one architecture.

    Attributes:
        float_map50: Mean over the data sets of mAP@0.5 on the held-out share.
        int8_map50: The same of its INT8 model.
        latency_ms: Median milliseconds a frame of its INT8 form on this machine: ONNX Runtime, one thread, interleaved.
        size_bytes: Of the INT8 file.
    """

    architecture: str
    float_map50: float
    int8_map50: float
    latency_ms: float
    size_bytes: int


def train_best(config: DetectorConfig, on_progress: OnProgress, report: TextListener) -> DetectorResult:
    """Trains a detector; of several architectures the best one.

    The trials stand in ``config.out / trials`` and their table in ``architectures.json``; a run that is resumed takes
    that table and makes none again. The chosen architecture is trained from its beginning: a trial's learning rate has
    fallen already.

    Args:
        on_progress: Called after every step.

    Raises:
        TrainingError: No architecture is fast enough, or as for `train_detector`.
        DatasetError: As for `train_detector`.
    """
    if not config.architectures:
        return train_detector(config, on_progress)
    check_run_folder(config)
    trials = _known(config) or _try_all(config, on_progress, report)
    for line in table(trials, config.max_ms):
        report(line)
    best = choose(trials, config.max_ms)
    report(f"going on with {best.architecture}")
    chosen = msgspec.structs.replace(config, architecture=best.architecture, architectures=(), max_ms=None)
    return train_detector(resumed_or_begun(chosen) if config.resume else chosen, on_progress)


def _known(config: DetectorConfig) -> list[ArchitectureTrial]:
    """Returns the trials of a run that is resumed, if they are of the same architectures."""
    path = config.out / TRIALS
    if not config.resume or not path.is_file():
        return []
    try:
        found = decode_json(path.read_bytes(), type=list[ArchitectureTrial])
    except msgspec.DecodeError as error:
        raise TrainingError(f"{path} is damaged", actual=error, action="Start again without resume.") from error
    return found if {each.architecture for each in found} == set(config.architectures) else []


def _try_all(config: DetectorConfig, on_progress: OnProgress, report: TextListener) -> list[ArchitectureTrial]:
    data = load_detection_data(config)
    config.out.mkdir(parents=True, exist_ok=True)
    write_settings(config)  # a run that is stopped here goes on by --out and --resume alone
    floats: dict[str, Path] = {}
    forms: dict[str, Path] = {}
    for name in config.architectures:
        report(f"trying {name}, epochs: {config.trial_epochs}")
        out = config.out / TRIALS_FOLDER / name
        trial = msgspec.structs.replace(
            config,
            out=out,
            architecture=name,
            architectures=(),
            max_ms=None,
            qat=False,
            epochs=config.trial_epochs,
            evaluate_every=config.trial_epochs,
        )
        floats[name] = train_detector(resumed_or_begun(trial) if config.resume else trial, on_progress).onnx
        forms[name] = quantise(floats[name], out / "int8", data)
    trials = _measured(floats, forms, data)
    write_atomic(config.out / TRIALS, msgspec.json.format(msgspec.json.encode(trials), indent=1))
    return trials


def _measured(floats: dict[str, Path], forms: dict[str, Path], data: DetectionData) -> list[ArchitectureTrial]:
    times = latencies_ms(forms, data)
    return [
        ArchitectureTrial(
            architecture=name,
            float_map50=mean_figure(held_map50(floats[name], data)),
            int8_map50=mean_figure(held_map50(forms[name], data)),
            latency_ms=times[name],
            size_bytes=forms[name].stat().st_size,
        )
        for name in forms
    ]


def choose(trials: list[ArchitectureTrial], max_ms: float | None) -> ArchitectureTrial:
    """Returns the trial of the highest INT8 mAP among those that are fast enough; of equal ones the fastest.

    Raises:
        TrainingError: None is.
    """
    fast = [each for each in trials if max_ms is None or each.latency_ms <= max_ms]
    if not fast:
        quickest = min(trials, key=lambda each: each.latency_ms)
        raise TrainingError(
            "no architecture is fast enough",
            expected=f"at most {max_ms} ms a frame",
            actual=f"{quickest.architecture}: {quickest.latency_ms:.2f} ms",
            action="Give narrower architectures, a smaller canvas, or more milliseconds.",
        )
    return max(fast, key=lambda each: (each.int8_map50, -each.latency_ms))


def table(trials: list[ArchitectureTrial], max_ms: float | None) -> list[str]:
    """Returns the trials as lines of a text table."""
    lines = [f"{'architecture':<14}{'INT8 ms':>9}{'INT8 mAP':>10}{'float mAP':>11}{'MB':>7}"]
    for each in trials:
        slow = "" if max_ms is None or each.latency_ms <= max_ms else f"  slower than {max_ms:g} ms"
        lines.append(
            f"{each.architecture:<14}{each.latency_ms:>9.2f}{each.int8_map50:>10.3f}{each.float_map50:>11.3f}"
            f"{each.size_bytes / 1e6:>7.2f}{slow}"
        )
    return lines
