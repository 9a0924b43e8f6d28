"""Measure a bundle's speed and memory on this machine, and compare bundles, engines, levels and batches."""

from __future__ import annotations

from lineside_runtime.benchmark.accuracy import Accuracy, Judge
from lineside_runtime.benchmark.benchmark import Benchmark
from lineside_runtime.benchmark.measurement.contestants import Contestant
from lineside_runtime.benchmark.page import page, write_page
from lineside_runtime.benchmark.report import BenchmarkReport, Result
from lineside_runtime.benchmark.text_table import table

__all__ = ["Accuracy", "Benchmark", "BenchmarkReport", "Contestant", "Judge", "Result", "page", "table", "write_page"]
