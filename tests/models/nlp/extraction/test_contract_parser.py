"""A document model from its training to an answer: a tiny encoder, trained here on generated contracts."""

import json
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from lineside.nlp import ContractParser
from lineside.optimizer import Optimizer
from lineside_converters.data.document_inputs import DocumentMetric, gather_documents
from lineside_converters.evaluation import DocumentEvaluation, EvaluationRequest, judge
from lineside_converters.training.documents.config import DocumentConfig
from lineside_converters.training.documents.trainer import train_document
from lineside_converters.training.progress import TrainingProgress
from lineside_models.golden import replay
from lineside_models.nlp.extraction.contract_parser import SpanExtractor, text_form
from lineside_models.nlp.extraction.reading import SpanReading
from lineside_models.nlp.extraction.sample_contract import GOLDEN_TEXT
from lineside_models.nlp.extraction.windows import TextWindows
from lineside_runtime.bundle import Bundle, Manifest, Postprocess, TextForm, parse_manifest
from lineside_runtime.errors import (
    AccuracyGateError,
    BundleFormatError,
    CalibrationError,
    ConfigError,
    DatasetError,
    DocumentError,
    TrainingError,
    UnsupportedModelError,
)
from lineside_runtime.session import Session
from lineside_runtime.tensors import Array
from tests.models.nlp.extraction.generated_contracts import write_contracts, write_encoder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    write_contracts(folder / "data", train=40, val=10)
    write_encoder(folder / "encoder")
    return folder


