"""Write a bundle with a model in two stages, beside the whole model."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from lineside_converters.bundles.packaging import golden_frame
from lineside_converters.gates.parity import check_parity
from lineside_converters.split.cut_selection import CutChoice, CutSearch
from lineside_converters.split.graph import Cut, cut_in_two
from lineside_converters.split.timing import Feed, StagePlace
from lineside_models.golden import read_png, replay
from lineside_models.preprocess import prepare
from lineside_models.simulator import render
from lineside_runtime.backends.ort.backend import read_onnx
from lineside_runtime.bundle import (
    Bundle,
    Manifest,
    Stage,
    Variant,
    open_bundle,
    write_manifest,
)
from lineside_runtime.bundle.install import check_target, install_bundle, staging_folder
from lineside_runtime.config import Config
from lineside_runtime.errors import ConfigError, IncompatibleBundleError, ParityGateError
from lineside_runtime.files import write_atomic
from lineside_runtime.progress import TextListener
from lineside_runtime.session import Session

REPORT_NAME = "split.json"
STAGES = ("backbone", "head")
PARITY_FRAMES = 4
PARITY_SEED = 41
MAX_DRIFT = 0.02
"""How much less the stages' outputs may correlate with the whole model's on ONNX Runtime than those of the whole model
on the engines named: two engines round a quantised model differently, and that is not the cut's doing."""

SAME_ENGINE_ERROR = 1e-5
"""Largest difference on one engine, as a share of the output's largest value; quantised graphs give 0."""


@dataclasses.dataclass(frozen=True, slots=True)
class SplitResult:
    """Result of `split_bundle`.

    Attributes:
        config: What a session needs to run it as it was measured.
    """

    bundle: Bundle
    chosen: CutChoice
    config: Config

    def summary(self) -> dict[str, object]:
        """Returns the content of the bundle's `REPORT_NAME`."""
        return _report(self.chosen, self.config)


def split_bundle(
    source: Bundle,
    out: Path,
    places: Sequence[StagePlace],
    *,
    variant: str | None = None,
    version: str | None = None,
    overwrite: bool = False,
    must_gain: bool = True,
    on_progress: Callable[[str], None] = lambda text: None,
) -> SplitResult:
    """Cuts a bundle's model in two where the slower stage is fastest, and checks that nothing else has changed.

    Args:
        places: The two places where the stages are to run; both orders are tried.
        variant: Name of the ONNX variant that is cut; the first one if not given.
        version: Version of the new bundle; the old one's with ``-split`` behind it if not given.
        must_gain: Whether to refuse a cut that doesn't pass more frames than the best place does alone.

    Raises:
        InputError: Something stands at ``out``.
        ConfigError: Not two places.
        IncompatibleBundleError: The bundle has no such ONNX variant.
        GraphError: The graph can't be cut.
        SpeedGateError: Cutting isn't worth it here.
        ParityGateError: The stages give other outputs than the whole model.
        GoldenMismatchError: They don't give the golden outputs.
    """
    check_target(out, overwrite=overwrite)
    if len(places) != 2:
        raise ConfigError("places", expected="two places, one for each stage", actual=list(map(str, places)))
    old = _variant(source.manifest, variant)
    feeds = sample_feeds(source)
    model = source.file(old.file)
    chosen = CutSearch(model, old.precision, feeds[0], places, on_progress).choose(must_gain=must_gain)
    config = _config(chosen)
    with staging_folder(out) as folder:
        for relative in source.manifest.files:
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path / relative, folder / relative)
        cut = _write_stages(folder, old, model, chosen, feeds[0])
        write_atomic(folder / REPORT_NAME, msgspec.json.format(msgspec.json.encode(_report(chosen, config)), indent=1))
        variants = tuple(cut if one.name == old.name else one for one in source.manifest.variants)
        fresh = msgspec.structs.replace(
            source.manifest, version=version or f"{source.manifest.version}-split", variants=variants
        )
        made = write_manifest(folder, fresh)
        _prove(source, made, feeds, config, on_progress)
        install_bundle(folder, out)
    return SplitResult(open_bundle(out), chosen, config)


def sample_feeds(source: Bundle) -> list[Feed]:
    """Returns inputs to measure and compare on: the golden frame, and some of the line simulator."""
    manifest = source.manifest
    golden = golden_frame().image if manifest.golden is None else read_png(source.file(manifest.golden.frame))
    images = [golden, *(render("steel", PARITY_SEED + number).image for number in range(PARITY_FRAMES - 1))]
    how = manifest.preprocess
    return [{how.input: prepare(image, how)[0]} for image in images]


