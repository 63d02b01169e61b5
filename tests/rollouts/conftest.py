"""One stack for all rollouts, and which of them run on which broker."""

from collections.abc import Iterator

import pytest

from tests.rollouts.rollout_stack import RolloutStack
from tests.support.brokers import BrokerKind
from tests.support.brokers.opening import make_broker

_MARK = "on_apache_kafka_alone"
# By model: its candidates. Fewer where fewer rollouts run.
_FEW_MODELS = {"tiny": ("fails", "good"), "broken": ("fails", "hangs")}
_ALL_MODELS = _FEW_MODELS | {
    "unusual": ("nan", "slow", "differs"),
    "keyed": ("fails", "good"),
    "loads": ("fails", "good", "hangs"),
    "both": ("good", "hangs"),
    "by-hand": ("good", "fails"),
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{_MARK}: takes longer than `./test.sh` has for it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--broker") != BrokerKind.EMBEDDED:
        return
    left_out = [item for item in items if item.get_closest_marker(_MARK)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="package")
def stack(broker_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RolloutStack]:
    folder = tmp_path_factory.mktemp("rollouts")
    models = _FEW_MODELS if broker_kind == BrokerKind.EMBEDDED else _ALL_MODELS
    with make_broker(BrokerKind(broker_kind), folder / "broker") as broker:
        running = RolloutStack(folder, broker, models)
        started = running.run("up", "--detach")
        try:
            assert started.returncode == 0, started.stdout + started.stderr
            yield running
        finally:
            running.run("down")
