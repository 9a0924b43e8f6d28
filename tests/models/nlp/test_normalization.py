from pathlib import Path

import pytest

from lineside_models.nlp.extraction.contract_parser import ContractParser
from lineside_models.nlp.normalization.legal_terms import SHIPPED, LegalTerms
from lineside_models.nlp.normalization.values import normalise, value_key
from lineside_runtime.errors import BadInputFormatError, InputNotFoundError


@pytest.mark.parametrize(
    ("text", "date"),
    [("June 21, 1999", "1999-06-21"), ("this 23rd day of  September, 2016", "2016-09-23"),
     ("the first day of July, 2017", "2017-07-01"), ("twenty-second day of May 2020", "2020-05-22"),
     ("15t h day of January 2018", "2018-01-15"), ("__19__ day of May , 2010", "2010-05-19"),
     ("6/21/1999", "1999-06-21"), ("21.6.1999", "1999-06-21"), ("November ___, 2006", "2006-11"),
     ("this ___ day of _________, 2004", "2004"), ("the date of the last signature", None),
     ("February 45, 2001", "2001-02")],
)  # fmt: skip
def test_dates_have_one_form_and_a_blank_day_leaves_it_out(text: str, date: str | None) -> None:
    assert normalise("agreement_date", text) == date


def test_values_that_are_written_in_other_ways_are_the_same() -> None:
    assert value_key("effective_date", "3rd day of March, 2021") == value_key("effective_date", "March 3, 2021")
    assert value_key("party", "2THEMART.COM, INC.") == value_key("party", "2TheMart.com  Inc")
    assert value_key("total_amount", "RM 1,060.30") == value_key("total_amount", "1060.30") == "1060.30"
    assert normalise("total_amount", "2 x 3.00") is normalise("total_amount", "10-15") is None
    assert value_key("fee_amount", "$1.5 million") == value_key("fee_amount", "USD 1,500,000") == "USD 1500000"


@pytest.mark.parametrize(
    ("text", "amount"),
    [("60,30", "60.30"), ("1.234.567,89", "1234567.89"), ("EUR 1.234,50", "EUR 1234.50"), ("RM 190 00", "190.00"),
     ("12 .50", "12.50"), ("52-00", "52.00"), ("120.0G", "120.00"), ("$2.125 million", "USD 2125000")],
)  # fmt: skip
def test_the_point_of_an_amount_may_be_a_comma_or_misread(text: str, amount: str) -> None:
    assert normalise("total_amount", text) == amount


def test_the_dictionary_gives_a_law_its_name_and_proposes_it_in_a_clause_only() -> None:
    terms = LegalTerms.open(SHIPPED)
    text = "Acme, a Delaware corporation. " + "x " * 200 + "governed by the laws of the State of  New York."
    assert terms.canonical("governing_law", "the Commonwealth of Massachusetts") == "Massachusetts"
    assert terms.canonical("governing_law", "Atlantis") is None
    assert [text[start:end] for _, start, end in terms.propose(text, 0, len(text))] == ["State of  New York"]


def test_a_damaged_dictionary_is_refused_with_its_form(tmp_path: Path) -> None:
    file = tmp_path / "terms.json"
    file.write_text('{"New York": {"kind": "law"}}')
    with pytest.raises(BadInputFormatError, match="unknown field `kind`") as refused:
        LegalTerms.open(file)
    assert "canonical" in str(refused.value.expected)
    with pytest.raises(InputNotFoundError):
        LegalTerms.open(tmp_path / "none.json")


def test_a_type_that_is_not_looked_for_is_refused_with_its_term(tmp_path: Path) -> None:
    file = tmp_path / "terms.json"
    file.write_text('{"New York": {"type": "governing_law"}, "Ohio": {"type": "governing_lw"}}')
    with pytest.raises(BadInputFormatError, match=r"terms\.json: the type of 'Ohio'.* got governing_lw") as refused:
        ContractParser(file)
    assert "governing_law" in str(refused.value.expected)
    file.write_text('{"Acme": {"type": "grade"}}')
    with pytest.raises(BadInputFormatError, match="got grade"):
        ContractParser(file)
    ContractParser(file, schema="certificate").close()
    ContractParser(SHIPPED, schema="certificate").close()
