"""Text recognition (OCR) of a page: text detection, orientation and recognition with PP-OCR's networks."""