def _variant(manifest: Manifest, name: str | None) -> Variant:
    for variant in manifest.variants:
        if variant.format == "onnx" and not variant.stages and name in (None, variant.name):
            return variant
    raise IncompatibleBundleError(
        f"{manifest.identity} has no {name or 'ONNX'} variant that could be cut",
        expected=[one.name for one in manifest.variants if one.format == "onnx" and not one.stages],
        actual=name,
        action="Cut an ONNX variant that is still whole.",
    )


def _config(chosen: CutChoice) -> Config:
    places = chosen.best.places
    cores = tuple(place.cores for place in places)
    return Config(
        stage_engines=tuple(f"{place.engine}/{place.device}" if place.device else place.engine for place in places),
        stage_cores=cores if all(cores) else None,
        threads=places[0].threads,
    )


def _write_stages(folder: Path, old: Variant, model: Path, chosen: CutChoice, feed: Feed) -> Variant:
    names = [f"{old.name}-stages/{stage}.onnx" for stage in STAGES]
    (folder / names[0]).parent.mkdir()
    cut_in_two(model, chosen.best.cut, folder / names[0], folder / names[1])
    shapes = _shapes(folder / names[0], old.precision, chosen.best.cut, feed)
    stages = []
    for name, file, share in zip(STAGES, names, (chosen.share, 1 - chosen.share), strict=True):
        facts = read_onnx(folder / file)
        stages.append(
            Stage(
                name=name,
                file=file,
                inputs=facts.inputs,
                outputs=facts.outputs,
                share=round(share, 4),
                sample={spec.name: shapes[spec.name] for spec in facts.inputs},
            )
        )
    return msgspec.structs.replace(old, stages=tuple(stages))


def _shapes(first: Path, precision: str, cut: Cut, feed: Feed) -> dict[str, tuple[int, ...]]:
    with contextlib.closing(StagePlace("ort").load(first, precision)) as executable:
        crossing = executable.run(feed)
    return {name: array.shape for name, array in {**feed, **{name: crossing[name] for name in cut.tensors}}.items()}


def _report(chosen: CutChoice, config: Config) -> dict[str, object]:
    best = chosen.best
    return {
        "cut": best.cut.tensors,
        "places": [str(place) for place in best.places],
        "stage_ms": best.stage_ms,
        "whole_ms": chosen.whole_ms,
        "gain": chosen.gain,
        "share_of_first": chosen.share,
        "stage_engines": config.stage_engines,
        "stage_cores": config.stage_cores,
        "tried": [
            {"cut": one.cut.tensors, "places": [str(place) for place in one.places], "stage_ms": one.stage_ms}
            for one in chosen.tried
        ],
    }


def _prove(source: Bundle, made: Bundle, feeds: Sequence[Feed], config: Config, report: TextListener) -> None:
    """Checks that the stages give the whole model's outputs on one engine, and nearly so on the engines named."""
    whole = Config(engines=("ort",), threads=1)
    on_one = msgspec.structs.replace(whole, stage_engines=("ort", "ort"), stage_cores=(_all_cores(), _all_cores()))
    with Session(source, whole) as reference:
        with Session(made, on_one) as staged:
            for feed in feeds:
                _same(reference.predict(feed), staged.predict(feed))
        engines = {name.partition("/")[0] for name in config.stage_engines or ()}
        limit = min(_correlation(reference, source, engine, feeds) for engine in engines) - MAX_DRIFT
        with Session(made, config) as staged:
            gate = check_parity(reference.predict, staged.predict, feeds, min_correlation=limit)
            report(f"parity: {gate.detail}; of the whole model on these engines {limit + MAX_DRIFT:.4f}")
            if made.manifest.golden is not None:
                replayed = replay(staged, made)
                report(f"golden outputs on {replayed.used_device}: least cosine {min(replayed.cosine.values()):.5f}")


def _correlation(reference: Session, source: Bundle, engine: str, feeds: Sequence[Feed]) -> float:
    with Session(source, Config(engines=(engine,), threads=1)) as session:
        return check_parity(reference.predict, session.predict, feeds, min_correlation=-1).value or 0.0


def _all_cores() -> tuple[int, ...]:
    return tuple(sorted(os.sched_getaffinity(0)))


def _same(wanted: Feed, found: Feed) -> None:
    for name, array in wanted.items():
        scale = float(np.abs(array).max()) or 1.0
        error = float(np.abs(array.astype(np.float64) - found[name].astype(np.float64)).max()) / scale
        if not error <= SAME_ENGINE_ERROR:
            raise ParityGateError(
                f"output {name!r} of the stages is not that of the whole model",
                expected=f"a difference of at most {SAME_ENGINE_ERROR} of its largest value",
                actual=f"{error:.2e}",
                action="Leave this model whole.",
            )
