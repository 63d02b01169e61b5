"""What a test may ask of a broker, whichever it is."""

import asyncio
from abc import ABC, abstractmethod
from enum import StrEnum
from typing import Any, ClassVar, Self

from inferlane.runtime.config import Settings, load_settings
from inferlane.runtime.kafka.clients import make_admin
from tests.support.brokers.processes import run_coroutine

_FORGET_WITHIN_S = 120.0


class BrokerKind(StrEnum):
    """Which Kafka a test runs on."""

    EMBEDDED = "embedded"
    APACHE = "apache"
    TESTCONTAINERS = "testcontainers"
    EXTERNAL = "external"


class Broker(ABC):
    """A Kafka that a test uses: a context manager that enters when it answers and leaves nothing.

    Its methods block; where an event loop runs, call them through `asyncio.to_thread`.
    """

    kind: ClassVar[BrokerKind]
    # Whether the embedded broker's limits hold: no idempotent producer, no wake-up of a waiting fetch, no commits
    # that outlive it.
    is_embedded: ClassVar[bool] = False

    @property
    @abstractmethod
    def bootstrap_servers(self) -> str:
        """Where clients connect without TLS or password."""

    @abstractmethod
    def open(self) -> None:
        """Start it; returns when it answers."""

    @abstractmethod
    def close(self) -> None:
        """End what `open` started."""

    def __enter__(self) -> Self:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def forget_topics(self) -> None:
        """Delete every topic of ours, and with them what groups committed."""
        run_coroutine(_delete_topics(self.settings()))

    def overrides(self, **more: object) -> dict[str, Any]:
        """The settings that suit this broker, with `more` on top: idempotent, `acks=all`, a fetch that is woken."""
        return {
            "kafka_bootstrap_servers": self.bootstrap_servers,
            "kafka_idempotence": True,
            "fetch_max_wait_ms": 500,
            "idle_fetch_max_wait_ms": 500,
            "session_timeout_ms": 6_000,
            **more,
        }

    def settings(self, **more: object) -> Settings:
        """The settings of a process on this broker, with `more` on top."""
        return load_settings(**self.overrides(**more))

    def environment(self, **more: object) -> dict[str, str]:
        """The same as the environment of a process of ours."""
        return {f"INFERLANE_{name.upper()}": str(value) for name, value in self.overrides(**more).items()}


async def _delete_topics(settings: Settings) -> None:
    admin = make_admin(settings.kafka)
    try:
        await admin.start()
        async with asyncio.timeout(_FORGET_WITHIN_S):
            while ours := [name for name in await admin.list_topics() if name.startswith("inferlane.")]:
                await admin.delete_topics(ours)
    finally:
        await admin.close()
