"""A running stack with models under trial, the clients that call it, and rollouts as a person starts them."""

import asyncio
import json
import os
import signal
import sys
import threading
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import confluent_kafka

from control_plane.local.profile import attached_settings
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.rollout import Phase
from inferlane.runtime.config import Settings, load_settings
from inferlane.runtime.runfile import RunFile
from inferlane_client import AsyncClient, CallError, Retries
from models.store import write_model
from tests.rollouts.candidates import CANDIDATES, ODD, write_good
from tests.support.brokers import Broker
from tests.support.brokers.processes import free_ports
from tests.support.fakes.zoo import add_version
from tests.support.folder_stack import FolderStack
from tests.support.parts import eventually, is_ready

NAMES = Names()
ROW = [0.1, 0.7, 0.2]
ODD_ROW = [3 * ODD, 1.0, 0.0]
"""What a broken candidate breaks on."""
_ONE_EACH = {"INFERLANE_INGRESS_PARTITIONS": "2", "INFERLANE_WORK_PARTITIONS": "2"}
_WITHIN_S = 150.0
_FINAL = tuple(phase for phase in Phase if phase.is_final)


class RolloutStack(FolderStack):
    """`inferlane up` on a broker of the caller's; each model has a stable version v1 and candidates."""

    def __init__(self, folder: Path, broker: Broker, models: dict[str, tuple[str, ...]]) -> None:
        self._state = folder / "state"
        store = folder / "models"
        for model, candidates in models.items():
            add_version(store, "v1", write_good, model=model)
            for candidate in candidates:
                add_version(store, candidate, CANDIDATES[candidate], model=model)
            write_model(store / model, description=model, default_version="v1", classes=("a", "b", "c"))
        super().__init__(
            folder,
            **broker.environment(),
            **_ONE_EACH,
            INFERLANE_DEFAULT_MODEL=next(iter(models)),
            INFERLANE_OUTCOME_SLOT_S="1",
            INFERLANE_OUTCOME_INTERVAL_S="0.5",
            INFERLANE_DASHBOARD_PORT="0",
            INFERLANE_GRPC_PORT="0",
        )

    @property
    def settings(self) -> Settings:
        """Those of the running stack."""
        record = RunFile(self._state).read()
        assert record is not None
        return attached_settings(load_settings(), record.environment)

    def kill(self, pool: str) -> None:
        """SIGKILL the process of a pool; its supervisor starts another."""
        record = RunFile(self._state).read()
        assert record is not None
        for process in record.processes:
            if process.pool == pool and process.pid:
                # One that is gone already comes back by itself.
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)

    async def get(self, path: str) -> Any:
        status, body = await asyncio.to_thread(self.call, path)
        assert status == 200, body
        return body

    async def post(self, path: str, body: Any) -> Any:
        status, answer = await asyncio.to_thread(self.call, path, body)
        assert status < 300, answer
        return answer

    async def give_all_to_v1(self, model: str) -> None:
        """Set the split as before any rollout."""
        await self.post("/v1/traffic-split", {"model": model, "weights": {"v1": 1}})

    async def rollout(self, model: str, candidate: str, **more: Any) -> str:
        """Start a rollout with all that it needs to be over in seconds; returns its id."""
        asked = {
            "model": model,
            "candidate": candidate,
            "steps": ["20%", "50%"],
            "each": {"min_requests": 20, "min_time": "1s", "promote_after": 60},
            "bake": "1s",
            "checks": {"errors": {}, "expired": {}, "share": {}},
        }
        return str((await self.post("/v1/rollouts", asked | more))["id"])

    async def reaches(self, rollout: str, *phases: str) -> dict[str, Any]:
        """The rollout once it is in one of these phases."""
        found: dict[str, Any] = {}

        async def is_there() -> bool:
            found.update(await self.get(f"/v1/rollouts/{rollout}"))
            return found["phase"] in phases

        try:
            await eventually(is_there, within_s=_WITHIN_S)
        except AssertionError:
            raise AssertionError(f"not {phases}: {summary_of(found)}") from None
        return found

    async def end_rollouts(self) -> None:
        """Abort what an earlier test left under way, as one that failed does."""
        for found in (await self.get("/v1/rollouts"))["rollouts"]:
            if found["phase"] not in _FINAL:
                # It may have ended meanwhile, or be rolling back already; in the end it is over.
                await asyncio.to_thread(self.call, f"/v1/rollouts/{found['id']}/abort", {"reason": "left over"})
                await self.reaches(found["id"], *_FINAL)

    async def weights(self, model: str) -> dict[str, float]:
        """The split of a model without what has none."""
        split = await self.get(f"/v1/traffic-split?model={model}")
        return {version: weight for version, weight in split["weights"].items() if weight}


def phases_of(found: dict[str, Any]) -> list[str]:
    """The phases of a rollout, in order."""
    return [event["phase"] for event in found["events"]]


