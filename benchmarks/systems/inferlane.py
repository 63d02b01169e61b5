"""Inferlane as `inferlane up` starts it, with the one model of the case."""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path
from types import MappingProxyType

from benchmarks.cases import Case
from benchmarks.systems.running import NAME, NAME_ON_APACHE, NotReadyError, Running, process, wait_ready
from benchmarks.venvs import STATE
from inferlane.runtime.runfile import RunFile, RunRecord
from tests.support.brokers import ApacheCluster
from tests.support.brokers.processes import free_ports

_PARTS = {"broker", "store"}
_READY_WITHIN_S = 300.0
# Below the ports that the system gives to clients (from 32768 on Linux): of many in a row there, one is soon taken.
_OPS_PORTS = range(20_000, 30_000)
# More than the processes of any stack that is measured.
_OPS_PORTS_A_STACK = 50
_NOTHING: Mapping[str, str] = MappingProxyType({})


@contextmanager
def serve_inferlane_on_apache(case: Case, *, environment: Mapping[str, str] = _NOTHING) -> Iterator[Running]:
    """The stack on an Apache Kafka of one node, with the embedded store."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ApacheCluster(Path(folder)) as broker,
        serve_inferlane(case, environment={**broker.environment(), **environment}) as running,
    ):
        yield replace(
            running,
            name=NAME_ON_APACHE,
            title="Inferlane on Apache Kafka",
            parts_pids=(*running.parts_pids, *broker.pids),
        )


@contextmanager
def serve_inferlane(case: Case, *, environment: Mapping[str, str] = _NOTHING) -> Iterator[Running]:
    """The stack, embedded as far as `environment` names no broker; its supervisor is one of its own processes."""
    api, broker, store, dashboard = free_ports(4)
    state = STATE.absolute() / "stack"
    shutil.rmtree(state, ignore_errors=True)
    chosen = {name: value for name, value in os.environ.items() if not name.startswith("INFERLANE_")} | {
        "INFERLANE_STATE_DIR": str(state),
        "INFERLANE_MODELS_DIR": str(case.models_dir),
        "INFERLANE_DEFAULT_MODEL": case.model,
        "INFERLANE_LOG_LEVEL": "WARNING",
        **environment,
    }
    argv = [sys.executable, "-m", "control_plane", "up", "--api-port", str(api), "--broker-port", str(broker)]
    argv += ["--store-port", str(store), "--ops-port", str(_first_ops_port()), "--dashboard-port", str(dashboard)]
    log = STATE / "logs" / f"{NAME}.log"
    log.unlink(missing_ok=True)
    file = RunFile(state)
    with process(argv, log=log, env=chosen) as supervisor:

        def is_ready() -> bool:
            record = file.read()
            return record is not None and record.phase == "ready"

        wait_ready(is_ready, within_s=_READY_WITHIN_S, what="inferlane", logs=[log], processes=[supervisor])
        record = file.read()
        if record is None:
            raise NotReadyError("the stack stopped by itself")
        yield _running(record, supervisor.pid, api)


def _first_ops_port() -> int:
    """The first of ports in a row that nobody listens on."""
    step = _OPS_PORTS_A_STACK
    return next(first for first in _OPS_PORTS[::step] if all(_is_free(first + number) for number in range(step)))


def _is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


def _running(record: RunRecord, supervisor: int, api_port: int) -> Running:
    parts = tuple(entry.pid for entry in record.processes if entry.pool in _PARTS)
    own = tuple(entry.pid for entry in record.processes if entry.pool not in _PARTS)
    return Running(
        name=NAME,
        title="Inferlane",
        url=f"http://127.0.0.1:{api_port}/v1/models/predict",
        protocol="v1",
        own_pids=(supervisor, *own),
        parts_pids=parts,
        versions=tuple(sorted(f"{found.name}=={found.version}" for found in distributions())),
        knows_deadlines=True,
        processes={"supervisor": supervisor, **{entry.name: entry.pid for entry in record.processes}},
    )
