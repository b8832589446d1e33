"""The report of a run: a page, and the sections that the core and plugins show on it."""

from ebm.reports.section import Section, html_table

__all__ = ["Section", "html_table"]
