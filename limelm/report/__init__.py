"""Figures, tables and the HTML pages."""

from limelm.extras import require_extra

require_extra("lab", "limelm.report")

from limelm.report.adaptation import write_adaptation
from limelm.report.analysis import ANALYSIS, write_analysis
from limelm.report.bench import write_bench
from limelm.report.evaluation import write_evaluation
from limelm.report.exact_match import write_exact_match
from limelm.report.html import REPORT, is_made_of
from limelm.report.page import write_report
from limelm.report.plain_tables import aligned
from limelm.report.seeds import write_seeds
from limelm.report.tables import is_one_environment

__all__ = [
    "ANALYSIS",
    "REPORT",
    "aligned",
    "is_made_of",
    "is_one_environment",
    "write_adaptation",
    "write_analysis",
    "write_bench",
    "write_evaluation",
    "write_exact_match",
    "write_report",
    "write_seeds",
]
