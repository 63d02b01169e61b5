"""Nothing accepted is lost, whatever dies: the oracle over a seeded schedule of faults on real processes.

`INFERLANE_FAULTS`, `INFERLANE_FAULT_REQUESTS`, `INFERLANE_FAULT_RATE`, `INFERLANE_FAULT_LIMIT_MINUTES` and
`INFERLANE_FAULT_SEED` size it, `INFERLANE_FAULT_NODES` the Apache Kafka that `--broker apache` brings. docs/faults.md
says what it proves.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from rich.console import Console

from inferlane.runtime.config import load_settings
from tests.faults.harness import Plan, prove
from tests.faults.harness.opening import fault_broker
from tests.support.brokers import Broker, BrokerKind

# Seconds on a quiet machine; on a busy one a fault costs up to a minute, and the run ends with fewer of them.
DEFAULT_FAULTS = 12
DEFAULT_REQUESTS = 200
DEFAULT_LIMIT_MINUTES = 4.0
# What a run that was cut short must have done to be called one.
_LEAST_FAULTS = 3
_START_AND_END_S = 1_500


def plan_of_environment() -> Plan:
    default = Plan()
    return Plan(
        seed=int(os.environ.get("INFERLANE_FAULT_SEED", default.seed)),
        faults=int(os.environ.get("INFERLANE_FAULTS", DEFAULT_FAULTS)),
        requests=int(os.environ.get("INFERLANE_FAULT_REQUESTS", DEFAULT_REQUESTS)),
        rate_per_s=float(os.environ.get("INFERLANE_FAULT_RATE", default.rate_per_s)),
        limit_minutes=float(os.environ.get("INFERLANE_FAULT_LIMIT_MINUTES", DEFAULT_LIMIT_MINUTES)),
    )


PLAN = plan_of_environment()


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Not each look at a process that is not there yet."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    yield
    structlog.reset_defaults()


@pytest.fixture
def fault_kafka(broker_kind: str, tmp_path: Path) -> Iterator[Broker]:
    """The broker that was chosen, of this test alone; an Apache Kafka has three nodes that may fail."""
    nodes = int(os.environ.get("INFERLANE_FAULT_NODES", "3"))
    with fault_broker(BrokerKind(broker_kind), tmp_path / "broker", nodes=nodes) as broker:
        yield broker


# Lost once is lost: no second go.
@pytest.mark.flaky(reruns=0)
@pytest.mark.timeout(_START_AND_END_S + PLAN.limit_minutes * 60)
async def test_every_accepted_request_ends_in_one_right_answer_in_time_through_faults(
    fault_kafka: Broker, tmp_path: Path
) -> None:
    report = await prove(PLAN, fault_kafka, tmp_path, models_dir=load_settings().stack.models_dir)
    report.show(Console(highlight=False))
    assert report.holds, f"{report.broken_promises()}\nlogs of the processes: {tmp_path / 'logs'}"
    was_cut_short = report.elapsed_s >= PLAN.limit_minutes * 60
    assert report.fault_count >= (_LEAST_FAULTS if was_cut_short else PLAN.faults)
    assert report.request_count >= (1 if was_cut_short else PLAN.requests)
