"""A broker, a store and their topics: what a single process of ours needs to be measured by itself."""

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cases import Case
from benchmarks.systems.running import process
from control_plane.local.embedded_parts import store_answers, store_argv
from control_plane.topic_admin import create_topics
from inferlane.contracts.traffic_split import make_split
from inferlane.runtime.config import Settings
from inferlane.runtime.split_table import publish_split
from models.catalog import Catalog
from models.store_reader import load_catalog
from tests.support.brokers import make_broker
from tests.support.brokers.kinds import BrokerKind
from tests.support.brokers.processes import free_ports, wait_until

if TYPE_CHECKING:
    import subprocess

READY_WITHIN_S = 120.0
# A process that is stopped while its topic is filled keeps its place in the group.
_SESSION_TIMEOUT_MS = 60_000
_STORE_MIB = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """`environment` gives a process the same `settings`; what it says goes to `log`."""

    settings: Settings
    catalog: Catalog
    environment: Mapping[str, str]
    log: Path

    def process(self, argv: Sequence[str]) -> AbstractContextManager["subprocess.Popen[bytes]"]:
        """Run the command here while the context is entered."""
        return process(argv, log=self.log, env=os.environ | dict(self.environment))


@contextmanager
def open_bench(kind: BrokerKind, case: Case) -> Iterator[Bench]:
    """The topics of the case's models are empty, and every version of its model has the same share."""
    store_port, ops_port = free_ports(2)
    overrides = {
        "models_dir": case.models_dir.absolute(),
        "default_model": case.model,
        "redis_url": f"redis://127.0.0.1:{store_port}/0",
        "ops_port": ops_port,
        "session_timeout_ms": _SESSION_TIMEOUT_MS,
        "log_level": "WARNING",
    }
    catalog = load_catalog(case.models_dir, default_model=case.model)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(make_broker(kind, folder))
        settings, log = broker.settings(**overrides), folder / "process.log"
        stack.enter_context(process(store_argv(store_port, maxmemory_mib=_STORE_MIB), log=log))
        wait_until(lambda: asyncio.run(_answers(settings)), within_s=READY_WITHIN_S, what="the store answers")
        asyncio.run(_prepare(settings, catalog))
        yield Bench(settings=settings, catalog=catalog, environment=broker.environment(**overrides), log=log)


async def _answers(settings: Settings) -> bool:
    try:
        return await store_answers(settings.store.redis_url)
    except Exception:  # noqa: BLE001 - asked again until the time is over
        return False


async def _prepare(settings: Settings, catalog: Catalog) -> None:
    await create_topics(
        settings.kafka,
        settings.stack.names,
        settings.webhooks,
        [(version.model, version.version) for version in catalog.all_versions()],
    )
    model, known = catalog.default_model, catalog.model().versions
    await publish_split(
        settings.kafka,
        settings.stack.names,
        make_split(model, dict.fromkeys(known, 1.0), known=known, changed_s=time.time()),
    )
