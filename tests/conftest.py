"""What every tier shares."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.support.brokers import Broker
    from tests.support.keyed_stack import KeyedStack

# A deadline for one example is a timed test, and a busy machine fails it; the suite has its own time limits.
# Half of the default examples: the suite runs on every change, and draws others each time.
settings.register_profile("inferlane", deadline=None, max_examples=50)
settings.load_profile("inferlane")

EMBEDDED = "embedded"
_LONGEST_REPORT = 8_000
# What is off by default, so that every metric of it can be looked at.
_ALL_PARTS = {
    "INFERLANE_RESPONSE_CACHE": "digits=1",
    "INFERLANE_WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--broker",
        choices=[EMBEDDED, "apache", "testcontainers", "external"],
        default=os.environ.get("INFERLANE_TEST_BROKER", EMBEDDED),
        help="the Kafka that tests run on (INFERLANE_TEST_BROKER, default embedded); see tests/support/brokers",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Another broker than the default is for the tests that use one."""
    if config.getoption("--broker") == EMBEDDED:
        return
    others = [item for item in items if "broker_kind" not in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what a test failed with that was given a second go; what the second one fails with may follow from it."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"the first go of {report.nodeid}")
        terminalreporter.line(report.longreprtext[-_LONGEST_REPORT:])


@pytest.fixture(scope="session")
def broker_kind(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--broker"))


@pytest.fixture(scope="session")
def shared_broker(broker_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Broker"]:
    """A broker that is too slow to start for each test."""
    with _open(broker_kind, tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def broker(broker_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator["Broker"]:
    """A broker with no topic of ours, of the kind that `--broker` says."""
    if broker_kind == EMBEDDED:
        with _open(broker_kind, tmp_path) as broker:
            yield broker
    else:
        shared: Broker = request.getfixturevalue("shared_broker")
        shared.forget_topics()
        yield shared


@pytest.fixture(scope="session")
def keyed_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator["KeyedStack"]:
    """A running stack for the tiers that look at one from outside, alone or one after the other."""
    from tests.support.keyed_stack import running_stack  # noqa: PLC0415 - as below

    with running_stack(tmp_path_factory.mktemp("clone"), settings=_ALL_PARTS) as stack:
        yield stack


def _open(kind: str, folder: Path) -> "Broker":
    # Lazy: most tests need no broker, and its certificates' library takes long to load.
    from tests.support.brokers import BrokerKind, make_broker  # noqa: PLC0415
    from tests.support.brokers.containers import NoDockerError, require_docker  # noqa: PLC0415

    if kind == BrokerKind.TESTCONTAINERS:
        try:
            require_docker()
        except NoDockerError as error:
            pytest.skip(str(error))
    return make_broker(BrokerKind(kind), folder)
