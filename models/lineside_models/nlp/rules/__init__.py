"""Find the fields and tables of a schema by their labels and places, without a model."""

from lineside_models.nlp.rules.extractor import extract_by_rules

__all__ = ["extract_by_rules"]
