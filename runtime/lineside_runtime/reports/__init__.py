"""The report kit: style sheet, page elements and SVG charts of every HTML report. Needs nothing but Python."""
