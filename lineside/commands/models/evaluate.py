"""``lineside evaluate``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from lineside.console import inform, print_json, show, show_frames
from lineside.extras import needs
from lineside.options import add_bundle, add_json, add_tasks, cluster_tasks, count, positive
from lineside_runtime.errors import InputError

if TYPE_CHECKING:
    from lineside_converters.evaluation import EvaluationRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="an annotated dataset, of images or documents"
    )
    parser.add_argument("--fold", default="all", help="fold of its folds.csv (default: %(default)s)")
    parser.add_argument("--max-frames", type=positive, metavar="N", help="at most so many frames, evenly spread")
    parser.add_argument(
        "--clean-simulated",
        type=count,
        default=0,
        metavar="N",
        help="add so many clean simulator frames as good parts",
    )
    parser.add_argument(
        "--choose-on",
        metavar="FOLD",
        help="fold on which the thresholds' common factor for 99%% recall is chosen (default: train, if there is one)",
    )
    parser.add_argument("--variant", metavar="NAME", help="variant to evaluate (default: the first that runs)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with curves and the worst frames")
    parser.add_argument(
        "--predictions", type=Path, metavar="FILE", help="write all detections in COCO's result format (detectors)"
    )
    add_tasks(parser, "a part of the frames")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Evaluates, prints a table or JSON, and writes the requested files."""
    with needs("convert"):
        from lineside_converters.evaluation import EvaluationRequest
    from lineside_runtime.config import Config
    from lineside_runtime.files import ensure_writable

    if options.html is not None:
        ensure_writable(options.html)
    evaluate = _evaluate_several if _has_several_models(options.bundle) else _evaluate_one
    with cluster_tasks(options) as tasks:
        request = EvaluationRequest(
            fold=options.fold,
            max_frames=options.max_frames,
            clean_simulated=options.clean_simulated,
            choose_on=options.choose_on,
            predictions=options.predictions,
            config=Config(variant=options.variant),
            on_progress=show_frames,
            tasks=tasks,
        )
        result = evaluate(options, request)
    if options.html is not None:
        inform(f"page: {options.html}")
    if options.json:
        print_json(result)
    else:
        _print(msgspec.to_builtins(result))
    return 0


def _has_several_models(bundle: Path) -> bool:
    from lineside_runtime.bundle import MANIFEST_NAME, open_bundle

    return (bundle / MANIFEST_NAME).is_file() and bool(open_bundle(bundle).manifest.several)


def _evaluate_one(options: argparse.Namespace, request: EvaluationRequest) -> Any:
    from lineside_converters.evaluation import judge
    from lineside_converters.evaluation.page import write_page_of
    from lineside_converters.thresholds.frames import was_trained_on
    from lineside_models.datasets import ALL
    from lineside_runtime.bundle import open_bundle

    result = judge(options.bundle, options.data, request)
    if options.fold in (ALL, "train") and was_trained_on(open_bundle(options.bundle), options.data):
        inform(
            f"note: the bundle was trained on frames of {options.data.resolve().name}: the figures of fold "
            f"{options.fold} are too good. Judge on a fold that training did not see, such as --fold val"
        )
    if options.html is not None:
        write_page_of(options.html, result, options.bundle, options.data)
    return result


def _evaluate_several(options: argparse.Namespace, request: EvaluationRequest) -> Any:
    from lineside.inspection.agent_inspector import AgentInspector
    from lineside_agent.config import InspectConfig
    from lineside_converters.evaluation import judge_combination
    from lineside_converters.evaluation.page import draw_combined, write_page
    from lineside_runtime.bundle import open_bundle

    if options.workers is not None:
        raise InputError("--workers with a bundle of several models", expected="one model", action="Leave it out.")
    bundle = open_bundle(options.bundle)
    with AgentInspector(bundle, InspectConfig()) as inspector:
        result = judge_combination(inspector, bundle, options.data, request)
        if options.html is not None:
            write_page(options.html, result, draw_combined(inspector, options.data, result.worst_frames))
    return result


def _print(result: dict[str, Any]) -> None:
    what = "documents" if result["task"] == "spans" else "frames"
    show(f"{result['bundle']} on {result['dataset']}, fold {result['fold']}: {result['frames']} {what}")
    if result.get("faults"):
        show(f"faults: {result['faults']} frames could not be inspected, and count as rejected")
    if result["task"] not in TASKS:
        _print_others(result)
        return
    figures, columns = TASKS[result["task"]]
    if "good_or_bad" in result:
        _print_verdicts(result)
    for line in figures(result):
        show(line)
    _print_latency(result)
    _print_types(result["per_class"], columns)