def settings(work: Path, **changes: object) -> DocumentConfig:
    values = {"data": (work / "data",), "out": work / "run", "encoder": work / "encoder", "epochs": 45, "batch": 8}
    values |= {"learning_rate": 5e-3, "frozen_layers": 0, "evaluate_every": 15, "seed": 1}
    return DocumentConfig(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bundle(work: Path, short_gates: None) -> Bundle:
    found = train_document(settings(work), lambda _: None)
    assert found.held_f1 > 0.6
    options = {"data": [work / "data"], "out": work / "bundle", "name": "contracts", "max_drop": 0.05}
    return Optimizer(work / "run", "rpi5", 1, **options).run().bundle  # type: ignore[arg-type]


def test_a_bundle_reads_contracts_that_it_was_not_trained_on(work: Path, bundle: Bundle) -> None:
    with Session(bundle) as session:
        found = judge(bundle, work / "data", EvaluationRequest(fold="val"))
        assert session.variant == "onnx-int8"
        assert isinstance(found, DocumentEvaluation)
        assert replay(session, bundle).cosine["spans"] == 1.0
    assert found.values.f1 > 0.75 and found.values.low <= found.values.f1 <= found.values.high
    assert found.relations.f1 > 0.6
    coverages = [point.coverage for point in found.curve]
    assert coverages == sorted(coverages) and found.curve[0].score >= found.curve[-1].score


def test_entities_have_place_value_score_and_relations_their_evidence(bundle: Bundle, work: Path) -> None:
    with ContractParser(legal_terms_db="law_dict.json", output_format="json", bundle=bundle) as parser:
        found = parser.analyze(work / "data" / "45.txt")
    text = (work / "data" / "45.txt").read_text()
    by_type = {one["type"]: one for one in found["entities"]}
    date = by_type["agreement_date"]
    assert text[date["start"] : date["end"]] == date["text"] and date["value"][:4] in date["text"]
    aliases = [one for one in found["relations"] if one["type"] == "alias_of"]
    assert aliases and all(found["entities"][one["head"]]["type"] == "party" for one in aliases)
    assert all(found["entities"][one["tail"]]["text"] in one["evidence"] for one in aliases)
    assert "effective_date" in [one["field"] for one in found["review"] if one["reason"] == "missing"]
    json.dumps(found)


def test_a_misread_word_is_mended_in_the_value_and_reviewed_and_a_network_that_is_not_used_does_not_run(
    bundle: Bundle, work: Path
) -> None:
    def changed(**params: object) -> Manifest:
        manifest = bundle.manifest
        params = dict(manifest.postprocess.params) | params
        return msgspec.structs.replace(manifest, postprocess=Postprocess(name=manifest.postprocess.name, params=params))

    lexicon = {"title": ["SUPPLV"]}  # as if the true word was misread
    with ContractParser(bundle=Bundle(bundle.path, changed(lexicon=lexicon), bundle.digest)) as parser:
        found = parser.analyze(work / "data" / "45.txt")
    number, title = next((at, one) for at, one in enumerate(found["entities"]) if one["type"] == "title")
    assert (title["text"], title["value"]) == ("SUPPLY AGREEMENT", "SUPPLV AGREEMENT")
    assert number in [one["entity"] for one in found["review"] if one["reason"] in ("ambiguous", "uncertain")]

    def run(_: object) -> Mapping[str, Array]:
        raise AssertionError("the network ran")

    form = text_form(bundle.manifest)
    extractor = SpanExtractor(changed(network=False), bundle.file(form.tokenizer), run)
    assert extractor.probabilities((work / "data" / "45.txt").read_text()).windows == ()


def test_without_a_bundle_the_rules_read_and_all_of_it_is_to_be_reviewed() -> None:
    found = ContractParser(legal_terms_db="law_dict.json").analyze(GOLDEN_TEXT.encode())
    values = {(one["type"], one["value"]) for one in found["entities"]}
    assert ("governing_law", "New York") in values and ("agreement_date", "2021-03-03") in values
    assert ("party", "Blue Ridge Conveyor Systems LLC") in values
    reviewed = [one["entity"] for one in found["review"] if one["reason"] == "uncertain"]
    assert sorted(reviewed) == list(range(len(found["entities"])))
    with pytest.raises(ConfigError, match="output_format"):
        ContractParser(output_format="xml")  # type: ignore[arg-type]
    rows = ContractParser(output_format="csv").analyze(GOLDEN_TEXT.encode())
    assert "party" in rows and "Northwind Rolling Mills, Inc" in rows
    page = ContractParser(output_format="html").analyze(GOLDEN_TEXT.encode())
    assert page.startswith("<!doctype html>")
    assert "; 1 page<" in page and "Point at a box" not in page  # a text has no boxes
    with pytest.raises(DocumentError):
        ContractParser().analyze(b"\x00\x01\x02" * 50)


def test_a_training_goes_on_where_it_was_stopped(work: Path) -> None:
    def stop(progress: TrainingProgress) -> None:
        if progress.step == 9:
            raise KeyboardInterrupt

    whole = settings(work, out=work / "whole", epochs=3, evaluate_every=1, frozen_layers=1)
    train_document(whole, lambda _: None)
    cut = msgspec.structs.replace(whole, out=work / "cut")
    with pytest.raises(KeyboardInterrupt):
        train_document(cut, stop)
    train_document(msgspec.structs.replace(cut, resume=True), lambda _: None)
    curves = [json.loads((folder / "training.json").read_text())["losses"] for folder in (whole.out, cut.out)]
    assert [row["loss"] for row in curves[0]][-1:] == pytest.approx([row["loss"] for row in curves[1]][-1:], abs=1e-6)


def test_scores_of_few_documents_come_from_networks_that_had_not_seen_them(work: Path) -> None:
    crossed, cut = (
        settings(work, out=work / name, epochs=2, frozen_layers=1, cross_fit=2) for name in ("crossed", "cut-crossed")
    )

    def stop(_: TrainingProgress) -> None:
        if (cut.out / "part-1" / "best.pt").exists():
            raise KeyboardInterrupt

    found = train_document(crossed, lambda _: None)
    facts = json.loads(Path(found.facts).read_text())
    assert (facts["documents"]["documents"], facts["documents"]["held"], facts["documents"]["parts"]) == (40, 0, 2)
    with pytest.raises(KeyboardInterrupt):
        train_document(cut, stop)
    again = train_document(msgspec.structs.replace(cut, resume=True), lambda _: None)
    repeated = json.loads(Path(again.facts).read_text())
    assert repeated["steps"] == facts["steps"] and repeated["postprocess"] == facts["postprocess"]
    assert (again.held_f1, again.scored_f1) == (found.held_f1, found.scored_f1)
    assert not list(cut.out.glob("part-*"))
    with pytest.raises(TrainingError, match="cross_fit"):
        settings(work, cross_fit=1)


def test_the_accuracy_gate_compares_documents(work: Path, bundle: Bundle) -> None:
    report = json.loads((bundle.path / "report.json").read_text())
    gate = next(one for one in report["gates"] if one["name"] == "accuracy")
    assert gate["status"] == "passed" and "F1 of values by document" in gate["detail"]
    assert report["accuracy_on"] == "10 documents of data"
    card = (bundle.path / "model_card.md").read_text()
    assert "Finds title, agreement_date" in card and "34 documents, 6 more to calibrate on" in card
    with pytest.raises(AccuracyGateError):
        options = {"data": [work / "data"], "out": work / "never", "min_metric": 0.999}
        Optimizer(work / "run", "rpi5", 0, **options).run()  # type: ignore[arg-type]
    assert not (work / "never").exists()


def test_no_document_that_was_chosen_on_is_judged_on(work: Path, bundle: Bundle) -> None:
    """Not even where both folds are one."""
    form = bundle.manifest.preprocess.text
    assert isinstance(form, TextForm)
    folder = write_contracts(work / "undivided", train=5, val=0)
    inputs, metric = gather_documents(
        bundle.manifest,
        bundle.file(form.tokenizer),
        limit=8,
        frames=None,
        data=[folder],
        fold="train",
        judge_fold="train",
    )
    read: list[list[str]] = []
    for each in (inputs.tuning_metric, metric):
        assert isinstance(each, DocumentMetric)
        read.append([document.text for document in each.documents])
    assert read[0] and read[1] and not set(read[0]) & set(read[1])
    one = write_contracts(work / "one", train=1, val=0)
    with pytest.raises(CalibrationError, match="left to judge"):
        gather_documents(
            bundle.manifest,
            bundle.file(form.tokenizer),
            limit=8,
            frames=None,
            data=[one],
            fold="train",
            judge_fold="train",
        )


def test_a_window_shows_the_clause_behind_the_beginning_and_a_long_text_costs_no_more(bundle: Bundle) -> None:
    form = bundle.manifest.preprocess.text
    assert isinstance(form, TextForm)
    windows = TextWindows(bundle.file(form.tokenizer), form)
    text = "goods " * 30_000 + "\ngoverned by the laws of the State of New\nYork.\n" + "x" * 500_000
    found = windows(text)
    assert len(found) <= form.first_windows + form.trigger_windows
    assert any("New\nYork" in text[one.offsets[0, 0] : one.offsets[-1, 1]] for one in found)
    assert windows("") == [] and all(len(one.ids) <= form.tokens for one in found)


def test_what_does_not_fit_is_refused(work: Path, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="reads no documents"):
        ContractParser(bundle=Path("models/lineside_models/zoo/surface-12"))
    with pytest.raises(BundleFormatError, match=r"postprocess\.params"):
        SpanReading.of(dict(bundle.manifest.postprocess.params) | {"thresholds": 1})
    data = (bundle.path / "manifest.json").read_bytes()
    with pytest.raises(BundleFormatError, match="does not list it"):
        parse_manifest(data.replace(b'"tokenizer": "tokenizer.json"', b'"tokenizer": "other.json"'))
    (tmp_path / "a.txt").write_text("short")
    row = {"file": "a.txt", "entities": [{"type": "title", "start": 2, "end": 90}]}
    (tmp_path / "annotations.jsonl").write_text(json.dumps(row))
    with pytest.raises(DatasetError, match=r"line 1: offsets.*0 to 5"):
        train_document(settings(work, data=(tmp_path,), out=tmp_path / "run"), lambda _: None)
    row = {"file": "a.txt", "entities": [{"type": "title", "start": 0, "end": 5}]}
    wrong = row | {"relations": [{"type": "alias_of", "head": 0, "tail": 1}]}
    for given, reason in (
        (wrong, "relation 'alias_of'; expected head and tail from 0 to 0.*got head 0, tail 1"),
        (row, "too few documents.*got 1 documents of 1 groups.*Annotate more"),
    ):
        (tmp_path / "annotations.jsonl").write_text(json.dumps(given))
        with pytest.raises(DatasetError, match=reason):
            train_document(settings(work, data=(tmp_path,), out=tmp_path / "run"), lambda _: None)
    with pytest.raises(TrainingError, match="frozen_layers"):
        settings(work, frozen_layers=-1)
