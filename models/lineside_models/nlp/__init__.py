"""Documents: reading PDF, DOCX, text and images of pages, and what is found in them."""
