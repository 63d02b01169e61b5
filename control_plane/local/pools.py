"""The pools of the local stack, in their order: broker and store, router, workers, API and dashboard."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from control_plane.local.child_process import Ask, Prepare, ProcessSpec, child_environment, nothing
from control_plane.local.embedded_parts import broker_answers, broker_argv, store_answers, store_argv
from control_plane.local.probe import Target
from control_plane.local.profile import DASHBOARD, OpsPorts, Profile, StackOptions, check_host, claim_port
from control_plane.local.readiness import is_live, is_ready
from control_plane.local.shared_pool import SHARED_POOL, SharedPool
from control_plane.local.supervisor import Pool
from control_plane.topic_admin import create_topics
from inferlane.runtime.runfile import base_url

if TYPE_CHECKING:
    from pathlib import Path

    from control_plane.local.fork_server import ForkServer


_PARTS, _ROUTER, _WORKERS, _API = range(4)
# Each service waits by itself for what it needs: once broker and store are ready, all load at the same time.
_SERVICES = 1
_STOP_MARGIN_S = 5.0
_CORES_AN_API_PROCESS = 3
_MOST_API_PROCESSES = 8
# A version that cannot be loaded, or a page that cannot be shown, must not end the stack. Too few give up on a machine
# that is only busy, too many show `starting` for long.
_TRIES = 4
# A broker and store in memory have nothing to save, so they need no longer.
_PARTS_STOP_WITHIN_S = 5.0
_PARTS_READY_WITHIN_S = 20.0
_PARTS_ENVIRONMENT = {"PATH", "HOME", "TMPDIR", "RUST_LOG"}


class StackPools:
    """Build the pools of a profile. Ports are checked when the pools are built, before anything runs."""

    def __init__(
        self, profile: Profile, options: StackOptions, targets: Sequence[Target], *, forks: "ForkServer | None" = None
    ) -> None:
        """`forks` starts our own processes; without it each is executed."""
        self._profile = profile
        self._forks = forks
        self._settings = profile.settings
        self._options = options
        # The present targets: the catalogue changes while the stack runs.
        self.targets = list(targets)
        self.shared = SharedPool(
            self._settings.stack.state_dir,
            max_model_bytes=options.shared_worker_max_model_bytes,
            workers=options.workers,
        )
        self._ops_ports = OpsPorts(options.first_ops_port, host=self._settings.ports.ops_host)
        self._log_dir: Path = self._settings.stack.state_dir / "logs"

    def all(self) -> tuple[Pool, ...]:
        """Return every pool.

        Raises:
            ConfigurationError: a port is taken, the message names by whom, an address is none of this machine, or a
                binary is missing.
        """
        check_host("INFERLANE_API_HOST", self._settings.api.host)
        check_host("INFERLANE_OPS_HOST", self._settings.ports.ops_host)
        pools = list(self.parts())
        pools.append(self._ours("router", _ROUTER, "router"))
        pools += [self.workers(target) for target in self.targets if not self.shared.wants(target)]
        for target in filter(self.shared.wants, self.targets):
            self.shared.add(target)
        if self.shared.labels:
            pools.append(self.shared_workers())
        if self._settings.webhooks.enabled:
            pools.append(self._ours("webhooks", _ROUTER, "webhooks"))
        pools.append(self._api())
        if self._options.dashboard_port:
            check_host("INFERLANE_DASHBOARD_HOST", self._settings.dashboard.host)
            pools.append(self._dashboard())
        return tuple(pools)

    def workers(self, target: Target) -> Pool:
        """Return the pool that serves a version."""
        argv = ("worker", "--model", target.model, "--version", target.version)
        return self._ours(worker_pool(target.model, target.version), _WORKERS, *argv)

    def shared_workers(self) -> Pool:
        """Return the pool of the process that small versions share."""
        pool = self._ours(SHARED_POOL, _WORKERS, "worker", "--roster", str(self.shared.roster.absolute()))

        def make(number: int) -> ProcessSpec:
            self.shared.tell()
            return pool.make(number)

        return replace(pool, make=make)

    def parts(self) -> tuple[Pool, ...]:
        """Return the embedded broker and store, unless the user named others."""
        broker = (self._broker(),) if self._profile.has_broker else ()
        store = (self._store(),) if self._profile.has_store else ()
        return (*broker, *store)

    def ops_port(self, name: str) -> int:
        """Return the ops port of a process outside the pools."""
        return self._ops_ports.port_of(name)

    async def create_topics(self) -> None:
        """Create the topics that this stack needs and that are missing.

        Raises:
            UnavailableError: the broker does not answer.
        """
        await create_topics(
            self._settings.kafka,
            self._settings.stack.names,
            self._settings.webhooks,
            [(target.model, target.version) for target in self.targets],
        )

    def _broker(self) -> Pool:
        port = claim_port(self._options.broker_port, remedy="use --broker-port (INFERLANE_BROKER_PORT)")
        answers = partial(broker_answers, self._settings.kafka)
        return self._part("broker", broker_argv(port), port, answers, self.create_topics)

    def _store(self) -> Pool:
        port = claim_port(self._options.store_port, remedy="use --store-port (INFERLANE_STORE_PORT)")
        argv = store_argv(port, maxmemory_mib=self._options.store_maxmemory_mib)
        return self._part("store", argv, port, partial(store_answers, self._settings.store.redis_url))

    def _part(self, name: str, argv: tuple[str, ...], port: int, answers: Ask, prepare: Prepare = nothing) -> Pool:
        spec = ProcessSpec(
            name=name,
            argv=argv,
            # Tansu also reads its options from the environment, so it does not get the user's environment.
            env={name: value for name, value in os.environ.items() if name in _PARTS_ENVIRONMENT},
            log_path=self._log_dir / f"{name}.log",
            is_ready=answers,
            prepare=prepare,
            port=port,
            is_foreign=True,
            ready_within_s=_PARTS_READY_WITHIN_S,
            stop_within_s=_PARTS_STOP_WITHIN_S,
        )
        return Pool(name=name, rank=_PARTS, make=lambda _: spec)

    def _ours(self, pool: str, rank: int, *argv: str) -> Pool:
        def make(number: int) -> ProcessSpec:
            name = f"{pool}-{number}" if rank == _WORKERS else pool
            port = self._ops_ports.port_of(name)
            return self._spec(
                name, argv, port, host=self._settings.ports.ops_host, env={"INFERLANE_OPS_PORT": str(port)}
            )

        is_workers = rank == _WORKERS
        return Pool(
            name=pool,
            rank=rank,
            wave=_SERVICES,
            size=self._options.workers if is_workers else 1,
            make=make,
            tries=_TRIES if is_workers else None,
        )

    def _api(self) -> Pool:
        host, port = self._settings.api.host, self._settings.api.port
        claim_port(port, host=host, remedy="use --api-port (INFERLANE_API_PORT)")
        if self._settings.api.grpc_port:
            claim_port(
                self._settings.api.grpc_port, host=host, remedy="use --grpc-port (INFERLANE_GRPC_PORT), 0 for none"
            )
        size = self._settings.api.processes or api_processes_for(os.cpu_count() or 1)
        ops_host = self._settings.ports.ops_host
        if size == 1:
            has_tls = self._settings.api.ssl_certfile is not None
            own = self._ops_ports.port_of("api") if has_tls else port
            env = {"INFERLANE_API_PORT": str(port), "INFERLANE_OPS_PORT": str(own if has_tls else 0)}
            spec = self._spec("api", ("api",), own, host=ops_host if has_tls else host, env=env)
            return Pool(name="api", rank=_API, wave=_SERVICES, make=lambda _: spec)
        ops_ports = {f"api-{number}": self._ops_ports.port_of(f"api-{number}") for number in range(1, size + 1)}
        shared = {
            "INFERLANE_API_PORT": str(port),
            "INFERLANE_API_PEERS": ",".join(f"{name}={base_url(ops_host, own)}" for name, own in ops_ports.items()),
        }

        def make(number: int) -> ProcessSpec:
            name = f"api-{number}"
            env = {**shared, "INFERLANE_OPS_PORT": str(ops_ports[name])}
            return self._spec(name, ("api",), ops_ports[name], host=ops_host, env=env)

        return Pool(name="api", rank=_API, wave=_SERVICES, size=size, make=make)

    def _dashboard(self) -> Pool:
        host, port = self._settings.dashboard.host, self._options.dashboard_port
        claim_port(port, host=host, remedy="use --dashboard-port (INFERLANE_DASHBOARD_PORT), 0 for no dashboard")
        spec = self._spec(DASHBOARD, (DASHBOARD,), port, host=host, env={"INFERLANE_DASHBOARD_PORT": str(port)})
        # With the API, on which it does not wait: it shows what is there.
        return Pool(name=DASHBOARD, rank=_API, wave=_SERVICES, make=lambda _: spec, tries=_TRIES)

    def _spec(self, name: str, argv: tuple[str, ...], port: int, *, host: str, env: Mapping[str, str]) -> ProcessSpec:
        url = base_url(host, port)
        return ProcessSpec(
            name=name,
            argv=(sys.executable, "-m", "control_plane", *argv),
            arguments=argv,
            forks=self._forks,
            env=child_environment(argv[0], os.environ, self._profile.environment, env),
            log_path=self._log_dir / f"{name}.log",
            is_ready=partial(is_ready, url),
            is_live=partial(is_live, url),
            port=port,
            ops_url=url,
            stop_within_s=self._settings.kafka.drain_deadline_s + _STOP_MARGIN_S,
        )


def api_processes_for(cores: int) -> int:
    """Return how many API processes share the port if the settings do not say.

    The API takes a third of the CPU of a small request, and other processes run beside it.
    """
    # On systems other than Linux, sockets that share a port do not share its connections.
    return min(_MOST_API_PROCESSES, max(1, cores // _CORES_AN_API_PROCESS)) if sys.platform == "linux" else 1


def worker_pool(model: str, version: str) -> str:
    """Return the name of the pool that serves a version."""
    return f"worker-{model}-{version}"
