"""Figures, tables and the HTML page."""

from limelm.report.page import write_report

__all__ = ["write_report"]
