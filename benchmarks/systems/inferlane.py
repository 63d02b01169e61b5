"""Inferlane as `inferlane up` starts it, with the one model of the case."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path
from types import MappingProxyType

from benchmarks.cases import Case
from benchmarks.systems.running import (
    APACHE_WARM_UP_S,
    NAME,
    NAME_ON_APACHE,
    NotReadyError,
    Running,
    process,
    wait_ready,
)
from benchmarks.venvs import STATE
from inferlane.runtime.runfile import RunFile, RunRecord
from tests.support.brokers import ApacheCluster
from tests.support.stack_ports import free_stack_ports

_PARTS = {"broker", "store"}
_READY_WITHIN_S = 300.0
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
            processes={**running.processes, "broker": broker.pids[0]},
            warm_up_s=APACHE_WARM_UP_S,
        )


@contextmanager
def serve_inferlane(
    case: Case, *, environment: Mapping[str, str] = _NOTHING, checkout: Path | None = None
) -> Iterator[Running]:
    """The stack, embedded as far as `environment` names no broker; its supervisor is one of its own processes.

    `checkout` is where another state of the project lies, with a `.venv` of its own, to be run in the place of this.
    """
    ports = free_stack_ports()
    # Of the same length: a path that is too long for sockets leaves a stack without signals.
    state = STATE.absolute() / ("stack" if checkout is None else "other")
    shutil.rmtree(state, ignore_errors=True)
    own = {
        "INFERLANE_STATE_DIR": str(state),
        "INFERLANE_MODELS_DIR": str(case.models_dir.absolute()),
        "INFERLANE_DEFAULT_MODEL": case.model,
        "INFERLANE_LOG_LEVEL": "WARNING",
    }
    chosen = ports.environment(**{**own, **environment})
    command = Path(sys.executable).parent if checkout is None else checkout / ".venv" / "bin"
    argv = [str(command / "inferlane"), "up"]
    log = STATE / "logs" / f"{state.name}.log"
    log.unlink(missing_ok=True)
    file = RunFile(state)
    with process(argv, log=log, cwd=checkout, env=chosen) as supervisor:

        def is_ready() -> bool:
            record = file.read()
            return record is not None and record.phase == "ready"

        wait_ready(is_ready, within_s=_READY_WITHIN_S, what="inferlane", logs=[log], processes=[supervisor])
        record = file.read()
        if record is None:
            raise NotReadyError("the stack stopped by itself")
        yield _running(record, supervisor.pid, ports.api, own)


def _running(record: RunRecord, supervisor: int, api_port: int, environment: Mapping[str, str]) -> Running:
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
        environment=environment,
        processes={"supervisor": supervisor, **{entry.name: entry.pid for entry in record.processes}},
    )
