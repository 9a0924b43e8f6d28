"""PDF files, read by PDFium in a process of its own. Light to import: that process imports it, too."""
