"""The sections of reports, as data: one module for each topic, in the order of the page."""
