"""What children get of our environment, and whose run file is heeded."""

import os
import re
import sys
from pathlib import Path

import psutil
import pytest

from control_plane.local import pools as pools_module
from control_plane.local.child_process import child_environment
from control_plane.local.pools import StackPools
from control_plane.local.profile import StackOptions, stack_profile
from control_plane.local.state_directory import open_log
from inferlane.errors import ConfigurationError
from inferlane.runtime import runfile as runfile_module
from inferlane.runtime.config import load_settings, setting_fields
from inferlane.runtime.runfile import RunFile, RunRecord, same_process

RECORD = RunRecord(pid=1, create_time_s=2.5, phase="ready", api_url="http://x", environment={"A": "b"})
SERVICES = ("api", "router", "worker", "webhooks", "dashboard")
NOBODY = 65_534


def test_a_secret_goes_to_the_services_that_use_it() -> None:
    """Guards `_SECRETS`: taken out, the key of the operator lies in the environment of every process."""
    ours = {
        "INFERLANE_API_KEY": "k",
        "INFERLANE_REDIS_URL": "redis://:p@x",
        "INFERLANE_API_KEYS_FILE": "f",
        "INFERLANE_WEBHOOK_SECRET": "whsec_x",
        "INFERLANE_FEEDBACK_SECRET": "s",
        "PATH": "/",
    }
    held = {service: set(child_environment(service, ours, {}, {})) for service in SERVICES}
    assert {service for service in SERVICES if "INFERLANE_API_KEY" in held[service]} == {"dashboard"}
    assert {service for service in SERVICES if "INFERLANE_REDIS_URL" in held[service]} == {"api", "router", "worker"}
    assert {service for service in SERVICES if "INFERLANE_FEEDBACK_SECRET" in held[service]} == {
        "api",
        "router",
        "worker",
    }
    assert {service for service in SERVICES if "INFERLANE_API_KEYS_FILE" in held[service]} == {"api"}
    assert {service for service in SERVICES if "INFERLANE_WEBHOOK_SECRET" in held[service]} == {"webhooks"}
    assert all("PATH" in names for names in held.values())


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("AWS_SECRET_ACCESS_KEY", False),
        ("GITHUB_TOKEN", False),
        ("PGPASSWORD", False),
        ("OPENAI_API_KEY", False),
        ("MYSQL_PWD", False),
        ("GOOGLE_APPLICATION_CREDENTIALS", False),
        ("SSH_AUTH_SOCK", False),
        ("OTEL_EXPORTER_OTLP_HEADERS", True),
        ("INFERLANE_KAFKA_SASL_PASSWORD", True),
        ("LD_LIBRARY_PATH", True),
        ("OMP_NUM_THREADS", True),
        ("KEYBOARD", True),
        ("PWD", True),
        ("XAUTHORITY", True),
    ],
)
def test_what_looks_like_the_secret_of_another_program_stays_here(name: str, kept: bool) -> None:
    assert (name in child_environment("worker", {name: "x"}, {}, {})) is kept


def test_each_setting_that_holds_a_secret_is_given_by_need() -> None:
    """So that the next one is not forgotten."""
    secret = {name for name, field in setting_fields().items() if "SecretStr" in str(field.annotation)}
    # Every service uses the broker.
    assert secret - {"kafka_sasl_password"} == {
        "api_key",
        "redis_password",
        "webhook_secret",
        "feedback_secret",
        "prometheus_token",
    }
    assert re.search("redis_url", " ".join(setting_fields()))


