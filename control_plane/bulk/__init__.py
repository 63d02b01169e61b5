"""Bulk jobs: send many rows through the bulk lane and write the results in the order of the rows."""
