"""Choose calibration and float layers so that accuracy stays within its bound.

Everything here is decided on the calibration inputs and the tuning frames, never on the frames that the figures are of.

1. The plain plan: the first calibration of the recipe, the first convolutions in float where the task wants that.
2. If the metric on the tuning frames drops by more than is allowed, the recipe's other calibrations.
3. If none holds, the best of them with its biases corrected.
4. If that doesn't hold, each layer is made INT8 alone and the harm to the outputs measured; then the layers that hurt
   most go to float, one, two, four, … of them, until the metric holds or half of the multiplications are float.

Where nobody has annotated the frames, a classifier's drop is estimated from the source model's own probabilities
(`task.expected_drop`); a detector's is left to the parity gate. Where the outputs are the caller's alone, the plan has
to hold what that gate will ask for: the drop is then of the worst output's correlation with the source model's, from 1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx

from lineside_converters.context import Context
from lineside_converters.data.calibration_data import hash_annotations
from lineside_converters.gates.checks import Feed, Run
from lineside_converters.gates.loaded_models import answer_frames, execution_place, open_model
from lineside_converters.gates.parity import check_parity
from lineside_converters.graph.macs import NodeMacs, count_macs
from lineside_converters.levels import FLOAT_CONVS, CalibrationMethod
from lineside_converters.options import CallerMetric
from lineside_converters.quantization.bias_correction import correct_biases
from lineside_converters.quantization.dynamic import PRODUCTS, is_dominated, quantize_products
from lineside_converters.quantization.plan import DYNAMIC, LayerHarm, Method, QuantizationChoice, QuantizationPlan
from lineside_converters.quantization.sensitivity import COMPARED_FEEDS, SensitivitySweep
from lineside_converters.quantization.static import KINDS, first_convs, hash_feeds, quantize
from lineside_converters.tasks import ClassificationTask, expected_drop, read_answer
from lineside_converters.work_folder import file_hash
from lineside_models.postprocess import Candidates
from lineside_models.preprocess import Letterbox
from lineside_runtime.errors import EngineError, GraphError, ParityGateError, UnsupportedModelError
from lineside_runtime.precision import Precision

FLOAT_SHARE_MAX = 0.5
"""With more of the multiplications in float there is little left of INT8's speed."""


