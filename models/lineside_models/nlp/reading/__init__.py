"""Read documents: PDF with text, scanned PDF, images of pages, DOCX and plain text."""

from lineside_models.nlp.limits import DocumentLimits
from lineside_models.nlp.reading.reader import read_document

__all__ = ["DocumentLimits", "read_document"]
