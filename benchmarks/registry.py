"""Every benchmark: its name, its module and the files that it measures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
"""``NAME.json`` of each benchmark; only `benchmarks.harness` writes here."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: Also of its result file.
        component: Folder of ``benchmarks/`` with its module; empty for ``benchmarks/`` itself.
        sources: Tracked files and folders whose speed or size it measures, relative to the repository.
        helpers: Modules of ``benchmarks/`` that it uses beside its own.
        long: Trains, downloads or builds first, or needs more than about ten minutes: runs by name only.
    """

    name: str
    component: str
    measures: str
    sources: tuple[str, ...]
    helpers: tuple[str, ...] = ()
    long: bool = False

    @property
    def module(self) -> str:
        """Module with the function ``run``."""
        return ".".join(filter(None, ("benchmarks", self.component, self.name)))

    @property
    def paths(self) -> tuple[str, ...]:
        """Everything that its figures depend on: the sources, its own files and its helpers."""
        own = (self.module.removeprefix("benchmarks.").replace(".", "/"), *self.helpers)
        return (*self.sources, *(f"benchmarks/{name if (HERE / name).is_dir() else name + '.py'}" for name in own))


_RUNTIME = "runtime/lineside_runtime"
_MODELS = "models/lineside_models"
_AGENT = "agent/lineside_agent"
_LINK = "link/lineside_link"
_HUB = "hub/lineside_hub"
_DASHBOARD = tuple(f"{_HUB}/{name}" for name in ("web", "statistics", "results", "fleet", "migrations"))
_CONVERTERS = "converters/lineside_converters"
_BOARDS = "boards/lineside_boards"
_COMPRESS = (f"{_CONVERTERS}/graph", f"{_CONVERTERS}/quantization")
_TRAINING = f"{_CONVERTERS}/training"
_DETECTOR = f"{_MODELS}/zoo/surface-12/onnx-int8-mirrored"
_PARENT = f"{_MODELS}/zoo/surface-12-float/onnx-fp32"
"""The weights alone: the figures stand in the model card, whose hash is in the manifest."""

_ENGINES = (
    *(f"{_RUNTIME}/{name}" for name in ("session.py", "serving/placement.py", "serving/device_pool.py", "tensors.py")),
    *(f"{_RUNTIME}/backends/{name}" for name in ("ort/backend.py", "ort/session.py")),
)
_VISION = tuple(f"{_MODELS}/{name}" for name in ("preprocess.py", "postprocess", "verdict", "inspector.py", "vision"))

_PRUNING = (
    "converters/pruning/common",
    "converters/pruning/speeds",
    "converters/pruning/unpruned",
    "inputs/data",
    "inputs/drawn",
)
_RANKS = ("converters/training/ranks", "converters/training/namespaces")

_ALL = (
    Benchmark(
        "detector", "models", "INT8 detector against its float parent", (*_ENGINES, *_VISION, _DETECTOR, _PARENT)
    ),
    Benchmark(
        "accuracy",
        "models",
        "the shipped detectors on the validation folds",
        (
            *(
                f"{_CONVERTERS}/{name}"
                for name in (
                    "evaluation/bundle_accuracy.py",
                    "evaluation/good_parts.py",
                    "evaluation/bundle_runner.py",
                    "gates/statistics.py",
                )
            ),
            *(f"{_MODELS}/{name}" for name in ("metrics.py", "preprocess.py", "postprocess", "simulator")),
            *(_DETECTOR, f"{_MODELS}/zoo/surface-12/onnx-int8", _PARENT, f"{_MODELS}/zoo/surface-starter/onnx-int8"),
        ),
    ),
    Benchmark(
        "verdicts",
        "models",
        "escapes and false rejects on boards that thresholds were not chosen on",
        (f"{_CONVERTERS}/thresholds", f"{_MODELS}/postprocess", f"{_MODELS}/zoo/surface-12/decision.json", _DETECTOR),
        ("inputs/data",),
    ),
    Benchmark(
        "box_agreement",
        "models",
        "how exactly boxes on steel agree with annotations, and two networks with each other",
        (f"{_MODELS}/postprocess", f"{_MODELS}/metrics.py", _DETECTOR, _PARENT),
        ("inputs/data",),
    ),
    Benchmark(
        "reference",
        "models",
        "difference from a reference without training, on board designs that nothing was chosen on",
        (f"{_CONVERTERS}/data/part_variation.py", f"{_MODELS}/reference", f"{_MODELS}/postprocess/decoders/anomaly.py"),
        ("inputs/data", "models/compared_boards"),
        long=True,
    ),
    Benchmark(
        "reference_network",
        "models",
        "a detector that compares with a reference, on board designs that it was not trained on",
        (
            _TRAINING,
            *(
                f"{_CONVERTERS}/{name}"
                for name in ("data/part_variation.py", "data/reference_frames.py", "quantization")
            ),
            *(f"{_MODELS}/{name}" for name in ("reference", "networks/detector.py", "postprocess", "preprocess.py")),
        ),
        ("inputs/data", "models/compared_boards"),
        long=True,
    ),
    Benchmark(
        "learn_good",
        "models",
        "lineside learn-good on magnetic tiles: published split, by tile, few good frames, marked bad parts",
        (f"{_MODELS}/anomaly", f"{_MODELS}/postprocess/decoders/anomaly.py", f"{_MODELS}/zoo/patch-features/onnx-int8"),
        ("inputs/data", "inputs/tiles"),
        long=True,
    ),
    Benchmark(
        "bank_quantization",
        "models",
        "product quantization of the bank of lineside learn-good: bytes, accuracy by tile, time of the search",
        (f"{_MODELS}/anomaly/bank.py", f"{_MODELS}/anomaly/coreset.py", f"{_MODELS}/zoo/patch-features/onnx-int8"),
        ("inputs/data", "inputs/tiles"),
        long=True,
    ),
    Benchmark(
        "few_defects.labels",
        "models",
        "10, 25 and 50 labelled defects of a kind: learn-good --bad, by tile",
        (f"{_MODELS}/anomaly", f"{_MODELS}/postprocess/decoders/anomaly.py", f"{_MODELS}/zoo/patch-features/onnx-int8"),
        ("inputs/data", "inputs/tiles", "models/few_defects"),
        long=True,
    ),
    Benchmark(
        "few_defects.fine_tuning",
        "models",
        "the same frames: fine-tuned classifiers, detectors and segmenters",
        (_TRAINING, f"{_MODELS}/networks"),
        ("inputs/data", "inputs/tiles", "models/few_defects"),
        long=True,
    ),
    Benchmark(
        "few_defects.peers",
        "models",
        "the same frames: anomalib's PatchCore and SuperSimpleNet, and YOLOX-Nano",
        (),
        ("inputs/data", "inputs/tiles", "models/few_defects", "others/environments"),
        long=True,
    ),
    Benchmark(
        "recommendation",
        "models",
        "DINModel against mean pooling and simple rankings: GAUC, INT8, latency, daily patch, cold items",
        (f"{_TRAINING}/recommendation", f"{_MODELS}/recommendation", f"{_MODELS}/networks/din.py"),
        ("inputs/data",),
        long=True,
    ),
    Benchmark(
        "quantum",
        "models",
        "a quantum head beside classical heads of equal parameters and tuning, on frozen INT8 features of four sets",
        (f"{_TRAINING}/quantum", f"{_MODELS}/quantum", f"{_MODELS}/zoo/patch-features/onnx-int8"),
        ("inputs/data",),
        long=True,
    ),
    Benchmark(
        "measurement",
        "models",
        "measuring rules on drawn parts of known size: errors, repeatability, time",
        (f"{_MODELS}/metrology", "tests/worlds/drawn_parts.py"),
    ),
    Benchmark(
        "codes",
        "models",
        "codes on drawn parts: read rate, wrong texts and time, beside zxing-cpp alone, OpenCV and ZBar",
        (
            f"{_MODELS}/identification/codes.py",
            f"{_MODELS}/identification/mark_reader.py",
            "tests/worlds/drawn_codes.py",
        ),
    ),
    Benchmark(
        "text_marks",
        "models",
        "printed text on drawn parts, read in a region: read rate, wrong texts and time",
        (
            f"{_MODELS}/identification/text.py",
            f"{_MODELS}/identification/mark_reader.py",
            f"{_MODELS}/nlp/ocr",
            "tests/worlds/drawn_codes.py",
            "tests/worlds/drawn_text.py",
        ),
        long=True,
    ),
    Benchmark(
        "documents.contracts",
        "models",
        "parties, dates, law and relations of contracts: CUAD, Kleister NDA, INT8, rules",
        (
            *(
                f"{_MODELS}/nlp/{name}"
                for name in ("document_sets", "extraction", "normalization", "schemas/contract.toml")
            ),
            f"{_TRAINING}/documents",
            f"{_MODELS}/networks/token_classifier.py",
            "tests/models/nlp/extraction/generated_contracts.py",
        ),
        ("inputs/data",),
        long=True,
    ),
    Benchmark(
        "documents.certificates",
        "models",
        "fields, limits and heat numbers of synthetic certificates in layouts that no rule was chosen on",
        (
            *(
                f"{_MODELS}/nlp/{name}"
                for name in ("normalization", "ocr", "pdf", "reading", "rules", "schemas/certificate.toml")
            ),
            f"{_CONVERTERS}/certificates",
        ),
        long=True,
    ),
    Benchmark(
        "documents.receipts",
        "models",
        "receipts (SROIE) by a schema of one's own, read by text recognition: company, date, address, total",
        (
            *(f"{_MODELS}/nlp/{name}" for name in ("document_sets", "extraction", "normalization", "ocr", "reading")),
            f"{_TRAINING}/documents",
            f"{_MODELS}/networks/token_classifier.py",
            "benchmarks/models/documents/receipt.toml",
            "tests/models/nlp/extraction/generated_contracts.py",
        ),
        ("inputs/data",),
        long=True,
    ),
    Benchmark(
        "documents.receipt_scores",
        "models",
        "the same receipts by what the schema proposes and fitted scores, without a network",
        (
            *(f"{_MODELS}/nlp/{name}" for name in ("document_sets", "extraction", "normalization", "ocr", "reading")),
            f"{_TRAINING}/documents/fitting.py",
            "benchmarks/models/documents/receipt.toml",
            "benchmarks/models/documents/receipts.py",
        ),
        ("inputs/data",),
        long=True,
    ),
    Benchmark(
        "documents.reading",
        "models",
        "contracts with text and scanned receipts, compared with their own texts; processor time and memory",
        (*(f"{_MODELS}/nlp/{name}" for name in ("ocr", "pdf", "reading")), f"{_MODELS}/zoo/text-lines"),
        ("inputs/data",),
        long=True,
    ),
    Benchmark(
        "documents.text_networks",
        "models",
        "text recognition in INT8 beside float: words read and processor time on receipts, certificates, contracts",
        (f"{_MODELS}/nlp/ocr", f"{_MODELS}/zoo/text-detection/onnx-int8", f"{_MODELS}/zoo/text-lines"),
        ("inputs/data", "models/documents/reading"),
        long=True,
    ),
    Benchmark("predict", "models", "QualityInspector against the machine's roofline", (*_ENGINES, *_VISION, _DETECTOR)),
    Benchmark(
        "session",
        "runtime",
        "Session against the bare engines",
        (_RUNTIME, _DETECTOR),
        ("inputs/networks", "others/environments", "pulled_engine"),
    ),
    Benchmark(
        "engines",
        "runtime",
        "three networks on every installed engine, in float and INT8",
        (f"{_RUNTIME}/backends", f"{_CONVERTERS}/formats", *_COMPRESS, _PARENT),
        ("inputs/networks", "inputs/avx2"),
        long=True,
    ),
    Benchmark(
        "variants",
        "runtime",
        "every variant of surface-12 on every engine here: speed, accuracy on the validation folds, size",
        (
            f"{_RUNTIME}/backends",
            f"{_CONVERTERS}/formats",
            f"{_CONVERTERS}/graph",
            f"{_CONVERTERS}/quantization",
            *(f"{_MODELS}/{name}" for name in ("preprocess.py", "postprocess", "metrics.py")),
            *(f"{_MODELS}/zoo/surface-12/{name}" for name in ("onnx-int8", "onnx-int8-mirrored")),
        ),
        ("inputs/data",),
        long=True,
    ),
    Benchmark("isolation", "runtime", "an engine in a process of its own", (_RUNTIME,), ("inputs/networks",)),
    Benchmark(
        "placement",
        "runtime",
        "every way of serving a bundle, and what Config() takes after lineside plan",
        (_RUNTIME, f"{_CONVERTERS}/split", _DETECTOR),
        ("inputs/networks",),
    ),
    Benchmark(
        "cache_curve",
        "runtime",
        "latency and throughput over the cache's hit rate",
        (*_ENGINES, f"{_RUNTIME}/cache", _DETECTOR),
        ("inputs/networks", "runtime/cache_picture"),
    ),
    Benchmark(
        "serve", "runtime", "lineside serve over REST and gRPC", (_RUNTIME,), ("inputs/networks", "runtime/bare_server")
    ),
    Benchmark(
        "privacy",
        "runtime",
        "a head on encrypted features: exactness, time, bytes",
        (f"{_RUNTIME}/encrypted", f"{_CONVERTERS}/split/linear_head.py"),
        ("inputs/networks", "inputs/data"),
        long=True,
    ),
    Benchmark(
        "transfer",
        "link",
        "goodput over loopback, over a bad line, and to 200 devices",
        (_LINK, _HUB),
        ("link/far_device", "link/bare_mqtt", "link/multicast_fleet", "link/wire"),
    ),
    Benchmark(
        "deltas",
        "link",
        "bytes of a patch between two versions of one network",
        (
            f"{_LINK}/transfer/deltas.py",
            f"{_HUB}/repository/deltas.py",
            *_COMPRESS,
            _PARENT,
        ),
    ),
    Benchmark(
        "results_in", "hub", "results a second into SQLite and PostgreSQL", (_HUB, f"{_LINK}/messages/results.py")
    ),
    Benchmark(
        "dashboard",
        "hub",
        "the fleet dashboard with 1,000 devices and 10 million results in PostgreSQL, and hostile clients",
        _DASHBOARD,
        ("hub/results_in",),
        long=True,
    ),
    Benchmark(
        "dashboard_sqlite",
        "hub",
        "the same with a million results in SQLite",
        _DASHBOARD,
        ("hub/dashboard", "hub/results_in"),
    ),
    Benchmark("fleet", "hub", "a rollout to 1,000 simulated devices", (_HUB, _LINK)),
    Benchmark(
        "pool",
        "hub",
        "secure aggregation of counts of several plants; what differential privacy of a training costs",
        (f"{_LINK}/aggregation", f"{_HUB}/federation/differential_privacy.py"),
    ),
    Benchmark(
        "pool_comparison",
        "hub",
        "which plant or type is worst, computed without any count: right answers, time and bytes",
        (f"{_HUB}/federation/comparison", f"{_LINK}/aggregation"),
    ),
    Benchmark(
        "federated",
        "hub",
        "federated training of three plants beside pooled training and each plant alone; long sums with drop-outs",
        (f"{_LINK}/aggregation", f"{_HUB}/federation", f"{_TRAINING}/plant_training.py", f"{_TRAINING}/detection"),
        ("inputs/data", "hub/pool"),
        long=True,
    ),
    Benchmark(
        "federated.boards",
        "hub",
        "the same federated training with tiles of boards",
        (f"{_LINK}/aggregation", f"{_HUB}/federation", f"{_TRAINING}/plant_training.py", f"{_TRAINING}/detection"),
        ("hub/federated", "inputs/data"),
        long=True,
    ),
    Benchmark(
        "federated_peer",
        "hub",
        "the same federated training by Flower: rounds, bytes and accuracy",
        (f"{_LINK}/aggregation", f"{_HUB}/federation", f"{_TRAINING}/plant_training.py", f"{_TRAINING}/detection"),
        ("hub/federated", "inputs/data", "others/environments"),
        long=True,
    ),
    Benchmark(
        "relabel_selection",
        "hub",
        "labels that the frames of relabel export --select informative save over random ones",
        (f"{_HUB}/relabel/active_learning.py", f"{_MODELS}/anomaly", f"{_MODELS}/zoo/patch-features/onnx-int8"),
        ("inputs/data", "inputs/tiles"),
        long=True,
    ),
    Benchmark(
        "pipeline",
        "agent",
        "frames a second of the agent against the roofline",
        (_AGENT, _RUNTIME, *_VISION, _DETECTOR),
        ("agent/agents", "agent/bare_stages", "agent/records_counted"),
    ),
    Benchmark(
        "agent_start",
        "agent",
        "start of the agent to its first verdict",
        (_AGENT, _RUNTIME, _DETECTOR),
        ("agent/agents",),
    ),
    Benchmark(
        "agent_memory", "agent", "memory of a running agent", (_AGENT, _RUNTIME, _LINK, _DETECTOR), ("agent/agents",)
    ),
    Benchmark(
        "line_io",
        "agent",
        "trigger to reject over Modbus TCP",
        (_AGENT, _RUNTIME, *_VISION, _DETECTOR),
        ("agent/agents",),
    ),
    Benchmark(
        "screen",
        "agent",
        "cost of the operator screen with three clients, one of them stalled, and of hostile ones",
        (f"{_AGENT}/screen", _DETECTOR),
        ("agent/agents", "agent/line_io", "agent/screen_attack", "agent/screen_clients"),
    ),
    Benchmark(
        "hot_swap", "agent", "bundles swapped while parts come", (_AGENT, _RUNTIME, _DETECTOR), ("agent/agents",)
    ),
    Benchmark("device_loss", "agent", "an engine killed while parts come", (_AGENT, f"{_RUNTIME}/serving", _DETECTOR)),
    Benchmark("wear", "agent", "bytes written to disk a day", (_AGENT, _DETECTOR)),
    Benchmark("drift", "agent", "cost and delay of drift detection", (f"{_AGENT}/health/drift",)),
    Benchmark(
        "others",
        "",
        "lineside against ultralytics and openvino-model-api",
        (*_ENGINES, *_VISION, f"{_RUNTIME}/backends"),
        ("inputs/networks",),
    ),
    Benchmark(
        "optimizer.level1",
        "converters",
        "level 1 by the command line: speed, accuracy, size, memory",
        (_CONVERTERS, f"{_RUNTIME}/backends"),
        ("inputs/networks", "inputs/data"),
        long=True,
    ),
    Benchmark(
        "optimizer.text_encoder",
        "converters",
        "dynamic INT8 of a text encoder",
        (*_COMPRESS,),
        ("inputs/data", "others/wheels"),
        True,
    ),
    Benchmark(
        "optimizer.others",
        "converters",
        "level 1 beside Olive and NNCF",
        (_CONVERTERS,),
        ("inputs/networks", "inputs/data", "others"),
        True,
    ),
    Benchmark("pruning.detector", "converters", "level 2 of the shipped detector", (_CONVERTERS,), _PRUNING, long=True),
    Benchmark("pruning.classifier", "converters", "level 2 of a ResNet-18", (_CONVERTERS,), _PRUNING, long=True),
    Benchmark(
        "pruning.distilling", "converters", "a student with and without a teacher", (_CONVERTERS,), _PRUNING, long=True
    ),
    Benchmark(
        "search.front",
        "converters",
        "level 3 with annotated data against level 3 without and random search",
        (_CONVERTERS,),
        ("converters/search/slimmable", "converters/pruning/common", "inputs/data", "inputs/drawn"),
        long=True,
    ),
    Benchmark(
        "search.slimmable",
        "converters",
        "a slimmable classifier beside a training of each width",
        (_TRAINING, f"{_CONVERTERS}/graph/shared_weights.py"),
        ("converters/pruning/common", "inputs/data", "inputs/drawn"),
        long=True,
    ),
    Benchmark(
        "training.wire", "converters", "bytes and waiting of each gradient scheme", (_TRAINING,), _RANKS, long=True
    ),
    Benchmark(
        "training.kills", "converters", "training on Ray while workers are killed", (_TRAINING,), _RANKS, long=True
    ),
    Benchmark(
        "training.tasks",
        "converters",
        "evaluation, cross-validation and layer sensitivity as Ray tasks beside the plain loop",
        (
            f"{_CONVERTERS}/cluster",
            f"{_CONVERTERS}/evaluation/frame_tasks.py",
            f"{_CONVERTERS}/quantization/sensitivity.py",
            f"{_TRAINING}/cross_validation.py",
        ),
        ("inputs/data",),
        long=True,
    ),
    Benchmark(
        "training.defaults",
        "converters",
        "what a classifier and a segmenter reach with the defaults",
        (_TRAINING, f"{_MODELS}/networks"),
        ("inputs/data",),
        long=True,
    ),
    Benchmark(
        "training.accuracy",
        "converters",
        "accuracy of each gradient scheme",
        (_TRAINING,),
        (*_RANKS, "inputs/data"),
        long=True,
    ),
    Benchmark("boards", "", "images for boards: prepare, write, start", (_BOARDS, f"{_AGENT}/service"), long=True),
    Benchmark(
        "yolo11n",
        "converters",
        "our detector and YOLO11n, trained alike: speed and accuracy of the same networks",
        (*_COMPRESS, _TRAINING, _DETECTOR),
        ("inputs/networks", "inputs/data", "others"),
        long=True,
    ),
    Benchmark(
        "gpu",
        "",
        "every path that an NVIDIA GPU enables: engines, device cache, level 3, NCCL, training",
        (f"{_RUNTIME}/backends", f"{_RUNTIME}/cache", f"{_RUNTIME}/conformance", _CONVERTERS),
        ("inputs/networks", "inputs/drawn"),
        long=True,
    ),
    Benchmark(
        "soak", "agent", "two hours of the agent at full speed", (_AGENT, _RUNTIME, *_VISION, _DETECTOR), long=True
    ),
)

BENCHMARKS = {each.name: each for each in _ALL}


def select(names: Iterable[str]) -> tuple[Benchmark, ...]:
    """Returns the benchmarks of some names; a name such as ``optimizer`` means all of ``optimizer.*``.

    Raises:
        KeyError: There is no such benchmark.
    """
    found: dict[str, Benchmark] = {}
    for name in names:
        matching = {each.name: each for each in _ALL if each.name == name or each.name.startswith(f"{name}.")}
        if not matching:
            raise KeyError(name)
        found |= matching
    return tuple(found.values())


def table() -> str:
    """Returns the benchmarks as a table in Markdown."""
    rows = (f"| `{each.name}` | {each.measures} | {'by name only' if each.long else ''} |" for each in _ALL)
    return "\n".join(("| benchmark | measures | |", "| --- | --- | --- |", *rows))