class QuantizationSearch:
    """Search for a plan whose drop is within its bound.

    Args:
        clean: The float graph.
        context: Its inputs and limits.
    """

    def __init__(self, clean: Path, context: Context) -> None:
        self._clean, self._context = clean, context
        self._model = onnx.load(clean)
        self._feeds = context.inputs.calibration
        self._macs: list[NodeMacs] = count_macs(self._model, self._feeds[0])
        self._inputs = {"clean": file_hash(clean), "feeds": hash_feeds(self._feeds)}
        self._tuning = _tuning_key(context)

    def choose(self) -> tuple[QuantizationChoice, Path]:
        """Returns the choice and its INT8 model."""
        first = first_convs(self._model, FLOAT_CONVS[self._context.manifest.task])
        methods: Sequence[Method] = self._context.level.calibrations
        if is_dominated(self._macs):
            self._context.progress.report("most multiplications are matrix products: dynamic INT8")
            first, methods = frozenset(), (DYNAMIC,)
        plans = [QuantizationPlan(method=method, float_nodes=tuple(sorted(first))) for method in methods]
        best: QuantizationChoice | None = None
        for plan in plans:
            try:
                found = self._try(plan)
            except GraphError as error:
                if best is None:
                    raise
                self._context.progress.report(f"{plan.method}: left out: {error.message}; {error.actual}")
                continue
            if found.held:
                return found, self.int8(plan)
            self._context.progress.report(
                f"{plan.method}: drops by {found.tuning_drop:.4f} on the tuning frames, which is too much"
            )
            if best is None or (found.tuning_drop or 0.0) < (best.tuning_drop or 0.0):
                best = found
        if best is None:
            raise GraphError("the recipe has no calibration", action="")
        best = self._to_float(self._corrected(best))
        return best, self.int8(best.plan)

    def int8(self, plan: QuantizationPlan) -> Path:
        """Returns the INT8 model of a plan."""

        def make(folder: Path) -> None:
            if plan.method == DYNAMIC:
                quantize_products(self._clean, folder / "int8.onnx", exclude=plan.float_nodes)
                return
            quantize(
                self._clean,
                folder / "int8.onnx",
                feeds=list(self._context.progress.through(self._feeds, "calibrate")),
                method=self._static(plan),
                activation=self._context.target.activation,
                per_channel=self._context.target.per_channel,
                exclude=plan.float_nodes,
                ranges=self._ranges(plan.method),
            )
            if plan.corrected:
                self._context.progress.report("correct biases")
                correct_biases(self._clean, folder / "int8.onnx", folder / "corrected.onnx", feeds=self._feeds)
                (folder / "corrected.onnx").replace(folder / "int8.onnx")

        return self._context.work.step("int8", self._key(plan), make) / "int8.onnx"

    def _key(self, plan: QuantizationPlan) -> dict[str, object]:
        target = self._context.target
        return {
            **self._inputs,
            "method": plan.method,
            "float": plan.float_nodes,
            **({"corrected": True} if plan.corrected else {}),
            "activation": target.activation,
            "per_channel": target.per_channel,
        }

    def _ranges(self, method: Method) -> Path:
        return (
            self._context.work.folder
            / f"ranges-{method}-{self._inputs['feeds'][:12]}-{self._inputs['clean'][:12]}.json"
        )

    def _static(self, plan: QuantizationPlan) -> CalibrationMethod:
        if plan.method == DYNAMIC:
            raise GraphError("a dynamic plan has no calibration", action="")
        return plan.method

    def _try(self, plan: QuantizationPlan) -> QuantizationChoice:
        model = self.int8(plan)

        def measure() -> float | None:
            try:
                return self._drop(model)
            except (EngineError, UnsupportedModelError) as error:
                raise GraphError(
                    "ONNX Runtime can't load or run what its quantiser made of the model", actual=error.message
                ) from error

        drop = self._context.work.value("tuned", self._key(plan) | self._tuning, measure, float | None)
        return QuantizationChoice(plan=plan, tuning_drop=drop, held=drop is None or drop <= self._allowed())

    def _allowed(self) -> float:
        if self._context.task is not None or self._context.inputs.tuning_metric is not None:
            return self._context.limits.max_drop
        return 1 - self._context.level.min_correlation_alone

    def _drop(self, model: Path) -> float | None:
        """Returns the drop of the metric on the tuning frames, or its estimate on the calibration inputs."""
        context = self._context
        if context.inputs.tuning_metric is not None:
            return self._metric_drop(model, context.inputs.tuning_metric)
        if context.task is None:
            return self._lost_correlation(model)
        estimable = isinstance(context.task, ClassificationTask) and context.manifest.preprocess.colour != "none"
        if context.task is None or not (context.inputs.tuning or estimable):
            return None
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(self._loaded(self._clean, "fp32"))
            made = stack.enter_context(self._loaded(model, "int8"))
            if context.inputs.tuning:
                truths, answers = answer_frames(
                    {"source": source, "made": made},
                    context.inputs.tuning,
                    context.manifest,
                    self._context.progress,
                    "tuning",
                )
                score = context.task.score
                return score(truths, answers["source"]) - score(truths, answers["made"])
            before, after = ([self._read(run, feed) for feed in self._feeds] for run in (source, made))
            return expected_drop(before, after)

    def _metric_drop(self, model: Path, metric: CallerMetric) -> float:
        with self._loaded(self._clean, "fp32") as source, self._loaded(model, "int8") as made:
            return float(np.mean(metric(source)) - np.mean(metric(made)))

    def _lost_correlation(self, model: Path) -> float:
        with self._loaded(self._clean, "fp32") as source, self._loaded(model, "int8") as made:
            try:
                return 1 - (check_parity(source, made, self._feeds, min_correlation=-1).value or 0.0)
            except ParityGateError:  # values that are not finite
                return 1.0

    def _read(self, run: Run, feed: Feed) -> Candidates:
        height, width = next(iter(feed.values())).shape[-2:]
        return read_answer(run(feed), self._context.manifest, Letterbox(1.0, 1.0, width, height))

    def _loaded(self, model: Path, precision: Precision) -> contextlib.AbstractContextManager[Run]:
        threads = self._context.target.threads
        return open_model(
            model, execution_place("ort", "cpu"), self._context.manifest, precision=precision, threads=threads
        )

    def _corrected(self, best: QuantizationChoice) -> QuantizationChoice:
        """Returns the plan with its biases corrected, if that is better."""
        if best.plan.method == DYNAMIC:
            return best
        try:
            found = self._try(msgspec.structs.replace(best.plan, corrected=True))
        except GraphError as error:
            self._context.progress.report(f"biases stay as they are: {error.message}")
            return best
        self._context.progress.report(f"biases corrected: drop of {found.tuning_drop:.4f} on the tuning frames")
        return found if (found.tuning_drop or 0.0) < (best.tuning_drop or 0.0) else best

    def _to_float(self, start: QuantizationChoice) -> QuantizationChoice:
        """Moves the layers that hurt most to float until the metric holds."""
        if start.held:
            return start
        harms = self._context.work.value(
            "harms", self._key(start.plan), lambda: self._harms(start.plan), tuple[LayerHarm, ...]
        )
        macs = {node.name: node.macs for node in self._macs}
        total = sum(macs.values()) or 1
        best = QuantizationChoice(plan=start.plan, tuning_drop=start.tuning_drop, harms=harms, held=False)
        count = 1
        while count <= len(harms):
            floats = {*start.plan.float_nodes, *(harm.node for harm in harms[:count])}
            if sum(macs.get(name, 0) for name in floats) > FLOAT_SHARE_MAX * total:
                break
            plan = msgspec.structs.replace(start.plan, float_nodes=tuple(sorted(floats)), why="hurt the outputs most")
            found = self._try(plan)
            self._context.progress.report(
                f"{count} layers in float: drop of {found.tuning_drop:.4f} on the tuning frames"
            )
            if found.held:
                return msgspec.structs.replace(found, harms=harms)
            if (found.tuning_drop or 0.0) < (best.tuning_drop or 0.0):
                best = msgspec.structs.replace(found, harms=harms)
            count *= 2
        return best

    def _harms(self, plan: QuantizationPlan) -> tuple[LayerHarm, ...]:
        """Quantizes each layer alone and measures the error of the outputs."""
        dynamic = plan.method == DYNAMIC
        kinds = PRODUCTS if dynamic else KINDS
        layers = tuple(node.name for node in self._model.graph.node if node.op_type in kinds)
        ranges = self._ranges(plan.method)
        calibrated = not dynamic and ranges.exists()
        sweep = SensitivitySweep(
            clean=self._clean.read_bytes(),
            layers=layers,
            method=None if dynamic else self._static(plan),
            feeds=self._feeds[:COMPARED_FEEDS] if dynamic or calibrated else self._feeds,
            ranges=ranges.read_bytes() if calibrated else None,
            manifest=self._context.manifest,
            target=self._context.target,
        )
        chosen = [layer for layer in layers if layer not in plan.float_nodes]
        return sweep.measure(
            chosen, self._context.tasks, lambda done, total: self._context.progress.count("sensitivity", done, total)
        )


def _tuning_key(context: Context) -> dict[str, object]:
    """Returns what the drop on the tuning frames depends on beside the plan."""
    inputs, manifest = context.inputs, context.manifest
    key: dict[str, object] = {"tuning": len(inputs.tuning), "labels": manifest.labels}
    truth = inputs.tuning_hash or (hash_annotations(inputs.tuning) if inputs.tuning else "")
    return key | {"truth": truth, "postprocess": manifest.postprocess} if truth else key
