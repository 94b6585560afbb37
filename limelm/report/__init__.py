"""Figures, tables and the HTML page."""

from limelm.report.bench import write_bench
from limelm.report.page import REPORT, write_report

__all__ = ["REPORT", "write_bench", "write_report"]
