"""Bulk jobs: many rows through the bulk lane, results in the order of the rows."""