def test_the_stack_hands_out_environments_by_need(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INFERLANE_API_KEY", "secret")
    monkeypatch.setattr(pools_module, "claim_port", lambda port, **_: port)
    settings = load_settings(
        state_dir=tmp_path, kafka_bootstrap_servers="kafka:9092", redis_url="redis://:password@store:6379/0"
    )
    options = StackOptions()
    pools = StackPools(stack_profile(settings, options), options, ()).all()
    held = {pool.name: pool.make(1).env for pool in pools}
    assert {name for name, env in held.items() if "secret" in env.values()} == {"dashboard"}
    assert not any("password" in value for value in held["dashboard"].values())


@pytest.mark.parametrize("service", ["api", "router", "worker", "dashboard"])
def test_every_service_can_read_what_it_was_given_of_the_stores_access(service: str, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.touch()
    access: dict[str, object] = {"redis_username": "ann", "redis_password": "pw", "redis_ssl_cafile": authority}
    chosen = load_settings(redis_url="rediss://store:6379/0", **access).environment()
    given = child_environment(service, {}, chosen, {})
    read = load_settings(**{name.removeprefix("INFERLANE_").lower(): value for name, value in given.items()})
    assert ("pw" in read.store.redis_url) is (service != "dashboard")


def write(folder: Path) -> RunFile:
    file = RunFile(folder)
    file.write(RECORD)
    return file


def test_a_run_file_that_others_can_write_is_not_heeded(tmp_path: Path) -> None:
    file = write(tmp_path)
    assert file.read() == RECORD
    file.path.chmod(0o622)
    with pytest.raises(ConfigurationError, match="nobody else can write"):
        file.read()


def test_a_run_file_of_another_user_is_not_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the owner: `inferlane down` as root ended what a file of nobody named (seen to fail so)."""
    file = write(tmp_path)
    if os.getuid() == 0:
        os.chown(file.path, NOBODY, NOBODY)
        owner = NOBODY
    else:
        owner = os.getuid()
        monkeypatch.setattr(runfile_module.os, "getuid", lambda: owner + 1)
    with pytest.raises(ConfigurationError, match=f"uid {owner}"):
        file.read()


def test_a_run_file_is_no_link_no_pipe_and_no_folder(tmp_path: Path) -> None:
    write(tmp_path / "real")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "up.json").symlink_to(tmp_path / "real" / "up.json")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "up.json")
    (tmp_path / "folder" / "up.json").mkdir(parents=True)
    for name in ("link", "pipe", "folder"):
        with pytest.raises(ConfigurationError):
            RunFile(tmp_path / name).read()


def test_a_draft_that_lies_there_is_not_written_through(tmp_path: Path) -> None:
    """Guards O_EXCL: a link under the draft's name would make us write where somebody else points."""
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    (tmp_path / f"up.json.{os.getpid()}").symlink_to(victim)
    file = write(tmp_path)
    assert victim.read_text() == "as it was"
    assert file.path.stat().st_mode & 0o077 == 0


def test_a_log_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "router.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        open_log(tmp_path / "router.log")
    assert not (tmp_path / "elsewhere").exists()


def test_a_process_of_another_user_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the owner in `same_process`: whatever a run file says, only our own processes are ended."""
    me = psutil.Process()
    assert same_process(me.pid, me.create_time()) is not None
    uid = os.getuid()
    monkeypatch.setattr(runfile_module.os, "getuid", lambda: uid + 1)
    assert same_process(me.pid, me.create_time()) is None


@pytest.mark.parametrize(("cores", "processes"), [(1, 1), (2, 1), (5, 1), (6, 2), (12, 4), (64, 8)])
def test_api_processes_grow_with_the_cores(cores: int, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert pools_module.api_processes_for(cores) == processes


def test_api_processes_share_the_port_and_know_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools_module, "claim_port", lambda port, **_: port)
    settings = load_settings(state_dir=tmp_path, kafka_bootstrap_servers="kafka:9092", api_processes=3)
    options = StackOptions()
    pools = {pool.name: pool for pool in StackPools(stack_profile(settings, options), options, ()).all()}
    api = pools["api"]
    specs = [api.make(number) for number in range(1, api.size + 1)]
    assert [spec.name for spec in specs] == ["api-1", "api-2", "api-3"]
    assert {spec.env["INFERLANE_API_PORT"] for spec in specs} == {"8000"}
    assert len({spec.port for spec in specs} | {8000}) == 4
    peers = ",".join(f"{spec.name}={spec.ops_url}" for spec in specs)
    assert {spec.env["INFERLANE_API_PEERS"] for spec in specs} == {peers}
    assert [spec.env["INFERLANE_OPS_PORT"] for spec in specs] == [str(spec.port) for spec in specs]
