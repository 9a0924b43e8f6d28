"""Write chosen thresholds into a new version of the bundle, or into TOML that a hub signs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from lineside_converters.bundles.packaging import CARD_NAME, THRESHOLDS_HEADING, check_place, rewrite_bundle
from lineside_converters.thresholds.report import ThresholdReport
from lineside_models.postprocess import DEFAULT_THRESHOLD
from lineside_runtime.bundle import Bundle, time_now
from lineside_runtime.errors import AccuracyGateError, InputError
from lineside_runtime.files import write_atomic

DECISION_NAME = "decision.json"
_CHOSEN = ("thresholds", "unsure_from")


def write_bundle(
    bundle: Bundle, decision: ThresholdReport, out: Path, *, version: str = "", overwrite: bool = False
) -> Bundle:
    """Writes the bundle again with other thresholds; everything else stays, bit for bit.

    Args:
        bundle: The old one; it stays as it is.
        version: Version of the new bundle; the old one's with its last number one higher if empty.

    Returns:
        The bundle, opened and verified.

    Raises:
        InputError: Something stands at ``out``.
        ConfigError: The old version has no last number to raise, or the new one is the old one.
        BundleError: The old bundle is damaged.
        DiskFullError: There is no room; nothing half-written remains.
    """
    params = {name: value for name, value in bundle.manifest.postprocess.params.items() if name not in _CHOSEN}
    chosen = {each.type: each for each in decision.types}  # all but the classes of good parts
    labels = bundle.manifest.labels
    params["thresholds"] = [chosen[name].threshold if name in chosen else DEFAULT_THRESHOLD for name in labels]
    if any(each.unsure_from is not None for each in decision.types):
        params["unsure_from"] = [
            _floor(chosen[name].threshold, chosen[name].unsure_from) if name in chosen else DEFAULT_THRESHOLD
            for name in labels
        ]
    files = {DECISION_NAME: _as_json(without_curves(decision))}
    return write_reading(bundle, params, out, card=_card(decision), files=files, version=version, overwrite=overwrite)


def write_reading(
    bundle: Bundle,
    params: Mapping[str, Any],
    out: Path,
    *,
    card: str,
    files: Mapping[str, bytes] | None = None,
    version: str = "",
    overwrite: bool = False,
) -> Bundle:
    """Writes a bundle again with other post-processing parameters; everything else stays, bit for bit.

    Args:
        bundle: The old one; it stays as it is.
        card: What the model card says of it, in place of what it said of the thresholds before.
        files: More files, by path in the bundle.
    """
    version = check_place(bundle, out, version=version, overwrite=overwrite)
    manifest = msgspec.structs.replace(
        bundle.manifest,
        version=version,
        created_at=time_now(),
        postprocess=msgspec.structs.replace(bundle.manifest.postprocess, params=dict(params)),
    )
    more = dict(files or {})
    if CARD_NAME in bundle.manifest.files:
        kept = bundle.file(CARD_NAME).read_text().partition(THRESHOLDS_HEADING)[0].rstrip()
        more[CARD_NAME] = f"{kept}\n\n{card}".encode()
    return rewrite_bundle(bundle, out, manifest, files=more)


def check_gain(decision: ThresholdReport, *, force: bool = False) -> ThresholdReport:
    """Refuses thresholds that cost more than the bundle's own, before anything is written.

    Args:
        decision: What was chosen. Where the costs are not known (nothing stood for good parts) it is not refused.
        force: Whether it is taken all the same.

    Returns:
        The decision; with a note that travels with it, where it was forced.

    Raises:
        AccuracyGateError: On the frames that they were chosen on, or on those that they were not chosen on, they cost
            more.
    """
    own = decision.before.cost
    found = {"chosen on": decision.after.cost, "not chosen on": decision.cross_fold.cost}
    worse = {where: cost for where, cost in found.items() if own is not None and cost is not None and cost > own}
    if not worse:
        return decision
    unit = "a part"
    if decision.tolerated is not None:
        unit += f" in costs that lead to {decision.tolerated:.2%} false rejects (a miss costs 1)"
    costs = ", ".join(f"{cost:.4g} on frames that they were {where}" for where, cost in worse.items())
    if force:
        note = f"forced: these thresholds cost {costs}; the bundle's own cost {own:.4g}, {unit}"
        return msgspec.structs.replace(decision, notes=(*decision.notes, note))
    raise AccuracyGateError(
        "the chosen thresholds cost more than the bundle's own, which stay",
        expected=f"at most {own:.4g} {unit}",
        actual=costs,
        action="Give more frames, good parts among them (--good); --force writes them all the same.",
    )


def check_files(paths: Sequence[Path]) -> None:
    """Makes the folders of files that are to be written, before anything is scored.

    Raises:
        InputError: A folder can't be made or written to.
    """
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise InputError(f"{path} can't be written: {error.strerror}", action="Give another place.") from error
        if path.is_dir():
            raise InputError(f"{path} can't be written: it is a folder", action="Give another place.")


def write_figures(path: Path, decision: ThresholdReport) -> None:
    """Writes everything as JSON, curves too."""
    write_atomic(path, _as_json(decision))


def without_curves(decision: ThresholdReport) -> ThresholdReport:
    """Returns the decision for the bundle, without its curves, which are larger than all the rest of it."""
    types = tuple(msgspec.structs.replace(each, curve=()) for each in decision.types)
    return msgspec.structs.replace(decision, types=types)


def settings_of(decision: ThresholdReport) -> str:
    """Returns the thresholds as TOML for ``lineside push --config``, or for ``agent.toml``."""
    inspect: dict[str, dict[str, float]] = {"thresholds": {each.type: each.threshold for each in decision.types}}
    bands = {each.type: each.unsure_from for each in decision.types if each.unsure_from is not None}
    if bands:
        inspect["unsure_from"] = bands
    head = f"# Thresholds for {decision.bundle}: {_terms(decision)}.\n# Chosen on {decision.frames_from}.\n"
    return head + tomli_w.dumps({"inspect": inspect})


def _as_json(decision: ThresholdReport) -> bytes:
    return msgspec.json.format(msgspec.json.encode(decision), indent=1)


def _floor(threshold: float, unsure_from: float | None) -> float:
    return threshold if unsure_from is None else unsure_from


def _terms(decision: ThresholdReport) -> str:
    if decision.tolerated is not None:
        return f"at most {decision.tolerated:.2%} of the good parts may be rejected"
    review = "" if decision.review_cost is None else f", a review {decision.review_cost:g}"
    return (
        f"a miss costs {decision.miss_cost:g}, a false reject {decision.reject_cost:g}{review}, "
        f"{decision.bad_share:.2%} of the parts are bad"
    )


def _card(decision: ThresholdReport) -> str:
    honest = decision.cross_fold
    lines = [
        THRESHOLDS_HEADING,
        "",
        f"Chosen with `lineside decide` from `{decision.bundle}`: {_terms(decision)}; on {decision.frames_from}.",
        f"Expected, by thresholds chosen on other parts: {honest.missed.share:.1%} of the bad parts missed "
        f"({honest.missed.low:.1%} to {honest.missed.high:.1%}), {honest.missed_types.share:.1%} of the types on them"
        + (
            "; false rejects are not known, as no good part was there."
            if honest.false_rejects is None
            else f", {honest.false_rejects.share:.1%} of the good ones rejected "
            f"({honest.false_rejects.low:.1%} to {honest.false_rejects.high:.1%})."
        ),
        "Figures of box and image F1 above hold for the thresholds before.",
        *(f"- {note}" for note in decision.notes),
        "",
    ]
    return "\n".join(lines)
