"""A whole run: system, load, faults, an end in which everything is answered, and the verdict."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import structlog

from models.store_reader import load_catalog
from tests.faults.harness.injecting import Injector
from tests.faults.harness.loading import Load
from tests.faults.harness.plan import Plan, schedule
from tests.faults.harness.questions import MODEL, Oracle
from tests.faults.harness.report import Report, make_report
from tests.faults.harness.system import System, running_system
from tests.faults.harness.verdict import judge
from tests.support.brokers import Broker

log = structlog.get_logger(__name__)


async def prove(plan: Plan, broker: Broker, folder: Path, *, models_dir: Path) -> Report:
    """Run the plan against real processes on `broker`; logs and the report go to `folder`.

    Raises:
        StartError: the system did not get ready before the first fault.
        TimeoutError: a process did not come back after a fault.
    """
    oracle = Oracle(load_catalog(models_dir, default_model=MODEL).model(MODEL))
    async with running_system(plan, broker, folder, models_dir) as system:
        started_s = time.monotonic()
        load = Load(plan, system, oracle)
        try:
            await load.start()
            injector = await _inject(plan, system, broker, load)
            with suppress(TimeoutError):
                async with asyncio.timeout(plan.limit_minutes * 60 - (time.monotonic() - started_s)):
                    await load.reach(plan.requests)
            await load.stop_asking()
            await load.settle(plan.drain_s)
        finally:
            await load.close()
        elapsed_s = time.monotonic() - started_s
    verdict = judge(load.ledger, oracle, grace_s=plan.grace_s)
    report = make_report(plan, broker.kind, elapsed_s=elapsed_s, faults=injector.done, load=load, verdict=verdict)
    report.write(folder / "report.json")
    return report


async def _inject(plan: Plan, system: System, broker: Broker, load: Load) -> Injector:
    injector = Injector(plan, system, broker, load)
    until_s = time.monotonic() + plan.minutes * 60
    limit_s = time.monotonic() + plan.limit_minutes * 60
    faults = schedule(plan.seed, has_nodes=injector.has_nodes, only_senders=plan.only_senders)
    while (len(injector.done) < plan.faults or time.monotonic() < until_s) and time.monotonic() < limit_s:
        await injector.inject(next(faults))
    await system.all_ready()
    return injector