def _print_types(per_class: dict[str, dict[str, Any]], columns: tuple[str, ...]) -> None:
    show(f"{'type':<22}" + "".join(f"{name:>11}" for name in columns))
    for name, figures in per_class.items():
        show(f"{name:<22}" + "".join(f"{_cell(figures[column]):>11}" for column in columns))


def _print_latency(result: dict[str, Any]) -> None:
    latency = result["latency_ms"]
    beside = "" if result["workers"] == 1 else f", {result['workers']} tasks at once"
    show(f"latency p50 {latency['p50']:.2f} ms, p95 {latency['p95']:.2f} ms on {result['used_device']}{beside}")


def _print_verdicts(result: dict[str, Any]) -> None:
    """Prints escapes and false rejects before any other figure."""
    from lineside_converters.evaluation.figures import escapes_of

    verdict = result["good_or_bad"]
    missed = escapes_of(verdict["recall"])
    show(f"escapes: {missed['passed']} of {missed['parts']} bad parts pass, {_percent(missed)}")
    if verdict["false_rejects"]:
        _print_rates("false rejects at the bundle's thresholds", verdict["false_rejects"])
    else:
        hint = "; give --clean-simulated, or data with good parts" if result["task"] == "detection" else ""
        show(f"false rejects: not known, there is no good part among the frames{hint}")
    for each in verdict["at_recall"]:
        words = f"false rejects at {each['wanted']:.0%} recall, thresholds x {each['factor']:.3f}"
        _print_rates(f"{words} (chosen on {each['chosen_on']})", each["false_rejects"])


def _classifier_lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"top-1 {result['top1']:.3f} {_between(result['top1_interval'])}   macro F1 {result['f1_macro']:.3f}"


def _anomaly_lines(result: dict[str, Any]) -> Iterator[str]:
    pixels = "" if result["auroc_pixels"] is None else f"   of pixels {result['auroc_pixels']:.3f}"
    yield f"AUROC {result['auroc']:.3f}{pixels}"


def _detector_lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"mAP@0.5 {result['map50']:.3f} {_between(result['map50_interval'])}"
    yield f"image F1 {result['f1']:.3f} {_between(result['f1_interval'])}   box F1 {result['f1_boxes']:.3f}"


def _document_lines(result: dict[str, Any]) -> Iterator[str]:
    for name in ("values", "relations"):
        figures = result[name]
        yield (
            f"{name}: F1 {figures['f1']:.3f} {_between(figures)}   precision {figures['precision']:.3f}   "
            f"recall {figures['recall']:.3f}"
        )
    for name, what in (("coverage", "at a precision of 98.7 %"), ("accepted", "without review")):
        point = result[name]
        found = "none" if point is None else f"{point['coverage']:.1%}, precision {point['precision']:.1%}"
        yield f"coverage {what}: {found}"


def _combination_lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"models: {', '.join(result['models'])}"


def _segmenter_lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"mean IoU {result['mean_iou']:.3f} {_between(result['mean_iou_interval'])}   image F1 {result['f1']:.3f}"


def _print_others(result: dict[str, Any]) -> None:
    for name, value in result.items():
        if isinstance(value, (int, float)) and name != "frames":
            show(f"{name} {_cell(value)}")


TASKS: dict[str, tuple[Callable[[dict[str, Any]], Iterator[str]], tuple[str, ...]]] = {
    "anomaly": (_anomaly_lines, ("auroc", "recall", "support")),
    "classification": (_classifier_lines, ("precision", "recall", "f1", "support")),
    "combination": (_combination_lines, ("recall", "support")),
    "detection": (_detector_lines, ("ap50", "precision", "recall", "f1_image", "support")),
    "segmentation": (_segmenter_lines, ("iou", "precision", "recall", "f1_image", "support")),
    "spans": (_document_lines, ("precision", "recall", "f1", "support")),
}
"""Lines of figures, and columns of the table by type; figures of other tasks are printed as they are."""


def _print_rates(title: str, rates: list[dict[str, Any]]) -> None:
    from lineside_converters.evaluation.figures import sources_of

    show(f"{title}:")
    for each in sources_of(rates):
        show(f"  {each['source']}: {each['rejected']} of {each['parts']}, {_percent(each)}")


def _percent(each: dict[str, Any]) -> str:
    low, high = (each["interval"][key] * 100 for key in ("low", "high"))
    return f"{each['rate'] * 100:.2f} % [{low:.2f}, {high:.2f}]"


def _between(interval: dict[str, Any]) -> str:
    return f"[{interval['low']:.3f}, {interval['high']:.3f}]"


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
