"""A schema of one's own: expressions that propose values, and line breaks that the network sees."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from lineside_converters.training.documents.line_breaks import with_line_breaks
from lineside_models.nlp.extraction.indicators import indicator_features, indicators_of
from lineside_models.nlp.extraction.logistic import LogisticModel, fit_logistic
from lineside_models.nlp.extraction.reading import SpanReading, candidates_of
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
        TokenProbabilities((), (), schema.types), TEXT, schema.types, None, "receipt", schema.patterns
    )

    assert [(one.type, one.key) for one in (qty, total)] == [("total_amount", "2.00"), ("total_amount", "60.30")]
    assert all(place.ruled and TEXT[place.start : place.end] == "60.30" for place in total.mentions)

    quantity, amount = indicators_of((qty, total), TEXT, schema.types, schema.patterns)
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
    kept = fit_logistic(features, right, penalty=3.0, indicators=2, indicator_penalty=3.0)
    assert kept.deviations[0] == scaled.deviations[0] and kept.deviations[1:] == (1.0, 1.0)

    def gains(model: LogisticModel) -> tuple[float, float]:
        without, with_common, with_rare = model(np.array([[0.0, 0, 0], [0, 1, 0], [0, 0, 1]])).tolist()
        return with_common - without, with_rare - without

    assert gains(kept)[0] > 0.3 and 0 < gains(kept)[1] < 0.5 * gains(scaled)[1]


def test_amounts_tell_which_one_is_the_sum_of_those_above_and_what_was_paid_less_the_change() -> None:
    text = "Tea\t3.00\nCake\t4.00\nDue\t7.00\nCash\t10.00\nChange\t3.00\n"
    patterns = {"total_amount": (r"(\d+\.\d\d)",)}
    nothing = TokenProbabilities((), (), ("total_amount",))
    candidates = candidates_of(nothing, text, ("total_amount",), None, "receipt", patterns)
    found = indicators_of(candidates, text, ("total_amount",), patterns)
    equal = {
        one.key: {name for name in names if "equals" in name} for one, names in zip(candidates, found, strict=True)
    }
    above, below = "total_amount equals:sum above", "total_amount equals:difference below"
    assert equal == {"3.00": set(), "4.00": {below}, "7.00": {above, below}, "10.00": {above}}


@pytest.mark.parametrize("pattern", ["[", "no group"])
def test_a_wrong_expression_is_refused_in_a_schema_and_in_a_bundle(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "receipt.toml").write_text(SCHEMA.replace("(?i)total[^0-9]{0,9}([0-9.]+)", pattern))
    with pytest.raises(ConfigError, match="receipt"):
        load_model_schema(str(tmp_path / "receipt.toml"))
    scorer = {"model": {"weights": [], "means": [], "deviations": [], "bias": 0.0}}
    params = {"schema": "receipt", "single": ["date"], "relations": {}, "scorer": scorer}
    assert SpanReading.of(params).patterns == {}
    with pytest.raises(BundleFormatError, match="patterns"):
        SpanReading.of(params | {"patterns": {"date": [pattern]}})


def test_a_pattern_of_an_unknown_type_is_refused(tmp_path: Path) -> None:
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
