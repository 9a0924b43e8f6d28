"""The benchmark's report as table, charts and page."""
