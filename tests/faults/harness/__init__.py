"""Faults under load, and the oracle that says whether an accepted request was lost, wrong, late or contradicted.

`prove(plan, broker, folder)` is the whole: a stack of real processes, a steady load, a seeded schedule of faults, and a
report. The tests of this folder and `python -m tests.faults` are two callers of it.
"""

from tests.faults.harness.plan import Plan
from tests.faults.harness.proving import prove
from tests.faults.harness.report import Report

__all__ = ["Plan", "Report", "prove"]
