"""Figures, tables and the HTML pages; each kind of report is a module."""

from limelm.extras import require_extra

require_extra("lab", "limelm.report")
