"""``lineside.nlp``: `ContractParser`, which reads contracts."""

from __future__ import annotations

from lineside_models.nlp.extraction.contract_parser import ContractParser

__all__ = ["ContractParser"]