def summary_of(found: dict[str, Any]) -> str:
    """A rollout in a few lines, for an assertion that fails."""
    lines = [
        f"{found['id']}: {found['phase']}, failed {found.get('failed_requests', 0)}, waits: {found.get('waits_for')}"
    ]
    lines += [f"{one['at_s']:.1f} {one['phase']} {one.get('weight', 0)} {one.get('reason')}" for one in found["events"]]
    return "\n".join(lines)


class Clients:
    """Clients that ask one model without a pause; what they were answered is counted."""

    def __init__(self, url: str, model: str, *, row: list[float], keys: int, wait_s: float) -> None:
        self.row = row
        self.versions: Counter[str] = Counter()
        self.failures: list[str] = []
        self._url = url
        self._model = model
        self._keys = keys
        self._wait_s = wait_s
        self._numbers = count()

    async def ask(self) -> None:
        """Ask until cancelled."""
        async with AsyncClient(self._url, timeout_s=self._wait_s, retries=Retries(limit=0)) as client:
            while True:
                number = next(self._numbers)
                key = f"user-{number % self._keys}" if self._keys else None
                try:
                    answer = await client.predict([self.row], model=self._model, routing_key=key)
                except CallError as error:
                    self.failures.append(repr(error))
                else:
                    self.versions[answer.version] += 1


@asynccontextmanager
async def clients(
    stack: RolloutStack,
    model: str,
    *,
    row: list[float] = ODD_ROW,
    keys: int = 0,
    at_once: int = 3,
    wait_s: float = 60.0,
) -> AsyncIterator[Clients]:
    """Clients of a model while the block runs. With `keys`, every request has the routing key of one of as many users.

    At the end each request under way is answered first.
    """
    await stack.give_all_to_v1(model)
    asking = Clients(stack.url, model, row=row, keys=keys, wait_s=wait_s)
    tasks = [asyncio.create_task(asking.ask()) for _ in range(at_once)]
    try:
        yield asking
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class ForeignProgram:
    """Somebody else's program that knows the topics `inferlane.bulk` and `inferlane.results`, with Kafka's C client."""

    def __init__(self, settings: Settings, model: str, *, row: list[float]) -> None:
        self.ids: list[str] = []
        self.results: dict[str, list[tuple[str, str]]] = {}
        """Status and version of each result, by the id of its request."""
        self._model = model
        self._name = f"foreign-{uuid.uuid4().hex}"
        self._body = json.dumps({"instances": [row]}).encode()
        servers = {"bootstrap.servers": settings.kafka.bootstrap_servers}
        self._producer = confluent_kafka.Producer(servers)
        self._consumer = confluent_kafka.Consumer(
            {**servers, "group.id": self._name, "auto.offset.reset": "earliest", "enable.auto.commit": False}
        )
        self._stop = threading.Event()

    def run(self) -> None:
        """Send as fast as results come, until told to stop and each request has a result."""
        self._consumer.subscribe([NAMES.results])
        try:
            while not (self._stop.is_set() and self.results.keys() >= set(self.ids)):
                if not self._stop.is_set() and len(self.results) > len(self.ids) - _AT_ONCE:
                    self._send()
                self._read()
        finally:
            self._consumer.close()

    def stop(self) -> None:
        """Send no more."""
        self._stop.set()

    def _send(self) -> None:
        for _ in range(_AT_ONCE):
            one = f"{self._name}-{len(self.ids)}"
            headers = {"ce_id": one, "ce_model": self._model}
            self._producer.produce(NAMES.ingress[Lane.BULK], self._body, key=one, headers=headers)
            self.ids.append(one)
        assert self._producer.flush(60) == 0

    def _read(self) -> None:
        for record in self._consumer.consume(100, timeout=0.1):
            headers = {name: value.decode() for name, value in record.headers() or ()}
            if headers.get("ce_id", "").startswith(self._name):
                result = headers["ce_status"], headers["ce_modelversion"]
                self.results.setdefault(headers["ce_id"], []).append(result)


_AT_ONCE = 20


@asynccontextmanager
async def foreign_program(
    stack: RolloutStack, model: str, *, row: list[float] = ODD_ROW
) -> AsyncIterator[ForeignProgram]:
    """A foreign program while the block runs; at the end each of its requests has a result."""
    await stack.give_all_to_v1(model)
    program = ForeignProgram(stack.settings, model, row=row)
    running = asyncio.create_task(asyncio.to_thread(program.run))
    try:
        yield program
    finally:
        program.stop()
        async with asyncio.timeout(_WITHIN_S):
            await running


@asynccontextmanager
async def second_router(stack: RolloutStack, folder: Path) -> AsyncIterator[None]:
    """Another router beside that of the stack while the block runs."""
    (port,) = free_ports(1)
    environment = {**os.environ, **stack.settings.environment(), "INFERLANE_OPS_PORT": str(port)}
    with (folder / "second-router.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "control_plane", "router", env=environment, stdout=log, stderr=log
        )
        try:
            await eventually(partial(is_ready, f"http://127.0.0.1:{port}"))
            yield
        finally:
            process.terminate()
            await process.wait()
