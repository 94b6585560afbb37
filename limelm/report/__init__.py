"""Figures, tables and the HTML page."""

from limelm.report.page import REPORT, write_report

__all__ = ["REPORT", "write_report"]
