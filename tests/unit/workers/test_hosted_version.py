"""One version of a shared worker fails: it is retried, and the files that were repaired meanwhile are read."""

import asyncio
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inferlane.runtime.config import load_settings
from inferlane.runtime.redis.connection import connect
from inferlane.runtime.retry import Retrier
from tests.support.fakes.stores import write_tiny_store
from tests.support.parts import eventually
from workers import hosted_version
from workers.hosted_version import HostedVersion, HostState
from workers.roster import Roster
from workers.shared_worker import SharedWorker
from workers.version_service import SharedParts

NOWHERE = "redis://127.0.0.1:1"


class FailingOnce:
    """A service whose first serving fails; like `VersionService` it sets the event that it was given."""

    def __init__(self) -> None:
        self.servings = 0
        self.may_fail = asyncio.Event()
        self.lanes = None

    async def open(self, *_: Any) -> None:
        pass

    async def serve(self, stop: asyncio.Event) -> None:
        self.servings += 1
        try:
            if self.servings == 1:
                await self.may_fail.wait()
                raise ValueError("odd bytes")
            await stop.wait()
        finally:
            stop.set()


async def test_a_version_whose_serving_fails_is_shown_as_failed_and_served_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = FailingOnce()

    async def load(*_: Any, **__: Any) -> tuple[None, str]:
        return None, "v1"

    monkeypatch.setattr(hosted_version, "load_version", load)
    monkeypatch.setattr(hosted_version, "VersionService", lambda *_, **__: service)
    monkeypatch.setattr(hosted_version, "_FIRST_RETRY_S", 0.2)
    async with connect(NOWHERE) as redis:
        host = HostedVersion(
            ("tiny", "v1"),
            load_settings(redis_url=NOWHERE),
            SimpleNamespace(redis=redis, retrier=Retrier()),  # type: ignore[arg-type]  # what a host itself uses
            SharedParts(processor=None, isolation=None, source=None, usage=None),  # type: ignore[arg-type]  # as above
            read_store=lambda _: None,
            loading=asyncio.Semaphore(),
        )
        running = asyncio.create_task(host.run())
        await eventually(lambda: has_state(host, HostState.SERVING))
        service.may_fail.set()
        await eventually(lambda: has_state(host, HostState.FAILED))
        assert (host.status.reason, host.is_stopping()) == ("odd bytes", False)
        await eventually(lambda: has_state(host, HostState.SERVING))
        assert service.servings == 2
        host.stop()
        async with asyncio.timeout(5):
            await running
        assert host.status.state is HostState.STOPPED


async def has_state(host: HostedVersion, state: HostState) -> bool:
    return host.status.state is state


def test_a_retry_reads_the_store_anew_and_versions_that_load_together_read_it_once(tmp_path: Path) -> None:
    write_tiny_store(tmp_path)
    about = tmp_path / "tiny" / "v1" / "version.toml"
    whole = about.read_text()
    settings = load_settings(models_dir=tmp_path, default_model="tiny")
    read = partial(SharedWorker._read_store, SharedWorker(settings, Roster()))
    added_s = time.monotonic()
    first = read(added_s)
    assert first is not None
    assert read(added_s) is first
    about.write_text(whole.replace("quantization", "quantisation"))
    assert read(time.monotonic()) is None
    about.write_text(whole)
    repaired = read(time.monotonic())
    assert repaired is not None
    assert repaired.model("tiny").version("v1").quantization == "none"
