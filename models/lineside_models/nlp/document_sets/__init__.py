"""Data sets of annotated documents, and how well values and relations were found in them."""
