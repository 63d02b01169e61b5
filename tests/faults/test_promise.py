"""Nothing accepted is lost, whatever dies: the oracle over a seeded schedule of faults on real processes.

`INFERLANE_FAULTS`, `INFERLANE_FAULT_REQUESTS` and `INFERLANE_FAULT_SEED` size it, `INFERLANE_FAULT_NODES` the Apache
Kafka that `--broker apache` brings. docs/faults.md says what it proves.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from inferlane.config import load_settings
from tests.brokers import Broker, BrokerKind
from tests.faults.harness import Plan, prove
from tests.faults.harness.opening import fault_broker

# A fault costs a machine that is busy up to a minute: a consumer group that lost a member, and a Python that starts.
_A_FAULT_S = 60
_START_S = 900


def plan_of_environment() -> Plan:
    default = Plan()
    return Plan(
        seed=int(os.environ.get("INFERLANE_FAULT_SEED", default.seed)),
        faults=int(os.environ.get("INFERLANE_FAULTS", default.faults)),
        requests=int(os.environ.get("INFERLANE_FAULT_REQUESTS", default.requests)),
    )


PLAN = plan_of_environment()


@pytest.fixture
def fault_kafka(broker_kind: str, tmp_path: Path) -> Iterator[Broker]:
    """The broker that was chosen, of this test alone; an Apache Kafka has three nodes that may fail."""
    nodes = int(os.environ.get("INFERLANE_FAULT_NODES", "3"))
    with fault_broker(BrokerKind(broker_kind), tmp_path / "broker", nodes=nodes) as broker:
        yield broker


@pytest.mark.timeout(_START_S + PLAN.faults * _A_FAULT_S)
async def test_every_accepted_request_ends_in_one_right_answer_in_time_through_faults(
    fault_kafka: Broker, tmp_path: Path
) -> None:
    report = await prove(PLAN, fault_kafka, tmp_path, models_dir=load_settings().models_dir)
    report.show(Console(highlight=False))
    assert report.holds, f"{report.broken_promises()}\nlogs of the processes: {tmp_path / 'logs'}"
    assert report.fault_count >= PLAN.faults
    assert report.request_count >= PLAN.requests
    assert report.faults_in_flight == report.fault_count
