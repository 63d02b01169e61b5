"""The roster of a shared worker changes: how many versions load at once."""

import asyncio
from typing import Any

import pytest

from inferlane.runtime.config import load_settings
from workers import shared_worker
from workers.roster import Roster
from workers.shared_worker import SharedWorker


class LoadingHost:
    """A hosted version that loads until it is told to stop."""

    def __init__(self, name: tuple[str, str], *_: Any, loading: asyncio.Semaphore, **__: Any) -> None:
        self.name = name
        self.is_loading = False
        self._loading = loading
        self._stop = asyncio.Event()

    def is_stopping(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        async with self._loading:
            self.is_loading = True
            await self._stop.wait()


async def test_versions_that_are_added_one_after_the_other_share_one_limit_of_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared_worker, "HostedVersion", LoadingHost)
    worker = SharedWorker(load_settings(), Roster())
    names = [("tiny", f"v{number}") for number in range(6)]
    for count in range(1, len(names) + 1):
        worker._settle(frozenset(names[:count]), None, None)  # type: ignore[arg-type]  # a host uses them
        # A task begins, and takes the limit.
        await asyncio.sleep(0)
    assert sum(host.is_loading for host in worker._hosts.values()) == shared_worker._LOADS_AT_ONCE  # type: ignore[attr-defined]
    await worker._stop_all()
