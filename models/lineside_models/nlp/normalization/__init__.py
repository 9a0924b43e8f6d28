"""Normal forms of values in documents: dates, amounts, names, and terms of a dictionary."""
