"""Pure parts of the local stack: backoff, ports, profile, run file, zero rows."""

import os
import socket
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.local.managed_process import Backoff
from control_plane.local.pools import StackPools
from control_plane.local.profile import OpsPorts, StackOptions, check_host, claim_port, stack_profile
from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.contracts.wire.zero_rows import zero_row
from inferlane.errors import ConfigurationError
from inferlane.runtime.config import load_settings, setting_fields
from inferlane.runtime.kafka.clients import make_consumer
from inferlane.runtime.runfile import RunFile, RunRecord, lives
from tests.support.parts import free_port


@pytest.mark.parametrize("broker", [{}, {"INFERLANE_KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"}], ids=["embedded", "named"])
async def test_a_killed_member_is_given_up_in_well_under_ten_seconds_unless_somebody_says_otherwise(
    broker: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in broker.items():
        monkeypatch.setenv(name, value)
    profile = stack_profile(load_settings(), StackOptions())
    assert profile.settings.kafka.session_timeout_ms <= 8_000
    consumer = make_consumer(profile.settings.kafka, group="g")
    assert consumer._session_timeout_ms <= 8_000
    # Several heartbeats may be late before the group gives a living member up.
    assert consumer._heartbeat_interval_ms * 3 < consumer._session_timeout_ms


def test_a_group_on_the_embedded_broker_waits_no_longer_than_it_must_for_its_first_member() -> None:
    """Guards the session timeout there: Tansu makes the first member wait for half of it, in whole seconds."""
    shortest_ms = next(rule.ge for rule in setting_fields()["session_timeout_ms"].metadata if hasattr(rule, "ge"))
    assert stack_profile(load_settings(), StackOptions()).settings.kafka.session_timeout_ms == shortest_ms


def test_backoff_doubles_up_to_its_ceiling() -> None:
    backoff = Backoff(first_s=0.5, ceiling_s=3.0)
    assert [backoff.delay_s(deaths) for deaths in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_backoff_starts_over_after_a_stable_run() -> None:
    backoff = Backoff(stable_after_s=30.0)
    assert backoff.deaths_in_a_row(7, ran_s=29.9) == 8
    assert backoff.deaths_in_a_row(7, ran_s=30.0) == 1


@given(st.integers(min_value=1, max_value=10**9))
def test_backoff_never_leaves_its_bounds(deaths: int) -> None:
    backoff = Backoff()
    assert backoff.first_s <= backoff.delay_s(deaths) <= backoff.ceiling_s


def test_a_taken_port_is_refused_with_its_holder_and_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigurationError) as refused:
            claim_port(port, remedy="use --api-port")
    assert f"port {port} on 127.0.0.1 is in use by pid {os.getpid()} (" in str(refused.value)
    assert str(refused.value).endswith("Stop it, or use --api-port.")


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("192.0.2.1", "Cannot assign requested address"),
        ("2001:db8::1", ""),
        ("nowhere.invalid", ""),
        ("127.0.0.1:8000", ""),
        ("a" * 70, ""),
        ("", "it is empty"),
    ],
)
def test_an_address_of_another_machine_is_named_and_no_port_is_said_to_be_taken(host: str, says: str) -> None:
    """It was "port 8000 is in use by a process that this user may not see"."""
    with pytest.raises(ConfigurationError, match=f"INFERLANE_API_HOST='{host}' is no address of this machine: {says}"):
        check_host("INFERLANE_API_HOST", host)


@pytest.mark.parametrize("variable", ["api_host", "ops_host", "dashboard_host"])
def test_a_stack_is_not_begun_at_an_address_of_another_machine(variable: str) -> None:
    options = StackOptions(
        api_port=free_port(), broker_port=free_port(), store_port=free_port(), dashboard_port=free_port()
    )
    profile = stack_profile(load_settings(**{variable: "192.0.2.1"}), options)
    with pytest.raises(ConfigurationError, match=f"INFERLANE_{variable.upper()}='192.0.2.1' is no address"):
        StackPools(profile, options, ()).all()


def test_an_address_of_this_machine_is_one() -> None:
    for host in ("127.0.0.1", "localhost", "0.0.0.0"):
        check_host("INFERLANE_API_HOST", host)


def test_a_process_keeps_its_ops_port_and_never_shares_it() -> None:
    ports = OpsPorts(8100, free=lambda port, **_: port != 8101)
    assert [ports.port_of(name) for name in ("router", "worker-1", "router", "worker-2")] == [8100, 8102, 8100, 8103]


def test_the_profile_lies_under_what_the_user_set() -> None:
    profile = stack_profile(load_settings(work_partitions=7), StackOptions(broker_port=19092))
    assert profile.settings.kafka.work_partitions == 7
    assert profile.settings.kafka.ingress_partitions == 4
    assert profile.environment["INFERLANE_WORK_PARTITIONS"] == "7"
    assert profile.environment["INFERLANE_KAFKA_BOOTSTRAP_SERVERS"] == "127.0.0.1:19092"


def test_a_broker_of_the_user_replaces_the_embedded_one_and_its_settings() -> None:
    profile = stack_profile(load_settings(kafka_bootstrap_servers="kafka:9092"), StackOptions())
    assert not profile.has_broker
    assert profile.has_store
    assert profile.settings.kafka.idempotence
    assert profile.settings.kafka.bootstrap_servers == "kafka:9092"


def test_the_environment_of_a_profile_gives_a_process_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    # The environment has absolute paths alone.
    profile = stack_profile(load_settings(models_dir=Path("models").absolute()), StackOptions())
    for name, value in profile.environment.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == profile.settings


def test_a_recycled_pid_is_not_taken_for_the_process_that_had_it() -> None:
    born_s = psutil.Process().create_time()
    assert lives(os.getpid(), born_s)
    assert not lives(os.getpid(), born_s - 10)


def test_the_run_file_reads_what_was_written(tmp_path: Path) -> None:
    file = RunFile(tmp_path / "state")
    assert file.read() is None
    record = RunRecord(pid=1, create_time_s=2.5, phase="ready", api_url="http://x", environment={"A": "b"})
    file.write(record)
    assert file.read() == record
    assert file.path.stat().st_mode & 0o077 == 0, "it may hold the password of a store"


def test_a_zero_row_has_the_shape_and_the_type_of_each_input() -> None:
    one = TensorSpec(name="x", datatype="FP32", shape=(-1, 2, 3))
    flag = TensorSpec(name="flag", datatype="BOOL", shape=(-1, 1))
    assert zero_row(Signature(inputs=(one,), outputs=())) == [[0.0] * 3] * 2
    assert zero_row(Signature(inputs=(one, flag), outputs=())) == {"x": [[0.0] * 3] * 2, "flag": [False]}
