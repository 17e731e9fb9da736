"""Reports: the tables of folders of runs, read from what training left there."""

from foveal.reports.table import results, table
from foveal.reports.write import markdown, print_table, report, write_json

__all__ = ["markdown", "print_table", "report", "results", "table", "write_json"]
