"""Schemas: which fields a kind of document has, and how they are known. The shipped ones lie beside as TOML files."""

from lineside_models.nlp.schemas.schema import (
    SHIPPED,
    FieldSchema,
    QuantitySchema,
    Schema,
    TableSchema,
    load_model_schema,
    load_schema,
)

__all__ = ["SHIPPED", "FieldSchema", "QuantitySchema", "Schema", "TableSchema", "load_model_schema", "load_schema"]
