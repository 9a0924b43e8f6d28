"""A schema of one's own: expressions that propose values, and line breaks that the network sees."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from lineside_converters.training.documents.fitting import fit_reading
from lineside_converters.training.documents.line_breaks import with_line_breaks
from lineside_models.nlp.document_sets.annotations import AnnotatedDocument
from lineside_models.nlp.extraction.candidate_scoring import shared_scores
from lineside_models.nlp.extraction.contract_rules import contract_mentions
from lineside_models.nlp.extraction.form_rules import RUN_LINES, FormRules
from lineside_models.nlp.extraction.indicators import check_indicators, indicator_features, indicators_of
from lineside_models.nlp.extraction.logistic import CURVATURE_MIN, LogisticModel, fit_logistic
from lineside_models.nlp.extraction.reading import SpanReading, candidates_of, read_values
from lineside_models.nlp.extraction.spans import TokenProbabilities
from lineside_models.nlp.extraction.windows import TextWindows
from lineside_models.nlp.schemas import load_model_schema
from lineside_runtime.bundle import TextForm
from lineside_runtime.errors import BundleFormatError, ConfigError, TrainingError

SCHEMA = """
name = "receipt"
[model]
single = ["date", "total_amount"]
line_breaks = true
[model.patterns]
total_amount = ['(?i)total[^0-9]{0,9}([0-9.]+)']
"""
TEXT = "Acme Stores\nTotal Qty\t2\nTOTAL RM\t60.30\n"


def test_expressions_of_the_schema_propose_values(tmp_path: Path) -> None:
    (tmp_path / "receipt.toml").write_text(SCHEMA)
    schema = load_model_schema(str(tmp_path / "receipt.toml"))
    assert schema.line_breaks

    (qty, total) = candidates_of(
        TokenProbabilities((), (), schema.types), TEXT, schema.types, None, "receipt", schema.form
    )

    assert [(one.type, one.key) for one in (qty, total)] == [("total_amount", "2.00"), ("total_amount", "60.30")]
    assert all(place.ruled and TEXT[place.start : place.end] == "60.30" for place in total.mentions)

    quantity, amount = indicators_of((qty, total), TEXT, schema.types, schema.form)
    assert {
        f"total_amount {name}" for name in ("left:total", "left pair:total qty", "begins:cell", "line:2")
    } <= quantity
    assert {f"total_amount {name}" for name in ("last left:rm", "above:qty", "expression:0", "tenth:5")} <= amount
    assert indicator_features((quantity, amount), ("total_amount left:rm", "total_amount left:total")).tolist() == [
        [0.0, 1.0],
        [1.0, 1.0],
    ]


def test_what_hardly_any_form_says_weighs_little() -> None:
    rng = np.random.default_rng(4)
    common = (rng.random(300) < 0.5).astype(float)
    right = rng.random(300) < 0.2 + 0.6 * common
    rare = np.zeros(300)
    rare[np.flatnonzero(right)[:2]] = 1
    features = np.stack((rng.normal(size=300), common, rare), 1)
    scaled = fit_logistic(features, right, penalty=3.0)
    kept = fit_logistic(features, right, penalty=3.0, indicator_penalties=(3.0, 3.0))
    assert kept.deviations[0] == scaled.deviations[0] and kept.deviations[1:] == (1.0, 1.0)

    def gains(model: LogisticModel) -> tuple[float, float]:
        without, with_common, with_rare = model(np.array([[0.0, 0, 0], [0, 1, 0], [0, 0, 1]])).tolist()
        return with_common - without, with_rare - without

    assert gains(kept)[0] > 0.3 and 0 < gains(kept)[1] < 0.5 * gains(scaled)[1]


def test_rows_that_are_surely_wrong_are_left_out_of_the_curvature_alone() -> None:
    rng = np.random.default_rng(5)
    likely, sure = rng.normal(size=(200, 3)), rng.normal(size=(2000, 3)) - [9, 0, 0]
    features = np.concatenate((likely, sure))
    right = np.concatenate((rng.random(200) < 1 / (1 + np.exp(-2 * likely[:, 0])), np.zeros(2000, np.bool_)))

    model = fit_logistic(features, right, penalty=0.1)

    shares = model(features)
    assert (shares * (1 - shares) < CURVATURE_MIN).sum() > 1000
    inputs = (features - np.array(model.means)) / np.array(model.deviations)
    gradient = inputs.T @ (shares - right) + 0.1 * np.array(model.weights)
    assert np.abs(gradient).max() < 1e-3


def test_amounts_tell_which_one_is_the_sum_of_those_above_and_what_was_paid_less_the_change() -> None:
    text = "Tea\t3.00\nCake\t4.00\nDue\t7.00\nCash\t10.00\nChange\t3.00\n"
    form = FormRules({"total_amount": (r"(\d+\.\d\d)",)})
    nothing = TokenProbabilities((), (), ("total_amount",))
    candidates = candidates_of(nothing, text, ("total_amount",), None, "receipt", form)
    found = indicators_of(candidates, text, ("total_amount",), form)
    equal = {
        one.key: {name for name in names if "equals" in name} for one, names in zip(candidates, found, strict=True)
    }
    above, below = "total_amount equals:sum above", "total_amount equals:difference below"
    run = "total_amount equals:sum of run above"
    assert equal == {"3.00": set(), "4.00": {below}, "7.00": {above, below, run}, "10.00": {above}}


def test_an_amount_knows_how_many_are_larger_or_equal_and_which_one_it_is_rounded_to() -> None:
    text = "Tea\t3.00\nSum\t7.02\nRounded\t7.00\nPaid\t7.00\n"
    form = FormRules({"total_amount": (r"(\d+\.\d\d)",)})
    candidates = candidates_of(TokenProbabilities((), (), ("total_amount",)), text, ("total_amount",), None, "", form)
    found = {
        one.key: {name.removeprefix("total_amount ") for name in names}
        for one, names in zip(candidates, indicators_of(candidates, text, ("total_amount",), form), strict=True)
    }
    assert {"larger amounts:1", "equal amounts:2", "rounded:above"} <= found["7.00"]
    assert {"larger amounts:0", "equal amounts:1", "rounded:below"} <= found["7.02"]
    assert "larger amounts:2" in found["3.00"] and not {"rounded:above", "rounded:below"} & found["3.00"]


def test_runs_of_the_first_lines_are_candidates_and_cues_tell_them_apart() -> None:
    text = "Acme Stores\n\n1 Main Road\n81100 Town\nTel 555\n" + "Item\n" * RUN_LINES
    form = FormRules(line_runs={"address": 2}, cues={"postal code": r"\b\d{5}\b", "phone": r"\bTel\b", "road": "Road"})
    candidates = candidates_of(TokenProbabilities((), (), ("address",)), text, ("address",), None, "", form)
    found = {
        text[one.clearest.start : one.clearest.end]: names
        for one, names in zip(candidates, indicators_of(candidates, text, ("address",), form), strict=True)
    }
    assert found.keys() >= {"Acme Stores", "Acme Stores\n\n1 Main Road", "1 Main Road\n81100 Town", "81100 Town"}
    assert not any(words.count("\n") > 2 for words in found)
    assert len(form.places(text, ("address",))) == 2 * RUN_LINES
    cues = {name.removeprefix("address ") for name in found["1 Main Road\n81100 Town"] if "cue" in name}
    wanted = {"first own cue:road", "own cue:road", "last own cue:postal code", "own cue:postal code"}
    assert cues == {*wanted, "below cue:phone", "left cue:none", "above cue:none"}
    assert "address above cue:start" in found["Acme Stores"]
    kinds = {name.split(":")[0].removeprefix("address ") for names in found.values() for name in names}
    check_indicators({name for names in found.values() for name in names}, form)
    assert kinds.isdisjoint({"own", "above", "line", "tenth"}) and {"lines", "begins"} <= kinds
    assert {"address above cue:road", "address right cue:phone"} & found["81100 Town"] == {"address above cue:road"}


def test_brackets_tell_a_name_that_is_cut_from_a_whole_one() -> None:
    text = "Acme Hardware (North\nArea) Ltd\n"
    form = FormRules(line_runs={"company": 2}, cues={"business": "Ltd"})
    candidates = candidates_of(TokenProbabilities((), (), ("company",)), text, ("company",), None, "", form)
    whole = {
        text[one.clearest.start : one.clearest.end]
        for one, names in zip(candidates, indicators_of(candidates, text, ("company",), form), strict=True)
        if "company brackets:pairs" in names
    }
    assert len(candidates) == 3 and whole == {"Acme Hardware (North\nArea) Ltd"}


def test_a_misread_word_is_mended_only_by_the_one_word_of_the_lexicon_that_looks_like_it() -> None:
    form = FormRules(lexicon={"address": ("Lot", "Selangor", "S/B", "Jaya", "Rawang", "Bahru", "Bharu")})

    misread = ("1.OT 12,", "SCLANGOR.", "Jaga", "SPEED 5/B", "kawang")
    assert [form.mended("address", words) for words in misread] == [
        "LOT 12,",
        "SELANGOR.",
        "Jaya",
        "SPEED S/B",
        "rawang",
    ]
    kept = ("Selangor", "SELANXOR", "SCIANGOR", "Jawa", "BAHARU", "10T", "5/8")
    assert [form.mended("address", words) for words in kept] == list(kept)
    assert form.mended("company", "SCLANGOR") == "SCLANGOR"


def test_low_scores_of_a_single_value_are_shared_out() -> None:
    types = ("total", "total", "date")
    shared = shared_scores(types, np.array([0.02, 0.001, 0.3]), {"total": 0.001})
    assert shared[0] > 0.9 and shared[1] < 0.05 and shared[2] == 0.3
    assert shared_scores(types, np.array([0.02, 0.02, 0.3]), {"total": 0.001})[:2] == pytest.approx(
        [0.488] * 2, abs=0.01
    )
    assert shared_scores(types, np.array([1e-5, 1e-6, 1.0]), {"total": 0.001, "date": 0.1})[0] < 0.02


def test_the_network_does_not_run_where_scores_without_it_are_as_good(tmp_path: Path) -> None:
    (tmp_path / "receipt.toml").write_text(SCHEMA)
    schema = load_model_schema(str(tmp_path / "receipt.toml"))
    documents = []
    for number in range(10):
        text = TEXT.replace("60.30", f"6{number}.30")
        values = {"total_amount": {f"6{number}.30"}}
        documents.append(AnnotatedDocument(name="", text=text, group=f"{number}", spans=(), values=values, pairs=set()))
    nothing = [TokenProbabilities((), (), schema.types)] * len(documents)

    fitted = fit_reading(schema, documents, nothing, trained=(), name="receipt")

    assert fitted.f1 == fitted.network_f1 == 1.0
    reading = SpanReading.of(fitted.postprocess.params)
    assert reading.indicators
    assert not reading.network and reading.scorer.absent["total_amount"] <= 0.001
    (found,) = read_values(
        candidates_of(nothing[0], TEXT, schema.types, None, "", reading.form), TEXT, schema.types, reading, None
    )
    assert found.key == "60.30"
    running_text = msgspec.structs.replace(schema, line_breaks=False)
    fitted = fit_reading(running_text, documents, nothing, trained=(), name="receipt")
    assert SpanReading.of(fitted.postprocess.params).network


@pytest.mark.parametrize(
    "rule",
    ["line_runs = {date = 0}", "line_runs = {tax = 2}", "cues = {phone = '['}", "lexicon = {tax = ['a']}",
     "lexicon = {date = ['two words']}"],
)  # fmt: skip
def test_a_wrong_run_or_cue_is_refused(tmp_path: Path, rule: str) -> None:
    (tmp_path / "receipt.toml").write_text(SCHEMA.replace("[model.patterns]", f"{rule}\n[model.patterns]"))
    with pytest.raises(ConfigError, match=rule.split()[0]):
        load_model_schema(str(tmp_path / "receipt.toml"))


def test_wrong_expressions_and_those_of_an_unknown_type_are_refused_in_a_schema_and_in_a_bundle(tmp_path: Path) -> None:
    scorer = {"model": {"weights": [], "means": [], "deviations": [], "bias": 0.0}}
    params = {"schema": "receipt", "single": ["date"], "relations": {}, "scorer": scorer}
    assert SpanReading.of(params).patterns == {}
    for pattern in ("[", "no group"):
        (tmp_path / "receipt.toml").write_text(SCHEMA.replace("(?i)total[^0-9]{0,9}([0-9.]+)", pattern))
        with pytest.raises(ConfigError, match="receipt"):
            load_model_schema(str(tmp_path / "receipt.toml"))
        with pytest.raises(BundleFormatError, match="patterns"):
            SpanReading.of(params | {"patterns": {"date": [pattern]}})
    with pytest.raises(BundleFormatError, match=r"right cue.* another version"):
        SpanReading.of(
            params | {"cues": {"phone": "Tel"}, "indicators": ["date left cue:phone", "date right cue:phone"]}
        )
    (tmp_path / "receipt.toml").write_text(SCHEMA.replace("total_amount = [", "tax = ["))
    with pytest.raises(ConfigError, match="tax"):
        load_model_schema(str(tmp_path / "receipt.toml"))


def test_line_breaks_and_tabs_become_tokens_with_places_in_the_text(tmp_path: Path) -> None:
    words = ["[PAD]", "[unused0]", "[unused1]", "[CLS]", "[SEP]", "[UNK]", "Total", "Qty", "2", "Acme", "Stores"]
    tokenizer = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    plain = tokenizer.to_str().encode()
    (tmp_path / "tokenizer.json").write_bytes(with_line_breaks(plain))

    (window,) = TextWindows(tmp_path / "tokenizer.json", TextForm(tokenizer="tokenizer.json", tokens=32, overlap=8))(
        TEXT[:23]
    )

    inner = window.ids[1:-1].tolist()
    assert [words[number] for number in inner] == ["Acme", "Stores", "[unused0]", "Total", "Qty", "[unused1]", "2"]
    assert TEXT[slice(*window.offsets[2])] == "\n" and TEXT[slice(*window.offsets[5])] == "\t"
    with pytest.raises(TrainingError, match="line_breaks"):
        with_line_breaks(json.dumps({"model": {"vocab": {}}, "added_tokens": []}).encode())


@pytest.mark.parametrize(
    ("head", "title"),
    [
        ("AGREEMENT\n\nThis Supply Agreement is made", "AGREEMENT"),
        ("Non-Disclosure Agreement\n\nTHIS AGREEMENT is entered into", "Non-Disclosure Agreement"),
        ("SUPPLY\n\nAGREEMENT\nThis Agreement", "SUPPLY\n\nAGREEMENT"),
        ("MASTER LICENSE AGREEMENT\n \nThe Master License Agreement", "MASTER LICENSE AGREEMENT"),
    ],
)
def test_the_title_of_a_contract_ends_before_its_first_sentence(head: str, title: str) -> None:
    found = contract_mentions(f"{head} between A and B.")
    assert [head[one.start : one.end] for one in found if one.type == "title"] == [title]
