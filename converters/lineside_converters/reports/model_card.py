"""The model card: what the model is for, what it is not for, and how it was made."""

from __future__ import annotations

import html

from lineside_converters.reports.report import GateResult, ModelFigures, OptimizationReport
from lineside_models.nlp.extraction.reading import ACCEPTED_MAX, SpanReading
from lineside_models.verdict.good_classes import good_of, names_of_good, rule_of
from lineside_runtime.bundle import STATED_TERMS, Manifest, TextForm

_MARK = "## This build"
_UNKNOWN = """# {name}

Finds {task} of the types {labels} in {colour} images.{good}

- **Data, terms, limits**: not known to lineside; the model came without a card. Ask who trained it.
"""

_DOCUMENTS = """# {name}

Finds {labels} in documents of the schema {schema}, for people who read many of them: `lineside read`, `ContractParser`.

- **Input**: text of PDF, DOCX, scans or text files, in windows of {tokens} tokens: the first {windows}, and one around
  each of the first {triggers} trigger phrases behind them. What stands elsewhere is not seen.
- **Output**: values with a calibrated probability. {accepted}
- **Not for**: decisions without a person; languages and kinds of documents that it was not trained on.
- **Data**: {trained}.
"""


def write_card(manifest: Manifest, report: OptimizationReport, *, given: str = "") -> str:
    """Returns the text of a model card: the given one or a generic one, and a section on this build.

    Args:
        given: The source model's card; its own section on its build is replaced, and it gets a heading if it has none.
    """
    good = set(good_of(manifest.postprocess))
    named = names_of_good(manifest.postprocess, manifest.labels)
    text = (
        given.partition(_MARK)[0].rstrip()
        or _of_documents(manifest, report)
        or _UNKNOWN.format(
            name=_text(manifest.name),
            task="defects",
            labels=", ".join(_text(label) for index, label in enumerate(manifest.labels) if index not in good),
            colour=manifest.preprocess.colour,
            good=f" Good parts are of the class {_text(named)}." if named else "",
        ).rstrip()
    )
    if not text.startswith("# "):
        text = f"# {_text(manifest.name)}\n\n{text}"
    rule = rule_of(manifest.postprocess, manifest.labels)
    return f"{text}\n\n{_build(report, _text(rule))}{_terms(manifest)}"


def _of_documents(manifest: Manifest, report: OptimizationReport) -> str:
    """Returns the card of a document bundle; empty for any other."""
    form = manifest.preprocess.text
    if not isinstance(form, TextForm):
        return ""
    reading = SpanReading.of(manifest.postprocess.params)
    documents = report.training.get("documents", {})
    known = f"{documents.get('documents', 0)} documents, "
    if parts := documents.get("parts"):
        known += f"which {parts} networks that had not seen them read to calibrate on"
    else:
        known += f"{documents.get('held', 0)} more to calibrate on"
    return _DOCUMENTS.format(
        name=_text(manifest.name),
        labels=", ".join(_text(label) for label in manifest.labels),
        schema=_text(reading.schema),
        tokens=form.tokens,
        windows=form.first_windows,
        triggers=form.trigger_windows,
        accepted=_accepted((reading.scorer_terms or reading.scorer).accepted),
        trained=known if documents else "not known to lineside; ask who trained it",
    ).rstrip()


def _accepted(score: float) -> str:
    if score >= ACCEPTED_MAX:
        return "No threshold reached a precision of 98.7 % where it was calibrated: a person looks at each value."
    return (
        f"A person looks at those below {score:.2f}; above it 98.7 % were right in documents that the network was not "
        "trained on."
    )


def _terms(manifest: Manifest) -> str:
    """Returns lines on the licence of the weights and the terms of the data, where the manifest states them."""
    lines = [f"- licence of the weights: {_text(manifest.licence)}\n"] if manifest.licence else []
    for name, terms in (manifest.data_terms or {}).items():
        lines.append(f"- terms of the data `{_code(name)}`: {_text(STATED_TERMS.get(terms, terms))}\n")
    return "".join(lines)


def _build(report: OptimizationReport, rule: str) -> str:
    metric = report.metric
    name = _text(metric.name) if metric else "mAP@0.5"
    lines = [
        _MARK,
        "",
        f"`{_code(report.model)}`, made {_text(report.made_at)} from `{_code(report.source.name)}` "
        f"(sha256 `{_code(report.source.sha256[:16])}…`): level {report.level}, {_text(report.recipe)}.",
        "",
        f"| | ms a frame | p95 | bytes | {name} |",
        "| --- | --- | --- | --- | --- |",
        _row("float", report.float, metric.before if metric else report.float.map50),
    ]
    if report.int8 is not None:
        lines.append(_row(_precision(report), report.int8, metric.after if metric else report.int8.map50))
    here = f"{_text(report.machine.cpu)}, {report.machine.threads} thread"
    lines += [
        "",
        f"Timed on {_text(report.timed_on)}; all else on {here}." if report.timed_on else f"Measured on {here}.",
    ]
    if report.accuracy_on:
        lines.append(f"{name} on {_text(report.accuracy_on)}, the same ones for both.")
    if report.calibration is not None:
        lines.append(f"Calibrated on {_text(report.calibration.source)}.")
    if rule:
        lines += ["", rule]
    lines += ["", *(_gate(gate) for gate in report.gates), *(f"- {_text(note)}" for note in report.notes), ""]
    return "\n".join(lines)


def _precision(report: OptimizationReport) -> str:
    """Returns the precision of the fastest variant."""
    return _text(report.variants[0].precision.upper()) if report.variants else "INT8"


def _row(name: str, figures: ModelFigures, metric: float | None) -> str:
    accuracy = "not measured" if metric is None else f"{metric:.3f}"
    return f"| {name} | {figures.latency_ms:.2f} | {figures.latency_p95_ms:.2f} | {figures.size_bytes} | {accuracy} |"


def _gate(gate: GateResult) -> str:
    return f"- {gate.name} {gate.status}: {_text(gate.detail)}; limit {gate.limit:g}"


def _text(value: str) -> str:
    """Returns a value as one line of Markdown without HTML, links and table cells of its own."""
    return html.escape(" ".join(value.split()), quote=False).replace("](", "]\\(").replace("|", "\\|")


def _code(value: str) -> str:
    """Returns a value for a code span."""
    return " ".join(value.split()).replace("`", "'").replace("|", "\\|")
